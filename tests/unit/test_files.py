"""Files that are whole or not there."""

from __future__ import annotations

import os

import pytest

from rlcredit.files import remove_whole, write_whole


def test_a_reader_keeps_the_file_that_it_has_opened(tmp_path):
    path = tmp_path / "folder" / "log"
    write_whole(path, "before ü\n")
    with path.open(encoding="utf-8") as reader:
        write_whole(path, b"after\n")
        assert reader.read() == "before ü\n"
    assert path.read_bytes() == b"after\n"
    assert os.listdir(path.parent) == ["log"]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "log"
    write_whole(path, "before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["log"]


def test_a_folder_goes_whole(tmp_path):
    folder = tmp_path / "run"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / ".run.deleted").mkdir()  # what a kill has left
    (tmp_path / ".run.deleted" / "half").touch()
    remove_whole(folder)
    remove_whole(folder)  # nothing there
    assert os.listdir(tmp_path) == []
