"""README.md of a saved policy: what trained it, with which settings, on what, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from torch import nn
from transformers import TrainerState

from rlcredit.credit import CreditArguments
from rlcredit.files import write_whole
from rlcredit.runs.files import Shares, read_accuracies, read_facts
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.ppo_config import CreditPPOConfig

CARD_FILE = "README.md"
# Of TRL's settings those that say what was trained, and how much of it; the rest is in training_args.bin.
SHOWN = (
    *("learning_rate", "max_steps", "num_train_epochs", "num_generations", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "steps_per_generation", "num_iterations", "max_completion_length"),
    *("temperature", "loss_type", "scale_rewards", "beta", "seed"),
)
CITATIONS = """\
## Citation

The method:

```bibtex
@article{attention-illuminates,
  title   = {Attention Illuminates {LLM} Reasoning},
  author  = {{The authors of arXiv:2510.13554}},
  journal = {arXiv preprint arXiv:2510.13554},
  year    = {2025},
  url     = {https://arxiv.org/abs/2510.13554}
}
```

The software: rlcredit, on top of TRL (https://github.com/huggingface/trl).
"""


def write_card(config: CreditGRPOConfig, state: TrainerState, policy: nn.Module) -> None:
    """Write README.md into the run's folder, from what is there."""
    folder = Path(config.output_dir)
    about, _ = read_facts(folder)
    card = model_card(config, state, about, read_accuracies(folder), adapters=isinstance(policy, PeftModel))
    write_whole(folder / CARD_FILE, card)


def model_card(
    config: CreditGRPOConfig,
    state: TrainerState,
    about: Mapping[str, Any],
    accuracies: Mapping[str, Shares],
    *,
    adapters: bool = False,
) -> str:
    """The card as Markdown, with the metadata that the hub reads.

    Args:
        config: the run's settings.
        state: its log so far.
        about: `model` it started from and `task`, as run.json has them; without them the card leaves them out.
        accuracies: of held-out sets `before` the run and `after` it, each problem's share of right samples.
        adapters: whether adapters of PEFT were trained, and are what is saved.
    """
    algorithm = "PPO" if isinstance(config, CreditPPOConfig) else "GRPO"
    start, task = about.get("model"), about.get("task")
    on_hub = start and not Path(start).exists() and start.count("/") == 1
    metadata = [
        f"library_name: {'peft' if adapters else 'transformers'}",
        *([f"base_model: {start}"] if on_hub else []),
        "tags:",
        *(f"- {tag}" for tag in ("rlcredit", "trl", algorithm.lower(), "reinforcement-learning")),
    ]
    said = f"{algorithm} with token-level credit (`credit_strategy: {config.credit_strategy}`)"
    what = "Adapters (LoRA) of a policy" if adapters else "A policy"
    sentence = f"{what} trained with rlcredit {version('rlcredit')}: {said}"
    sentence += f", from `{start}`" * bool(start) + f", on `{task}`" * bool(task) + "."
    results = _results(state, accuracies)
    return "\n".join(
        [
            *("---", *metadata, "---", "", f"# {Path(config.output_dir).name}", "", sentence, ""),
            *("## Results", "", f"After {state.global_step} optimiser steps:", "", *results, ""),
            *("## Settings", "", "| key | value |", "|---|---|", *_rows(config), ""),
            CITATIONS,
        ]
    )


def _results(state: TrainerState, accuracies: Mapping[str, Shares]) -> list[str]:
    rewards = [line["reward"] for line in state.log_history if line.get("reward") is not None]
    lines = ["| | first | last |", "|---|---:|---:|"]
    if rewards:
        lines.append(f"| mean reward of a rollout | {rewards[0]:.3f} | {rewards[-1]:.3f} |")
    before, after = accuracies.get("before", {}), accuracies.get("after", {})
    for name in {**before, **after}:
        first, last = (f"{np.mean(shares[name]):.3f}" if name in shares else "" for shares in (before, after))
        count = len({**before, **after}[name])
        lines.append(f"| accuracy on {name}, {count} held-out problems | {first} | {last} |")
    return lines


def _rows(config: CreditGRPOConfig) -> list[str]:
    usual = CreditArguments()
    of_credit = ["credit_strategy", "credit_quantile", "credit_amplification"]
    of_credit += [
        item.name
        for item in fields(CreditArguments)
        if item.name not in of_credit and getattr(config, item.name) != getattr(usual, item.name)
    ]
    names: Sequence[str] = [*of_credit, *SHOWN]
    return [f"| `{name}` | `{json.dumps(getattr(config, name), default=str)}` |" for name in names]
