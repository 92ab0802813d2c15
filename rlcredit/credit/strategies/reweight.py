"""reweight: tokens that the model was sure of get more, so that rare ones do not rule the gradient (advantage
reweighting, arXiv 2505.12929).

Formula:  gamma_t = share * pi(y_t) + 1 - share,  pi of the weights that generated, share 0.2.
Reads:    the log-probability of each token, at the sampling temperature.
Source:   the authors' code (zhyang2226/AR-Lopti): 0.2 alone, 0.3 with Lopti, the two updates a batch that need a
          trainer of their own and are not here.
Edges:    the mean of gamma is below 1, so steps are smaller than those of uniform: see credit_normalize.
"""

from rlcredit.credit.options import Options
from rlcredit.credit.types import Batch, Credit, Strategy

OPTIONS = Options(share=(0.2, 0.0, 1.0))


def _assign(batch: Batch) -> Credit:
    share = OPTIONS.of(batch.args)["share"]
    assert batch.rollout is not None and batch.rollout.logps is not None
    return Credit.of(share * batch.rollout.logps.exp() + 1 - share)


reweight = Strategy(_assign, needs=frozenset({"logps"}), validate=OPTIONS.validate)
