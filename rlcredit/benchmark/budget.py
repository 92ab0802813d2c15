"""What a cell had generated when: comparisons at equal generated tokens, for variants that draw more than rollouts.

tokens(n)   of the first n rollouts: completions, the continuations that value them, and groups that were replaced
budget      a variant's accuracy when it had generated as many tokens as the baseline in its whole run, at the same
            seed: between two evaluations on the line that joins them; its last where it generated fewer
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlcredit.stats.curves import Curve

# Logged once a rollout: tokens that are generated beside those of its completions.
DRAWN_BESIDE = ("credit/continuation_tokens", "dynamic_sampling/tokens")


def draws_beside(cell: Mapping[str, Any]) -> bool:
    """Whether a cell drew more than its rollouts."""
    return not cell["curves"].keys().isdisjoint(DRAWN_BESIDE)


def rollouts_of(cell: Mapping[str, Any]) -> int:
    """How many a cell has generated; the last one may be used in part."""
    return math.ceil(cell["steps"] / cell["steps_a_rollout"])


def tokens_after(cell: Mapping[str, Any], rollouts: float) -> float | None:
    """Tokens that a cell had generated after that many rollouts; None where its log does not say."""
    curves, every = cell["curves"], rollouts_of(cell)
    if "completions/mean_length" not in curves:
        return None
    completions = _cumulated(curves["completions/mean_length"], every, rollouts) * cell["completions_a_rollout"]
    return completions + sum(_cumulated(curves[name], every, rollouts) for name in DRAWN_BESIDE if name in curves)


def at_budget(cell: Mapping[str, Any], curve: Curve, tokens: float) -> float | None:
    """The accuracy of a curve when the cell had generated so many tokens; None where its log does not say."""
    every = rollouts_of(cell)
    generated = [tokens_after(cell, rollouts) for rollouts in range(every + 1)]
    known = [value for value in generated if value is not None]
    if len(known) != len(generated):
        return None
    rollouts = np.interp(tokens, known, np.arange(every + 1))
    steps = min(float(rollouts) * cell["steps_a_rollout"], cell["steps"])
    return float(np.interp(steps, curve.step_T, curve.value_T))


def _cumulated(thinned: Mapping[str, list[float]], every: int, rollouts: float) -> float:
    """The sum of a logged value over the first rollouts, from means over equally many (the last over what is left)."""
    size = math.ceil(every / len(thinned["value"]))
    ends = np.minimum(np.arange(len(thinned["value"]) + 1) * size, every)
    sums = np.concatenate([[0.0], np.cumsum(np.diff(ends) * np.array(thinned["value"]))])
    return float(np.interp(rollouts, ends, sums))
