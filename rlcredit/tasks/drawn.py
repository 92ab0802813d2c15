"""What tasks whose instances are drawn have in common: options, sets that share nothing, a reward for the form."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rlcredit.errors import InputError
from rlcredit.tasks.checkers.verdict import Verdict
from rlcredit.tasks.options import require, require_integers

CORRECT_REWARD = 1.0
_REPEATS = 2_000  # known instances in a row: by then the options' instances are used up
_MISSES = 1_000_000  # draws in a row without an instance: by then the options hardly have one


@dataclass(frozen=True)
class DrawnOptions:
    """The recipe's `task_options` for a task whose instances are drawn.

    Attributes:
        num_train: training instances, at least 1.
        num_test: held-out instances, at least 0 (0: no held-out set).
        num_validation: instances of a second held-out set, `<task>_validation`, for choices; 0: none.
        seed: the same seed and options give the same instances in the same order.
        format_reward: reward, from 0 to below 1, of an answer that is well-formed but wrong.
    """

    num_train: int = 20_000
    num_test: int = 512
    num_validation: int = 0
    seed: int = 0
    format_reward: float = 0.1

    def __post_init__(self) -> None:
        require_integers(self, 1, 10_000_000, "num_train")
        require_integers(self, 0, 1_000_000, "num_test", "num_validation")
        require_integers(self, 0, 2**63 - 1, "seed")
        require("format_reward", self.format_reward, _is_partial_reward, "a number from 0 to below 1 such as 0.1")


def _is_partial_reward(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < CORRECT_REWARD


class Drawn(Protocol):
    """A drawn instance; two are the same if their identities are equal."""

    @property
    def identity(self) -> tuple[object, ...]: ...


Instance = TypeVar("Instance", bound=Drawn)
Settings = TypeVar("Settings", bound=DrawnOptions)


def draw_sets(
    draw: Callable[[random.Random, Settings], Instance | None], options: Settings, num_train: int | None, remedy: str
) -> tuple[list[Instance], list[Instance], list[Instance]]:
    """The held-out, the validation and the training instances, drawn in this order: all different, none in two sets.

    Args:
        draw: one random instance of these options, or None where the draw gave none.
        options: how many of each.
        num_train: how many to train on, in place of what the options say.
        remedy: which options allow more instances, for the message.

    Raises: InputError, if so many different instances do not turn up.
    """
    num_train = options.num_train if num_train is None else num_train
    held_out, first_trained = options.num_test, options.num_test + options.num_validation
    instances: dict[tuple[object, ...], Instance] = {}
    rng, repeats, misses = random.Random(options.seed), 0, 0
    while len(instances) < first_trained + num_train:
        instance = draw(rng, options)
        if instance is None:
            misses += 1
        elif instance.identity in instances:
            repeats, misses = repeats + 1, 0
        else:
            instances[instance.identity] = instance
            repeats = misses = 0
        if repeats == _REPEATS or misses == _MISSES:
            raise InputError(
                f"task_options.num_train: {num_train} and num_test {options.num_test} are more than the about "
                f"{len(instances)} different instances of these options; write smaller numbers, or {remedy}"
            )
    drawn = list(instances.values())
    return drawn[:held_out], drawn[held_out:first_trained], drawn[first_trained:]


def rewards_of(verdicts: Sequence[Verdict], format_reward: float) -> list[float]:
    """1 for a right answer, `format_reward` for one that is well-formed but wrong, 0 where there is none."""
    return [CORRECT_REWARD if v.correct else float(format_reward) if v.answer else 0.0 for v in verdicts]
