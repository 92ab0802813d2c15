"""Holm's correction, the share of a gain, and sets that cross keys."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlcredit.benchmark.grid import read_set
from rlcredit.errors import InputError
from rlcredit.stats.shares import holm, share_of_gain


def test_holm_by_hand():
    # In order 0.01, 0.03, 0.04: times 3, 2 and 1, never falling.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_holds_the_family_at_one_in_twenty():
    rng = np.random.default_rng(0)
    families = [min(holm(rng.random(12).tolist())) < 0.05 for _ in range(2_000)]
    assert np.mean(families) < 0.065  # 0.05 and three standard errors


def test_the_share_of_a_gain():
    found = share_of_gain([0.1, 0.2, 0.15, 0.15], [0.2, 0.4, 0.3, 0.3])
    assert found.value == pytest.approx(0.5) and found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)
    nothing = share_of_gain([0.1, -0.1], [0.3, -0.3])
    assert math.isnan(nothing.low)  # the oracle's own gain cannot be told from 0
    assert math.isnan(share_of_gain([0.1], [0.2]).low)


def test_fiellers_interval_holds_the_share():
    """Pairs of normal gains with a share of 0.4: 95 % of intervals, but for chance."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1_000):
        whole = rng.normal(0.2, 0.05, 8)
        gain = 0.4 * whole + rng.normal(0, 0.04, 8)
        found = share_of_gain(gain, whole)
        held += found.low <= 0.4 <= found.high
    assert held / 1_000 == pytest.approx(0.95, abs=0.021)


def test_a_line_that_crosses_keys(tmp_path):
    path = tmp_path / "set.yaml"
    path.write_text(
        '"{credit_strategy}_a{credit_amplification}":\n'
        "  cross: {credit_strategy: [random, 'm.n:late'], credit_amplification: [1.5, 4]}\n"
        "  credit_normalize: response\n"
    )
    found = {variant.name: variant.settings for variant in read_set(path)}
    assert list(found) == ["random_a1.5", "random_a4", "m.n.late_a1.5", "m.n.late_a4"]
    assert found["m.n.late_a4"] == {
        "credit_normalize": "response", "credit_strategy": "m.n:late", "credit_amplification": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {cross: {credit_quantile: 0.2}}", "cross is .*; write lists"),
        ("a: {cross: {credit_quantile: [0.2, 0.4]}}", "gives two variants one name; write {key} for each key"),
        ('"{credit_alpha}": {cross: {credit_quantile: [0.2]}}', "is no name for what is crossed"),
        ('"{credit_quantile}": {cross: {credit_quantile: [0.2]}, credit_quantile: 0.4}', "is crossed and set"),
    ],
)
def test_crossings_that_cannot_be(tmp_path, text, said):
    (tmp_path / "set.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=said):
        read_set(tmp_path / "set.yaml")
