"""From queries and keys to per-head statistics, without ever holding a map.

With each row's log-sum-exp, A[t, s] = exp(q_t . k_s * scale - lse_t): any band of A costs the dot products in it.

1. `row_summary` sweeps all keys once for lse and the mean distance sum_s A[t, s] * (t - s): with torch's fused CPU
   attention (positions as values give the expected key position) where a layer is plainly causal, else in blocks.
2. `band_statistics` recomputes blocks of A that hold the diagonals in reach, for WAAD and FAI.

Memory is linear in N: one block of scores, at most BLOCK_BYTES. Everything is fp32, whatever the model computes in.
Shape suffixes: see rlcredit/signals/types.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlcredit.signals import TO_THE_END, fai_counts, fai_of_columns, waad_of_rows

BLOCK_ROWS = 128
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Layer:
    """What one attention layer was given, for one chunk of rows.

    Attributes:
        q_BHND: queries after rotary embedding and norms, fp32.
        k_BKND: keys likewise, on the key-value heads (H is a multiple of K).
        scale: factor of q . k.
        softcap: c of c * tanh(score / c) before the mask, or None.
        mask_B1NN: the layer's own mask, bool (True: visible) or additive, or None where causality and padding say it
            all. Rows outside the response may hold anything.
        real_BN: bool, which positions are tokens, not padding.
        sliding_window: keys at a distance of this or more are hidden (used only where there is no mask), or None.
    """

    q_BHND: Tensor
    k_BKND: Tensor
    scale: float
    softcap: float | None
    mask_B1NN: Tensor | None
    real_BN: Tensor
    sliding_window: int | None

    @property
    def plainly_causal(self) -> bool:
        return self.softcap is None and self.mask_B1NN is None and self.sliding_window is None

    def scores(self, rows: slice, cols: slice) -> Tensor:
        """Scores of a block before the softmax, -inf where hidden: [B, H, R, C]."""
        q_BHRD, k_BKCD = self.q_BHND[:, :, rows], self.k_BKND[:, :, cols]
        B, H, R, D = q_BHRD.shape
        K, C = k_BKCD.shape[1], k_BKCD.shape[2]
        grouped = q_BHRD.reshape(B, K, H // K * R, D)  # the query heads of a key head lie next to each other
        scores_BHRC = (grouped @ k_BKCD.transpose(-1, -2)).view(B, H, R, C) * self.scale
        if self.softcap is not None:
            scores_BHRC = self.softcap * torch.tanh(scores_BHRC / self.softcap)
        visible = (distance(rows, cols, q_BHRD.device) >= 0) & self.real_BN[:, None, None, cols]
        if self.mask_B1NN is not None:
            mask = self.mask_B1NN[:, :, rows, cols]
            if mask.dtype == torch.bool:
                visible = visible & mask
            else:
                scores_BHRC = scores_BHRC + mask.float()
        elif self.sliding_window is not None:
            visible = visible & (distance(rows, cols, q_BHRD.device) < self.sliding_window)
        return scores_BHRC.masked_fill(~visible, -torch.inf)


def distance(rows: slice, cols: slice, device: torch.device) -> Tensor:
    """t - s for a block: int64 [R, C], in tokens."""
    t = torch.arange(rows.start, rows.stop, device=device)
    return t[:, None] - torch.arange(cols.start, cols.stop, device=device)


def row_summary(layer: Layer, response_BN: Tensor) -> tuple[Tensor, Tensor]:
    """(lse, mean distance in tokens) of every row: fp32 [B, H, N] each; only response rows are meant to be used."""
    if layer.plainly_causal and layer.q_BHND.device.type == "cpu":
        return _fused_summary(layer)
    return _blocked_summary(layer, response_BN)


def _fused_summary(layer: Layer) -> tuple[Tensor, Tensor]:
    """One call of the fused CPU kernel, which gives the log-sum-exp; values carry their position as first entry."""
    B, H, N, D = layer.q_BHND.shape
    keys = layer.k_BKND.repeat_interleave(H // layer.k_BKND.shape[1], dim=1)
    values = torch.zeros(1, 1, N, D)
    values[..., 0] = torch.arange(N)
    padding = None
    if not layer.real_BN.all():
        padding = torch.zeros(B, 1, 1, N).masked_fill(~layer.real_BN[:, None, None], -torch.inf)
    expected, lse_BHN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        layer.q_BHND, keys, values.expand(B, H, N, D), 0.0, True, attn_mask=padding, scale=layer.scale
    )
    return lse_BHN, torch.arange(N) - expected[..., 0]


def _blocked_summary(layer: Layer, response_BN: Tensor) -> tuple[Tensor, Tensor]:
    B, H, N, _ = layer.q_BHND.shape
    lse_BHN = layer.q_BHND.new_zeros(B, H, N)
    away_BHN = torch.zeros_like(lse_BHN)
    for rows in _row_blocks(response_BN, BLOCK_BYTES // (4 * B * H * N)):
        cols = slice(0, rows.stop)
        scores_BHRC = layer.scores(rows, cols)
        lse_BHR = scores_BHRC.logsumexp(-1)
        delta_RC = distance(rows, cols, lse_BHR.device).float()
        lse_BHN[:, :, rows] = lse_BHR
        away_BHN[:, :, rows] = (torch.exp(scores_BHRC - lse_BHR[..., None]) * delta_RC).sum(-1)
    return lse_BHN, away_BHN


def band_statistics(
    layer: Layer, lse_BHN: Tensor, response_BN: Tensor, window: int, horizon: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(WAAD, FAI) of every head: fp32 [B, H, N] each, nan outside the response and where undefined."""
    waad_BHN = torch.full_like(lse_BHN, torch.nan)
    received_BHN = torch.zeros_like(lse_BHN)
    B, H, N = lse_BHN.shape
    whole = horizon[1] == TO_THE_END
    reach = N if whole else max(window - 1, horizon[1])
    for rows in _row_blocks(response_BN, BLOCK_BYTES // (4 * B * H * min(N, reach + BLOCK_ROWS))):
        cols = slice(max(0, rows.start - reach), rows.stop)
        attention_BHRC = torch.exp(layer.scores(rows, cols) - lse_BHN[:, :, rows, None])
        delta_RC = distance(rows, cols, lse_BHN.device)
        waad_BHN[:, :, rows] = waad_of_rows(attention_BHRC, delta_RC, window)
        received_BHN[:, :, cols] += fai_of_columns(attention_BHRC, delta_RC, response_BN[:, rows], horizon)
    count_BN = fai_counts(response_BN, horizon)
    defined_BN = response_BN & (count_BN > 0)
    fai_BHN = torch.where(defined_BN[:, None], received_BHN / count_BN[:, None].clamp(min=1), torch.nan)
    return torch.where(response_BN[:, None], waad_BHN, torch.nan), fai_BHN


def head_statistics(
    layer: Layer, response_BN: Tensor, window: int, horizon: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(span [B, H], WAAD [B, H, N], FAI [B, H, N]) of one layer; units and nan as in HeadStatistics."""
    lse_BHN, away_BHN = row_summary(layer, response_BN)
    waad_BHN, fai_BHN = band_statistics(layer, lse_BHN, response_BN, window, horizon)
    away_BHN = torch.where(response_BN[:, None], away_BHN, 0.0)
    return away_BHN.sum(-1) / response_BN.sum(1)[:, None], waad_BHN, fai_BHN


def _row_blocks(response_BN: Tensor, budget: int) -> list[slice]:
    """Blocks of query rows that cover the response positions of the batch, of at most `budget` rows (at least 1)."""
    columns = response_BN.any(0).nonzero()
    if not len(columns):
        return []
    first, end = int(columns[0]), int(columns[-1]) + 1
    size = max(1, min(BLOCK_ROWS, budget))
    return [slice(start, min(start + size, end)) for start in range(first, end, size)]
