"""Products: what a small policy cannot work out itself and a calculator can, for runs with a tool.

    a question:                     37*46
    a response without the tool:    <answer>1602</answer>
    one that calls `calculator`:    a call with the expression 37*46, the tool's 1702, <answer>1702</answer>

The held-out instances are drawn first, then those of the validation set, then those to train on.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets

from rlcredit.tasks.arithmetic import evaluate
from rlcredit.tasks.base import TaskData
from rlcredit.tasks.checkers.answers import completion_text, tag_span, tagged
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict
from rlcredit.tasks.drawn import DrawnOptions, draw_sets, rewards_of
from rlcredit.tasks.options import options_from, require_integers


def calculator(expression: str) -> str:
    """Work out an arithmetic expression.

    Args:
        expression: Whole numbers with + - * / and brackets.

    Returns:
        Its exact value.
    """
    return str(evaluate(expression).value)


class ProductsInstance(NamedTuple):
    """Two factors."""

    a: int
    b: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.a, self.b


@dataclass(frozen=True)
class ProductsOptions(DrawnOptions):
    """The options of a task whose instances are drawn, and

    Attributes:
        digits: how many digits a factor has, 2 to 9.
    """

    digits: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, 2, 9, "digits")


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The products task: rows with `prompt` (a conversation), `a` and `b`; reward `products_reward`.

    Raises: InputError if an option is unknown or impossible (see `ProductsOptions`).
    """
    settings = options_from(ProductsOptions, options, "products")
    num_train = None if train else 0
    held_out, validation, trained = draw_sets(_draw, settings, num_train, "more task_options.digits")
    reward = functools.partial(products_reward, format_reward=settings.format_reward)
    sets = {"products": held_out, "products_validation": validation}
    return TaskData(
        train=_dataset(trained) if train else None,
        tests={name: _dataset(rows) for name, rows in sets.items() if rows and (not tests or name in tests)},
        rewards=[functools.update_wrapper(reward, products_reward)],  # a partial has no __name__ of its own
        check=check,
        answer_span=tag_span,
    )


def _draw(rng: random.Random, options: ProductsOptions) -> ProductsInstance:
    low, high = 10 ** (options.digits - 1), 10**options.digits
    return ProductsInstance(rng.randrange(low, high), rng.randrange(low, high))


def _dataset(instances: Sequence[ProductsInstance]) -> datasets.Dataset:
    rows = [
        {"prompt": [{"role": "user", "content": f"{instance.a}*{instance.b}"}], **instance._asdict()}
        for instance in instances
    ]
    return datasets.Dataset.from_list(rows)


def products_reward(
    completions: Sequence[str | Sequence[Mapping[str, object]]],
    a: Sequence[int],
    b: Sequence[int],
    format_reward: float = ProductsOptions.format_reward,
    **_: object,
) -> list[float]:
    """TRL reward function: 1 for the product in the last `<answer>`, `format_reward` for another number, else 0."""
    rows = zip(completions, a, b, strict=True)
    return rewards_of([_verdict(completion_text(text), x, y) for text, x, y in rows], format_reward)


def check(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A checker: right is the product; the answer is any whole number."""
    return [_verdict(text, row["a"], row["b"]) for text, row in zip(texts, rows, strict=True)]


def _verdict(text: str, a: int, b: int) -> Verdict:
    answer = tagged(text) or ""
    if not (answer.isascii() and answer.isdigit()):
        return NO_ANSWER
    answer = answer.lstrip("0") or "0"
    return Verdict(float(answer == str(a * b)), answer)
