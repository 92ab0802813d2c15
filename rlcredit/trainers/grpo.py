"""CreditGRPOTrainer: TRL's GRPO with the advantage concentrated by attention-derived weights (eq. 12).

Nothing of TRL's loss is copied. The trainer overrides these seams and calls `super()` in each:

    _generate                            keeps the tool mask of the rollout
    _generate_and_score_completions      knows when a rollout is scored; adds the rows' keys and, if known, weights
    _get_per_token_logps_and_entropies   the pass that signals are read from
    _compute_loss                        hands TRL the advantage times gamma, (B, T)
    _calculate_rewards                   leaves out completions that could not be scored
    training_step, _clip_grad_norm       time spent on credit; gradients that are not finite
    _get_train_sampler                   an order that depends on seed and epoch alone
    evaluate                             the held-out sets that `rlcredit train` gives it (`held_out`)
    _save_checkpoint, train              what TRL keeps in memory only; whole checkpoints; ends before the last step

Departures from the paper: signals come from a pass that runs anyway instead of an eager copy of the model (equal for
models without dropout); `credit_attention: auxiliary` makes a forward of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from datasets import Dataset
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, TrainerControl
from trl import GRPOTrainer

from rlcredit.attention import choose_layers
from rlcredit.attention.capture import StopForward
from rlcredit.credit import weighted_advantage
from rlcredit.errors import InputError, RunStopped
from rlcredit.evaluation.held_out import HeldOut, metrics_of
from rlcredit.evaluation.samples import SampleTable
from rlcredit.models.modes import evaluating
from rlcredit.signals import AttentionSignals
from rlcredit.trainers import checkpoints
from rlcredit.trainers.bad_steps import BadSteps
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.memory import Memory
from rlcredit.trainers.reader import CreditReader, CreditTotals
from rlcredit.trainers.rewards import GuardedReward, RewardsStopped, check_signature
from rlcredit.trainers.sampler import EpochSampler
from rlcredit.trainers.stopping import StopOnSignal

logger = logging.getLogger(__name__)


@dataclass
class _Reading:
    """A log-probability pass that is about to run and to be read once.

    Attributes:
        tool_mask: given T, [B, T] with 0 at tokens that the model did not write, or None.
        then: called with the signals as soon as the pass has ended.
    """

    tool_mask: Callable[[int], Tensor | None]
    then: Callable[[AttentionSignals], None]
    done: bool = False


class CreditGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, with `args: CreditGRPOConfig`; everything else as TRL documents it.

    With `credit_strategy: uniform` losses and gradients are TRL's own bit for bit. Credit draws nothing from the
    global random streams. Evaluation has gamma = 1.
    """

    def __init__(self, model, reward_funcs=None, args: CreditGRPOConfig | None = None, train_dataset=None, **kwargs):  # type: ignore[no-untyped-def]
        args = args or CreditGRPOConfig()
        self._reading: _Reading | None = None
        self._rollout_tool_mask: list[list[int]] | None = None
        self._table_is_rollout = True
        _refuse_unreadable(model, args)
        self._guards, guarded = _guard(reward_funcs, args, train_dataset)
        super().__init__(model, guarded, args=args, train_dataset=train_dataset, **kwargs)
        self._reader = CreditReader(args, self.accelerator)
        if self._reader.needs_attention:
            _warn_of_dropout(self.model)
        self._bad_steps = BadSteps(self.accelerator, args.max_bad_steps, self._note_bad_steps)
        self._last_checkpoint: Path | None = None
        self._ends_early = False
        self._memory, self._stop_on_signal = Memory(self), StopOnSignal(self.accelerator)
        for callback in (self._bad_steps, self._memory, self._stop_on_signal):
            self.add_callback(callback)
        self.held_out: HeldOut | None = None
        self.last_measured: tuple[int, dict[str, list[float]]] | None = None  # step, shares by set
        if args.sync_ref_model and self.is_sharded:
            raise InputError(
                "sync_ref_model: a reference that moves is not saved where weights are sharded; leave it out"
            )

    # ---- rollouts -------------------------------------------------------------------------------------------------

    def _generate(self, prompts):  # type: ignore[no-untyped-def]
        output = super()._generate(prompts)
        self._rollout_tool_mask = output[2]
        return output

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self._note_completions(len(inputs))
        if not self._credits_now:
            return super()._generate_and_score_completions(inputs)
        reader = self._reader
        found: list[AttentionSignals] = []
        if reader.needs_a_pass and self.args.credit_attention == "auto" and self._rollout_is_scored:
            self._reading = _Reading(self._pad_tool_mask, found.append)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._reading = None
        self._key_rows(output)
        if found or not reader.needs_a_pass:
            self._assign(output, found[0] if found else None)
        elif self.args.credit_attention == "auxiliary" or reader.needs_whole_batch:
            self._assign(output, self._auxiliary_signals(output))
        return output  # else the loss forward of each batch gives its weights

    @property
    def _credits_now(self) -> bool:
        """Whether the batch at hand gets token weights: not in evaluation, nor with `uniform`."""
        return self.model.training and self.args.credit_strategy != "uniform"

    @property
    def _rollout_is_scored(self) -> bool:
        """Whether TRL computes the rollout's log-probabilities after generating it (its own condition)."""
        every = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    def _key_rows(self, output: dict[str, Any]) -> None:
        """Give each row its identity before TRL shuffles them: how many completions came before its rollout, and its
        number in that: the same however a rollout is cut into micro-batches and over processes."""
        rows, accelerator = len(output["completion_ids"]), self.accelerator
        numbers = torch.arange(rows) + accelerator.process_index * rows
        rollouts = self._step // (self.args.steps_per_generation * self.num_iterations)
        keys = torch.stack([torch.full_like(numbers, rollouts * rows * accelerator.num_processes), numbers], dim=1)
        output["credit_keys"] = keys.to(self.accelerator.device)

    def _assign(self, batch: dict[str, Any], signals: AttentionSignals | None) -> None:
        """Put the weights [B, T] of a batch, and what its metrics are made of, beside its advantages."""
        response = _response_mask(batch)
        credit = self._reader.credit(signals, response, batch["credit_keys"])
        completion = batch["completion_ids"].shape[1]
        batch["credit_weights"] = credit.weights[:, -completion:]
        batch["credit_totals"] = CreditTotals.of_rows(credit, signals, response)
        self._note_weights(batch)

    # ---- reading a pass -------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):  # type: ignore[no-untyped-def]
        reading, reader = self._reading, self._reader
        if reading is None or reading.done or model is self.ref_model or _adapter_is_off(model):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        response = attention_mask.bool().clone()
        response[:, :-logits_to_keep] = False
        if (tool_mask := reading.tool_mask(logits_to_keep)) is not None:
            response[:, -logits_to_keep:] &= tool_mask.bool()
        if reader.needs_entropy:
            kwargs["compute_entropy"] = True
        capture = reader.open(model, attention_mask, response) if reader.needs_attention else None
        with capture.reading() if capture else nullcontext():
            result = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        reading.done = True
        with torch.no_grad(), torch.autocast(input_ids.device.type, enabled=False):
            reading.then(reader.signals(capture, result[1] if reader.needs_entropy else None, response))
        return result

    def _pad_tool_mask(self, width: int) -> Tensor | None:
        """The rollout's tool mask as [B, width], right-padded with 1 as TRL does; None without tools."""
        if self._rollout_tool_mask is None:
            return None
        padded = torch.ones(len(self._rollout_tool_mask), width, dtype=torch.long)
        for row, mask in enumerate(self._rollout_tool_mask):
            padded[row, : len(mask)] = torch.tensor(mask)
        return padded.to(self.accelerator.device)

    @torch.no_grad()
    def _auxiliary_signals(self, batch: dict[str, Any]) -> AttentionSignals:
        """Signals from a forward of its own, in evaluation mode: cut short after the last layer needed, unless
        the logits are needed too or a process that stops early would leave others waiting for their shards."""
        if "pixel_values" in batch:
            raise ValueError("credit_attention: images need credit_attention: auto and credit_head_grouping: response")
        reader, response = self._reader, _response_mask(batch)
        ids, real = joined(batch, "ids"), joined(batch, "mask")
        whole = reader.needs_entropy or self.is_sharded
        capture = reader.open(self.model, real, response, stop_early=not whole) if reader.needs_attention else None
        size = self.args.per_device_train_batch_size
        entropy = None
        with reader.clocked(), evaluating(self.model), capture.reading() if capture else nullcontext():
            if whole:
                completion = batch["completion_ids"].shape[1]
                _, entropy, _ = super()._get_per_token_logps_and_entropies(
                    self.model, ids, real, completion, batch_size=size, compute_entropy=True
                )
            for start in range(0, 0 if whole else len(ids), size):
                rows = slice(start, start + size)
                with suppress(StopForward), self.accelerator.autocast():
                    self.model(input_ids=ids[rows], attention_mask=real[rows], use_cache=False)
        if capture:
            capture.seconds = 0.0  # the whole pass is on the clock already
        return reader.signals(capture, entropy if reader.needs_entropy else None, response)

    @property
    def is_sharded(self) -> bool:
        kind = self.accelerator.distributed_type
        return kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)

    # ---- the loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        # Rows without keys are a rollout of `uniform` that a run resumed with another strategy still has to use up.
        if self._credits_now and "credit_keys" in inputs:
            loss = self._credited_loss(model, inputs)
        else:
            loss = super()._compute_loss(model, inputs)
        if self.model.training:
            self._bad_steps.watch(loss, inputs)
        return loss

    def _credited_loss(self, model: nn.Module, buffered: dict[str, Any]) -> Tensor:
        """TRL's loss with weighted advantages; the weights are read from its own forward, if not known before."""
        batch = dict(buffered)  # the rollout is used again in later iterations: its advantages stay as they are

        def credit_and_weigh(signals: AttentionSignals) -> None:
            self._assign(buffered, signals)
            batch["advantages"] = self._weighted(buffered)

        if "credit_weights" in buffered:
            batch["advantages"] = self._weighted(buffered)
        else:  # TRL takes the advantages from the batch after its forward
            self._reading = _Reading(lambda width: buffered.get("tool_mask"), credit_and_weigh)
        try:
            loss = super()._compute_loss(model, batch)
        finally:
            self._reading = None
        if "credit_totals" not in buffered:
            raise RuntimeError(
                "TRL's loss no longer asks _get_per_token_logps_and_entropies for its log-probabilities: this version "
                "of TRL is not supported (see tests/contract)"
            )
        self._log_credit(buffered["credit_totals"])
        return loss

    def _weighted(self, batch: dict[str, Any]) -> Tensor:
        """gamma_t * A_t: [B, T]."""
        return weighted_advantage(batch["advantages"], batch["credit_weights"], self.args.credit_sign)

    def _clip_grad_norm(self, model):  # type: ignore[no-untyped-def]
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, Tensor):
            self._bad_steps.watch(norm)
        return norm

    # ---- rewards --------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        failed = torch.zeros(len(prompts), device=self.accelerator.device)
        for guard in self._guards:
            failed[list(guard.failed)] = 1
        scores[self.accelerator.gather(failed).bool()] = torch.nan
        self._agree_on_rewards()
        unscored = scores.isnan().all(dim=1).float().sum().item()
        self._metrics["train" if self.model.training else "eval"]["reward/unscored"].append(unscored)
        return scores

    def _agree_on_rewards(self) -> None:
        """Raise, on every process, what a reward function cannot go on from on one of them."""
        errors = [(type(guard.error), str(guard.error)) for guard in self._guards if guard.error is not None]
        for kind, reason in gather_object(errors):
            raise kind(reason)

    # ---- what a run shows -----------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        output = super().training_step(model, inputs, num_items_in_batch)
        if self._step % self.current_gradient_accumulation_steps == 0:  # where TRL notes the step's time
            metrics, seconds = self._metrics["train"], self._reader.take_seconds()
            if self._credits_now:
                metrics["credit/seconds"].append(seconds)
                metrics["credit/time_share"].append(seconds / metrics["step_time"][-1])
        return output

    def _note_bad_steps(self, total: float) -> None:
        self._metrics["train"]["bad_steps"].append(total)

    def _log_credit(self, totals_B52: Tensor) -> None:
        """credit/* of one loss: means over the tokens of all processes, and the run's count of rows without credit."""
        skipped = torch.tensor(float(self._reader.rows_skipped), device=totals_B52.device)
        totals, skipped = self.accelerator.reduce([totals_B52.sum(0), skipped], reduction="sum")
        for name, value in {**CreditTotals.means(totals), "rows_skipped": skipped.item()}.items():
            self._metrics["train"][f"credit/{name}"].append(value)

    def _note_completions(self, rows: int) -> None:
        """Make room in the completions table: gamma = 1 until (and unless) weights are assigned."""
        self._table_is_rollout = self.model.training
        for column, value in (("credit_weight_mean", 1.0), ("credit_amplified_share", 0.0)):
            self._logs["extra"][column].extend([value] * (rows * self.accelerator.num_processes))

    def _note_weights(self, batch: dict[str, Any]) -> None:
        """Fill in the completions table; rows may come in any order, a part at a time."""
        if not (self.log_completions and self._table_is_rollout):
            return
        means = batch["credit_totals"][:, :2, 0] / batch["credit_totals"][:, :2, 1].clamp(min=1)
        numbers = batch["credit_keys"][:, 1:].to(means.dtype)
        for number, weight, share in self.accelerator.gather(torch.cat([numbers, means], dim=1)).tolist():
            for column, value in (("credit_weight_mean", weight), ("credit_amplified_share", share)):
                self._logs["extra"][column][int(number)] = value

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def measure_held_out(self) -> dict[str, SampleTable] | None:
        """Samples of the held-out sets, by name; None without such sets, or where the policy's weights are sharded."""
        if self.held_out is None or self.is_sharded:
            return None
        found = self.held_out.measure(
            self.accelerator.unwrap_model(self.model), self.processing_class, self.accelerator
        )
        self.last_measured = self.state.global_step, {name: table.shares() for name, table in found.items()}
        return found

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):  # type: ignore[no-untyped-def]
        """With `held_out`, accuracies of its sets, as `<prefix>_<set>/<estimate>`; else TRL's mean rewards."""
        found = self.measure_held_out()
        if found is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics = {
            f"{metric_key_prefix}_{name}/{key}": value
            for name, table in found.items()
            for key, value in metrics_of(table).items()
        }
        super(GRPOTrainer, self).log(metrics)  # TRL's own would add its metrics of training so far, and its table
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- resuming -------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None):  # type: ignore[no-untyped-def]
        return EpochSampler.like(super()._get_train_sampler(dataset), epoch=lambda: int(self.state.epoch or 0))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):  # type: ignore[no-untyped-def]
        """TRL's `train`; `resume_from_checkpoint` also takes "latest", and the args' value if left out."""
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        path = checkpoints.find(wanted, self.args.output_dir)
        checkpoints.agree(path)
        if path:
            self._load_own_state(path)
        self._last_checkpoint, self._ends_early = Path(path) if path else None, False
        with self._stop_on_signal.listening():
            try:
                return super().train(resume_from_checkpoint=path, **kwargs)
            except RewardsStopped as error:
                self._memory.rewind()
                self._ends_early = True
                self._save_checkpoint(self.model, trial=None)
                raise RunStopped(
                    f"{error}; the run so far is in {self._last_checkpoint}, "
                    "go on from there with --resume_from_checkpoint latest"
                ) from error

    def _run_epoch(self, **kwargs):  # type: ignore[no-untyped-def]
        """transformers' own, which takes one step more of a run that is at its end."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    @property
    def was_stopped(self) -> bool:
        """Whether SIGTERM ended the run before its last step."""
        return self._stop_on_signal.stopped

    def _load_own_state(self, checkpoint: str) -> None:
        """Read what is not in transformers' files; it is put back when training begins."""
        self._memory.resumed = checkpoints.load(checkpoint, self)
        if self.args.sync_ref_model:
            checkpoints.load_reference(checkpoint, self.accelerator.unwrap_model(self.ref_model))
        if self.use_vllm and self.vllm_mode == "server":
            logger.warning("the vLLM server's random state is in no checkpoint: the run goes on, but not bit for bit")

    def _save_checkpoint(self, model, trial):  # type: ignore[no-untyped-def]
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if folder == self._last_checkpoint:  # stopped before the step that follows it
            return
        if checkpoints.write(
            self, folder, lambda: self._write_files(folder, model, trial), needed=self._ends_early or self.was_stopped
        ):
            self._last_checkpoint = folder

    def _write_files(self, folder: Path, model: nn.Module, trial: Any) -> None:
        """All files of a checkpoint but those of `memory`; called on every process."""
        if self.args.sync_ref_model and self.args.should_save:
            checkpoints.save_reference(folder, self.accelerator.unwrap_model(self.ref_model))
        super()._save_checkpoint(model, trial)


def _refuse_unreadable(model: str | PreTrainedModel, args: CreditGRPOConfig) -> None:
    """Raise a ValueError before weights load, if the layers asked for are not there to be read."""
    if "attention" in args.credit_needs:
        config = (
            AutoConfig.from_pretrained(model, trust_remote_code=args.trust_remote_code)
            if isinstance(model, str)
            else model.config
        )
        choose_layers(config, args.credit_layers, args.credit_num_layers)


def _guard(reward_funcs: Any, args: CreditGRPOConfig, dataset: Any) -> tuple[list[GuardedReward], Any]:
    """Reward functions, guarded; reward models and their names as they are."""
    functions = reward_funcs if isinstance(reward_funcs, list) else [] if reward_funcs is None else [reward_funcs]
    guarded = []
    for function in functions:
        if callable(function) and not isinstance(function, nn.Module):
            check_signature(function, getattr(dataset, "column_names", None) or [])
            function = GuardedReward(function, args.reward_timeout, args.reward_retries)
        guarded.append(function)
    return [f for f in guarded if isinstance(f, GuardedReward)], guarded if reward_funcs is not None else None


def _adapter_is_off(model: nn.Module) -> bool:
    """Whether this is PEFT's way of running the reference: adapters disabled, or the copy called "ref" active."""
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return layer is not None and (layer.disable_adapters or "ref" in layer.active_adapters)


def _warn_of_dropout(model: PreTrainedModel) -> None:
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    rates.append(getattr(model.config.get_text_config(), "attention_dropout", None) or 0.0)
    if max(rates) > 0:
        logger.warning(
            "the policy has dropout: attention read from a training pass differs from that of an evaluation "
            "pass; set disable_dropout: true, or credit_attention: auxiliary"
        )


def joined(batch: dict[str, Any], what: str) -> Tensor:
    """Prompt and completion side by side: [B, N]."""
    return torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1)


def loss_mask(batch: dict[str, Any]) -> Tensor:
    """Where the loss is taken: the tokens that the model wrote, int [B, T]."""
    return batch["completion_mask"] * batch["tool_mask"] if "tool_mask" in batch else batch["completion_mask"]


def _response_mask(batch: dict[str, Any]) -> Tensor:
    """The same over prompt and completion: bool [B, N]."""
    return torch.cat([torch.zeros_like(batch["prompt_mask"]), loss_mask(batch)], dim=1).bool()
