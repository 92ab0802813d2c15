"""`use_vllm` in TRL's colocate mode, with vLLM itself on the CPU: ids, gamma, importance ratio and weights."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOTrainer

from tests import runs, tiny
from tests.vllm import watch

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engine")]

LORA = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
RUNS = {
    **{strategy: dict(credit_strategy=strategy) for strategy in watch.STRATEGIES},
    "uniform-untrimmed": dict(credit_strategy="uniform", trim_padding=False),
    "lora-coupled_rhythm": dict(credit_strategy="coupled_rhythm", peft_config=LORA),
    "lora-entropy": dict(credit_strategy="entropy", peft_config=LORA),
    "ppo-coupled_rhythm": dict(credit_strategy="coupled_rhythm", kind=watch.WatchedPPO),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, policy):
    """Runs by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = watch.trainer(tmp_path_factory.mktemp(name), policy, **RUNS[name])
            made[name].train()
        return made[name]

    return get


@pytest.mark.parametrize("name", RUNS)
def test_ids_gamma_and_ratio(trained, name):
    figures = watch.check(trained(name))
    print(name, figures)
    assert figures["logp_difference"] < 0.1


def test_credit_leaves_vllm_its_samples(trained):
    """In this process vLLM draws from the global random stream, which credit must not touch."""
    first = trained("uniform").seen.returned[0].completions
    for strategy in watch.STRATEGIES[1:]:
        assert trained(strategy).seen.returned[0].completions == first


def test_uniform_is_trl_bit_for_bit(trained, policy, tmp_path):
    ours, theirs = (
        trained("uniform-untrimmed"),
        watch.trainer(tmp_path, policy, GRPOTrainer, credit_strategy="uniform"),
    )
    theirs.train()
    for name, value in runs.parameters(theirs).items():
        assert torch.equal(value, runs.parameters(ours)[name]), name
    assert runs.logged(theirs) == runs.logged(ours, "reward/unscored", "bad_steps")


def test_without_the_correction_gamma_comes_from_the_pass_of_the_loss(policy, tmp_path):
    settings = dict(credit_strategy="coupled_rhythm", vllm_importance_sampling_correction=False)
    made = watch.trainer(tmp_path, policy, **settings)
    made.train()
    anew = {
        (tuple(prompt), tuple(completion)): tuple(weights[0].tolist())
        for returned, rows in zip(made.seen.returned, made.seen.read_anew, strict=True)
        for prompt, completion, weights in zip(returned.prompts, returned.completions, rows, strict=True)
    }
    assert len(made.seen.trained) == 40
    assert all(anew[prompt, completion] == weights for prompt, completion, _, weights in made.seen.trained)
    assert not any("old_per_token_logps" in batch for batch in made.seen.rollouts)


@pytest.mark.parametrize("extra", [{}, dict(peft_config=LORA)], ids=["full", "lora"])
def test_vllm_follows_the_weights(policy, tmp_path, extra):
    def gaps(folder, sync):
        made = watch.trainer(folder, policy, credit_strategy="global_anchor", learning_rate=0.01, **extra)
        if not sync:
            send, sent = made.vllm_generation.sync_weights, []
            made.vllm_generation.sync_weights = lambda: None if sent else sent.append(send())
        made.train()
        return watch.differences(made)

    synced, stale = gaps(tmp_path / "synced", True), gaps(tmp_path / "stale", False)
    print("synced", synced, "stale", stale)
    assert max(synced) < 0.2
    assert min(stale[1:]) > 5 * max(synced)


def test_evaluation_while_training(policy, tmp_path):
    """TRL's evaluation samples with vLLM too; what it draws is no part of the training batches."""
    made = watch.trainer(
        tmp_path,
        policy,
        credit_strategy="local_chunk",
        eval_dataset=tiny.prompts(4),
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
        num_generations_eval=4,
    )
    made.train()
    watch.check(made)
    assert {2, 4} <= {line["step"] for line in made.state.log_history if "eval_reward" in line}


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


class WithoutRounding(TrainerCallback):
    """After `step`, the weights under the adapter are again what they were at the start."""

    def __init__(self, step):
        self.step = step

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.base = {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            model.load_state_dict(self.base, strict=False)


def assert_resumed_as_straight(policy, folder, stop, *callbacks, **settings):
    """Five steps, and the same stopped after `stop` and resumed: completions and parameters; give the resumed one."""
    settings |= dict(credit_strategy="coupled_rhythm", save_strategy="steps", save_steps=stop)
    straight = watch.trainer(folder / "a", policy, **settings)
    for callback in callbacks:
        straight.add_callback(callback)
    straight.train()
    first = watch.trainer(folder / "b", policy, **settings)
    first.add_callback(Stop(stop))
    first.train()
    resumed = watch.trainer(folder / "b", policy, **settings)
    resumed.train(resume_from_checkpoint="latest")
    drawn = [[returned.completions for returned in made.seen.returned] for made in (straight, first, resumed)]
    assert drawn[0] == drawn[1] + drawn[2]
    for name, value in runs.parameters(straight).items():
        if "base_layer" not in name:  # those differ by the rounding since
            assert torch.equal(value, runs.parameters(resumed)[name]), name
    return resumed


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_is_the_straight_run(policy, tmp_path, stop):
    """vLLM's draws on the CPU come from the random stream that a checkpoint holds."""
    assert_resumed_as_straight(policy, tmp_path, stop)


def test_a_resumed_lora_run_is_the_straight_run_but_for_rounding(policy, tmp_path):
    """Each time that TRL merges the adapter for vLLM and takes it out again, the base weights are rounded; a resumed
    run starts from base weights without that. Nothing else differs."""
    resumed = assert_resumed_as_straight(policy, tmp_path, 2, WithoutRounding(2), peft_config=LORA)
    model = copy.deepcopy(resumed.model).merge_and_unload()
    resumed.vllm_generation.sync_weights()
    held = resumed.vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model.state_dict()
    merged = model.state_dict()
    for layer in range(model.config.num_hidden_layers):
        attention = f"model.layers.{layer}.self_attn"
        fused = torch.cat([merged[f"{attention}.{name}_proj.weight"] for name in "qkv"])
        assert torch.equal(held[f"{attention}.qkv_proj.weight"], fused.bfloat16())
        assert torch.equal(held[f"{attention}.o_proj.weight"], merged[f"{attention}.o_proj.weight"].bfloat16())
