"""global_anchor: amplify the tokens that later ones keep looking back at (arXiv 2510.13554, eq. 16-17).

Formula:  T_glob = TopQ(FAI, q);  gamma_t = 1 + (a - 1) * 1{t in T_glob}.
Reads:    FAI.
Edges:    FAI is undefined where no response token lies within the horizon, so a response of at most H_lo tokens has
          no anchors and weights of 1.
"""

from rlcredit.credit.gamma import amplify
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.signals import select


def _assign(batch: Batch) -> Credit:
    args = batch.args
    anchor = select(batch.signals.fai, batch.response, args.credit_quantile, bottom=args.credit_select == "bottom")
    return Credit.of(amplify(anchor, args.credit_amplification), anchor=anchor)


global_anchor = Strategy(_assign, by_fai=True)
