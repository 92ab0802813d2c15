"""Smoothed curves: the plain exponential moving average, and the paper's EMA of the peak (arXiv 2510.13554, A.2)."""

import math
from collections.abc import Callable

import numpy as np


def ema(x_T: np.ndarray, alpha: float) -> np.ndarray:
    """EMA_t = alpha * x_t + (1 - alpha) * EMA_{t-1}: [T], in the unit of x.

    EMA_0 = x_0 [ours]. At undefined tokens the curve stays as it is; before the first defined one it is nan.
    """
    return _average(x_T, alpha, lambda x, last: x)


def ema_of_peaks(x_T: np.ndarray, alpha: float) -> np.ndarray:
    """EMA_t = alpha * max(x_t, EMA_{t-1}) + (1 - alpha) * EMA_{t-1}: [T] (A.2); the rest as for `ema`.

    As the paper prints it, the curve never falls: a token below it adds nothing.
    """
    return _average(x_T, alpha, max)


def _average(x_T: np.ndarray, alpha: float, new: Callable[[float, float], float]) -> np.ndarray:
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, not {alpha}")
    made_T, last = np.full(len(x_T), np.nan), math.nan
    for t, x in enumerate(np.asarray(x_T, dtype=float).tolist()):
        if math.isfinite(x):
            last = x if math.isnan(last) else alpha * new(x, last) + (1 - alpha) * last
        made_T[t] = last
    return made_T
