"""KTAE's tables: of every token id of a group, how its occurrence goes with right responses; many at once.

Sizes: B rows, N positions, K pairs of a group and a token id. Counts are fp64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fisher(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Two-sided p of many tables of counts (float64, [K] each): sums of hypergeometric terms by log-gamma."""

    def choose(n: Tensor, k: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    def chance(x: Tensor, tail: tuple[int, ...] = ()) -> Tensor:
        right, wrong, row, n = ((v.reshape(*v.shape, *tail)) for v in (a + c, b + d, a + b, a + b + c + d))
        return (choose(right, x) + choose(wrong, row - x) - choose(n, row)).exp()

    x = torch.arange(int((a + c).max()) + 1, dtype=a.dtype, device=a.device).expand(len(a), -1)
    possible = (x >= (a - d).clamp(min=0)[:, None]) & (x <= torch.minimum(a + b, a + c)[:, None])
    p = chance(torch.where(possible, x, a[:, None]), (1,))
    # equal chances differ by rounding: the tolerance of R's fisher.test
    return torch.where(possible & (p <= chance(a)[:, None] * (1 + 1e-7)), p, 0.0).sum(1).clamp(max=1)


def information_gain(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Bits that "the token occurs" tells of "the response is right": [K]."""

    def entropy(x: Tensor, y: Tensor) -> Tensor:  # of the shares, times x + y
        n = x + y
        return torch.special.xlogy(n, n) - torch.special.xlogy(x, x) - torch.special.xlogy(y, y)

    return (entropy(a + c, b + d) - entropy(a, b) - entropy(c, d)) / (a + b + c + d) / torch.tensor(2.0).log()


def values_of_tokens(ids_BN: Tensor, mask_BN: Tensor, right_B: Tensor, group_B: Tensor) -> Tensor:
    """KTAE's value of each token within its group, -1 to 1: fp64 [B, N], 0 outside the mask."""
    rows, columns = mask_BN.nonzero(as_tuple=True)
    found = torch.zeros(ids_BN.shape, dtype=torch.float64, device=ids_BN.device)
    if not len(rows):
        return found
    side_B, groups = (~right_B).long(), int(group_B.max()) + 1  # 0 right, 1 wrong
    vocabulary = int(ids_BN.max()) + 1
    names, key = (group_B[rows] * vocabulary + ids_BN[rows, columns]).unique(return_inverse=True)
    size, group_K = len(names), names // vocabulary

    def count(what: Tensor, side: Tensor, number: int) -> Tensor:
        return torch.bincount(what * 2 + side, minlength=number * 2).view(number, 2).double()

    once = (rows * size + key).unique()  # a response counts once, however often it has the token
    present_K2 = count(once % size, side_B[once // size], size)
    responses_K2 = count(group_B, side_B, groups)[group_K]
    tokens_K2 = count(group_B[rows], side_B[rows], groups)[group_K]
    share_K2 = count(key, side_B[rows], size) / tokens_K2.clamp(min=1)
    (a, b), (c, d) = present_K2.unbind(1), (responses_K2 - present_K2).unbind(1)
    p = fisher(a, b, c, d)
    association = torch.where(p > 1 - 1e-6, 0.0, (-2 * p).exp()) + information_gain(a, b, c, d)
    half = 0.5 + 0.5 * tokens_K2 / tokens_K2.mean(1, keepdim=True)
    good, bad = (share_K2 * 3 / (share_K2 + 2 * half)).unbind(1)  # BM25, k1 = 2, b = 0.5
    angle = (present_K2 / responses_K2.clamp(min=1)).sqrt().asin()
    direction = angle[:, 0] - angle[:, 1] + good / (bad + 1e-5) - bad / (good + 1e-5)
    value = torch.tanh(association * direction / 4)
    value = torch.where((tokens_K2 > 0).all(1), value, 0.0)  # a group all right, or all wrong, tells nothing
    return found.index_put((rows, columns), value[key])
