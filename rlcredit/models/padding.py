"""The padding of a micro-batch, cut to its longest prompt and its longest completion.

TRL pads a rollout to its longest rows, and every micro-batch of it keeps that width. Columns that are padding in every
row of a micro-batch change none of TRL's losses: each sum is masked, and each divisor is a number of tokens, of
rows or `max_completion_length`, whatever the width. Without those columns the losses are equal up to the rounding of
sums in another order; dropout, if there is any, draws other masks. So they are when
rows of an optimiser step change places between its micro-batches (`by_length`), where the step is a sum over rows.

Not cut, since the width may be more than padding there: batches with images or with types of tokens, and models whose
tokens see the padding around them, or their place in the padded row (`ignores_padding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

# [B, P] and [B, T] among what a micro-batch holds, of TRL's and of rlcredit's; a test compares them with a run's.
PROMPT = ("prompt_ids", "prompt_mask")
COMPLETION = (
    "completion_ids",
    "completion_mask",
    "tool_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    "advantages",
    "credit_weights",
    "credit_advantages",
    "returns",
    "values",
    "valued",
)
NEVER_CUT = ("pixel_values", "token_type_ids", "mm_token_type_ids")
# Rotary embeddings whose frequencies do not depend on the length of the row.
FIXED_ROPE = ("default", "linear", "llama3", "yarn", "proportional")
# Families with such embeddings whose logits change with the padding beside a row all the same: what chooses the keys
# (indexers, sparse blocks, patches) counts it, or a recurrence runs through it. tests/families goes through them all.
SEE_PADDING = (
    *("axk2", "blt", "deepseek_v32", "deepseek_v4", "doge", "dots3_note", "dots3_note_text", "glm_moe_dsa", "hy_v4"),
    *("minimax_m3_vl_text", "recurrent_gemma"),
)


def ignores_padding(config: PretrainedConfig) -> bool:
    """Whether the logits of a row's tokens are known not to depend on the padding beside them.

    TRL gives no positions, so the models count them from the first column, padding included: attention has to depend
    on distances alone, by rotary positions of fixed frequencies and without chunks (Llama 4). Models of other code
    than transformers' are not known.
    """
    text = config.get_text_config()
    values = text.to_dict()
    rope = values.get("rope_parameters") or {}
    kinds = list(rope.values()) if rope and all(isinstance(kind, dict) for kind in rope.values()) else [rope]
    relative = not values.get("attention_chunk_size") and all(kind.get("rope_type") in FIXED_ROPE for kind in kinds)
    ours = type(config).__module__.startswith("transformers.")
    return relative and ours and {config.model_type, text.model_type}.isdisjoint(SEE_PADDING)


def cut_padding(batch: dict[str, Any], multiple: int | None = None) -> None:
    """Cut columns that are padding in every row, in place: on the left of prompts, on the right of completions.

    Args:
        batch: a micro-batch as TRL makes it: prompt_mask [B, P] and completion_mask [B, T], and what goes with them.
        multiple: the widths that are left are multiples of this number, as TRL's `pad_to_multiple_of`.
    """
    if any(name in batch for name in NEVER_CUT):
        return
    width = batch["prompt_mask"].shape[1]
    kept = _width(batch["prompt_mask"].flip(1), multiple)
    batch |= {name: batch[name][:, width - kept :] for name in PROMPT}
    width = batch["completion_mask"].shape[1]
    kept = _width(batch["completion_mask"], multiple)
    batch |= {
        name: value[:, :kept]
        for name in COMPLETION
        if (value := batch.get(name)) is not None and value.dim() == 2 and value.shape[1] == width  # not [B], [B, 1]
    }


def by_length(parts: list[dict[str, Any]], together: int) -> list[dict[str, Any]]:
    """Micro-batches as TRL makes them, with the rows of an optimiser step in the order of their length, longest first.

    Args:
        parts: the micro-batches of a rollout, all as wide as it is.
        together: how many of them, one after the other, belong to the same optimiser step.
    """
    if any(name in parts[0] for name in NEVER_CUT):
        return parts
    return [part for first in range(0, len(parts), together) for part in _sorted(parts[first : first + together])]


def _sorted(step: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    lengths = torch.cat([part["prompt_mask"].sum(1) + part["completion_mask"].sum(1) for part in step])
    order, rows = lengths.argsort(descending=True, stable=True), len(lengths) // len(step)
    of_rows = {name: torch.cat([part[name] for part in step]) for name, value in step[0].items() if _is_of_rows(value)}
    for part, own in zip(step, order.split(rows), strict=True):
        yield part | {name: value[own] for name, value in of_rows.items()}


def _is_of_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _width(mask_BN: Tensor, multiple: int | None) -> int:
    """Columns up to the last that is no padding in some row; at least one."""
    columns = mask_BN.any(dim=0).nonzero()
    needed = int(columns[-1]) + 1 if len(columns) else 1
    return min(-(-needed // (multiple or 1)) * (multiple or 1), mask_BN.shape[1])
