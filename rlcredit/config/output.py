"""Folders that a command writes into."""

from __future__ import annotations

from pathlib import Path

from rlcredit.errors import InputError


def make_folder(key: str, folder: Path) -> None:
    """Raises: InputError that names the key, where something else has the name or the place is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key}: {folder} cannot be made ({error.strerror}); write another --{key}") from error
