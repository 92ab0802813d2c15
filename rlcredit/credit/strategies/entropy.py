"""entropy: amplify where the model was least certain (the baseline of arXiv 2510.13554, after the 80/20 rule).

Formula:  gamma_t = 1 + (a - 1) * 1{t in TopQ(H, q)},  H_t the entropy of the distribution that produced token t.
Reads:    entropy, in nats, at the sampling temperature.
"""

from rlcredit.credit.gamma import amplify
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.signals import select


def _assign(batch: Batch) -> Credit:
    args = batch.args
    if batch.signals.entropy is None:
        raise ValueError("signals.entropy is None: the strategy 'entropy' needs analyze(..., entropy=True)")
    bottom = args.credit_select == "bottom"
    chosen = select(batch.signals.entropy, batch.response, args.credit_quantile, bottom=bottom)
    return Credit.of(amplify(chosen, args.credit_amplification))


entropy = Strategy(_assign, needs=frozenset({"entropy"}))
