"""Samples of an evaluation set: cut into batches, drawn, checked, kept.

The batches are cut before anything is drawn, from the problems alone, and each is drawn and stored as a whole. So it
does not matter how many processes share them, nor how often a run is killed and started again: the samples are the
same, and none that is stored is drawn twice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedModel

from rlcredit.errors import InputError
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling, complete
from rlcredit.tasks.checkers.verdict import Checker

SAMPLES_FILE = "samples.parquet"
SCHEMA = pa.schema(
    [
        ("problem", pa.int64()),  # its place in the evaluation set
        ("sample", pa.int64()),
        ("id", pa.string()),
        ("question", pa.string()),
        ("completion", pa.string()),
        ("answer", pa.string()),  # as the checker read it
        ("gold", pa.string()),
        ("correct", pa.float64()),
        ("tokens", pa.int64()),
        ("truncated", pa.bool_()),
    ]
)
Record = dict[str, Any]


class SampleBatch(NamedTuple):
    """One batch: its number, and the (problem, sample) pairs in it."""

    number: int
    pairs: list[tuple[int, int]]


class SampleTable(NamedTuple):
    """Samples of P problems, S of each, problems and samples in order.

    Attributes:
        correct_PS: float [P, S].
        answers_PS: what each one answered, or None; None in place of all where the checker says no answers.
        tokens_PS: length in tokens, int [P, S].
        truncated_PS: bool [P, S].
    """

    correct_PS: np.ndarray
    answers_PS: list[list[str | None]] | None
    tokens_PS: np.ndarray
    truncated_PS: np.ndarray

    def shares(self) -> list[float]:
        """Each problem's share of right samples: [P]."""
        return self.correct_PS.mean(axis=1).tolist()


def batches(rows: Dataset, renderer: PromptRenderer, samples: int, batch_size: int) -> list[SampleBatch]:
    """Every (problem, sample) pair once; prompts of like length together, the batches in a fixed shuffled order (so
    that the time left can be told from the time taken)."""
    lengths = renderer.lengths(list(rows["prompt"]))
    order = sorted(range(len(rows)), key=lambda problem: (lengths[problem], problem))
    pairs = [(problem, sample) for problem in order for sample in range(samples)]
    cut = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    random.Random(0).shuffle(cut)
    return [SampleBatch(number, part) for number, part in enumerate(cut)]


def draw(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    rows: Dataset,
    batch: SampleBatch,
    sampling: Sampling,
    check: Checker,
) -> list[Record]:
    """The batch's completions, checked."""
    problems = rows.select([problem for problem, _ in batch.pairs]).to_list()
    completions = complete(model, renderer, [row["prompt"] for row in problems], batch.pairs, sampling)
    verdicts = check([completion.text for completion in completions], problems)
    return [
        {
            "problem": problem,
            "sample": sample,
            "id": str(row.get("id", problem)),
            "question": _question(row),
            "completion": completion.text,
            "answer": verdict.answer,
            "gold": _gold(row),
            "correct": verdict.correct,
            "tokens": completion.tokens,
            "truncated": completion.truncated,
        }
        for (problem, sample), row, completion, verdict in zip(
            batch.pairs, problems, completions, verdicts, strict=True
        )
    ]


def _question(row: Record) -> str:
    prompt = row["prompt"]
    return str(row.get("question") or (prompt if isinstance(prompt, str) else prompt[-1]["content"]))


def _gold(row: Record) -> str | None:
    gold = row.get("answer", row.get("target"))
    return None if gold is None else str(gold)


def table(records: Iterable[Record], *, has_answers: bool = True) -> SampleTable:
    """Records as arrays; with the answers, if the checker says what a sample answered."""
    ordered = sorted(records, key=lambda record: (record["problem"], record["sample"]))
    problems = len({record["problem"] for record in ordered})
    if not ordered or len(ordered) % problems:
        raise InputError(f"{len(ordered)} samples of {problems} problems: some are missing; write --overwrite true")

    def grid(column: str) -> np.ndarray:
        return np.array([record[column] for record in ordered]).reshape(problems, -1)

    answers = [record["answer"] for record in ordered]
    samples = len(ordered) // problems
    return SampleTable(
        grid("correct"),
        [answers[start : start + samples] for start in range(0, len(answers), samples)] if has_answers else None,
        grid("tokens"),
        grid("truncated"),
    )


class Store:
    """The samples of one evaluation, in a folder: a file a batch while it runs, one file at the end."""

    def __init__(self, folder: Path) -> None:
        self._parts, self._whole = folder / "parts", folder / SAMPLES_FILE

    @property
    def is_complete(self) -> bool:
        return self._whole.is_file()

    def missing(self, wanted: Sequence[SampleBatch]) -> list[SampleBatch]:
        """The batches that are not stored yet."""
        return [] if self.is_complete else [batch for batch in wanted if not self._part(batch).is_file()]

    def keep(self, batch: SampleBatch, records: Sequence[Record]) -> None:
        """Store a batch: all of it, or nothing if the process dies on the way."""
        self._parts.mkdir(parents=True, exist_ok=True)
        _write(self._part(batch), records)

    def close(self, wanted: Sequence[SampleBatch]) -> None:
        """Join the stored batches into one file."""
        if not self.is_complete:
            records = [record for batch in wanted for record in read_samples(self._part(batch))]
            _write(self._whole, sorted(records, key=lambda record: (record["problem"], record["sample"])))
        for part in self._parts.glob("*.parquet"):
            part.unlink()
        if self._parts.is_dir():
            self._parts.rmdir()

    def records(self) -> list[Record]:
        return read_samples(self._whole)

    def _part(self, batch: SampleBatch) -> Path:
        return self._parts / f"{batch.number:05d}.parquet"


def read_samples(path: Path) -> list[Record]:
    """The samples of a parquet file. Raises: InputError."""
    try:
        return pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not a table of samples ({reason:.120}); write --overwrite true") from error


def _write(path: Path, records: Sequence[Record]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(list(records), schema=SCHEMA), unfinished)
    os.replace(unfinished, path)
