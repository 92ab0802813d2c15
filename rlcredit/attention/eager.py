"""The family's own eager attention, a few rows at a time: the reference that the fast paths are compared with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rlcredit.attention.scores import AttentionInputs
from rlcredit.attention.seams import AttentionCall
from rlcredit.attention.stream import Block, row_blocks
from rlcredit.models.modes import evaluating

# Largest difference of an attention weight that rounding explains: the model's own softmax may run in its own dtype.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def agrees(inputs: AttentionInputs, call: AttentionCall, response_BN: Tensor) -> bool:
    """Whether two rows of A, as this package computes them, equal those of the family's eager attention function.

    This notices functions that do more than their arguments show (a norm, a second softmax).
    """
    columns = response_BN.any(0).nonzero().flatten()
    for t in {int(columns[0]), int(columns[-1])}:
        rows, cols = slice(t, t + 1), slice(0, t + 1)
        scores_BHRC = inputs.scores(rows, cols)
        ours = torch.exp(scores_BHRC - inputs.row_lse(scores_BHRC)[..., None])
        theirs = _eager_rows(inputs, call, rows)
        there = response_BN[:, t]
        if theirs.shape[:2] != ours.shape[:2] or theirs[there][..., t + 1 :].any():
            return False
        difference = (ours - theirs[..., : t + 1])[there].abs()
        # rows that are not finite in both are bad input, not another formula
        if (difference > ROUNDING[inputs.q_BHND.dtype]).any():
            return False
    return True


def blocks(inputs: AttentionInputs, call: AttentionCall, response_BN: Tensor) -> Iterator[Block]:
    """Rows of A from the family's own function."""
    B, H, N, _ = inputs.q_BHND.shape
    for rows in row_blocks(response_BN, 4 * B * H * N):
        yield Block(rows, slice(0, rows.stop), _eager_rows(inputs, call, rows)[..., : rows.stop])


def _eager_rows(inputs: AttentionInputs, call: AttentionCall, rows: slice) -> Tensor:
    """A[rows] over all columns: fp32 [B, H, R, N]."""
    assert call.eager is not None
    N = inputs.q_BHND.shape[2]
    mask = inputs.additive_mask(rows, slice(0, N))
    own = {"scaling": inputs.scale, "dropout": 0.0, "position_bias": None}  # the mask holds the bias
    options = {**call.options, **own}
    for name, option in options.items():
        if isinstance(option, Tensor) and option.dim() == 4 and option.shape[2] == N:  # one entry a query
            options[name] = option[:, :, rows]
    value = call.value.to(call.query.dtype)  # autocast: rotary embeddings leave q and k in fp32, v is in bf16
    with evaluating(call.module):  # no dropout, and nothing drawn from the random streams
        return call.eager(call.module, call.query[:, :, rows], call.key, value, mask, **options)[1].float()
