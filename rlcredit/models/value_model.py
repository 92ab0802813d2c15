"""The model that a critic is: a body of the policy's family with one value a position, made or loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import TokenClassifierOutput

from rlcredit.errors import InputError
from rlcredit.models.loading import describe

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
