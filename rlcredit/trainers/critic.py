"""The critic of PPO: a value model with an optimiser, a schedule and a gradient clip of its own.

transformers' Trainer, FSDP and DeepSpeed know one model, one optimiser and one clip, and they are the policy's. The
critic is stepped by callbacks, right before the policy is, and saved beside it. Where an engine cuts the policy, the
critic is cut by torch's own `fully_shard`, whatever the engine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, get_scheduler

from rlcredit.errors import InputError
from rlcredit.models.modes import evaluating
from rlcredit.trainers import shards
from rlcredit.trainers.bad_steps import BadSteps
from rlcredit.trainers.policy_step import PolicyStep
from rlcredit.trainers.ppo_config import CreditPPOConfig

FOLDER = "critic"
STATE_FILE = "rlcredit-critic.pt"


class Critic(TrainerCallback):
    """Values, and the steps that improve them, for the trainer whose callback this is.

    Args:
        model: gives one logit a position.
        args: the trainer's settings.
        accelerator: places and wraps the model as it did the policy.
        bad_steps: says which steps are not taken; a callback that is called before this one.
        policy_step: the policy's step, called off while the critic warms up.
    """

    def __init__(
        self,
        model: nn.Module,
        args: CreditPPOConfig,
        accelerator: Accelerator,
        bad_steps: BadSteps,
        policy_step: PolicyStep,
    ) -> None:
        self._args, self._accelerator, self._bad_steps, self._policy_step = args, accelerator, bad_steps, policy_step
        if args.gradient_checkpointing:
            enable: Any = model.gradient_checkpointing_enable
            enable(args.gradient_checkpointing_kwargs)
        self._shape = copy.deepcopy(model).to("meta")  # without weights, to be filled with whole ones
        self.model = self._prepared(model.train())
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        self.scheduler: Any = None
        self._resumed: dict[str, Any] | None = None

    def _prepared(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: cut where an engine cuts the policy, else wrapped as the policy is."""
        if self._accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            return shards.cut(model, self._accelerator.device)
        return self._accelerator.prepare_model(model)

    @torch.no_grad()
    def values(self, ids_BN: Tensor, real_BN: Tensor, completion: int, rows_at_once: int) -> Tensor:
        """V of the state in which each of the last `completion` tokens is chosen: fp32 [B, T], without gradient."""
        with evaluating(self.model):
            parts = [
                self._values(ids, real, completion)
                for ids, real in zip(ids_BN.split(rows_at_once), real_BN.split(rows_at_once), strict=True)
            ]
        return torch.cat(parts)

    def _values(self, ids_BN: Tensor, real_BN: Tensor, completion: int) -> Tensor:
        with self._autocast():
            logits = self.model(input_ids=ids_BN, attention_mask=real_BN, use_cache=False).logits
        return logits[:, -completion - 1 : -1, 0].float()  # the position before a token is where it is chosen

    def _autocast(self) -> AbstractContextManager[None]:
        """accelerate's; DeepSpeed holds the policy itself in bf16, and leaves autocast off."""
        if self._args.bf16 and self._accelerator.distributed_type == DistributedType.DEEPSPEED:
            return torch.autocast(self._accelerator.device.type, torch.bfloat16)
        return self._accelerator.autocast()

    def learn(self, ids_BN: Tensor, real_BN: Tensor, batch: dict[str, Tensor], tokens: Tensor) -> Tensor:
        """Add the gradient of one micro-batch's part of a step's value loss; gives that part.

        Half the squared error, summed over the tokens that are valued and divided by `tokens`: the step's number of
        them a process (gradients are averaged over processes). However a step is cut, its parts add up to the same.
        With `value_clip`, the larger of that and the error of the value clipped to within `value_clip` of what it was
        at the rollout (as PPO implementations do).
        """
        args, accelerator = self._args, self._accelerator
        returns, valued = batch["returns"], batch["valued"]
        with self._adding_up(accelerator.sync_gradients):
            values = self._values(ids_BN, real_BN, returns.shape[1])
            error = (values - returns) ** 2
            if args.value_clip is not None:
                before = batch["values"]
                near = before + (values - before).clamp(-args.value_clip, args.value_clip)
                error = torch.maximum(error, (near - returns) ** 2)
            loss = 0.5 * (error * valued).sum() / tokens
            loss.backward()
        return loss.detach()

    @contextmanager
    def _adding_up(self, now: bool) -> Iterator[None]:
        """Add gradients up over the processes in this backward, or keep them until the step's last one."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(now)
            yield
        else:
            with nullcontext() if now else self._accelerator.no_sync(self.model):
                yield

    # ---- called by the trainer's loop -----------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.max_steps <= args.critic_warmup_steps:
            raise InputError(
                f"critic_warmup_steps: {args.critic_warmup_steps} leaves the policy no step of the run's "
                f"{state.max_steps}; write fewer"
            )
        self.scheduler = get_scheduler(
            args.lr_scheduler_type,
            self.optimizer,
            args.get_warmup_steps(state.max_steps),
            state.max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        if self._resumed is not None:
            self.optimizer.load_state_dict(self._resumed["optimizer"])
            self.scheduler.load_state_dict(self._resumed["scheduler"])
            self._resumed = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
        """Step, unless the policy's step is bad (which `BadSteps`, called before, has noted)."""
        if self._bad_steps.in_a_row == 0:
            if args.max_grad_norm:
                nn.utils.clip_grad_norm_(self._parameters, args.max_grad_norm)
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if state.global_step < args.critic_warmup_steps:
            self._policy_step.drop(model)

    # ---- files ----------------------------------------------------------------------------------------------------

    # Every process calls each of these: shards are gathered, and one process writes.

    def save_pretrained(self, folder: str) -> None:
        """Write the critic as a model folder, as it may be given to another run."""
        state = shards.whole(self._accelerator.unwrap_model(self.model).state_dict(), self._args.should_save)
        if not self._args.should_save:
            return
        model: Any = copy.deepcopy(self._shape)
        if hasattr(model, "merge_and_unload"):
            model.load_state_dict(state, assign=True)
            model = model.merge_and_unload()
            state = model.state_dict()
        model.save_pretrained(folder, state_dict=state)

    def save(self, folder: Path) -> None:
        """Write everything that a resumed run needs, before transformers marks the checkpoint as complete."""
        state = {
            "model": self._accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        state = shards.whole(state, self._args.should_save)
        if self._args.should_save:
            torch.save(state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Put the weights back now, optimiser and schedule when training begins. Raises: InputError if not there."""
        path = folder / STATE_FILE
        if not path.is_file():
            raise InputError(
                f"resume_from_checkpoint: {folder} has no critic ({STATE_FILE}); it is not from a PPO run"
            )
        device = self._accelerator.device
        location = "cpu" if device.type == "cpu" else device  # torch knows no "cpu:0"
        state = torch.load(path, map_location=location, weights_only=True)
        model = self._accelerator.unwrap_model(self.model)
        model.load_state_dict(
            {name: shards.as_in(like, state["model"][name]) for name, like in model.state_dict().items()}
        )
        for index, moments in state["optimizer"]["state"].items():
            for name, value in moments.items():
                moments[name] = shards.as_in(self._parameters[index], value)
        self._resumed = state
