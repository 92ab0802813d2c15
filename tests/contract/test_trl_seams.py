"""The private seams of TRL and transformers that rlcredit stands on.

If one of these fails after an upgrade, the seam named in the message has moved: read the new source before you change
rlcredit/trainers or rlcredit/attention/capture.py.
"""

from __future__ import annotations

import inspect
import re

import pytest
import transformers
import trl
from transformers import AttentionInterface, Trainer
from trl import GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import RepeatSampler

from rlcredit.trainers import memory


def moved(seam: str) -> str:
    return f"{seam} has moved in trl {trl.__version__} / transformers {transformers.__version__}"


SIGNATURES = {
    "_generate": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_get_train_sampler": ["self", "dataset"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_clip_grad_norm": ["self", "model"],
    "_run_epoch": [
        "self",
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_overridden_methods(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == SIGNATURES[name], moved(name)


def test_the_log_probability_pass():
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"], moved("the pass")
    assert {"batch_size", "compute_entropy"} <= set(names), moved("the pass")


def test_the_loss_takes_the_advantages_after_its_forward():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    forward, taken = source.find("self._get_per_token_logps_and_entropies("), source.find('inputs["advantages"]')
    assert 0 < forward < taken, moved("the order of forward and advantages in _compute_loss")
    assert source.count('inputs["advantages"]') == 1, moved("the use of the advantages")
    assert "if advantages.dim() == 1:" in source, moved("advantages of shape (B, T)")


def test_when_the_rollout_is_scored():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    condition = re.search(r"generate_every = (.*?)  #.*?\n\s*if (.*?):\n\s*old_per_token_logps, _, _ = ", source, re.S)
    assert condition, moved("the pass over the rollout")
    assert condition[1] == "self.args.steps_per_generation * self.num_iterations"
    assert " ".join(condition[2].split()) == (
        "self.args.gradient_accumulation_steps % generate_every != 0 or ( "
        "self.use_vllm and self.vllm_importance_sampling_correction )"
    ), moved("the condition of the pass over the rollout")
    policy, reference = source.find("old_per_token_logps, _, _ ="), source.find("ref_per_token_logps, _, _ =")
    assert policy < reference < source.find("self._calculate_rewards("), moved("the order of passes and rewards")


def test_the_rollout_buffer():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "shuffle_sequence_dict(generation_batch)" in source, moved("shuffling of the rollout")
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source, moved("the rollout buffer")
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step), moved("the micro-step count")


def test_the_tool_mask_is_the_third_of_what_generate_returns():
    source = inspect.getsource(GRPOTrainer._generate)
    assert re.search(r"return prompt_ids, completion_ids, tool_mask,", source), moved("what _generate returns")


def test_what_trl_keeps_in_memory():
    source = inspect.getsource(grpo_trainer)
    for name in memory.TRL_MEMORY:
        assert f"self.{name} = " in source, moved(name)
    loop = inspect.getsource(Trainer)
    for name in ("_tr_loss", "_globalstep_last_logged"):
        assert f"self.{name} = " in loop, moved(name)
    begin, restored = loop.find("self._tr_loss = torch.tensor(0.0"), loop.find("on_train_begin(args")
    assert 0 < begin < restored, moved("on_train_begin, after the loss is set to zero")


def test_the_trainer_state_is_written_last():
    source = inspect.getsource(Trainer._save_checkpoint)
    state = source.find("self.state.save_to_json")
    for earlier in ("self.save_model(", "self._save_optimizer_and_scheduler(", "self._save_rng_state("):
        assert 0 < source.find(earlier) < state, moved("the order of files in a checkpoint")


def test_gradients_can_be_dropped_before_the_optimiser_step():
    source = inspect.getsource(Trainer._run_epoch)
    places = [
        source.find(text) for text in ("self._clip_grad_norm(", "on_pre_optimizer_step(", "self.optimizer.step()")
    ]
    assert -1 not in places and places == sorted(places), moved("on_pre_optimizer_step")


def test_the_sampler_shuffles_from_a_generator_of_its_own():
    source = inspect.getsource(RepeatSampler.__iter__)
    assert "torch.randperm(self.num_samples, generator=self.generator)" in source, moved("RepeatSampler")


def test_attention_functions_come_from_get_interface():
    assert list(inspect.signature(AttentionInterface.get_interface).parameters) == [
        "self",
        "attn_implementation",
        "default",
    ], moved("AttentionInterface.get_interface")
