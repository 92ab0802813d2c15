r"""Which normal forms are equal, and which are not, without computing anything.

Lists, sets, tuples and intervals are compared item by item, numbers as `quantity` reads them, words letter by letter.
A form that is not understood (prose, numbers side by side) equals only itself. What is left is mathematics, which the
library decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlcredit.tasks.checkers.quantity import quantity, same_quantity, split_name, split_unit

MAX_ITEMS = 60  # a longer list is equal only to itself

_OPEN, _CLOSED = "([{", ")]}"
_BELONGS = re.compile(r"[A-Za-z]\\in ?")
_SEPARATOR = re.compile(r",?(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])|;")
_ONLY_LETTERS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_OPTION = re.compile(r"\(([A-Za-z])\)")
_BASE = re.compile(r"(-?[0-9A-Z]+)_(?:\{([0-9]+)\}|([0-9]+))")
_SIDE_BY_SIDE = re.compile(r"[0-9] [0-9.]|[0-9]\.[0-9]+\.|\.\.")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?!(?:sqrt|sinh|cosh|tanh)(?![a-z]))[A-Za-z]*[a-z]{3}[A-Za-z]*(?<=[A-Za-z]{4})")
_NOT_PROSE = re.compile(r"\\(?:begin|end|operatorname)\*?\{[A-Za-z]*\*?\}|\\[A-Za-z]+")
_SHORT_WORDS = frozenset({"yes", "no", "on", "odd", "all", "any", "may", "red", "up", "off", "in", "out"})
_DROPPED = re.compile(r"\\(?:equiv|approx|sim|n?cong|[bp]?mod|ne|neq|not|forall|exists)(?![A-Za-z])")
_RELATION = re.compile(r"[<>]|\\(?:lt|gt|le|ge|ne|neq|cup|cap|setminus|begin|in|mid|ldots|dots|mathbb)(?![A-Za-z])")


def equal_at_sight(gold: str, answer: str) -> bool | None:
    """Whether two normal forms are equal; None where it takes mathematics to say."""
    if gold.lower() in ("nan", ""):
        return False
    if gold == answer:
        return True
    verdict = _same(gold, answer)
    if verdict is None and not (is_understood(gold) and is_understood(answer) and _comparable(gold, answer)):
        return False
    return verdict


def for_library(gold: str, answer: str) -> tuple[str, str]:
    """The two forms as math-verify reads them: without units, per cent signs escaped, a list beside a tuple as one."""
    forms = [split_unit(form)[0].replace("%", r"\%") for form in (gold, answer)]
    kinds = [_items(form)[0] for form in forms]
    if sorted(kinds) == ["()", "list"]:
        forms = [f"({form})" if kind == "list" else form for form, kind in zip(forms, kinds, strict=True)]
    return forms[0], forms[1]


def _same(gold: str, answer: str) -> bool | None:
    if gold == answer:
        return True
    (gold_kind, golds), (kind, answers) = _items(gold), _items(answer)
    if len(golds) == len(answers) == 1:
        return _same_item(golds[0], answers[0])
    if 1 in (len(golds), len(answers)):
        single = golds[0] if len(golds) == 1 else answers[0]
        return None if _RELATION.search(single) else False
    if max(len(golds), len(answers)) > MAX_ITEMS or len(golds) != len(answers):
        return False
    kinds = {gold_kind, kind}
    if kinds <= {"list", "{}"}:
        return _same_in_any_order(golds, answers)
    return _same_in_order(golds, answers) if len(kinds) == 1 or kinds == {"list", "()"} else False


def _same_in_order(golds: Sequence[str], answers: Sequence[str]) -> bool | None:
    verdicts = [_same(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _same_in_any_order(golds: Sequence[str], answers: Sequence[str]) -> bool | None:
    """Each gold item takes the first equal answer that is left; one that equals none of them decides."""
    left, doubt = list(answers), False
    for gold in golds:
        verdicts = [_same(gold, answer) for answer in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            doubt = True
        elif doubt is False:
            return False
        else:
            return None
    return None if doubt else True


def _same_item(gold: str, answer: str) -> bool | None:
    if gold == answer:
        return True
    if _BASE.fullmatch(gold) or _BASE.fullmatch(answer):
        return _same_digits(gold, answer)
    if ":" in gold or ":" in answer:
        return re.sub(r"[. ]", "", gold.lower()) == re.sub(r"[. ]", "", answer.lower())
    numbers = quantity(gold), quantity(answer)
    if numbers[0] and numbers[1]:
        return same_quantity(numbers[0], numbers[1])
    if _is_word(gold) or _is_word(answer):
        return _same_word(gold, answer)
    return None


def _same_digits(gold: str, answer: str) -> bool:
    """101_2 and 101_3 differ. An answer without a base is in the gold answer's; a gold answer without one in ten."""
    in_base, answered = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    digits, base = (in_base[1], in_base[2] or in_base[3]) if in_base else (gold, "10")
    other, other_base = (answered[1], answered[2] or answered[3]) if answered else (answer, base)
    return digits == other and base == other_base


def _is_word(form: str) -> bool:
    """Letters that are no product of variables: ABC, Evelyn, even, a single letter; not xy."""
    if _ONLY_LETTERS.fullmatch(form) is None:
        return False
    return len(form) == 1 or len(form) > 3 or not form.islower() or form in _SHORT_WORDS


def _same_word(gold: str, answer: str) -> bool | None:
    if len(gold) == 1 and _ONLY_LETTERS.fullmatch(answer) is None:
        return None  # a variable
    if min(len(gold), len(answer)) == 1 or gold.isupper() or (answer.isupper() and len(gold) < 4):
        return gold == answer
    return gold.casefold() == answer.casefold()


def is_understood(form: str) -> bool:
    """Whether math-verify can read the form: no prose, no relation that it drops, no numbers side by side."""
    form = ",".join(split_unit(item)[0] for item in _items(form)[1])
    return (
        not _SIDE_BY_SIDE.search(form) and not _DROPPED.search(form) and not _PROSE.search(_NOT_PROSE.sub(" ", form))
    )


def _comparable(gold: str, answer: str) -> bool:
    """Whether math-verify drops nothing that parts the two: the case of a letter, the left side of an equation."""
    golds, answers = (set(_NOT_PROSE.sub(" ", form)) for form in (gold, answer))
    folded = any(
        letter.isalpha() and letter not in golds and letter.swapcase() in golds and letter.swapcase() not in answers
        for letter in answers
    )
    left, equals, right = answer.rpartition("=")
    if quantity(left) and quantity(right):
        return False  # two numbers that are not the same
    if folded or not equals or "=" in gold or split_name(answer)[0]:
        return not folded
    left = _NOT_PROSE.sub(" ", left)
    return not re.search(r"[A-Za-z].*[-+*/]|[-+*/].*[A-Za-z]", left)


def _items(form: str) -> tuple[str, list[str]]:
    r"""The kind of a form (its brackets; "list" without any; "item" for a single thing) and its items.

    `1\pm2` is two items, 1+2 and 1-2. Items that stand twice in a set stand there once.
    """
    form = _BELONGS.sub("", form, count=1) if _BELONGS.match(form) else form
    body, kind = form, "list"
    if form.startswith(r"\{") and form.endswith(r"\}") and _closes_at_end(form[1:-2] + "}"):
        body, kind = form[2:-2], "{}"
    elif form[:1] in ("(", "[") and form[-1:] in (")", "]") and _closes_at_end(form):
        body, kind = form[1:-1], form[0] + form[-1]
    items = [signed for item in _split(_SEPARATOR.sub(",", body)) for signed in _signs(item)]
    if kind == "{}":
        return kind, list(dict.fromkeys(items))
    if len(items) > 1:
        return kind, items
    option = _OPTION.fullmatch(form)
    return "item", [option[1] if option else form if kind == "list" or kind == "[]" else body]


def _signs(item: str) -> list[str]:
    if item.count(r"\pm") != 1 or "," in item:
        return [item]
    return [item.replace(r"\pm", sign).replace("+ ", "+").replace("- ", "-").removeprefix("+") for sign in "+-"]


def _closes_at_end(form: str) -> bool:
    """Whether the bracket at the start is closed by the last character."""
    depth = 0
    for position, character in enumerate(form):
        depth += (character in _OPEN) - (character in _CLOSED)
        if depth == 0:
            return position == len(form) - 1
    return False


def _split(body: str) -> list[str]:
    """The items between the commas that stand in no bracket."""
    items, depth, start = [], 0, 0
    for position, character in enumerate(body):
        depth += (character in _OPEN) - (character in _CLOSED)
        if character == "," and depth == 0:
            items.append(body[start:position].strip())
            start = position + 1
    return [*items, body[start:].strip()]
