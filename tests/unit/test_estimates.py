"""Estimates and comparisons: worked by hand, against brute force, and how often the intervals cover the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rlcredit.stats.estimates import (
    Estimate,
    majority_correct,
    mean_interval,
    mean_with_interval,
    pass_at_k,
    summarize,
)
from rlcredit.stats.paired import compare, difference_interval, sign_flip_p

# ---- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "c", "k", "wanted"),
    [
        (4, 1, 2, 1 / 2),  # 1 - C(3,2) / C(4,2) = 1 - 3/6
        (4, 2, 2, 5 / 6),  # 1 - C(2,2) / C(4,2) = 1 - 1/6
        (5, 1, 3, 3 / 5),  # 1 - C(4,3) / C(5,3) = 1 - 4/10
        (4, 3, 2, 1.0),  # two wrong ones cannot be drawn
        (4, 0, 4, 0.0),
        (4, 1, 4, 1.0),
        (1, 1, 1, 1.0),
    ],
)
def test_pass_at_k_by_hand(n, c, k, wanted):
    assert pass_at_k(np.arange(n)[None] < c, k).tolist() == [pytest.approx(wanted, abs=1e-12)]


def test_pass_at_k_is_exact_where_binomials_are_huge():
    wanted = 1 - math.comb(9_990, 1_000) / math.comb(10_000, 1_000)
    assert pass_at_k(np.arange(10_000)[None] < 10, 1_000)[0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("answers", "correct", "wanted"),
    [
        (["3", "3", "4", "5"], [1, 1, 0, 0], 1.0),
        (["3", "4", "4", "5"], [1, 0, 0, 0], 0.0),
        (["3", "3", "4", "4"], [1, 1, 0, 0], 1 / 2),  # two tied answers, one of them right
        (["3", "4", "5", None], [1, 0, 0, 0], 1 / 3),  # three tied with a vote each
        ([None, None, None, "3"], [0, 0, 0, 1], 1.0),  # None does not vote
        ([None, None, None, None], [0, 0, 0, 0], 0.0),
        (["1/2", "0.5", "4", "4"], [1, 1, 0, 0], 0.0),  # strings: 1/2 and 0.5 do not vote together
        (["3", "3", "3", "4"], [1, 1, 0, 1], 2 / 3),  # the same answer judged differently: its samples' mean
    ],
)
def test_majority_by_hand(answers, correct, wanted):
    assert majority_correct(np.array([correct], dtype=bool), [answers]).tolist() == [pytest.approx(wanted)]


def test_wilson_by_hand():
    # 8 of 10: (0.8 + 3.8415/20 -+ 1.95996 * sqrt(0.016 + 3.8415/400)) / 1.38415 = (0.99207 -+ 0.31358) / 1.38415
    made = mean_with_interval([1.0] * 8 + [0.0] * 2, 1)
    assert made == pytest.approx((0.8, 0.49016, 0.94332), abs=5e-5)
    assert str(made) == "0.800 [0.490, 0.943]"
    # more samples a problem change nothing when every problem is solved always or never
    assert mean_with_interval([1.0] * 8 + [0.0] * 2, 64) == pytest.approx(made, abs=1e-12)


def test_effective_size_by_hand():
    # 1/4 and 3/4 of four samples: m = (1/4 + 3/4 + 1/2) / 3 = 1/2, v = (1/16 + 9/16 + 1/2) / 3 - 1/4 = 1/8, so n_eff =
    # 2 * (1/4) / (1/8) = 4. Wilson, 2 of 4: 1/2 -+ 1.95996 * sqrt(1/16 + 3.84146/64) / (1 + 3.84146/4)
    made = mean_with_interval([0.25, 0.75], 4)
    assert made == pytest.approx((0.5, 0.15004, 0.84996), abs=5e-5)
    assert made == pytest.approx(mean_with_interval([1.0, 1.0, 0.0, 0.0], 1), abs=1e-12)
    # equal problems: n_eff = P * samples = 4, and not more
    assert mean_with_interval([0.5, 0.5], 2) == pytest.approx(made, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 16])
@pytest.mark.parametrize("problems", [1, 2, 30])
def test_nothing_or_everything_solved(problems, samples):
    # Wilson, 0 of P: [0, z^2 / (P + z^2)]
    wanted = 3.841459 / (problems + 3.841459)
    assert mean_with_interval([0.0] * problems, samples) == pytest.approx((0, 0, wanted), abs=1e-6)
    assert mean_with_interval([1.0] * problems, samples) == pytest.approx((1, 1 - wanted, 1), abs=1e-6)


def test_one_lucky_sample_narrows_little():
    # one right sample of 480 must not turn [0, 0.11] into [0, 0.01]: nobody knows yet how problems differ
    none, one = mean_with_interval([0.0] * 30, 16), mean_with_interval([1 / 16] + [0.0] * 29, 16)
    assert 0.9 * none.high < one.high < 1.1 * none.high


def test_mean_interval_by_hand():
    # mean 200, s = 100, t(0.975, 2) = 4.30265: 200 -+ 4.30265 * 100 / sqrt(3)
    made = mean_interval([100, 200, 300])
    assert made == pytest.approx((200, -48.414, 448.414), abs=1e-3)
    assert str(made) == "200.0 [-48.4, 448.4]"
    alone = mean_interval([7.0])
    assert alone.value == 7 and math.isnan(alone.low) and math.isnan(alone.high)


def test_summary_by_hand():
    correct = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    answers = [["3", "3", "4", None], ["1", "1", "2", "7"], [None] * 4]
    lengths = np.array([[10, 20, 30, 40], [10, 10, 10, 10], [40, 40, 40, 40]])
    made = summarize(correct, answers, lengths, lengths == 40)
    assert list(made) == ["pass@1", "avg@4", "pass@2", "pass@4", "maj@4", "length", "truncated"]
    assert made["pass@1"] == made["avg@4"] == mean_with_interval([0.5, 0.25, 0.0], 4)
    assert made["pass@2"].value == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    assert made["pass@4"] == pytest.approx(mean_with_interval([1.0, 1.0, 0.0], 1))
    assert made["maj@4"] == mean_with_interval([1.0, 0.0, 0.0], 1)
    assert made["length"] == mean_interval([25.0, 10.0, 40.0])
    assert made["truncated"] == mean_with_interval([0.25, 0.0, 1.0], 4)


def test_summary_of_one_sample_and_of_odd_counts():
    one = np.ones((3, 1), dtype=bool)
    assert list(summarize(one, [["1"]] * 3, one * 5, ~one)) == ["pass@1", "length", "truncated"]
    six = np.ones((2, 6), dtype=bool)
    assert "maj@6" not in summarize(six, None, six * 5, ~six)
    names = list(summarize(six, [["1"] * 6] * 2, six * 5, ~six))
    assert names == ["pass@1", "avg@6", "pass@2", "pass@4", "pass@6", "maj@6", "length", "truncated"]


def test_bonett_price_by_hand():
    # ten problems, three gained, one lost, two right in both, four wrong in both: b - a = 0.2.
    # One more +1 and -1: D = (4 - 2) / 12 = 1/6, V = (4 + 2) / 12 - 1/36 = 0.47222,
    # 1/6 -+ 1.95996 * sqrt(0.47222 / 12) = 0.16667 -+ 0.38881
    a = [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    b = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    made = compare(a, b, 1, 1)
    assert made.difference == pytest.approx((0.2, -0.22214, 0.55548), abs=5e-5)
    assert (made.problems, made.gained, made.lost) == (10, [0, 1, 2], [3])
    assert made.p_value == 10 / 16  # |sum| >= 2 of four signs: +-4 (2 flips) and +-2 (8 flips)


def test_differences_of_many_samples_by_hand():
    # d = 0.25, 0.5, 0: mean 0.25, s = 0.25, t(0.975, 2) = 4.30265: 0.25 -+ 4.30265 * 0.25 / sqrt(3)
    made = compare([0.5, 0.5, 0.25], [0.75, 1.0, 0.25], 4, 4)
    assert made.difference == pytest.approx((0.25, -0.37104, 0.87104), abs=5e-5)
    assert (made.gained, made.lost) == ([0, 1], [])  # 1/2 is not solved yet
    assert compare([0.75, 1.0, 0.25], [0.5, 0.5, 0.25], 4, 4).lost == [0, 1]
    assert compare([0.75, 0.5], [1.0, 0.25], 4, 4)[3:] == ([], [])  # neither crosses 1/2


@pytest.mark.parametrize("step", [0.0, 0.25])
@pytest.mark.parametrize("problems", [1, 2, 30])
def test_equal_differences_have_a_width(step, problems):
    made = compare([0.5] * problems, [0.5 + step] * problems, 4, 4).difference
    assert made.low < made.value == step < made.high


def test_sign_flips_by_hand():
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, 0.1, 0.4])) == 2 / 32  # all plus or all minus
    assert sign_flip_p(np.array([0.1, 0.2, 0.0, 0.0])) == 2 / 4
    assert sign_flip_p(np.array([1.0, 1.0, 1.0, -1.0])) == 10 / 16
    assert sign_flip_p(np.zeros(40)) == 1
    assert sign_flip_p(np.full(60, 0.1)) == 1 / 20_001  # never 0


def test_random_flips_agree_with_all_flips():
    differences = np.random.default_rng(3).normal(0.3, 1, 17)
    sums = [0.0]
    for difference in differences:
        sums = np.concatenate([np.add(sums, difference), np.subtract(sums, difference)])
    exact = (abs(sums) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.01) and 0.05 < exact < 0.95
    # the sign and the order change nothing, nor does the global generator
    assert sign_flip_p(differences) == sign_flip_p(-differences) == sign_flip_p(differences[::-1])


# ---- properties ---------------------------------------------------------------------------------------------------


def counts():
    """n, and how many of each problem's n samples are right."""
    return st.integers(1, 7).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=8))
    )


@settings(max_examples=80, deadline=None)
@given(counts(), st.integers(0, 2**31))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(drawn, seed):
    n, right = drawn
    correct = np.random.default_rng(seed).permuted([np.arange(n) < c for c in right], axis=1)
    made = [pass_at_k(correct, k) for k in range(1, n + 1)]
    for k, values in enumerate(made, start=1):
        subsets = list(itertools.combinations(range(n), k))
        wanted = [sum(any(row[list(s)]) for s in subsets) / len(subsets) for row in correct]
        assert values.tolist() == pytest.approx(wanted, abs=1e-12)
    assert made[0].tolist() == pytest.approx(correct.mean(1).tolist(), abs=1e-12)
    assert all((more >= less - 1e-12).all() for less, more in itertools.pairwise(made))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 64), st.integers(0, 2**31))
def test_interval_encloses_the_mean_and_ignores_the_order(values, samples, seed):
    made = mean_with_interval(values, samples)
    assert 0 <= made.low <= made.value <= made.high <= 1 and made.low < made.high
    assert mean_with_interval(np.random.default_rng(seed).permutation(values), samples) == pytest.approx(made)
    # between what P and what P * samples independent samples give
    wide, narrow = (mean_with_interval(np.full(size, made.value), 1) for size in (len(values), len(values) * samples))
    assert wide.low - 1e-9 <= made.low <= narrow.low + 1e-9
    assert narrow.high - 1e-9 <= made.high <= wide.high + 1e-9


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12),
    st.sampled_from([1, 8]),
    st.integers(0, 2**31),
)
def test_comparison_is_antisymmetric_and_ignores_the_order(pairs, samples, seed):
    a, b = (np.array(pairs).T / 8 if samples == 8 else np.array(pairs).T // 5).astype(float)
    made, back = compare(a, b, samples, samples), compare(b, a, samples, samples)
    value, low, high = made.difference
    assert -1 <= low <= value <= high <= 1 and low < high and 0 < made.p_value <= 1
    assert back.difference == pytest.approx((-value, -high, -low), abs=1e-12)
    assert (back.p_value, back.gained, back.lost) == (made.p_value, made.lost, made.gained)
    order = np.random.default_rng(seed).permutation(len(a))
    moved = compare(a[order], b[order], samples, samples)
    assert moved.difference == pytest.approx(made.difference, abs=1e-12) and moved.p_value == made.p_value
    assert sorted(order[moved.gained]) == made.gained


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_summary_ignores_the_order_of_problems_and_of_samples(problems, n, seed):
    generator = np.random.default_rng(seed)
    answers = generator.choice(["1", "2", "3", "none"], (problems, n))
    lengths, truncated = generator.integers(1, 9, (problems, n)), generator.random((problems, n)) < 0.3

    def summary(row_order, column_order):
        def moved(x):
            return x[row_order][:, column_order]

        given = [[None if x == "none" else str(x) for x in row] for row in moved(answers)]
        return summarize(moved(answers) == "1", given, moved(lengths), moved(truncated))

    made = summary(np.arange(problems), np.arange(n))
    other = summary(generator.permutation(problems), generator.permutation(n))
    assert list(made) == list(other)
    for name, estimate in made.items():
        assert other[name] == pytest.approx(estimate, abs=1e-9, nan_ok=True)


# ---- how often the intervals cover the truth ----------------------------------------------------------------------
#
# Each problem's chance p_i is drawn from Beta(a p, a (1 - p)): a = 0.05 is nearly always 0 or 1, a = inf equally hard.
# Share of 2,000 evaluations whose interval covers p; in brackets what it was without the two half problems in n_eff
# (6,000 evaluations, another seed; Student's t in place of z added 0.015 at most, where there were 30 problems).
#
#     P    n   p      a = 0.05         a = 0.3          a = 1            a = 3            a = inf
#     30   16  0.02   0.971 (0.956)    0.959 (0.894)    0.964 (0.854)    0.977 (0.876)    1.000 (0.960)
#     30   16  0.1    0.961 (0.953)    0.963 (0.918)    0.963 (0.921)    0.978 (0.927)    0.999 (0.955)
#     30   16  0.5    0.952 (0.952)    0.954 (0.953)    0.957 (0.947)    0.954 (0.943)    0.985 (0.958)
#     30   16  0.9    0.965 (0.955)    0.951 (0.922)    0.971 (0.920)    0.979 (0.928)    0.999 (0.953)
#     100  16  0.02   0.959 (0.927)    0.971 (0.891)    0.974 (0.895)    0.981 (0.915)    1.000 (0.949)
#     100  16  0.1    0.954 (0.953)    0.949 (0.951)    0.945 (0.943)    0.955 (0.943)    0.991 (0.955)
#     100  16  0.5    0.951 (0.950)    0.945 (0.950)    0.951 (0.947)    0.956 (0.949)    0.971 (0.959)
#     100  16  0.9    0.941 (0.949)    0.944 (0.949)    0.953 (0.949)    0.952 (0.944)    0.991 (0.953)
#
# The price is paid where all problems are equally hard: there the interval is up to three times as wide as it need be.

DIFFICULTIES = [0.02, 0.1, 0.5, 0.9]


def covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([low <= truth <= high for _, low, high in estimates]))


def chances(generator, shape, p, a):
    return np.full(shape, p) if a == math.inf else generator.beta(a * p, a * (1 - p), shape)


@pytest.mark.parametrize("a", [0.05, 0.3, 1, 3, math.inf])
@pytest.mark.parametrize("p", DIFFICULTIES)
@pytest.mark.parametrize(("problems", "n"), [(30, 16), (100, 16)])
def test_coverage_of_clustered_means(problems, n, p, a):
    generator = np.random.default_rng(0)
    values = generator.binomial(n, chances(generator, (2_000, problems), p, a)) / n
    share = covered([mean_with_interval(row, n) for row in values], p)
    assert 0.93 <= share <= (0.985 if a <= 3 else 1)


@pytest.mark.parametrize("p", DIFFICULTIES)
@pytest.mark.parametrize("problems", [30, 100])
def test_coverage_of_single_samples(problems, p):
    # exact, over all counts: 0.978 0.974 0.957 0.974 with 30 problems, 0.949 0.936 0.943 0.936 with 100
    solved = np.arange(problems + 1)
    covers = [covered([mean_with_interval(np.arange(problems) < c, 1)], p) for c in solved]
    assert 0.93 <= covers @ binom.pmf(solved, problems, p) <= 0.985


@pytest.mark.parametrize("a", [0.05, 0.3, 1, 3])
@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
def test_coverage_of_pass_at_k(p, k, a):
    # 0.943 to 0.968 in these settings; pass@k is E[1 - (1 - p_i)^k] = 1 - prod_{j<k} (a (1 - p) + j) / (a + j)
    generator = np.random.default_rng(0)
    right = generator.binomial(16, chances(generator, (2_000, 30), p, a))
    value_by_count = pass_at_k(np.tri(17, 16, -1), k)
    truth = 1 - math.prod((a * (1 - p) + j) / (a + j) for j in range(k))
    share = covered([mean_with_interval(row, 16 - k + 1) for row in value_by_count[right]], truth)
    assert 0.93 <= share <= 0.985


@pytest.mark.parametrize(
    ("problems", "gain", "loss"),
    [(30, 0.02, 0.02), (30, 0.2, 0.1), (30, 0.3, 0.0), (100, 0.02, 0.02), (100, 0.2, 0.1), (100, 0.3, 0.3)],
)
def test_coverage_of_single_sample_differences(problems, gain, loss):
    # 1.000 0.959 0.958 with 30 problems, 0.994 0.952 0.952 with 100: too much where almost nothing changed
    counts = np.random.default_rng(0).multinomial(problems, [gain, loss, 1 - gain - loss], 2_000)
    share = covered([difference_interval(np.repeat([1.0, -1.0, 0.0], drawn), True) for drawn in counts], gain - loss)
    assert 0.93 <= share <= (0.985 if gain + loss > 0.1 else 1)


def simulated(generator, problems, n, a, changed, gain):
    """Two evaluations (p = 0.3). In the second a share `changed` of problems loses the part `gain` of its failures."""
    first = chances(generator, problems, 0.3, a)
    second = first + (1 - first) * gain * (generator.random(problems) < changed)
    return generator.binomial(n, first) / n, generator.binomial(n, second) / n


def student(problems, n, a, changed, gain):
    """2,000 intervals from one simulation, and the true difference."""
    generator = np.random.default_rng(0)
    pairs = [simulated(generator, problems, n, a, changed, gain) for _ in range(2_000)]
    return [difference_interval(second - first, False) for first, second in pairs], 0.7 * changed * gain


@pytest.mark.parametrize(("changed", "gain"), [(0.0, 0.0), (0.5, 0.3), (1.0, 0.2)])
@pytest.mark.parametrize("problems", [30, 100])
def test_coverage_of_differences_of_many_samples(problems, changed, gain):
    # 0.951 0.945 0.945 with 30 problems, 0.951 0.954 0.955 with 100
    assert 0.93 <= covered(*student(problems, 8, 1.0, changed, gain)) <= 0.985


@pytest.mark.parametrize(("problems", "wanted"), [(30, 0.69), (100, 0.89), (300, 0.935)])
def test_student_misses_rare_large_gains(problems, wanted):
    # the limit that the module states: what it misses are gains larger than it tells
    made, truth = student(problems, 16, 0.1, 0.05, 1.0)
    assert covered(made, truth) == pytest.approx(wanted, abs=0.01)
    assert np.mean([low > truth for _, low, _ in made]) < 0.01


@pytest.mark.parametrize(("problems", "runs"), [(12, 2_000), (40, 400)])
def test_equally_good_is_called_different_in_one_of_twenty(problems, runs):
    # p < 0.05 in 0.039 of 2,000 (all flips) and 0.050 of 400 (random flips). With 8 samples in place of 64 it is 0.02
    # to 0.03: differences are multiples of 1/8, many sums tie with the observed one, and ties raise the p-value.
    generator = np.random.default_rng(1)
    made = [compare(*simulated(generator, problems, 64, 3.0, 0.0, 0.0), 64, 64) for _ in range(runs)]
    assert 0.03 <= np.mean([each.p_value < 0.05 for each in made]) <= 0.065


def test_five_percent_of_continuous_differences_are_below_five_percent():
    # no ties: 0.0508 of 4,000
    generator = np.random.default_rng(5)
    below = [sign_flip_p(generator.normal(size=12)) < 0.05 for _ in range(4_000)]
    assert 0.045 <= np.mean(below) <= 0.055


def test_better_is_found():
    # half of 100 problems lose half of their failures: + 0.175. Of 50 runs the least clear one has p = 0.0001
    generator = np.random.default_rng(2)
    made = [compare(*simulated(generator, 100, 8, 1.0, 0.5, 0.5), 8, 8) for _ in range(50)]
    assert max(each.p_value for each in made) < 0.001
    assert min(each.difference.low for each in made) > 0
    assert abs(np.mean([each.difference.value for each in made]) - 0.175) < 0.02


# ---- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(np.ones((2, 4)), 5), r"pass@5 needs 1 <= k <= samples, and every problem has 4"),
        (lambda: pass_at_k(np.ones((2, 4)), 0), "pass@0"),
        (lambda: pass_at_k([[True], [True, False]], 1), "correct: every problem needs the same number of samples"),
        (lambda: pass_at_k(np.ones((0, 4)), 1), r"with one or more of each, not \[0, 4\]"),
        (lambda: majority_correct(np.ones((2, 2)), [["1", "2"], ["1"]]), "answers must be 2 lists of 2"),
        (lambda: majority_correct(np.ones((2, 2)), [["1", "2"]]), "answers must be 2 lists of 2"),
        (lambda: mean_with_interval([], 1), "one value a problem"),
        (lambda: mean_with_interval([0.5, 1.5], 1), r"in \[0, 1\]"),
        (lambda: mean_with_interval([0.5, math.nan], 1), r"in \[0, 1\]"),
        (lambda: mean_with_interval([0.5], 0), "samples must be 1 or more"),
        (lambda: mean_interval(np.ones((2, 2))), "one value a problem"),
        (
            lambda: summarize(np.ones((2, 2)), [["1"] * 2] * 2, np.ones((2, 3)), np.ones((2, 2))),
            r"different shapes: \(2, 2\), \(2, 3\) and \(2, 2\)",
        ),
        (lambda: compare([1, 0], [1], 1, 1), "a has 2 problems and b has 1"),
        (lambda: compare([1], [1], 1, 0), "samples must be 1 or more"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
