"""monte_carlo through the trainer: the values that it is given, what they cost, and what stays as it is without it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from transformers import TrainerState

from rlcredit import Credit, CreditGRPOConfig, CreditGRPOTrainer, CreditPPOConfig, Strategy, Valuing
from rlcredit.cli import main
from rlcredit.credit import CreditArguments, Rollout, strategy_of
from rlcredit.errors import InputError
from rlcredit.evaluation.continuations import Prefix
from rlcredit.evaluation.sampling import Sampling, continue_ids
from rlcredit.rewards.run_rewards import GuardedRewards
from rlcredit.trainers.continuations import RolloutValues
from rlcredit.trainers.rows import joined, response_mask
from tests import runs, tiny
from tests.integration.test_sharded import join_group

OPTIONS = {"credit_strategy": "monte_carlo", "credit_options": {"samples": 3, "p_max": 0.2}}


class Kept(CreditGRPOTrainer):
    """Keeps each rollout with the values that the strategy was given, and what reached the losses."""

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        self.rollouts = [*getattr(self, "rollouts", []), {**batch, "prompts": [row["prompt"] for row in inputs]}]
        return batch

    def _valued(self, batch, inputs, response_BN, rollout):
        values = super()._valued(batch, inputs, response_BN, rollout)
        self.valued = [*getattr(self, "valued", []), (values, rollout.logps, rollout.reward)]
        return values


@pytest.mark.parametrize("schedule", [runs.MISALIGNED, runs.ALIGNED])
def test_values_are_means_over_continuations_of_the_policy_that_generated(tmp_path, schedule):
    policy = tiny.model_of("llama", spread=0.15)
    policy.generation_config.eos_token_id = 1
    made = runs.trained(tmp_path, Kept, policy, max_steps=4, **OPTIONS, **schedule)
    batch, (values, logps, reward) = made.rollouts[0], made.valued[0]
    response, ids = response_mask(batch), joined(batch, "ids")
    first = batch["prompt_ids"].shape[1]
    wanted = response & (logps.exp() < 0.2)
    assert torch.equal(values.isfinite(), wanted) and wanted.sum() > 20
    drawn = 0
    for row, place in wanted.nonzero().tolist()[::7]:
        prompt = tuple(batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist())
        written = tuple(ids[row, first:place].tolist())
        prefix = Prefix(row // 4 * 4, prompt, written, 16 - len(written))
        texts = []
        for sample in range(3):
            sampling = Sampling(prefix.left, 1.0, seed=made.args.seed)
            (more,) = continue_ids(policy.eval(), [prompt + written], [prefix.stream(sample)], sampling, [1], 0)
            texts.append(made.processing_class.decode([*written, *more], skip_special_tokens=True))
        assert values[row, place].item() == pytest.approx(sum(tiny.count_digits(texts)) / 3, abs=1e-5)
        drawn += 1
    assert drawn > 3
    taken, scale = values[0][wanted[0]].tolist(), reward.std().item()
    own = batch["credit_advantages"][0][: int(batch["completion_mask"][0].sum())]
    assert own.sum().item() == pytest.approx((reward[0].item() - taken[0]) / scale, abs=1e-4)
    line = made.state.log_history[0]
    distinct = {(row // 4, tuple(ids[row, first:place].tolist())) for row, place in wanted.nonzero().tolist()}
    assert line["credit/continuations"] == 3 * len(distinct)
    assert line["credit/continuation_tokens"] >= line["credit/continuations"]
    assert line["credit/continuations_unscored"] == 0 and line["credit/time_share"] > 0.5


def test_a_reward_that_fails_on_one_continuation_loses_one_call_alone(tmp_path):
    """As many completions a call as the rollout has, so a time limit means the same."""
    sizes = []

    def sometimes(completions, **kwargs):
        sizes.append(len(completions))
        if len(sizes) == 3:
            raise ValueError("once")
        return tiny.count_digits(completions)

    made = runs.trained(tmp_path, Kept, reward=sometimes, max_steps=1, **OPTIONS)
    line, (values, *_) = made.state.log_history[0], made.valued[0]
    assert sizes[0] == 16 and len(sizes) > 4 and set(sizes[1:-1]) == {16}
    assert line["credit/continuations_unscored"] >= 16 and line["reward/unscored"] == 0
    assert values.isfinite().sum() > 10 and line["grad_norm"] > 0


def test_the_samples_of_a_run_are_those_without_values(tmp_path):
    with_values = runs.trained(tmp_path / "a", Kept, max_steps=1, **OPTIONS)
    without = runs.trained(tmp_path / "b", Kept, max_steps=1, credit_strategy="random")
    for name in ("prompt_ids", "completion_ids"):
        assert torch.equal(with_values.rollouts[0][name], without.rollouts[0][name])


def test_resumed_bit_for_bit(tmp_path):
    settings = dict(save_strategy="steps", save_steps=2, max_steps=4, **OPTIONS)
    whole = runs.trained(tmp_path / "whole", **settings)
    again = runs.trainer(tmp_path / "whole", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in runs.parameters(whole).items():
        assert torch.equal(value, runs.parameters(again)[name])


def half(rows: slice) -> torch.Tensor:
    """The values of some of eight rows of two groups."""
    draw = torch.Generator().manual_seed(0)
    ids, policy = torch.randint(2, 9, (8, 10), generator=draw), tiny.model_of("llama", spread=0.15)
    lengths = torch.tensor([6, 4, 1, 6, 2, 3, 5, 6])
    batch = {
        "prompt_ids": ids[:, :4] * 0 + torch.arange(2, 4).repeat_interleave(4)[:, None],
        "prompt_mask": torch.ones(8, 4, dtype=torch.long),
        "completion_ids": ids[:, 4:],
        "completion_mask": (torch.arange(6) < lengths[:, None]).long(),
        "credit_keys": torch.stack([torch.full((8,), 16), torch.arange(8)], dim=1),
    }
    batch = {name: value[rows] for name, value in batch.items()}
    settings = {"credit_strategy": "monte_carlo", "credit_options": {"samples": 2, "where": "every"}}
    args = runs.arguments(Path("unused"), CreditGRPOConfig, num_generations=4, max_completion_length=6, **settings)

    @contextmanager
    def generating():
        yield policy

    rewards = GuardedRewards(tiny.count_digits, None, args, environments=False, extra_columns=True)
    parts = Accelerator(cpu=True), tiny.tokenizer(), rewards, generating
    maker = RolloutValues(strategy_of(CreditArguments(**settings)).values, args, *parts)
    response, inputs = response_mask(batch), [{"prompt": "x"}] * len(batch["prompt_ids"])
    values, cost = maker.of(batch, inputs, torch.ones(1), TrainerState(), response, Rollout())
    assert cost["credit/continuations"] > 0
    return values


def _of_two(rank: int, folder: Path) -> None:
    """Six rows in one process, two in the other: they draw different numbers of batches."""
    join_group(rank, folder)
    torch.save(half([slice(0, 6), slice(6, 8)][rank]), folder / f"of{rank}.pt")


@pytest.mark.thorough
def test_two_processes_value_as_one(tmp_path):
    mp.spawn(_of_two, (tmp_path,), nprocs=2)
    one, two = (torch.load(tmp_path / f"of{rank}.pt", weights_only=True) for rank in range(2))
    whole = half(slice(0, 8))
    torch.testing.assert_close(torch.cat([one, two]), whole, equal_nan=True)


weighs_by_value = Strategy(
    lambda batch: Credit.of(torch.ones_like(batch.rollout.values)),
    needs={"values"},
    values=Valuing(lambda response, rollout, args: response, samples=lambda args: 2),
)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_what_cannot_be_continued(tmp_path):
    with pytest.raises(ValueError, match="'monte_carlo' gives advantages of the group, and PPO has"):
        runs.arguments(tmp_path, CreditPPOConfig, **OPTIONS)
    for name, value in {"min_p": 0.1, "repetition_penalty": 1.2, "generation_kwargs": {"typical_p": 0.5}}.items():
        with pytest.raises(InputError, match=rf"^{name}: .* is not applied to the continuations of monte_carlo"):
            runs.trainer(tmp_path, **{name: value}, **OPTIONS)
    with pytest.raises(ValueError, match="needs values of continuations, and PPO has those of its critic"):
        runs.arguments(tmp_path, CreditPPOConfig, credit_strategy=f"{__name__}:weighs_by_value")


@pytest.mark.parametrize("command", [["--dry_run=true"], []])
def test_the_command_refuses_tools_and_says_the_most_it_will_draw(tmp_path, capsys, command):
    words = ["train", "--config", "tools_tiny/coupled_rhythm", "--output_dir", str(tmp_path)]
    assert main([*words, "--credit_strategy", "monte_carlo", *command]) == 2
    assert "'monte_carlo' continues responses by the policy alone, and tools takes part in them" in (
        capsys.readouterr().err
    )
    words = ["train", "--config", "countdown_tiny/uniform", "--output_dir", str(tmp_path), "--dry_run=true"]
    options = json.dumps({"samples": 2})
    assert main([*words, "--credit_strategy", "monte_carlo", "--credit_options", options]) == 0
    assert "at most 28,672 continuations of 817,152 tokens a rollout, 2 a place" in capsys.readouterr().out
