"""The inputs of one attention layer, and the scores that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of one attention layer, for one chunk of rows.

        score[t, s] = q_t . k_s * scale, then soft-capped, then the additive mask or -inf where hidden
        A[t, s]     = exp(score[t, s] - lse_t), lse_t the log-sum-exp over s and the head's sink

    Attributes:
        q_BHND: queries after rotary embedding and norms, in the model's dtype.
        k_BKND: keys likewise, on the key-value heads (H is a multiple of K).
        scale: factor of q . k.
        softcap: c of c * tanh(score / c) before the mask, or None.
        sinks_H: fp32, one more logit per head that takes part in the softmax and has no column (gpt-oss): rows then
            sum to less than 1. None without sinks.
        mask_BHNN: the layer's own mask, bool (True: visible) or additive, [B or 1, H or 1, N, N], or None where
            causality, padding and the sliding window hide as much. Rows outside the response may hold anything.
        real_BN: bool, which positions are tokens, not padding.
        sliding_window: keys at a distance of this or more are hidden, or None.
    """

    q_BHND: Tensor
    k_BKND: Tensor
    scale: float
    real_BN: Tensor
    softcap: float | None = None
    sinks_H: Tensor | None = None
    mask_BHNN: Tensor | None = None
    sliding_window: int | None = None

    def scores(self, rows: slice, cols: slice) -> Tensor:
        """Scores of a block, -inf where hidden: fp32 [B, H, R, C]."""
        q_BHRD, k_BKCD = self.q_BHND[:, :, rows].float(), self.k_BKND[:, :, cols].float()
        B, H, R, D = q_BHRD.shape
        K, C = k_BKCD.shape[1], k_BKCD.shape[2]
        grouped = q_BHRD.reshape(B, K, H // K * R, D)  # the query heads of a key head lie next to each other
        scores_BHRC = (grouped @ k_BKCD.transpose(-1, -2)).view(B, H, R, C) * self.scale
        if self.softcap is not None:
            scores_BHRC = self.softcap * torch.tanh(scores_BHRC / self.softcap)
        visible, bias = self._mask(rows, cols)
        if bias is not None:
            scores_BHRC = scores_BHRC + bias
        return scores_BHRC.masked_fill(~visible, -torch.inf)

    def additive_mask(self, rows: slice, cols: slice) -> Tensor:
        """What eager attention adds to the scores of a block, in the model's dtype: the lowest number where hidden."""
        visible, bias = self._mask(rows, cols)
        bias = torch.zeros((), device=visible.device) if bias is None else bias
        return torch.where(visible, bias.to(self.q_BHND.dtype), torch.finfo(self.q_BHND.dtype).min)

    def _mask(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor | None]:
        """(which entries of a block are visible, what is added to their scores): [B, 1 or H, R, C]."""
        delta_RC = distance(rows, cols, self.real_BN.device)
        visible, bias = (delta_RC >= 0) & self.real_BN[:, None, None, cols], None
        if self.sliding_window is not None:
            visible = visible & (delta_RC < self.sliding_window)
        if self.mask_BHNN is not None:
            mask = self.mask_BHNN[:, :, rows, cols]
            if mask.dtype == torch.bool:
                visible = visible & mask
            else:
                bias = mask.float()
        return visible, bias

    def row_lse(self, scores_BHRC: Tensor) -> Tensor:
        """Log-sum-exp of rows whose every visible column is among the scores: [B, H, R]."""
        lse_BHR = scores_BHRC.logsumexp(-1)
        return lse_BHR if self.sinks_H is None else torch.logaddexp(lse_BHR, self.sinks_H[:, None])


def distance(rows: slice, cols: slice, device: torch.device) -> Tensor:
    """t - s for a block: int64 [R, C], in tokens."""
    t = torch.arange(rows.start, rows.stop, device=device)
    return t[:, None] - torch.arange(cols.start, cols.stop, device=device)
