"""What a command draws a batch at a time, in a folder: a file a batch while it runs, one file at the end.

A batch is stored as a whole or not at all, so a run that was killed goes on where it was, and several processes may
share one folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState

from rlcredit.config.output import check_folder
from rlcredit.errors import InputError
from rlcredit.evaluation.identity import Identity, differences, in_words
from rlcredit.files import write_whole

SETTINGS_FILE, PARTS = "settings.json", "parts"
Record = dict[str, Any]


class Numbered(Protocol):
    """What is drawn and stored at once."""

    @property
    def number(self) -> int: ...


class Store:
    """The records of one run of a command.

    Args:
        folder: of its output.
        name: of the file at the end.
        schema: of a record.
        order: the columns that the records of that file are sorted by.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, order: Sequence[str]) -> None:
        self._parts, self._whole = folder / PARTS, folder / name
        self._schema, self._order = schema, order

    @property
    def is_complete(self) -> bool:
        return self._whole.is_file()

    def missing(self, wanted: Sequence[Numbered]) -> list[Any]:
        """The batches that are not stored yet."""
        return [] if self.is_complete else [batch for batch in wanted if not self._part(batch).is_file()]

    def keep(self, batch: Numbered, records: Sequence[Record]) -> None:
        """Store a batch: all of it, or nothing if the process dies on the way."""
        self._parts.mkdir(parents=True, exist_ok=True)
        self._write(self._part(batch), records)

    def close(self, wanted: Sequence[Numbered]) -> None:
        """Join the stored batches into one file."""
        if not self.is_complete:
            records = [record for batch in wanted for record in read_table(self._part(batch), self._schema)]
            self._write(self._whole, sorted(records, key=lambda record: [record[name] for name in self._order]))
        _remove_parts(self._parts)

    def records(self) -> list[Record]:
        return read_table(self._whole, self._schema)

    def _part(self, batch: Numbered) -> Path:
        return self._parts / f"{batch.number:05d}.parquet"

    def _write(self, path: Path, records: Sequence[Record]) -> None:
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(pa.Table.from_pylist(list(records), schema=self._schema), unfinished)
        os.replace(unfinished, path)


def read_table(path: Path, schema: pa.Schema) -> list[Record]:
    """The records of a parquet file. Raises: InputError."""
    try:
        return pq.read_table(path, schema=schema).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not a table of {path.stem} ({reason:.120}); write --overwrite true") from error


def open_folder(
    folder: Path, settings: Identity, what: str, files: Sequence[str], state: PartialState, *, overwrite: bool
) -> None:
    """Make an output folder ready: a new one, or one of the same settings.

    Args:
        settings: all that decides the figures; kept as settings.json.
        what: the folder holds, for the message.
        files: what `overwrite` deletes, beside the settings and the parts.
        state: of the processes that share the folder.

    Raises: InputError if it holds another one, or one of settings that nobody knows.
    """
    check_folder("output", folder)
    file = folder / SETTINGS_FILE
    if state.is_main_process and overwrite:
        _clear(folder, files)
    state.wait_for_everyone()
    try:
        earlier = json.loads(file.read_text()) if file.is_file() else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"output: {file} is not JSON; write another --output, or --overwrite true") from error
    stored = [*(folder / PARTS).glob("*.parquet"), *(folder / name for name in files if name.endswith(".parquet"))]
    orphaned = not file.is_file() and any(path.is_file() for path in stored)
    state.wait_for_everyone()
    if orphaned:
        raise InputError(
            f"output: {folder} holds {what} without {SETTINGS_FILE}, which says how it was made; write another "
            "--output, or --overwrite true"
        )
    if earlier is not None and earlier != settings:
        earlier = earlier if isinstance(earlier, dict) else {}
        said = in_words(differences(earlier, settings))
        raise InputError(f"output: {folder} holds {what} with {said}; write another --output, or --overwrite true")
    if state.is_main_process:
        write_whole(file, json.dumps(settings, indent=2) + "\n")


def _clear(folder: Path, files: Sequence[str]) -> None:
    """Delete an earlier run; its settings last, so that a process that dies here leaves no data without them."""
    _remove_parts(folder / PARTS)
    for name in (*files, SETTINGS_FILE):
        (folder / name).unlink(missing_ok=True)


def _remove_parts(folder: Path) -> None:
    """Delete the stored batches, and what a killed process has left of one."""
    for pattern in ("*.parquet", "*.tmp"):
        for part in folder.glob(pattern):
            part.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
