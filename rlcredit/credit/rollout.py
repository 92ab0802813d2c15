"""What a strategy may ask for beside attention: the rollout that its rows are of.

Axes: B rows (responses), N positions of prompt and response as in the signals, F reward functions. What has a position
has it at the token itself: the log-probability at [b, t] is that of token t. A strategy gets what its `needs` name,
and None for the rest:

    ids         input_ids [B, N]
    logps       logps [B, N]
    sum_sq      log_sum_sq [B, N]
    rewards     reward [B], rewards_BF, step_rewards [B, N], step_ends [B, N]
    advantages  advantages [B]
    groups      groups [B]: then all rows of all processes are given at once, so that every group is whole
    columns     columns: the data set's row of each response
    text        text: the text of each token of each response
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PARTS = frozenset({"ids", "logps", "sum_sq", "rewards", "advantages", "groups", "columns", "text"})


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
        columns: of each row, the data set's.
        text: of each row, the texts of its N positions; empty for padding.
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
    columns: Sequence[dict[str, Any]] | None = None
    text: Sequence[Sequence[str]] | None = None
