"""Ranges of numbers in settings, said once for each dataclass and checked in one way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

Range = tuple[str, Callable[[Any], bool], str]
"""A field, whether a number lies in its range, and what to write instead of one that does not."""


def at_least(low: int, *names: str) -> list[Range]:
    """The ranges of fields that have this lower bound and no upper one."""
    return [(name, lambda number: number >= low, f"{low} or more") for name in names]


def check_ranges(settings: Any, ranges: Iterable[Range]) -> None:
    """Refuse what is no number, or out of its range; None passes where it is the default of the field.

    Args:
        settings: an instance of a dataclass.

    Raises: ValueError of one line.
    """
    defaults = {item.name: item.default for item in fields(settings)}
    for name, holds, expected in ranges:
        value = getattr(settings, name)
        if value is None and defaults[name] is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if not is_number or not holds(value):
            raise ValueError(f"{name}: {value!r} is out of range; write {expected}")
