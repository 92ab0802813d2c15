"""What the repository keeps of its measurements of fidelity, and the docs that quote them."""

from __future__ import annotations

import json
import re

import draw_prediction as prediction
import pytest

from rlcredit.stats.estimates import estimate_in
from tests.command import ROOT

STORED = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks/fidelity").glob("*.json"))}
TASKS = ("countdown_tiny", "paths_tiny", "relay_tiny", "relay_silent", "relay_8", "relay_64", "smollm2_sums")


def lift(task: str, strategy: str, heads: str = "grouped") -> str:
    entry = STORED[f"{task}-{heads}"]["strategies"][strategy]["lift"]
    return f"{entry['value']:.2f}" if strategy == "oracle" else f"{estimate_in(entry):.2f}"


def test_all_of_the_plan_is_there():
    assert set(STORED) == {f"{task}-{heads}" for task in TASKS for heads in ("grouped", "all", "receiver")}


@pytest.mark.parametrize("task", TASKS)
def test_the_table_in_the_docs(task):
    wanted = [
        *(lift(task, "local_chunk"), lift(task, "global_anchor")),
        *(lift(task, "global_anchor", "all"), lift(task, "global_anchor", "receiver")),
        *(lift(task, name) for name in ("coupled_rhythm", "entropy", "place", "oracle")),
    ]
    assert f"| `{task}` | {' | '.join(wanted)} |" in (ROOT / "docs/results.md").read_text()


@pytest.mark.parametrize("name", STORED)
def test_the_values_do_not_depend_on_the_heads(name):
    """Heads are scored on the same values: what does not read attention is the same."""
    task, _ = name.rsplit("-", 1)
    for strategy in ("entropy", "random", "place", "oracle"):
        assert STORED[name]["strategies"][strategy] == STORED[f"{task}-grouped"]["strategies"][strategy]


def test_every_lift_in_the_text_was_measured():
    text = (ROOT / "docs/results.md").read_text().split("## Where the outcome is decided")[1].split("## ")[0]
    known = json.dumps([[f"{estimate_in(s['lift']):.2f}" for s in d["strategies"].values()] for d in STORED.values()])
    for quoted in re.findall(r"-?\d\.\d+ \[[^]]+\]", text):
        assert quoted in known, quoted


def test_the_rank_correlations_in_the_docs():
    """Lift before training against the difference to uniform in area, sampled, over tasks and strategies."""
    points = prediction.points()
    assert {point.task for point in points} == set(prediction.GRIDS)
    every = prediction.correlation(points)
    of = {task: prediction.correlation([p for p in points if p.task == task]).value for task in prediction.GRIDS}
    said = " ".join((ROOT / "docs/results.md").read_text().split())
    assert f"Over {len(points)} pairs of task and strategy" in said
    assert f"is {every.value:.2f} (p = {every.p:.2g})" in said
    planned = prediction.correlation([p for p in points if p.task not in ("relay_8", "relay_64")])
    assert f"({planned.value:.2f} without the six of relay with 8 and 64 letters" in said
    assert f"on relay {of['relay_tiny']:.2f}, on its silent variant {of['relay_silent']:.2f}" in said
    assert f"on paths {of['paths_tiny']:.2f}, on Countdown {of['countdown_tiny']:.2f}" in said
