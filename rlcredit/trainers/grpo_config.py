"""CreditGRPOConfig: TRL's GRPOConfig and the credit_* fields, nothing typed twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlcredit.credit import CreditArguments, Strategy, strategy_of
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

PER_SEQUENCE_LOSSES = ("vespo",)  # whose formula depends on the sign of the response's advantage


@dataclass
class CreditGRPOConfig(CreditArguments, SturdyGRPOConfig):
    """Configuration of `CreditGRPOTrainer`.

    Values that cannot work, an unknown strategy among them, raise a `ValueError` of one line before any model loads.
    """

    def __post_init__(self) -> None:
        CreditArguments.__post_init__(self)
        strategy = self.strategy
        SturdyGRPOConfig.__post_init__(self)
        if self.importance_sampling_level == "sequence" and not strategy.neutral:
            raise ValueError(
                "importance_sampling_level: 'sequence' has one ratio for the whole response, which cannot carry "
                f"per-token credit ({self.credit_strategy}); write importance_sampling_level: token, or "
                "credit_strategy: uniform"
            )

        if strategy.gives_advantages or strategy.signed:
            self.refuse_per_sequence_options(f"the strategy {self.credit_strategy!r}")
        if self.credit_normalize == "batch" and self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"credit_normalize: 'batch' needs the whole optimiser step in one rollout: steps_per_generation "
                f"({self.steps_per_generation}) has to be a multiple of gradient_accumulation_steps "
                f"({self.gradient_accumulation_steps}); write such numbers, or credit_normalize: response"
            )

    def refuse_per_sequence_options(self, who: str) -> None:
        """What TRL takes one sign of the advantage per response for, where advantages change sign within one.

        Raises: ValueError that says whose they are.
        """
        if self.loss_type in PER_SEQUENCE_LOSSES:
            raise ValueError(
                f"loss_type: {self.loss_type!r} takes one advantage a response, and {who} gives one a token; write "
                "loss_type: grpo"
            )
        if self.off_policy_mask_threshold is not None:
            raise ValueError(
                "off_policy_mask_threshold: keeps or drops whole responses by the sign of their advantage, which with "
                f"{who} changes within one; leave it out"
            )

    @property
    def strategy(self) -> Strategy:
        """The object that `credit_strategy` names. (It is not kept here: transformers pickles a run's arguments, and a
        strategy of a user's may hold what cannot be pickled.)"""
        return strategy_of(self)

    @property
    def reads_answer_rows(self) -> bool:
        """Whether attention is read of the rows of the answer, whose place the task has to know."""
        return self.credit_fai_rows == "answer" and "attention" in self.strategy.needs

    def compared_settings(self) -> dict[str, Any]:
        return {**super().compared_settings(), **self.credit_settings()}
