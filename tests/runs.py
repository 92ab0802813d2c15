"""Short training runs for tests: the same tiny policy, data and seeds, whatever else differs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer

from rlcredit import CreditGRPOConfig, CreditGRPOTrainer, CreditPPOConfig, CreditPPOTrainer
from rlcredit.trainers import launch
from tests import tiny

ALIGNED = dict(steps_per_generation=2, gradient_accumulation_steps=2)
MISALIGNED = dict(steps_per_generation=4, gradient_accumulation_steps=1)


def arguments(folder: Path, config: type[CreditGRPOConfig], **changes: Any) -> CreditGRPOConfig:
    """Four optimiser steps on the CPU; responses of up to 16 tokens; a horizon that fits them."""
    launch.choose_device()
    settings: dict[str, Any] = dict(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        max_steps=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        use_cpu=not launch.launched_for("DEEPSPEED"),
        ddp_backend="gloo" if launch.launched_for("DEEPSPEED") else None,
        disable_tqdm=True,
        credit_fai_horizon=[2, 10],
        credit_waad_window=4,
        **MISALIGNED,
    )
    made = config(**{**settings, **changes})
    launch.shard_on_cpu()
    return made


def trainer(
    folder: Path,
    kind: type[GRPOTrainer] = CreditGRPOTrainer,
    model: PreTrainedModel | None = None,
    reward: Any = tiny.count_digits,
    **changes: Any,
) -> GRPOTrainer:
    """A trainer over a fresh copy of the tiny model; `peft_config` and `train_dataset` may be given too."""
    extra = {name: changes.pop(name) for name in ("peft_config", "train_dataset", "eval_dataset") if name in changes}
    extra.setdefault("train_dataset", tiny.prompts())
    model = tiny.model_of("llama", spread=0.15) if model is None else copy.deepcopy(model)
    model.generation_config.eos_token_id = 1
    if changes.get("beta") and "peft_config" not in extra:  # TRL loads the reference from where the policy came from
        model.save_pretrained(folder / "policy")
        model.config._name_or_path = str(folder / "policy")
    config = CreditPPOConfig if issubclass(kind, CreditPPOTrainer) else CreditGRPOConfig
    args = arguments(folder, config, **changes)
    made = kind(model, reward, args=args, processing_class=tiny.tokenizer(), **extra)
    return made


def trained(folder: Path, *args: Any, **changes: Any) -> GRPOTrainer:
    """A trainer after its run (made and run at once: making one sets the global seeds)."""
    made = trainer(folder, *args, **changes)
    made.train()
    return made


def parameters(made: GRPOTrainer) -> dict[str, torch.Tensor]:
    """The policy's parameters, by name."""
    return {
        name: value.detach().clone() for name, value in made.accelerator.unwrap_model(made.model).named_parameters()
    }


def logged(made: GRPOTrainer, *leave_out: str) -> list[dict[str, float]]:
    """What was logged at each step, times left out."""
    times = ("step_time", "seconds", "time_share", "runtime", "per_second", *leave_out)
    lines = [line for line in made.state.log_history if "loss" in line]
    return [{key: value for key, value in line.items() if not any(t in key for t in times)} for line in lines]
