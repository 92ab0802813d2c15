"""What a command shows while it works: a bar in a terminal, plain lines now and then where output goes elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 10.0  # seconds between two lines
LIBRARIES = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def in_terminal() -> bool:
    """Whether both stdout and stderr are a terminal; bars are for one that shows both."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def without_bars_elsewhere() -> None:
    """Keep the bars of libraries, which are made of carriage returns, out of files and pipes; before they load."""
    if not in_terminal():
        for name in LIBRARIES:
            os.environ.setdefault(name, "1")


def progress(items: Sequence[Item], what: str, units: str, *, done: int = 0, show: bool = True) -> Iterator[Item]:
    """The items, one after another, with how far they are on stderr.

    Args:
        items: what is to be done.
        what: the work, in a word.
        units: the items, in a word.
        done: how many were done before.
        show: False: nothing is shown, as by processes other than the first.
    """
    total = done + len(items)
    if in_terminal():
        from tqdm import tqdm  # which reads the environment as it is loaded

        shown = {"desc": what, "unit": f" {units}", "initial": done, "total": total, "dynamic_ncols": True}
        yield from tqdm(items, disable=not show, **shown)
        return
    last = time.monotonic()
    for number, item in enumerate(items, start=done):
        if show and time.monotonic() - last >= EVERY:
            print(f"{what}: {number} of {total} {units}", file=sys.stderr, flush=True)
            last = time.monotonic()
        yield item
