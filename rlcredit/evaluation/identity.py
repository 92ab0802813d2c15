"""The identity of an evaluation: all that decides its figures, as one flat mapping that JSON can hold.

Beside the settings of the command it has

    problems, data_sha256          the rows, with golds and all that the checker reads
    prompts_sha256                 the prompts as rendered, chat template included
    task_options.*                 as given
    files.*, base_files.*          a digest of every file of the model's folder, and of the model under an adapter
    commit, base_commit            of a model on the hub
    code.*                         a digest of what grades: rlcredit's own tasks and checkers, and a reward's modules
    versions.*                     of the packages that load, generate and grade
    device                         cpu, cuda, ...

A digest is a SHA-256 of the whole file up to 256 MB. Of a larger file it is one of its first and last 8 MB, with its
size and the time of its last change. A reward's modules are its own and those that it imports at its top and that are
not installed packages; what it imports inside a function, and the files that it reads, are not seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig

from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.runs.files import ACCURACY_FILE, FACTS_FILE
from rlcredit.tasks import TaskData, base

Identity = dict[str, Any]
PACKAGES = ("rlcredit", "math-verify", "latex2sympy2-extended", "sympy", "transformers", "tokenizers", "torch", "peft")
LOADED = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".tiktoken", ".py"}
# Beside the policy in a run's folder; nothing of an evaluation loads them.
NOT_LOADED = {
    *(ACCURACY_FILE, FACTS_FILE, "settings.json", "metrics.json", "trainer_state.json"),
    *("training_args.bin", "optimizer.bin", "scheduler.bin"),
}
WHOLE, PART = 256_000_000, 8_000_000  # bytes
POLICY = ("model", "revision", "commit", "base_commit", "files.", "base_files.")
"""The keys, and beginnings of keys, in which the evaluations of two policies may differ."""
SHOWN = 6


def identity(
    settings: Mapping[str, Any], path: str, config: PretrainedConfig, rows: Dataset, task: TaskData
) -> Identity:
    """What decides the figures of an evaluation, beside the prompts.

    Args:
        settings: of the command.
        path: the model's folder, or its id on the hub.
        config: of the model, or of the one under its adapter.
        rows: the evaluation set.
        task: what grades.
    """
    content = "\n".join(json.dumps(row, sort_keys=True, default=str) for row in rows.to_list())
    commit = getattr(config, "_commit_hash", None)
    adapter = Path(path) / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.is_file() else None
    parts = {
        **settings,
        "problems": len(rows),
        "data_sha256": text_digest(content),
        "files": files_of(path),
        "base_files": files_of(base) if base else {},
        "base_commit" if base else "commit": commit,
        "code": {"rlcredit.tasks": _code_of_tasks(), **code_of(modules_of(task.rewards))},
        "versions": _versions(),
    }
    return flat(parts)


def prompts_digest(renderer: PromptRenderer, rows: Dataset) -> str:
    """Of the prompts as rendered."""
    return text_digest(json.dumps(renderer.texts(list(rows["prompt"]))))


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By key, the two values that differ."""
    keys = dict.fromkeys([*second, *first])
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def in_words(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """`seed 0 instead of 1, ...`: the first few differences in one line."""
    said = [f"{key} {a!r:.60} instead of {b!r:.60}" for key, (a, b) in list(differing.items())[:SHOWN]]
    rest = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return ", ".join(said) + rest


def is_of_the_policy(key: str) -> bool:
    """Whether the evaluations of two policies may differ in this key."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in POLICY)


def flat(values: Mapping[str, Any], prefix: str = "") -> Identity:
    """Nested mappings as one, with dotted keys; None is left out."""
    entries: Identity = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            entries |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            entries[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return entries


# ---- digests ------------------------------------------------------------------------------------------------------


def text_digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def files_of(path: str) -> dict[str, str]:
    """A digest of each file in a model's folder that loading it may read; none for a model on the hub."""
    folder = Path(path)
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
    return {name: file_digest(file) for file in files if _is_loaded(name := file.relative_to(folder).as_posix())}


def _is_loaded(name: str) -> bool:
    *folders, file = name.split("/")
    within = not folders or folders == ["additional_chat_templates"]
    return within and Path(file).suffix in LOADED and file not in NOT_LOADED


def file_digest(file: Path) -> str:
    """A digest of a file (see the head of the module)."""
    size, content = file.stat().st_size, sha256()
    with file.open("rb") as stream:
        if size <= WHOLE:
            for block in iter(partial(stream.read, PART), b""):
                content.update(block)
            return content.hexdigest()[:16]
        content.update(stream.read(PART))
        stream.seek(-PART, 2)
        content.update(stream.read(PART))
    return f"{content.hexdigest()[:16]} of head and tail, {size} bytes, changed at {file.stat().st_mtime_ns}"


def _code_of_tasks() -> str:
    """Of rlcredit's own tasks and checkers."""
    folder = Path(base.__file__).parent
    return text_digest("\n".join(file.read_text() for file in sorted(folder.rglob("*.py"))))


def modules_of(functions: Iterable[Any]) -> set[str]:
    return {getattr(function, "__module__", type(function).__module__) for function in functions}


def code_of(names: Iterable[str]) -> dict[str, str]:
    """By module, a digest of the source: of these modules, where they are not rlcredit's, and of those beside them."""
    waiting = [sys.modules[name] for name in names if not name.startswith("rlcredit.")]
    seen: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        if module.__name__ in seen or (file := _source(module)) is None:
            continue
        seen[module.__name__] = file_digest(file)
        waiting += _imported(module)
    return dict(sorted(seen.items()))


def _source(module: ModuleType) -> Path | None:
    """The module's file; None for what is built in, installed, or rlcredit's."""
    file = Path(module.__file__) if getattr(module, "__file__", None) else None  # type: ignore[arg-type]
    installed = {"site-packages", "dist-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"}
    own = module.__name__.split(".")[0] == "rlcredit"
    return None if file is None or own or file.suffix != ".py" or installed & set(file.parts) else file


def _imported(module: ModuleType) -> Iterator[ModuleType]:
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif (name := getattr(value, "__module__", None)) in sys.modules:
            yield sys.modules[name]


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
