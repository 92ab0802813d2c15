"""How messages show a user's words: short, printable and on one line."""

from __future__ import annotations

from typing import Any


def shown(value: Any) -> str:
    """A user's value, short and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(text: str) -> str:
    """A user's word without quotes around it, short and printable."""
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def one_line(error: object) -> str:
    # A KeyError's own text is the bare key.
    text = f"unknown {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split()) or type(error).__name__
