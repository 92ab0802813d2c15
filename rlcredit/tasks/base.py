"""What a task hands to a trainer: data, rewards and a way to measure held-out accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import datasets

RewardFunction = Callable[..., Sequence[float | None]]
"""TRL's reward function: `f(prompts, completions, **columns) -> list[float | None]`, one entry a completion.

Its `__name__` becomes the name of the metric; `None` means that the reward does not apply to that completion.
"""

AccuracyFunction = Callable[[list[str], datasets.Dataset], list[float]]
"""`f(completion_texts, rows) -> list[float]`: 1.0 where the completion solves its row, else 0.0."""


@dataclass(frozen=True)
class TaskData:
    """One task, ready for training.

    Attributes:
        train: rows to train on; column `prompt` (str) and every column that the rewards read.
        test: held-out rows with the same columns, or `None` for a task that has none.
        rewards: TRL reward functions; their values are summed with the weights of the trainer's configuration.
        correct: held-out accuracy of each completion, or `None` for a task that cannot tell right from wrong.
    """

    train: datasets.Dataset
    test: datasets.Dataset | None
    rewards: list[RewardFunction]
    correct: AccuracyFunction | None
