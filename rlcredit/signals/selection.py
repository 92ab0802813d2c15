"""TopQ and the lower quantile: how positions are chosen (method: TopQ(x, q); ties and rounding not in the paper)."""

import math

import torch
from torch import Tensor


def quota(response_BN: Tensor, q: float) -> Tensor:
    """ceil(q * |R| - 1e-9) in double precision, per row: int64 [B]."""
    sizes = response_BN.sum(1).tolist()
    return torch.tensor([math.ceil(q * size - 1e-9) for size in sizes], device=response_BN.device)


def select(x_BN: Tensor, response_BN: Tensor, q: float, *, bottom: bool = False) -> Tensor:
    """The quota's largest (or smallest) values of x over the response: bool [B, N].

    Ties go to the earlier token. nan is never taken, so fewer than the quota may be selected.
    """
    eligible = response_BN & ~x_BN.isnan()
    key = torch.where(eligible, x_BN if bottom else -x_BN, torch.inf)
    # stable: equal keys keep their order. Ineligible ones sort last, and are masked in case of x = +-inf.
    rank = key.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < quota(response_BN, q)[:, None]) & eligible


def lower_quantile(x_BN: Tensor, response_BN: Tensor, share: float) -> Tensor:
    """Quantile over the response, the lower of two values (0.5: the lower median): [B], nan for an empty row.

    Values that are nan are left out.
    """
    known_BN = response_BN & ~x_BN.isnan()
    count_B = known_BN.sum(1)
    place_B = (share * (count_B.double() - 1) + 1e-9).floor().long().clamp(min=0)
    ordered_BN = torch.where(known_BN, x_BN, torch.inf).sort(dim=1).values
    return torch.where(count_B > 0, ordered_BN.gather(1, place_B[:, None])[:, 0], torch.nan)


def change_to_next(waad_BN: Tensor, response_BN: Tensor) -> Tensor:
    """Delta_t = |WAAD_t - WAAD_{t+1}| (eq. 14): [B, N], in tokens; nan unless t and t + 1 both lie in R."""
    delta_BN = torch.full_like(waad_BN, torch.nan)
    both = response_BN[:, :-1] & response_BN[:, 1:]
    delta_BN[:, :-1] = torch.where(both, (waad_BN[:, :-1] - waad_BN[:, 1:]).abs(), torch.nan)
    return delta_BN
