"""The model that an evaluation or an analysis starts from: its configuration, its tokenizer, its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlcredit.errors import InputError
from rlcredit.models.weight_files import refuse_broken

WHOLE = "write the folder of a whole model"
PRECISIONS = ("float32", "bfloat16", "float16")


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
    options = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    refuse_broken(path, "model", WHOLE)
    try:
        config = AutoConfig.from_pretrained(_base(path), **options)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", **options)
    except Exception as error:  # of many kinds, for broken files; tokenizers raises a bare Exception
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model: {path!r} is neither a folder with a model nor a model that can be reached ({reason})"
        ) from error
    return config, tokenizer


def load_model(path: str, args: ModelArguments, device: torch.device) -> PreTrainedModel:
    """The model in evaluation mode, its adapter on it if the folder holds one. Raises: InputError."""
    options: dict[str, Any] = {"dtype": args.dtype, "revision": args.revision}
    if args.attn_implementation:
        options["attn_implementation"] = args.attn_implementation
    refuse_broken(_base(path), "model", WHOLE)
    # PEFT's own class leaves adapters in float32, as they were trained; transformers' would cast them to the model's
    kind = AutoPeftModelForCausalLM if _adapter(path).is_file() else AutoModelForCausalLM
    try:
        model = kind.from_pretrained(path, trust_remote_code=args.trust_remote_code, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"model: {path!r} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    return model.to(device).eval()


def _base(path: str) -> str:
    """The folder or id with the configuration: for an adapter, the model that it was trained on."""
    return json.loads(_adapter(path).read_text())["base_model_name_or_path"] if _adapter(path).is_file() else path


def _adapter(path: str) -> Path:
    return Path(path) / "adapter_config.json"
