"""What the repository keeps of its grids: results that come from the cells beside them, and docs that quote them."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest

from rlcredit.cli import main
from tests.command import ROOT

RESULTS = sorted((ROOT / "benchmarks").glob("*/results*.json"))
ONE, *OTHERS = RESULTS


def test_there_are_grids_of_two_tasks():
    assert {path.parent.name for path in RESULTS} >= {"countdown_tiny", "paths_tiny"}


@pytest.mark.parametrize(
    "path",
    [ONE, *(pytest.param(path, marks=pytest.mark.thorough) for path in OTHERS)],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_results_come_from_the_cells(path, tmp_path, monkeypatch):
    shutil.copytree(path.parent / "cells", tmp_path / "cells")
    words = shlex.split(json.loads(path.read_text())["command"])[1:]
    monkeypatch.chdir(ROOT)
    assert main([*words, "--output", str(tmp_path), "--report_only", "true"]) == 0
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    made = (tmp_path / path.name).with_suffix(".md").read_text().split("\n", 1)[1]  # its title names the folder
    assert made == path.with_suffix(".md").read_text().split("\n", 1)[1]


def test_the_docs_quote_them():
    """Every row of the tables in the benchmark's part of docs/results.md stands in some results.md."""
    part = (ROOT / "docs/results.md").read_text().split("## Does credit help?", 1)[1]
    rows = re.findall(r"^\| `.*\|$", part, re.MULTILINE)
    known = "".join(path.with_suffix(".md").read_text() for path in RESULTS)
    assert len(rows) > 20 and [row for row in rows if row not in known] == []
