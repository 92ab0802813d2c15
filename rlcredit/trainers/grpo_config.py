"""CreditGRPOConfig: TRL's GRPOConfig and the credit_* fields, nothing typed twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from trl import GRPOConfig

from rlcredit.credit import CreditArguments, find_strategy

# What TRL takes as it is, and what then fails after the weights are loaded, or trains nothing.
_NUMBERS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
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
)
_WORDS = {
    "loss_type": ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_mode": ("colocate", "server"),
    "importance_sampling_level": ("token", "sequence"),
}


@dataclass
class CreditGRPOConfig(CreditArguments, GRPOConfig):
    """Configuration of `CreditGRPOTrainer`.

    Values that cannot work raise a `ValueError` of one line, before any model loads.
    """

    max_bad_steps: int = field(
        default=10,
        metadata={"help": "Stop after this many optimiser steps in a row whose loss or gradient was not finite."},
    )
    reward_timeout: float | None = field(
        default=None, metadata={"help": "Seconds a reward function may take for one call; None: as long as it likes."}
    )

    reward_retries: int = field(
        default=5,
        metadata={
            "help": "How often a reward whose server does not answer is called again, after 1, 2, 4, ... seconds; "
            "then the run stops with a checkpoint."
        },
    )
    on_save_error: str = field(
        default="stop",
        metadata={
            "help": "What a checkpoint that cannot be written (a full disk) does: stop, or continue without it.",
            "choices": ["stop", "continue"],
        },
    )

    def __post_init__(self) -> None:
        CreditArguments.__post_init__(self)
        if self.max_completion_length is None:
            raise ValueError("max_completion_length: null is no limit; write a number of tokens")
        for name, holds, expected in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"{name}: {value} is out of range; write {expected}")
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations: {self.num_generations} is out of range: GRPO compares at least 2 generations of a "
                "prompt; write 8, for instance"
            )
        try:
            GRPOConfig.__post_init__(self)
        except ValueError:
            if (size := self.generation_batch_size) and size % self.num_generations:
                raise ValueError(
                    f"num_generations: {self.num_generations} does not divide the {size} completions of a rollout: "
                    f"per_device_train_batch_size {self.per_device_train_batch_size} x steps_per_generation "
                    f"{self.steps_per_generation} x {self.world_size} processes; change one of them"
                ) from None
            raise
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(words)}")
        for name in self._VALID_DICT_FIELDS:
            if name.endswith("_kwargs") and isinstance(value := getattr(self, name), str):
                raise ValueError(f'{name}: {value!r:.80} is no mapping; write {{"key": value}}')
        if self.max_bad_steps < 1:
            raise ValueError(f"max_bad_steps: {self.max_bad_steps} is out of range; write 1 or more")
        if self.reward_timeout is not None and not self.reward_timeout > 0:
            raise ValueError(f"reward_timeout: {self.reward_timeout} is out of range; write seconds above 0, or null")
        if self.reward_retries < 0:
            raise ValueError(f"reward_retries: {self.reward_retries} is out of range; write 0 or more")
        if self.on_save_error not in ("stop", "continue"):
            raise ValueError(f"on_save_error: {self.on_save_error!r} is unknown; write stop or continue")
        if self.importance_sampling_level == "sequence" and self.credit_strategy != "uniform":
            raise ValueError(
                "importance_sampling_level: 'sequence' has one ratio for the whole response, which cannot carry "
                f"per-token credit ({self.credit_strategy}); write importance_sampling_level: token, or "
                "credit_strategy: uniform"
            )

    @property
    def credit_needs(self) -> frozenset[str]:
        """Which signals the strategy reads."""
        return find_strategy(self.credit_strategy).needs
