"""Checks of files from elsewhere before anything loads them: are they whole, and free of code?

Weights and states are tensors and plain values, in safetensors or in PyTorch's zip format. A pickle can run any code
when it is loaded, so PyTorch's files are opened with `weights_only`, which builds no other object. Only their
index is read: tensors stay on the disk.

Engines that shard a run load pickles from folders below the checkpoint, and not all of them with `weights_only`:

- DeepSpeed reads in the file `latest` the name of a folder, and loads its `*.pt` as pickles that may hold anything.
- FSDP with `SHARDED_STATE_DICT` loads torch's distributed checkpoints (folders `pytorch_model_fsdp_0` and
  `optimizer_0`): `.metadata` is such a pickle, and so is each value that it lists which is no tensor.
- FSDP with `FULL_STATE_DICT`, and PEFT's adapters in folders of their own, are loaded with `weights_only`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.trainer_pt_utils import safe_globals

from rlcredit.errors import InputError

MODEL = ("*.safetensors", "*.index.json", "config.json", "generation_config.json", "adapter_config.json",
         "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "vocab.json")  # fmt: skip
PICKLED = ("pytorch_model*.bin", "adapter_model*.bin")  # read where there is no safetensors
TAGS = ("latest", "latest_universal")  # DeepSpeed's: which folder to load
STATES = ("trainer_state.json", "rlcredit-*.pt", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth",
          "optimizer*.bin", "pytorch_model_fsdp*.bin", "*.metadata", *TAGS)  # fmt: skip
BELOW = ("*.pt", "*.pth", "*.bin", "*.safetensors", "*.metadata", "adapter_config.json")  # in a checkpoint's folders
NEVER_LOADED = "training_args.bin"

# What DeepSpeed's own files hold beside tensors and plain values. Whoever makes a file decides how a class that it
# names is called and what its attributes are. So a class belongs here only if its constructor does nothing but keep
# its arguments: these are a dataclass, an enum, and two classes that hold the scale of the loss.
OF_DEEPSPEED = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
# What `.metadata` holds: dataclasses and enums that say where each tensor lies, and the path it was written to.
OF_METADATA = (
    *(f"torch.distributed.checkpoint.metadata.{name}"
      for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
                   "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.Size",
    "torch.serialization._get_layout",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    *sorted({str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}),
)  # fmt: skip


def refuse_broken(folder: str | Path, key: str, advice: str, *, states: bool = False) -> None:
    """Look at each file of a model or a checkpoint that will be loaded, and at no other.

    Args:
        folder: where they are; what is no folder (the id of a model on the hub) is left alone.
        key: the setting that named the folder, for the message.
        advice: what to write instead.
        states: whether a run resumes from there, and so loads its states too: those of any engine, which are in
            folders below as well.

    Raises: InputError that names the first file that is torn, or that would run code.
    """
    if not os.path.isdir(folder):  # False too for a name that is too long
        return
    for path, harmless in [*_at_top(Path(folder), states), *(_below(Path(folder)) if states else ())]:
        if reason := _fault(path, harmless):
            raise InputError(f"{key}: {path} cannot be loaded: {reason}; {advice}")


def best_of(checkpoint: str | Path) -> str | None:
    """The checkpoint whose weights a run that resumes here may load at its end (`load_best_model_at_end`)."""
    path = Path(checkpoint, "trainer_state.json")
    state = json.loads(path.read_bytes()) if path.is_file() else None
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    return best if isinstance(best, str) else None


def _at_top(folder: Path, states: bool) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Each file to look at that is in the folder itself, and which classes it may name beside torch's."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    has_safetensors = any(path.suffix == ".safetensors" for path in paths)
    patterns = [*MODEL, *(() if has_safetensors else PICKLED), *(STATES if states else ())]
    return ((path, ()) for path in paths if any(map(path.match, patterns)))


def _below(top: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The same of the folders in it, at any depth: engines decide by what is in the files which of them they load."""
    met = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        if (real := os.path.realpath(folder)) in met:
            folders.clear()  # a link back: its files are looked at, and the folders in it are on another way
        met.add(real)
        for path in (Path(folder, name) for name in sorted(names) if folder != str(top) and name != NEVER_LOADED):
            if path.is_file() and any(map(path.match, BELOW)):
                yield path, OF_DEEPSPEED if path.suffix == ".pt" else ()


def _fault(path: Path, harmless: tuple[str, ...] = ()) -> str | None:
    """What is wrong with a file, in a few words."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                opened.keys()
        elif path.suffix in (".bin", ".pt", ".pth"):
            # safe_globals: numpy's arrays, in the states of its generators; files of before PyTorch 1.6 are no zip and
            # have to be read whole
            with warnings.catch_warnings(action="ignore"), safe_globals(), _named(harmless):
                torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.name.endswith(".metadata"):
            _look_at_distributed(path)
        elif path.name in TAGS:
            _look_at_tag(path)
    except pickle.UnpicklingError:
        return "it holds more than tensors and plain values, or is cut short"
    except Exception as error:  # a pickle that is torn, or made to do harm, may raise anything
        return f"it is cut short, or no {path.suffix or path.name} file ({' '.join(str(error).split()):.100})"
    return None


# ---- stand-ins: what a file builds while it is looked at, instead of the classes that it names ---------------------


class _Fixed(type):
    """Classes that a pickle cannot change, so that none is another when its file is loaded."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"{name} of a class is set")


class _StandIn(metaclass=_Fixed):
    def __init__(self, *arguments: Any) -> None: ...


class _Member(metaclass=_Fixed):
    """A member of an enum: nothing can be called, read from it or set on it."""

    __slots__ = ()


ENUMS = ("ZeroStageEnum", "_MEM_FORMAT_ENCODING")


def _member(enum: Any, name: Any) -> _Member:
    """For `getattr(enum, name)`, as which Python 3.11.0 to 3.11.3 pickles a member. Raises: pickle.UnpicklingError."""
    if not (isinstance(enum, _Fixed) and enum.__name__ in ENUMS and name.isidentifier() and name[0] != "_"):
        raise pickle.UnpicklingError(f"{name} is asked of something else than an enum")
    return _Member()


GETATTR: dict[str, Any] = {f"{module}.getattr": _member for module in ("builtins", "__builtin__")}


def _stand_in(full_name: str) -> type:
    name = full_name.rpartition(".")[2]
    # Its state is a tuple, and nothing here asks for it; the states of the others are dicts of their attributes.
    own = {"__setstate__": lambda self, state: None} if name == "TensorProperties" else {}
    return _Fixed(name, (_StandIn,), own)


def _named(names: tuple[str, ...]) -> Any:
    """A context in which `weights_only` takes these names: DeepSpeed need not be installed, nor is it imported."""
    stand_ins = {**GETATTR, **{name: _stand_in(name) for name in names}}
    return torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()])


# ---- DeepSpeed, torch's distributed checkpoints --------------------------------------------------------------------


def _look_at_tag(path: Path) -> None:
    """Raises: ValueError if DeepSpeed would load another folder than one of the checkpoint."""
    tag = path.read_text().strip()
    if not _is_name(tag) or not (path.parent / tag).is_dir():
        raise ValueError(f"{tag!r} is no folder beside it")


def _is_name(text: str) -> bool:
    """Whether a text names something in a folder, and not the folder itself or something elsewhere."""
    return text not in ("", "..") and Path(text).name == text


class _Metadata(pickle.Unpickler):
    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file)
        self.stand_ins = {**GETATTR, **{name: _stand_in(name) for name in OF_METADATA}}

    def find_class(self, module: str, name: str) -> type:
        if (found := self.stand_ins.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found


def _look_at_distributed(path: Path) -> None:
    """Look at `.metadata` and at each value it lists that is no tensor (torch loads tensors with `weights_only`).

    Raises: pickle.UnpicklingError if one would run code; ValueError and others if they do not fit together.
    """
    with path.open("rb") as file:
        unpickler = _Metadata(file)
        metadata = unpickler.load()
    of_tensor = unpickler.stand_ins["torch.distributed.checkpoint.metadata.TensorStorageMetadata"]
    kinds, places = metadata.state_dict_metadata, metadata.storage_data
    if type(kinds) is not dict or type(places) is not dict:
        raise ValueError("it has no dicts")
    for index, place in places.items():
        name, offset, length = place.relative_path, place.offset, place.length
        if type(name) is not str or not _is_name(name):
            raise ValueError(f"{name!r} is no file beside it")
        if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
            raise ValueError("a place in a file is no number")
        if getattr(place, "transform_descriptors", None):
            raise ValueError(f"{name} is packed")
        if offset + length > (path.parent / name).stat().st_size:
            raise ValueError(f"{name} is cut short")
        if type(kinds.get(index.fqn)) is not of_tensor:
            with (path.parent / name).open("rb") as file:
                file.seek(offset)
                torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
