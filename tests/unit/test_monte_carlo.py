"""monte_carlo: against the loop written from the papers, by hand, and what it asks for."""

from __future__ import annotations

import math
import random

import pytest
import torch

from rlcredit import CreditArguments, Strategy
from rlcredit.credit import Credit, Rollout, assign_credit, strategy_of
from rlcredit.signals import AttentionSignals
from tests.reference import rollout_methods as loops


def credit_of(response, values, reward, logps, **options):
    args = CreditArguments(credit_strategy="monte_carlo", credit_options={"scale": "none", **options})
    rollout = Rollout(
        values=values, reward=reward, logps=logps, groups=torch.zeros(len(reward), dtype=torch.long),
        rewards_BF=reward[:, None], step_rewards=torch.zeros_like(values), step_ends=torch.zeros_like(response),
    )  # fmt: skip
    signals = AttentionSignals.without_attention(torch.full(response.shape, torch.nan))
    return assign_credit(signals, response, args, rollout=rollout).advantages


def places_of(response, logps, **options):
    args = CreditArguments(credit_strategy="monte_carlo", credit_options=options)
    return strategy_of(args).values.places(response, Rollout(logps=logps), args)


def case(seed, where, **options):
    """Random responses with tool output in between, probabilities, and values at the places that `where` names."""
    draw = torch.Generator().manual_seed(seed)
    rows, length = 5, random.Random(seed).randint(1, 14)
    response = torch.rand(rows, length, generator=draw) < 0.8
    logps = torch.where(response, torch.rand(rows, length, generator=draw).clamp(1e-3, 1).log(), torch.nan)
    places = places_of(response, logps, where=where, **options)
    values = torch.where(places, torch.rand(rows, length, generator=draw), torch.nan)
    return response, values, torch.rand(rows, generator=draw), logps


@pytest.mark.parametrize(
    ("where", "options"), [("every", {}), ("decisive", {"p_max": 0.5}), ("segments", {"p_max": 0.5, "segment": 2})]
)
def test_it_is_its_loop(where, options):
    limit, moved = options.get("p_max"), 0
    for seed in range(60):
        response, values, reward, logps = case(seed, where, **options)
        found = credit_of(response, values, reward, logps, where=where, **options)
        for row in range(len(found)):
            positions = response[row].nonzero()[:, 0].tolist()
            taken = {t: values[row, t].item() for t in positions if values[row, t].isfinite()}
            probabilities = {t: logps[row, t].exp().item() for t in positions}
            wanted = loops.monte_carlo(positions, taken, reward[row].item(), probabilities, limit)
            assert {t: found[row, t].item() for t in positions} == pytest.approx(wanted, abs=1e-6)
            assert (found[row][~response[row]] == 0).all()
            if where != "segments" and taken:  # what is left is the value of the first place
                assert found[row].sum().item() == pytest.approx(
                    reward[row].item() - next(iter(taken.values())), abs=1e-5
                )
            moved += len(taken)
    assert moved > 200


def test_by_hand():
    # Decisive are tokens 0, 2 and 3 (0.9 is not below 0.6); the response is right.
    response, logps = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0.5, 0.9, 0.2, 0.5]]).log()
    assert places_of(response, logps, p_max=0.6).tolist() == [[True, False, True, True]]
    values = torch.tensor([[0.25, math.nan, 0.5, 0.75]])
    found = credit_of(response, values, torch.tensor([1.0]), logps, p_max=0.6)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0, 0.25, 0.25]]))
    # Segments of two decisive tokens: places 0 and 3; both tokens of the first have its difference, 0.5.
    assert places_of(response, logps, p_max=0.6, where="segments", segment=2).tolist() == [[True, False, False, True]]
    values = torch.tensor([[0.25, math.nan, math.nan, 0.75]])
    found = credit_of(response, values, torch.tensor([1.0]), logps, p_max=0.6, where="segments", segment=2)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0.5, 0.25]]))


def test_scaled_by_the_rollouts_rewards():
    response, logps = torch.ones(2, 2, dtype=torch.bool), torch.full((2, 2), 0.1).log()
    values, reward = torch.tensor([[0.5, 0.5], [0.5, 0.0]]), torch.tensor([1.0, 0.0])
    plain = credit_of(response, values, reward, logps)
    scaled = credit_of(response, values, reward, logps, scale="rollout")
    torch.testing.assert_close(scaled, plain / reward.std())
    alike = credit_of(response, values, torch.ones(2), logps, scale="rollout")
    torch.testing.assert_close(alike, torch.tensor([[0.0, 0.5], [-0.5, 1.0]]))


def test_responses_and_states_without_a_score():
    response, logps = torch.ones(2, 3, dtype=torch.bool), torch.full((2, 3), 0.1).log()
    values = torch.tensor([[0.5, math.nan, 0.75], [0.5, 0.5, 0.5]])
    found = credit_of(response, values, torch.tensor([1.0, math.nan]), logps)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0, 0.25], [0, 0, 0]]))


def test_the_most_that_it_draws():
    def most(**options):
        args = CreditArguments(credit_strategy="monte_carlo", credit_options=options)
        return strategy_of(args).values.most(args, 4)

    assert most(samples=2) == (8, 2 * (4 + 3 + 2 + 1))
    assert most(samples=3, where="segments", segment=3) == (6, 3 * (4 + 1))


def test_values_are_named_together_with_their_places():
    with pytest.raises(ValueError, match=r"Strategy.values: says which states are valued; write it together"):
        Strategy(lambda batch: Credit.of(torch.ones(1, 1)), needs=frozenset({"values"}))
