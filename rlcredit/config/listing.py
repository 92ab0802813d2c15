"""The keys of a command, for --help."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any


def list_keys(items: Iterable[dataclasses.Field[Any]]) -> str:
    """Each key with its default, and its help below."""
    return "".join(f"  {item.name} ({_default(item)})\n      {item.metadata['help']}\n" for item in items)


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return "needed" if item.default is dataclasses.MISSING else item.default
