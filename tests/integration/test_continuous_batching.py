"""Rollouts by transformers' continuous batching: plain generation's, and what it would leave out is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcredit import CreditGRPOConfig, CreditGRPOTrainer, CreditPPOTrainer
from rlcredit.trainers.launch import engine_of
from tests import runs
from tests.integration import test_agents as agents

ON = dict(use_transformers_continuous_batching=True)
SMALL = {"num_blocks": 64, "page_size": 16, "max_batch_tokens": 256}  # 5 MB of keys and values
GREEDY = dict(generation_kwargs={"do_sample": False}, temperature=1.0)


class Seen(agents.Keeping, CreditGRPOTrainer):
    pass


class SeenPPO(agents.Keeping, CreditPPOTrainer):
    pass


def by_place(completions, **columns):
    """A reward that differs between equal completions, so that groups have an advantage."""
    return [len(text) / 20 + place % 3 for place, text in enumerate(completions)]


def compare(make):
    """Ids, masks and gamma of a rollout are those of plain generation. (TRL then shuffles it with random numbers.)"""
    plain, continuous = make(**GREEDY), make(**GREEDY, **ON, transformers_continuous_batching_config=SMALL)
    (wanted,), (rollout,) = plain.rollouts, continuous.rollouts
    for made, batch in ((plain, wanted), (continuous, rollout)):
        batch["gamma"] = made._weighted(batch)
    assert wanted.keys() == rollout.keys() and len(set(wanted["completion_mask"].sum(1).tolist())) > 1  # ragged
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "credit_weights"):
        if name in wanted:
            assert torch.equal(rollout[name], wanted[name]), name
    torch.testing.assert_close(rollout["gamma"], wanted["gamma"], rtol=1e-5, atol=1e-6)
    assert wanted["credit_weights"].max() > 1
    return wanted


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [Seen, SeenPPO])
def test_a_greedy_rollout_is_that_of_plain_generation(tmp_path, kind):
    """Prompts of different lengths, responses that end at different tokens."""
    number = iter("ab")

    def make(**changes):
        settings = dict(max_completion_length=48, max_steps=1, credit_strategy="coupled_rhythm")
        return runs.trained(tmp_path / next(number), kind, reward=by_place, **settings, **changes)

    assert compare(make)["gamma"].abs().max() > 0


@pytest.mark.thorough
def test_with_a_tool(tmp_path, monkeypatch):
    policy = AutoModelForCausalLM.from_pretrained(agents.POLICY, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(agents.POLICY)
    policy.get_output_embeddings().weight.data[tokenizer("<call>")["input_ids"]] *= 1.2  # else it never calls greedily
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    monkeypatch.setattr(agents, "POLICY", tmp_path / "policy")

    def make(**changes):
        changes |= {"credit_strategy": "coupled_rhythm", "max_steps": 1}
        return agents.trained(tmp_path, tools=[agents.calculator], changes=changes)

    assert (compare(make)["tool_mask"] == 0).any()


@pytest.mark.thorough
def test_the_policy_keeps_its_precision_and_its_mode(tmp_path):
    """TRL casts the policy that is trained to bfloat16, rotary frequencies too, and has it train after evaluation."""
    settings = dict(**ON, transformers_continuous_batching_config=SMALL, bf16=True)
    made = runs.trainer(tmp_path, credit_strategy="uniform", **settings)
    before, buffers = runs.parameters(made), {name: value.clone() for name, value in made.model.named_buffers()}
    generated_in = set()
    made.model.register_forward_pre_hook(
        lambda module, _: generated_in.update(weight.dtype for weight in module.parameters())
    )
    for training in (False, True):
        made.model.train(training)
        made._generate_single_turn([[5, 6], [7, 8, 9]], None, {}, 1)
        assert made.model.training == training and made.args.bf16
        for name, value in runs.parameters(made).items():
            assert value.dtype == torch.float32 and torch.equal(value, before[name])
        for name, value in made.model.named_buffers():
            assert value.dtype == buffers[name].dtype and torch.equal(value, buffers[name])
    assert generated_in == {torch.bfloat16}


def test_completions_that_are_missing_end_the_run(tmp_path, monkeypatch):
    made = runs.trainer(tmp_path, credit_strategy="uniform", **ON)
    monkeypatch.setattr(type(made.model), "generate_batch", lambda *args, **options: {})
    with pytest.raises(RuntimeError, match="ended 0 of 2 completions"):
        made._generate_single_turn([[5, 6], [7, 8, 9]], None, {}, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(repetition_penalty=1.1), "repetition_penalty: .*leaves it out"),
        (dict(min_p=0.1), "min_p: "),
        (dict(generation_kwargs={"min_new_tokens": 4}), "generation_kwargs: .*min_new_tokens"),
        (dict(use_vllm=True), "vLLM generates"),
        (dict(transformers_continuous_batching_config={"blocks": 4}), "'blocks' is not one .*num_blocks"),
        (dict(transformers_continuous_batching_config=[4]), "is no mapping"),
    ],
)
def test_what_it_would_leave_out_is_refused(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        runs.arguments(tmp_path, CreditGRPOConfig, **ON, **settings)


def test_sharded_policies_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rlcredit.trainers.continuous_batching.engine_of", lambda args: "fsdp")
    with pytest.raises(ValueError, match="FSDP and DeepSpeed need all processes"):
        runs.arguments(tmp_path, CreditGRPOConfig, **ON)
    assert engine_of(runs.arguments(tmp_path, CreditGRPOConfig)) == "ddp"
