"""Tasks of questions and answers: rows with `question`, `answer` and perhaps `choices`, from the hub or a local file.

A task is a `QuestionTask`: which sets there are, how a question is worded, which checker judges the answers. The
prompt is the paper's (arXiv 2510.13554): the question, then "Please reason step by step, and put your final answer
within \\boxed{}". The sentence on the answer's form after it is ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from rlcredit.errors import InputError
from rlcredit.tasks.base import RESERVED_COLUMNS, TaskData, accuracy_reward
from rlcredit.tasks.checkers.answers import answer_span
from rlcredit.tasks.checkers.choice import LETTERS
from rlcredit.tasks.checkers.verdict import Checker
from rlcredit.tasks.files import HubSet, Row, hub_set, id_of, is_file_name, read_file, read_hub
from rlcredit.tasks.options import is_integer_in, is_text, kind_of, options_from, require
from rlcredit.tasks.overlap import normalized, overlap
from rlcredit.tasks.prompts import Prompt, checked_prompt, refuse_unused

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
SHOWN_BAD_ROWS = 5


@dataclass(frozen=True)
class QuestionOptions:
    """The recipe's `task_options` for a task of questions.

    Attributes:
        train: the training set: one of the task's names, a .jsonl, .json, .csv or .parquet file, or the id of a data
            set on the hub (`owner/name`, `owner/name@configuration:split`).
        test: the evaluation sets: one or a list of those, or a mapping from names to files (`math500: my/file.jsonl`).
        prompt_style: "chat" (a conversation, rendered with the model's chat template; the default) or "plain" (a text,
            for base models). Rows with a ready prompt have their own, and a style that differs is refused.
        system_prompt: the conversation's system message, if any; refused where rows have a ready prompt.
        num_train: take the first so many rows; none: all.
        num_test: the same for each evaluation set; a set with fewer rows is an error.
        hold_out: take so many rows out of the training set (those whose normalised question has the smallest SHA-256,
            wherever they stand) and evaluate on them; a set of its own, named as the training set is.
        skip_bad_rows: leave out rows that cannot be used, and list them, where otherwise they are an error.
    """

    train: str | None = None
    test: Any = None
    prompt_style: str | None = None
    system_prompt: str | None = None
    num_train: int | None = None
    num_test: int | None = None
    hold_out: int | None = None
    skip_bad_rows: bool = False

    def __post_init__(self) -> None:
        require("train", self.train, lambda value: value is None or is_text(value), "a file, or the name of a set")
        require("test", self.test, _is_test, "a list of files or names, or a mapping from names to files")
        require("prompt_style", self.prompt_style, lambda value: value in (None, "chat", "plain"), "'chat' or 'plain'")
        require("system_prompt", self.system_prompt, lambda value: value is None or is_text(value), "a text")
        for name in ("num_train", "num_test", "hold_out"):
            count = getattr(self, name)
            require(name, count, lambda value: value is None or is_integer_in(1, 10**9)(value), "a number above 0")
        require("skip_bad_rows", self.skip_bad_rows, lambda value: isinstance(value, bool), "true or false")
        if self.system_prompt and self.prompt_style == "plain":
            raise InputError("task_options.system_prompt: prompt_style is 'plain'; write 'chat', or leave it out")


def _is_test(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(is_text, [*value.keys(), *value.values()]))
    return value is None or is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


@dataclass(frozen=True)
class QuestionTask:
    """A task of questions; calling it makes its data (`base.Load`).

    Attributes:
        name: the task's name, for messages.
        check: judges answers; without it (where the user brings a reward) a row needs no answer.
        train: training sets by name; the first is the default.
        test: evaluation sets by name; the first is the default.
        answer_form: what the prompt says of the answer's form, after the paper's instruction.
        options: what the recipe may say.
        keeps_columns: whether the rewards get the columns that the task itself does not know.
    """

    name: str
    check: Checker | None
    train: Mapping[str, HubSet] = field(default_factory=dict)
    test: Mapping[str, HubSet] = field(default_factory=dict)
    answer_form: str = ""
    options: type[QuestionOptions] = QuestionOptions
    keeps_columns: bool = False

    def __call__(
        self, options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None
    ) -> TaskData:
        """The data that `task_options` describe. Raises: InputError."""
        return self.load(options_from(self.options, options, self.name), train=train, tests=tests)

    def load(self, settings: QuestionOptions, *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
        """The same from checked options."""
        notes: list[str] = []
        wanted = self._tests(settings.test, tests, settings.hold_out)
        test_rows = {
            name: self._rows(name, source, settings.num_test, settings, notes) for name, source in wanted.items()
        }
        train_rows = None
        if train or settings.hold_out:
            name, source = self._train(settings.train)
            train_rows = self._rows(name, source, None, settings, notes)
            if settings.hold_out:
                train_rows, held_out = split_off(train_rows, settings.hold_out)
                test_rows = {_short(name): held_out[: settings.num_test], **test_rows}
        return self.data(settings, train_rows[: settings.num_train] if train else None, test_rows, notes)  # type: ignore[index]

    def data(
        self,
        settings: QuestionOptions,
        train: list[Row] | None,
        tests: Mapping[str, list[Row]],
        notes: Sequence[str] = (),
    ) -> TaskData:
        """The data of these rows; problems in both a training and an evaluation set are noted."""
        shared = [line for name, rows in tests.items() if (line := overlap(train or [], name, rows))]
        return TaskData(
            train=None if train is None else self._dataset(train, settings),
            tests={name: self._dataset(rows, settings) for name, rows in tests.items()},
            rewards=[accuracy_reward(self.check)] if self.check else [],
            check=self.check,
            answer_span=answer_span if self.check else None,
            notes=[*notes, *shared],
        )

    # ---- which sets -----------------------------------------------------------------------------------------------

    def _train(self, wanted: str | None) -> tuple[str, HubSet | Path]:
        if wanted is None:
            if not self.train:
                raise InputError("task_options.train: is missing; write a file, or the id of a data set on the hub")
            wanted = next(iter(self.train))
        return wanted, self._source("train", wanted, self.train, "train")

    def _tests(
        self, given: Any, wanted: Sequence[str] | None, hold_out: int | None = None
    ) -> dict[str, HubSet | Path]:
        """The evaluation sets by name: those that the options name, else the wanted ones of the task."""
        if isinstance(given, Mapping):
            named = {name: self._source("test", source, self.test, "test", name) for name, source in given.items()}
        elif given is None:
            default = [] if hold_out else list(self.test)[:1]
            names = default if wanted is None else [name for name in wanted if name in self.test or not hold_out]
            named = {name: self._source("test", name, self.test, "test") for name in names}
        else:
            names = [given] if isinstance(given, str) else given
            named = {_short(name): self._source("test", name, self.test, "test") for name in names}
            if len(named) != len(names):
                raise InputError("task_options.test: two sets have the same name; write a mapping from names to files")
        return named

    def _source(
        self, key: str, source: str, known: Mapping[str, HubSet], split: str, name: str | None = None
    ) -> HubSet | Path:
        if is_file_name(source):
            return Path(source)
        if source in known:
            return known[source]
        if (on_hub := hub_set(source, split)) is None:
            if source == self.name:  # the name of the task, where no set was named
                raise InputError(
                    f"task_options.{key}: is missing, and the task {self.name} has no set of its own; write a .jsonl, "
                    ".json, .csv or .parquet file (for evaluate and analyze: --data FILE)"
                )
            there = f"one of {', '.join(known)}, " if known else ""
            raise InputError(
                f"task_options.{key}: {source!r} is not a set of the task {self.name}; write {there}"
                "a .jsonl, .json, .csv or .parquet file, or owner/name of a data set on the hub"
            )
        return on_hub

    # ---- their rows -----------------------------------------------------------------------------------------------

    def _rows(
        self, name: str, source: HubSet | Path, count: int | None, settings: QuestionOptions, notes: list[str]
    ) -> list[Row]:
        """The checked rows of a set, as many as promised; a bad row is an error, or is left out and noted."""
        placed_rows = read_file(source) if isinstance(source, Path) else read_hub(source)
        convert: Callable[[Row], Row] = dict if isinstance(source, Path) else source.row
        if self.keeps_columns:
            _refuse_reserved(source, placed_rows)
        rows: list[Row] = []
        places: list[str] = []
        bad = []
        for place, raw in placed_rows:
            try:
                row = convert(raw)
                kept = {name: row[name] for name in row if name != "prompt"} if self.keeps_columns else {}
                checked = _checked(row, self.check is not None, self.keeps_columns)
                rows.append({**kept, **checked, "id": id_of(raw, place)})
                places.append(place)
            except (InputError, KeyError, TypeError, ValueError, IndexError) as error:
                bad.append((place, f"has no {error}" if isinstance(error, KeyError) else str(error)))
        if bad:
            self._refuse_or_note(str(source), placed_rows, bad, settings.skip_bad_rows, notes)
        for place, row in zip(places, rows, strict=True):
            if "prompt" in row:
                refuse_unused(row["prompt"], settings.prompt_style, settings.system_prompt, f"{source}: {place}")
            row["prompt"] = self.prompt(row, settings)
        _refuse_mixed(source, places, rows)
        promised = count or (self.test[name].rows if name in self.test else 0)
        if len(rows) < promised:
            raise InputError(
                f"{source}: has {len(rows)} usable rows, but the evaluation set {name} has {promised}; "
                f"write a complete file, or task_options.num_test: {len(rows)} to use what is there"
            )
        return rows[:count]

    def _refuse_or_note(
        self, source: str, placed_rows: list[tuple[str, Row]], bad: list[tuple[str, str]], skip: bool, notes: list[str]
    ) -> None:
        reasons = {reason for _, reason in bad}
        if len(bad) == len(placed_rows) and len(reasons) == 1:
            raise InputError(
                f"{source}: row 1: {reasons.pop()}; the columns are {', '.join(map(str, placed_rows[0][1]))}; "
                "write rows with question, answer and, for multiple choice, choices"
            )
        listed = "; ".join(f"{place}: {reason}" for place, reason in bad[:SHOWN_BAD_ROWS])
        rest = f"; and {len(bad) - SHOWN_BAD_ROWS} more" if len(bad) > SHOWN_BAD_ROWS else ""
        if not skip or len(bad) == len(placed_rows):
            raise InputError(
                f"{source}: {len(bad)} of {len(placed_rows)} rows cannot be used: {listed}{rest}; correct them, or "
                "write task_options.skip_bad_rows: true to leave them out"
            )
        every = "; ".join(f"{place}: {reason}" for place, reason in bad)
        notes.append(f"{source}: {len(bad)} of {len(placed_rows)} rows left out: {every}")

    def _dataset(self, rows: list[Row], settings: QuestionOptions) -> datasets.Dataset:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        prompted = [{**{c: row.get(c) for c in columns}, "prompt": self.prompt(row, settings)} for row in rows]
        return datasets.Dataset.from_list(prompted)

    # ---- the prompt -----------------------------------------------------------------------------------------------

    def prompt(self, row: Row, settings: QuestionOptions) -> Prompt:
        """The prompt of a row: its own, or the question in words, as a conversation or as a text."""
        if "prompt" in row:
            return row["prompt"]
        text = f"{row['question']}\n"
        if "choices" in row:
            text += "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, row["choices"], strict=False))
        text += " ".join(filter(None, [INSTRUCTION, self.answer_form]))
        if settings.prompt_style == "plain":
            return f"Question: {text}\nAnswer:"
        system = [{"role": "system", "content": settings.system_prompt}] if settings.system_prompt else []
        return [*system, {"role": "user", "content": text}]


def _short(source: str) -> str:
    """The short name of a set: its own, or that of its file."""
    return Path(source).stem if is_file_name(source) else source


def split_off(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """The rows in two parts, by question: `count` of them held out (one a question), and those of other questions.

    Which ones depends on the questions alone, so a set that grows or is shuffled keeps most of what it holds out.
    Raises: InputError if there are no more than `count` questions.
    """
    keys = [normalized(row["question"]) for row in rows]
    first = dict(zip(reversed(keys), reversed(rows), strict=True))
    if len(first) <= count:
        raise InputError(
            f"task_options.hold_out: {count} of {len(first)} questions leave none to train on; write a smaller number"
        )
    chosen = sorted(first, key=lambda key: sha256(key.encode()).digest())[:count]
    held_out = set(chosen)
    return [row for key, row in zip(keys, rows, strict=True) if key not in held_out], [first[key] for key in chosen]


def _checked(row: Row, has_answers: bool, prefers_prompt: bool) -> Row:
    """The row's question (or prompt), answer and choices, checked. Raises: InputError that says what is wrong."""
    checked: Row = {}
    if row.get("prompt") is not None and (prefers_prompt or "question" not in row):
        prompt = checked["prompt"] = checked_prompt(row["prompt"])
        said = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        checked["question"] = row["question"] if is_text(row.get("question")) else said
    elif "question" not in row:
        raise InputError("has no question")
    elif not is_text(row["question"]):
        raise InputError("question is empty, or no text")
    else:
        checked["question"] = row["question"].strip()
    if has_answers or row.get("answer") is not None:
        checked["answer"] = _answer(row)
    if row.get("choices") is not None:
        choices = row["choices"]
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS) or not all(map(is_text, choices)):
            raise InputError(f"choices is not a list of 2 to {len(LETTERS)} texts")
        if checked.get("answer", "A") not in LETTERS[: len(choices)]:
            raise InputError(
                f"answer {checked['answer'][:20]!r} is not one of the letters A to {LETTERS[len(choices) - 1]}"
            )
        checked["choices"] = choices
    return checked


def _refuse_reserved(source: HubSet | Path, placed_rows: list[tuple[str, Row]]) -> None:
    for place, row in placed_rows:
        if taken := [name for name in row if name in RESERVED_COLUMNS]:
            raise InputError(
                f"{source}: {place}: the column {taken[0]} has a name that TRL uses itself; rename it, for instance "
                f"to my_{taken[0]}"
            )


def _refuse_mixed(source: HubSet | Path, places: Sequence[str], rows: Sequence[Row]) -> None:
    """Raise an InputError that names the first value that cannot stand in a column with those before."""
    for column in dict.fromkeys(column for row in rows for column in row):
        values = [row.get(column) for row in rows]
        if _fit(column, values):
            continue
        # the values up to the first that does not fit: halved, for a table can be long
        index = bisect_left(range(len(values)), True, key=lambda last: not _fit(column, values[: last + 1]))
        value, where = values[index], f"{source}: {places[index]}: {column} is"
        if _fit(column, [value]):
            first = next(number for number, other in enumerate(values) if other is not None)
            raise InputError(
                f"{where} {value!r:.60} ({kind_of(value)}), and {values[first]!r:.60} "
                f"({kind_of(values[first])}) in {places[first]}; write values of one type into a column"
            )
        raise InputError(
            f"{where} {value!a:.60}, which cannot be stored; write valid Unicode, integers of 64 bits, or lists "
            "of one type"
        )


def _fit(column: str, values: Sequence[Any]) -> bool:
    try:
        datasets.Dataset.from_dict({column: list(values)})
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
        return False
    return True


def _answer(row: Row) -> str:
    if "answer" not in row:
        raise InputError("has no answer")
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise InputError("answer is empty, or neither text nor number")
    answer = str(answer).strip()
    if answer in ("nan", "NaN", "NAN"):
        raise InputError(
            "answer is NaN, as an empty cell is written by some programs; write the answer, or drop the row"
        )
    return answer
