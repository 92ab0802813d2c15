"""The look of every matplotlib figure: one style, Okabe and Ito's colours, and ramps of one hue.

The style holds within `matplotlib.rc_context(STYLE)`; matplotlib's global state stays as it is. Text is drawn as it is
(no mathtext), and the .svg files are the same bytes on every run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap

STYLE: Any = {
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

LMS_FROM_OKLAB = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def ramp(hue: float, darkest: float = 0.71, chroma: float = 0.125) -> ListedColormap:
    """One hue (degrees) from nearly white down to a lightness in [0, 1], in even steps of Oklab (Ottosson 2020)."""
    share = np.linspace(0, 1, 256)
    angle = np.radians(hue)
    lab = [0.985 + (darkest - 0.985) * share, chroma * share * np.cos(angle), chroma * share * np.sin(angle)]
    linear = np.clip(RGB_FROM_LMS @ (LMS_FROM_OKLAB @ np.array(lab)) ** 3, 0, 1)
    return ListedColormap(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T)
