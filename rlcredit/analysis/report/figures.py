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

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from rlcredit.analysis.report.document import Sample, Table, Tokens, checked

COLUMN, PAGE = 3.3, 6.8  # inches
ONE_COLUMN = 8  # strips
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 3,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 0.9,
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "rlcredit",
    "savefig.dpi": 200,
}
INK, MUTED, RULE = "#1b1d22", "#5c6068", "#d5d5d1"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#8C4A80"
Curve = Literal["waad", "fai", "receiver_fai", "entropy"]
CURVES: dict[Curve, tuple[str, str]] = {
    "waad": ("WAAD (tokens)", BLUE),
    "fai": ("FAI (attention)", VERMILION),
    "receiver_fai": ("Receiver FAI (attention)", PURPLE),
    "entropy": ("Entropy (nats)", GREEN),
}
HUES: dict[Curve, float] = {"waad": 250, "fai": 55}
LINES = 60  # of a text; more do not fit on a page
MISSING = "\N{WHITE VERTICAL RECTANGLE}"


def write_figures(document: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write the figures of the first sample, of the first with maps, and of every table that quotes the paper."""
    report, folder = checked(document), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(cast(Any, STYLE)):
        for index in _chosen(report["samples"]):
            for name, figure in sample_figures(report["samples"][index]):
                written += _save(figure, folder / f"sample-{index + 1}-{name}")
        for table in report["tables"]:
            if couplings := read_couplings(table):
                written += _save(couplings_figure(couplings), folder / table["id"])
    return written


def sample_figures(sample: Sample) -> Iterator[tuple[str, Figure]]:
    """The names and figures of one sample of at least one token."""
    yield "curves", curves_figure(sample["tokens"])
    yield "text-waad", text_figure(sample["tokens"], "waad")
    yield "text-fai", text_figure(sample["tokens"], "fai")
    if sample["maps"] is not None:
        yield "maps", maps_figure(sample["maps"]["local"], sample["maps"]["global"])
    if sample["head_span"] and sample["head_span"][0]:
        yield "spans", spans_figure(sample)


def _chosen(samples: Sequence[Sample]) -> list[int]:
    filled = [index for index, sample in enumerate(samples) if sample["tokens"]["text"]]
    return sorted({*filled[:1], *[index for index in filled if samples[index]["maps"] is not None][:1]})


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
        series = _series(tokens[key])
        axes.plot(series, color=colour)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=RULE, linewidth=0.4)
        axes.set_axisbelow(True)
        for where, marker, fill, label in _marks(tokens, key):
            at = np.flatnonzero(where)
            axes.plot(at, series[at], marker, ms=3, mew=0.7, color=colour, mfc=fill or colour, label=label)
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


def spans_figure(sample: Sample) -> Figure:
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


# ---- text ---------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A token, or the part of it on one line."""

    token: int
    line: int
    column: int
    text: str


def text_figure(tokens: Tokens, key: Curve) -> Figure:
    """The text coloured by a signal: preplan tokens underlined, anchors overlined (dominated ones dashed), arrows."""
    size, advance, line_height, head = 7.0, 7.0 * 0.602 / 72, 0.235, 0.34
    pieces, lines = lay_out(tokens["text"], int((PAGE - 0.1) / advance))
    shown = [piece for piece in pieces if piece.line < LINES]
    height = head + line_height * min(lines, LINES) + 0.08
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(height, 0))
    axes.set_axis_off()
    series, colours = _series(tokens[key]), ramp(HUES[key])
    known = series[~np.isnan(series)]
    norm = Normalize(known.min(), known.max()) if known.size else Normalize(0, 1)
    boxes: dict[int, tuple[float, float, float]] = {}
    for piece in shown:
        left, top = 0.05 + piece.column * advance, head + piece.line * line_height + 0.06
        width, value = len(piece.text) * advance - 0.008, series[piece.token]
        face = "none" if np.isnan(value) else colours(norm(value))
        hatch = "////" if np.isnan(value) else None
        axes.add_patch(Rectangle((left, top), width, 0.13, facecolor=face, edgecolor=RULE, linewidth=0, hatch=hatch))
        axes.text(left, top + 0.1, piece.text, fontsize=size, family="DejaVu Sans Mono", color=INK)
        if tokens["preplan"][piece.token]:
            axes.plot([left, left + width], [top + 0.143] * 2, color=BLUE, linewidth=1.1, solid_capstyle="butt")
        if tokens["anchor"][piece.token]:
            style = (0, (2, 1.2)) if tokens["dominated"][piece.token] else "-"
            axes.plot([left, left + width], [top - 0.012] * 2, color=VERMILION, linewidth=1.1, linestyle=style)
        if width > boxes.get(piece.token, (0, 0, 0))[2]:
            boxes[piece.token] = left, top, width
    for anchor, intro in enumerate(tokens["intro"]):
        if intro is not None and anchor in boxes and intro in boxes:
            _arrow(axes, boxes[anchor], boxes[intro], min(anchor - intro, 3))
    hidden = len(tokens["text"]) - len({piece.token for piece in shown})
    _text_legend(axes, key, norm, colours, f"first {LINES} lines; {hidden} more tokens" if hidden else "")
    return figure


def lay_out(texts: Sequence[str], columns: int) -> tuple[list[Piece], int]:
    """The tokens set in lines of so many letters of one width, broken between tokens where they fit; and the lines."""
    pieces, line, column = [], 0, 0
    for token, text in enumerate(texts):
        shown = drawable(text) or "\N{EMPTY SET}"
        # a line end is shown, and then made; what follows it in the same token goes on below
        for part in re.findall(r"[^\n]*\n|[^\n]+", shown):
            drawn = part.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
            if column and column + len(drawn) > columns and len(drawn) <= columns:
                line, column = line + 1, 0
            while drawn:
                if column >= columns:
                    line, column = line + 1, 0
                room = columns - column
                pieces.append(Piece(token, line, column, drawn[:room]))
                column, drawn = column + len(drawn[:room]), drawn[room:]
            if part.endswith("\n"):
                line, column = line + 1, 0
    return pieces, line + (column > 0)


def drawable(text: str) -> str:
    """The text with U+25AF for what the font cannot draw, a tab as an arrow; line ends stay."""
    text = text.replace("\t", "\N{RIGHTWARDS ARROW TO BAR}   ")
    return "".join(letter if letter == "\n" or _has_glyph(letter) else MISSING for letter in text)


@cache
def _has_glyph(letter: str) -> bool:
    # a letter that joins or turns its neighbours has no width of its own
    return letter.isprintable() and all(
        get_font(findfont(family)).get_char_index(ord(letter)) for family in ("DejaVu Sans", "DejaVu Sans Mono")
    )


def _arrow(axes: Axes, start: tuple[float, float, float], end: tuple[float, float, float], steps: int) -> None:
    """Up from the anchor, along the gap above its line, to the introductory token: its top, or from below its foot."""
    same_line = abs(start[1] - end[1]) < 0.01
    from_x, to_x = start[0] + start[2] / 2, end[0] + end[2] / 2
    from_y, to_y = start[1] - 0.02, end[1] - 0.02 if same_line else end[1] + 0.155
    lane = start[1] - 0.03 - 0.013 * steps
    line = {"color": VERMILION, "linewidth": 0.6, "alpha": 0.9}
    axes.plot([from_x, from_x, to_x, to_x], [from_y, lane, lane, to_y], solid_joinstyle="round", **cast(Any, line))
    axes.plot(to_x, to_y, "v" if same_line else "^", ms=2, color=VERMILION, mew=0)


def _text_legend(axes: Axes, key: Curve, norm: Normalize, colours: ListedColormap, note: str) -> None:
    axes.text(0.05, 0.19, CURVES[key][0], weight="bold", fontsize=7)
    low, high = f"{norm.vmin:.3g}", f"{norm.vmax:.3g}"
    axes.text(1.62, 0.19, low, fontsize=7, ha="right")
    limits = axes.get_ylim()
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=colours, extent=(1.67, 2.47, 0.2, 0.1), aspect="auto")
    axes.text(2.52, 0.19, high, fontsize=7)
    for left, y, style, colour, label in (
        (3.05, 0.215, "-", BLUE, "preplan"),
        (3.8, 0.09, "-", VERMILION, "anchor"),
        (4.5, 0.09, (0, (2, 1.2)), VERMILION, "dominated anchor"),
    ):
        axes.text(left + 0.03, 0.17, "ab", fontsize=6, color=INK)
        axes.plot([left, left + 0.18], [y, y], linestyle=cast(Any, style), color=colour, linewidth=1.1)
        axes.text(left + 0.23, 0.19, label, fontsize=7)
    axes.text(PAGE - 0.05, 0.19, note, fontsize=6, ha="right", color=MUTED)
    # imshow sets the limits to its own image
    axes.set(xlim=(0, PAGE), ylim=limits)


# ---- tables -------------------------------------------------------------------------------------------------------


class Coupling(NamedTuple):
    """One row of a table that quotes the paper."""

    label: str
    value: float
    low: float | None
    high: float | None
    control: float | None
    paper: float | None


NUMBER = r"[-+\N{MINUS SIGN}]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
INTERVAL = re.compile(rf"\[\s*({NUMBER})[^\d\]]*?,\s*({NUMBER})[^\]]*\]")


def read_couplings(table: Table) -> list[Coupling]:
    """The rows with a measured number, by the columns' titles (see `document.Table`); none without "paper"."""
    titles = [title.lower() for title in table["columns"]]
    paper = _column(titles, r"paper")
    control = _column(titles, r"control|expected|shuffled|chance|all tokens", but=r"paper")
    interval = _column(titles, r"interval|\bci\b", but=r"paper")
    taken = {0, paper, control, interval} | {at for at, title in enumerate(titles) if "paper" in title}
    measured = [at for at in range(len(titles)) if at not in taken]
    if paper is None:
        return []
    couplings = []
    for row in table["rows"]:
        at = next((at for at in measured if _number(row[at]) is not None), None)
        if at is None:
            continue
        found = INTERVAL.search(str(row[interval if interval is not None else at]))
        low, high = (_number(bound) for bound in found.groups()) if found else (None, None)
        chance = _number(row[control]) if control is not None else None
        couplings.append(Coupling(str(row[0]), cast(float, _number(row[at])), low, high, chance, _number(row[paper])))
    return couplings


def _column(titles: Sequence[str], wanted: str, but: str = r"(?!)") -> int | None:
    found = (at for at, title in enumerate(titles) if at and re.search(wanted, title) and not re.search(but, title))
    return next(found, None)


def _number(cell: str | float | None) -> float | None:
    """The first number of a cell, outside of brackets."""
    if cell is None or isinstance(cell, int | float):
        return cell
    found = re.search(NUMBER, re.sub(r"\[.*?\]", "", cell))
    return float(found.group().replace("\N{MINUS SIGN}", "-")) if found else None


def couplings_figure(couplings: Sequence[Coupling]) -> Figure:
    """A strip a row, each on a scale of its own since units differ: measured, its interval, control, paper.

    Many rows stand in two columns, over the width of a page.
    """
    columns = 1 if len(couplings) <= ONE_COLUMN else 2
    down = -(-len(couplings) // columns)
    figure = Figure(figsize=((COLUMN, PAGE)[columns - 1], 0.45 + 0.62 * down), layout="constrained")
    places = figure.subplots(down, columns, squeeze=False).T.flatten()
    for axes in places[len(couplings) :]:
        axes.set_axis_off()
    for axes, row in zip(places, couplings, strict=False):
        axes.set_title(_shortened(drawable(row.label).replace("\n", " "), 52), weight="normal", fontsize=7.5)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [0, 0], color=BLUE, linewidth=1.6, solid_capstyle="butt")
        axes.plot(row.value, 0, "o", color=BLUE, ms=4.5, label="measured")
        for value, marker, colour, label in ((row.control, "|", INK, "control"), (row.paper, "D", VERMILION, "paper")):
            if value is not None:
                axes.plot(value, 0, marker, color=colour, ms=9 if marker == "|" else 4.5, mfc="none", label=label)
        axes.margins(x=0.12)
        axes.set(ylim=(-1, 1), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
    shapes = {label: shape for axes in figure.axes for shape, label in zip(*_legend(axes), strict=True)}
    figure.legend(list(shapes.values()), list(shapes), loc="outside lower left", ncols=3, handletextpad=0.2)
    return figure


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    shapes, labels = axes.get_legend_handles_labels()
    return list(shapes), [str(label) for label in labels]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


# ---- colour -------------------------------------------------------------------------------------------------------


def _series(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


@cache
def ramp(hue: float, darkest: float = 0.71, chroma: float = 0.125) -> ListedColormap:
    """One hue from nearly white down to a lightness, in even steps of Oklab (Ottosson 2020)."""
    share = np.linspace(0, 1, 256)
    light = 0.985 + (darkest - 0.985) * share
    a, b = (chroma * share * turn for turn in (np.cos(np.radians(hue)), np.sin(np.radians(hue))))
    cubes = [
        light + 0.3963377774 * a + 0.2158037573 * b,
        light - 0.1055613458 * a - 0.0638541728 * b,
        light - 0.0894841775 * a - 1.2914855480 * b,
    ]
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear @ (np.array(cubes) ** 3), 0, 1)
    return ListedColormap(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T)
