"""GAE against the sum it abbreviates (Schulman et al. 2015, eq. 11-16), over the tokens that the model wrote."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcredit.credit.gae import gae


def loop(rewards, values, written, gamma, lam):
    """A_t = sum over l of (gamma * lambda)^l * delta_{t+l}, on one row's written tokens."""
    places = [t for t, w in enumerate(written) if w]
    r, v = [rewards[t] for t in places], [values[t] for t in places] + [0.0]
    deltas = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(r))]
    return {t: sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(deltas))) for i, t in enumerate(places)}


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    length=st.integers(1, 30),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    lam=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_equals_the_sum(seed, rows, length, gamma, lam):
    made = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, rows, length, generator=made)
    written = torch.rand(rows, length, generator=made) > 0.3  # several spans, and rows without any
    advantages, returns = gae(rewards, values, written, gamma, lam)
    for row in range(rows):
        wanted = loop(rewards[row].tolist(), values[row].tolist(), written[row].tolist(), gamma, lam)
        for t in range(length):
            # thirty terms of up to 4 in fp32: partial sums of 100 that are off by 6e-8 of themselves
            assert advantages[row, t].item() == pytest.approx(wanted.get(t, 0.0), abs=1e-5)
            value = wanted[t] + values[row, t].item() if t in wanted else 0.0
            assert returns[row, t].item() == pytest.approx(value, abs=1e-5)


def test_lambda_one_with_a_zero_critic_is_the_reward_to_go():
    rewards = torch.tensor([[1.0, 5.0, 2.0, 4.0]])
    written = torch.tensor([[True, False, True, True]])  # the 5 lies in tool output
    advantages, returns = gae(rewards, torch.zeros(1, 4), written, 1.0, 1.0)
    assert advantages.tolist() == returns.tolist() == [[7.0, 0.0, 6.0, 4.0]]


def test_lambda_zero_is_the_one_step_td_error():
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25, 0.75]])
    written = torch.tensor([[True, False, True, True]])
    advantages, _ = gae(rewards, values, written, 0.5, 0.0)
    assert advantages.tolist() == [[0.5 * 0.25 - 0.5, 0.0, 0.5 * 0.75 - 0.25, 1 - 0.75]]
