"""What a task provides: data, rewards, and the checker that judges answers in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets

from rlcredit.errors import require
from rlcredit.tasks.checkers.answers import completion_text
from rlcredit.tasks.checkers.mathematics import check_math
from rlcredit.tasks.checkers.verdict import Checker

TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What TRL passes to a reward function beside the columns of the data set, none of which may have such a name."""

RESERVED_COLUMNS = (*TRL_ARGUMENTS, "completion", "image", "images")
"""These, a column that TRL takes out before it calls the rewards, and those that it reads as pictures."""

RewardFunction = Callable[..., Sequence[Any]]
"""TRL's reward function: `f(prompts, completions, **columns) -> list[float | None]`, one entry a completion.

Its `__name__` becomes the name of the metric; `None` means that the reward does not apply to that completion. In place
of a number an entry may be the rewards of the completion's steps (docs/rewards.md).
"""

AnswerSpan = Callable[[str], tuple[int, int] | None]
"""Where the answer of a text begins and ends, in characters."""


@dataclass(frozen=True)
class TaskData:
    """One task, ready for training and evaluation.

    Attributes:
        train: rows to train on: column `prompt` (a text, or a conversation) and every column that the rewards read;
            None where only evaluation was asked for.
        tests: evaluation sets by name, with the same columns; the first one is the main one.
        rewards: TRL reward functions; their values are summed with the weights of the trainer's configuration.
        check: the checker of a completion; None for a task that cannot tell right from wrong.
        has_answers: whether the checker says what a completion answered (a reward in its place does not), so that
            answers can be counted.
        answer_span: where the answer of a completion's text begins and ends, in characters; None for a text without
            one, and in its place for a task that does not know.
        notes: what its user should know before training starts, a line each (rows left out, for instance).
    """

    train: datasets.Dataset | None
    tests: Mapping[str, datasets.Dataset]
    rewards: list[RewardFunction]
    check: Checker | None
    has_answers: bool = True
    answer_span: AnswerSpan | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises: InputError where a package is missing that the checker of mathematics needs."""
        if self.check is check_math:
            require("math_verify", "the checker math")


class Load(Protocol):
    """Makes a task's data from the recipe's `task_options`.

    Args:
        options: checked by the task; InputError (or ValueError) names the key, the value and what to write instead.
        train: whether the training set is wanted.
        tests: which evaluation sets are wanted, by name; None: those that the options name.
    """

    def __call__(
        self, options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None
    ) -> TaskData: ...


def accuracy_reward(check: Checker) -> RewardFunction:
    """The reward of a checker: 1 for a right answer, else 0."""

    def accuracy(completions: Sequence[Any], **columns: Any) -> list[float]:
        rows = rows_of(columns, len(completions))
        return [
            verdict.correct for verdict in check([completion_text(completion) for completion in completions], rows)
        ]

    return accuracy


def rows_of(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """TRL's columns as rows; arguments that are not columns (TRL's own) are left out."""
    lists = {name: value for name, value in columns.items() if isinstance(value, list) and len(value) == count}
    return [{name: value[row] for name, value in lists.items()} for row in range(count)]
