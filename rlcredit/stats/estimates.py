"""What samples say about a model on a set of problems, each estimate with a 95 % interval over problems.

    pass@k  = mean over problems of 1 - C(n - c, k) / C(n, k)      Chen et al. 2021, arXiv 2107.03374, eq. 1
    maj@n   = share of problems whose most frequent answer is right     Wang et al. 2022, arXiv 2203.11171
    n_eff   = P * m * (1 - m) / v, at most P * n                        Korn & Graubard 1998 (Kish's design effect)
    bounds  = (p + z^2 / 2n_eff -+ z * sqrt(p * (1 - p) / n_eff + z^2 / 4n_eff^2)) / (1 + z^2 / n_eff)    Wilson 1927

c of a problem's n samples are right. Samples of one problem resemble each other, so n samples of P problems tell less
than P * n problems would: Wilson's interval gets the size n_eff of the simple sample that is as precise. m and v are
the mean and the variance of the problems' values and of half a problem of value 0 and half a problem of value 1. With
one sample a problem, n_eff = P exactly: Wilson's own interval.

The two halves are ours. Without them a few problems that happen to be alike make n_eff far too large: the interval
covered 85 % instead of 95 % (30 problems of difficulty Beta(0.02, 0.98), 16 samples each), with z as with Student's t.
With them it covers 96 % there, and 93 to 98 % wherever problems differ. Where all are equally hard and few are solved
it covers up to 100 %, and is up to three times as wide as need be. Tables: tests/unit/test_estimates.py.

Axes: P problem, S sample; every problem has the same number of samples.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

Z = NormalDist().inv_cdf(0.975)

Answers = Sequence[Sequence[str | None]]


class Estimate(NamedTuple):
    """A mean and its 95 % interval; the bounds are nan where nothing is known."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """`0.568 [0.520, 0.610]`: the spec is that of each number (`+.3f` for a difference), by default three digits
        up to 1 and one digit above; the value alone where the bounds are not known."""
        spec = spec or (".3f" if abs(self.value) <= 1 else ".1f")
        value = format(self.value, spec)
        return value if math.isnan(self.low) else f"{value} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    def entry(self) -> dict[str, float | None]:
        """The numbers by name, as JSON holds them: None for nan."""
        return {name: None if math.isnan(number) else number for name, number in self._asdict().items()}


def estimate_in(entry: Mapping[str, Any]) -> Estimate:
    """The estimate that an entry of a JSON document holds, as `Estimate.entry` makes it."""
    return Estimate(*(math.nan if entry[name] is None else entry[name] for name in Estimate._fields))


def rounded(value: float, digits: int) -> float:
    """The value with so many significant digits, for files."""
    return float(f"{value:.{digits}g}")


def pass_at_k(correct_PS: np.ndarray, k: int) -> np.ndarray:
    """The chance that one of k samples, drawn from a problem's n without putting back, is right: [P]. Unbiased.

    C(n - c, k) / C(n, k) is the product of 1 - k / i over i = n - c + 1 .. n, and 0 as soon as i = k is among them.
    """
    correct_PS = _matrix("correct", correct_PS)
    samples = correct_PS.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= samples, and every problem has {samples}")
    all_wrong = np.cumprod(1 - k / np.arange(samples, 0, -1))
    return 1 - np.concatenate([[1.0], all_wrong])[correct_PS.astype(bool).sum(1)]


def majority_correct(correct_PS: np.ndarray, answers: Answers) -> np.ndarray:
    """maj@n of each problem: is the answer that most samples gave right? [P], in [0, 1].

    A sample without an answer (None) does not vote; without any vote the problem counts 0. Answers are compared as
    strings: make equal ones equal before. Where answers tie, the mean of their correctness: what breaking the tie at
    random gives on average. Samples that gave the same answer should be equally right; else their mean counts.
    """
    correct_PS = _matrix("correct", correct_PS)
    if [len(row) for row in answers] != [correct_PS.shape[1]] * len(correct_PS):
        raise ValueError(f"answers must be {correct_PS.shape[0]} lists of {correct_PS.shape[1]}, like correct")
    return np.array([_majority(row, given) for row, given in zip(correct_PS, answers, strict=True)])


def _majority(correct_S: np.ndarray, answers: Sequence[str | None]) -> float:
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    tied = [answer for answer, count in votes.items() if count == most]
    # each tied answer has `most` samples, so the mean over answers is the mean over these samples
    return float(np.mean([right for right, answer in zip(correct_S, answers, strict=True) if answer in tied] or [0.0]))


def mean_with_interval(values_P: ArrayLike, samples: int) -> Estimate:
    """Mean over problems of values in [0, 1], with Wilson's interval at the effective sample size (see above).

    Args:
        values_P: one value a problem.
        samples: how many independent samples stand behind one value, at most; n_eff <= P * samples. With 1, n_eff = P.
    """
    values_P = in_unit_interval(values_P)
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, not {samples}")
    value, size = float(values_P.mean()), _effective_size(values_P, samples)
    scale = 1 + Z**2 / size
    middle = (value + Z**2 / (2 * size)) / scale
    half = Z * math.sqrt(value * (1 - value) / size + Z**2 / (4 * size**2)) / scale
    # the bounds lie in [0, 1] and enclose the value, but for rounding
    return Estimate(value, max(0.0, min(middle - half, value)), min(1.0, max(middle + half, value)))


def _effective_size(values_P: np.ndarray, samples: int) -> float:
    problems = len(values_P)
    mean = (values_P.sum() + 0.5) / (problems + 1)
    variance = ((values_P**2).sum() + 0.5) / (problems + 1) - mean**2
    # x^2 <= x, so variance <= mean * (1 - mean) and size >= problems, but for rounding
    return float(np.clip(problems * mean * (1 - mean) / variance, problems, problems * samples))


def mean_interval(values_P: ArrayLike) -> Estimate:
    """Mean over problems of a quantity without bounds, such as a length, with Student's t interval.

    One problem tells nothing about the spread: nan bounds. Equal values give an interval without width.
    """
    values_P = _vector(values_P)
    value, problems = float(values_P.mean()), len(values_P)
    if problems == 1:
        return Estimate(value, math.nan, math.nan)
    half = float(half_width(values_P))
    return Estimate(value, value - half, value + half)


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of Student's 95 % interval of the mean over the first axis, which has two values or more."""
    size = len(values)
    return stdtrit(size - 1, 0.975) * values.std(0, ddof=1) / math.sqrt(size)


def summarize(
    correct_PS: np.ndarray, answers: Answers | None, lengths_PS: np.ndarray, truncated_PS: np.ndarray
) -> dict[str, Estimate]:
    """Every estimate that n samples of each problem allow.

    pass@1 is the mean over samples and problems, which papers also call avg@n: with n > 1 it is under both names.
    pass@k comes for the powers of two up to n, and n; maj@n with n > 1; then `length`, in the unit of lengths, and
    `truncated`, the share of samples.

    Args:
        correct_PS: bool, is the sample right?
        answers: what it answered, as a string; None where it gave no answer. None in place of all of them: the samples
            are judged without answers, and there is no maj@n.
        lengths_PS: its tokens.
        truncated_PS: bool, was it cut at the limit?
    """
    correct_PS, lengths_PS = _matrix("correct", correct_PS), _matrix("lengths", lengths_PS)
    truncated_PS = _matrix("truncated", truncated_PS)
    if not correct_PS.shape == lengths_PS.shape == truncated_PS.shape:
        shapes = correct_PS.shape, lengths_PS.shape, truncated_PS.shape
        raise ValueError("correct, lengths and truncated have different shapes: {}, {} and {}".format(*shapes))
    n = correct_PS.shape[1]
    estimates = {"pass@1": _pass_with_interval(correct_PS, 1)}
    if n > 1:
        estimates[f"avg@{n}"] = estimates["pass@1"]
        estimates |= {f"pass@{k}": _pass_with_interval(correct_PS, k) for k in _powers_of_two_and(n)}
        if answers is not None:
            estimates[f"maj@{n}"] = mean_with_interval(majority_correct(correct_PS, answers), 1)
    estimates["length"] = mean_interval(lengths_PS.mean(1))
    estimates["truncated"] = mean_with_interval(truncated_PS.astype(bool).mean(1), n)
    return estimates


def _pass_with_interval(correct_PS: np.ndarray, k: int) -> Estimate:
    # pass@n is 0 or 1 on a problem, as one sample is; pass@1 stands on n samples; n - k + 1 joins the two
    return mean_with_interval(pass_at_k(correct_PS, k), correct_PS.shape[1] - k + 1)


def _powers_of_two_and(n: int) -> list[int]:
    """2, 4, 8, ... below n, and n."""
    return [2**i for i in range(1, n.bit_length()) if 2**i < n] + [n]


def _matrix(name: str, values_PS: ArrayLike) -> np.ndarray:
    """values_PS as an array [P, S], at least 1 by 1."""
    try:
        matrix = np.asarray(values_PS)
    except ValueError as error:  # numpy: "inhomogeneous shape"
        raise ValueError(f"{name}: every problem needs the same number of samples") from error
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"{name} must be [problems, samples], with one or more of each, not {list(matrix.shape)}")
    return matrix


def _vector(values_P: ArrayLike) -> np.ndarray:
    """values_P as float64 [P]."""
    values_P = np.asarray(values_P, dtype=float)
    if values_P.ndim != 1 or not len(values_P):
        raise ValueError(f"one value a problem is needed, in one dimension, not shape {values_P.shape}")
    return values_P


def in_unit_interval(values_P: ArrayLike) -> np.ndarray:
    """values_P as float64 [P], checked: one problem or more, each value in [0, 1]."""
    values_P = _vector(values_P)
    if not ((values_P >= 0) & (values_P <= 1)).all():
        raise ValueError("values must lie in [0, 1]")
    return values_P
