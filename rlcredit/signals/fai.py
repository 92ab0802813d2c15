"""FAI: future attention influence (arXiv 2510.13554, eq. 10).

    FAI_s = mean over t in T(s) of A[t, s],    T(s) = {t in R : s + H_lo <= t <= min(N, s + H_hi)}

R are the response positions; with several response spans, distances and the horizon count sequence positions, so
tool output between spans is distance. FAI is taken at s in R [not in the paper], and undefined where T(s) is empty.
FAI is linear in A: the mean of the heads' FAI is the FAI of their mean map.
"""

import torch
from torch import Tensor

TO_THE_END = -1  # as H_hi: every later token counts


def fai_of_columns(attention_BHRC: Tensor, delta_RC: Tensor, response_BR: Tensor, horizon: tuple[int, int]) -> Tensor:
    """The block's contribution to the sum over t in T(s), for each of its columns: [B, H, C].

    Args:
        attention_BHRC: attention of a block of query rows to a block of columns; 0 where s > t.
        delta_RC: t - s for each entry, in tokens.
        response_BR: bool, which of the rows are response positions.
        horizon: (H_lo, H_hi) in tokens; H_hi may be TO_THE_END.
    """
    lo, hi = horizon
    inside_RC = delta_RC >= lo
    if hi != TO_THE_END:
        inside_RC = inside_RC & (delta_RC <= hi)
    counted = inside_RC & response_BR[:, None, :, None]
    return torch.where(counted, attention_BHRC, 0.0).sum(-2)


def fai_counts(response_BN: Tensor, horizon: tuple[int, int]) -> Tensor:
    """|T(s)| for every position s: int64 [B, N]."""
    lo, hi = horizon
    length = response_BN.shape[1]
    before = torch.nn.functional.pad(response_BN.long().cumsum(1), (1, 0))  # [B, N + 1]: responses before position i
    position = torch.arange(length, device=response_BN.device)
    first = (position + lo).clamp(max=length)
    end = torch.full_like(position, length) if hi == TO_THE_END else (position + hi + 1).clamp(max=length)
    return before[:, end] - before[:, first]
