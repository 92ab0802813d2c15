"""Files from elsewhere, looked at before anything loads them: whole, and without code.

Weights and states are tensors and plain values, in safetensors or in PyTorch's zip format. A pickle can run what it
likes when it is loaded, so PyTorch's files are opened with `weights_only`, which builds no other object. Only their
index is read: tensors stay on the disk.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from rlcredit.errors import InputError

NOT_LOADED = {"training_args.bin"}  # transformers writes it, and nothing reads it back


def refuse_broken(folder: str | Path, key: str, advice: str) -> None:
    """Look at each file of a model or a checkpoint that will be loaded.

    Args:
        folder: where they are; what is no folder (the id of a model on the hub) is left alone.
        key: the setting that named the folder, for the message.
        advice: what to write instead.

    Raises: InputError that names the first file that is torn, or that would run code.
    """
    for path in sorted(Path(folder).iterdir()) if os.path.isdir(folder) else []:  # False for a name that is too long
        if path.name in NOT_LOADED or not path.is_file():
            continue
        if reason := _fault(path):
            raise InputError(f"{key}: {path} cannot be loaded: {reason}; {advice}")


def _fault(path: Path) -> str | None:
    """What is wrong with a file, in a few words."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                opened.keys()
        elif path.suffix in (".bin", ".pt", ".pth"):
            with safe_globals():  # numpy's arrays, in the states of its generators
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except pickle.UnpicklingError:
        return "it holds more than tensors and plain values, or is cut short"
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, RecursionError) as error:
        return f"it is cut short, or no {path.suffix} file ({' '.join(str(error).split()):.100})"
    return None
