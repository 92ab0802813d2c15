"""Local, global and receiver heads (arXiv 2510.13554, eq. 7-8 and section 4.2), and means over a group.

    d[l, h] = mean over t in R of sum over s of A[t, s] * (t - s)          in tokens

The lowest 30 % of all (l, h) by d are local, the highest 30 % global. Receiver heads (Bogdan et al., Thought Anchors,
arXiv 2506.19143) take the place of the global ones where asked for: those whose own FAI over R has the highest
kurtosis, since a few tokens receive most of their attention; the top 30 % [share not in the paper].

A group has floor(fraction * n + 1e-9) of the n heads, at least one (a lone head is both); among equals the lower
(layer, head) counts as the shorter, or the flatter [not in the paper].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlcredit.signals.types import AttentionSignals, HeadGroups, HeadStatistics


def group_heads(
    span_BLH: Tensor, fraction: float, *, kurtosis_BLH: Tensor | None = None, every_head: bool = False
) -> HeadGroups:
    """Split the heads of each row.

    Args:
        span_BLH: mean look-back distance of each head, in tokens; rows of nan (empty responses) get no heads.
        fraction: share of heads in each group, 0 < fraction <= 0.5.
        kurtosis_BLH: take receiver heads by it instead of the global ones; nan ranks lowest.
        every_head: put all heads in both groups (the ablation of Table 14).
    """
    rows, layers, heads = span_BLH.shape
    known_B11 = span_BLH.isfinite().all(-1).all(-1).view(rows, 1, 1)
    if every_head:
        everything = known_B11.expand_as(span_BLH)
        return HeadGroups(everything, everything)
    total = layers * heads
    size = max(1, math.floor(fraction * total + 1e-9))
    far_BLH = span_BLH if kurtosis_BLH is None else kurtosis_BLH.nan_to_num(nan=-torch.inf)
    return HeadGroups(
        (_rank(span_BLH) < size) & known_B11,
        (_rank(far_BLH) >= total - size) & known_B11,
    )


def _rank(score_BLH: Tensor) -> Tensor:
    """Place of each head among its row's, 0 for the lowest: int64 [B, L, H]."""
    order = score_BLH.flatten(1).argsort(dim=1, stable=True)  # flat index = layer * heads + head
    return order.argsort(dim=1).view(score_BLH.shape)


def receiver_kurtosis(fai_BLHN: Tensor) -> Tensor:
    """Kurtosis (the fourth moment over the squared second) of each head's FAI over the positions where it is defined.

    Returns: [B, L, H]; nan where fewer than two positions are defined, or all are equal.
    """
    mean = fai_BLHN.nanmean(-1, keepdim=True)
    squared = (fai_BLHN - mean).double() ** 2
    return ((squared**2).nanmean(-1) / squared.nanmean(-1) ** 2).float()


def sum_over_responses(score_BLH: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of each head's score over the responses that have one, and how many those are: fp32 [L, H] each."""
    return score_BLH.nansum(0), (~score_BLH.isnan()).float().sum(0)


def mean_over_heads(statistic_BLHN: Tensor, chosen_BLH: Tensor) -> Tensor:
    """Plain mean of a per-head statistic over each row's group: [B, N]; nan where the statistic is."""
    weight_BLH = chosen_BLH.to(statistic_BLHN.dtype)
    weight_BLH = weight_BLH / weight_BLH.sum((1, 2), keepdim=True)
    return torch.einsum("blhn,blh->bn", statistic_BLHN, weight_BLH.expand(statistic_BLHN.shape[0], -1, -1))


def signals_of_groups(statistics: HeadStatistics, groups: HeadGroups) -> AttentionSignals:
    """WAAD over the local heads, FAI over the global (or receiver) ones."""
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
