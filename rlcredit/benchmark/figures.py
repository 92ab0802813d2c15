"""Figures of a grid, .png and .svg: learning curves with bands over seeds, and the paired differences.

Band: 5 seeds and more, the 95 % interval of the mean (Student's t); fewer, lowest to highest. The files are the same
bytes on every run, and nothing of matplotlib's global state is changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from rlcredit.benchmark.results import TITLES, Cells, accuracy_curve, sets_of
from rlcredit.files import write_whole
from rlcredit.pages.plots import BLUE, GREEN, INK, MUTED, PURPLE, RULE, STYLE, VERMILION

COLOURS = (INK, BLUE, VERMILION, GREEN, PURPLE, "#E69F00", "#56B4E9", MUTED)
LINES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1, 1, 1)))
FEW = 4  # seeds, of which the range is shown
SMOOTHED = 5  # logged rewards that are averaged


def draw(found: Mapping[str, Any], cells: Cells, folder: Path, stem: str) -> list[str]:
    """Write the figures; returns the names of the .png files."""
    with matplotlib.rc_context(cast(Any, STYLE)):
        made = {"curves": _curves(cells), "differences": _differences(found)}
        for name, figure in made.items():
            for kind in ("png", "svg"):
                _write(figure, folder / f"{stem}-{name}.{kind}")
    return [f"{stem}-{name}.png" for name in made]


def _curves(cells: Cells) -> Figure:
    """Held-out accuracy greedily and sampled, and the reward, over the steps."""
    one = next(cell for of_variant in cells.values() for cell in of_variant.values())
    main, second, _ = sets_of(one)
    panels = [("held-out accuracy, greedy", main), ("held-out accuracy, sampled", second), ("training reward", "")]
    panels = [(title, name) for title, name in panels if name is not None]
    figure = Figure(figsize=(6.8, 2.7), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, name) in zip(places, panels, strict=True):
        axes.set_title(title)
        axes.set_xlabel("step")
        for number, (variant, by_seed) in enumerate(cells.items()):
            curves = [accuracy_curve(cell, name) if name else _reward(cell) for cell in by_seed.values()]
            curves = [curve for curve in curves if len(curve[0])]
            if curves:
                _band(axes, variant, number, curves)
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(list(handles), list(map(str, labels)), loc="outside lower left", ncols=4)
    return figure


def _reward(cell: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """The reward, a running mean of a few logged values."""
    curve = cell["curves"].get("reward", {"step": [], "value": []})
    window = min(SMOOTHED, len(curve["value"])) or 1
    means: list[float] = []
    if curve["value"]:
        means = np.convolve(curve["value"], np.ones(window) / window, mode="valid").tolist()
    return curve["step"][window - 1 :], means


def _band(axes: Axes, variant: str, number: int, curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> None:
    steps = sorted(set.intersection(*(set(step_T) for step_T, _ in curves)))
    if not steps:
        return
    values_ST = np.array([[dict(zip(*curve, strict=True))[step] for step in steps] for curve in curves])
    mean_T, seeds = values_ST.mean(0), len(curves)
    if seeds > FEW:
        half_T = stdtrit(seeds - 1, 0.975) * values_ST.std(0, ddof=1) / np.sqrt(seeds)
        low_T, high_T = mean_T - half_T, mean_T + half_T
    else:
        low_T, high_T = values_ST.min(0), values_ST.max(0)
    colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
    axes.plot(steps, mean_T, color=colour, linestyle=line, linewidth=1.1, label=variant)
    axes.fill_between(steps, low_T, high_T, color=colour, alpha=0.12, linewidth=0)


def _differences(found: Mapping[str, Any]) -> Figure:
    """Every paired difference with its interval and the seeds' own, a panel a measure."""
    measures = [key for key in ("final", "final_t", "area") if any(p["measure"] == key for p in found["paired"])]
    rows = list(dict.fromkeys((pair["variant"], pair["against"]) for pair in found["paired"]))
    figure = Figure(figsize=(6.8, 1.1 + 0.24 * max(1, len(rows))), layout="constrained")
    for axes, key in zip(figure.subplots(1, max(1, len(measures)), squeeze=False)[0], measures, strict=False):
        axes.set_title(TITLES[key])
        axes.set_xlabel("difference")
        axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        for pair in (pair for pair in found["paired"] if pair["measure"] == key):
            place = rows.index((pair["variant"], pair["against"]))
            one, other = (found["variants"][pair[side]]["measures"][key]["by_seed"] for side in ("variant", "against"))
            axes.plot([one[seed] - other[seed] for seed in one if seed in other], [place] * pair["seeds"], "|",
                      color=MUTED, ms=5, mew=0.7)  # fmt: skip
            colour = {"higher": GREEN, "lower": VERMILION}.get(pair["verdict"], BLUE)
            if pair["low"] is not None:
                axes.plot([pair["low"], pair["high"]], [place, place], color=colour, linewidth=1.4)
            axes.plot(pair["value"], place, "o", color=colour, ms=3.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
        shown = axes is figure.axes[0]
        names = [one if other == "uniform" else f"{one} - {other}" for one, other in rows]
        axes.set_yticks(range(len(rows)), names if shown else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


def _write(figure: Figure, path: Path) -> None:
    made = io.BytesIO()
    nothing = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(made, format=path.suffix[1:], metadata=nothing)
    write_whole(path, made.getvalue())
