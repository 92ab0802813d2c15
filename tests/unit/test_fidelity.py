"""Fidelity: what is measured where the values are known, under chance, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlcredit.credit import CreditArguments
from rlcredit.fidelity.arguments import FidelityArguments
from rlcredit.fidelity.choices import Chosen, choice_of, controls, oracle, top
from rlcredit.fidelity.command import measured
from rlcredit.fidelity.document import sentence
from rlcredit.fidelity.values import Valued, batches
from rlcredit.stats.estimates import Estimate
from rlcredit.stats.fidelity import Changes, Choice, Fidelity, fidelity, squared_changes, value_changes

# ---- by hand --------------------------------------------------------------------------------------------------------


def test_the_value_moves_at_the_places_where_it_was_taken():
    # Before token 1 it is 0.5, before token 3 it is 0.75, and the response is right.
    assert value_changes(np.array([0.5, 0.75]), [1, 3], 1.0, 5).tolist() == [0, 0.25, 0, 0.25, 0]
    assert value_changes(np.array([]), [], 1.0, 2).tolist() == [0, 0]


def test_the_squared_change_is_the_product_of_two_halves():
    rewards = np.array([[1.0, 0, 1, 1], [0, 0, 1, 0]])  # halves: 0.5 and 1, then 0 and 0.5
    found = squared_changes(rewards, [0, 2], 1.0, 3)
    assert found.tolist() == [(0 - 0.5) * (0.5 - 1), 0, (1 - 0) * (1 - 0.5)]
    assert squared_changes(np.zeros((0, 4)), [], 1.0, 2).tolist() == [0, 0]


def test_capture_lift_and_auc():
    changes = [Changes(0, np.array([0.5, 0, 0, 0])), Changes(1, np.array([0.0, 0, 0, 0.5]))]
    first = Choice(np.array([4.0, 3, 2, 1]), np.array([1, 1, 0, 0]))
    found = fidelity(changes, [first, Choice(np.array([1.0, 1, 1, 0]), np.array([1, 0, 0, 0]))])
    assert found.capture.value == 0.5 and found.chosen.value == 3 / 8
    assert found.lift.value == pytest.approx(0.5 / (3 / 8))
    # ranks of the decisive tokens: 3.5 of 4 and 0.5 of 4
    assert found.auc.value == pytest.approx((0.5 * 3.5 / 4 + 0.5 * 0.5 / 4) / 1.0)


def test_nothing_is_said_where_nothing_changes():
    found = fidelity(
        [Changes(0, np.zeros(3)), Changes(1, np.zeros(3))], [Choice(np.arange(3.0), np.array([1, 0, 0]))] * 2
    )
    assert math.isnan(found.lift.value) and found.finds is None
    assert sentence("entropy", found) == (
        "entropy: cannot be told; the values do not change by more than their noise."
    )


def test_a_strategy_that_chooses_nothing_is_said_to():
    found = fidelity([Changes(1, np.array([0.2, 0.0, 0.4]))] * 2, [Choice(np.zeros(3), np.zeros(3))] * 2)
    assert sentence("global_anchor", found) == "global_anchor: chooses no token of these responses."


def test_what_is_said():
    def of(low, high):
        known = Estimate(0.4, 0.3, 0.5)
        return Fidelity(Estimate(1.5, low, high), Estimate(0.6, 0.5, 0.7), known, known)

    numbers = "the chosen 40 % of the tokens hold 60 % of the squared change of value (lift 1.50 [{}])."
    assert sentence("entropy", of(1.2, 1.8)) == "entropy finds the decisive tokens: " + numbers.format("1.20, 1.80")
    assert sentence("entropy", of(0.9, 1.8)).startswith("entropy cannot be told from chance: the chosen 40 %")
    assert sentence("entropy", of(0.5, 0.9)).startswith("entropy chooses other tokens than the decisive ones")
    assert sentence("place", of(1.2, 1.8)).startswith("place (the first tokens of the response): the chosen 40 %")


def test_what_a_strategy_chooses():
    assert choice_of(np.array([1.0, 1.5, 1, 1.25]), 0.5).chosen_T.tolist() == [False, True, False, True]
    assert choice_of(np.array([0.8, 1.0, 0.9, 0.8]), 0.5).chosen_T.tolist() == [False, True, True, False]
    assert choice_of(np.ones(3), 0.5).chosen_T.tolist() == [False] * 3
    assert top(np.array([1.0, 3, 3, 0, 2]), 0.4).tolist() == [False, True, True, False, False]


def test_responses_of_one_problem_come_after_those_of_the_others():
    cut = batches(3, 7, 4)
    assert [pair for batch in cut for pair in batch.pairs] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]
    assert [batch.number for batch in cut] == [0, 1]


# ---- a planted policy -----------------------------------------------------------------------------------------------


class Planted:
    """Responses of twelve coin flips whose values are known: right where at least `wanted` of three decisive flips
    come up heads; the other nine decide nothing."""

    def __init__(self, seed: int, problems: int = 60, continuations: int = 32) -> None:
        rng = np.random.default_rng(seed)
        self.responses, self.exact, self.decisive = [], [], []
        for problem in range(problems):
            places = sorted(rng.choice(12, 3, replace=False).tolist())
            heads, wanted = rng.random(12) < 0.5, rng.integers(1, 4)

            def value(t, places=places, heads=heads, wanted=wanted):
                so_far = sum(bool(heads[p]) for p in places if p < t)
                left = sum(p >= t for p in places)
                return sum(math.comb(left, k) for k in range(left + 1) if so_far + k >= wanted) / 2**left

            values = np.array([value(t) for t in range(13)])
            rewards = (rng.random((12, continuations)) < values[:12, None]).astype(float)
            self.exact.append(np.diff(values))
            self.decisive.append(np.isin(np.arange(12), places))
            self.responses.append(
                Valued(
                    problem,
                    str(problem),
                    [0],
                    list(range(12)),
                    np.full(12, -0.7),
                    values[12],
                    list(range(12)),
                    rewards,
                )
            )


def test_the_changes_are_unbiased_for_the_noise_of_the_values():
    found, exact, plain = 0.0, 0.0, 0.0
    for seed in range(20):
        planted = Planted(seed, continuations=8)
        found += sum(response.squared_T().sum() for response in planted.responses)
        plain += sum(np.square(response.changes_T()).sum() for response in planted.responses)
        exact += sum(np.square(change).sum() for change in planted.exact)
    assert found == pytest.approx(exact, rel=0.06)  # 1,200 responses; the standard error is 2 %
    assert plain > 1.3 * exact


@pytest.mark.parametrize("kind", ["decisive", "half", "early"])
def test_the_interval_holds_the_exact_lift(kind):
    """In 95 % of the seeds, but for chance: 40 seeds, at most 6 misses (a chance of 1 % if each misses by 5 %)."""
    misses = 0
    for seed in range(40):
        planted = Planted(seed)
        chosen = {
            "decisive": planted.decisive,
            "half": [mask & (np.arange(12) % 2 == 0) for mask in planted.decisive],
            "early": [np.arange(12) < 5] * len(planted.decisive),
        }[kind]
        choices = [Choice(mask.astype(float), mask) for mask in chosen]
        found = fidelity([Changes(r.problem, r.squared_T()) for r in planted.responses], choices)
        exact = fidelity([Changes(n, np.square(change)) for n, change in enumerate(planted.exact)], choices)
        misses += not found.lift.low <= exact.lift.value <= found.lift.high
        if kind == "decisive":
            assert exact.capture.value == 1 and found.finds is True
    assert misses <= 6


def test_the_oracle_and_the_controls_on_the_planted_policy():
    planted = Planted(0)
    changes = [Changes(response.problem, response.squared_T()) for response in planted.responses]
    by_name = controls(planted.responses, 0.25, 0)
    random = fidelity(changes, by_name["random"])
    assert random.lift.value == pytest.approx(1, abs=0.05) and random.auc.value == pytest.approx(0.5)
    assert [choice.chosen_T.tolist() for choice in by_name["place"]] == [[True] * 3 + [False] * 9] * 60
    best = fidelity(*oracle(planted.responses, 0.25))
    assert best.finds and best.capture.value > 0.8 and best.lift.value <= 4.3


def test_under_chance_strategies_are_off_chance_in_at_most_one_of_twenty():
    """200 simulations of shuffled labels: strategies that know nothing of the values. In 1,000 of them it is 3.8 %."""
    off = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        planted = Planted(seed % 20, continuations=8)
        shuffled = [rng.permutation(mask) for mask in planted.decisive]
        choices = [Choice(mask.astype(float), mask) for mask in shuffled]
        found = fidelity([Changes(r.problem, r.squared_T()) for r in planted.responses], choices, seed)
        off += found.finds is not None
    assert off <= 10


def test_every_strategy_and_control_is_measured():
    planted = Planted(3)
    reads = [Chosen({}, {"mine": Choice(mask.astype(float), mask)}) for mask in planted.decisive]
    found = measured(planted.responses, reads, {"mine": CreditArguments()}, CreditArguments(), 0)
    assert list(found) == ["mine", "random", "place", "oracle"] and found["mine"].finds


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "chess"}, "task: 'chess' is no evaluation set"),
        ({"continuations": 6}, "continuations: 6 .*a multiple of 4"),
        ({"temperature": 0.0}, "temperature: 0.0 .*above 0"),
        ({"p_max": 0.0}, "p_max: 0.0 .*above 0, up to 1"),
        ({"strategies": ["entropy", "random"]}, "strategies: 'random' is there already"),
    ],
)
def test_settings_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        FidelityArguments(**{"model": "m", "task": "countdown", **changes})


@pytest.mark.parametrize(
    ("strategies", "credit", "said"),
    [
        (
            ["otb"],
            {},
            "strategies: 'otb' reads the rollout of a training run; write strategies of attention",
        ),
        (["uniform"], {}, "strategies: 'uniform' chooses no tokens"),
        (["global_anchr"], {}, "did you mean global_anchor"),
        (["entropy"], {"credit_fai_horizon": [600, 700]}, "credit_fai_horizon: begins 600 tokens ahead"),
    ],
)
def test_strategies_that_cannot_be_scored(strategies, credit, said):
    with pytest.raises(ValueError, match=said):
        FidelityArguments(model="m", task="countdown", strategies=strategies).settings_of(CreditArguments(**credit))
