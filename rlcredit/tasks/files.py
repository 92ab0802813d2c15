"""Rows of a local file or of a data set on the hub, and where each one stands."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet

from rlcredit.errors import InputError

Row = dict[str, Any]
_HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(@(?P<name>[\w.-]+))?(:(?P<split>[\w+.-]+))?")


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub.

    Attributes:
        path: its id.
        split: which split; several are joined by `+`.
        name: its configuration, where it has several.
        rows: how many rows it is promised to have; 0: no promise.
        row: from a row as it stands there to one with `question`, `answer` and, for multiple choice, `choices`.
    """

    path: str
    split: str
    name: str | None = None
    rows: int = 0
    row: Callable[[Row], Row] = dict

    def __str__(self) -> str:
        return f"{self.path}{f'@{self.name}' if self.name else ''}:{self.split}"


def read_file(path: Path) -> list[tuple[str, Row]]:
    """Every row of a .jsonl, .json, .csv or .parquet file with its place, such as `row 7` (counted from 1).

    Texts are in UTF-8; a byte-order mark, which spreadsheets write, is no part of the first column's name.

    Raises: InputError that names the file, the row and what was expected.
    """
    try:
        path = path.expanduser()
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        rows = list(_READERS[path.suffix](path))
    except (OSError, RuntimeError, UnicodeDecodeError, pyarrow.ArrowException, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
    if not rows:
        raise InputError(f"{path}: has no rows")
    return rows


def read_hub(source: HubSet) -> list[tuple[str, Row]]:
    """Every row of a data set on the hub, with its place. Raises: InputError."""
    try:
        rows = datasets.load_dataset(source.path, source.name, split=source.split)
    except Exception as error:  # of many kinds: no network, no such id, no access, a broken file
        raise InputError(
            f"{source}: cannot be loaded ({' '.join(str(error).split())[:160]}); write the id of a data set on the "
            "hub that can be reached from here, or a .jsonl, .json, .csv or .parquet file"
        ) from error
    return [(f"row {number}", dict(row)) for number, row in enumerate(rows, start=1)]


def id_of(row: Row, place: str) -> str:
    """The row's own id, 0 among them; its place where it has none."""
    own = row.get("id")
    return place if own is None or own == "" else str(own)


def is_file_name(source: str) -> bool:
    """Whether the text names a data file rather than a set."""
    return Path(source).suffix in _READERS


def hub_set(source: str, split: str) -> HubSet | None:
    """The set that `owner/name`, `owner/name@configuration` or either with `:split` stands for; None: none of them."""
    match = _HUB_NAME.fullmatch(source)
    return HubSet(match["path"], match["split"] or split, match["name"]) if match else None


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        f"{path}: row {number}: is not JSON ({error}); write one object a line"
                    ) from error
                yield f"row {number}", _mapping(path, number, row)


def _json_list(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); write a list of objects") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds a {type(rows).__name__}; write a list of objects, or one a line in a .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", _mapping(path, number, row)


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{path}: the first line names the column {twice[0]!r} twice; give each one its own name")
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise InputError(f"{path}: row {number}: has more or fewer fields than the first line names")
            yield f"row {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1):
        yield f"row {number}", row


def _mapping(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, Mapping):
        raise InputError(f"{path}: row {number}: is a {type(row).__name__}; write an object such as "
                         '{"question": "...", "answer": "..."}')  # fmt: skip
    return dict(row)


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}
