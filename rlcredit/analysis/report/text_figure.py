"""A response as text coloured by a signal, for a paper: set in lines, with preplan tokens, anchors and arrows marked.

U+25AF stands for what matplotlib's own font cannot draw.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from rlcredit.analysis.report.document import Tokens
from rlcredit.pages.plots import BLUE, GREEN, INK, MUTED, PURPLE, RULE, VERMILION, ramp

PAGE = 6.8  # inches
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
SIZE, ADVANCE, LINE, HEAD = 7.0, 7.0 * 0.602 / 72, 0.235, 0.34  # points; of a letter, of a line, of the legend: inches


class Piece(NamedTuple):
    """A token, or the part of it on one line."""

    token: int
    line: int
    column: int
    text: str


class Box(NamedTuple):
    """Where a piece is drawn, in inches; y grows downwards."""

    left: float
    top: float
    width: float


def text_figure(tokens: Tokens, key: Curve) -> Figure:
    """The text coloured by a signal: preplan tokens underlined, anchors overlined (dominated ones dashed), arrows."""
    pieces, lines = lay_out(tokens["text"], int((PAGE - 0.1) / ADVANCE))
    shown = [piece for piece in pieces if piece.line < LINES]
    height = HEAD + LINE * min(lines, LINES) + 0.08
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(height, 0))
    axes.set_axis_off()
    values_T, colours = series(tokens[key]), ramp(HUES[key])
    known = values_T[~np.isnan(values_T)]
    norm = Normalize(known.min(), known.max()) if known.size else Normalize(0, 1)
    boxes: dict[int, Box] = {}
    for piece in shown:
        value = values_T[piece.token]
        box = _draw_piece(axes, piece, tokens, None if np.isnan(value) else colours(norm(value)))
        boxes[piece.token] = max(boxes.get(piece.token, box), box, key=lambda box: box.width)
    for anchor, intro in enumerate(tokens["intro"]):
        if intro is not None and anchor in boxes and intro in boxes:
            _arrow(axes, boxes[anchor], boxes[intro], min(anchor - intro, 3))
    hidden = len(tokens["text"]) - len(boxes)
    _text_legend(axes, key, norm, colours, f"first {LINES} lines; {hidden} more tokens" if hidden else "")
    return figure


def _draw_piece(axes: Axes, piece: Piece, tokens: Tokens, face: tuple[float, ...] | None) -> Box:
    """The letters on their colour, hatched where there is none, with the marks of their token."""
    left, top = 0.05 + piece.column * ADVANCE, HEAD + piece.line * LINE + 0.06
    width = len(piece.text) * ADVANCE - 0.008
    hatch = "////" if face is None else None
    axes.add_patch(
        Rectangle((left, top), width, 0.13, facecolor=face or "none", edgecolor=RULE, linewidth=0, hatch=hatch)
    )
    axes.text(left, top + 0.1, piece.text, fontsize=SIZE, family="DejaVu Sans Mono", color=INK)
    if tokens["preplan"][piece.token]:
        axes.plot([left, left + width], [top + 0.143] * 2, color=BLUE, linewidth=1.1, solid_capstyle="butt")
    if tokens["anchor"][piece.token]:
        style = (0, (2, 1.2)) if tokens["dominated"][piece.token] else "-"
        axes.plot([left, left + width], [top - 0.012] * 2, color=VERMILION, linewidth=1.1, linestyle=style)
    return Box(left, top, width)


def series(values: Sequence[float | None]) -> np.ndarray:
    """The values of the tokens, nan where undefined."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


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


def _arrow(axes: Axes, start: Box, end: Box, steps: int) -> None:
    """Up from the anchor, along the gap above its line, to the introductory token: its top, or from below its foot."""
    same_line = abs(start.top - end.top) < 0.01
    from_x, to_x = start.left + start.width / 2, end.left + end.width / 2
    from_y, to_y = start.top - 0.02, end.top - 0.02 if same_line else end.top + 0.155
    lane = start.top - 0.03 - 0.013 * steps
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
