"""A task of the user's own: a data set with a `prompt` column, and a reward function.

task: custom
task_options:
  train: data/train.jsonl              # .jsonl, .json, .csv or .parquet; or the id of a data set on the hub
  test: data/test.jsonl                # optional, held out
  reward: my_package.rewards:score     # score(completions, **columns) -> one number for each completion
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets

from rlcredit.errors import InputError
from rlcredit.tasks.base import TaskData

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_OPTIONS = ("train", "test", "reward")


def load(options: Mapping[str, object]) -> TaskData:
    """The task that `task_options` describe.

    Raises: InputError that names the option, for a missing file, column or function.
    """
    for key in options:
        if key not in _OPTIONS:
            near = difflib.get_close_matches(str(key), _OPTIONS, 1, cutoff=0)
            raise InputError(f"task_options.{key}: is no option of a custom task; did you mean {near[0]}?")
    for key in ("train", "reward"):
        if not isinstance(options.get(key), str):
            raise InputError(
                f"task_options.{key}: is missing; write "
                + ("a file or a data set's id" if key == "train" else "package.module:function")
            )
    test = options.get("test")
    return TaskData(
        train=_data("train", str(options["train"])),
        test=_data("test", str(test), split="test") if test is not None else None,
        rewards=[_function(str(options["reward"]))],
        correct=None,
    )


def _data(key: str, source: str, split: str = "train") -> datasets.Dataset:
    reader = _READERS.get(Path(source).suffix)
    try:
        if reader and not Path(source).is_file():
            raise FileNotFoundError("there is no such file")
        found = (
            datasets.load_dataset(reader, data_files=source, split="train")
            if reader
            else datasets.load_dataset(source, split=split)
        )
    except Exception as error:  # datasets raises its own, of many kinds, for files and hubs alike
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"task_options.{key}: {source!r} cannot be loaded ({reason}); write a .jsonl, .json, .csv or "
            ".parquet file, or the id of a data set on the hub"
        ) from error
    if "prompt" not in found.column_names:
        raise InputError(
            f"task_options.{key}: {source!r} has the columns {', '.join(found.column_names)}, and none called prompt"
        )
    if not len(found):
        raise InputError(f"task_options.{key}: {source!r} has no rows")
    return found


def _function(name: str) -> Callable[..., list[float | None]]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"task_options.reward: {name!r} cannot be imported ({error}); write "
            "package.module:function, importable from here"
        ) from error
    if not callable(found):
        raise InputError(f"task_options.reward: {name!r} is no function")
    return found
