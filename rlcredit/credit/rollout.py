"""What a strategy may ask for beside attention: the rollout that its rows are of.

Axes: B rows (responses), N positions of prompt and response as in the signals, F reward functions. What has a position
has it at the token itself: the log-probability at [b, t] is that of token t. A strategy gets what its `needs` name,
and None for the rest. With "groups", all rows of all processes are given at once, so that every group is whole; with
"answer", the task has to say where the answer of a text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FIELDS: dict[str, tuple[str, ...]] = {
    "ids": ("input_ids", "real"),
    "logps": ("logps",),
    "sum_sq": ("log_sum_sq",),
    "rewards": ("reward", "rewards_BF", "step_rewards", "step_ends"),
    "advantages": ("advantages",),
    "groups": ("groups",),
    "values": ("values",),
    "columns": ("columns",),
    "text": ("text",),
    "turns": ("turns",),
    "answer": ("answer",),
}
"""The fields of a rollout that each name in `needs` stands for."""
PARTS = frozenset(FIELDS)
PART_OF = {name: part for part, names in FIELDS.items() for name in names}


@dataclass(frozen=True)
class Rollout:
    """The responses of a generation batch, as generated and rewarded.

    Attributes:
        input_ids: [B, N] int64, prompt and response; padding where `real` is false.
        real: [B, N] bool, tokens that are no padding.
        logps: [B, N] fp32 nats, log pi(y_t) of the weights that generated; nan outside the response.
        log_sum_sq: [B, N] fp32, log of the sum over the vocabulary of pi(v)^2 where token t was chosen; nan outside.
        reward: [B] fp32, the weighted sum of the functions; nan where none of them scored.
        rewards_BF: [B, F] fp32, each function's; nan where it did not score.
        step_rewards: [B, N] fp32, what adds up to `reward`: that of a step at its last token, that of a function which
            gives one number at the response's last token; 0 elsewhere.
        step_ends: [B, N] bool, where such a reward lands.
        advantages: [B] fp32, those that would enter the loss: the group's.
        groups: [B] int64, rows of one prompt share a number.
        values: [B, N] fp32, at token t the estimate of V(s_t), the expected reward from the state before t; nan where
            none was taken.
        columns: of each row, the data set's.
        text: of each row, the texts of its N positions; empty for padding. Joined, they are the text of the prompt
            and of the response; a character of several tokens is at the last of them.
        turns: [B, N] int64, which of the response's turns a token is in, from 0; -1 outside the response. A turn is
            what the model writes until a tool, an environment or the end takes over.
        answer: [B, N] bool, the tokens of the response's answer; none where it has no answer.
    """

    input_ids: Tensor | None = None
    real: Tensor | None = None
    logps: Tensor | None = None
    log_sum_sq: Tensor | None = None
    reward: Tensor | None = None
    rewards_BF: Tensor | None = None
    step_rewards: Tensor | None = None
    step_ends: Tensor | None = None
    advantages: Tensor | None = None
    groups: Tensor | None = None
    values: Tensor | None = None
    columns: Sequence[dict[str, Any]] | None = None
    text: Sequence[Sequence[str]] | None = None
    turns: Tensor | None = None
    answer: Tensor | None = None


def turns_of(response_BN: Tensor) -> Tensor:
    """The number of the turn of each token of a response, -1 elsewhere: int64 [B, N]."""
    first = response_BN & ~torch.nn.functional.pad(response_BN, (1, -1))
    return torch.where(response_BN, first.long().cumsum(1) - 1, -1)
