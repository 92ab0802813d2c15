"""SturdyGRPOConfig: TRL's GRPOConfig, checked before a model loads, with the settings of a run that loses nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from trl import GRPOConfig

from rlcredit.config.ranges import Range, check_ranges
from rlcredit.trainers.continuous_batching import refuse_continuous_batching

# What TRL takes as it is, and what then fails after the weights are loaded, or trains nothing.
_RANGES: tuple[Range, ...] = (
    ("per_device_train_batch_size", lambda n: n >= 1, "1 or more"),
    ("gradient_accumulation_steps", lambda n: n >= 1, "1 or more"),
    ("steps_per_generation", lambda n: n >= 1, "1 or more, or null"),
    ("generation_batch_size", lambda n: n >= 1, "1 or more, or null"),
    ("num_iterations", lambda n: n >= 1, "1 or more"),
    ("max_completion_length", lambda n: n >= 1, "1 or more"),
    ("save_total_limit", lambda n: n >= 1, "1 or more, or null"),
    ("temperature", lambda x: 0 < x < math.inf, "a number above 0, 1.0 for instance"),
    ("learning_rate", lambda x: 0 <= x < math.inf, "0 or more, 1e-6 for instance"),
    ("beta", lambda x: 0 <= x < math.inf, "0 or more"),
    ("max_grad_norm", lambda x: x >= 0, "0 or more, .inf to clip nothing"),
    ("logging_steps", lambda x: 0 <= x < math.inf, "1 or more"),
    ("seed", lambda n: 0 <= n < 2**32, "a number from 0 to 4294967295"),
    ("vllm_gpu_memory_utilization", lambda x: 0 < x <= 1, "a share above 0, up to 1"),
    ("adam_beta1", lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    ("adam_beta2", lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    ("max_bad_steps", lambda n: n >= 1, "1 or more"),
    ("reward_timeout", lambda x: x > 0, "seconds above 0, or null"),
    ("reward_retries", lambda n: n >= 0, "0 or more"),
    ("dynamic_sampling_max_rounds", lambda n: n >= 1, "1 or more"),
    ("max_unscored_rollouts", lambda n: n >= 1, "1 or more"),
)
# TRL refuses other words in the middle of the first step, with the weights loaded and a rollout made; a contract test
# holds these to TRL's own.
WORDS = {
    "loss_type": ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_mode": ("colocate", "server"),
    "importance_sampling_level": ("token", "sequence"),
    "on_save_error": ("stop", "continue"),
}
# What a rollout that is still in use was made under: where one has changed, the rollout cannot be used on.
ROLLOUT_SETTINGS = (
    "algorithm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_generations",
    "num_iterations",
    "beta",
    "use_vllm",
    "vllm_importance_sampling_correction",
)
LEARNING_SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "seed"),
    *("temperature", "top_p", "top_k", "max_completion_length", "loss_type", "scale_rewards", "epsilon"),
)
"""What else decides what is learned; a run that resumes with another says so."""


@dataclass
class SturdyGRPOConfig(GRPOConfig):
    """Configuration of `SturdyGRPOTrainer`.

    Values that cannot work raise a `ValueError` of one line, before any model loads.
    """

    max_bad_steps: int = field(
        default=10,
        metadata={"help": "Stop after this many optimiser steps in a row whose loss or gradient was not finite."},
    )
    reward_timeout: float | None = field(
        default=None, metadata={"help": "Seconds a reward function may take for one call; null: as long as it likes."}
    )
    reward_retries: int = field(
        default=5,
        metadata={
            "help": "How often a reward whose server does not answer is called again, after 1, 2, 4, ... seconds; "
            "then the run stops with a checkpoint."
        },
    )
    reward_rescore: bool = field(
        default=False,
        metadata={
            "help": "After a reward function raised or took too long, call it again for each completion by itself, so "
            "that only those that cause it stay unscored; false: all completions of that call do."
        },
    )
    max_unscored_rollouts: int = field(
        default=1, metadata={"help": "Stop, with a checkpoint, after this many rollouts in a row without any score."}
    )
    on_save_error: str = field(
        default="stop",
        metadata={
            "help": "What a checkpoint that cannot be written (a full disk) does: stop, or continue without it.",
            "choices": ["stop", "continue"],
        },
    )
    dynamic_sampling: bool = field(
        default=False,
        metadata={
            "help": "Replace groups of completions whose rewards are all equal, which teach nothing, by groups of new "
            "prompts (DAPO, arXiv 2503.14476)."
        },
    )
    dynamic_sampling_max_rounds: int = field(
        default=3,
        metadata={"help": "How often the groups that are missing are drawn anew in a rollout; those left then stay."},
    )
    trim_padding: bool = field(
        default=True,
        metadata={
            "help": "Cut each micro-batch to its longest prompt and completion before the loss: less work, and equal "
            "up to rounding. false: the rollout's width, and TRL's loss bit for bit."
        },
    )
    sort_by_length: bool = field(
        default=False,
        metadata={
            "help": "Sort the rows of an optimiser step by length into its micro-batches, so that trim_padding cuts "
            "more. The step is the same up to rounding; logged means over micro-batches weigh rows otherwise."
        },
    )

    def __post_init__(self) -> None:
        if self.max_completion_length is None:
            raise ValueError("max_completion_length: null is no limit; write a number of tokens")
        check_ranges(self, _RANGES)
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations: {self.num_generations} is out of range: GRPO compares at least 2 generations of a "
                "prompt; write 8, for instance"
            )
        try:
            super().__post_init__()
        except ValueError:
            if (size := self.generation_batch_size) and size % self.num_generations:
                raise ValueError(
                    f"num_generations: {self.num_generations} does not divide the {size} completions of a rollout: "
                    f"per_device_train_batch_size {self.per_device_train_batch_size} x steps_per_generation "
                    f"{self.steps_per_generation} x {self.world_size} processes; change one of them"
                ) from None
            raise
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        self._refuse_sorting()
        refuse_continuous_batching(self)
        for name in self._VALID_DICT_FIELDS:
            if name.endswith("_kwargs") and isinstance(value := getattr(self, name), str):
                raise ValueError(f'{name}: {value!r:.80} is no mapping; write {{"key": value}}')

    def _refuse_sorting(self) -> None:
        """Refuse `sort_by_length` where it saves nothing, or where a step is more than a sum over rows."""
        if not self.sort_by_length:
            return
        if not self.trim_padding:
            raise ValueError("sort_by_length: saves nothing with trim_padding: false; leave one of them out")
        means = {
            "loss_type": self.loss_type == "bnpo",
            "top_entropy_quantile": self.top_entropy_quantile < 1,
            "entropy_coef": self.entropy_coef != 0,
            "use_adaptive_entropy": self.use_adaptive_entropy,
        }
        for name in (name for name, is_set in means.items() if is_set):
            raise ValueError(
                f"sort_by_length: {name}: {getattr(self, name)} has means over each micro-batch, which depend on the "
                "rows in it; leave one of them out"
            )

    def compared_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps of the settings: a run that resumes with others says which."""
        names = (*ROLLOUT_SETTINGS[1:], *LEARNING_SETTINGS)
        return {"algorithm": type(self).__name__, **{name: _plain(getattr(self, name)) for name in names}}


def _plain(value: Any) -> Any:
    """As a checkpoint holds it, which has no enums."""
    return value.value if isinstance(value, Enum) else value
