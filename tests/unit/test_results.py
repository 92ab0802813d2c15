"""What the repository keeps of its grids: results that come from the cells beside them, and docs that quote them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlcredit.benchmark.grid import Variant
from rlcredit.benchmark.results import document, estimate_in
from rlcredit.cli import main
from rlcredit.runs.folder import Run, read_run
from rlcredit.runs.groups import grouped, standings
from tests.command import ROOT

RESULTS = sorted((ROOT / "benchmarks").glob("*/results*.json"))


def test_there_are_grids_of_two_tasks():
    assert {path.parent.name for path in RESULTS} >= {"countdown_tiny", "paths_tiny"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_results_come_from_the_cells(path, tmp_path, monkeypatch):
    shutil.copytree(path.parent / "cells", tmp_path / "cells")
    words = shlex.split(json.loads(path.read_text())["command"])[1:]
    monkeypatch.chdir(ROOT)
    assert main([*words, "--output", str(tmp_path), "--report_only", "true"]) == 0
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    made = (tmp_path / path.name).with_suffix(".md").read_text().split("\n", 1)[1]  # its title names the folder
    assert made == path.with_suffix(".md").read_text().split("\n", 1)[1]


def folder_of(cell: dict, folder: Path) -> Run:
    """The run that a stored cell was collected from, as far as its evaluations go."""
    folder.mkdir()
    shares = {
        int(step): {name: [int(digit) / cell["samples"] for digit in by_step[step]] for name, by_step in
                    cell["held_out"].items()}
        for step in cell["held_out"]["paths"]
    }  # fmt: skip
    logged = [
        {"step": step} | {f"eval/{name}/pass@1": float(np.mean(values)) for name, values in by_set.items()}
        for step, by_set in sorted(shares.items())
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    (folder / "accuracy.json").write_text(json.dumps({"before": shares[0], "after": shares[cell["steps"]]}))
    facts = {"credit_strategy": cell["settings"]["credit_strategy"], "seed": cell["seed"], "task": "paths"}
    (folder / "run.json").write_text(json.dumps(facts | {"eval_samples": cell["samples"]}))
    return read_run(folder)


@pytest.mark.parametrize("seeds", [range(5), range(3)], ids=str)
def test_benchmark_and_report_give_one_answer(tmp_path, seeds):
    """Of the same runs: the same difference to uniform, accuracy, and best on validation, each with its interval."""
    cells = {
        name: {seed: json.loads((ROOT / f"benchmarks/paths_tiny/cells/{name}-seed{seed}.json").read_text())
               for seed in seeds}
        for name in ("uniform", "global_anchor", "local_chunk")
    }  # fmt: skip
    variants = [Variant(name, {}) for name in cells]
    results = document(variants, list(seeds), cells, "")
    runs = [folder_of(cell, tmp_path / f"{name}-{seed}") for name, by_seed in cells.items()
            for seed, cell in by_seed.items()]  # fmt: skip
    groups = grouped(runs)
    assert [group.label for group in groups] == list(cells)
    for name, final, chosen in (("paths", "final", "best"), ("paths_t1", "final_t", None)):
        of_report = {standing.group: standing for standing in standings(groups, name)}
        for variant in cells:
            measures = results["variants"][variant]["measures"]
            assert of_report[variant].final == pytest.approx(estimate_in(measures[final]), abs=1e-7)
            if chosen is None:  # the second temperature has no validation set
                assert of_report[variant].best is None
            else:
                assert of_report[variant].best == pytest.approx(estimate_in(measures[chosen]), abs=1e-7)
        pairs = [pair for pair in results["paired"] if pair["measure"] == final]
        assert len(pairs) == 2
        for pair in pairs:
            assert of_report[pair["variant"]].difference == pytest.approx(estimate_in(pair), abs=1e-7)
    if len(seeds) == 5:
        assert f"{of_report['global_anchor'].difference:+.3f}" == "+0.017 [+0.002, +0.032]"


def test_the_docs_quote_them():
    """Every row of the tables in the benchmark's part of docs/results.md stands in some results.md."""
    part = (ROOT / "docs/results.md").read_text().split("## Does credit help?", 1)[1]
    rows = re.findall(r"^\| `.*\|$", part, re.MULTILINE)
    known = "".join(path.with_suffix(".md").read_text() for path in RESULTS)
    assert len(rows) > 20 and [row for row in rows if row not in known] == []
