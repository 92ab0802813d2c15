"""What runs that share their seeds tell about two ways of training.

    d_s          = b_s - a_s, the difference at seed s: same seed, same data order, same first rollouts
    interval     = mean of d -+ t(0.975, S - 1) * sd(d) / sqrt(S), Student's t over seeds
    p            = share of the 2^S sign flips of the d_s whose |sum| is at least the one observed (Fisher 1935):
                   exact, two-sided, at least 2 / 2^S: with 5 seeds never below 1/16, however large the gain
    area         = integral of the curve over steps by the trapezoid rule, over its length: a mean accuracy
    reached      = the step at which the curve first has a value, by straight lines between evaluations; censored
                   (None) where it never has it
    best         = held-out value at the evaluation that is best on the validation set, the earliest of equals: what
                   stopping early would have given, with nothing chosen on the held-out set

The interval asks for differences that are roughly normal; the p-value only that each could as well have had the other
sign. With few seeds the first finds more, the second promises more: results show both.

Axes: S seed, T evaluation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlcredit.stats.estimates import Estimate, mean_interval
from rlcredit.stats.paired import EXACT_UP_TO, sign_flip_p


class Paired(NamedTuple):
    """b against a over the seeds that both have."""

    difference: Estimate
    """Mean of b - a over seeds, with its 95 % interval; nan bounds with one seed."""
    p_value: float
    seeds: int

    @property
    def lowest_p(self) -> float:
        """The least p-value that so many seeds can give."""
        return lowest_p(self.seeds)

    @property
    def verdict(self) -> str:
        """higher or lower where the interval leaves out 0, else open; without any spread it tells nothing."""
        _, low, high = self.difference
        if not low < high:
            return "open"
        return "higher" if low > 0 else "lower" if high < 0 else "open"


def paired(a_S: ArrayLike, b_S: ArrayLike) -> Paired:
    """How much more is b than a? One value a seed, in the same order."""
    a_S, b_S = np.asarray(a_S, dtype=float), np.asarray(b_S, dtype=float)
    if a_S.shape != b_S.shape or a_S.ndim != 1 or not len(a_S):
        raise ValueError(f"a and b need one value a seed, the same seeds, not shapes {a_S.shape} and {b_S.shape}")
    difference_S = b_S - a_S
    return Paired(mean_interval(difference_S), sign_flip_p(difference_S), len(a_S))


def lowest_p(seeds: int) -> float:
    """2 / 2^S: the observed signs and their mirror image always count. (1 with one seed: it tells nothing.)"""
    return 2 / 2 ** min(seeds, EXACT_UP_TO)


def area(step_T: ArrayLike, value_T: ArrayLike) -> float:
    """Area under a curve by the trapezoid rule, divided by its length: the mean height. Needs two points."""
    step_T, value_T = _curve(step_T, value_T)
    if len(step_T) < 2:
        raise ValueError("an area needs a curve of two points or more")
    return float(np.trapezoid(value_T, step_T) / (step_T[-1] - step_T[0]))


def reached(step_T: ArrayLike, value_T: ArrayLike, target: float) -> float | None:
    """The step at which the curve first has the target, between two points on the line that joins them; else None."""
    step_T, value_T = _curve(step_T, value_T)
    if value_T[0] >= target:
        return float(step_T[0])
    for before, after in itertools.pairwise(range(len(step_T))):
        if value_T[after] >= target:
            share = (target - value_T[before]) / (value_T[after] - value_T[before])
            return float(step_T[before] + share * (step_T[after] - step_T[before]))
    return None


def censored_median(values: Sequence[float | None]) -> float | None:
    """Median where None stands for "later than all": None where the median itself is not known."""
    if not values:
        raise ValueError("a median needs a value")
    ordered = sorted(math.inf if value is None else value for value in values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if math.isinf(middle) else middle


def best(validation_T: ArrayLike) -> int:
    """Which evaluation is best on the validation set; of equals the earliest."""
    return int(np.argmax(np.asarray(validation_T, dtype=float)))


def completions_by(step: float, a_rollout: int, steps_a_rollout: int) -> int:
    """Completions that had been generated when that step was done: rollouts are generated whole."""
    return a_rollout * math.ceil(step / steps_a_rollout - 1e-9)


def _curve(step_T: ArrayLike, value_T: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    step_T, value_T = np.asarray(step_T, dtype=float), np.asarray(value_T, dtype=float)
    if step_T.shape != value_T.shape or step_T.ndim != 1 or not len(step_T):
        raise ValueError(f"a curve needs one value a step, not shapes {step_T.shape} and {value_T.shape}")
    if (np.diff(step_T) <= 0).any():
        raise ValueError("the steps of a curve must rise")
    return step_T, value_T
