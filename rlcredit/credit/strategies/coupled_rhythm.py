"""coupled_rhythm: amplify anchors, and share the credit of dominated ones with the token that introduced them
(arXiv 2510.13554, eq. 18-19).

An anchor t in T_glob is locally dominated (t in D) if WAAD_t <= tau_waad and the largest Delta_u over
u in {t-k..t-1} in R is >= tau_Delta; that u is its introductory token intro(t).

    gamma = 1 + (a-1) * 1{T_glob without D} + (1-alpha) * (a-1) * 1{D} + alpha * (a-1) * 1{intro(D)}

The terms add; an introductory token shared by several anchors counts once.

Reads:    WAAD, in tokens, and FAI.
Open in the paper, chosen here [not in the paper]: k = 3, alpha = 0.5; tau_waad the response's lower median WAAD
          (credit_tau_waad: another quantile); tau_Delta the smallest Delta in T_loc, of the top q also when the
          bottom is amplified (credit_tau_delta: of another share); intro(t) the nearest to t on ties; a window
          without a defined Delta, or an empty T_loc: not dominated.
"""

import torch
from torch import Tensor

from rlcredit.credit.types import NO_INTRO, Batch, Credit, Strategy
from rlcredit.signals import change_to_next, lower_quantile, select


def _strongest_before(delta: Tensor, lookback: int) -> tuple[Tensor, Tensor]:
    """Largest Delta_u over u in {t-k..t-1}, and its u, the nearest on ties: two [B, N]; -inf where none is defined."""
    length = delta.shape[1]
    known = torch.where(delta.isnan(), -torch.inf, delta)
    padded = torch.nn.functional.pad(known, (lookback, 0), value=-torch.inf)
    # window[..., j] = Delta at t - 1 - j: the nearest comes first, and max() keeps the first of equals
    window = torch.stack([padded[:, lookback - 1 - j : lookback - 1 - j + length] for j in range(lookback)], -1)
    best = window.max(-1).values
    steps_back = (window == best[..., None]).int().argmax(-1)
    return best, torch.arange(length, device=delta.device) - 1 - steps_back


def _assign(batch: Batch) -> Credit:
    args = batch.args
    waad, response = batch.signals.waad, batch.response
    delta = change_to_next(waad, response)
    preplan = select(delta, response, args.credit_quantile)
    anchor = select(batch.signals.fai, response, args.credit_quantile, bottom=args.credit_select == "bottom")
    tau_waad = lower_quantile(waad, response, args.credit_tau_waad)[:, None]
    large = preplan if args.credit_tau_delta is None else select(delta, response, args.credit_tau_delta)
    tau_delta = torch.where(large, delta, torch.inf).amin(dim=1, keepdim=True)  # +inf where there is none
    best, where = _strongest_before(delta, args.credit_lookback)
    dominated = anchor & (waad <= tau_waad) & (best >= tau_delta)
    intro = torch.where(dominated, where, NO_INTRO)

    introduces = torch.zeros_like(anchor)
    rows, columns = dominated.nonzero(as_tuple=True)
    introduces[rows, intro[rows, columns]] = True
    bonus, alpha = args.credit_amplification - 1, args.credit_alpha
    of_anchors = (anchor & ~dominated).float() + (1 - alpha) * dominated.float()
    weights = 1 + bonus * (of_anchors + alpha * introduces.float())
    return Credit.of(weights, preplan=preplan, anchor=anchor, dominated=dominated, intro=intro)


coupled_rhythm = Strategy(_assign, by_fai=True)
