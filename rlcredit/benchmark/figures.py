"""Figures of a grid, .png and .svg: learning curves with bands over seeds, paired differences, shares of a gain.

The band is that of `rlcredit.stats.curves`. The files are the same bytes on every run, and nothing of matplotlib's
global state is changed.
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

from rlcredit.benchmark.grid import BASELINE
from rlcredit.benchmark.results import TITLES, Cells, accuracy_curve, sets_of
from rlcredit.files import write_whole
from rlcredit.pages.plots import BLUE, GREEN, INK, MUTED, PURPLE, RULE, STYLE, VERMILION
from rlcredit.stats.curves import Curve, band, running_mean

COLOURS = (INK, BLUE, VERMILION, GREEN, PURPLE, "#E69F00", "#56B4E9", MUTED)
LINES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1, 1, 1)))
SMOOTHED = 5  # logged rewards that are averaged


def draw(results: Mapping[str, Any], cells: Cells, folder: Path, stem: str) -> list[str]:
    """Write the figures; returns the names of the .png files."""
    with matplotlib.rc_context(cast(Any, STYLE)):
        figures = {"curves": _curves(cells), "differences": _differences(results)}
        if results.get("oracle", {}).get("shares"):
            figures["shares"] = _shares(results["oracle"])
        for name, figure in figures.items():
            for kind in ("png", "svg"):
                _write(figure, folder / f"{stem}-{name}.{kind}")
    return [f"{stem}-{name}.png" for name in figures]


def _curves(cells: Cells) -> Figure:
    """Held-out accuracy greedily and sampled, and the reward, over the steps."""
    main, second, _ = sets_of(next(cell for by_seed in cells.values() for cell in by_seed.values()))
    panels = [("held-out accuracy, greedy", main), ("held-out accuracy, sampled", second), ("training reward", "")]
    panels = [(title, name) for title, name in panels if name is not None]
    figure = Figure(figsize=(6.8, 2.7), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, name) in zip(places, panels, strict=True):
        axes.set_title(title)
        axes.set_xlabel("step")
        for number, (variant, by_seed) in enumerate(cells.items()):
            curves = [accuracy_curve(cell, name) if name else _reward(cell) for cell in by_seed.values()]
            curves = [curve for curve in curves if len(curve.step_T)]
            if curves:
                _band(axes, variant, number, curves)
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(list(handles), list(map(str, labels)), loc="outside lower left", ncols=4)
    return figure


def _reward(cell: Mapping[str, Any]) -> Curve:
    """The reward, a running mean of a few logged values."""
    logged = cell["curves"].get("reward", {"step": [], "value": []})
    return running_mean(Curve(np.array(logged["step"]), np.array(logged["value"])), SMOOTHED)


def _band(axes: Axes, variant: str, number: int, curves: Sequence[Curve]) -> None:
    over_seeds = band(curves)
    if not len(over_seeds.step_T):
        return
    colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
    axes.plot(over_seeds.step_T, over_seeds.mean_T, color=colour, linestyle=line, linewidth=1.1, label=variant)
    axes.fill_between(over_seeds.step_T, over_seeds.low_T, over_seeds.high_T, color=colour, alpha=0.12, linewidth=0)


def _differences(results: Mapping[str, Any]) -> Figure:
    """Every paired difference with its interval and the seeds' own, a panel a measure."""
    measures = [key for key in ("final", "final_t", "area") if any(p["measure"] == key for p in results["paired"])]
    rows = list(dict.fromkeys((pair["variant"], pair["against"]) for pair in results["paired"]))
    figure = Figure(figsize=(6.8, 1.1 + 0.24 * max(1, len(rows))), layout="constrained")
    for axes, key in zip(figure.subplots(1, max(1, len(measures)), squeeze=False)[0], measures, strict=False):
        axes.set_title(TITLES[key])
        axes.set_xlabel("difference")
        axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        for pair in (pair for pair in results["paired"] if pair["measure"] == key):
            place = rows.index((pair["variant"], pair["against"]))
            by_seed, other = (
                results["variants"][pair[side]]["measures"][key]["by_seed"] for side in ("variant", "against")
            )
            of_seeds = [by_seed[seed] - other[seed] for seed in by_seed if seed in other]
            axes.plot(of_seeds, [place] * len(of_seeds), "|", color=MUTED, ms=5, mew=0.7)
            colour = {"higher": GREEN, "lower": VERMILION}.get(pair["verdict"], BLUE)
            if pair["low"] is not None:
                axes.plot([pair["low"], pair["high"]], [place, place], color=colour, linewidth=1.4)
            axes.plot(pair["value"], place, "o", color=colour, ms=3.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
        shown = axes is figure.axes[0]
        names = [variant if other == BASELINE else f"{variant} - {other}" for variant, other in rows]
        axes.set_yticks(range(len(rows)), names if shown else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


def _shares(oracle: Mapping[str, Any]) -> Figure:
    """Each variant's share of the oracle's gain with its interval: 0 is `uniform`, 1 the oracle.

    A share is hollow where it has no interval, because the oracle's own gain cannot be told from 0.
    """
    measures = [key for key in ("final_t", "area_t") if key in oracle["shares"]] or list(oracle["shares"])[:1]
    rows = list(dict.fromkeys(name for key in measures for name in oracle["shares"][key]))
    figure = Figure(figsize=(6.8, 1.2 + 0.24 * len(rows)), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        axes.set_title(TITLES[key])
        label = f"share of the gain of {oracle['variant']}"
        if any(share["low"] is None for share in oracle["shares"][key].values()):
            label += "\n(hollow: no interval, since that gain is open)"
        axes.set_xlabel(label)
        for place in (0, 1):
            axes.axvline(place, color=RULE, linewidth=0.8, zorder=0)
        for name, share in oracle["shares"][key].items():
            place = rows.index(name)
            if share["low"] is not None:
                axes.plot([share["low"], share["high"]], [place, place], color=BLUE, linewidth=1.4)
            if share["value"] is not None:
                inside = "white" if share["low"] is None else BLUE
                axes.plot(share["value"], place, "o", color=BLUE, markerfacecolor=inside, ms=3.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows if axes is figure.axes[0] else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


def _write(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    nothing = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(content, format=path.suffix[1:], metadata=nothing)
    write_whole(path, content.getvalue())
