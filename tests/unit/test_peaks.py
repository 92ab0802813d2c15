"""Peaks: by hand, against a loop, and how many there are in noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlcredit.analysis.peaks import peaks

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        # ten values, three of which are top: 9, 8 and 7, each higher than its neighbours
        ([0, 9, 0, 0, 8, 0, 0, 7, 0, 6], [1, 4, 7]),
        # 9, 8 and 7 are top, but 8 stands beside 9 and 7 beside 8; 6 is a local maximum and not top
        ([0, 9, 8, 7, 0, 6, 0, 0, 0, 0], [1]),
        # ceil(0.3 * 5) = 2 are top, ceil(0.3 * 3) = 1 is
        ([5, 0, 0, 0, 4], [0, 4]),  # both ends are higher than their only neighbour
        ([5, 0, 4], [0]),
        ([1, 2], [1]),
        # the plateau 8 8 8 once, at its first token; all of its values are c, and pass
        ([0, 8, 8, 8, 0, 9, 0, 0, 0, 0], [1, 5]),
        ([8, 8, 0, 0, 0], [0]),
        ([0, 8, 8, 9, 0], [3]),  # a plateau on the way up is none
        ([3, 3, 3, 3], []),
        # of 7 defined values ceil(2.1) = 3 are top: 9, 7 and 6; 7 and 6 stand at an end beside nan, 9 at the other end
        ([9, 1, 7, NAN, 6, 0, 2, 1], [0, 2, 4]),
        ([NAN, 9, NAN, 1, 2, NAN], []),  # one of three values is top: the 9, which has no neighbour
        ([math.inf, 3, 2, 1], [1]),  # infinite: undefined
        ([NAN, NAN], []),
        ([4], []),
        ([], []),
    ],
)
def test_by_hand(values, wanted):
    assert np.flatnonzero(peaks(np.array(values, dtype=float))).tolist() == wanted


def loop(values):
    """The definition, token by token."""
    defined = sorted((v for v in values if not math.isnan(v)), reverse=True)
    marked = []
    for t, value in enumerate(values):
        before, after = t - 1, t + 1
        while after < len(values) and values[after] == value:
            after += 1
        sides = [values[i] for i in (before, after) if 0 <= i < len(values) and not math.isnan(values[i])]
        top = not math.isnan(value) and value >= defined[math.ceil(0.3 * len(defined) - 1e-9) - 1]
        marked.append(top and bool(sides) and all(value > side for side in sides))
    return marked


def test_equals_a_loop_on_values_with_ties_and_gaps():
    generator = np.random.default_rng(0)
    for length in range(1, 60):
        values = generator.integers(0, 6, length).astype(float)
        values[generator.random(length) < 0.15] = NAN
        assert peaks(values).tolist() == loop(values.tolist())


def test_share_of_peaks_in_noise():
    # inside (1 - 0.7^3) / 3 = 21.9 %; at the ends (1 - 0.7^2) / 2 = 25.5 %. 100,000 tokens: standard error 0.1 %
    marked = np.stack([peaks(row) for row in np.random.default_rng(1).random((500, 200))])
    assert marked[:, 1:-1].mean() == pytest.approx(0.219, abs=0.005)
    assert marked[:, [0, -1]].mean() == pytest.approx(0.255, abs=0.05)


def test_only_order_counts():
    values = np.random.default_rng(2).random(50)
    assert peaks(values).tolist() == peaks(np.exp(7 * values) - 3).tolist()


def test_refuses_a_matrix():
    with pytest.raises(ValueError, match="one dimension, not shape \\[2, 3\\]"):
        peaks(np.zeros((2, 3)))
