"""The benchmark's statistics: cases worked by hand, a simulated null, a simulated effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlcredit.stats.curves import area, best, reached
from rlcredit.stats.seeds import censored_median, compare_runs, completions_by, lowest_p, paired, welch

# ---- by hand ------------------------------------------------------------------------------------------------------


def test_paired_by_hand():
    # d = 0.01 0.03 0.02 0.04 0.00: mean 0.02, sd sqrt(0.001 / 4) = 0.0158114, t(0.975, 4) = 2.776445
    found = paired([0.50, 0.52, 0.49, 0.51, 0.48], [0.51, 0.55, 0.51, 0.55, 0.48])
    half = 2.776445 * math.sqrt(0.001 / 4) / math.sqrt(5)
    assert found.difference == pytest.approx((0.02, 0.02 - half, 0.02 + half), abs=1e-6)
    # the four that are not 0 are all above it: of 16 sign flips only this one and its mirror are as large
    assert found.p_value == 2 / 16
    assert found.seeds == 5 and lowest_p(5) == 1 / 16
    assert found.verdict == "higher"  # 0.02 - 0.0196


def test_paired_is_student_and_fisher():
    rng = np.random.default_rng(1)
    a_S, b_S = rng.normal(0, 1, 7), rng.normal(0.5, 1, 7)
    found = paired(a_S, b_S)
    student = stats.ttest_rel(b_S, a_S).confidence_interval(0.95)
    assert found.difference[1:] == pytest.approx((student.low, student.high))
    fisher = stats.permutation_test(
        (b_S - a_S,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert found.p_value == pytest.approx(fisher.pvalue)


def test_the_least_p_value_is_what_the_seeds_allow():
    for seeds in range(2, 8):
        found = paired(np.zeros(seeds), 1 + np.arange(seeds) / 100)
        assert found.p_value == 2 / 2**seeds == lowest_p(seeds)
    assert lowest_p(5) == 1 / 16 and lowest_p(1) == 1
    many = paired(np.zeros(20), 1 + np.arange(20) / 100)  # random flips
    assert lowest_p(20) <= many.p_value < 1e-3


def test_one_seed_and_no_difference_tell_nothing():
    one = paired([0.5], [0.9])
    assert math.isnan(one.difference.low) and one.p_value == 1 and one.verdict == "open"
    same = paired([0.5, 0.4, 0.6], [0.5, 0.4, 0.6])
    assert same.difference.value == 0 and math.isnan(same.difference.low) and same.p_value == 1
    alike = paired([0.5, 0.4, 0.3], [0.75, 0.65, 0.55])  # no spread to judge by, but for rounding
    assert alike.difference.value == pytest.approx(0.25) and math.isnan(alike.difference.low)
    assert same.verdict == alike.verdict == "open"
    assert alike.interval == "none: the differences are all alike" and one.interval == "none: one seed"
    assert math.isnan(welch([0.5, 0.5], [0.7, 0.7]).difference.low)
    assert paired([0.5, 0.6, 0.7], [0.4, 0.45, 0.61]).verdict == "lower"
    with pytest.raises(ValueError, match="same seeds"):
        paired([0.5, 0.6], [0.5])


def test_runs_are_paired_by_seed_where_seeds_match():
    a, b = [(0, 0.5), (1, 0.4), (2, 0.6)], [(2, 0.7), (0, 0.55), (1, 0.5)]
    assert compare_runs(a, b) == paired([0.6, 0.5, 0.4], [0.7, 0.55, 0.5])
    # the seeds that both have, where these are two or more
    assert compare_runs([*a, (7, 0.9)], b) == compare_runs(a, b)
    values = ([0.5, 0.4, 0.6], [0.7, 0.55, 0.5])
    for odd in (
        [(3, 0.7), (4, 0.55), (5, 0.5)],  # none
        [(2, 0.7), (4, 0.55), (5, 0.5)],  # one: over all runs there is an interval, over one seed none
        [(2, 0.7), (2, 0.55), (1, 0.5)],  # one seed twice
        [(None, 0.7), (None, 0.55), (None, 0.5)],  # not known
    ):
        assert compare_runs(a, odd) == welch(*values)
    single = compare_runs([(0, 0.5)], [(0, 0.75)])
    assert (single.difference.value, single.seeds, single.p_value) == (0.25, 1, 1) and math.isnan(
        single.difference.low
    )
    assert compare_runs([(0, 0.5)], [(1, 0.75)]).p_value is None


def test_welch_is_welch():
    rng = np.random.default_rng(2)
    a_R, b_R = rng.normal(0, 1, 5), rng.normal(0.5, 2, 7)
    scipys = stats.ttest_ind(b_R, a_R, equal_var=False).confidence_interval(0.95)
    found = welch(a_R, b_R)
    assert found.difference[1:] == pytest.approx((scipys.low, scipys.high))
    assert (found.p_value, found.seeds, found.interval) == (None, 0, "95 % over seeds (Welch's t)")


def test_area_by_hand():
    # trapezoids 20 * 0.3 + 20 * 0.5 + 40 * 0.6 = 40, over 80 steps
    assert area([0, 20, 40, 80], [0.2, 0.4, 0.6, 0.6]) == pytest.approx(0.5)
    assert area([5, 6], [0.1, 0.3]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="two points"):
        area([3], [0.4])
    with pytest.raises(ValueError, match="must rise"):
        area([0, 20, 20], [0.2, 0.4, 0.6])


def test_reached_by_hand():
    step_T, value_T = [0, 20, 40, 60], [0.2, 0.4, 0.3, 0.6]
    assert reached(step_T, value_T, 0.2) == 0  # from the start
    assert reached(step_T, value_T, 0.3) == pytest.approx(10)  # half way to 0.4; that it falls later does not matter
    assert reached(step_T, value_T, 0.4) == pytest.approx(20)
    assert reached(step_T, value_T, 0.5) == pytest.approx(40 + 20 * 2 / 3)
    assert reached(step_T, value_T, 0.61) is None
    assert reached([0, 20], [0.5, 0.3], 0.5) == 0  # and then never again
    assert reached([0, 20], [0.5, 0.5], 0.5) == 0


def test_a_median_of_censored_values():
    assert censored_median([3, None, 1]) == 3
    assert censored_median([None, 2, None]) is None
    assert censored_median([1, 2, 3, None]) == 2.5
    assert censored_median([1, 2, None, None]) is None  # between 2 and later than all
    assert censored_median([7]) == 7


def test_best_and_completions_by_hand():
    assert best([0.3, 0.5, 0.5, 0.4]) == 1
    # 4 steps a rollout of 256: step 0 has used none, steps 1 to 4 one, 4.1 the second
    assert [completions_by(step, 256, 4) for step in (0, 1, 4, 4.1, 80)] == [0, 256, 256, 512, 5120]
    assert completions_by(4 + 1e-12, 256, 4) == 256  # 4, as an interpolation rounds it


# ---- simulated grids ----------------------------------------------------------------------------------------------

GRIDS, SEEDS, PROBLEMS = 200, 5, 512


def simulated(rng: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Held-out accuracies of two ways of training at the same seeds.

    A seed moves both by 0.03 (the same rollouts at first), each run by 0.015 of its own; then 512 problems of
    different difficulty are answered once.
    """
    common = rng.normal(0, 0.03, SEEDS)
    difficulty = rng.beta(1, 1, PROBLEMS) - 0.5

    def accuracies(shift: float) -> np.ndarray:
        levels = 0.55 + shift + common + rng.normal(0, 0.015, SEEDS)
        chances = np.clip(levels[:, None] + 0.8 * difficulty, 0, 1)
        return (rng.random((SEEDS, PROBLEMS)) < chances).mean(1)

    return accuracies(0.0), accuracies(gain)


@pytest.fixture(scope="module")
def null():
    rng = np.random.default_rng(20)
    return [paired(*simulated(rng, 0.0)) for _ in range(GRIDS)]


def test_a_simulated_null_gives_few_false_gains(null):
    # 5 % of 200 are 10; 4 to 18 is within the binomial's own noise (99 %)
    verdicts = [found.verdict for found in null]
    assert 4 <= GRIDS - verdicts.count("open") <= 18
    assert verdicts.count("higher") <= 11  # gains that are none: 2.5 %
    assert abs(np.mean([found.difference.value for found in null])) < 0.003


def test_the_permutation_test_keeps_its_promise_under_the_null(null):
    p_values = np.array([found.p_value for found in null])
    assert p_values.min() >= 1 / 16
    for level in (1 / 16, 2 / 16, 4 / 16, 8 / 16):  # exact at its steps; three standard errors of 200 grids
        assert np.mean(p_values <= level) <= level + 3 * math.sqrt(level * (1 - level) / GRIDS)


def test_a_simulated_effect_is_found():
    rng = np.random.default_rng(21)
    found = [paired(*simulated(rng, 0.08)) for _ in range(GRIDS)]
    assert np.mean([one.verdict == "higher" for one in found]) > 0.9
    assert not any(one.verdict == "lower" for one in found)
    assert np.mean([one.difference.value for one in found]) == pytest.approx(0.08, abs=0.01)
    assert np.mean([one.p_value == 1 / 16 for one in found]) > 0.9
    covered = [one.difference.low <= 0.08 * 0.97 <= one.difference.high for one in found]
    assert np.mean(covered) > 0.88
