"""A map of attention in a byte an entry: what a page can hold of many.

    value = most * (byte / levels)^2        entry by entry, row by row, of the lower triangle

The square root gives small values their share of the levels. With 255 of them a value is off by at most 0.4 % of the
largest one, with 63 by 1.6 %; where it is a hundredth of the largest, by a tenth of that.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import TypedDict

MEAN, HEAD = 255, 63  # levels; fewer pack smaller


class PackedMap(TypedDict):
    """A map [T, T] of which only the lower triangle counts."""

    most: float
    levels: int
    values: str  # base64 of T (T + 1) / 2 bytes


def pack(rows: ArrayLike, levels: int) -> PackedMap:
    """The lower triangle of a map [T, T] of values from 0 on."""
    values = np.asarray(rows, dtype=np.float64)
    kept = np.clip(values[np.tril_indices(len(values))], 0, None)
    most = float(kept.max(initial=0))
    shares = np.sqrt(kept / most) if most else kept
    data = np.round(levels * shares).astype(np.uint8).tobytes()
    return {"most": most, "levels": levels, "values": base64.b64encode(data).decode()}


def unpack(packed: PackedMap) -> np.ndarray:
    """The map [T, T], 0 above the diagonal."""
    data = np.frombuffer(base64.b64decode(packed["values"]), dtype=np.uint8)
    rows = np.zeros((size := tokens_of(packed), size))
    rows[np.tril_indices(size)] = packed["most"] * (data / packed["levels"]) ** 2
    return rows


def tokens_of(packed: PackedMap) -> int:
    """T; -1 where the bytes are not a triangle."""
    try:
        count = len(base64.b64decode(packed["values"], validate=True))
    except ValueError:
        return -1
    size = int(np.sqrt(2 * count))
    return size if triangle(size) == count else -1


def triangle(size: int) -> int:
    """Entries, and bytes, of a map of so many tokens."""
    return size * (size + 1) // 2
