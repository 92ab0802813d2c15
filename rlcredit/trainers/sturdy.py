"""SturdyGRPOTrainer: TRL's GRPO as a run that loses nothing. It knows nothing of credit, and serves without it.

Nothing of TRL is copied. The trainer overrides these seams and calls `super()` in each (contract tests hold them):

    _calculate_rewards              leaves out completions that could not be scored
    _generate_and_score_completions keeps the rows of the rollout
    _generate                       decodes by the run's settings alone, not by the model's generation_config.json; and
                                    again, for groups that teach nothing
    _generate_single_turn           leaves the weights as they are where continuous batching generates
    _prepare_inputs                 cuts the padding of micro-batches
    _compute_loss, _get_grad_norm   notes losses and gradients that are not finite
    _get_train_sampler              an order of prompts that depends on seed and epoch alone
    evaluate                        the held-out sets that `rlcredit train` gives it (`held_out`)
    _save_checkpoint, train         whole checkpoints, with what TRL keeps in memory only; early ends
    _run_epoch                      no step beyond the last one
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerControl
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from rlcredit.errors import InputError, RunStopped
from rlcredit.evaluation.decoding import note_of, own_decoding
from rlcredit.evaluation.held_out import HeldOut, metrics_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.samples import SampleTable
from rlcredit.models.padding import by_length, cut_padding, ignores_padding
from rlcredit.rewards.guards import RewardsStopped
from rlcredit.rewards.run_rewards import GuardedRewards
from rlcredit.rewards.signature import columns_of
from rlcredit.trainers import checkpoints
from rlcredit.trainers.bad_steps import BadSteps
from rlcredit.trainers.continuous_batching import safely_generating
from rlcredit.trainers.dynamic_sampling import DynamicSampling, refuse_dynamic_sampling
from rlcredit.trainers.policy_step import PolicyStep
from rlcredit.trainers.precision import warn_of_16_bits
from rlcredit.trainers.run_state import RunState
from rlcredit.trainers.sampler import EpochSampler
from rlcredit.trainers.stopping import StopOnSignal
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

logger = logging.getLogger(__name__)


class SturdyGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`, with `args: SturdyGRPOConfig`; everything else as TRL documents it.

    Losses and gradients are TRL's own: bit for bit with `trim_padding: false`, else up to rounding.

    Attributes:
        dynamic_sampling: replaces groups that teach nothing; None where it is off.
        run_state: what goes into checkpoints of what is in memory only; `run_state.components` may be added to.
        parts: what a checkpoint holds beside transformers' files.
        has_images: whether the training set has a column of images.
        held_out: the sets that `evaluate` measures; None: TRL's evaluation of rewards.
        last_measured: the step of the last evaluation and, by set, each problem's share of right samples.
    """

    config_class: ClassVar[type[SturdyGRPOConfig]] = SturdyGRPOConfig

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, **kwargs):  # type: ignore[no-untyped-def]
        args = self.checked(args)
        self.has_images = not {"image", "images"}.isdisjoint(columns_of(train_dataset) or ())
        self.rewards = GuardedRewards(
            reward_funcs,
            train_dataset,
            args,
            environments=kwargs.get("environment_factory") is not None,
            extra_columns=kwargs.get("rollout_func") is not None,
        )
        others = [name for name in ("environment_factory",) if kwargs.get(name)]
        refuse_dynamic_sampling(args, others, has_images=self.has_images)
        super().__init__(model, self.rewards.functions, args=args, train_dataset=train_dataset, **kwargs)
        self.rewards.use(self.policy_tokenizer)
        self._trims = args.trim_padding and ignores_padding(self.accelerator.unwrap_model(self.model).config)
        if args.sort_by_length and self.aux_loss_enabled:
            raise InputError(
                "sort_by_length: the loss of the policy's routers is a mean over each micro-batch; write "
                "router_aux_loss_coef: 0, or sort_by_length: false"
            )
        self.policy_step = PolicyStep(self.accelerator)
        self.bad_steps = BadSteps(self.accelerator, self.policy_step, args.max_bad_steps, self._note_bad_steps)
        self.run_state, self._stop_on_signal = RunState(self), StopOnSignal(self.accelerator)
        self.run_state.components |= {"bad_steps": self.bad_steps, "rewards": self.rewards}
        self.dynamic_sampling = DynamicSampling(self, self.train_dataset) if args.dynamic_sampling else None
        if self.dynamic_sampling is not None:
            self.run_state.components["dynamic_sampling"] = self.dynamic_sampling
        self._rows: list[dict[str, Any]] = []
        for callback in (self.policy_step, self.bad_steps, self.run_state, self._stop_on_signal):
            self.add_callback(callback)
        self.parts: list[checkpoints.Part] = []
        if args.sync_ref_model:
            self.parts.append(checkpoints.MovingReference(self.accelerator.unwrap_model(self.ref_model), args))
        if not self.is_sharded:  # FSDP and DeepSpeed train in float32 beside it
            warn_of_16_bits(self.model, args.learning_rate)
        if self.accelerator.is_main_process:
            for line in note_of(self.accelerator.unwrap_model(self.model).generation_config, "the run"):
                logger.warning("%s (training: generation_kwargs sets them)", line)
        self._last_checkpoint: Path | None = None
        self._ends_early = False
        self.held_out: HeldOut | None = None
        self.last_measured: tuple[int, dict[str, list[float]]] | None = None

    @classmethod
    def checked(cls, args: Any) -> Any:
        """The arguments, or the default ones. Raises: InputError if they are another trainer's."""
        if args is None:
            return cls.config_class()
        if not isinstance(args, cls.config_class):
            wanted = cls.config_class.__name__
            raise InputError(
                f"args: {cls.__name__} takes a {wanted}, not a {type(args).__name__}; write args={wanted}(...), which "
                "has every setting of trl.GRPOConfig"
            )
        return args

    @property
    def policy_tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer, that of its processor where it has one."""
        processor = self.processing_class
        return processor.tokenizer if isinstance(processor, ProcessorMixin) else processor

    @property
    def is_sharded(self) -> bool:
        """Whether processes hold parts of the policy's weights, or may."""
        kind = self.accelerator.distributed_type
        return kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)

    # ---- rewards and steps ----------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        if self.dynamic_sampling is not None and self.model.training:
            scores = self.dynamic_sampling.scores  # asked for before
        else:
            scores = self.scored(inputs, prompts, completions, completion_ids_list)
        unscored = int(scores.isnan().all(dim=1).sum())
        self._metrics["train" if self.model.training else "eval"]["reward/unscored"].append(float(unscored))
        if self.model.training:
            self.rewards.count(unscored, len(scores))
        return scores

    def scored(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], ids: list[list[int]]
    ) -> Tensor:
        """What each function gives the completions of all processes, [B, F]; nan where it gives nothing, or failed."""
        scores = super()._calculate_rewards(inputs, prompts, completions, ids)
        failed = torch.zeros(len(prompts), device=self.accelerator.device)
        failed[list(self.rewards.failed)] = 1
        scores[self.accelerator.gather(failed).bool()] = torch.nan
        self.rewards.agree()
        return scores

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self._rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts):  # type: ignore[no-untyped-def]
        with own_decoding(self.accelerator.unwrap_model(self.model)):
            if self.dynamic_sampling is None or not self.model.training:
                return super()._generate(prompts)
            return self.dynamic_sampling.rollout(self._rows, prompts, super()._generate)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):  # type: ignore[no-untyped-def]
        if not self.use_transformers_continuous_batching:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        with safely_generating(self.accelerator.unwrap_model(self.model), self.args):
            output = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if len(output[0]) != len(prompt_ids):
            raise RuntimeError(
                f"continuous batching ended {len(output[0])} of {len(prompt_ids)} completions; its error is above"
            )
        return output

    def _prepare_inputs(self, generation_batch):  # type: ignore[no-untyped-def]
        before = self._buffered_inputs
        batch = super()._prepare_inputs(generation_batch)
        if not (self._trims and self.model.training):
            return batch
        if self._buffered_inputs is not before and self.args.sort_by_length:
            per_step, per_rollout = self.args.gradient_accumulation_steps, self.args.steps_per_generation
            if per_rollout % per_step == 0 or per_step % per_rollout == 0:
                self._buffered_inputs: Any = by_length(self._buffered_inputs, min(per_step, per_rollout))
            batch = self._buffered_inputs[self._step % per_rollout]
        cut_padding(batch, self.args.pad_to_multiple_of)  # in the buffer, which later iterations use again
        return batch

    def _compute_loss(self, model, inputs):  # type: ignore[no-untyped-def]
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            self.bad_steps.watch(loss, inputs)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):  # type: ignore[no-untyped-def]
        norm = super()._get_grad_norm(model, grad_norm)
        self.bad_steps.watch(norm)
        return norm

    def _note_bad_steps(self, total: float) -> None:
        self._metrics["train"]["bad_steps"].append(total)

    @contextmanager
    def generating(self) -> Iterator[PreTrainedModel]:
        """The policy as it generates. Where its weights are sharded, all processes enter, and run as many passes."""
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as policy:
            yield policy

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def measure_held_out(self) -> dict[str, SampleTable] | None:
        """Samples of the held-out sets, by name; None without such sets. Every process calls it, once training has
        begun: only then are the weights where the engine wants them."""
        if self.held_out is None:
            return None
        renderer = PromptRenderer(self.processing_class, self.chat_template_kwargs)
        with self.generating() as policy:
            tables = self.held_out.measure(policy, renderer, self.accelerator, in_step=self.is_sharded)
        self.last_measured = self.state.global_step, {name: table.shares() for name, table in tables.items()}
        return tables

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):  # type: ignore[no-untyped-def]
        """With `held_out`, accuracies of its sets, as `<prefix>_<set>/<estimate>`; else TRL's mean rewards."""
        try:
            tables = self.measure_held_out()
        except RunStopped as error:
            if self.accelerator.num_processes > 1:  # the others would not save with this one
                raise
            raise RewardsStopped(str(error)) from error  # so that the steps so far are saved
        if tables is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics = {
            f"{metric_key_prefix}_{name}/{key}": value
            for name, table in tables.items()
            for key, value in metrics_of(table).items()
        }
        super(GRPOTrainer, self).log(metrics)  # TRL's own would add its metrics of training so far, and its table
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- the run --------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None):  # type: ignore[no-untyped-def]
        return EpochSampler.like(super()._get_train_sampler(dataset), epoch=lambda: int(self.state.epoch or 0))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):  # type: ignore[no-untyped-def]
        """TRL's `train`; `resume_from_checkpoint` also takes "latest" and "auto", and the args' value if left out."""
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        path = checkpoints.find(wanted, self.args.output_dir)
        checkpoints.agree(path)
        if path:
            self._load_beside(Path(path))
            self._leave_newer_behind(Path(path))
        self._last_checkpoint, self._ends_early = Path(path) if path else None, False
        with self._stop_on_signal.listening():
            try:
                return super().train(resume_from_checkpoint=path, **kwargs)
            except RewardsStopped as error:
                self.run_state.rewind()
                self._ends_early = True
                self._save_checkpoint(self.model, trial=None)
                raise RunStopped(
                    f"{error}; the run so far is in {self._last_checkpoint}, "
                    "go on from there with --resume_from_checkpoint latest",
                    error.details,
                ) from error

    def _run_epoch(self, **kwargs):  # type: ignore[no-untyped-def]
        """transformers' own, which takes one step more of a run that is at its end."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    @property
    def was_stopped(self) -> bool:
        """Whether a signal ended the run before its last step."""
        return self._stop_on_signal.stopped

    @property
    def stopped_by(self) -> str:
        """The name of that signal."""
        return self._stop_on_signal.by

    def _finalize_training(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """transformers' own, which loads the best policy and with `save_total_limit: 1` deletes all other checkpoints:
        not where the run was stopped, and goes on from its last one."""
        if not self.was_stopped:
            return super()._finalize_training(*args, **kwargs)
        limit, best = self.args.save_total_limit, self.args.load_best_model_at_end
        self.args.save_total_limit, self.args.load_best_model_at_end = None, False
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = limit, best

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def _load_beside(self, checkpoint: Path) -> None:
        """Read what is not in transformers' files."""
        self.run_state.load(checkpoint)
        for part in self.parts:
            part.load(checkpoint)
        if self.use_vllm and self.vllm_mode == "server":
            logger.warning("the vLLM server's random state is in no checkpoint: the run goes on, but not bit for bit")

    def _leave_newer_behind(self, checkpoint: Path) -> None:
        if checkpoint.parent.resolve() != Path(self.args.output_dir).resolve():
            return
        self.accelerator.wait_for_everyone()  # all have read theirs
        for path in checkpoints.set_aside_newer(checkpoint) if self.args.should_save else []:
            logger.warning(
                "%s is newer than %s, where the run goes on: it is kept under that name", path, checkpoint.name
            )
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model, trial):  # type: ignore[no-untyped-def]
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if folder == self._last_checkpoint:  # stopped before the step that follows it
            return

        own = partial(super()._save_checkpoint, model, trial)
        # transformers' waits for every process in its middle where engines shard, and where there is a best step
        waits = self.is_sharded or (self.accelerator.num_processes > 1 and self.state.best_global_step is not None)
        steps = [
            partial(self.run_state.save, folder),
            *(partial(part.save, folder) for part in self.parts),
            partial(checkpoints.in_step, own, folder) if waits else own,
        ]
        if checkpoints.write(self, folder, steps, needed=self._ends_early or self.was_stopped):
            self._last_checkpoint = folder
