"""Weights that are trained move: in float32, with and without bfloat16 arithmetic, and the critic's in any case."""

from __future__ import annotations

import pytest
import torch

from rlcredit import CreditGRPOTrainer, CreditPPOTrainer
from tests import runs, tiny

RATE = 1e-6  # the paper's


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """The share of weights that a run has changed."""
    changed = sum((after[name] != value).sum().item() for name, value in before.items())
    return changed / sum(value.numel() for value in before.values())


def run(tmp_path, kind, dtype, **settings):
    model = tiny.model_of("llama", spread=0.15).to(dtype)
    made = runs.trainer(tmp_path, kind, model=model, learning_rate=RATE, max_steps=8, **settings)
    critic = made.critic.model if kind is CreditPPOTrainer else None
    body = {name: p.detach().clone() for name, p in critic.named_parameters()} if critic else {}
    before = runs.parameters(made)
    made.train()
    own = moved(before, runs.parameters(made))
    return own, moved(body, dict(critic.named_parameters())) if critic else None


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_float32_weights_move_at_the_rate_of_the_recipes(tmp_path, caplog, autocast):
    share, _ = run(tmp_path, CreditGRPOTrainer, torch.float32, bf16=autocast)
    assert share > 0.9  # rows of the embedding whose tokens never came up have no gradient
    assert "dtype:" not in caplog.text


def test_16_bit_weights_do_not_and_the_run_says_so(tmp_path, caplog):
    share, _ = run(tmp_path, CreditGRPOTrainer, torch.bfloat16)
    assert share < 0.1
    assert caplog.text.count("dtype: 100 % of the trained weights are in bfloat16") == 1


def test_the_critic_moves_whatever_the_policys_precision(tmp_path):
    _, critic = run(tmp_path, CreditPPOTrainer, torch.bfloat16, critic_learning_rate=1e-5)
    assert critic > 0.9


def test_adapters_of_a_16_bit_policy_are_float32_and_need_no_warning(tmp_path, caplog):
    from tests.integration.test_trainer import LORA

    made = runs.trainer(tmp_path, model=tiny.model_of("llama", spread=0.15).to(torch.bfloat16), peft_config=LORA)
    assert {p.dtype for p in made.model.parameters() if p.requires_grad} == {torch.float32}
    assert "of the trained weights are in" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [(CreditGRPOTrainer, runs.MISALIGNED), (CreditGRPOTrainer, runs.ALIGNED), (CreditPPOTrainer, runs.ALIGNED)],
    ids=["rollout", "loss", "ppo"],
)
def test_a_float64_policy_trains_with_credit_and_stays_float64(tmp_path, kind, schedule):
    model = tiny.model_of("llama", spread=0.15).double()
    made = runs.trained(tmp_path, kind, model=model, max_steps=2, credit_strategy="coupled_rhythm", **schedule)
    weights = runs.parameters(made)
    assert {value.dtype for value in weights.values()} == {torch.float64}
    assert moved(dict(model.named_parameters()), weights) > 0.9
    for line in runs.logged(made):
        assert 1 < line["credit/weight_mean"] <= 1.5 and line["credit/rows_skipped"] == 0
