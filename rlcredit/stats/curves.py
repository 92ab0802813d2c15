"""Curves over the steps of a run: smoothed, over several seeds, and the single numbers that they come to.

    ema          EMA_t = alpha * x_t + (1 - alpha) * EMA_{t-1}
    ema of peaks EMA_t = alpha * max(x_t, EMA_{t-1}) + (1 - alpha) * EMA_{t-1}         arXiv 2510.13554, A.2
    band         2 to 4 seeds: lowest to highest; 5 and more: 95 % interval of the mean, Student's t over seeds
    area         integral of the curve over steps by the trapezoid rule, over its length: a mean height
    reached      the step at which the curve first has a value, by straight lines between evaluations; censored
                 (None) where it never has it
    best         the evaluation that is best on a validation set, the earliest of equals: stopping early would have
                 given the held-out value there, with nothing chosen on the held-out set
    last tenth   mean of the last tenth of the values, their number rounded up

Axes: T step, S seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlcredit.stats.estimates import half_width

MOST_FOR_RANGE = 4  # seeds; of more, an interval

Smoothing = Literal["raw", "ema", "peak"]


class Curve(NamedTuple):
    """One metric over the steps at which it was measured, in order: [T] each."""

    step_T: np.ndarray
    value_T: np.ndarray


class Band(NamedTuple):
    """A metric over several seeds, at the steps at which all of them have it: [T] each."""

    step_T: np.ndarray
    mean_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    kind: str
    """What low and high are, in words."""


def curve_of(points: Mapping[int, float]) -> Curve:
    """The curve through these values by step."""
    steps = sorted(points)
    return Curve(np.array(steps, dtype=int), np.array([points[step] for step in steps], dtype=float))


# ---- smoothing ----------------------------------------------------------------------------------------------------


def smoothed(curve: Curve, how: Smoothing, alpha: float) -> Curve:
    """The curve itself, its exponential moving average, or that of its peaks (A.2)."""
    if how == "raw":
        return curve
    return Curve(curve.step_T, (ema if how == "ema" else ema_of_peaks)(curve.value_T, alpha))


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
    average_T, last = np.full(len(x_T), np.nan), math.nan
    for t, x in enumerate(np.asarray(x_T, dtype=float).tolist()):
        if math.isfinite(x):
            last = x if math.isnan(last) else alpha * new(x, last) + (1 - alpha) * last
        average_T[t] = last
    return average_T


def running_mean(curve: Curve, window: int) -> Curve:
    """The mean of each `window` values in a row, at the last of them; of fewer values, one mean of all."""
    window = min(window, len(curve.value_T))
    if not window:
        return curve
    return Curve(curve.step_T[window - 1 :], np.convolve(curve.value_T, np.ones(window) / window, mode="valid"))


# ---- over seeds ---------------------------------------------------------------------------------------------------


def band(curves: Sequence[Curve]) -> Band:
    """Mean and band over the curves of one or more seeds, at the steps that all of them have.

    So the mean does not jump where a run ends.
    """
    steps = sorted(set.intersection(*(set(curve.step_T.tolist()) for curve in curves)))
    by_step = [dict(zip(curve.step_T.tolist(), curve.value_T.tolist(), strict=True)) for curve in curves]
    value_ST = np.array([[values[step] for step in steps] for values in by_step], dtype=float).reshape(len(curves), -1)
    mean_T, seeds = value_ST.mean(0), len(curves)
    if seeds <= MOST_FOR_RANGE:
        bounds, kind = (value_ST.min(0), value_ST.max(0)), f"lowest to highest of {seeds} seeds"
    else:
        half_T = half_width(value_ST)
        bounds, kind = (mean_T - half_T, mean_T + half_T), f"95 % over {seeds} seeds (Student's t)"
    return Band(np.array(steps, dtype=int), mean_T, *bounds, kind)


# ---- single numbers -----------------------------------------------------------------------------------------------


def last_tenth(value_T: np.ndarray) -> float:
    """Mean of the last tenth of the values, their number rounded up; there is one value or more."""
    return float(value_T[-math.ceil(len(value_T) / 10) :].mean())


def area(step_T: ArrayLike, value_T: ArrayLike) -> float:
    """Area under a curve by the trapezoid rule, divided by its length: the mean height. Needs two points."""
    step_T, value_T = _checked(step_T, value_T)
    if len(step_T) < 2:
        raise ValueError("an area needs a curve of two points or more")
    return float(np.trapezoid(value_T, step_T) / (step_T[-1] - step_T[0]))


def reached(step_T: ArrayLike, value_T: ArrayLike, target: float) -> float | None:
    """The step at which the curve first has the target, between two points on the line that joins them; else None."""
    step_T, value_T = _checked(step_T, value_T)
    if value_T[0] >= target:
        return float(step_T[0])
    for before, after in itertools.pairwise(range(len(step_T))):
        if value_T[after] >= target:
            share = (target - value_T[before]) / (value_T[after] - value_T[before])
            return float(step_T[before] + share * (step_T[after] - step_T[before]))
    return None


def best(validation_T: ArrayLike) -> int:
    """Which evaluation is best on the validation set; of equals the earliest."""
    return int(np.argmax(np.asarray(validation_T, dtype=float)))


def _checked(step_T: ArrayLike, value_T: ArrayLike) -> Curve:
    step_T, value_T = np.asarray(step_T, dtype=float), np.asarray(value_T, dtype=float)
    if step_T.shape != value_T.shape or step_T.ndim != 1 or not len(step_T):
        raise ValueError(f"a curve needs one value a step, not shapes {step_T.shape} and {value_T.shape}")
    if (np.diff(step_T) <= 0).any():
        raise ValueError("the steps of a curve must rise")
    return Curve(step_T, value_T)
