r"""Multiple choice: a letter, or the text of an option.

    choices ["wet palms", "dry palms"]:   \boxed{B}  \boxed{\textbf{(B)}}  The answer is B.  B) dry palms  dry palms
                                          Option B  Answer: B, not A  \boxed{B. they are dry}

The letter's reading wins: where an option's text is itself a letter, `\boxed{B}` is the second option. A letter beyond
the options can only be a text. After a letter with a bracket, full stop or colon, other words may follow, but none
that name another option ("B) wet palms", "B. or C") or doubt this one ("B) is wrong"): those say two things and are no
answer.
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
_REASON = re.compile(r",?\s(?:because|since|as|which|rather than|instead of)\b|,\s(?:(?:and|but)\s)?not\b")
_CALLED = re.compile(r"(?:the )?(?:correct |right |best )?(?:option|choice|answer|letter)\s(?:is:?\s)?", re.IGNORECASE)
_CALLED_SO = re.compile(r"\b(?:option|choice) is[:*\s]{1,9}([^\n]{1,200})", re.IGNORECASE)
_DOUBT = re.compile(r"\b(?:not|wrong|incorrect|false|untrue|or|nor|neither|maybe)\b|n't\b", re.IGNORECASE)
_LETTER = re.compile(r"\b[A-Z]\b")


def check_choice(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Right if the answer is the row's letter (`answer`) or names that one of its `choices`; a `Checker`.

    The answer is the last box, else the last `<answer>` tag, else what follows the last "answer is" or "answer:" (else
    "option is"), else a completion that is only a letter or an option.
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
    if answer is None and not has_box(text):
        answer = next((called[1] for called in reversed([*_CALLED_SO.finditer(text)])), None)
    if answer is None:
        only = text.strip()
        return [only] if len(only) <= MAX_ANSWER and not has_box(text) else []
    if has_box(text):
        return [answer, _REASON.split(answer)[0]]
    sentence = _SENTENCE_END.split(answer)[0]
    return [answer, sentence, _REASON.split(sentence)[0]]


def _meant(answer: str, choices: Sequence[str]) -> set[str]:
    """The letters that `answer` means among `choices` (as `_bare` gives them): more than one is no answer."""
    answer = _CALLED.sub("", answer, count=1) if _CALLED.match(answer) else answer
    alone = _ONLY_LETTER.fullmatch(answer)
    if alone and LETTERS.index(alone[1].upper()) < len(choices):
        return {alone[1].upper()}
    named = _with_text(answer, choices)
    labelled = _LETTER_AND_TEXT.fullmatch(answer)
    if named or labelled is None:
        return named
    letter, words = labelled[1] or labelled[2] or labelled[3], labelled[4]
    of_text = _with_text(words, choices)
    if of_text or not _explains(answer, letter, words, choices):
        return of_text | {letter} if of_text else set()
    return {letter}


def _explains(answer: str, letter: str, words: str, choices: Sequence[str]) -> bool:
    """Whether the words after a letter are about its option: none of another one's, and no doubt of their own."""
    place = LETTERS.index(letter)
    if place >= len(choices) or answer[:2] in (f"{letter} ", f"{letter},"):
        return False
    own = choices[place].lower()
    others = [choice.lower() for choice in choices if choice.lower() not in own]
    doubts = {doubt.lower() for doubt in _DOUBT.findall(words)} - {doubt.lower() for doubt in _DOUBT.findall(own)}
    named = any(re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", words.lower()) for choice in others if choice)
    return not doubts and not named and not _LETTER.search(re.sub(r"\b(?:A|I)\b(?=\s[a-z])", "", words))


def _with_text(text: str, choices: Sequence[str]) -> set[str]:
    """The letters of the options with this text; case counts only where it parts two options (WW and ww)."""
    text = _bare(text)
    exact = {letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == text}
    folded = {letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.lower() == text.lower()}
    return exact or folded


def _bare(text: str) -> str:
    return plain(text).rstrip(".").strip()
