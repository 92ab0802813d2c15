"""What is read from a model's attention, and how its shapes are named.

Shape suffixes, here and in every room that handles tensors:

    B  rows (responses)            H  query heads          R  a block of query positions (rows of A)
    L  layers read                 K  key-value heads      C  a block of key positions (columns of A)
    N  positions: prompt, response, padding                D  head dimension
    T  positions of the completion only, as TRL counts them
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowChunks:
    """Tensors of some layers, with one entry a row of the batch."""

    layers: list[int]

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Stack consecutive row chunks (all of one padded length) along the batch."""
        names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
        tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **tensors)


@dataclass(frozen=True)
class HeadStatistics(RowChunks):
    """Per-head statistics of the layers read, from which every signal of the method follows.

    Attributes:
        layers: indices of the layers read, in ascending order (length L).
        span_BLH: fp32, tokens. Mean distance that the head's response rows look back (eq. 7); nan for an empty
            response.
        waad_BLHN: fp32, tokens. The head's own WAAD (eq. 9 with A in place of the group's mean); nan outside the
            response.
        fai_BLHN: fp32. The head's own FAI (eq. 10); nan outside the response and where no later response token
            lies within the horizon.
    """

    span_BLH: Tensor
    waad_BLHN: Tensor
    fai_BLHN: Tensor

    def of_layers(self, layers: list[int]) -> HeadStatistics:
        """The statistics of some of the layers read."""
        where = [self.layers.index(layer) for layer in layers]
        return HeadStatistics(layers, self.span_BLH[:, where], self.waad_BLHN[:, where], self.fai_BLHN[:, where])


@dataclass(frozen=True)
class HeadGroups:
    """Which heads are local and which are global: bool [B, L, H], or [1, L, H] for one split shared by all rows."""

    local_BLH: Tensor
    global_BLH: Tensor


@dataclass(frozen=True)
class AttentionSignals(RowChunks):
    """The signals of arXiv 2510.13554 for a batch of responses.

    Attributes:
        layers: indices of the layers read; empty if attention was not read.
        head_span: [B, L, H] fp32, tokens (eq. 7).
        local_heads: [B, L, H] bool (eq. 8), the heads that WAAD is a mean over.
        global_heads: [B, L, H] bool (eq. 8), the heads that FAI is a mean over: global by span, or receiver heads.
        waad: [B, N] fp32, tokens (eq. 9); nan outside the response.
        fai: [B, N] fp32 (eq. 10); nan outside the response and where undefined.
        entropy: [B, N] fp32, nats, of the distribution that produced each token; nan outside the response. None if
            the logits were not read.
    """

    head_span: Tensor
    local_heads: Tensor
    global_heads: Tensor
    waad: Tensor
    fai: Tensor
    entropy: Tensor | None = None

    @staticmethod
    def without_attention(entropy: Tensor) -> AttentionSignals:
        """Signals of a pass of which only the entropy [B, N] was read; everything attention gives is nan or empty."""
        rows, nan = entropy.shape[0], torch.full_like(entropy, torch.nan)
        no_heads = torch.zeros(rows, 0, 0, dtype=torch.bool, device=entropy.device)
        return AttentionSignals([], no_heads.float(), no_heads, no_heads, nan, nan, entropy)
