"""What chance gives: bootstrap resamples over responses, intervals, and p-values of shuffles."""

import math

import numpy as np

RESAMPLES = 2_000
SHUFFLES = 1_000
TAIL = 0.025  # of a 95 % interval, on each side; a claim of "more" is judged at this level


def resamples(samples: int, seed: int) -> np.ndarray:
    """How often each of R samples is drawn in each bootstrap resample: [B, R]; no resample of fewer than two."""
    if samples < 2:
        return np.zeros((0, samples), dtype=int)
    return np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=RESAMPLES)


def interval(values_B: np.ndarray) -> tuple[float, float]:
    """The bounds between which 95 % of these values lie; nan without values. Undefined ones are left out."""
    defined = values_B[np.isfinite(values_B)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [TAIL, 1 - TAIL])
    return float(low), float(high)


def p_above(observed: float, chance_S: np.ndarray) -> float:
    """Share of the shuffles that reach the observed value, which counts as one of them: one-sided, never 0."""
    return float((1 + (chance_S >= observed - 1e-9 * max(1.0, abs(observed))).sum()) / (1 + len(chance_S)))
