"""CreditPPOConfig: CreditGRPOConfig and what PPO adds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rlcredit.config.ranges import Range, check_ranges
from rlcredit.trainers.grpo_config import CreditGRPOConfig

_RANGES: tuple[Range, ...] = (
    ("gamma", lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    ("gae_lambda", lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    ("critic_learning_rate", lambda x: 0 < x < math.inf, "1e-5, or more"),
    ("value_clip", lambda x: x > 0, "a number above 0, or null"),
    ("critic_warmup_steps", lambda n: n >= 0, "0 or more"),
    ("critic_lora_r", lambda n: n >= 0, "0 or more"),
)


class _One(int):
    """1, which TRL's check of GRPO's group size lets pass: PPO needs no group."""

    def __lt__(self, other: object) -> bool:
        return False


@dataclass
class CreditPPOConfig(CreditGRPOConfig):
    """Configuration of `CreditPPOTrainer`: TRL's GRPOConfig, credit_*, and the critic.

    `scale_rewards` has no meaning here: advantages are whitened over the response tokens of the global batch.
    `beta` is the coefficient of the KL term: in the loss, as in TRL, or in the reward with `kl_in_reward`.
    """

    gamma: float = field(default=1.0, metadata={"help": "Discount a token, in [0, 1]."})
    gae_lambda: float = field(default=0.95, metadata={"help": "lambda of GAE, in [0, 1]."})
    kl_in_reward: bool = field(
        default=False,
        metadata={"help": "Take beta * (log p - log p_ref) off the reward of each token, instead of a loss term."},
    )
    critic_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or model the critic starts from; null: the policy's own weights."}
    )
    critic_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the critic."})
    critic_warmup_steps: int = field(
        default=0, metadata={"help": "Steps at the start in which the critic alone learns."}
    )
    critic_lora_r: int = field(default=0, metadata={"help": "Rank of the critic's LoRA; 0: all of it learns."})
    value_clip: float | None = field(
        default=None, metadata={"help": "Values move at most this far from the rollout's in the value loss; null: no."}
    )

    def __post_init__(self) -> None:
        if self.num_generations == 1:
            self.num_generations: int = _One(1)
        super().__post_init__()
        self.num_generations = int(self.num_generations)
        check_ranges(self, _RANGES)
        if 0 < self.max_steps <= self.critic_warmup_steps:
            raise ValueError(
                f"critic_warmup_steps: {self.critic_warmup_steps} leaves the policy no step of max_steps "
                f"{self.max_steps}; write fewer"
            )
        if self.kl_in_reward and self.beta == 0:
            raise ValueError("kl_in_reward: true needs a coefficient; write beta: 0.05, for instance")
        if self.fp16:
            raise ValueError("fp16: PPO's critic has no loss scaling; write bf16: true, or fp16: false")
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                f"multi_objective_aggregation: {self.multi_objective_aggregation!r} normalises within GRPO's groups; "
                "PPO adds the weighted rewards up: leave it out"
            )
        if self.strategy.gives_advantages:
            raise ValueError(
                f"credit_strategy: {self.credit_strategy!r} gives advantages of the group, and PPO has those of its "
                "critic; write algorithm: grpo, or a strategy that gives weights"
            )
        if self.dynamic_sampling:
            raise ValueError(
                "dynamic_sampling: replaces groups whose rewards are all equal, from which PPO learns by its critic; "
                "leave it out, or write algorithm: grpo"
            )
        self._refuse_what_only_groups_have()
        self.refuse_per_sequence_options("PPO")
        if self.importance_sampling_level != "token":
            raise ValueError(
                f"importance_sampling_level: {self.importance_sampling_level!r} has one ratio a response; write token"
            )

    def _refuse_what_only_groups_have(self) -> None:
        """Strategies that ask for what PPO has not got when credit is assigned."""
        needs = self.strategy.needs
        if "advantages" in needs:
            raise ValueError(
                f"credit_strategy: {self.credit_strategy!r} needs one advantage a response, and PPO has one a token; "
                "write algorithm: grpo"
            )
        if "values" in needs:
            raise ValueError(
                f"credit_strategy: {self.credit_strategy!r} needs values of continuations, and PPO has those of its "
                "critic; write algorithm: grpo"
            )
        if "groups" in needs and self.num_generations == 1:
            raise ValueError(
                f"credit_strategy: {self.credit_strategy!r} compares the responses of a group, and num_generations is "
                "1; write 2 or more"
            )
