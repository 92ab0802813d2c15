"""A recipe's `task_options` as a checked dataclass."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from rlcredit.errors import InputError

Options = TypeVar("Options")
_KINDS = {str: "a text", int: "a number", float: "a number", bool: "true or false", dict: "a mapping", list: "a list"}


def options_from(kind: type[Options], given: Mapping[str, object], task: str) -> Options:
    """The dataclass `kind` made from a recipe's mapping.

    Raises: InputError for unknown keys, all at once, or an impossible value; names the key, the value and what to
        write instead.
    """
    refuse_unknown_options(kind, given, task)
    return kind(**dict[str, Any](given))


def refuse_unknown_options(kind: type, given: Mapping[str, object], task: str) -> None:
    """Raise an InputError that lists every key that is no field of the dataclass."""
    known = [item.name for item in fields(kind)]
    unknown = []
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean task_options.{near[0]}?" if near else f"write one of {', '.join(known)}"
            unknown.append(
                f"task_options.{key}: {value!r:.80} was given, but the task {task} has no such option; {hint}"
            )
    if unknown:
        raise InputError("; ".join(unknown))


def require(name: str, value: object, holds: Callable[[object], bool], instead: str) -> None:
    """Raise an InputError unless the value can be used."""
    if not holds(value):
        raise InputError(f"task_options.{name}: {value!r:.80} is not possible; write {instead}")


def is_integer_in(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number_from_0(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def require_integers(settings: object, low: int, high: int, *names: str) -> None:
    """Raise an InputError unless each of these attributes is an integer from `low` to `high`."""
    for name in names:
        require(name, getattr(settings, name), is_integer_in(low, high), f"an integer from {low} to {high}")


def is_list_of_integers_in(low: int, high: int) -> Callable[[object], bool]:
    fits = is_integer_in(low, high)
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(fits, value))


def kind_of(value: object) -> str:
    """What a value from a file is, in words."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
