"""Local and global heads (arXiv 2510.13554, eq. 7-8) and the mean of a statistic over a group.

    d[l, h] = mean over t in R of sum over s of A[t, s] * (t - s)          in tokens

The lowest 30 % of all (l, h) by d are local, the highest 30 % global. A group has floor(fraction * n + 1e-9) of the n
heads, at least one (a lone head is both); at equal spans the lower (layer, head) counts as the shorter [not in the
paper].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlcredit.signals.types import AttentionSignals, HeadGroups, HeadStatistics


def group_heads(span_BLH: Tensor, fraction: float, *, every_head: bool = False) -> HeadGroups:
    """Split the heads of each row by span.

    Args:
        span_BLH: mean look-back distance of each head, in tokens; rows of nan (empty responses) get no heads.
        fraction: share of heads in each group, 0 < fraction <= 0.5.
        every_head: put all heads in both groups (the ablation of Table 14).
    """
    rows, layers, heads = span_BLH.shape
    total = layers * heads
    known_B11 = span_BLH.isfinite().all(-1).all(-1).view(rows, 1, 1)
    if every_head:
        everything = known_B11.expand_as(span_BLH)
        return HeadGroups(everything, everything)
    size = max(1, math.floor(fraction * total + 1e-9))
    order = span_BLH.reshape(rows, total).argsort(dim=1, stable=True)  # flat index = layer * heads + head
    rank = order.argsort(dim=1).view(rows, layers, heads)
    return HeadGroups((rank < size) & known_B11, (rank >= total - size) & known_B11)


def mean_span(span_BLH: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over responses of d, and how many responses had one: [L, H] and [] (each response counts once)."""
    known_B = span_BLH.isfinite().all(-1).all(-1)
    return span_BLH[known_B].sum(0), known_B.sum()


def mean_over_heads(statistic_BLHN: Tensor, chosen_BLH: Tensor) -> Tensor:
    """Plain mean of a per-head statistic over each row's group: [B, N]; nan where the statistic is."""
    weight_BLH = chosen_BLH.to(statistic_BLHN.dtype)
    weight_BLH = weight_BLH / weight_BLH.sum((1, 2), keepdim=True)
    return torch.einsum("blhn,blh->bn", statistic_BLHN, weight_BLH.expand(statistic_BLHN.shape[0], -1, -1))


def signals_of_groups(statistics: HeadStatistics, groups: HeadGroups) -> AttentionSignals:
    """WAAD over the local heads, FAI over the global ones."""
    shape = statistics.span_BLH.shape
    local, far = groups.local_BLH.expand(shape), groups.global_BLH.expand(shape)
    return AttentionSignals(
        layers=statistics.layers,
        head_span=statistics.span_BLH,
        local_heads=local,
        global_heads=far,
        waad=mean_over_heads(statistics.waad_BLHN, local),
        fai=mean_over_heads(statistics.fai_BLHN, far),
    )
