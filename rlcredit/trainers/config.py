"""CreditGRPOConfig: TRL's GRPOConfig and the credit_* fields, nothing typed twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig

from rlcredit.credit import CreditArguments, find_strategy


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
        if self.num_generations < 1:
            raise ValueError(f"num_generations: {self.num_generations} is out of range; write 8, for instance")
        GRPOConfig.__post_init__(self)
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
