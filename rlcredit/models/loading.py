"""The model that a run, an evaluation or an analysis starts from: its configuration, its tokenizer, its weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlcredit.errors import InputError
from rlcredit.models.threads import choose_threads
from rlcredit.models.weight_files import refuse_broken

ADAPTER = "adapter_config.json"
WHOLE = "write the folder of a whole model"
PRECISIONS = ("float32", "bfloat16", "float16")
# The auto classes of models that write text, and the model class of each configuration in them.
WRITERS = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForMultimodalLM: MODEL_FOR_MULTIMODAL_LM_MAPPING,
}


@dataclass(kw_only=True)
class ModelArguments:
    """The model of a command, and how it is loaded."""

    model: str = field(metadata={"help": "A folder (a checkpoint with adapters too) or the id of a model on the hub."})
    dtype: str = field(
        default="auto",
        metadata={"help": "A precision; auto: the one that the model was saved in.", "choices": ["auto", *PRECISIONS]},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "The attention implementation: sdpa, eager, flash_attention_2, ..."}
    )
    revision: str | None = field(default=None, metadata={"help": "The revision of a model on the hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})

    def folder_under(self, root: str) -> Path:
        """Where the output goes by default: `root`, then the model's name."""
        local = Path(self.model).exists()
        return Path(root) / (Path(self.model.rstrip("/")).name if local else self.model.replace("/", "--"))


def load_tokenizer(path: str, args: ModelArguments) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and the tokenizer, before weights load. Raises: InputError if there is no such model."""
    config, tokenizer = describe(
        path, "model", adapters=True, revision=args.revision, trust_remote_code=args.trust_remote_code
    )
    auto_class(config, "model")
    return config, tokenizer


def describe(
    path: str, key: str, *, adapters: bool = False, needs_tokenizer: bool = True, **options: Any
) -> tuple[PretrainedConfig, Any]:
    """What describes a model before its weights load: its configuration and its tokenizer.

    Args:
        path: a folder, or the id of a model on the hub.
        key: the setting that named the model, for messages.
        adapters: whether the folder may hold adapters alone; the configuration is their base model's then.
        needs_tokenizer: where False, a model without a tokenizer gives None for it.
        options: handed to transformers (revision, trust_remote_code).

    Raises: InputError if there is no such model, or it cannot be read.
    """
    refuse_broken(path, key, WHOLE)
    if not adapters and _holds(path, ADAPTER) and not _holds(path, "config.json"):
        raise InputError(
            f"{key}: {path!r} holds an adapter, not a model; merge it into its base model first (PEFT's "
            "merge_and_unload, then save_pretrained) and write that folder"
        )
    tokenizer = None
    try:
        config = AutoConfig.from_pretrained(_base(path) if adapters else path, **options)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
        except (OSError, ValueError):
            if needs_tokenizer:
                raise
    except Exception as error:  # of many kinds, for broken files; tokenizers raises a bare Exception
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{key}: {path!r} is neither a folder with a model nor a model that can be reached ({reason})"
        ) from error
    return config, tokenizer


def auto_class(config: PretrainedConfig, key: str) -> Any:
    """The auto class of transformers that makes a model which writes text from this configuration.

    A few configurations have one for the model that takes images and one for its text part alone (Qwen 3.5's): the
    model that the configuration names is meant, which is the one that TRL trains.

    Args:
        key: the setting that named the model, for the message.

    Raises: InputError if there is none.
    """
    remote = getattr(config, "auto_map", None) or {}
    fitting = [kind for kind, models in WRITERS.items() if type(config) in models or kind.__name__ in remote]
    if not fitting:
        raise InputError(
            f"{key}: a model of type {config.model_type!r} is not a decoder-only language model; write one that is "
            "(it may take images too)"
        )
    named = config.architectures or ()
    return max(fitting, key=lambda kind: getattr(WRITERS[kind].get(type(config), None), "__name__", None) in named)


def load_model(path: str, args: ModelArguments, config: PretrainedConfig, device: torch.device) -> PreTrainedModel:
    """The model in evaluation mode, its adapter on it if the folder holds one. Raises: InputError.

    Args:
        config: what `load_tokenizer` gave for it.
    """
    options: dict[str, Any] = {"dtype": args.dtype, "revision": args.revision}
    if args.attn_implementation:
        options["attn_implementation"] = args.attn_implementation
    refuse_broken(_base(path), "model", WHOLE)
    kind = auto_class(config, "model")
    if _holds(path, ADAPTER):
        # PEFT's own class leaves adapters in float32, as they were trained; transformers' would cast them to the
        # model's precision. PEFT has it for causal language models alone, and it serves the others as well.
        kind = type("AdaptedModel", (AutoPeftModelForCausalLM,), {"_target_class": kind})
    try:
        model = kind.from_pretrained(path, trust_remote_code=args.trust_remote_code, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"model: {path!r} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    if device.type == "cpu":
        choose_threads(model.num_parameters())
    return model.to(device).eval()


def _base(path: str) -> str:
    """The folder or id with the configuration: for an adapter, the model that it was trained on."""
    return json.loads((Path(path) / ADAPTER).read_text())["base_model_name_or_path"] if _holds(path, ADAPTER) else path


def _holds(path: str, file: str) -> bool:
    return os.path.isfile(f"{path}/{file}")  # False too for a name that is too long
