"""What is said of keys that other releases and other programs have."""

from __future__ import annotations

import re

import pytest
from trl import ModelConfig
from trl.scripts.grpo import GRPOScriptArguments
from trl.scripts.utils import DatasetMixtureConfig

from rlcredit.cli import main
from rlcredit.config.elsewhere import ADVICE
from rlcredit.config.fields import options_of
from rlcredit.tasks.dataset import DatasetArguments
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.run_arguments import RunArguments

KNOWN = set(options_of((RunArguments, ModelConfig, CreditPPOConfig, DatasetArguments)))
# Fields of `transformers.TrainingArguments` in 4.28, 4.40 and 4.57, and of TRL's GRPOConfig, ModelConfig and
# ScriptArguments from 0.14 on, that are gone.
REMOVED = """
overwrite_output_dir evaluation_strategy per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir
save_safetensors no_cuda use_mps_device jit_mode_eval use_ipex fp16_opt_level half_precision_backend xpu_backend
tpu_num_cores tpu_metrics_debug past_index sharded_ddp fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap adafactor
group_by_length use_legacy_prediction_loop include_inputs_for_metrics fp16_backend push_to_hub_model_id
push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope dispatch_batches split_batches
include_tokens_per_second max_prompt_length token_entropy_percentile_threshold use_liger_loss vllm_device vllm_dtype
vllm_enable_prefix_caching vllm_guided_decoding_regex vllm_max_model_len wandb_log_unique_prompts torch_dtype
gradient_checkpointing_use_reentrant
"""


def test_no_key_that_a_run_has_is_spoken_of_as_another_programs():
    assert KNOWN.isdisjoint(ADVICE)


def test_every_key_of_trl_and_open_r1_is_a_key():
    assert set(options_of((GRPOScriptArguments, DatasetMixtureConfig))) <= KNOWN
    assert {"system_prompt", "dataset_prompt_column"} <= KNOWN


def test_every_removed_argument_has_advice():
    assert [name for name in REMOVED.split() if name not in ADVICE] == []


def test_advice_names_keys_that_there_are():
    """`write x`, `write x: value` and `write x and y` at the start of an advice."""
    for name, advice in ADVICE.items():
        said = re.match(r"write (\w+)", advice)
        if said and said[1] not in ("datasets", "a", "its", "some"):
            assert said[1] in KNOWN, (name, advice)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("torch_dtype", "write dtype"),
        ("--base_model", "write model_name_or_path"),
        ("--actor.model_name_or_path", "write model_name_or_path"),
        ("--ds.zero_stage", "launch with recipes/accelerate/zero2.yaml"),
        ("sequence_len", "leave it out: max_completion_length bounds the completions"),
        ("data", "write dataset_name or datasets"),
        ("env", "set variables before the command"),
        ("num_processes", "accelerate takes it"),
        ("ray_kwargs", "leave it out: this key of verl has no counterpart"),
        ("colour_of_the_sky", "unknown key 'colour_of_the_sky'"),
    ],
)
def test_keys_of_others_are_answered(tmp_path, capsys, key, said):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("task: countdown\n" if key.startswith("--") else f"{key}: 1\n")
    assert main(["train", "--config", str(recipe), *([key, "1"] if key.startswith("--") else [])]) == 2
    error = capsys.readouterr().err
    assert said in error and "did you mean" not in error


@pytest.mark.parametrize("key", ["max_prompt_len_", "lora_rnk_target", "evaluate_steps_every"])
def test_a_key_that_only_sounds_alike_is_not_named(tmp_path, capsys, key):
    (tmp_path / "r.yaml").write_text(f"{key}: 1\n")
    assert main(["train", "--config", str(tmp_path / "r.yaml")]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_other_commands_have_keys_of_their_own(capsys):
    assert main(["evaluate", "--base_model", "x", "--task", "gsm8k"]) == 2
    assert "write model_name_or_path" not in capsys.readouterr().err
