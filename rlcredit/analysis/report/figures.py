"""Figures for a paper, from the content of report.json: .png (200 dpi) and .svg, one or two columns wide, 8 pt.

    sample-1-curves      WAAD, FAI, receiver FAI and entropy over the tokens                          6.8 in
    sample-1-text-waad   the text coloured by WAAD, -fai by FAI; preplan, anchors, arrows             6.8 in
    sample-1-maps        mean attention of the local and of the global heads, where there are maps    6.8 in
    sample-1-spans       span of each head by layer, groups marked                                    3.3 in
    table2, ...          measured values with intervals, the control and the paper's figure           3.3 in

Text is drawn as it is: no mathtext, and U+25AF stands for what matplotlib's own font cannot draw. Colours are Okabe
and Ito's, or one hue in even steps of lightness; what matters is marked by shape as well. Nothing of matplotlib's
global state is changed. The files are the same bytes on every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rlcredit.analysis.report.document import (
    ReportSample,
    ReportTable,
    TableCell,
    Tokens,
    Unit,
    checked,
    representative,
)
from rlcredit.analysis.report.text_figure import CURVES, PAGE, Curve, drawable, series, text_figure
from rlcredit.pages.plots import BLUE, INK, RULE, STYLE, VERMILION, ramp
from rlcredit.stats.estimates import Estimate, estimate_in

COLUMN = 3.3  # inches
ONE_COLUMN = 8  # strips


def write_figures(document: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write the figures of the response that the page opens with, of the first with maps where that one has none, and
    of every table that quotes the paper."""
    report, folder = checked(document), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for index in _chosen(report["samples"]):
            for name, figure in sample_figures(report["samples"][index]):
                written += _save(figure, folder / f"sample-{index + 1}-{name}")
        for table in report["tables"]:
            if rows := strips(table):
                written += _save(strips_figure(rows), folder / table["id"])
    return written


def sample_figures(sample: ReportSample) -> Iterator[tuple[str, Figure]]:
    """The names and figures of one sample of at least one token."""
    yield "curves", curves_figure(sample["tokens"])
    yield "text-waad", text_figure(sample["tokens"], "waad")
    yield "text-fai", text_figure(sample["tokens"], "fai")
    if sample["maps"] is not None:
        yield "maps", maps_figure(sample["maps"]["local"], sample["maps"]["global"])
    if sample["head_span"] and sample["head_span"][0]:
        yield "spans", spans_figure(sample)


def _chosen(samples: Sequence[ReportSample]) -> list[int]:
    first = representative(samples)
    if first is None or not samples[first]["tokens"]["text"]:
        return []
    with_maps = [index for index in [first, *range(len(samples))] if samples[index]["maps"] is not None]
    return sorted({first, *[index for index in with_maps if samples[index]["tokens"]["text"]][:1]})


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


# ---- one sample ---------------------------------------------------------------------------------------------------


def curves_figure(tokens: Tokens) -> Figure:
    """The four signals over the tokens; preplan tokens and anchors marked on the curves that define them."""
    figure = Figure(figsize=(PAGE, 4.2), layout="constrained")
    every = figure.subplots(len(CURVES), 1, sharex=True)
    for axes, (key, (title, colour)) in zip(every, CURVES.items(), strict=True):
        values_T = series(tokens[key])
        axes.plot(values_T, color=colour)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=RULE, linewidth=0.4)
        axes.set_axisbelow(True)
        for where, marker, fill, label in _marks(tokens, key):
            at = np.flatnonzero(where)
            axes.plot(at, values_T[at], marker, ms=3, mew=0.7, color=colour, mfc=fill or colour, label=label)
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0, handletextpad=0.1)
    every[-1].set_xlabel("token")
    every[-1].set_xlim(-0.5, max(len(tokens["text"]) - 0.5, 0.5))
    return figure


def _marks(tokens: Tokens, key: Curve) -> Iterator[tuple[np.ndarray, str, str | None, str]]:
    dominated = np.array(tokens["dominated"], dtype=bool)
    if key == "waad":
        yield np.array(tokens["preplan"], dtype=bool), "v", None, "preplan"
    if key == "fai":
        yield np.array(tokens["anchor"], dtype=bool) & ~dominated, "D", None, "anchor"
        yield dominated, "D", "white", "dominated anchor"


def maps_figure(local: Sequence[Sequence[float]], wide: Sequence[Sequence[float]]) -> Figure:
    """Mean attention of both groups on one scale, which ends at the 99th percentile of what is above 0."""
    maps = [np.tril(np.array(rows, dtype=float)) for rows in (local, wide)]
    positive = np.concatenate([values[values > 0] for values in maps])
    norm = Normalize(0, float(np.percentile(positive, 99)) if positive.size else 1.0)
    figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
    every = figure.subplots(1, 2, sharey=True)
    for axes, values, title in zip(every, maps, ("Local heads", "Global heads"), strict=True):
        ahead = np.triu(np.ones_like(values, dtype=bool), 1)
        image = axes.imshow(np.ma.array(values, mask=ahead), cmap=ramp(285, 0.36, 0.17), norm=norm)
        axes.set_title(title)
        axes.set_xlabel("key token")
    every[0].set_ylabel("query token")
    figure.colorbar(image, ax=list(every), shrink=0.75, extend="max", label="attention")
    return figure


def spans_figure(sample: ReportSample) -> Figure:
    """Span of each head; a dot is a local head, a square a global one."""
    spans = np.array(sample["head_span"], dtype=float)
    height = 0.85 + 0.17 * len(spans)
    figure = Figure(figsize=(COLUMN, min(height, 8.5)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(spans, cmap=ramp(285), origin="lower", aspect="auto")
    for name, marker, fill in (("local", "o", INK), ("global", "s", "none")):
        rows, heads = np.nonzero(np.array(sample["local_heads" if name == "local" else "global_heads"], dtype=bool))
        size = 2.2 if name == "local" else 3.6
        axes.plot(heads, rows, marker, color=INK, mfc=fill, ms=size, mew=0.7, label=name)
    axes.set_yticks(range(len(spans)), [str(layer) for layer in sample["layers"]])
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1, handletextpad=0.1)
    figure.colorbar(image, ax=axes, label="span (tokens)", pad=0.02)
    return figure


# ---- tables -------------------------------------------------------------------------------------------------------


class Strip(NamedTuple):
    """One row of a table that quotes the paper."""

    label: str
    unit: Unit
    measured: Estimate
    control: float | None
    paper: float | None


def strips(table: ReportTable) -> list[Strip]:
    """The rows with an estimate, by the roles of the columns; none of a table without the paper's figures."""
    places = {column["role"]: place for place, column in enumerate(table["columns"])}
    if "paper" not in places:
        return []
    rows = []
    for row in table["rows"]:
        measured, control, paper = (row["cells"][places[role]] for role in ("measured", "control", "paper"))
        if isinstance(measured, dict):
            label = str(row["cells"][0])
            rows.append(Strip(label, row["unit"], estimate_in(measured), _value(control), _value(paper)))
    return rows


def _value(cell: TableCell) -> float | None:
    assert not isinstance(cell, str)
    return cell["value"] if isinstance(cell, dict) else cell


def strips_figure(rows: Sequence[Strip]) -> Figure:
    """A strip a row, each on a scale of its own since units differ: measured, its interval, control, paper.

    Many rows stand in two columns, over the width of a page.
    """
    columns = 1 if len(rows) <= ONE_COLUMN else 2
    down = -(-len(rows) // columns)
    figure = Figure(figsize=((COLUMN, PAGE)[columns - 1], 0.45 + 0.62 * down), layout="constrained")
    places = figure.subplots(down, columns, squeeze=False).T.flatten()
    for axes in places[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(places, rows, strict=False):
        _strip(axes, row)
    legends = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    shapes = {str(label): shape for legend in legends for shape, label in legend}
    figure.legend(list(shapes.values()), list(shapes), loc="outside lower left", ncols=3, handletextpad=0.2)
    return figure


def _strip(axes: Axes, row: Strip) -> None:
    label = drawable(row.label).replace("\n", " ")
    label = label if len(label) <= 52 else f"{label[:51]}\N{HORIZONTAL ELLIPSIS}"
    axes.set_title(label, weight="normal", fontsize=7.5)
    axes.plot(row.measured[1:], [0, 0], color=BLUE, linewidth=1.6, solid_capstyle="butt")
    axes.plot(row.measured.value, 0, "o", color=BLUE, ms=4.5, label="measured")
    for value, marker, colour, name in ((row.control, "|", INK, "control"), (row.paper, "D", VERMILION, "paper")):
        if value is not None:
            axes.plot(value, 0, marker, color=colour, ms=9 if marker == "|" else 4.5, mfc="none", label=name)
    axes.margins(x=0.12)
    axes.set(ylim=(-1, 1), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    if row.unit == "share":
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
