"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file (a text in UTF-8) beside its place, then rename it: a reader, or a kill, never meets half of it."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Delete a folder that may not be there; a kill never leaves half of it in its place."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)
