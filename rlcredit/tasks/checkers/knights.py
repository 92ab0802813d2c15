r"""Knights and knaves: who is which.

    gold "(1) Michael is a knight\n(2) Zoey is a knave":   \boxed{\text{Zoey is a knave, Michael is a knight}}

An answer is a list of statements "X is a knight" or "X is a knave" and nothing else but numbers, bullets, separators
and "and": "Zoey is a knave or Michael is a knight" assigns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlcredit.tasks.checkers.answers import MAX_ANSWER, boxed, has_box, plain, shown, tagged
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict

Statement = tuple[str, str]  # the name in small letters, "knight" or "knave"

_STATEMENT = re.compile(r"\b([^\W\d_][\w'-]{0,39}) is a (knight|knave)\b", re.IGNORECASE)
_FILLING = re.compile(r"\(?\b\d{1,2}\b[).:]?|\band\b|[-\s,;.:&*•|]", re.IGNORECASE)
_LINE_BREAK = re.compile(r"\\\\|\\newline\b")
_LEAD = re.compile(
    r"\W{0,9}(?:so|thus|therefore|hence|(?:the )?(?:final )?(?:answer|conclusion|solution)(?: is)?)\b[\s*]{0,9}[:,]?",
    re.IGNORECASE,
)
_TAIL = 5_000  # characters in which a conclusion without box or tag is looked for


def check_knights(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Right if everybody in the row's `answer`, and nobody else, is named once and as in it; a `Checker`.

    The answer is the last box, else the last `<answer>` tag, else the last block of lines that are only statements
    ("So: Zoey is a knave." counts as one). A person who is given both kinds, or is named twice, spoils the answer.
    """
    return [_check(text, str(row["answer"])) for text, row in zip(texts, rows, strict=True)]


def _check(text: str, gold: str) -> Verdict:
    answered = _answer(text)
    assigned = dict(answered)
    if not answered or len(assigned) < len(answered):
        return NO_ANSWER
    answer = ", ".join(f"{name} is a {kind}" for name, kind in sorted(assigned.items()))
    return Verdict(float(assigned == dict(statements(gold))), shown(answer))


def _answer(text: str) -> list[Statement]:
    if has_box(text):
        return statements(boxed(text) or "")
    answer = tagged(text)
    return _conclusion(text) if answer is None else statements(answer)


def statements(answer: str) -> list[Statement]:
    """The statements of an answer in their order, names in small letters; none if it says anything besides."""
    if len(answer) > MAX_ANSWER:
        return []
    answer = plain(_LINE_BREAK.sub("\n", answer))
    rest = _FILLING.sub("", _STATEMENT.sub("", answer))
    return [] if rest else [(name.lower(), kind.lower()) for name, kind in _STATEMENT.findall(answer)]


def _conclusion(text: str) -> list[Statement]:
    """Read from the end: the first lines that are statements, up to a line that is none or names somebody again."""
    conclusion: list[Statement] = []
    for line in reversed(text[-_TAIL:].splitlines()):
        if not line.strip():
            continue
        said = statements(_LEAD.sub("", line, count=1) if _LEAD.match(line) else line)
        repeats = {name for name, _ in said} & {name for name, _ in conclusion}
        if conclusion and (not said or repeats):
            break
        conclusion = said + conclusion
    return conclusion
