"""Peaks of a metric along a response. The paper (arXiv 2510.13554, section 4) counts peaks and never defines them.

    t is a peak if  x_t > x_{t-1},  x_t > x_{t+1}  and  x_t >= c,  c the ceil(0.3 n - 1e-9)-th largest of n values

[ours], all of it. For noise without structure (1 - 0.7^3) / 3 = 22 % of the tokens are peaks, the share of global-FAI
peaks that the paper's Table 2 implies (its 22.41 %). The same rule serves WAAD, FAI, receiver FAI and entropy.

Degenerate cases:
    equal neighbours    one peak, at the first of the equal tokens, if the values on both sides of them are lower
    the ends            a token with one neighbour is a peak if it is higher than that one (noise: 25.5 % of the ends)
    undefined (nan)     never a peak, and no neighbour: the token beside it is an end
    no neighbour        a value between undefined ones, or a response of equal values, is higher than nothing: no peak
    ties at c           values equal to c all pass
"""

import math

import numpy as np

TOP = 0.3


def peaks(values_T: np.ndarray) -> np.ndarray:
    """Which tokens are peaks: bool [T].

    Args:
        values_T: the metric at each token of one response, in any unit; nan or infinite where undefined.
    """
    values_T = np.asarray(values_T, dtype=float)
    if values_T.ndim != 1:
        raise ValueError(f"values_T: one value a token is needed, in one dimension, not shape {list(values_T.shape)}")
    heights_T = np.where(np.isfinite(values_T), values_T, -np.inf)
    starts_T = np.ones(len(heights_T), dtype=bool)  # the first token of each run of equal ones
    starts_T[1:] = heights_T[1:] != heights_T[:-1]
    peak_T = np.zeros(len(heights_T), dtype=bool)
    peak_T[starts_T] = _highest_around(heights_T[starts_T])
    return peak_T & (heights_T >= _cut(heights_T[np.isfinite(heights_T)]))


def _highest_around(heights: np.ndarray) -> np.ndarray:
    """Which of these heights, no two neighbours equal, exceed the neighbours they have, of which there must be one."""
    before = np.concatenate([[-np.inf], heights[:-1]])
    after = np.concatenate([heights[1:], [-np.inf]])
    return (heights > before) & (heights > after) & (np.maximum(before, after) > -np.inf)


def _cut(defined: np.ndarray) -> float:
    """The smallest of the top values; infinite where nothing is defined."""
    if not len(defined):
        return math.inf
    return float(np.sort(defined)[-math.ceil(TOP * len(defined) - 1e-9)])
