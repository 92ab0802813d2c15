"""Two ways of training compared by their runs: the one comparison behind `rlcredit benchmark` and `rlcredit report`.

    paired       where two seeds or more are in both groups, and each stands once in its group: over these seeds,
                 d_s = b_s - a_s, because one seed means the same data order and the same first rollouts;
                 interval = mean of d -+ t(0.975, S - 1) * sd(d) / sqrt(S), Student's t over seeds;
                 p = share of the 2^S sign flips of the d_s whose |sum| is at least the one observed (Fisher 1935):
                 exact, two-sided, at least 2 / 2^S: with 5 seeds never below 1/16, however large the gain
    otherwise    mean(b) - mean(a) of all runs, with Welch's t interval (two runs or more on each side) and no p

The interval asks for differences that are roughly normal; the p-value only that each could as well have had the other
sign. With few seeds the first finds more, the second promises more: results show both. Runs without any spread give no
interval: nothing tells how much another seed would differ.

Axes: S seed of both groups, R run of one group.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from rlcredit.stats.estimates import Estimate, mean_interval
from rlcredit.stats.paired import BLOCK, BLOCKS, EXACT_UP_TO, sign_flip_p

NO_SPREAD = 1e-12  # below it, differences of accuracies are rounding

Runs = Sequence[tuple[Hashable | None, float]]
"""(seed, value) of each run of a group; None where the seed is not known."""


class SeedComparison(NamedTuple):
    """b against a, two groups of runs."""

    difference: Estimate
    """b - a, with its 95 % interval over seeds; nan bounds where there is none."""
    p_value: float | None
    """Exact and two-sided; None where the seeds are not paired."""
    seeds: int
    """How many seeds were paired; 0 where they are not."""
    interval: str
    """What the interval is, in words."""

    @property
    def verdict(self) -> str:
        """higher or lower where the interval leaves out 0, else open."""
        return "higher" if self.difference.low > 0 else "lower" if self.difference.high < 0 else "open"


def compare_runs(a: Runs, b: Runs) -> SeedComparison:
    """How much more is b than a, over one run or more of each? Paired by seed where that is possible (see above)."""
    a_by_seed, b_by_seed = dict(a), dict(b)
    each_once = len(a_by_seed) == len(a) and len(b_by_seed) == len(b)
    shared = [seed for seed in b_by_seed if seed in a_by_seed and seed is not None] if each_once else []
    if len(shared) > 1 or len(shared) == len(a) == len(b):
        return paired([a_by_seed[seed] for seed in shared], [b_by_seed[seed] for seed in shared])
    return welch([value for _, value in a], [value for _, value in b])


def paired(a_S: ArrayLike, b_S: ArrayLike) -> SeedComparison:
    """How much more is b than a? One value a seed, in the same order."""
    a_S, b_S = np.asarray(a_S, dtype=float), np.asarray(b_S, dtype=float)
    if a_S.shape != b_S.shape or a_S.ndim != 1 or not len(a_S):
        raise ValueError(f"a and b need one value a seed, the same seeds, not shapes {a_S.shape} and {b_S.shape}")
    difference_S, seeds = b_S - a_S, len(a_S)
    difference, interval = mean_interval(difference_S), f"95 % over {seeds} seeds, paired (Student's t)"
    if np.ptp(difference_S) < NO_SPREAD:
        difference = Estimate(difference.value, math.nan, math.nan)
        interval = "none: the differences are all alike" if seeds > 1 else "none: one seed"
    return SeedComparison(difference, sign_flip_p(difference_S), seeds, interval)


def welch(a_R: Sequence[float], b_R: Sequence[float]) -> SeedComparison:
    """mean(b) - mean(a) of runs that are not paired, one or more each, with Welch's 95 % interval."""
    value = float(np.mean(b_R) - np.mean(a_R))
    if min(len(a_R), len(b_R)) < 2:
        return SeedComparison(Estimate(value, math.nan, math.nan), None, 0, "none: too few seeds")
    parts = [float(np.var(values_R, ddof=1)) / len(values_R) for values_R in (a_R, b_R)]
    error = math.sqrt(sum(parts))
    if error < NO_SPREAD:
        return SeedComparison(Estimate(value, math.nan, math.nan), None, 0, "none: the seeds are all alike")
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values_R) - 1) for part, values_R in zip(parts, (a_R, b_R), strict=True)
    )
    half = float(stdtrit(freedom, 0.975)) * error
    return SeedComparison(Estimate(value, value - half, value + half), None, 0, "95 % over seeds (Welch's t)")


def lowest_p(seeds: int) -> float:
    """The least p-value that so many paired seeds can give (see `sign_flip_p`): 2 / 2^S where all flips are counted,
    since the observed signs and their mirror image always are. (1 with one seed: it tells nothing.)"""
    return 2 / 2**seeds if seeds <= EXACT_UP_TO else 1 / (1 + BLOCKS * BLOCK)


def censored_median(values: Sequence[float | None]) -> float | None:
    """Median where None stands for "later than all": None where the median itself is not known."""
    if not values:
        raise ValueError("a median needs a value")
    ordered = sorted(math.inf if value is None else value for value in values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if math.isinf(middle) else middle


def completions_by(step: float, a_rollout: int, steps_a_rollout: int) -> int:
    """Completions that had been generated when that step was done: rollouts are generated whole."""
    return a_rollout * math.ceil(step / steps_a_rollout - 1e-9)
