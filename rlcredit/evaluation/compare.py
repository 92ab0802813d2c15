"""`rlcredit compare A B`: two evaluations of the same problems, problem by problem."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcredit.errors import InputError
from rlcredit.evaluation.identity import differences, files_of, is_of_the_policy
from rlcredit.evaluation.of_run import EVALUATIONS, evaluations_of
from rlcredit.evaluation.samples import sample_store, table
from rlcredit.evaluation.store import SETTINGS_FILE
from rlcredit.runs.files import FACTS_FILE
from rlcredit.stats.paired import compare as paired

SHOWN = 20


class Evaluation(NamedTuple):
    """A finished evaluation: its settings, the problems' ids and questions, and the share of right samples of each."""

    settings: dict[str, Any]
    problems: list[tuple[str, str]]
    correct_P: np.ndarray
    samples: int


def compare(argv: Sequence[str]) -> None:
    """Run `rlcredit compare A B`. Raises: InputError."""
    folders = [word for word in argv if not word.startswith("-")]
    if len(folders) != 2 or len(argv) != 2:
        raise InputError("rlcredit compare takes the folders of two evaluations: rlcredit compare A B")
    folders = _evaluations(*folders)
    first, second = (_read(Path(folder)) for folder in folders)
    if first.problems != second.problems:
        raise InputError(
            f"{folders[0]} and {folders[1]} are evaluations of different problems; evaluate both on one set"
        )
    comparison = paired(first.correct_P, second.correct_P, first.samples, second.samples)
    for key, values in differences(first.settings, second.settings).items():
        if not is_of_the_policy(key):
            print(f"note: {key} differs: {values[0]!s:.60} and {values[1]!s:.60}")
    print(f"A  {first.correct_P.mean():.3f}  {folders[0]}")
    print(f"B  {second.correct_P.mean():.3f}  {folders[1]}")
    p = "p < 0.0001" if comparison.p_value < 1e-4 else f"p = {comparison.p_value:.4f}"
    print(f"B - A  {comparison.difference:+.3f}  {p}  ({comparison.problems} problems, paired)")
    often = "solved" if max(first.samples, second.samples) == 1 else "solved in most samples"
    for which, problems in (("B", comparison.gained), ("A", comparison.lost)):
        print(f"{often} by {which} alone: {len(problems)}")
        for name, question in (first.problems[problem] for problem in problems[:SHOWN]):
            print(f"  {name}  {' '.join(question.split())[:90]}")
        if len(problems) > SHOWN:
            print(f"  and {len(problems) - SHOWN} more")


def _evaluations(*folders: str) -> list[str]:
    """The folders; of two runs, those of their evaluations of one set. Raises: InputError if that is not one set."""
    if any(
        (Path(folder) / SETTINGS_FILE).is_file() or not (Path(folder) / FACTS_FILE).is_file() for folder in folders
    ):
        return list(folders)
    first, second = (evaluations_of(Path(folder)) for folder in folders)
    if len(shared := sorted(first.keys() & second.keys())) != 1:
        which = f"both have {', '.join(shared)}" if shared else "no set was evaluated in both"
        raise InputError(
            f"{folders[0]} and {folders[1]}: {which}; run rlcredit evaluate RUN on each, or write the folders of two "
            f"evaluations, RUN/{EVALUATIONS}/SET"
        )
    for run, found in zip(folders, (first, second), strict=True):
        _refuse_outdated(run, found[shared[0]])
    return [str(first[shared[0]]), str(second[shared[0]])]


def _refuse_outdated(run: str, evaluation: Path) -> None:
    """Raise an InputError where a run's policy is no longer the one that was evaluated."""
    settings = _read(evaluation).settings
    if any(settings.get(f"files.{name}", digest) != digest for name, digest in files_of(run).items()):
        raise InputError(
            f"{evaluation}: is of the policy before the run went on; run rlcredit evaluate {run} --overwrite true, "
            "with the same flags"
        )


def _read(folder: Path) -> Evaluation:
    """The evaluation in a folder. Raises: InputError if there is none, or it is not finished."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text())
        if not isinstance(settings, dict):
            raise ValueError(f"{SETTINGS_FILE} is not a JSON object")
        records = sample_store(folder).records()
        drawn = table(records)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder}: holds no finished evaluation; write the output folder of rlcredit evaluate "
            f"({' '.join(str(error).split())[:120]})"
        ) from error
    problems = {record["problem"]: (record["id"], record["question"]) for record in records}
    return Evaluation(
        settings,
        [problems[number] for number in sorted(problems)],
        drawn.correct_PS.mean(axis=1),
        drawn.correct_PS.shape[1],
    )


def describe() -> str:
    """What `rlcredit compare` takes, for --help."""
    return "\nrlcredit compare A B: the output folders of two evaluations of the same problems, or two runs.\n"
