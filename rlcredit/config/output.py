"""Folders that a command writes into."""

from __future__ import annotations

from pathlib import Path

from rlcredit.errors import InputError


def check_folder(key: str, folder: Path) -> None:
    """Nothing is made yet: bad input leaves nothing behind. Raises: InputError where a file is in the way."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"{key}: {folder} cannot be made ({place} is a file); write another --{key}")
