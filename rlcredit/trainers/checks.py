"""What can be checked of a run before weights load, a question each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_torch_bf16_gpu_available
from trl import ModelConfig
from trl.import_utils import is_vllm_available

from rlcredit.attention import choose_layers
from rlcredit.config import peek
from rlcredit.errors import InputError
from rlcredit.evaluation.held_out import HeldOut
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.models.loading import auto_class, describe
from rlcredit.tasks import TaskData
from rlcredit.trainers import checkpoints
from rlcredit.trainers.agents import Agents
from rlcredit.trainers.grpo_config import CreditGRPOConfig

NO_BF16 = "bf16: this machine has no GPU that trains in bf16; write bf16: false, or use_cpu: true, to train here"
BF16_OFF = "bf16: false, since this machine has no GPU that trains in bf16 (true is TRL's default)"


def check_installed(config: CreditGRPOConfig, model: ModelConfig) -> None:
    """Refuse trackers that are unknown or not installed, and settings of adapters that nothing reads."""
    for name in config.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"report_to: {name!r} is not known; write none, or some of {known}")
        if name not in get_available_reporting_integrations():
            raise InputError(f"report_to: {name!r} is not installed; pip install it, or write report_to: none")
    defaults = ModelConfig()
    adapters = [item.name for item in fields(ModelConfig) if item.name.startswith("lora_")]
    changed = [name for name in adapters if getattr(model, name) != getattr(defaults, name)]
    if changed and not model.use_peft:
        raise InputError(
            f"{changed[0]}: without use_peft all weights are trained and it has no effect; write use_peft: true, or "
            f"leave {changed[0]} out"
        )


def precision_here(argv: Sequence[str]) -> list[str]:
    """The flags that leave bf16 off, TRL's default, where no GPU trains in it and the recipe says nothing of it.

    Raises: InputError where the recipe asks for bf16.
    """
    if is_torch_bf16_gpu_available() or peek(argv, "use_cpu") is not None:
        return []
    asked = peek(argv, "bf16")
    if str(asked).lower() in ("true", "") or str(asked).startswith("--"):  # a flag without a value is true
        raise InputError(NO_BF16)
    if asked is None and not peek(argv, "fp16"):
        return ["--bf16", "false"]
    return []


def missing_here(config: CreditGRPOConfig, model: ModelConfig, *, planned_elsewhere: bool) -> list[str]:
    """A line for each thing that the run needs and this machine has not.

    Args:
        planned_elsewhere: whether this is a plan made on a machine without an accelerator, for one that has some.
    """
    lines = []
    kernels = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    attention = model.attn_implementation or ""
    if attention in kernels and not kernels[attention]():
        lines.append(f"attn_implementation: {attention} is not installed, or finds no GPU here; write sdpa")
    if config.bf16 and planned_elsewhere and not is_torch_bf16_gpu_available():
        lines.append(NO_BF16)
    return lines


def check_vllm(config: CreditGRPOConfig) -> None:
    """Refuse what TRL would refuse once the policy is loaded."""
    if not is_vllm_available():
        raise InputError('use_vllm: vLLM is not installed; write pip install "trl[vllm]", or --use_vllm false')
    if config.vllm_mode == "server" and not torch.cuda.is_available():
        raise InputError(
            "vllm_mode: server sends the weights over NCCL, which needs a CUDA device; write --vllm_mode colocate"
        )


def check_best_metric(config: CreditGRPOConfig, held_out: HeldOut | None) -> None:
    """Refuse to look for the best model by a metric that the run's evaluations do not have."""
    if not config.load_best_model_at_end or held_out is None:
        return
    wanted = (config.metric_for_best_model or "loss").removeprefix("eval_")
    if wanted not in held_out.metric_names:
        raise InputError(
            f"metric_for_best_model: {wanted!r} is not measured where held-out sets are; write "
            f"{held_out.metric_names[0]}, or another of their estimates"
        )


def checkpoint_of(config: CreditGRPOConfig) -> str | None:
    """Where training goes on, or None; refuse names that the file system does not take."""
    output = Path(config.output_dir)
    try:
        there = next(path for path in (output, *output.parents) if path.exists())
    except OSError as error:
        raise InputError(f"output_dir: {config.output_dir!r} cannot be a folder ({error.strerror})") from error
    if "\0" in config.output_dir or not there.is_dir():
        raise InputError(f"output_dir: {config.output_dir!r} cannot be a folder; write another name")
    try:
        return checkpoints.find(config.resume_from_checkpoint, config.output_dir)
    except OSError as error:
        wanted = config.resume_from_checkpoint
        raise InputError(f"resume_from_checkpoint: {wanted!r} cannot be read ({error.strerror})") from error


def instead_of(checkpoint: Path) -> str:
    names = [path.name for path in checkpoints.complete(checkpoint.parent)]
    before = names[: names.index(checkpoint.name)] if checkpoint.name in names else []
    if before:
        return f"write an earlier checkpoint, {checkpoint.parent / before[-1]}"
    return "write an earlier checkpoint, or start without resume_from_checkpoint"


def template_options(config: CreditGRPOConfig, agents: Agents) -> dict[str, Any]:
    """What the chat template gets beside the conversation."""
    return {**(config.chat_template_kwargs or {}), **agents.template_options}


def check_policy(
    path: str, model: ModelConfig, config: CreditGRPOConfig, task: TaskData, agents: Agents
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Refuse a policy that is not there, cannot be read, or whose context is too short; give what describes it."""
    options = {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code}
    policy, tokenizer = describe(path, "model_name_or_path", **options)
    auto_class(policy, "model_name_or_path")
    if "attention" in config.strategy.needs:
        choose_layers(policy, config.credit_layers, config.credit_num_layers)
    context = getattr(policy.get_text_config(), "max_position_embeddings", None)
    assert task.train is not None
    agents.check(task, tokenizer)
    renderer = PromptRenderer(tokenizer, template_options(config, agents))
    longest = max(renderer.lengths(list(task.train["prompt"])))
    if context and longest + config.max_completion_length > context:
        raise InputError(
            f"max_completion_length: a prompt of {longest} tokens and {config.max_completion_length} of "
            f"completion do not fit the model's context of {context}; shorten one of them"
        )
    return policy, tokenizer
