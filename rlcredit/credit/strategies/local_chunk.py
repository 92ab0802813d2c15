"""local_chunk: amplify preplan tokens, where the local heads suddenly look elsewhere (arXiv 2510.13554, eq. 14-15).

Formula:  Delta_t = |WAAD_t - WAAD_{t+1}|;  T_loc = TopQ(Delta, q);  gamma_t = 1 + (a - 1) * 1{t in T_loc}.
Reads:    WAAD, in tokens.
Edges:    Delta is undefined at the last token of each response span, which is then never chosen [not in the paper].
"""

from rlcredit.credit.gamma import amplify
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.signals import change_to_next, select


def _assign(batch: Batch) -> Credit:
    args = batch.args
    delta = change_to_next(batch.signals.waad, batch.response)
    preplan = select(delta, batch.response, args.credit_quantile, bottom=args.credit_select == "bottom")
    return Credit.of(amplify(preplan, args.credit_amplification), preplan=preplan)


local_chunk = Strategy(_assign)
