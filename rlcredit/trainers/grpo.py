"""CreditGRPOTrainer: TRL's GRPO with the advantage concentrated by attention-derived weights (eq. 12).

Nothing of TRL's loss is copied. On top of `SturdyGRPOTrainer`, the trainer overrides these seams and calls `super()`
in each (contract tests hold them):

    _generate                            keeps the tool mask of the rollout
    _calculate_rewards                   keeps the scores of the rollout
    _generate_and_score_completions      gives the rows their keys and, if known by then, their weights
    _get_per_token_logps_and_entropies   the pass that signals are read from
    _compute_loss                        hands TRL the advantage times gamma, (B, T)
    training_step                        notes the time spent on credit
    create_model_card                    says what trained the policy

Departures from the paper: signals come from a pass that runs anyway instead of an eager copy of the model (equal for
models without dropout).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlcredit.credit import Rollout, Valuing, sums_of_gamma, weighted_advantage
from rlcredit.errors import InputError
from rlcredit.rewards.parts import placed
from rlcredit.signals import AttentionSignals
from rlcredit.trainers.agents import Agents
from rlcredit.trainers.continuations import RolloutValues, refuse_other_than_text
from rlcredit.trainers.credit_log import CreditLog, totals_of_rows
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.model_card import write_card
from rlcredit.trainers.policy import adapter_is_off, head_of, refuse_unreadable, warn_of_dropout, widen_head
from rlcredit.trainers.reader import CreditReader, Source
from rlcredit.trainers.rollouts import RolloutMaker, Rows, refuse_unknown_answer
from rlcredit.trainers.rows import advantages_of, joined, loss_mask, response_mask
from rlcredit.trainers.sturdy import SturdyGRPOTrainer
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig


@dataclass
class AwaitedPass:
    """The next log-probability pass of the policy, which is to be read.

    Attributes:
        tool_mask: [B, T] with 0 at tokens that the model did not write; None without tools, and until a rollout is
            generated.
        then: called with the signals as soon as the pass has ended.
        signals: what was read; None until then.
        logps: log-probabilities of the completions' tokens, [B, T].
        log_sum_sq: log of the sum of squared probabilities, [B, T], where it is wanted.
    """

    tool_mask: Tensor | None = None
    then: Callable[[AttentionSignals], None] = lambda signals: None
    signals: AttentionSignals | None = None
    logps: Tensor | None = None
    log_sum_sq: Tensor | None = None


class CreditGRPOTrainer(SturdyGRPOTrainer):
    """TRL's `GRPOTrainer`, with `args: CreditGRPOConfig`; everything else as TRL documents it.

    `answer_span` says where the answer of a completion's text is, for strategies that need it.

    With `credit_strategy: uniform` losses and gradients are TRL's own: bit for bit with `trim_padding: false`, else up
    to rounding. Credit draws nothing from the global random streams. Evaluation has gamma = 1.
    """

    config_class: ClassVar[type[SturdyGRPOConfig]] = CreditGRPOConfig

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, *, answer_span=None, **kwargs):  # type: ignore[no-untyped-def]
        args = self.checked(args)
        self.strategy = args.strategy
        refuse_unknown_answer(args, answer_span)
        if "attention" in self.strategy.needs:
            refuse_unreadable(model, args)
        super().__init__(model, reward_funcs, args=args, train_dataset=train_dataset, **kwargs)
        self.reader, self.credit_log = CreditReader(args, self.strategy, self.accelerator), CreditLog(self)
        self.run_state.components |= {"credit": self.reader, "credit_log": self.credit_log}
        self._awaited: AwaitedPass | None = None
        self._scores: Tensor | None = None
        self._lengths: list[int] = []
        self._values = None if self.strategy.values is None else self._rollout_values(self.strategy.values, kwargs)
        self._rollouts = RolloutMaker(self.strategy.needs, self.accelerator, self.processing_class, answer_span)
        if "sum_sq" in self.strategy.needs:
            widen_head(self.model, args, self.temperature)
        if self.has_images and self.reader.shares_groups:
            grouping = args.credit_head_grouping
            raise InputError(
                f"credit_head_grouping: {grouping} needs a pass of its own, which is not given images: write response"
            )
        if self.has_images and self.reader.source(scored=self._rollout_is_scored) is Source.OWN:
            key = "credit_normalize" if args.credit_normalize == "batch" else "credit_strategy"
            raise InputError(
                f"{key}: {getattr(args, key)} needs the rollout before its loss, in a pass of its own that is not "
                "given images; write another, or a steps_per_generation above gradient_accumulation_steps, with which "
                "TRL scores the rollout"
            )
        if self.reader.needs_attention:
            warn_of_dropout(self.model)

    def _rollout_values(self, valuing: Valuing, others: dict[str, Any]) -> RolloutValues:
        refuse_other_than_text(
            self.args, [name for name in Agents._fields if others.get(name)], has_images=self.has_images
        )
        if not self.rewards.are_functions:
            raise InputError(
                f"credit_strategy: {self.args.credit_strategy!r} rewards continuations by functions alone; write the "
                "reward model as a reward function, or another strategy"
            )
        vllm = self.vllm_generation if self.use_vllm else None
        parts = self.accelerator, self.policy_tokenizer, self.rewards, self.generating
        return RolloutValues(valuing, self.args, *parts, self.is_sharded, vllm)

    @property
    def _credits_now(self) -> bool:
        """Whether the batch at hand gets token weights: not in evaluation, nor where the strategy changes nothing."""
        return self.model.training and not self.strategy.neutral

    # ---- rollouts -------------------------------------------------------------------------------------------------

    def _generate(self, prompts):  # type: ignore[no-untyped-def]
        output = super()._generate(prompts)
        if self._awaited is not None and output[2]:
            masks = [torch.tensor(mask, device=self.accelerator.device) for mask in output[2]]
            self._awaited.tool_mask = nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_value=1)
        return output

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self.credit_log.begin_rollout(len(inputs))
        if not self._credits_now:
            return super()._generate_and_score_completions(inputs)
        source = self.reader.source(scored=self._rollout_is_scored)
        awaited = AwaitedPass()
        with self._awaiting(awaited) if source is Source.ROLLOUT else nullcontext():
            batch = super()._generate_and_score_completions(inputs)
        batch["credit_keys"] = self._row_keys(len(batch["completion_ids"]))
        if source is not Source.LOSS:  # else the loss of each batch gives its weights
            if source is Source.OWN:
                awaited = self._read_in_own_pass(batch)
            self._assign(batch, awaited.signals, self._rows_of(batch, awaited, inputs))
        return batch

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        self._scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._lengths = [len(ids) for ids in completion_ids_list]
        return self._scores

    def _step_rewards(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Weighted rewards of this process's completions where they land, and where steps end: [B, T] each."""
        assert self._scores is not None
        rows = len(self._lengths)
        first = self.accelerator.process_index * rows
        own = self._scores[first : first + rows]
        return placed(self.rewards.landings(own, self.reward_weights, self._lengths), loss_mask(batch))

    def _rows_of(self, batch: dict[str, Any], awaited: AwaitedPass, inputs: list[dict[str, Any]]) -> Rows | None:
        """What the strategy asks for of the rollout."""
        if not self.strategy.of_rollout:
            return None
        assert self._scores is not None
        return self._rollouts.rows_of(
            batch,
            awaited.signals,
            logps_BT=awaited.logps,
            log_sum_sq_BT=awaited.log_sum_sq,
            scores_BF=self._scores,
            steps_BT=self._step_rewards(batch) if "rewards" in self.strategy.needs else None,
            weights_F=self.reward_weights,
            inputs=inputs,
            generations=self.num_generations,
            valued=partial(self._valued, batch, inputs),
        )

    def _valued(
        self, batch: dict[str, Any], inputs: list[dict[str, Any]], response_BN: Tensor, rollout: Rollout
    ) -> Tensor:
        """The values of the states that the strategy names: [B, N]."""
        assert self._values is not None
        with self.reader.clocked():
            values_BN, cost = self._values.of(batch, inputs, self.reward_weights, self.state, response_BN, rollout)
        for name, value in cost.items():
            self._metrics["train"][name].append(value)
        return values_BN

    @property
    def _rollout_is_scored(self) -> bool:
        """Whether TRL computes the rollout's log-probabilities after generating it (its own condition)."""
        every = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    def _row_keys(self, rows: int) -> Tensor:
        """Each row's identity before TRL shuffles them: how many completions came before its rollout, and its number
        in that. The keys are the same however a rollout is cut into micro-batches and over processes."""
        numbers = torch.arange(rows) + self.accelerator.process_index * rows
        rollouts = self._step // (self.args.steps_per_generation * self.num_iterations)
        before = torch.full_like(numbers, rollouts * rows * self.accelerator.num_processes)
        return torch.stack([before, numbers], dim=1).to(self.accelerator.device)

    def _assign(self, batch: dict[str, Any], signals: AttentionSignals | None, rows: Rows | None = None) -> None:
        """Put into a batch its weights [B, T], the advantages [B, T] of a strategy that has its own, and what its
        metrics are made of."""
        response_BN, length = response_mask(batch), batch["completion_ids"].shape[1]
        if rows is None:
            credit = self.reader.credit(signals, response_BN, batch["credit_keys"])
        else:
            credit = rows.own_part(self.reader.credit(rows.signals, rows.response, rows.keys, rows.rollout))
        batch["credit_weights"] = credit.weights[:, -length:]
        if credit.advantages is not None:
            own_BT, usual_B1 = credit.advantages[:, -length:], batch["advantages"][:, None]
            batch["credit_advantages"] = torch.where(credit.skipped[:, None], usual_B1, own_BT)
            self.credit_log.note_advantages(batch["credit_advantages"], loss_mask(batch), batch["credit_keys"])
        batch["credit_totals"] = totals_of_rows(credit, signals, response_BN)
        self.credit_log.note_batch(batch, int(credit.skipped.sum()))

    # ---- passes that are read -------------------------------------------------------------------------------------

    @contextmanager
    def _awaiting(self, awaited: AwaitedPass) -> Iterator[None]:
        self._awaited = awaited
        try:
            yield
        finally:
            self._awaited = None

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):  # type: ignore[no-untyped-def]
        inputs = model, input_ids, attention_mask, logits_to_keep
        score = partial(super()._get_per_token_logps_and_entropies, *inputs, *args, **kwargs)
        awaited = self._awaited
        if awaited is None or awaited.signals is not None or model is self.ref_model or adapter_is_off(model):
            return score()
        response_BN = attention_mask.bool().clone()
        response_BN[:, :-logits_to_keep] = False
        if (mask := awaited.tool_mask) is not None:  # TRL pads it with 1
            mask = nn.functional.pad(mask, (0, logits_to_keep - mask.shape[1]), value=1)
            response_BN[:, -logits_to_keep:] &= mask.bool()
        with self._noting_sums_of_squares(awaited, logits_to_keep):
            masks = attention_mask, response_BN, self._fai_rows(input_ids, attention_mask, logits_to_keep)
            result, awaited.signals = self.reader.read(model, *masks, score)
        awaited.logps = result[0].detach()
        awaited.then(awaited.signals)
        return result

    def _fai_rows(self, ids_BN: Tensor, real_BN: Tensor, length: int) -> Tensor | None:
        """The rows that FAI is a mean over where these are the answer's, else None."""
        return self._rollouts.answers(ids_BN, real_BN, length) if self.args.reads_answer_rows else None

    @contextmanager
    def _noting_sums_of_squares(self, awaited: AwaitedPass, length: int) -> Iterator[None]:
        """Keep what TRL's fused head gives of them in a pass."""
        if "sum_sq" not in self.strategy.needs:
            yield
            return
        parts: list[Tensor] = []
        policy = head_of(self.accelerator.unwrap_model(self.model))
        hook = policy.register_forward_hook(
            lambda *call: parts.append(call[-1].log_sum_sq_probs[:, -length:].detach())
        )
        try:
            yield
        finally:
            hook.remove()
        awaited.log_sum_sq = torch.cat(parts)

    def _read_in_own_pass(self, batch: dict[str, Any]) -> AwaitedPass:
        ids, real, size = joined(batch, "ids"), joined(batch, "mask"), self.args.per_device_train_batch_size
        length, awaited = batch["completion_ids"].shape[1], AwaitedPass()
        score = partial(super()._get_per_token_logps_and_entropies, self.model, ids, real, length, batch_size=size)

        def scored(**options: Any) -> Any:
            with self._noting_sums_of_squares(awaited, length):
                result = score(**options)
            awaited.logps = result[0]
            return result

        whole = self.reader.needs_entropy or self.reader.needs_scores or self.is_sharded
        awaited.signals = self.reader.read_in_own_pass(
            self.model,
            ids,
            real,
            response_mask(batch),
            self._fai_rows(ids, real, length),
            rows_at_once=size,
            score=scored if whole else None,
        )
        return awaited

    # ---- the loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        # Rows without keys are a rollout of `uniform` that a run resumed with another strategy still has to use up.
        if not self._credits_now or "credit_keys" not in inputs:
            return super()._compute_loss(model, inputs)
        batch = dict(inputs)  # the rollout is used again in later iterations: its advantages stay as they are

        def assign_and_weigh(signals: AttentionSignals) -> None:
            self._assign(inputs, signals)
            batch["advantages"] = self._weighted(inputs)

        if "credit_weights" in inputs:
            batch["advantages"] = self._weighted(inputs)
            loss = super()._compute_loss(model, batch)
        else:  # TRL takes the advantages from the batch after its forward
            with self._awaiting(AwaitedPass(inputs.get("tool_mask"), assign_and_weigh)):
                loss = super()._compute_loss(model, batch)
        if "credit_totals" not in inputs:
            raise RuntimeError(
                "TRL's loss no longer asks _get_per_token_logps_and_entropies for its log-probabilities: this version "
                "of TRL is not supported (see tests/contract)"
            )
        self.credit_log.note_loss(inputs["credit_totals"])
        return loss

    def _weighted(self, batch: dict[str, Any]) -> Tensor:
        """gamma_t * A_t: [B, T]."""
        advantages, args = advantages_of(batch), self.args
        return weighted_advantage(
            advantages,
            batch["credit_weights"],
            args.credit_sign,
            mask_BT=loss_mask(batch),
            normalize=args.credit_normalize,
            mean=self._mean_gamma() if args.credit_normalize == "batch" else None,
        )

    def _mean_gamma(self) -> Tensor:
        """The mean of gamma over the tokens of the optimiser step at hand, over all processes."""
        size = self.current_gradient_accumulation_steps
        first = self._step % self.args.steps_per_generation // size * size
        assert self._buffered_inputs is not None
        sums = [
            sums_of_gamma(advantages_of(part), part["credit_weights"], self.args.credit_sign, loss_mask(part))
            for part in self._buffered_inputs[first : first + size]
        ]
        total, count = self.accelerator.reduce(torch.stack([torch.stack(pair) for pair in sums]).sum(0))
        return (total / count.clamp(min=1)).float()

    def training_step(self, model, inputs, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        output = super().training_step(model, inputs, num_items_in_batch)
        if self._step % self.current_gradient_accumulation_steps == 0:  # where TRL notes the step's time
            seconds = self.reader.take_seconds()
            if self._credits_now:
                self.credit_log.note_seconds(seconds)
        return output

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):  # type: ignore[no-untyped-def]
        if self.is_world_process_zero():
            write_card(self.args, self.state, self.accelerator.unwrap_model(self.model))
