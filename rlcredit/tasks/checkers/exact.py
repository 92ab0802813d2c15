"""Short answers in words, such as the name that a puzzle asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlcredit.tasks.checkers.answers import final_answer, has_box, plain, shown, tagged
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict

_AROUND = " \t\n.,;:!?\"'`()[]{}*_"  # no minus sign: -5 is not 5
_SENTENCE_END = re.compile(r"\.\s")


def check_exact(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    r"""Right if the answer and the row's `answer` are the same words; a `Checker`.

    The answer is the last box, else the last `<answer>` tag, else the sentence after the last "answer is". Case, runs
    of spaces, punctuation around the answer and `\\text{}` do not count; punctuation inside does (1.5 is not 15).
    """
    return [_check(text, str(row["answer"])) for text, row in zip(texts, rows, strict=True)]


def _check(text: str, gold: str) -> Verdict:
    answer = final_answer(text)
    if answer is None:
        return NO_ANSWER
    if not has_box(text) and tagged(text) is None:
        answer = _SENTENCE_END.split(answer)[0]
    words = _comparable(answer)
    return Verdict(float(words == _comparable(gold)), shown(words)) if words else NO_ANSWER


def _comparable(text: str) -> str:
    return plain(text).casefold().strip(_AROUND)
