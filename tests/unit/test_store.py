"""Folders of what is drawn: nothing of other settings is ever taken for what was asked, and overwriting removes it."""

from __future__ import annotations

import json
from typing import NamedTuple

import pyarrow as pa
import pytest
from accelerate import PartialState

from rlcredit.errors import InputError
from rlcredit.evaluation.store import PARTS, SETTINGS_FILE, Store, open_folder

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])
FILES = ("metrics.json", "samples.parquet")


class Batch(NamedTuple):
    number: int


WANTED = [Batch(0), Batch(1)]


def opened(folder, settings, overwrite=False) -> Store:
    folder.mkdir(exist_ok=True)
    open_folder(folder, settings, "an evaluation", FILES, PartialState(cpu=True), overwrite=overwrite)
    return Store(folder, "samples.parquet", SCHEMA, ["number"])


def drawn(folder, settings, text, closed=True) -> Store:
    store = opened(folder, settings)
    for batch in store.missing(WANTED)[: None if closed else 1]:
        store.keep(batch, [{"number": batch.number, "text": text}])
    if closed:
        store.close(WANTED)
    return store


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("settings_file", ["gone", "damaged"])
def test_data_without_settings_are_refused_and_overwritten(tmp_path, closed, settings_file):
    folder = tmp_path / "out"
    drawn(folder, {"temperature": 0.0}, "old", closed)
    (folder / SETTINGS_FILE).unlink() if settings_file == "gone" else (folder / SETTINGS_FILE).write_text("{")
    said = {"gone": "holds an evaluation without settings.json", "damaged": "settings.json is not JSON"}[settings_file]
    with pytest.raises(InputError, match=f"{said}.*--overwrite true"):
        opened(folder, {"temperature": 1.0})
    assert opened(folder, {"temperature": 1.0}, overwrite=True).missing(WANTED) == WANTED
    assert json.loads((folder / SETTINGS_FILE).read_text()) == {"temperature": 1.0}


def test_a_batch_that_a_killed_process_left_half_written_is_drawn_again_and_removed(tmp_path):
    folder = tmp_path / "out"
    drawn(folder, {"temperature": 0.0}, "old", closed=False)
    (folder / PARTS / "00001.4711.tmp").write_bytes(b"PAR1")
    store = drawn(folder, {"temperature": 0.0}, "new")
    assert [record["text"] for record in store.records()] == ["old", "new"]
    assert not (folder / PARTS).exists()


def test_overwriting_leaves_what_is_not_of_a_command(tmp_path):
    folder = tmp_path / "out"
    drawn(folder, {"temperature": 0.0}, "old", closed=False)
    for name in ("notes.txt", f"{PARTS}/mine.csv"):
        (folder / name).write_text("mine")
    opened(folder, {"temperature": 1.0}, overwrite=True)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"notes.txt", f"{PARTS}/mine.csv", SETTINGS_FILE}
