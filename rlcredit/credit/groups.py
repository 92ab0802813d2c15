"""Sums over the responses of a group: what strategies that compare responses are made of.

B rows, N positions. A class is a number a row has in common with others: its group, or its group and side. The k-th
place is the k-th of a response's own tokens, so that responses with tool output are compared token by token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def counted(response_BN: Tensor, reward_B: Tensor, *read_BN: Tensor) -> Tensor:
    """The tokens that a group is made of: of responses that are scored, and where what was read is finite; [B, N]."""
    out_B = reward_B.isnan()
    for x_BN in read_BN:
        out_B = out_B | (response_BN & ~x_BN.isfinite()).any(1)
    return response_BN & ~out_B[:, None]


def to_places(x_BN: Tensor, response_BN: Tensor) -> Tensor:
    """The values of the response's tokens in their order, from the left: [B, N]; 0 beyond its last token."""
    written = response_BN.sort(dim=1, descending=True).values
    return torch.where(written, x_BN.gather(1, _order(response_BN)), 0.0)


def to_positions(x_BN: Tensor, response_BN: Tensor) -> Tensor:
    """The way back from `to_places`; 0 outside the response."""
    back = torch.zeros_like(x_BN).scatter(1, _order(response_BN), x_BN)
    return torch.where(response_BN, back, 0.0)


def to_go(x_BN: Tensor) -> Tensor:
    """The sum over a position and all later ones: [B, N]."""
    return x_BN.flip(1).cumsum(1).flip(1)


def _order(response_BN: Tensor) -> Tensor:
    return torch.argsort(~response_BN, dim=1, stable=True)


def class_sum(x_B: Tensor, class_B: Tensor) -> Tensor:
    """The sum over the rows of each row's class, given to each of them: [B, ...] as `x_B`."""
    total = x_B.new_zeros(int(class_B.max()) + 1, *x_B.shape[1:]).index_add_(0, class_B, x_B)
    return total[class_B]


def class_moments(x_BN: Tensor, mask_BN: Tensor, class_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n - 1) of the masked values of each row's class: [B, 1] each; 0 where undefined."""
    n = class_sum(mask_BN.double().sum(1, keepdim=True), class_B)
    mean = class_sum(torch.where(mask_BN, x_BN, 0.0).sum(1, keepdim=True), class_B) / n.clamp(min=1)
    square = class_sum(torch.where(mask_BN, x_BN - mean, 0.0).square().sum(1, keepdim=True), class_B)
    return mean, (square / (n - 1).clamp(min=1)).sqrt()
