r"""Mathematical answers, compared as normal forms and, where that takes mathematics, by math-verify.

    gold \frac{1}{2}:   \boxed{\frac{1}{2}}   \boxed{\dfrac12}   \boxed{x = 0.5}   The answer is $1/2$.

The answer of a completion is its last `\boxed{}`, else its last `<answer>`. Where there is neither, it is read from
the last 500 characters of the text: what follows "answer is", else the last formula or number. That choice is ours.

`equality` says at sight whether numbers, words, lists and sets of them are equal, and which forms cannot be read at
all; those equal only themselves. The rest is left to math-verify in a worker process (see `math_worker`).
docs/tasks.md has the table of what is equal to what.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rlcredit.tasks.checkers import math_worker
from rlcredit.tasks.checkers.answers import boxed, has_box, phrase, shown, tagged
from rlcredit.tasks.checkers.equality import equal_at_sight, for_library, is_understood
from rlcredit.tasks.checkers.normal_form import normal_form
from rlcredit.tasks.checkers.quantity import quantity
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict

TAIL = 500  # characters in which an answer without a box is looked for
MAX_GOLD = 4_000  # a longer gold answer is compared as a string alone
MAX_DEPTH = 40  # brackets in brackets; a deeper text is no answer, and could exhaust a parser's stack

_CACHED_ANSWERS = 20_000
_SENTENCE_END = re.compile(r"[.!?;](?:\s|$)|,\s(?=[a-z]{2})")
_NOT = re.compile(
    r"\bnot\b|n't\b|\bbetween\b|\b(?:greater|less|more|fewer|larger|smaller) than\b|\bat (?:least|most)\b",
    re.IGNORECASE,
)
_NEAR = 20  # characters before the last number of a text in which a "not" is about that number
_MARKUP = re.compile(r"(?<![0-9A-Za-z)}])\*\*|\*\*(?![0-9A-Za-z(])|`|(?<=[^\s0-9]):(?=[0-9.\\$-])|</?[A-Za-z]{1,20}>")
_NUMBER = (
    r"(?:[-+\u2212\u2013]\s?)?\(?\\?[$\u20ac\u00a3]?"
    r"(?:[0-9]+ [0-9]+/[0-9]+|[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)\)?"
    r"(?:[eE][-+]?[0-9]+(?![A-Za-z0-9]))?"
    r"(?:\s?(?:\\times|\u00d7|\*|x)\s?10\s?\^\s?\{?[-\u2212]?[0-9]+\}?)?"
    r"(?:\s(?:hundred|thousand|million|billion|trillion)(?![a-z]))?(?:\s?(?:\\?%|percent(?![a-z])))?"
)
_CONTINUES = (  # what makes a number a part of something longer: 2x, 2\pi, 4^2, 5.2.1, (1,2)
    r"[0-9]|[.,][0-9]|[A-Za-z](?![A-Za-z])|\\[A-Za-z]|\s?[+*/^]\s?[0-9A-Za-z(\\]|\s?-\s?[0-9]"
    "|[\u00b2\u00b3\u00b9\u00bc-\u00be\u2150-\u215e\u221a\u03c0]"
)
_MATHEMATICS = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|(?<![\\0-9])\$(?P<inline>[^$\n]+)\$(?![0-9])"
    r"|\\\((?P<parens>.+?)\\\)|\\\[(?P<brackets>.+?)\\\]"
    r"|(?P<fraction>-?\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\})"
    rf"|(?<![A-Za-z0-9_.,^*/+{{\\])(?P<number>{_NUMBER}(?:\s?(?:[-+*/^:\u2212]|\*\*)\s?{_NUMBER}){{0,20}})(?!{_CONTINUES})",
    re.DOTALL,
)


class _Question(NamedTuple):
    """Two normal forms."""

    gold: str
    answer: str


def check_math(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Right if the answer is mathematically the row's `answer`; a `Checker`.

    A right answer is shown as the gold answer's normal form, so all ways of writing it get one vote together; a wrong
    one as sympy writes its value, or, where it has none, as its own normal form. Each answer has a worker for at most
    a second and a half. There are at most `math_worker.MAX_WORKERS` workers; an answer waits until one is free.

    Raises:
        RuntimeError: if math-verify's worker process does not start.
    """
    questions = [_question(text, str(row["answer"])) for text, row in zip(texts, rows, strict=True)]
    different = [question for question in dict.fromkeys(questions) if question is not None]
    verdicts = dict(zip(different, _answered(different), strict=True))
    return [NO_ANSWER if question is None else verdicts[question] for question in questions]


def _question(text: str, gold: str) -> _Question | None:
    answer = _answer(text)
    return None if answer is None else _Question(_cached_form(gold), normal_form(answer))


def _answer(text: str) -> str | None:
    """The last box; without any, the last `<answer>` tag; without that, what the end of the text says."""
    if has_box(text):
        return boxed(text)
    answer = tagged(text)
    if answer is None:
        return _said(text[-TAIL:])
    statement = phrase(answer)
    return answer if statement is None else _SENTENCE_END.split(statement)[0]


def _said(text: str) -> str | None:
    """What follows the last "answer is" or "answer:", where it is mathematics; else the last formula or number.

    "The answer is not 5" and "greater than 5" say no answer.
    """
    text = _MARKUP.sub(" ", text)
    statement = phrase(text)
    if statement is None:
        formulas = list(_MATHEMATICS.finditer(text))
        if not formulas or _NOT.search(text[max(0, formulas[-1].start() - _NEAR) : formulas[-1].start()]):
            return None
        return formulas[-1][formulas[-1].lastgroup or 0]
    sentence = _SENTENCE_END.split(statement)[0]
    formula = _MATHEMATICS.search(sentence)
    if _NOT.search(sentence[: formula.start()] if formula else sentence):
        return None
    if formula is None or is_understood(normal_form(sentence)):
        return sentence
    return formula[formula.lastgroup or 0]


def _answered(questions: Sequence[_Question]) -> list[Verdict]:
    at_sight = [_at_sight(question) for question in questions]
    hard = [question for question, verdict in zip(questions, at_sight, strict=True) if verdict is None]
    if len(hard) > 1:
        with ThreadPoolExecutor(math_worker.pool.size) as threads:
            worked_out = iter(list(threads.map(_by_library, hard)))
    else:
        worked_out = iter([_by_library(question) for question in hard])
    return [next(worked_out) if verdict is None else verdict for verdict in at_sight]


def _at_sight(question: _Question) -> Verdict | None:
    """The verdict that needs no computation, if there is one."""
    if not question.answer:
        return NO_ANSWER
    if len(question.gold) > MAX_GOLD or _depth(question.answer) > MAX_DEPTH:
        equal: bool | None = question.gold == question.answer
    else:
        equal = equal_at_sight(question.gold, question.answer)
    if equal is None:
        return None
    return _right(question) if equal else _wrong(question, None)


@functools.lru_cache(maxsize=_CACHED_ANSWERS)
def _by_library(question: _Question) -> Verdict:
    equal, canonical = math_worker.pool.compare(*for_library(*question))
    return _right(question) if equal else _wrong(question, canonical)


def _right(question: _Question) -> Verdict:
    return Verdict(1.0, shown(question.gold))


def _wrong(question: _Question, canonical: str | None) -> Verdict:
    """A number is shown as its value. A wrong answer must not get the right answer's votes, however it is written."""
    number = quantity(question.answer)
    if canonical is None:
        canonical = question.answer if number is None or number.percent or number.unit else str(number.value)
    return NO_ANSWER if canonical == question.gold else Verdict(0.0, shown(canonical))


_cached_form = functools.lru_cache(maxsize=_CACHED_ANSWERS)(normal_form)


def _depth(answer: str) -> int:
    depth = deepest = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
