"""The critic of PPO: a value model with an optimiser, a schedule and a gradient clip of its own.

transformers' Trainer knows one model, one optimiser and one clip, and they are the policy's. The critic is stepped by
callbacks, right before the policy is, and saved beside it.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    get_scheduler,
)
from transformers.modeling_outputs import TokenClassifierOutput

from rlcredit.errors import InputError
from rlcredit.models.loading import describe
from rlcredit.models.modes import evaluating
from rlcredit.trainers.bad_steps import BadSteps
from rlcredit.trainers.ppo_config import CreditPPOConfig

FOLDER = "critic"
STATE_FILE = "rlcredit-critic.pt"
HEAD_FILE = "value_head.safetensors"


class ValueModel(nn.Module):
    """A base model with a linear head, for families without a token-classification class (Gemma 3, OLMo)."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base_model, self.config = base, base.config
        self.score = nn.Linear(base.config.get_text_config().hidden_size, 1, dtype=base.dtype)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> TokenClassifierOutput:
        hidden = self.base_model(input_ids, attention_mask=attention_mask, **options).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))

    def save_pretrained(self, folder: str, state_dict: dict[str, Tensor] | None = None) -> None:
        state = self.state_dict() if state_dict is None else state_dict
        parts: dict[str, dict[str, Tensor]] = {"base_model": {}, "score": {}}
        for name, value in state.items():
            part, _, own_name = name.partition(".")
            parts[part][own_name] = value
        self.base_model.save_pretrained(folder, state_dict=parts["base_model"])
        save_file(parts["score"], Path(folder) / HEAD_FILE)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        self.base_model.gradient_checkpointing_enable(*args, **kwargs)


def check(path: str, policy: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
    """Raise an InputError if the critic is not there, or does not read the policy's tokens."""
    config, own_tokenizer = describe(path, "critic_model_name_or_path", needs_tokenizer=False, **options)
    ours, theirs = policy.get_text_config().vocab_size, config.get_text_config().vocab_size
    if ours != theirs:
        raise InputError(
            f"critic_model_name_or_path: {path!r} has a vocabulary of {theirs}, the policy one of {ours}; write a "
            "critic of the policy's family"
        )
    # of weights alone, the vocabulary's size is all there is to compare
    if own_tokenizer is not None and own_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"critic_model_name_or_path: the tokenizer of {path!r} is not the policy's; write a critic of its family"
        )


def load(policy: nn.Module, path: str | None, lora_r: int, **options: Any) -> nn.Module:
    """A critic from a path, or with a copy of the policy's weights; its head starts at zero unless the path has one.

    Values start at zero [not in the paper], so that the first advantages are the rewards' alone. The critic is trained
    in float32 whatever the policy's precision: steps of 16-bit weights are mostly rounded away.

    Args:
        policy: a model of transformers, wrapped by PEFT or not: with adapters, their merged weights are the policy's.
    """
    if path is None:
        critic, new_head = _copy_of(policy), True
    else:
        critic, new_head = _from_files(path, **options)
    for module in critic.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if new_head:
        for parameter in head_of(critic).parameters():
            nn.init.zeros_(parameter)
    critic.requires_grad_(True)
    if lora_r:
        head = next(name for name, module in critic.named_children() if module is head_of(critic))
        adapter = LoraConfig(
            r=lora_r, task_type=TaskType.TOKEN_CLS, target_modules="all-linear", modules_to_save=[head]
        )
        critic = get_peft_model(critic, adapter)
    return critic


def _copy_of(policy: nn.Module) -> nn.Module:
    merged: Any = _merged(policy) if isinstance(policy, PeftModel) else policy
    config = _with_one_value(copy.deepcopy(merged.config))
    if _has_class(config):
        critic = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
    else:
        critic = ValueModel(AutoModel.from_config(config, dtype=torch.float32))
    critic.base_model.load_state_dict(merged.base_model.state_dict())
    return critic


def _merged(policy: PeftModel) -> nn.Module:
    """The policy's weights with its adapters in them. Raises: InputError, naming what PEFT cannot merge."""
    kind = policy.active_peft_config.peft_type
    instead = "write the folder or id of a whole model as critic_model_name_or_path"
    if getattr(policy.get_base_model(), "is_quantized", False):
        raise InputError(
            f"critic_model_name_or_path: the policy's weights are quantised and cannot be copied; {instead}"
        )
    try:
        return copy.deepcopy(policy).merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"critic_model_name_or_path: PEFT cannot merge adapters of the kind {kind.value} ({reason}); {instead}"
        ) from error


def _from_files(path: str, **options: Any) -> tuple[nn.Module, bool]:
    """The critic, and whether its head is new."""
    config = _with_one_value(AutoConfig.from_pretrained(path, **options))
    if _has_class(config):
        critic, report = AutoModelForTokenClassification.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
        return critic, bool(report["missing_keys"])
    critic = ValueModel(AutoModel.from_pretrained(path, dtype=torch.float32, **options))
    if not (Path(path) / HEAD_FILE).is_file():
        return critic, True
    critic.score.load_state_dict(load_file(Path(path) / HEAD_FILE))
    return critic, False


def _with_one_value(config: PreTrainedConfig) -> PreTrainedConfig:
    config.num_labels, config.classifier_dropout = 1, 0.0
    return config


def _has_class(config: PreTrainedConfig) -> bool:
    return type(config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING


def head_of(critic: nn.Module) -> nn.Linear:
    """The layer that gives the value."""
    heads = [m for m in critic.children() if isinstance(m, nn.Linear) and m.out_features == 1]
    if len(heads) != 1:
        raise InputError(f"critic_model_name_or_path: {type(critic).__name__} has no single value head")
    return heads[0]


class Critic(TrainerCallback):
    """Values, and the steps that improve them, for the trainer whose callback this is.

    Args:
        model: gives one logit a position.
        args: the trainer's settings.
        accelerator: places and wraps the model as it did the policy.
        bad_steps: says which steps are not taken; a callback that is called before this one.
    """

    def __init__(self, model: nn.Module, args: CreditPPOConfig, accelerator: Accelerator, bad_steps: BadSteps) -> None:
        self._args, self._accelerator, self._bad_steps = args, accelerator, bad_steps
        if args.gradient_checkpointing:
            enable: Any = model.gradient_checkpointing_enable
            enable(args.gradient_checkpointing_kwargs)
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
        """The model as it is trained; one that `fully_shard` has cut is already (accelerate refuses it)."""
        return model if isinstance(model, FSDPModule) else self._accelerator.prepare_model(model)

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
        with self._accelerator.autocast():
            logits = self.model(input_ids=ids_BN, attention_mask=real_BN, use_cache=False).logits
        return logits[:, -completion - 1 : -1, 0].float()  # the position before a token is where it is chosen

    def learn(self, ids_BN: Tensor, real_BN: Tensor, batch: dict[str, Tensor], tokens: Tensor) -> Tensor:
        """Add the gradient of one micro-batch's part of a step's value loss; gives that part.

        Half the squared error, summed over the tokens that are valued and divided by `tokens`: the step's number of
        them a process (gradients are averaged over processes). However a step is cut, its parts add up to the same.
        With `value_clip`, the larger of that and the error of the value clipped to within `value_clip` of what it was
        at the rollout (as PPO implementations do).
        """
        args, accelerator = self._args, self._accelerator
        returns, valued = batch["returns"], batch["valued"]
        together = nullcontext() if accelerator.sync_gradients else accelerator.no_sync(self.model)
        with together:
            values = self._values(ids_BN, real_BN, returns.shape[1])
            error = (values - returns) ** 2
            if args.value_clip is not None:
                before = batch["values"]
                near = before + (values - before).clamp(-args.value_clip, args.value_clip)
                error = torch.maximum(error, (near - returns) ** 2)
            loss = 0.5 * (error * valued).sum() / tokens
            loss.backward()
        return loss.detach()

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
            model.zero_grad(set_to_none=True)  # the policy waits: without gradients its step changes nothing

    # ---- files ----------------------------------------------------------------------------------------------------

    # Every process calls each of these: shards are gathered, and one process writes.

    def save_pretrained(self, folder: str) -> None:
        """Write the critic as a model folder, as it may be given to another run."""
        model: Any = self._accelerator.unwrap_model(self.model)
        state = _whole(model.state_dict(), self._args.should_save)
        if not self._args.should_save:
            return
        if hasattr(model, "merge_and_unload"):
            model = copy.deepcopy(model).merge_and_unload()
            state = model.state_dict()
        model.save_pretrained(folder, state_dict=state)

    def save(self, folder: Path) -> None:
        """Write everything that a resumed run needs, before transformers marks the checkpoint as complete."""
        state = {
            "model": self._accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        state = _whole(state, self._args.should_save)
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
        model.load_state_dict({name: _as_in(like, state["model"][name]) for name, like in model.state_dict().items()})
        for index, moments in state["optimizer"]["state"].items():
            for name, value in moments.items():
                moments[name] = _as_in(self._parameters[index], value)
        self._resumed = state


def _whole(state: Any, keep: bool) -> Any:
    """The same nested dicts and lists, with whole tensors on the CPU in place of shards; collective.

    Processes that do not `keep` them give their shards and hold no more than one tensor at a time.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, dict):
        return {key: _whole(value, keep) for key, value in state.items()}
    if isinstance(state, list):
        return [_whole(value, keep) for value in state]
    return state


def _as_in(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor as the shards of the parameter that it belongs to; as it is where that is not sharded."""
    if not isinstance(parameter, DTensor) or value.dim() == 0:
        return value
    # every process has read the file, and takes its part of it without asking the others
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
