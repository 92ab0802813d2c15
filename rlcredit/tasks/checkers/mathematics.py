r"""Mathematical answers, compared by math-verify.

    gold \frac{1}{2}:   \boxed{\frac{1}{2}}   \boxed{\dfrac12}   \boxed{x = 0.5}   The answer is $1/2$.

The answer of a completion is its last `\boxed{}`. Where no box is begun, it is what math-verify extracts from the last
500 characters of the text: the LaTeX or number after "answer is", else the last one. That choice is ours.

Two strings with the same `normal_form` are equal, and two different integers are not. math-verify decides everything
else, in a worker process (see `math_worker`): decimals are compared to six places (0.333333 is 1/3, 0.33 is not), 9%
equals both 0.09 and 9, units and names of variables are dropped (`n = 204` is 204), as are leading zeros (016 is 16).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rlcredit.tasks.checkers import math_worker
from rlcredit.tasks.checkers.answers import boxed, has_box, shown
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict

TAIL = 500  # characters in which an answer without a box is looked for
MAX_GOLD = 4_000  # a longer gold answer is compared as a string alone
MAX_DEPTH = 40  # brackets in brackets; a deeper text is no answer, and could exhaust a parser's stack

_CACHED_ANSWERS = 20_000
_INTEGER = re.compile(r"-?[0-9]+")
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("\u2212", "-"),
        (r"(?<=\d)(?:\{,\}|,\\!|\\[!,])(?=\d{3}(?!\d))", ""),  # 10{,}000 and 10,\!000 and 10\,000
        (r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm)\s*\{([^{}]*)\}", r"\1"),
        (r"(?<!\\)\\(?:[!,;: ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|\u00b0", ""),
        (r"\\%", "%"),
        (r"\s+", " "),
        (r"(?<![A-Za-z0-9.]) | (?![A-Za-z0-9.])", ""),  # a space is kept where it parts words or numbers
        (r"\\frac ?(\d|\{[^{}]*\}) ?(\d|\{[^{}]*\})", r"\\frac{\1}{\2}"),
        (r"\\frac\{\{([^{}]*)\}\}", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\{\{([^{}]*)\}\}", r"\1{\2}"),
        (r"\.$", ""),
    )
]
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL = re.compile(r"(-?)0*(\d*)(?:\.(\d*?)0*)?", re.ASCII)


class _Question(NamedTuple):
    gold: str
    answer: str
    in_box: bool


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
    in_box = has_box(text)
    answer = boxed(text) if in_box else text[-TAIL:].strip()
    return _Question(gold, answer, in_box) if answer else None


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
    if not question.in_box:
        return None
    gold, answer = normal_form(question.gold), normal_form(question.answer)
    if not answer:
        return NO_ANSWER
    if gold == answer:
        return Verdict(1.0, shown(gold))
    integers = _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer)
    hopeless = len(question.gold) > MAX_GOLD or _depth(question.answer) > MAX_DEPTH
    return Verdict(0.0, shown(answer)) if integers or hopeless else None


@functools.lru_cache(maxsize=_CACHED_ANSWERS)
def _by_library(question: _Question) -> Verdict:
    gold = normal_form(question.gold)
    equal, canonical = math_worker.pool.compare(*question)
    if equal:
        return Verdict(1.0, shown(gold))
    if canonical is None:
        canonical = normal_form(question.answer) if question.in_box else None
    # An unequal answer must not get the right answer's votes, however sympy writes it.
    return NO_ANSWER if canonical is None or canonical == gold else Verdict(0.0, shown(canonical))


def normal_form(answer: str) -> str:
    r"""The answer with one spelling for what LaTeX spells in several; different answers keep different forms.

    White space, dollar signs, `\left`, `\text{}`, `\dfrac`, degree signs, a final full stop, the commas of thousands
    in a number (only where each has three digits after it), zeros around a decimal number.
    """
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    return _number(answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer)


def _number(answer: str) -> str:
    """007 and 7.0 and 7 are 7, and .50 is 0.5; other answers stay as they are."""
    match = _DECIMAL.fullmatch(answer)
    if match is None or not any(map(str.isdigit, answer)):
        return answer
    sign, whole, decimals = match[1], match[2] or "0", match[3]
    value = f"{whole}.{decimals}" if decimals else whole
    return value if value == "0" else sign + value


def _depth(answer: str) -> int:
    depth = deepest = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
