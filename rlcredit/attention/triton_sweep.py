# mypy: allow-untyped-defs, allow-incomplete-defs
"""The statistics of rlcredit/attention/stream.py as Triton kernels, for one attention layer on a GPU.

    A[t, s] = exp(score[t, s] - lse_t) for real s <= t, t - s < sliding window; lse_t includes the sink, if any

1. Rows: one online softmax over the keys gives lse, mean distance and WAAD. No value matrix.
2. Keys: given lse, the attention that each key receives within the horizon. A kernel of its own, since it sums over
   rows and belongs to a block of keys: fused with the first it would need atomics or partial sums in memory.

Inputs may be fp32, bf16 or fp16; sums and distances are fp32. Every number is summed by one program in a fixed order:
no atomics, no autotuning, so that equal inputs give equal bits. Blocks count from the row's first real token, so
padding does not change the bits either. Shape suffixes: see rlcredit/signals/types.py.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlcredit.signals import TO_THE_END

LOG2E = math.log2(math.e)  # the kernels count in powers of two: exp2 is the hardware's exponential
UNLIMITED = 1 << 30  # as a distance in tokens; int32 sums with positions stay in range


def _optional(name: str) -> Any:
    """The module, or None: torch's CPU wheels come without Triton."""
    try:
        return import_module(name)
    except ImportError:
        return None


triton, tl = _optional("triton"), _optional("triton.language")
if TYPE_CHECKING:
    constexpr = Any
else:
    constexpr = getattr(tl, "constexpr", None)


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


def available(device: torch.device) -> bool:
    """Whether the kernels run for tensors on this device: on CUDA, or anywhere in Triton's interpreter."""
    return triton is not None and (device.type == "cuda" or _interpreted())


def _interpreted() -> bool:
    return not isinstance(_row_kernel, triton.runtime.JITFunction)


class Sums(NamedTuple):
    """What a sweep gives: fp32 [B, H, N] each, 0 outside the response."""

    lse_BHN: Tensor
    """Log-sum-exp of each row, the sink included."""
    away_BHN: Tensor
    """sum_s A * (t - s) of each row, in tokens."""
    waad_BHN: Tensor
    """WAAD of each row, in tokens (eq. 9)."""
    received_BHN: Tensor
    """For each key s: sum of A[t, s] over the response rows t with H_lo <= t - s <= H_hi (eq. 10, but for the division
    by |T(s)|, see signals.fai_counts)."""


def sweep(
    q_BHND: Tensor,
    k_BKND: Tensor,
    start_B: Tensor,
    end_B: Tensor,
    response_BN: Tensor,
    *,
    scale: float,
    window: int,
    horizon: tuple[int, int],
    softcap: float | None = None,
    sliding_window: int | None = None,
    sinks_H: Tensor | None = None,
    block_rows: int | None = None,
    block_cols: int | None = None,
) -> Sums:
    """The sums of one layer over the response rows.

    Args:
        q_BHND: queries after rotary embedding and norms; any strides.
        k_BKND: keys likewise and of the same dtype, on the key-value heads (H is a multiple of K).
        start_B, end_B: the row's tokens are the positions start <= n < end; all else is padding and never read.
        response_BN: bool, the rows that count; all of them tokens.
        scale: factor of q . k, positive.
        window: W of WAAD, in tokens, at least 1.
        horizon: (H_lo, H_hi) in tokens; H_hi may be TO_THE_END.
        softcap: c of c * tanh(score / c), before the mask.
        sliding_window: keys at a distance of this or more are hidden.
        sinks_H: one more logit per head, which takes part in the normaliser only.
        block_rows, block_cols: tile, powers of two from 16; by default what suits the head dimension and dtype.

    Raises: ValueError, where the dtypes differ or scale or softcap is not positive.
    """
    q_BHND, k_BKND = _operands(q_BHND, k_BKND)
    B, H, N, _ = q_BHND.shape
    long, short, launch = _tile(q_BHND)
    start_B, end_B = start_B.to(torch.int32).contiguous(), end_B.to(torch.int32).contiguous()
    counted_BN = response_BN.contiguous().view(torch.int8)
    sinks_H = None if sinks_H is None else (sinks_H.detach().float() * LOG2E).contiguous()
    shared = *q_BHND.stride(), *k_BKND.stride(), *_units(scale, softcap)
    compiled = {**_constants(q_BHND, k_BKND, softcap), **launch}
    hidden_from = sliding_window or UNLIMITED
    furthest = min(hidden_from - 1, UNLIMITED if horizon[1] == TO_THE_END else horizon[1])
    lse_BHN, away_BHN, waad_BHN, received_BHN = q_BHND.new_zeros(4, B, H, N, dtype=torch.float32)
    with torch.cuda.device_of(q_BHND):
        rows, cols = block_rows or long, block_cols or short
        _row_kernel[(triton.cdiv(N, rows), B * H)](
            q_BHND, k_BKND, start_B, end_B, counted_BN, sinks_H, lse_BHN, away_BHN, waad_BHN,
            *shared, window, hidden_from, N,
            SINKS=sinks_H is not None, WINDOWED=sliding_window is not None, ROWS=rows, COLS=cols, **compiled,
        )  # fmt: skip
        rows, cols = block_rows or short, block_cols or long
        _received_kernel[(triton.cdiv(N, cols), B * H)](
            q_BHND, k_BKND, start_B, end_B, *_ends(response_BN, start_B, end_B), counted_BN,
            _counted_lse(lse_BHN, response_BN), received_BHN,
            *shared, max(horizon[0], 0), furthest, N, ROWS=rows, COLS=cols, **compiled,
        )  # fmt: skip
    return Sums(lse_BHN, away_BHN, waad_BHN, received_BHN)


def _ends(response_BN: Tensor, start_B: Tensor, end_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last response token of each row: int32 [B]."""
    N = response_BN.shape[1]
    position_N = torch.arange(N, device=response_BN.device, dtype=torch.int32)
    first_B = torch.where(response_BN, position_N, N).amin(1).to(torch.int32)
    last_B = torch.where(response_BN, position_N, -1).amax(1).to(torch.int32)
    return torch.maximum(first_B, start_B), torch.minimum(last_B, end_B - 1)


def _operands(q_BHND: Tensor, k_BKND: Tensor) -> tuple[Tensor, Tensor]:
    """Triton's interpreter (3.7) multiplies the bit patterns of bf16: there, widen them; the products are the same."""
    if q_BHND.dtype != k_BKND.dtype:
        raise ValueError(f"queries are {q_BHND.dtype}, keys {k_BKND.dtype}")
    if q_BHND.dtype == torch.bfloat16 and _interpreted():
        return q_BHND.detach().float(), k_BKND.detach().float()
    return q_BHND.detach(), k_BKND.detach()


def _tile(q_BHND: Tensor) -> tuple[int, int, dict[str, int]]:
    """(the block that a program owns, the block it loops over, warps and pipeline depth).

    Chosen from what the compiler reports, not yet from timings. Without an output accumulator the owned block can be
    long, which bounds the reads of the other side. In 16 bits and up to D = 256 a program takes at most 96 KB and 128
    registers a thread on an H100: two share an SM, and one computes exponentials while the other multiplies. One fits
    on cards with 100 KB.
    """
    dim = _padded(q_BHND.shape[-1])
    if q_BHND.element_size() > 2:  # fp32 runs off the tensor cores: larger tiles spill registers
        return 32, 32, {"num_warps": 8, "num_stages": 2}
    if dim <= 128:
        return 128, 64, {"num_warps": 8, "num_stages": 3}
    if dim <= 256:
        return 128, 32, {"num_warps": 8, "num_stages": 2}
    return 64, 32, {"num_warps": 4, "num_stages": 2}


def _padded(dim: int) -> int:
    """tl.dot takes powers of two from 16."""
    return max(16, triton.next_power_of_2(dim))


def _constants(q_BHND: Tensor, k_BKND: Tensor, softcap: float | None) -> dict[str, Any]:
    """What the kernels are compiled for: the model's shape, not the batch's."""
    _, H, _, D = q_BHND.shape
    return dict(HEADS=H, GROUP=H // k_BKND.shape[1], D=D, D_PAD=_padded(D), CAPPED=softcap is not None)


def _units(scale: float, softcap: float | None) -> tuple[float, float]:
    """(unit, inner): a score in powers of two is unit * q.k, or unit * tanh with exp(2x) = exp2(inner * q.k)."""
    unit, inner = (scale * LOG2E, 0.0) if softcap is None else (softcap * LOG2E, 2 * scale / softcap * LOG2E)
    if unit <= 0:  # the running maximum is taken before the factor
        raise ValueError(f"scale and softcap must be positive, not {scale} and {softcap}")
    return unit, inner


def _counted_lse(lse_BHN: Tensor, response_BN: Tensor) -> Tensor:
    """lse in powers of two; +inf outside the response, where exp2(score - lse) is then 0 without a mask."""
    return torch.where(response_BN[:, None], lse_BHN.float() * LOG2E, torch.inf).contiguous()


# The kernels. Positions n are those of the padded sequence; `far` and `full` blocks need no mask. Offsets of whole
# blocks are int64 (long sequences of many heads pass 2^31 elements), those inside a block int32.


@_jit
def _scores(a, b, inner, CAPPED: constexpr):
    """q.k of two tiles, or tanh of the capped score: times `unit` it is the score in powers of two."""
    x = tl.dot(a, b, input_precision="ieee")
    if CAPPED:
        x = 1.0 - 2.0 / (1.0 + tl.exp2(x * inner))
    return x


@_jit
def _block(head, first, end, sn, sd, D: constexpr, D_PAD: constexpr, SIZE: constexpr):
    """The vectors of SIZE positions of one head from `first` on, 0 from `end` on: [SIZE, D_PAD]."""
    offset, dim = tl.arange(0, SIZE), tl.arange(0, D_PAD)
    vectors = head + first.to(tl.int64) * sn + offset[:, None] * sn + dim[None, :] * sd
    return tl.load(vectors, mask=(first + offset < end)[:, None] & (dim < D)[None, :], other=0.0)


@_jit
def _sweep_keys(
    begin, stop, q_RD, k_head, skn, skd, rows, m, z, d, w, unit, inner, W, sliding,
    EDGE: constexpr, WINDOWED: constexpr, CAPPED: constexpr,
    D: constexpr, D_PAD: constexpr, COLS: constexpr,
):  # fmt: skip
    """Key blocks from begin to stop into the sums m, z, d, w of a block of rows.

    With EDGE a block may reach past `stop`, the diagonal or the sliding window, or hold distances below W. Without,
    every key is visible to every row at a distance of at least W, and w gets nothing.
    """
    dim = tl.arange(0, D_PAD)
    offset_C = tl.arange(0, COLS)
    k_DC = k_head + begin.to(tl.int64) * skn + dim[:, None] * skd + offset_C[None, :] * skn
    for col0 in range(begin, stop, COLS):
        cols = col0 + offset_C
        if EDGE:
            k_tile = tl.load(k_DC, mask=(dim < D)[:, None] & (cols < stop)[None, :], other=0.0)
        elif D == D_PAD:
            k_tile = tl.load(k_DC)
        else:
            k_tile = tl.load(k_DC, mask=(dim < D)[:, None], other=0.0)
        k_DC += COLS * skn
        x = _scores(q_RD, k_tile, inner, CAPPED)
        if EDGE:
            delta = rows[:, None] - cols[None, :]
            visible = (delta >= 0) & (cols < stop)[None, :]
            if WINDOWED:
                visible = visible & (delta < sliding)
            x = tl.where(visible, x, -float("inf"))
        m_new = tl.maximum(m, tl.max(x, 1) * unit)
        shrink = tl.exp2(m - m_new)
        p = tl.exp2(x * unit - m_new[:, None])
        p_sum = tl.sum(p, 1)
        z = z * shrink + p_sum
        if EDGE:
            away = delta.to(tl.float32)
            d = d * shrink + tl.sum(p * away, 1)
            w = w * shrink + tl.sum(p * tl.maximum(W - away, 0.0), 1)
        else:
            # Distance = (row to the block's last key) + (last key to this key): both exact in fp32 and neither is
            # negative, so nothing cancels.
            back_C = (COLS - 1 - offset_C).to(tl.float32)
            to_last_R = (rows - (col0 + COLS - 1)).to(tl.float32)
            d = d * shrink + (tl.sum(p * back_C[None, :], 1) + p_sum * to_last_R)
            w = w * shrink
        m = m_new
    return m, z, d, w


@_jit
def _row_kernel(
    q, k, start_B, end_B, response_BN, sinks_H, lse_BHN, away_BHN, waad_BHN,
    sqb, sqh, sqn, sqd, skb, skk, skn, skd, unit, inner, W, sliding, N,
    HEADS: constexpr, GROUP: constexpr, D: constexpr, D_PAD: constexpr, CAPPED: constexpr,
    SINKS: constexpr, WINDOWED: constexpr, ROWS: constexpr, COLS: constexpr,
):  # fmt: skip
    """One block of query rows of one head against all its keys."""
    b = (tl.program_id(1) // HEADS).to(tl.int64)
    h = (tl.program_id(1) % HEADS).to(tl.int64)
    start = tl.load(start_B + b)
    end = tl.load(end_B + b)
    # The last rows have the most keys: they go first, so that no long program is left over at the end.
    row0 = start + (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    if row0 >= end:
        return
    rows = row0 + tl.arange(0, ROWS)
    counted = tl.load(response_BN + b * N + rows, mask=rows < end, other=0) != 0
    if tl.max(counted.to(tl.int32), 0) == 0:
        return
    q_RD = _block(q + b * sqb + h * sqh, row0, end, sqn, sqd, D, D_PAD, ROWS)
    k_head = k + b * skb + (h // GROUP) * skk
    m = tl.full([ROWS], -1.0e30, tl.float32)  # finite: exp2(m - m_new) stays defined where a block shows a row no key
    z = tl.full([ROWS], 0.0, tl.float32)
    d = tl.full([ROWS], 0.0, tl.float32)
    w = tl.full([ROWS], 0.0, tl.float32)
    stop = tl.minimum(row0 + ROWS, end)
    if WINDOWED:
        # The blocks that the window cuts, up to where the last row sees every key.
        begin = tl.maximum(start, row0 - sliding + 1)
        far = begin + tl.cdiv(tl.maximum(stop - sliding - begin, 0), COLS) * COLS
        m, z, d, w = _sweep_keys(
            begin, tl.minimum(far, stop), q_RD, k_head, skn, skd, rows, m, z, d, w, unit, inner, W, sliding,
            True, WINDOWED, CAPPED, D, D_PAD, COLS,
        )  # fmt: skip
    else:
        far = start
    near = far + tl.maximum(row0 - W + 1 - far, 0) // COLS * COLS
    m, z, d, w = _sweep_keys(
        far, near, q_RD, k_head, skn, skd, rows, m, z, d, w, unit, inner, W, sliding,
        False, WINDOWED, CAPPED, D, D_PAD, COLS,
    )  # fmt: skip
    m, z, d, w = _sweep_keys(
        near, stop, q_RD, k_head, skn, skd, rows, m, z, d, w, unit, inner, W, sliding,
        True, WINDOWED, CAPPED, D, D_PAD, COLS,
    )  # fmt: skip
    top = m
    total = z
    if SINKS:
        sink = tl.load(sinks_H + h)
        top = tl.maximum(m, sink)
        total = z * tl.exp2(m - top) + tl.exp2(sink - top)
    total = tl.where(total == 0.0, 1.0, total)  # rows past the end may see no key
    norm = tl.exp2(m - top) / total
    mass = z * norm if SINKS else tl.full([ROWS], 1.0, tl.float32)  # exactly
    out = (b * HEADS + h) * N + rows
    tl.store(lse_BHN + out, (top + tl.log2(total)) * 0.6931471805599453, mask=counted)  # ln 2
    tl.store(away_BHN + out, d * norm, mask=counted)
    tl.store(waad_BHN + out, W * mass - w * norm, mask=counted)


@_jit
def _sweep_rows(
    begin, stop, k_CD, q_head, lse_head, sqn, sqd, cols, total, unit, inner, lo, hi,
    EDGE: constexpr, CAPPED: constexpr, D: constexpr, D_PAD: constexpr, ROWS: constexpr,
):  # fmt: skip
    """Query blocks from begin to stop into the sum that a block of keys receives.

    With EDGE a block may reach past `stop` or hold distances outside [lo, hi].
    """
    dim = tl.arange(0, D_PAD)
    offset_R = tl.arange(0, ROWS)
    q_DR = q_head + begin.to(tl.int64) * sqn + dim[:, None] * sqd + offset_R[None, :] * sqn
    for row0 in range(begin, stop, ROWS):
        rows = row0 + offset_R
        if EDGE:
            q_tile = tl.load(q_DR, mask=(dim < D)[:, None] & (rows < stop)[None, :], other=0.0)
            lse = tl.load(lse_head + rows, mask=rows < stop, other=float("inf"))
        else:
            lse = tl.load(lse_head + rows)
            q_tile = tl.load(q_DR) if D == D_PAD else tl.load(q_DR, mask=(dim < D)[:, None], other=0.0)
        q_DR += ROWS * sqn
        x = _scores(k_CD, q_tile, inner, CAPPED) * unit - lse[None, :]
        if EDGE:
            delta = rows[None, :] - cols[:, None]
            x = tl.where((delta >= lo) & (delta <= hi), x, -float("inf"))
        total += tl.sum(tl.exp2(x), 1)
    return total


@_jit
def _received_kernel(
    q, k, start_B, end_B, first_B, last_B, response_BN, lse_BHN, received_BHN,
    sqb, sqh, sqn, sqd, skb, skk, skn, skd, unit, inner, lo, hi, N,
    HEADS: constexpr, GROUP: constexpr, D: constexpr, D_PAD: constexpr, CAPPED: constexpr,
    ROWS: constexpr, COLS: constexpr,
):  # fmt: skip
    """One block of keys of one query head against the response rows lo..hi tokens later."""
    b = (tl.program_id(1) // HEADS).to(tl.int64)
    h = (tl.program_id(1) % HEADS).to(tl.int64)
    end = tl.load(end_B + b)
    col0 = tl.load(start_B + b) + tl.program_id(0) * COLS  # without a horizon the first keys have the most rows
    if col0 >= end:
        return
    cols = col0 + tl.arange(0, COLS)
    counted = tl.load(response_BN + b * N + cols, mask=cols < end, other=0) != 0
    if tl.max(counted.to(tl.int32), 0) == 0:
        return
    k_CD = _block(k + b * skb + (h // GROUP) * skk, col0, end, skn, skd, D, D_PAD, COLS)
    q_head = q + b * sqb + h * sqh
    lse_head = lse_BHN + (b * HEADS + h) * N
    last = tl.load(last_B + b)
    col_last = tl.minimum(col0 + COLS, end) - 1
    begin = tl.maximum(col0 + lo, tl.load(first_B + b))
    stop = tl.minimum(col_last + hi, last) + 1
    # Full blocks: at least lo from the last key, at most hi from the first.
    full = begin + tl.cdiv(tl.maximum(col_last + lo - begin, 0), ROWS) * ROWS
    tail = full + tl.maximum(tl.minimum(col0 + hi, last) + 1 - full, 0) // ROWS * ROWS
    total = tl.full([COLS], 0.0, tl.float32)
    total = _sweep_rows(
        begin, tl.minimum(full, stop), k_CD, q_head, lse_head, sqn, sqd, cols, total, unit, inner, lo, hi,
        True, CAPPED, D, D_PAD, ROWS,
    )  # fmt: skip
    total = _sweep_rows(
        full, tail, k_CD, q_head, lse_head, sqn, sqd, cols, total, unit, inner, lo, hi,
        False, CAPPED, D, D_PAD, ROWS,
    )  # fmt: skip
    total = _sweep_rows(
        tail, stop, k_CD, q_head, lse_head, sqn, sqd, cols, total, unit, inner, lo, hi,
        True, CAPPED, D, D_PAD, ROWS,
    )  # fmt: skip
    tl.store(received_BHN + (b * HEADS + h) * N + cols, total, mask=counted)
