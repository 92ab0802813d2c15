"""Checks of files from elsewhere before anything loads them: are they whole, and free of code?

Weights and states are tensors and plain values, in safetensors or in PyTorch's zip format. A pickle can run any code
when it is loaded, so PyTorch's files are opened with `weights_only`, which builds no other object. Only their
index is read: tensors stay on the disk.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from rlcredit.errors import InputError

MODEL = ("*.safetensors", "*.index.json", "config.json", "generation_config.json", "adapter_config.json",
         "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "vocab.json")  # fmt: skip
PICKLED = ("pytorch_model*.bin", "adapter_model*.bin")  # read where there is no safetensors
STATES = ("trainer_state.json", "rlcredit-*.pt", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")


def refuse_broken(folder: str | Path, key: str, advice: str, *, states: bool = False) -> None:
    """Look at each file of a model or a checkpoint that will be loaded, and at no other.

    Args:
        folder: where they are; what is no folder (the id of a model on the hub) is left alone.
        key: the setting that named the folder, for the message.
        advice: what to write instead.
        states: whether a run resumes from there, and so loads its states too.

    Raises: InputError that names the first file that is torn, or that would run code.
    """
    if not os.path.isdir(folder):  # False too for a name that is too long
        return
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    has_safetensors = any(path.suffix == ".safetensors" for path in paths)
    patterns = [*MODEL, *(() if has_safetensors else PICKLED), *(STATES if states else ())]
    for path in paths:
        if any(map(path.match, patterns)) and (reason := _fault(path)):
            raise InputError(f"{key}: {path} cannot be loaded: {reason}; {advice}")


def _fault(path: Path) -> str | None:
    """What is wrong with a file, in a few words."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                opened.keys()
        elif path.suffix in (".bin", ".pt", ".pth"):
            # safe_globals: numpy's arrays, in the states of its generators; files of before PyTorch 1.6 are no zip and
            # have to be read whole
            with warnings.catch_warnings(action="ignore"), safe_globals():
                torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except pickle.UnpicklingError:
        return "it holds more than tensors and plain values, or is cut short"
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, RecursionError) as error:
        return f"it is cut short, or no {path.suffix} file ({' '.join(str(error).split()):.100})"
    return None
