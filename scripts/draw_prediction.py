"""Draw whether fidelity, measured before training, predicts what a strategy gains: docs/pictures/prediction.png.

    python scripts/draw_prediction.py docs/pictures/prediction.png

A point is a strategy on a task: its lift (benchmarks/fidelity/) and its difference to `uniform` in the area under the
sampled accuracy (benchmarks/*/results*.json).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from rlcredit.pages.plots import BLUE, GREEN, PURPLE, RULE, STYLE, VERMILION

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GRIDS = {
    "countdown_tiny": "countdown_tiny/results.json",
    "paths_tiny": "paths_tiny/results.json",
    "relay_tiny": "relay_tiny/results-share.json",
    "relay_silent": "relay_silent/results.json",
    "relay_8": "relay_8/results.json",
    "relay_64": "relay_64/results.json",
}
STRATEGIES = ("random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm")
MARKS = dict(zip(STRATEGIES, "xsv^o", strict=True))
COLOURS = dict(zip(GRIDS, (BLUE, GREEN, VERMILION, PURPLE, "#E69F00", "#56B4E9"), strict=True))


class Point(NamedTuple):
    """A strategy on a task."""

    task: str
    strategy: str
    lift: float
    gain: float


class Correlation(NamedTuple):
    """Spearman's rank correlation, and the p of none."""

    value: float
    p: float


def points() -> list[Point]:
    """Those that both a grid and fidelity have."""
    found = []
    for task, grid in GRIDS.items():
        strategies = json.loads((BENCHMARKS / f"fidelity/{task}-grouped.json").read_text())["strategies"]
        for pair in json.loads((BENCHMARKS / grid).read_text())["paired"]:
            name = pair["variant"].removesuffix("_a4")
            if name in STRATEGIES and (pair["against"], pair["measure"]) == ("uniform", "area_t"):
                found.append(Point(task, name, strategies[name]["lift"]["value"], pair["value"]))
    return found


def correlation(of: list[Point]) -> Correlation:
    """Between lift and gain."""
    result = spearmanr([(point.lift, point.gain) for point in of])
    return Correlation(float(result.statistic), float(result.pvalue))


def figure(of: list[Point]) -> Figure:
    drawn = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = drawn.subplots()
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    axes.axvline(1, color=RULE, linewidth=0.8, zorder=0)
    for point in of:
        axes.plot(point.lift, point.gain, MARKS[point.strategy], color=COLOURS[point.task], markersize=5)
    for task, colour in COLOURS.items():
        axes.plot([], [], "-", color=colour, label=task)
    for strategy, mark in MARKS.items():
        axes.plot([], [], mark, color="black", label=strategy)
    value, p = correlation(of)
    axes.set_title(f"rank correlation {value:.2f} (p = {p:.2g}), {len(of)} points")
    axes.set_xlabel("lift before training (1 is chance)")
    axes.set_ylabel("area above uniform, sampled")
    drawn.legend(loc="outside right upper")
    return drawn


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("draw_prediction.py takes the file to write, docs/pictures/prediction.png")
    with matplotlib.rc_context(STYLE):
        figure(points()).savefig(sys.argv[1], metadata={"Software": None})


if __name__ == "__main__":
    main()
