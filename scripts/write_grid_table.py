"""Write benchmarks/README.md: all grids, and which of their intervals leave out 0.

python scripts/write_grid_table.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.benchmark.results import TITLES
from rlcredit.files import write_whole

FOLDER = Path(__file__).parent.parent / "benchmarks"
TEXT = """# All grids

For warm-started character-level Llamas: 60 steps of 64 completions, 512 held-out problems, q = 0.4, and a = 1.5 where
no other is named; two CPU cores, one thread a run. The page of a grid has its command, its date, and every number.
[PLAN.md](PLAN.md) has what was planned before the runs, [docs/results.md](../docs/results.md) what follows from them.
Two more kinds of measurements lie here: [relay on warm starts that nobody chose](relay_64_warm_starts/results.md), and
`fidelity/`, one file a policy and choice of heads.

One interval in twenty leaves out 0 by chance: of the {total} in these grids (the controls repeat cells of the
strategies) about {chance:.0f} would, and {apart} do. With five seeds the exact test cannot give a p below 1/16, and
with three seeds not below 1/4.

| grid | seeds | intervals | leave out 0 | which |
|---|---|---|---|---|
"""


def grids() -> dict[str, dict[str, Any]]:
    """Results by path without suffix: paths_tiny/results-controls, ..."""
    found = sorted(FOLDER.glob("*/results*.json"))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): json.loads(path.read_text()) for path in found}


def tested(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences that have an interval."""
    return [pair for pair in results["paired"] if pair["low"] is not None]


def outside(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those whose interval leaves out 0."""
    return [pair for pair in tested(results) if pair["verdict"] != "open"]


def row(path: str, results: Mapping[str, Any]) -> str:
    """The seeds of a grid, how many intervals it has, how many leave out 0, and which."""
    task, stem = path.split("/")
    name = f"{task.removesuffix('_tiny').capitalize()}, {stem.removeprefix('results').lstrip('-') or 'strategies'}"
    apart: dict[str, list[str]] = {}
    for pair in outside(results):
        side = {"higher": "above", "lower": "below"}[pair["verdict"]]
        apart.setdefault(f"`{pair['variant']}` {side} `{pair['against']}`", []).append(TITLES[pair["measure"]])
    which = "; ".join(sorted(f"{words} ({'; '.join(sorted(titles))})" for words, titles in apart.items()))
    counts = f"{len(results['seeds'])} | {len(tested(results))} | {len(outside(results))}"
    return f"| [{name}]({path}.md) | {counts} | {which} |\n"


def page() -> str:
    """The whole file."""
    found = grids()
    total, apart = (sum(len(kind(results)) for results in found.values()) for kind in (tested, outside))
    rows = "".join(row(path, results) for path, results in found.items())
    return TEXT.format(total=total, chance=total / 20, apart=apart) + rows


if __name__ == "__main__":
    write_whole(FOLDER / "README.md", page())
