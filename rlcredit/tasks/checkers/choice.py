r"""Multiple choice: a letter, or the text of an option.

    choices ["wet palms", "dry palms"]:   \boxed{B}  \boxed{\textbf{(B)}}  The answer is B.  B) dry palms  dry palms

The letter's reading wins: where an option's text is itself a letter, `\boxed{B}` is the second option. A letter beyond
the options can only be a text. A letter with the text of another option after it ("B) wet palms") says two things and
is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlcredit.tasks.checkers.answers import MAX_ANSWER, final_answer, has_box, plain
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ONLY_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:,;]?")
_LETTER_AND_TEXT = re.compile(r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])(?=[).:,\s]))(?:[).:,\s]|-\s)*(.+)", re.DOTALL)
_SENTENCE_END = re.compile(r"\.\s")
_REASON = re.compile(r",?\s(?:because|since|as)\b")


def check_choice(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Right if the answer is the row's letter (`answer`) or names that one of its `choices`; a `Checker`.

    The answer is the last box, else the last `<answer>` tag, else what follows the last "answer is" or "answer:", else
    a completion that is only a letter or an option.
    """
    return [_check(text, row) for text, row in zip(texts, rows, strict=True)]


def _check(text: str, row: Mapping[str, Any]) -> Verdict:
    choices = [_bare(str(choice)) for choice in row["choices"]]
    for reading in _readings(text):
        meant = _meant(plain(reading), choices)
        if meant:
            return Verdict(float(meant == {row["answer"]}), *meant) if len(meant) == 1 else NO_ANSWER
    return NO_ANSWER


def _readings(text: str) -> list[str]:
    """The answer; of a sentence also its part up to the full stop, and up to a reason ("B, because ...")."""
    answer = final_answer(text)
    if answer is None:
        only = text.strip()
        return [only] if len(only) <= MAX_ANSWER and not has_box(text) else []
    if has_box(text):
        return [answer]
    sentence = _SENTENCE_END.split(answer)[0]
    return [answer, sentence, _REASON.split(sentence)[0]]


def _meant(answer: str, choices: Sequence[str]) -> set[str]:
    """The letters that `answer` means among `choices` (as `_bare` gives them): more than one is no answer."""
    alone = _ONLY_LETTER.fullmatch(answer)
    if alone and LETTERS.index(alone[1].upper()) < len(choices):
        return {alone[1].upper()}
    named = _with_text(answer, choices)
    labelled = _LETTER_AND_TEXT.fullmatch(answer)
    if named or labelled is None:
        return named
    of_text = _with_text(labelled[4], choices)
    return of_text | {labelled[1] or labelled[2] or labelled[3]} if of_text else set()


def _with_text(text: str, choices: Sequence[str]) -> set[str]:
    """The letters of the options with this text; case counts only where it parts two options (WW and ww)."""
    text = _bare(text)
    exact = {letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == text}
    folded = {letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.lower() == text.lower()}
    return exact or folded


def _bare(text: str) -> str:
    return plain(text).rstrip(".").strip()
