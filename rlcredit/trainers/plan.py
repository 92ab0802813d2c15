"""The plan of a run, for `--dry_run`: what it will do and roughly what it needs, told without any weights."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from peft import get_peft_model
from transformers import PretrainedConfig
from trl import ModelConfig, get_peft_config

from rlcredit.attention import choose_layers
from rlcredit.errors import InputError
from rlcredit.models.loading import auto_class
from rlcredit.models.threads import choose_threads
from rlcredit.trainers import launch
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.prepare import Checked
from rlcredit.trainers.schedule import Schedule

GB = 1e9
MANY_PASSES = 50  # over the training set
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class MemoryEstimate(NamedTuple):
    """Estimated bytes on one device that holds everything.

    Attributes:
        weights, gradients, optimiser: of the policy, and of PPO's critic; of the KL term's reference, weights only.
        activations: kept for the backward pass.
        logits: of one micro-batch, with their float32 copy and gradient.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float

    def on_each_of(self, devices: int) -> float:
        """Bytes on each device where weights, gradients and optimiser are sharded over `devices`."""
        return (self.weights + self.gradients + self.optimiser) / devices + self.activations + self.logits


def plan(checked: Checked) -> str:
    """The plan in lines that people read."""
    config, model = checked.config, checked.model
    lengths = checked.renderer.lengths(list(checked.task.train["prompt"]))  # type: ignore[index]
    sizes = checked.schedule
    parameters, trained = count(checked.policy, model)
    what = "all trained" if parameters == trained else f"{_many(trained)} trained (LoRA)"
    passes = sizes.rollouts * sizes.prompts / len(lengths)
    tokens = sizes.rollouts * (sizes.completions + most_anew(config, sizes)) * config.max_completion_length
    lines = {
        "policy": f"{model.model_name_or_path}: {_many(parameters)} parameters, {what}, {model.dtype or 'auto'}",
        "data": f"{checked.run.data_name}: {len(lengths):,} training rows, prompts of {min(lengths)} to "
        f"{max(lengths)} tokens; held out: {_tests(checked)}",
        "rollout": f"{sizes.completions:,} completions = {sizes.prompts:,} prompts x {config.num_generations}, on "
        f"{sizes.processes} processes; up to {config.max_completion_length:,} tokens each, temperature "
        f"{config.temperature:g}, by {_generator(config)}",
        "step": f"{sizes.per_step:,} completions ({config.per_device_train_batch_size} a process x "
        f"{config.gradient_accumulation_steps} accumulated); {sizes.steps_per_rollout:g} steps a rollout",
        "run": f"{sizes.steps:,} steps = {sizes.rollouts:,} rollouts = {sizes.rollouts * sizes.completions:,} "
        f"completions{_anew(config, sizes)}, at most {_many(tokens)} tokens; "
        f"{passes:,.2f} passes over the data",
        **_agents(checked),
        "credit": _credit(checked),
        "evaluation": _evaluation(checked),
        "checkpoints": f"every {config.save_steps:g} steps, {config.save_total_limit or 'all'} kept"
        if config.save_strategy == "steps"
        else config.save_strategy.value,
        **({} if torch.accelerator.is_available() else {"threads": choose_threads(parameters)}),
        "memory": _memory(checked, sizes, max(lengths)),
        "output": str(config.output_dir),
    }
    notes = [f"note: {line}" for line in [*checked.notes, *_doubts(checked, passes, max(lengths))]]
    return "\n".join([*(f"{name:12} {text}" for name, text in lines.items()), *notes, "checked; nothing was trained"])


def count(policy: PretrainedConfig, model: ModelConfig) -> tuple[int, int]:
    """Parameters of the policy, and how many of them are trained; on the meta device, which holds no weights."""
    with torch.device("meta"):
        model_on_meta = auto_class(policy, "model_name_or_path").from_config(policy)
        parameters = sum(p.numel() for p in model_on_meta.parameters())
        if (lora := get_peft_config(model)) is not None:
            try:
                model_on_meta = get_peft_model(model_on_meta, lora)
            except (ValueError, TypeError, ArithmeticError) as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"lora_r, lora_alpha, lora_dropout, lora_target_modules: adapters cannot be put on this policy so "
                    f"({reason:.200})"
                ) from error
            return parameters, sum(p.numel() for p in model_on_meta.parameters() if p.requires_grad)
    return parameters, parameters


def memory(checked: Checked, longest_prompt: int) -> MemoryEstimate:
    """Estimated memory of training: AdamW with two moments; activations by Korthikanti et al. (arXiv 2205.05198).

    A layer keeps about 34·B·N·h bytes in 16 bits without its attention map (eq. 2 there, the fused kernels' part left
    out); with gradient checkpointing it keeps its input, 2·B·N·h, and one layer is whole at a time. The logits are
    those of the completion's tokens: as they are, in float32 and as a gradient. float32 weights that compute in 16
    bits (`bf16: true`) are cast once a pass: a copy of 2 bytes each. What generation needs is not in it.
    """
    config, policy = checked.config, checked.policy.get_text_config()
    parameters, trained = count(checked.policy, checked.model)
    size = BYTES.get(checked.model.dtype or "", 4)
    computed = 2 if config.bf16 or config.fp16 else size
    kept = 0.5 if checked.model.load_in_4bit else 1 if checked.model.load_in_8bit else size
    adapters = trained < parameters
    own = 4 if adapters else size  # adapters are kept in float32
    critic = parameters if isinstance(config, CreditPPOConfig) else 0
    critic_trained = critic if isinstance(config, CreditPPOConfig) and not config.critic_lora_r else 0
    reference = parameters if config.beta and not adapters else 0
    cast = (0 if computed == size else 2 * (parameters + reference)) + (2 * critic if computed == 2 else 0)
    B, N = config.per_device_train_batch_size, longest_prompt + config.max_completion_length
    unit = B * N * policy.hidden_size * computed
    layers = policy.num_hidden_layers
    activations = (layers + 17) * unit if config.gradient_checkpointing else layers * 17 * unit
    logits = B * config.max_completion_length * policy.vocab_size * (2 * computed + 4)
    return MemoryEstimate(
        weights=parameters * kept + (trained * own if adapters else 0) + reference * size + 4 * critic + cast,
        gradients=trained * own + 4 * critic_trained,
        optimiser=2 * (trained * own + 4 * critic_trained),
        activations=float(activations),
        logits=float(logits),
    )


def _memory(checked: Checked, sizes: Schedule, longest_prompt: int) -> str:
    estimate = memory(checked, longest_prompt)
    parts = ", ".join(f"{name} {value / GB:.1f}" for name, value in estimate._asdict().items())
    text = f"about {estimate.on_each_of(1) / GB:.1f} GB a device ({parts})"
    if sizes.processes > 1:
        text += (
            f"; {estimate.on_each_of(sizes.processes) / GB:.1f} GB where sharded over {sizes.processes} (fsdp2, zero3)"
        )
    if checked.config.use_vllm and checked.config.vllm_mode == "colocate":
        text += f"; and vLLM's share, {checked.config.vllm_gpu_memory_utilization:.0%} of the device"
    return text + "; estimated"


def _doubts(checked: Checked, passes: float, longest_prompt: int) -> list[str]:
    """What a plan can work with, and is seldom meant."""
    doubts = []
    trained_in_16_bits = BYTES.get(checked.model.dtype or "", 4) == 2 and not checked.model.use_peft
    if trained_in_16_bits and not launch.launched_for("FSDP") and not launch.launched_for("DEEPSPEED"):
        doubts.append(
            f"dtype: {checked.model.dtype} weights mostly round steps away under plain DDP; write dtype: float32 with "
            "bf16: true, or launch with FSDP or DeepSpeed"
        )
    if passes > MANY_PASSES:
        doubts.append(f"run: {passes:,.0f} passes over the data; write fewer steps, or give more rows")
    need = memory(checked, longest_prompt).on_each_of(checked.schedule.processes)  # sharded, at the best
    there = _memory_here(checked.config)
    if there is not None and need > there:
        doubts.append(f"memory: the estimate of {need / GB:.1f} GB is beyond the {there / GB:.1f} GB of a device here")
    return doubts


def _memory_here(config: CreditGRPOConfig) -> float | None:
    """Bytes of the device that the run would train on here; None where that is another machine's."""
    if torch.cuda.is_available() and not config.use_cpu:
        return float(torch.cuda.get_device_properties(0).total_memory)
    if config.bf16:  # planned where the accelerators are not
        return None
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _many(count: float) -> str:
    for size, unit in ((1e9, " B"), (1e6, " M")):
        if count >= size:
            return f"{count / size:,.2f}{unit}"
    return f"{count:,.0f}"


def _generator(config: CreditGRPOConfig) -> str:
    return f"vLLM ({config.vllm_mode})" if config.use_vllm else "transformers"


def most_anew(config: CreditGRPOConfig, sizes: Schedule) -> int:
    """The most completions that dynamic sampling draws beside those of a rollout: all of them in every round."""
    return sizes.completions * config.dynamic_sampling_max_rounds if config.dynamic_sampling else 0


def _anew(config: CreditGRPOConfig, sizes: Schedule) -> str:
    most = sizes.rollouts * most_anew(config, sizes)
    return f" and, by dynamic sampling, at most {most:,} that are drawn anew" if most else ""


def _tests(checked: Checked) -> str:
    return ", ".join(f"{name} {len(rows):,}" for name, rows in checked.task.tests.items()) or "none"


def _agents(checked: Checked) -> dict[str, str]:
    run = checked.run
    named = {
        "tools": ", ".join(run.tools or []),
        "environment": run.environment_factory,
        "completions": run.rollout_func,
    }
    return {name: value for name, value in named.items() if value}


def _credit(checked: Checked) -> str:
    config = checked.config
    text = f"{config.credit_strategy}"
    if config.strategy.neutral:
        return f"{text}: every token alike"
    if config.strategy.gives_advantages:
        text += ": advantages of its own, from the whole rollout"
    if config.strategy.values is not None:
        most, tokens = config.strategy.values.most(config, config.max_completion_length)
        completions = checked.schedule.completions
        text += (
            f"; at most {_many(most * completions)} continuations of {_many(tokens * completions)} tokens a rollout, "
            f"{config.strategy.values.samples(config)} a place"
        )
    if config.strategy.gives_advantages:
        return text
    text += f": q {config.credit_quantile:g}, a {config.credit_amplification:g}"
    if "attention" not in config.strategy.needs:
        return text
    layers = choose_layers(checked.policy, config.credit_layers, config.credit_num_layers)
    return (
        f"{text}; reads layers {', '.join(map(str, layers))} of {checked.policy.get_text_config().num_hidden_layers}"
    )


def _evaluation(checked: Checked) -> str:
    config = checked.config
    during = f", every {config.eval_steps:g} steps" if config.eval_strategy == "steps" else ""
    during = f", every {config.eval_strategy.value}" if config.eval_strategy == "epoch" else during
    if (held_out := checked.held_out) is None:
        name, rows = next(iter(checked.task.tests.items()), ("", ()))
        return f"{during[2:]}: mean reward of {name} ({len(rows)} problems)" if during and name else "none"
    sets = ", ".join(f"{name} ({len(rows)} problems)" for name, rows in held_out.tests.items())
    how = "greedy" if held_out.sampling.temperature == 0 else f"temperature {held_out.sampling.temperature:g}"
    if held_out.second is not None:
        how += f"; the first set at temperature {held_out.second.temperature:g} too"
    return f"before and after{during}: {sets} x {held_out.samples}, {how}"
