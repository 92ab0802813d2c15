"""Where the outcome of a response is decided, and how much of it a choice of tokens holds.

    V(t)     the expected reward of the response when the policy goes on by itself from y_<t
    dV_t     V(t + 1) - V(t): what the choice of token t changed; V after the last token is the response's reward
    D_t      dV_a(t) * dV_b(t), with V estimated by two independent halves of the continuations: an unbiased estimate
             of dV_t^2, where the square of one estimate would hold the variance of its noise
    capture  of chosen tokens S: the sum of D over S, as a share of the sum over all tokens; pooled over responses
    lift     capture / the share of tokens chosen: 1 is chance, 1 / that share is the most there is
    AUC      of a score: the chance that a token, drawn in proportion to D, scores higher than one drawn evenly from
             the same response, ties counting half: 0.5 is chance

Intervals are bootstrap intervals over problems, whose responses belong together. A few problems hold most of D, and
bootstrap intervals of few units are too short: their tails are those of Student's t with as many degrees of freedom as
problems that count, sum(|D_p|)^2 / sum(D_p^2) - 1, after Hesterberg's expanded percentiles (2015, arXiv 1411.5279).
[Not in a paper: these measures, and the number of problems that count.]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit
from scipy.stats import rankdata

from rlcredit.stats.estimates import Estimate
from rlcredit.stats.resampling import TAIL, resamples


@dataclass(frozen=True)
class Changes:
    """What the tokens of one response changed.

    Attributes:
        problem: which problem it answers.
        squared_T: D_t, in squared reward.
    """

    problem: int
    squared_T: np.ndarray


@dataclass(frozen=True)
class Choice:
    """What a selector makes of one response.

    Attributes:
        score_T: the higher, the more it would choose a token.
        chosen_T: the share of each token that it chooses, in [0, 1]: true or false, or a mean over random draws.
    """

    score_T: np.ndarray
    chosen_T: np.ndarray


@dataclass(frozen=True)
class Fidelity:
    """How well choices meet what decided, each with a 95 % interval over problems; nan where nothing is known.

    Attributes:
        lift, capture, chosen, auc: see above; `chosen` is the share of tokens.
    """

    lift: Estimate
    capture: Estimate
    chosen: Estimate
    auc: Estimate

    @property
    def finds(self) -> bool | None:
        """Whether the choices are better than chance (True), worse (False), or it cannot be told (None)."""
        if self.lift.low > 1:
            return True
        return False if self.lift.high < 1 else None


def value_changes(values_P: np.ndarray, places_P: Sequence[int], reward: float, tokens: int) -> np.ndarray:
    """dV of every token: [T]. The value stands still between two places, and moves at them.

    Args:
        values_P: V of the response up to each place, the token there excluded.
        places_P: where values were taken, ascending.
        reward: of the whole response.
        tokens: T.
    """
    changes_T = np.zeros(tokens)
    changes_T[list(places_P)] = np.diff(np.append(values_P, reward))
    return changes_T


def squared_changes(rewards_PK: np.ndarray, places_P: Sequence[int], reward: float, tokens: int) -> np.ndarray:
    """D of every token, from the rewards of K continuations at each place (K even): [T]."""
    if not len(places_P):
        return np.zeros(tokens)
    halves = rewards_PK.reshape(len(places_P), 2, -1).mean(2)
    first_T, second_T = (value_changes(halves[:, half], places_P, reward, tokens) for half in range(2))
    return first_T * second_T


def fidelity(changes: Sequence[Changes], choices: Sequence[Choice], seed: int = 0) -> Fidelity:
    """How well the choices meet what decided; one choice for each response."""
    rows = [_sums(change, choice) for change, choice in zip(changes, choices, strict=True)]
    problems = sorted({change.problem for change in changes})
    place = {problem: number for number, problem in enumerate(problems)}
    sums_PX = np.zeros((len(problems), 5))
    for change, row in zip(changes, rows, strict=True):
        sums_PX[place[change.problem]] += row
    measured = _ratios(sums_PX.sum(0)[None])[0]
    drawn_BX = _ratios(resamples(len(problems), seed) @ sums_PX)
    tail = _tail(sums_PX[:, 1])
    return Fidelity(*(_estimate(value, drawn_B, tail) for value, drawn_B in zip(measured, drawn_BX.T, strict=True)))


def _sums(change: Changes, choice: Choice) -> tuple[float, ...]:
    """Of one response: D of the chosen, D of all, tokens chosen, tokens, D times the rank of the score."""
    squared_T, tokens = change.squared_T, len(change.squared_T)
    if not tokens:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    rank_T = (rankdata(choice.score_T) - 0.5) / tokens
    chosen_T = choice.chosen_T.astype(float)
    return (squared_T @ chosen_T, squared_T.sum(), chosen_T.sum(), float(tokens), squared_T @ rank_T)


def _ratios(sums_BX: np.ndarray) -> np.ndarray:
    """Lift, capture, share chosen, AUC of sums: [B, 4]; nan where the sum of D is not above 0."""
    held, total, chosen, tokens, ranked = sums_BX.T
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.where(total > 0, total, np.nan)
        share = chosen / tokens
        return np.stack([held / total / share, held / total, share, ranked / total], axis=1)


def _tail(total_P: np.ndarray) -> float:
    """The share of resamples beyond each bound of a 95 % interval; 0 where a single problem counts."""
    counting = np.abs(total_P).sum() ** 2 / max(float(np.square(total_P).sum()), 1e-300)
    if counting <= 1 + 1e-9:
        return 0.0
    return float(ndtr(math.sqrt(counting / (counting - 1)) * stdtrit(counting - 1, TAIL)))


def _estimate(value: float, drawn_B: np.ndarray, tail: float) -> Estimate:
    """The value with the bounds of its resamples; nan where too many of them are undefined for a bound."""
    if not math.isfinite(value) or not len(drawn_B) or np.isnan(drawn_B).mean() > tail:
        return Estimate(value, math.nan, math.nan)
    low, high = np.nanquantile(drawn_B, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
