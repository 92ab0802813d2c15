"""CreditPPOTrainer: PPO with a critic on today's TRL, under the same credit (arXiv 2510.13554, eq. 5 and 12).

Generation, rewards, the clipped loss, credit, logging and resuming are those of `CreditGRPOTrainer`. What PPO adds:

    _generate_and_score_completions   values, GAE, whitening: advantages (B, T) in place of the group's
    _compute_loss                     the value loss, on the critic's own graph

A truncated response ends the episode like any other. Completions that could not be scored are left out of GAE, the
value loss and the whitening, and have advantage 0.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlcredit.credit.gae import gae
from rlcredit.errors import InputError
from rlcredit.models import value_model
from rlcredit.trainers import critic, shards
from rlcredit.trainers.grpo import CreditGRPOTrainer
from rlcredit.trainers.launch import launched_for
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.rows import joined, loss_mask, total_of
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

logger = logging.getLogger(__name__)


class CreditPPOTrainer(CreditGRPOTrainer):
    """PPO: `CreditGRPOTrainer` with `args: CreditPPOConfig`, a critic, and advantages from GAE.

    `num_generations` may be 1. Evaluation has TRL's advantages and no critic.
    """

    config_class: ClassVar[type[SturdyGRPOConfig]] = CreditPPOConfig

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, **kwargs):  # type: ignore[no-untyped-def]
        if launched_for("MEGATRON_LM"):
            raise InputError(
                "algorithm: ppo: Megatron-LM's engine holds one model and one optimiser; launch with ddp.yaml, "
                "fsdp2.yaml or zero3.yaml of recipes/accelerate"
            )
        super().__init__(model, reward_funcs, args=args, train_dataset=train_dataset, **kwargs)
        args = self.args
        if self.has_images:
            raise InputError(
                "algorithm: ppo: the critic is not given images; use algorithm: grpo, or a set without them"
            )
        policy = self.accelerator.unwrap_model(self.model)
        options = {"trust_remote_code": args.trust_remote_code}
        if args.critic_model_name_or_path is not None:
            value_model.check(args.critic_model_name_or_path, policy.config, self.processing_class, **options)
        own = [self.accelerator.device] if self.accelerator.device.type != "cpu" else []
        # new layers are drawn, in some processes only: that must not move the stream which completions come from
        with shards.whole_weights(policy), torch.random.fork_rng(own, device_type=self.accelerator.device.type):
            made = value_model.load(policy, args.critic_model_name_or_path, args.critic_lora_r, **options)
        self.critic = critic.Critic(made, args, self.accelerator, self.bad_steps, self.policy_step)
        self.add_callback(self.critic)
        self.parts.append(self.critic)
        self._warned_of_a_pass = False

    # ---- rollouts -------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._estimate_advantages(output)
            if self.num_generations == 1:  # a share of groups without a difference, where there are no groups
                self._metrics["train"].pop("frac_reward_zero_std", None)
        return output

    @torch.no_grad()
    def _estimate_advantages(self, batch: dict[str, Any]) -> None:
        """Put whitened advantages, returns, values and the mask of valued tokens, (B, T) each, into the rollout, and
        the number of those tokens on all processes."""
        scores = self._total_scores(len(batch["completion_ids"]))
        scored = ~scores.isnan()
        written = loss_mask(batch).bool()
        valued = written & scored[:, None]
        completion = written.shape[1]
        values = self.critic.values(
            joined(batch, "ids"), joined(batch, "mask"), completion, self.args.per_device_train_batch_size
        )
        rewards, _ = self._step_rewards(batch)
        if self.args.kl_in_reward:
            rewards = rewards - self.beta * self._divergence(batch, written)
        advantages, returns = gae(rewards, values, valued, self.args.gamma, self.args.gae_lambda)
        batch["advantages"] = self._whitened(advantages, valued)
        batch["returns"], batch["values"], batch["valued"] = returns, values * valued, valued
        batch["num_valued"] = self.accelerator.reduce(valued.sum(), reduction="sum")
        self._note_values(returns, values, valued)
        self.credit_log.note_advantages(batch["advantages"], written, self._row_keys(len(written)))

    def _total_scores(self, rows: int) -> Tensor:
        """The weighted sum of the scores of this process's completions: [B], nan where there is none."""
        assert self._scores is not None
        first = self.accelerator.process_index * rows
        return total_of(self._scores[first : first + rows], self.reward_weights)

    def _divergence(self, batch: dict[str, Any], written: Tensor) -> Tensor:
        """log p - log p_ref of each sampled token, with the weights that generated it: [B, T], in nats."""
        old = batch.get("old_per_token_logps")
        if old is None:
            if not self._warned_of_a_pass:
                logger.warning(
                    "kl_in_reward: one more pass a rollout for its log-probabilities, which TRL does not make"
                )
                self._warned_of_a_pass = True
            old = self._get_per_token_logps_and_entropies(
                self.model,
                joined(batch, "ids"),
                joined(batch, "mask"),
                written.shape[1],
                batch_size=self.args.per_device_train_batch_size,
            )[0]
        divergence = torch.where(written, old - batch["ref_per_token_logps"], 0.0)
        self._metrics["train"]["kl_in_reward"].append(self._mean(divergence, written).item())
        return divergence

    def _whitened(self, advantages: Tensor, valued: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the valued tokens of the global batch; 0 elsewhere."""
        centred = advantages - self._mean(advantages, valued)
        variance = self._mean(centred**2, valued)
        return torch.where(valued, centred * torch.rsqrt(variance + 1e-8), 0.0)

    def _mean(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean over the masked tokens of all processes."""
        sums = torch.stack([(x.double() * mask).sum(), mask.double().sum()])
        total, count = self.accelerator.reduce(sums, reduction="sum")
        return (total / count.clamp(min=1)).float()

    # ---- the loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        beta: float = self.args.beta
        if self.args.kl_in_reward:
            self.beta = 0.0  # the KL is in the advantages
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        if not self.model.training:
            return loss
        tokens = self._valued_in_a_step(inputs)
        part = self.critic.learn(joined(inputs, "ids"), joined(inputs, "mask"), inputs, tokens)
        self.bad_steps.watch(part, inputs)
        self.bad_steps.watch(inputs["returns"])
        # the parts of a step add up to its loss, and TRL logs the mean of what is noted
        whole = self.accelerator.reduce(part, reduction="mean").item() * self.current_gradient_accumulation_steps
        self._metrics["train"]["value/loss"].append(whole)
        self._note_sizes(inputs)
        return loss

    def _valued_in_a_step(self, batch: dict[str, Any]) -> Tensor:
        """Valued tokens of an optimiser step, a process: of the generation batch, rescaled as TRL does for `dapo`."""
        steps = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        return batch["num_valued"].clamp(min=1) / (self.accelerator.num_processes * steps)

    # ---- what a run shows -----------------------------------------------------------------------------------------

    def _note_values(self, returns: Tensor, values: Tensor, valued: Tensor) -> None:
        """value/*: means over the valued tokens of the rollout, on all processes."""
        metrics = self._metrics["train"]
        mean_return = self._mean(returns, valued)
        spread = self._mean((returns - mean_return) ** 2, valued)
        error = returns - values
        left = self._mean((error - self._mean(error, valued)) ** 2, valued)
        metrics["value/mean"].append(self._mean(values, valued).item())
        metrics["value/return"].append(mean_return.item())
        if spread > 0:  # returns that are all equal leave nothing to explain
            metrics["value/explained_variance"].append((1 - left / spread).item())

    def _note_sizes(self, batch: dict[str, Any]) -> None:
        """Mean |A| over the valued tokens of all processes, before and after credit."""
        after = self._weighted(batch) if "credit_weights" in batch else batch["advantages"]
        for when, advantages in (("before", batch["advantages"]), ("after", after)):
            size = self._mean(advantages.abs(), batch["valued"]).item()
            self._metrics["train"][f"advantage/size_{when}_credit"].append(size)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The policy, and the critic in the folder `critic` beside it."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call:
            folder = f"{output_dir or self.args.output_dir}/{critic.FOLDER}"
            self.critic.save_pretrained(folder)
            if self.args.should_save:
                self.processing_class.save_pretrained(folder)
