"""Draw the picture of docs/concepts.md: WAAD and FAI of five tokens, from two small attention maps.

    python scripts/draw_concepts.py docs/pictures/concepts.svg

The maps are made up; every number in the picture is computed from them, and the weights by `assign_credit`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlcredit import AttentionSignals, CreditArguments, assign_credit
from rlcredit.pages.plots import BLUE, GREEN, INK, MUTED, STYLE, VERMILION, ramp

TOKENS = ("we", "plan", ":", "12", "/ 4")
WINDOW, HORIZON = 3, (1, 4)
LOCAL = np.array(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.8, 0.2, 0.0, 0.0, 0.0],
        [0.1, 0.8, 0.1, 0.0, 0.0],
        [0.5, 0.3, 0.1, 0.1, 0.0],  # suddenly looks far back
        [0.0, 0.1, 0.1, 0.7, 0.1],
    ]
)
GLOBAL = np.array(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0],
        [0.2, 0.6, 0.2, 0.0, 0.0],
        [0.1, 0.6, 0.1, 0.2, 0.0],  # later tokens keep looking at "plan"
        [0.1, 0.5, 0.1, 0.2, 0.1],
    ]
)


def waad(local_TT: np.ndarray, window: int) -> np.ndarray:
    """Eq. 9: the mean distance that each row looks back, a distance above `window` counting as `window`; tokens."""
    places = np.arange(len(local_TT))
    distance_TT = np.clip(places[:, None] - places, 0, window)
    return (local_TT * distance_TT).sum(1)


def fai(global_TT: np.ndarray, horizon: tuple[int, int]) -> np.ndarray:
    """Eq. 10: the mean attention that each column has from the rows within the horizon; nan where there are none."""
    rows = len(global_TT)
    later = [global_TT[s + horizon[0] : min(rows, s + horizon[1] + 1), s] for s in range(rows)]
    return np.array([column.mean() if len(column) else np.nan for column in later])


def weights(waad_T: np.ndarray, fai_T: np.ndarray, strategy: str) -> np.ndarray:
    """gamma of the five tokens, by the strategy itself."""
    one_row = [torch.tensor(values, dtype=torch.float32)[None] for values in (waad_T, fai_T)]
    no_heads = torch.zeros(1, 0, 0, dtype=torch.bool)
    signals = AttentionSignals([], no_heads.float(), no_heads, no_heads, *one_row)
    args = CreditArguments(credit_strategy=strategy, credit_quantile=0.4)
    return assign_credit(signals, torch.ones(1, len(waad_T)), args).weights[0].numpy()


def _map(axes: Axes, weights_TT: np.ndarray, title: str, hue: float) -> None:
    axes.set_title(title)
    axes.imshow(weights_TT, cmap=ramp(hue), vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(weights_TT), strict=True):
        axes.text(column, row, f"{weights_TT[row, column]:.1f}", ha="center", va="center", fontsize=7, color=INK)
    axes.set_xticks(range(len(TOKENS)), TOKENS)
    axes.set_yticks(range(len(TOKENS)), TOKENS)
    axes.tick_params(length=0)
    axes.set_ylabel("this token ...")
    axes.set_xlabel("... looks back at this one")


def figure() -> Figure:
    waad_T, fai_T = waad(LOCAL, WINDOW), fai(GLOBAL, HORIZON)
    drawn = Figure(figsize=(7.2, 4.4), layout="constrained")
    (local, globally), (preplan, anchor) = drawn.subplots(2, 2, height_ratios=[2.2, 1])
    _map(local, LOCAL, "local heads: WAAD, how far a row looks back", 250)
    _map(globally, GLOBAL, "global heads: FAI, what a column gets", 40)
    for place, value in enumerate(waad_T):
        local.text(4.75, place, f"WAAD {value:.1f}", va="center", fontsize=7, color=BLUE)
    for place, value in enumerate(fai_T):
        told = "no later\ntoken" if np.isnan(value) else f"FAI\n{value:.2f}"
        globally.text(place, -0.65, told, ha="center", va="bottom", fontsize=7, color=VERMILION)
    globally.set_title(globally.get_title(loc="left"), pad=24)
    panels = {
        "local_chunk": (preplan, "preplan tokens: WAAD jumps"),
        "global_anchor": (anchor, "anchor tokens: high FAI"),
    }
    for strategy, (axes, title) in panels.items():
        gamma_T = weights(waad_T, fai_T, strategy)
        axes.set_title(f"{title} ({strategy})")
        axes.bar(range(len(TOKENS)), gamma_T, color=[GREEN if gamma > 1 else MUTED for gamma in gamma_T], width=0.6)
        for place, gamma in enumerate(gamma_T):
            axes.text(place, gamma + 0.04, f"{gamma:.1f}", ha="center", fontsize=7)
        axes.set_ylim(0, 1.9)
        axes.set_ylabel("\N{GREEK SMALL LETTER GAMMA}")
        axes.set_xticks(range(len(TOKENS)), TOKENS)
        axes.tick_params(axis="x", length=0)
    return drawn


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("draw_concepts.py takes the file to write, docs/pictures/concepts.svg")
    with matplotlib.rc_context(STYLE):
        figure().savefig(Path(sys.argv[1]), metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
