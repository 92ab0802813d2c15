"""Several comparisons at once, and how much of a possible gain was had.

Holm     of m p-values in order, p_(1) <= ... <= p_(m):  p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j))
         (Holm 1979); no more than 5 % of such families have one below 0.05 where nothing differs
share    (mean of v_s - u_s) / (mean of o_s - u_s) over seeds s: of the gain of the oracle o over the baseline u,
         the part that v has; its interval is Fieller's (1954) for the ratio of two means of pairs. Where the
         oracle's gain cannot be told from 0, the share has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from rlcredit.stats.estimates import Estimate


def holm(p_M: Sequence[float]) -> list[float]:
    """The p-values, corrected for their number, in the order given."""
    order = sorted(range(len(p_M)), key=lambda place: p_M[place])
    corrected, most = [0.0] * len(p_M), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(p_M) - rank) * p_M[place]))
        corrected[place] = most
    return corrected


def share_of_gain(gain_S: ArrayLike, whole_S: ArrayLike) -> Estimate:
    """mean(gain) / mean(whole) over the same seeds, with its 95 % interval; nan bounds where there is none."""
    gain_S, whole_S = np.asarray(gain_S, dtype=float), np.asarray(whole_S, dtype=float)
    seeds = len(gain_S)
    top, bottom = float(gain_S.mean()), float(whole_S.mean())
    value = top / bottom if bottom else math.nan
    if seeds < 2:
        return Estimate(value, math.nan, math.nan)
    t = float(stdtrit(seeds - 1, 0.975))
    (var_top, both), (_, var_bottom) = np.cov(gain_S, whole_S) / seeds
    a, b, c = bottom**2 - t**2 * var_bottom, top * bottom - t**2 * both, top**2 - t**2 * var_top
    if a <= 0 or (root := b**2 - a * c) < 0:
        return Estimate(value, math.nan, math.nan)
    return Estimate(value, (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a)
