"""A score at the peaks of a metric, and what chance gives: peaks shuffled, and peaks of other responses.

What the controls are for: `couplings`. Nothing is drawn from the global generators.

Axes: T token of a response, R response, B bootstrap resample, S shuffle.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlcredit.stats.estimates import Estimate
from rlcredit.stats.resampling import SHUFFLES, interval, p_above, resamples


class Marked(NamedTuple):
    """The tokens of a response at which both metrics are defined: where one peaks, and what each token scores."""

    peak_T: np.ndarray
    score_T: np.ndarray

    @property
    def peaks(self) -> int:
        return int(self.peak_T.sum())

    def pieces(self, length: int) -> list["Marked"]:
        """The response cut into pieces of so many tokens; the last may be shorter."""
        return [Marked(*(values[i : i + length] for values in self)) for i in range(0, len(self.peak_T), length)]


def pooled(marked: Sequence[Marked], shuffled: bool, seed: int) -> tuple[Estimate, Estimate, Estimate]:
    """(observed, expected, lift), pooled over responses, with bootstrap intervals.

    Args:
        marked: one entry a response.
        shuffled: what is expected is the mean over shuffled peaks; else it is the mean over all tokens.
        seed: of the resamples.
    """
    sums_R4 = _sums(marked, shuffled)
    values_3 = _ratios(sums_R4.sum(0))
    values_3B = _ratios((resamples(len(sums_R4), seed) @ sums_R4).T)
    observed, expected, lift = (
        Estimate(float(value), *interval(value_B)) for value, value_B in zip(values_3, values_3B, strict=True)
    )
    return observed, expected, lift


def _ratios(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(observed, expected, lift) of sums [4] or [4, B]; nan where they are not defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, expected = sums[0] / sums[1], sums[2] / sums[3]
        return observed, expected, np.where(expected == 0, np.nan, observed / expected - 1)


def shuffle(marked: Sequence[Marked], seed: int) -> tuple[Estimate, float]:
    """(mean score at shuffled peaks, p-value): each response, or piece of one, keeps its number of peaks."""
    at_peaks, count, expected, _ = _sums(marked, True).sum(0)
    if not count:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    generator = np.random.default_rng(seed)
    chance_S = sum((_shuffled(response, generator) for response in marked), np.zeros(SHUFFLES)) / count
    return Estimate(float(expected / count), *interval(chance_S)), p_above(at_peaks / count, chance_S)


def _shuffled(response: Marked, generator: np.random.Generator) -> np.ndarray:
    """The summed score of one response at as many random tokens as it has peaks, no token twice: [S]."""
    count = response.peaks
    scores_ST = np.tile(response.score_T, (SHUFFLES, 1)) if count else np.empty((SHUFFLES, 0))
    return generator.permuted(scores_ST, axis=1, out=scores_ST)[:, :count].sum(1)


def swap(marked: Sequence[Marked], seed: int) -> tuple[Estimate, float]:
    """(mean score at other responses' peaks, p-value): every response gets those of another, none keeps its own."""
    at_peaks, count, _, _ = _sums(marked, True).sum(0)
    if not count or len(marked) < 2:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    borrowed_RR2 = np.array([[_borrowed(response, lender) for lender in marked] for response in marked])
    scores_RR, peaks_RR = borrowed_RR2.transpose(2, 0, 1)
    generator, every = np.random.default_rng(seed), np.arange(len(marked))
    chance_S = np.empty(SHUFFLES)
    for number in range(SHUFFLES):
        order = generator.permutation(every)
        lenders_R = np.empty_like(order)
        lenders_R[order] = np.roll(order, 1)  # a random cycle through all responses
        chance_S[number] = scores_RR[every, lenders_R].sum() / max(peaks_RR[every, lenders_R].sum(), 1)
    return Estimate(float(chance_S.mean()), *interval(chance_S)), p_above(at_peaks / count, chance_S)


def _borrowed(response: Marked, lender: Marked) -> tuple[float, int]:
    """(summed score, number) of a response's tokens that lie where another one peaks, by share of the length."""
    places = (np.flatnonzero(lender.peak_T) + 0.5) * len(response.score_T) / len(lender.score_T)
    at = np.unique(places.astype(int))
    return float(response.score_T[at].sum()), len(at)


def _sums(marked: Sequence[Marked], shuffled: bool) -> np.ndarray:
    """Each response's score at peaks, number of peaks, score expected, number that it is expected of: [R, 4]."""
    return np.array([_sums_of(response, shuffled) for response in marked]).reshape(len(marked), 4)


def _sums_of(response: Marked, shuffled: bool) -> tuple[float, int, float, int]:
    count, tokens = response.peaks, len(response.peak_T)
    expected = (count * response.score_T.mean(), count) if shuffled else (response.score_T.sum(), tokens)
    return response.score_T[response.peak_T].sum(), count, *expected
