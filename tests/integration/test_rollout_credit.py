"""Strategies that see the whole rollout, through the trainer: what they are given, and what reaches TRL's loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from peft import LoraConfig

from rlcredit import (
    Credit,
    CreditArguments,
    CreditGRPOConfig,
    CreditGRPOTrainer,
    CreditPPOConfig,
    CreditPPOTrainer,
    Strategy,
)
from rlcredit.analysis.token_texts import plain_texts, tokens_within
from rlcredit.attention import choose_layers
from rlcredit.credit import assign_credit, strategy_of
from rlcredit.signals import AttentionSignals
from rlcredit.trainers.rollouts import RolloutMaker
from rlcredit.trainers.rows import joined, response_mask
from tests import runs, tiny
from tests.integration.test_sharded import join_group
from tests.reference import loop
from tests.reference import rollout_methods as loops

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=None)
EVERYTHING = frozenset(
    {"attention", "entropy", "ids", "logps", "sum_sq", "rewards", "advantages", "groups", "columns", "text", "turns"}
)


class Seen(CreditGRPOTrainer):
    """Keeps each rollout as TRL made it with what the strategy was given and gave, and what reached the losses."""

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        with torch.no_grad():
            ids, real = joined(batch, "ids"), joined(batch, "mask")
            logits = self.model(input_ids=ids, attention_mask=real).logits.float()[:, :-1] / self.temperature
        self.rollouts = [*getattr(self, "rollouts", []), (batch, GIVEN[-1], logits, [row["prompt"] for row in inputs])]
        return batch

    def _compute_loss(self, model, inputs):
        self.trained_with = {**getattr(self, "trained_with", {}), **{
            tuple(key): weighted[: int(mask.sum())]
            for key, weighted, mask in zip(
                inputs["credit_keys"].tolist(), self._weighted(inputs), inputs["completion_mask"], strict=True
            )
        }}  # fmt: skip
        return super()._compute_loss(model, inputs)


GIVEN = []


def _assign(batch):
    """Advantages that say which row and token they belong to."""
    GIVEN.append(batch)
    rows, length = batch.response.shape
    return Credit.of(advantages=torch.arange(rows * length, dtype=torch.float32).view(rows, length) + 1)


spy = Strategy(_assign, needs=EVERYTHING, gives_advantages=True)


@pytest.mark.parametrize(("schedule", "lora"), [(runs.MISALIGNED, False), (runs.ALIGNED, False), (runs.ALIGNED, True)])
def test_a_strategy_is_given_the_rollout_and_its_advantages_reach_the_loss(tmp_path, schedule, lora):
    GIVEN.clear()
    extra = {"peft_config": LORA} if lora else {}
    made = runs.trained(
        tmp_path, Seen, credit_strategy=f"{__name__}:spy", num_iterations=2, max_steps=4, **schedule, **extra
    )
    batch, given, logits, prompts = made.rollouts[0]
    rollout, response = given.rollout, response_mask(batch)
    ids = joined(batch, "ids")
    length = batch["completion_ids"].shape[1]
    assert torch.equal(rollout.input_ids, ids) and torch.equal(given.response, response)
    logps = logits.log_softmax(-1)
    chosen = logps.gather(2, ids[:, 1:, None])[..., 0]
    squares, entropy = (2 * logps).logsumexp(-1), -(logps.exp() * logps).sum(-1)
    here = response[:, 1:]
    for found, wanted in ((rollout.logps, chosen), (rollout.log_sum_sq, squares), (given.signals.entropy, entropy)):
        torch.testing.assert_close(found[:, 1:][here], wanted[here], rtol=1e-4, atol=1e-5)
        assert found[~response].isnan().all()
    texts = made.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor(tiny.count_digits(texts))
    torch.testing.assert_close(rollout.reward, rewards)
    assert rollout.groups.tolist() == [row // 4 for row in range(len(ids))]
    assert torch.equal(rollout.advantages, batch["advantages"])
    assert [row["prompt"] for row in rollout.columns] == prompts
    for row, tokens, mask in zip(rollout.text, ids, rollout.real, strict=True):
        prompt, written = (made.processing_class.decode(tokens[:stop][mask[:stop]]) for stop in (-length, len(mask)))
        assert "".join(row[:-length]) == prompt and "".join(row) == written
    assert torch.equal(rollout.turns, response.long() - 1)
    assert given.signals.waad[response].isfinite().all()
    own = torch.arange(response.numel(), dtype=torch.float32).view(response.shape)[:, -length:] + 1
    for key, row, mask in zip(batch["credit_keys"].tolist(), own, batch["completion_mask"], strict=True):
        assert torch.equal(made.trained_with[tuple(key)], row[: int(mask.sum())])


@pytest.mark.parametrize("schedule", [runs.MISALIGNED, runs.ALIGNED])
@pytest.mark.parametrize("normalize", ["response", "batch"])
def test_the_mean_of_gamma_in_the_loss_is_one(tmp_path, schedule, normalize):
    sums = []

    class Means(CreditGRPOTrainer):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            mask, advantages = inputs["completion_mask"], inputs["advantages"]
            gamma = torch.where(advantages[:, None] != 0, self._weighted(inputs) / advantages[:, None], 1.0) * mask
            sums.append((gamma, mask, (advantages != 0).all()))
            return loss

    runs.trained(tmp_path, Means, credit_normalize=normalize, max_steps=4, credit_amplification=4, **schedule)
    size = schedule["gradient_accumulation_steps"]
    moved = 0
    for first in range(0, len(sums), size):
        step = sums[first : first + size]
        if not all(whole for *_, whole in step):
            continue
        moved += any(((gamma != 1) & (mask == 1)).any() for gamma, mask, _ in step)
        if normalize == "response":
            means = torch.cat([gamma.sum(1) / mask.sum(1) for gamma, mask, _ in step])
        else:
            means = sum(gamma.sum() for gamma, *_ in step) / sum(mask.sum() for _, mask, _ in step)
        torch.testing.assert_close(means, torch.ones_like(means), rtol=1e-5, atol=1e-5)
    assert moved


def test_what_cannot_hold_is_refused_before_a_model_loads(tmp_path):
    with pytest.raises(ValueError, match="credit_normalize: 'batch' needs the whole optimiser step in one rollout"):
        runs.arguments(tmp_path, CreditGRPOConfig, credit_normalize="batch", steps_per_generation=2,
                       gradient_accumulation_steps=4)  # fmt: skip
    with pytest.raises(ValueError, match="'otb' gives advantages of the group, and PPO has those of its critic"):
        runs.arguments(tmp_path, CreditPPOConfig, credit_strategy="otb")


@pytest.mark.parametrize(
    ("strategy", "changes", "said"),
    [
        ("groups", {"num_generations": 1}, "compares the responses of a group, and num_generations is 1; write 2"),
        ("advantages", {}, "needs one advantage a response, and PPO has one a token; write algorithm: grpo"),
    ],
)
def test_what_ppo_has_not_got_is_refused(tmp_path, strategy, changes, said):
    with pytest.raises(ValueError, match=said):
        runs.arguments(tmp_path, CreditPPOConfig, credit_strategy=f"{__name__}:of_{strategy}", **changes)


of_groups, of_advantages = (Strategy(_assign, needs=frozenset({part})) for part in ("groups", "advantages"))


@pytest.mark.parametrize("strategy", [f"{__name__}:spy", "ktae"])
def test_the_table_shows_the_mean_of_the_strategys_advantages(tmp_path, strategy):
    made = runs.trained(
        tmp_path, Seen, credit_strategy=strategy, log_completions=True, num_completions_to_print=0, max_steps=1
    )
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert len(table) == 16
    for batch in made._buffered_inputs:
        for (_, number), row, mask in zip(
            batch["credit_keys"].tolist(), batch["credit_advantages"], batch["completion_mask"].bool(), strict=True
        ):
            assert table["advantage"][number] == pytest.approx(row[mask].mean().item(), rel=1e-5)


def test_ppo_normalises_too(tmp_path):
    seen = []

    class Means(CreditPPOTrainer):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            seen.append((inputs, self._weighted(inputs)))
            return loss

    runs.trained(tmp_path, Means, credit_normalize="response", credit_sign="positive", max_steps=2)
    for batch, weighted in seen:
        advantages = batch["advantages"]
        meant = (advantages > 0) & batch["completion_mask"].bool()
        mean = (batch["credit_weights"] * meant).sum(1, keepdim=True) / meant.sum(1, keepdim=True).clamp(min=1)
        assert (mean > 1).any()
        gamma = torch.where(meant, batch["credit_weights"] / mean, 1.0)
        torch.testing.assert_close(weighted, advantages * gamma)


def last_digit(text: str) -> tuple[int, int] | None:
    """The answer of a text is its last digit but two, so that tokens follow it."""
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    return (places[-3], places[-3] + 1) if len(places) > 2 else None


class Answering(Seen):
    """Knows where answers are, and keeps the weights that each response was trained with."""

    def __init__(self, *args, **kwargs):
        self.weights_of = {}
        super().__init__(*args, answer_span=last_digit, **kwargs)

    def _compute_loss(self, model, inputs):
        loss = super(Seen, self)._compute_loss(model, inputs)
        keys = map(tuple, inputs["credit_keys"].tolist())
        self.weights_of = dict(zip(keys, inputs["credit_weights"].tolist(), strict=True)) | self.weights_of
        return loss


def of_answer_attention(attention, where, places):
    return loops.answer_attention(where, places, attention, floor=0.2)


def of_global_anchor(attention, where, places):
    return loop.global_anchor(loop.fai(attention, where, 0, -1, rows=places), where)


@pytest.mark.parametrize("schedule", [runs.MISALIGNED, runs.ALIGNED])
@pytest.mark.parametrize(
    ("strategy", "options", "wanted_of"),
    [("answer_attention", {"floor": 0.2}, of_answer_attention), ("global_anchor", None, of_global_anchor)],
)
def test_attention_of_the_answer_is_the_loops_on_the_models_own_maps(tmp_path, schedule, strategy, options, wanted_of):
    GIVEN[:] = [None]
    policy = tiny.model_of("llama", "eager", spread=0.15)
    settings = dict(credit_fai_rows="answer", credit_fai_horizon=[0, -1], credit_heads="all", credit_options=options)
    made = runs.trained(tmp_path, Answering, policy, max_steps=4, credit_strategy=strategy, **settings, **schedule)
    batch = made.rollouts[0][0]
    ids, real, response = joined(batch, "ids"), joined(batch, "mask"), response_mask(batch)
    with torch.no_grad():
        maps = policy(input_ids=ids, attention_mask=real, output_attentions=True).attentions
    mean_BNN = torch.stack([maps[layer].mean(1) for layer in choose_layers(policy.config, "middle", 5)]).mean(0)
    chosen = 0
    for key, prompt_and_response, answered, attention in zip(
        batch["credit_keys"].tolist(), ids, response, mean_BNN.tolist(), strict=True
    ):
        where = answered.nonzero()[:, 0].tolist()
        texts = plain_texts(made.processing_class, [], prompt_and_response[where].tolist())
        span = last_digit("".join(texts))
        inside = tokens_within(texts, *span) if span else [False] * len(texts)
        wanted = wanted_of(attention, where, [t for t, is_answer in zip(where, inside, strict=True) if is_answer])
        given = made.weights_of[tuple(key)][: len(where)]
        assert given == pytest.approx([wanted[t] for t in where], abs=1e-3)
        chosen += len({round(weight, 3) for weight in given}) > 1
    assert chosen > 2


@pytest.mark.parametrize("strategy", ["otb", "ktae", "gtpo", "monte_carlo", "process", "reweight"])
def test_the_shipped_ones_train(tmp_path, strategy):
    made = runs.trained(tmp_path, credit_strategy=strategy, max_steps=2)
    assert made.state.global_step == 2 and made.bad_steps.total == 0
    losses = [line["grad_norm"] for line in made.state.log_history if "grad_norm" in line]
    assert len(losses) == 2 and all(norm > 0 for norm in losses)


# ---- two processes --------------------------------------------------------------------------------------------------


def rollout_of(rows: slice, prompt: int, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some of eight rows of one group, padded to these lengths: TRL's batch, and what was read of it."""
    made = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 9, (8, 12), generator=made)
    logps, squares, entropy = (torch.rand(8, 8, generator=made) for _ in range(3))
    lengths, before = torch.tensor([3, 5, 2, 5, 8, 6, 8, 1]), torch.tensor([2, 3, 3, 1, 4, 2, 2, 4])
    steps = torch.randint(-1, 2, (8, 8), generator=made).float() * (torch.arange(8) < lengths[:, None])
    batch = {
        "prompt_ids": ids[rows, 4 - prompt : 4],
        "prompt_mask": (torch.arange(4) >= 4 - before[:, None]).long()[rows, 4 - prompt :],
        "completion_ids": ids[rows, 4 : 4 + length],
        "completion_mask": (torch.arange(8) < lengths[:, None]).long()[rows, :length],
        "advantages": torch.randn(8, generator=made)[rows],
        "credit_keys": torch.arange(8)[rows, None],
    }
    return batch, {
        "logps": -logps[rows, :length],
        "squares": -squares[rows, :length],
        "entropy": entropy[rows, :length],
        "steps": steps[rows, :length],
    }


def credit_of(strategy: str, rows: slice, prompt: int, length: int, accelerator: Accelerator) -> torch.Tensor:
    """The advantages [B, T] of the rows."""
    args = CreditArguments(credit_strategy=strategy)
    found = strategy_of(args)
    batch, read = rollout_of(rows, prompt, length)
    response = response_mask(batch)
    entropy = torch.nn.functional.pad(read["entropy"], (prompt, 0), value=torch.nan)
    made = RolloutMaker(found.needs, accelerator, tiny.tokenizer()).rows_of(
        batch,
        AttentionSignals.without_attention(torch.where(response, entropy, torch.nan)),
        logps_BT=read["logps"],
        log_sum_sq_BT=read["squares"],
        steps_BT=(read["steps"], read["steps"] != 0),
        scores_BF=torch.tensor([[1.0], [0], [0], [1], [0], [1], [1], [torch.nan]]),  # of all processes
        weights_F=torch.ones(1),
        inputs=[{}] * len(response),
        generations=8,
    )
    credit = assign_credit(made.signals, made.response, args, row_keys=made.keys, strategy=found, rollout=made.rollout)
    return made.own_part(credit).advantages[:, -length:]


def _of_two(rank: int, folder: Path) -> None:
    """Half of the group in each process, padded as far as its own rows need."""
    join_group(rank, folder)
    accelerator = Accelerator(cpu=True)
    rows, prompt, length = [(slice(0, 4), 3, 5), (slice(4, 8), 4, 8)][rank]
    found = {name: credit_of(name, rows, prompt, length, accelerator) for name in ("otb", "ktae", "gtpo", "process")}
    torch.save(found, folder / f"of{rank}.pt")


@pytest.mark.thorough
def test_two_processes_give_the_advantages_of_one(tmp_path):
    mp.spawn(_of_two, (tmp_path,), nprocs=2)
    one, two = (torch.load(tmp_path / f"of{rank}.pt", weights_only=True) for rank in range(2))
    for name in one:
        whole = credit_of(name, slice(0, 8), 4, 8, Accelerator(cpu=True))
        torch.testing.assert_close(one[name], whole[:4, :5])
        torch.testing.assert_close(two[name], whole[4:])
        assert (whole[:4] != 0).any() and (whole[4:] != 0).any()
