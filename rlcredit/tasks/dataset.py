"""The task `dataset`: rows as `trl grpo` takes them, by the same keys, rewarded by the run's own reward functions.

dataset_name: data/countdown     # what datasets.load_dataset takes: a folder, or the id of a set on the hub
dataset_prompt_column: question  # open-r1's: its texts become conversations, behind system_prompt if there is one
reward_funcs: [accuracy_reward, my_rewards.short]

A recipe needs no `task:` beside these keys; they are the options of this task too, which is how run.json keeps them.
What TRL's script would leave without effect is refused. Two things differ, so that a run can resume bit for bit:
`test_split_size` draws by the run's seed (TRL draws anew in every process), and of a stream (`dataset_streaming`) the
rows that the run takes are read before it starts, in the order of TRL's buffered shuffle, and kept.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import datasets
from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments, get_dataset

from rlcredit.errors import InputError
from rlcredit.tasks.base import TRL_ARGUMENTS, TaskData
from rlcredit.tasks.options import is_text, options_from
from rlcredit.tasks.prompts import Prompt, checked_prompt

NAME = "dataset"
SHOWN_BAD_ROWS = 5
DROPPED = ("completion", "completion_ids")  # which TRL keeps from the rewards
OF_NAME = ("dataset_config", "dataset_streaming")  # of no effect beside `datasets`
OF_MIXTURE = ("streaming", "test_split_size")  # of no effect without


@dataclass
class DatasetArguments(ScriptArguments, DatasetMixtureConfig):
    """TRL's keys of a data set, and open-r1's two that make conversations of a column."""

    dataset_prompt_column: str | None = field(
        default=None,
        metadata={"help": "The column whose texts become the prompts, each as a user's message (open-r1's)."},
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "A system message in front of every prompt of the data set (open-r1's)."}
    )

    def __post_init__(self) -> None:
        for number, entry in enumerate(self.datasets, start=1):
            if isinstance(entry, Mapping) and not is_text(entry.get("path")):
                raise InputError(f"datasets: entry {number} has no path; write path: a folder, or the id of a set")
        super().__post_init__()
        for name in ("dataset_prompt_column", "system_prompt"):
            if getattr(self, name) is not None and not is_text(getattr(self, name)):
                raise InputError(f"{name}: is empty; write a text, or leave it out")
        if self.dataset_name and self.datasets:
            raise InputError("dataset_name: datasets is given too, and TRL would leave dataset_name out; keep one")
        if self.ignore_bias_buffers:
            raise InputError("ignore_bias_buffers: is not read in GRPO, by TRL neither; leave it out")
        idle, without = (OF_NAME, "dataset_name") if self.datasets else (OF_MIXTURE, "datasets")
        if lost := [name for name in idle if getattr(self, name)]:
            raise InputError(f"{lost[0]}: has no effect without {without}; leave it out")
        if self.streaming and self.test_split_size is not None:
            raise InputError("test_split_size: a stream cannot be split; write streaming: false")

    def given(self) -> dict[str, Any]:
        """The keys that differ from their defaults, as a recipe writes them."""
        values = {name: getattr(self, name) for name, usual in _DEFAULTS.items() if getattr(self, name) != usual}
        if self.datasets:
            values["datasets"] = [
                {key: value for key, value in dataclasses.asdict(entry).items() if value is not None}
                for entry in self.datasets
            ]
        return values


_DEFAULTS = vars(DatasetArguments())


@dataclass
class DatasetOptions(DatasetArguments):
    """The same as `task_options`, with what the rest of a run decides.

    Attributes:
        seed: of test_split_size, and of the shuffle of a stream.
        shuffle: whether a stream is shuffled, in TRL's buffer.
        rows: how many rows to read of a stream; None: all.
    """

    seed: int = 42
    shuffle: bool = False
    rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset_name and not self.datasets:
            raise InputError("dataset_name: is missing; write a folder, or the id of a data set on the hub")

    @property
    def source(self) -> str:
        """The data in words, for messages."""
        names = [self.dataset_name] if self.dataset_name else [entry.path for entry in self.datasets]
        return " and ".join(map(str, names))


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The rows that the options name, without rewards: those are the run's (`reward_funcs`).

    The evaluation set is `dataset_test_split`, where there is one; asked for by the task's own name (by `rlcredit
    analyze`), it is the training rows where there is none.

    Raises: InputError that names the key, and the row.
    """
    settings = options_from(DatasetOptions, copy.deepcopy(options), NAME)  # TRL changes the list of `datasets`
    with _without_bars():
        splits = _splits(settings)
    train_split, test_split = settings.dataset_train_split, settings.dataset_test_split
    if test_split != "test":  # which is TRL's default
        _refuse_missing("dataset_test_split", test_split, splits, settings)
    rows = None
    if train or test_split not in splits:
        _refuse_missing("dataset_train_split", train_split, splits, settings)
        rows = _ready(splits[train_split], f"{settings.source}:{train_split}", settings, settings.rows)
    found = {}
    if tests is None or NAME in tests:
        if test_split in splits:
            found[test_split] = _ready(splits[test_split], f"{settings.source}:{test_split}", settings, None)
        elif tests is not None:
            assert rows is not None
            found[train_split] = rows
    return TaskData(train=rows if train else None, tests=found, rewards=[], check=None)


def _splits(settings: DatasetOptions) -> Mapping[str, Any]:
    try:
        if settings.datasets:
            mixture = DatasetMixtureConfig(settings.datasets, settings.streaming)
            splits = get_dataset(mixture)
            if settings.test_split_size is not None:
                return splits["train"].train_test_split(settings.test_split_size, seed=settings.seed)
            return splits
        return datasets.load_dataset(
            settings.dataset_name, name=settings.dataset_config, streaming=settings.dataset_streaming
        )
    except Exception as error:  # of many kinds: no network, no such id, columns that do not fit, a wrong fraction
        key = "datasets" if settings.datasets else "dataset_name"
        cause: BaseException = error
        while cause.__cause__ is not None:  # what is wrong with the file, behind "an error occurred"
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{key}: {settings.source} cannot be loaded ({reason}); write a folder with .jsonl, .json, .csv or "
            ".parquet files, the id of a data set on the hub that can be reached from here, or for one file datasets: "
            "[{path: json, data_files: FILE}]"
        ) from error


def _refuse_missing(key: str, split: str, splits: Mapping[str, Any], settings: DatasetOptions) -> None:
    if split not in splits:
        raise InputError(
            f"{key}: {settings.source} has no split {split!r}; write one of {', '.join(map(str, splits))}"
        )


def _ready(rows: Any, where: str, settings: DatasetOptions, count: int | None) -> datasets.Dataset:
    """The rows with their prompts, checked; a stream is read up to `count` rows."""
    if isinstance(rows, datasets.IterableDataset):
        stream = rows.shuffle(seed=settings.seed) if settings.shuffle and count is not None else rows
        rows = datasets.Dataset.from_list(list(stream if count is None else stream.take(count)))
    columns = rows.column_names
    if not len(rows):
        raise InputError(f"{where}: has no rows")
    if taken := [name for name in columns if name in (*TRL_ARGUMENTS, "image", "images") and name not in DROPPED]:
        what = "text alone is trained on" if "image" in taken[0] else "TRL uses that name itself"
        raise InputError(f"{where}: has the column {taken[0]}, and {what}; rename it, or select columns in datasets")
    makes = settings.dataset_prompt_column is not None or settings.system_prompt is not None
    column = settings.dataset_prompt_column or "prompt"
    if column not in columns:
        raise InputError(f"dataset_prompt_column: {where} has no column {column!r}; write one of {', '.join(columns)}")
    prompts = _prompts(rows[column], where, settings, makes)
    if makes:
        kept = [name for name in columns if name not in (*DROPPED, "prompt", "messages")]
        made = datasets.Dataset.from_dict({"prompt": prompts})
        return datasets.concatenate_datasets([rows.select_columns(kept), made], axis=1) if kept else made
    return rows.remove_columns([name for name in DROPPED if name in columns])


def _prompts(values: Sequence[Any], where: str, settings: DatasetOptions, makes: bool) -> list[Prompt]:
    prompts, bad = [], []
    for number, value in enumerate(values, start=1):
        try:
            prompt = checked_prompt(value)
            prompts.append(_conversation(prompt, settings.system_prompt) if makes else prompt)
        except InputError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        rest = f"; and {len(bad) - SHOWN_BAD_ROWS} more" if len(bad) > SHOWN_BAD_ROWS else ""
        listed = "; ".join(bad[:SHOWN_BAD_ROWS])
        raise InputError(f"{where}: {len(bad)} of {len(values)} rows cannot be used: {listed}{rest}")
    return prompts


def _conversation(prompt: Prompt, system_prompt: str | None) -> Prompt:
    """The prompt as open-r1 makes it: a user's message, behind the system prompt."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system_prompt is None:
        return messages
    if messages[0]["role"] == "system":
        raise InputError("prompt begins with a system message; leave system_prompt out")
    return [{"role": "system", "content": system_prompt}, *messages]


@contextmanager
def _without_bars() -> Iterator[None]:
    """Reads files without the bars of `datasets`."""
    were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
