"""What a checker says of a completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """Whether a completion solves its problem, and what it answered.

    Attributes:
        correct: 1.0 or 0.0.
        answer: the answer in a form in which equal answers are equal strings (votes are counted by it), at most
            200 characters; None where the completion gives none.
    """

    correct: float
    answer: str | None


NO_ANSWER = Verdict(0.0, None)

Checker = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], list[Verdict]]
"""`f(texts, rows) -> one Verdict a text`: a row has `answer` and what else its task needs (`choices`, `numbers`, ...).

A checker never raises for what a text says, and takes at most two seconds for one.
"""
