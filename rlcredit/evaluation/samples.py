"""Samples of an evaluation set: cut into batches, drawn, checked, kept.

The batches are cut before anything is drawn, from the problems alone, and each is drawn and stored as a whole. So it
does not matter how many processes share them, nor how often a run is killed and started again: the samples are the
same, and none that is stored is drawn twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedModel

from rlcredit.errors import InputError
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling, complete
from rlcredit.evaluation.store import Record, Store
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


def sample_store(folder: Path) -> Store:
    """The samples of one evaluation."""
    return Store(folder, SAMPLES_FILE, SCHEMA, ("problem", "sample"))
