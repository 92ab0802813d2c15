"""Rewards within a response: what a reward function may return for a completion in place of one number.

    [0.0, None, 0.5, ...]             one entry for each token of its `completion_ids`: a step ends at a token that has
                                      a number; None: no step ends there
    [(0, 12, 0.5), (12, 30, -1.0)]    (start, end, reward) of steps of its text, in characters, the end excluded: the
                                      reward of a step lands at the token that completes its last character

Where a completion is a list of messages, its text is the content of its only message. The reward of the completion is
the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlcredit.analysis.token_texts import plain_texts

Landing = tuple[int, float]
"""The place of a token in the completion, and the reward of the step that ends there."""


def is_parts(value: Any) -> bool:
    """Whether a value is rewards within a response, not one number."""
    return isinstance(value, list | tuple)


def landings(
    parts: Sequence[Any], completion: Any, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase | None
) -> list[Landing]:
    """Where the rewards of a completion land.

    Raises: ValueError that says what the function returned and what to return instead.
    """
    if all(isinstance(part, list | tuple) for part in parts):
        return _of_spans([_span(part) for part in parts], completion, ids, tokenizer)
    if len(parts) != len(ids):
        raise ValueError(
            f"{len(parts)} numbers for a completion of {len(ids)} tokens; return one for each token of completion_ids"
        )
    return [(place, _number(part)) for place, part in enumerate(parts) if part is not None]


def _of_spans(
    spans: Sequence[tuple[int, int, float]],
    completion: Any,
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[Landing]:
    if not spans:
        return []
    text = _text_of(completion)
    for start, end, _ in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"the span ({start}, {end}) of a text of {len(text)} characters; return 0 <= start < end")
    if tokenizer is None:
        raise ValueError("spans where no tokenizer is known; return one number for each token of completion_ids")
    texts = plain_texts(tokenizer, [], ids)
    ends = list(accumulate(map(len, texts)))
    before = "".join(texts).rfind(text)
    if before < 0:
        raise ValueError(
            "spans of a completion whose text is not that of its tokens; return one number for each token of "
            "completion_ids"
        )
    return [
        (next(place for place, reached in enumerate(ends) if reached >= before + end), reward)
        for _, end, reward in spans
    ]


def _text_of(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    if len(completion) == 1 and isinstance(content := completion[0].get("content"), str):
        return content
    raise ValueError(
        "spans of a completion that is not one message with a text; return one number for each token of completion_ids"
    )


def _span(part: Sequence[Any]) -> tuple[int, int, float]:
    if len(part) != 3 or not all(isinstance(place, int) for place in part[:2]):
        raise ValueError(f"{tuple(part)!r:.80} as the reward of a step; return (start, end, reward)")
    return part[0], part[1], _number(part[2])


def _number(value: Any) -> float:
    if not isinstance(value, Real):
        raise ValueError(f"{value!r:.80} as the reward of a step; return numbers")
    return float(value)


def total_of_parts(landed: Sequence[Landing]) -> float:
    """The reward of a completion: the sum over its steps."""
    return math.fsum(reward for _, reward in landed)


def placed(landed: Sequence[Sequence[Landing]], written_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of steps, and where a step ends: fp32 and bool, [B, T].

    A step that ends at a token that the model did not write, such as tool output, ends at the last one it wrote
    before, or else at the first one it wrote; what lands at one token adds up.
    """
    rewards = torch.zeros(written_BT.shape, device=written_BT.device)
    ends = torch.zeros_like(written_BT, dtype=torch.bool)
    for row, (steps, written) in enumerate(zip(landed, written_BT.bool().tolist(), strict=True)):
        places = [place for place, is_written in enumerate(written) if is_written]
        for place, reward in steps if places else ():
            at = max((p for p in places if p <= place), default=places[0])
            rewards[row, at] += reward
            ends[row, at] = True
    return rewards, ends
