"""From one attention layer to per-head statistics, without ever holding a map.

There are three ways; all compute in fp32, whatever the model's dtype, in memory linear in N:

1. On a GPU, Triton kernels (triton_sweep.py), where causality, padding and a window alone decide which keys are seen.
2. On a CPU, torch's fused attention, where causality and padding alone decide, for rows that are not short. One sweep
   gives each row's log-sum-exp, mass and mean distance. Then A[t, s] = exp(score - lse_t) costs only the dot products
   of the bands that WAAD and FAI need.
3. `statistics_of_blocks` for everything else: rows of A, a few at a time, whatever computes them. It is the reference.

Shape suffixes: see rlcredit/signals/types.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlcredit.attention import kernel_check, triton_sweep
from rlcredit.attention.scores import AttentionInputs, distance
from rlcredit.signals import TO_THE_END, fai_counts, fai_of_columns, waad_of_rows

# Sizes of one block of fp32 scores; a few such blocks are alive at a time. On a CPU a block stays in the cache; a GPU
# waits for each launch, and 2 MiB of 8 sequences of 2,048 tokens and 32 heads are a single row.
BLOCK_ROWS, BLOCK_BYTES, GPU_BLOCK_BYTES = 128, 2 << 20, 128 << 20
BAND_ROWS, BAND_BYTES = 64, 2 << 20
# On a CPU, for shorter rows the whole map is little more than the bands, and blocks take half the time (measured).
FUSED_FROM = 256


class Statistics(NamedTuple):
    """Per-head statistics of one layer; units and nan as in HeadStatistics."""

    span_BH: Tensor
    waad_BHN: Tensor
    fai_BHN: Tensor


class Block(NamedTuple):
    """Rows of A over all the columns they see, fp32: attention_BHRC is A[rows, cols]."""

    rows: slice
    cols: slice
    attention_BHRC: Tensor


def head_statistics(
    inputs: AttentionInputs,
    response_BN: Tensor,
    window: int,
    horizon: tuple[int, int],
    fai_rows_BN: Tensor | None = None,
) -> Statistics:
    """The statistics of one layer over the response rows; `fai_rows_BN` are those that FAI is a mean over, or all."""

    def by_blocks(fai_rows_BN: Tensor | None = None) -> Statistics:
        blocks = score_blocks(inputs, response_BN)
        return statistics_of_blocks(blocks, inputs.q_BHND.shape[1], response_BN, window, horizon, fai_rows_BN)

    on_gpu = partial(_swept_on_gpu, inputs, response_BN, window, horizon)
    if _triton_fits(inputs) and kernel_check.trusted(inputs, on_gpu, by_blocks):
        statistics = on_gpu()
    elif _fused_kernel_fits(inputs, horizon):
        statistics = _swept_on_cpu(inputs, response_BN, window, horizon)
    else:
        return by_blocks(fai_rows_BN)
    if fai_rows_BN is None:
        return statistics
    blocks = score_blocks(inputs, fai_rows_BN)
    of_rows = statistics_of_blocks(blocks, inputs.q_BHND.shape[1], response_BN, window, horizon, fai_rows_BN)
    return statistics._replace(fai_BHN=of_rows.fai_BHN)


def statistics_of_blocks(
    blocks: Iterable[Block],
    heads: int,
    response_BN: Tensor,
    window: int,
    horizon: tuple[int, int],
    fai_rows_BN: Tensor | None = None,
) -> Statistics:
    """The statistics of rows of A, given a block at a time; together the blocks hold every response row once."""
    B, N = response_BN.shape
    if fai_rows_BN is None:
        fai_rows_BN = response_BN
    away_BHN, waad_BHN, received_BHN = torch.zeros(3, B, heads, N, device=response_BN.device)
    for rows, cols, attention_BHRC in blocks:
        delta_RC = distance(rows, cols, attention_BHRC.device)
        away_BHN[:, :, rows] = torch.einsum("bhrc,rc->bhr", attention_BHRC, delta_RC.float())
        waad_BHN[:, :, rows] = waad_of_rows(attention_BHRC, delta_RC, window, attention_BHRC.sum(-1))
        received_BHN[:, :, cols] += fai_of_columns(attention_BHRC, delta_RC, fai_rows_BN[:, rows], horizon)
    return _finish(away_BHN, waad_BHN, received_BHN, response_BN, horizon, fai_rows_BN)


def row_blocks(response_BN: Tensor, row_bytes: int) -> list[slice]:
    """Blocks of query rows that cover the response positions of the batch, each of BLOCK_BYTES at most (a GPU's are
    larger)."""
    columns = response_BN.any(0).nonzero()
    if not len(columns):
        return []
    first, end = int(columns[0]), int(columns[-1]) + 1
    most = BLOCK_BYTES if response_BN.device.type == "cpu" else GPU_BLOCK_BYTES
    size = max(1, min(BLOCK_ROWS, most // row_bytes))
    return [slice(start, min(start + size, end)) for start in range(first, end, size)]


def score_blocks(inputs: AttentionInputs, response_BN: Tensor) -> Iterator[Block]:
    B, H, N, _ = inputs.q_BHND.shape
    seen = min(N, inputs.sliding_window + BLOCK_ROWS) if inputs.sliding_window else N
    for rows in row_blocks(response_BN, 4 * B * H * seen):
        cols = slice(max(0, rows.start - inputs.sliding_window + 1) if inputs.sliding_window else 0, rows.stop)
        scores_BHRC = inputs.scores(rows, cols)
        yield Block(rows, cols, scores_BHRC.sub_(inputs.row_lse(scores_BHRC)[..., None]).exp_())


def _triton_fits(inputs: AttentionInputs) -> bool:
    q_BHND = inputs.q_BHND
    fits = inputs.mask_BHNN is None and q_BHND.shape[-1] <= 256 and q_BHND.dtype != torch.float64
    return fits and q_BHND.is_cuda and triton_sweep.available(q_BHND.device)


def _swept_on_gpu(inputs: AttentionInputs, response_BN: Tensor, window: int, horizon: tuple[int, int]) -> Statistics:
    start_B = inputs.real_BN.long().argmax(1)
    sums = triton_sweep.sweep(
        inputs.q_BHND,
        inputs.k_BKND,
        start_B,
        start_B + inputs.real_BN.sum(1),
        response_BN,
        scale=inputs.scale,
        window=window,
        horizon=horizon,
        softcap=inputs.softcap,
        sliding_window=inputs.sliding_window,
        sinks_H=inputs.sinks_H,
    )
    return _finish(sums.away_BHN, sums.waad_BHN, sums.received_BHN, response_BN, horizon, response_BN)


def _swept_on_cpu(inputs: AttentionInputs, response_BN: Tensor, window: int, horizon: tuple[int, int]) -> Statistics:
    lse_BHN, mass_BHN, away_BHN = _fused_sweep(inputs)
    shortfall_BHN, received_BHN = _bands(inputs, lse_BHN, response_BN, window, horizon)
    return _finish(away_BHN, window * mass_BHN - shortfall_BHN, received_BHN, response_BN, horizon, response_BN)


def _bands(
    inputs: AttentionInputs, lse_BHN: Tensor, response_BN: Tensor, window: int, horizon: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(sum over s of (W - distance) * A[t, s] within the window, sum over T(s) of A[t, s]): fp32 [B, H, N] each.

    Blocks of BAND_ROWS queries and the `reach` keys before them: all of one shape, so that several are one product.
    """
    B, H, N, D = inputs.q_BHND.shape
    K, reach, device = inputs.k_BKND.shape[1], min(N - 1, max(window - 1, horizon[1])), lse_BHN.device
    R, C, G = BAND_ROWS, BAND_ROWS + reach, H // K
    delta_RC = distance(slice(reach, C), slice(0, C), device)
    future_RC = torch.where(delta_RC >= 0, 0.0, -torch.inf)
    shortfall_RC = (window - delta_RC).clamp(min=0).float()
    counted_RC = ((delta_RC >= horizon[0]) & (delta_RC <= horizon[1])).float()
    # `reach` columns before the first position and rows up to a whole block: padding
    blocks = -(-N // R)
    rest = blocks * R - N
    q_BHND, k_BKND = pad(inputs.q_BHND, (0, 0, 0, rest)), pad(inputs.k_BKND.float(), (0, 0, reach, rest))
    hidden_BN = pad(torch.where(inputs.real_BN, 0.0, -torch.inf), (reach, rest), value=-torch.inf)
    # rows outside the response: A = exp(score - inf) = 0
    lse_BHN = pad(torch.where(response_BN[:, None], lse_BHN, torch.inf), (0, rest), value=torch.inf)
    shortfall_BHN = torch.zeros_like(lse_BHN)
    received_BHN = torch.zeros(B, H, reach + blocks * R, device=device)
    at_once = max(1, BAND_BYTES // (4 * B * H * R * C))
    for begin in range(int(response_BN.any(0).long().argmax()) // R, blocks, at_once):
        count = min(at_once, blocks - begin)  # blocks in this product
        rows, cols = slice(begin * R, (begin + count) * R), slice(begin * R, (begin + count) * R + reach)
        by_block = (B, K, G, count, R)
        queries = (q_BHND[:, :, rows].float() * inputs.scale).view(*by_block, D).transpose(2, 3)
        keys = k_BKND[:, :, cols].unfold(2, C, R)
        lse = lse_BHN[:, :, rows].view(by_block).transpose(2, 3)
        attention = torch.baddbmm(  # scores less lse
            -lse.reshape(-1, G * R, 1), queries.reshape(-1, G * R, D), keys.reshape(-1, D, C)
        ).view(B, K, count, G, R, C)
        hidden = hidden_BN[:, cols].unfold(1, C, R)[:, None, :, None, None]
        attention.add_(hidden + future_RC).exp_()
        near, far = slice(max(0, reach + 1 - window), C), slice(0, max(0, C - horizon[0]))
        near_sum = (attention[..., near] * shortfall_RC[:, near]).sum(-1)
        shortfall_BHN[:, :, rows] = near_sum.transpose(2, 3).reshape(B, H, -1)
        far_sum = (attention[..., far] * counted_RC[:, far]).sum(-2)
        for block in range(count):
            first = (begin + block) * R
            received_BHN[:, :, first : first + far.stop] += far_sum[:, :, block].reshape(B, H, -1)
    return shortfall_BHN[..., :N], received_BHN[..., reach : reach + N]


def _finish(
    away_BHN: Tensor,
    waad_BHN: Tensor,
    received_BHN: Tensor,
    response_BN: Tensor,
    horizon: tuple[int, int],
    fai_rows_BN: Tensor,
) -> Statistics:
    """Means over R and over T(s) from sums; nan where nothing is defined."""
    count_BN = fai_counts(fai_rows_BN, horizon)
    defined_BN = response_BN & (count_BN > 0)
    span_BH = torch.where(response_BN[:, None], away_BHN, 0.0).sum(-1) / response_BN.sum(1)[:, None]
    fai_BHN = torch.where(defined_BN[:, None], received_BHN / count_BN[:, None].clamp(min=1), torch.nan)
    return Statistics(span_BH, torch.where(response_BN[:, None], waad_BHN, torch.nan), fai_BHN)


def _fused_kernel_fits(inputs: AttentionInputs, horizon: tuple[int, int]) -> bool:
    """Whether torch's fused CPU attention computes this layer's softmax, and bands are less than the whole map."""
    plain = inputs.mask_BHNN is None and inputs.softcap is None and inputs.sliding_window is None
    narrow = inputs.q_BHND.shape[2] >= FUSED_FROM and horizon[1] != TO_THE_END
    return plain and narrow and inputs.q_BHND.device.type == "cpu"


def _fused_sweep(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """(log-sum-exp, mass, mean distance in tokens) of every row: fp32 [B, H, N].

    The kernel gives the log-sum-exp beside its output; values that carry their position make that output the expected
    position.
    """
    B, H, N, D = inputs.q_BHND.shape
    keys = inputs.k_BKND.float().repeat_interleave(H // inputs.k_BKND.shape[1], dim=1)
    values = torch.zeros(N, D)
    values[:, 0] = torch.arange(N)
    padding = None
    if not inputs.real_BN.all():
        padding = torch.where(inputs.real_BN, 0.0, -torch.inf)[:, None, None]
    position, lse_BHN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        inputs.q_BHND.float(), keys, values.expand(B, H, N, D), 0.0, True, attn_mask=padding, scale=inputs.scale
    )
    away_BHN = torch.arange(N) - position[..., 0]
    if inputs.sinks_H is None:
        return lse_BHN, torch.ones_like(lse_BHN), away_BHN
    with_sink_BHN = torch.logaddexp(lse_BHN, inputs.sinks_H[:, None])
    mass_BHN = torch.exp(lse_BHN - with_sink_BHN)
    return with_sink_BHN, mass_BHN, mass_BHN * away_BHN
