"""The loops of tests/reference/rollout_methods.py against cases worked by hand, small enough to check on paper."""

from __future__ import annotations

import math

import pytest

from tests.reference import rollout_methods as loops


def close(*expected):
    return pytest.approx(list(expected), abs=2e-4)


def numbers(found):
    return list(found.values())


def test_otb_weighs_the_group_s_rewards_by_the_energy_so_far():
    # A coin (pi = 1/2, sum of squares 1/2) has the energy 1 - 1 + 1/2 = 1/2; one of four equal tokens
    # 1 - 1/2 + 1/4 = 3/4. W: 1/2, 1 for the first response; 3/4, 5/4 for the second, which has tool output at 1.
    # B at the first place: (1 * 1/2 + 0 * 3/4) / (5/4) = 0.4; at the second: 1 / (9/4) = 4/9.
    rows = [[0, 1], [0, 2]]
    rewards = [[0, 1, 0], [0, 0, 0]]
    probabilities = [[0.5, 0.5, 0], [0.25, 0, 0.5]]
    squares = [[0.5, 0.5, 0], [0.25, 0, 0.5]]
    first, second = loops.otb(rows, rewards, probabilities, squares)
    assert numbers(first) == close(0.6, 5 / 9)
    assert second.keys() == {0, 2}
    assert numbers(second) == close(-0.4, -4 / 9)


def test_otb_gives_nothing_where_one_response_is_left_and_the_reward_where_nothing_was_drawn():
    rows, rewards = [[0, 1], [0]], [[0, 1], [1, 0]]
    drawn = loops.otb(rows, rewards, [[0.5, 0.5]] * 2, [[0.5, 0.5]] * 2)
    assert numbers(drawn[0]) == close(0, 0)
    certain = loops.otb(rows, rewards, [[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2)
    assert numbers(certain[0]) == close(1, 1)  # W = 0: the baseline is 0 / eps


def test_otb_of_rewards_within_a_response_counts_those_to_come():
    # G: 3, 2 and 1, 0; equal weights: B = 2, 1.
    coin = [[0.5, 0.5]] * 2
    first, second = loops.otb([[0, 1]] * 2, [[1, 2], [1, 0]], coin, coin)
    assert numbers(first) == close(1, 1)
    assert numbers(second) == close(-1, -1)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((3, 0, 0, 3), 2 / 20),  # one table of C(6, 3) = 20, and its mirror image
        ((2, 1, 1, 2), 1),  # the likeliest
        ((3, 1, 1, 3), 34 / 70),  # Fisher's tea: (1 + 16) * 2 of C(8, 4) = 70
        ((4, 4, 0, 0), 1),  # a token that every response has
    ],
)
def test_fisher(table, expected):
    assert loops.fisher(*table) == pytest.approx(expected)


def test_information_gain_in_bits():
    assert loops.information_gain(3, 0, 0, 3) == pytest.approx(1)
    assert loops.information_gain(2, 2, 0, 0) == pytest.approx(0)
    # 1 - (3/4) * H(2/3, 1/3) = 1 - 0.75 * 0.9183
    assert loops.information_gain(2, 1, 0, 1) == pytest.approx(0.3113, abs=1e-4)


def test_ktae_value_of_a_token_on_both_sides():
    # Right: 5 | 5. Wrong: 5 | 6. Token 5 has the table 2, 1, 0, 1: p = 1, so Fisher says 0; gain 0.3113; half of it is
    # the association, 0.1556. Direction: asin(1) - asin(sqrt(1/2)) = pi / 4; BM25 with K = 2: 1 * 3 / 3 = 1 in right
    # ones, 0.5 * 3 / 2.5 = 0.6 in wrong ones: 1 / 0.6 - 0.6 = 1.0667. In all 1.8521; tanh(0.1556 * 1.8521 / 2).
    values = loops.key_values([[0]] * 4, [[5], [5], [5], [6]], [True, True, False, False])
    assert values[5] == pytest.approx(math.tanh(0.15564 * 1.85206 / 2), abs=1e-4)
    assert values[6] == pytest.approx(-1)  # only in wrong ones: the ratio of frequencies is cut by 1e-5 alone


def test_ktae_value_of_a_token_that_right_responses_have_more_often():
    # Right: 5 | 5 | 5 | 9. Wrong: 5 7 | 9 7 | 9 7 | 9 7. Token 5: Fisher's tea, exp(-2 * 34 / 70) = 0.37855; gain
    # 1 - H(1/4) = 0.18872; mean 0.28363. Direction: pi / 3 - pi / 6 = 0.5236; the classes have 4 and 8 tokens, 6 in
    # the mean: K = 1 + 4/6 and 1 + 8/6, 0.75 * 3 / (0.75 + 1.6667) = 0.93103, 0.125 * 3 / (0.125 + 2.3333) = 0.15254,
    # and 0.93103 / 0.15254 - 0.15254 / 0.93103 = 5.9396.
    ids = [[5], [5], [5], [9], [5, 7], [9, 7], [9, 7], [9, 7]]
    values = loops.key_values([[0]] * 4 + [[0, 1]] * 4, ids, [True] * 4 + [False] * 4)
    assert values[5] == pytest.approx(math.tanh(0.28363 * (0.5236 + 5.9396) / 2), abs=2e-4)  # 0.724


def test_ktae_adds_the_value_to_the_response_s_advantage():
    # Every response starts with 7, which tells nothing; 5 is in the right ones only, 6 in the wrong ones only.
    found = loops.ktae([[0, 1]] * 4, [[7, 5], [7, 5], [7, 6], [7, 6]], [1, 1, 0, 0])
    advantage = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert numbers(found[0]) == close(advantage, advantage + 1)
    assert numbers(found[3]) == close(-advantage, -advantage - 1)


@pytest.mark.parametrize("reward", [0, 1])
def test_ktae_of_a_group_of_one_kind_is_grpo(reward):
    assert loops.ktae([[0, 1], [0]], [[3, 4], [5, 5]], [reward] * 2) == [{0: 0, 1: 0}, {0: 0}]
    assert loops.ktae([[0]], [[3]], [reward]) == [{0: 0}]


def test_ktae_without_an_excluded_token():
    found = loops.ktae([[0]] * 2, [[5], [6]], [1, 0], excluded=[5])
    assert numbers(found[0]) == close(loops.grpo([1, 0])[0])
    assert numbers(found[1]) == close(loops.grpo([1, 0])[1] - 1)


ENTROPIES = [[1, 3], [3, 0], [2, 1]]


def test_gtpo_normalises_right_and_wrong_apart():
    # Right, first place: 0.9 + 0.1 * 2 * (1/4, 3/4) = 0.95, 1.05; second place, one alone: 1. Mean 1, deviation 0.05.
    # The wrong response is alone: -1 everywhere, no deviation.
    found = loops.gtpo([[0, 1], [0], [0, 1]], ENTROPIES, [1, 1, 0])
    assert numbers(found[0]) == close(-1, 0)
    assert numbers(found[1]) == close(1)
    assert numbers(found[2]) == [0, 0]


def test_gtpo_normalises_the_group_together():
    # 0.95, 1, 1.05, -1, -1: mean 0.2, squares 0.5625 + 0.64 + 0.7225 + 1.44 + 1.44 = 4.805, deviation 1.0960.
    found = loops.gtpo([[0, 1], [0], [0, 1]], ENTROPIES, [1, 1, 0], apart=False)
    assert numbers(found[0]) == close(0.75 / 1.0960, 0.8 / 1.0960)
    assert numbers(found[1]) == close(0.85 / 1.0960)
    assert numbers(found[2]) == close(-1.2 / 1.0960, -1.2 / 1.0960)


def test_gtpo_blames_sure_tokens_of_wrong_responses_most():
    # 1/H: 1, 1/3, shares 3/4, 1/4, times two: -(0.9 + 0.15), -(0.9 + 0.05): -1 -+ 0.05, deviation 0.0707.
    found = loops.gtpo([[0], [4]], [[1], [0, 0, 0, 0, 3]], [0, 0])
    assert found[0][0] == pytest.approx(-math.sqrt(0.5), abs=1e-4)
    assert found[1][4] == pytest.approx(math.sqrt(0.5), abs=1e-4)


def test_process_supervision():
    # All steps: 1, 0, 0.5; mean 0.5, deviation 0.5: 1, -1, 0.
    found = loops.process([[0, 1, 2, 3], [0, 1]], [{1: 1, 3: 0}, {1: 0.5}], eps=0)
    assert numbers(found[0]) == close(0, 0, -1, -1)
    assert numbers(found[1]) == close(0, 0)
    assert loops.process([[0], []], [{}, {}]) == [{0: 0}, {}]


def test_return_to_go():
    # To go: 1, 1, 0, 0 and 0.5, 0.5; the mean of the first two places is 0.75; then one is left.
    found = loops.return_to_go([[0, 1, 2, 3], [0, 1]], [{1: 1, 3: 0}, {1: 0.5}])
    assert numbers(found[0]) == close(0.25, 0.25, 0, 0)
    assert numbers(found[1]) == close(-0.25, -0.25)


def test_monte_carlo_differences():
    row, values = [0, 1, 2, 3, 4], {0: 0.5, 2: 0.25, 4: 0.75}
    found = loops.monte_carlo(row, values, reward=1)
    assert numbers(found) == close(-0.25, -0.25, 0.5, 0.5, 0.25)
    assert sum(found[place] for place in values) == pytest.approx(1 - 0.5)  # they add up to R - V(prompt)
    sure = loops.monte_carlo(row, values, 1, probabilities=[0.5, 0.99, 0.5, 0.99, 0.5], limit=0.9)
    assert numbers(sure) == close(-0.25, 0, 0.5, 0, 0.25)
    assert numbers(loops.monte_carlo(row, {2: 0.25}, 1)) == close(0, 0, 0.75, 0.75, 0.75)
    assert numbers(loops.monte_carlo(row, {}, 1)) == [0] * 5


def test_answer_attention():
    # Mean over the answer's rows: 0.4 and 0.1. Two values have z = 1 and -1, whatever they are.
    attention = [[], [], [0.3, 0.15, 0.55, 0], [0.5, 0.05, 0.2, 0.25]]
    one, minus_one = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    found = loops.answer_attention([0, 1, 2, 3], [2, 3], attention)
    assert numbers(found) == close(0.5 + 0.5 * one, 0.5 + 0.5 * minus_one, 1, 1)
    assert numbers(loops.answer_attention([0, 1, 2, 3], [2, 3], attention, floor=0)) == close(one, minus_one, 1, 1)
    assert numbers(loops.answer_attention([0, 1, 2, 3], [], attention)) == [1] * 4
    assert numbers(loops.answer_attention([1, 2, 3], [2, 3], attention)) == [0.75, 1, 1]  # one token: z = 0


def test_low_probability_tokens():
    assert loops.reweight([0, 2], [0.5, 0, 1.0]) == pytest.approx({0: 0.85, 2: 1.0})
    assert loops.isolate([0, 1, 2], [0.5, 0.4, 0.9]) == ([1], [0, 2])


def test_high_entropy_tokens_are_ranked_over_all_rows():
    # Five tokens, two fifths: 3 and 2; a tie would go to the earlier row and token.
    found = loops.high_entropy([[0, 1, 2], [0, 1]], [[1, 3, 0], [1, 2]], share=0.4)
    assert found == [{0: 0, 1: 1, 2: 0}, {0: 0, 1: 1}]
