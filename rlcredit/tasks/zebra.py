"""Zebra puzzles: who lives in which house? Drawn by reasoning-gym, or read from files.

The paper evaluates on ZebraLogic (its §B.7), whose solutions are not public. These puzzles are of the same kind and
ask for one name, that of the person in the first house, instead of the whole grid [ours]: of four names, a guess is
right a quarter of the time. `pip install "rlcredit[zebra]"` brings the generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets

from rlcredit.errors import InputError
from rlcredit.tasks.base import TaskData
from rlcredit.tasks.checkers.exact import check_exact
from rlcredit.tasks.options import options_from, require_integers
from rlcredit.tasks.questions import QuestionOptions, QuestionTask
from rlcredit.tasks.zebra_puzzles import generate

NUM_TRAIN, NUM_TEST = 4_000, 512


@dataclass(frozen=True)
class ZebraOptions(QuestionOptions):
    """The options of a task of questions, and, for puzzles that are drawn (neither `train` nor `test` is given),

    Attributes:
        people: houses in the street, 2 to 7.
        characteristics: what is told apart of each one's inhabitant, 2 to 7.
        seed: the same seed and options give the same puzzles.
    """

    people: int = 4
    characteristics: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, 2, 7, "people", "characteristics")
        require_integers(self, 0, 2**31, "seed")


ZEBRA = QuestionTask("zebra", check_exact, options=ZebraOptions, answer_form="The final answer is one name.")


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The zebra task (`base.Load`). Raises: InputError."""
    settings = options_from(ZebraOptions, options, "zebra")
    if settings.train is not None or settings.test is not None:
        return ZEBRA.load(settings, train=train, tests=tests)
    num_train = (settings.num_train or NUM_TRAIN) if train else 0
    num_test = (settings.num_test or NUM_TEST) if tests is None or tests else 0
    size = {name: getattr(settings, name) for name in ("people", "characteristics")}
    wanted = {"count": num_train + num_test, "seed": settings.seed, **size}
    # Drawing a puzzle takes a tenth of a second or more, so datasets keeps the drawn ones in its cache. The held-out
    # ones are drawn first: with a given seed they stay the same whatever `num_train` is.
    try:
        rows = datasets.Dataset.from_generator(
            generate, gen_kwargs={"count": num_train + num_test, **wanted}
        ).to_list()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    return ZEBRA.data(settings, rows[num_test:] if train else None, {"zebra": rows[:num_test]} if num_test else {})
