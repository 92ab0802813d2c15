"""A run's output folder, read into one `Run`; nothing is unpickled.

Only log.jsonl is needed. Without run.json the name of the folder tells the seed: uniform-seed1, uniform_s2 and
uniform/seed_3 are seeds of "uniform". Three of the tables of completions are read: at the start, middle and end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from rlcredit.errors import InputError
from rlcredit.runs.files import (
    COMPLETIONS_FOLDER,
    LOG_FILE,
    Shares,
    is_number,
    read_accuracies,
    read_facts,
    read_lines,
    read_settings,
)
from rlcredit.stats.curves import Curve, curve_of
from rlcredit.stats.estimates import Estimate, mean_with_interval

ROWS = 4  # of a table of completions
LONGEST = 20_000  # characters of a text that are kept
SEED = re.compile(r"(?:(?P<stem>.*?)[-_. ]+)?(?:seed|s)[-_=. ]?(?P<seed>\d+)", re.IGNORECASE)


class LoggedCompletion(NamedTuple):
    """One row of a completions table."""

    moment: str
    """start, middle or end."""
    step: int
    prompt: str
    completion: str
    numbers: dict[str, float]
    """Its rewards, by function, its advantage, and what else is a number there."""


class Run(NamedTuple):
    """What is known of one run."""

    folder: Path
    name: str
    kin: Path
    """The folder without its seed: runs of one kin are seeds of one thing, if no run.json says more."""
    facts: dict[str, str]
    """Of FACTS those that are known, in words."""
    curves: dict[str, Curve]
    """By metric, sorted: `reward`, `eval/<set>/pass@1`, ..."""
    accuracies: dict[str, Shares]
    """"before" and "after", where they were measured."""
    eval_samples: int | None
    """Completions a problem in those evaluations; None if run.json does not say."""
    completions: list[LoggedCompletion]
    notes: list[str]
    """What a reader has to know of the files."""
    settings: dict[str, Any]
    """The keys that the recipe and the flags set; none of a run of an earlier version."""

    @property
    def last_step(self) -> int:
        return max(int(curve.step_T[-1]) for curve in self.curves.values())

    @property
    def evaluation_sets(self) -> list[str]:
        logged = [key.split("/")[1] for key in self.curves if re.fullmatch(r"eval/[^/]+/pass@1", key)]
        return list(dict.fromkeys([*logged, *(name for shares in self.accuracies.values() for name in shares)]))

    def samples_behind(self, values_P: Sequence[float]) -> int:
        """How many completions stand behind each value, at least: what run.json says, or the values' denominators."""
        return self.eval_samples or math.lcm(
            *{Fraction(value).limit_denominator(64).denominator for value in values_P}
        )

    def accuracy(self, part: str, name: str) -> Estimate | None:
        """The accuracy "before" or "after" on an evaluation set, over problems; None if it was not measured."""
        values_P = self.accuracies.get(part, {}).get(name)
        return mean_with_interval(values_P, self.samples_behind(values_P)) if values_P else None

    def accuracies_by_step(self, name: str) -> dict[int, Estimate]:
        """Of each evaluation on a set: what was logged, and before and after the training."""
        keys = [f"eval/{name}/pass@1{bound}" for bound in ("", "_low", "_high")]
        value, low, high = (
            dict(zip(*map(np.ndarray.tolist, self.curves[key]), strict=True)) if key in self.curves else {}
            for key in keys
        )
        points = {step: Estimate(value[step], low.get(step, math.nan), high.get(step, math.nan)) for step in value}
        for part, step in (("before", 0), ("after", self.last_step)):
            if step not in points and (accuracy := self.accuracy(part, name)):
                points[step] = accuracy
        return dict(sorted(points.items()))


def read_run(folder: Path) -> Run:
    """The run in this folder. Raises: InputError of one line if there is none, or a file of it is broken."""
    if not (folder / LOG_FILE).is_file():
        raise InputError(f"{folder}: is not a run's output folder: it has no {LOG_FILE}{_advice(folder)}")
    curves, notes = _read_curves(folder / LOG_FILE)
    facts, eval_samples = read_facts(folder)
    name, kin, seed = _named(folder.resolve())
    if seed is not None:
        facts.setdefault("seed", seed)
    last = max(int(curve.step_T[-1]) for curve in curves.values())
    completions = _read_completions(folder / COMPLETIONS_FOLDER, last)
    accuracies, settings = read_accuracies(folder), read_settings(folder)
    return Run(folder, name, kin, facts, curves, accuracies, eval_samples, completions, notes, settings)


def _advice(folder: Path) -> str:
    inside = sorted(path.parent for path in folder.glob(f"*/{LOG_FILE}")) if folder.is_dir() else []
    return f"; its subfolders have: write {folder}/*" if inside else ""


def _named(folder: Path) -> tuple[str, Path, str | None]:
    """(name, kin, seed) of a folder; a folder called by its seed alone is named after its parent too."""
    parts = SEED.fullmatch(folder.name)
    if parts is None:
        return folder.name, folder, None
    if parts["stem"]:
        return folder.name, folder.with_name(parts["stem"]), parts["seed"]
    return f"{folder.parent.name}/{folder.name}", folder.parent, parts["seed"]


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs, where runs of the same name are called by their whole folders."""
    names = [run.name for run in runs]
    return [run._replace(name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def _read_curves(path: Path) -> tuple[dict[str, Curve], list[str]]:
    """The log by metric, and notes on the log. Raises: InputError where the log holds no number."""
    lines, torn = read_lines(path)
    notes = ["The log's last line is cut short, as by a crash or in mid-write, and is left out."] if torn else []
    kept: dict[int, dict[str, float]] = {}
    kinds: dict[int, set[bool]] = {}  # a step has a line of training, and one of its evaluation
    repeated, last = 0, -1
    for line in lines:
        step, values = line["step"], {key: value for key, value in line.items() if key != "step" and is_number(value)}
        if step < last:
            # the run went back to this step and on from there: what it had done from here on is void
            void = [later for later in kept if later >= step]
            repeated += len(void)
            for later in void:
                del kept[later], kinds[later]
        kind = any(key.startswith("eval/") for key in values)
        repeated += kind in kinds.setdefault(step, set())
        kinds[step].add(kind)
        kept.setdefault(step, {}).update(values)
        last = step
    if repeated:
        steps = "step was" if repeated == 1 else "steps were"
        notes.append(f"{repeated} logged {steps} repeated, as by a resumed run; the last ones count.")
    keys = sorted({key for values in kept.values() for key in values})
    if not keys:
        raise InputError(f"{path}: is empty; the run has not logged a step yet")
    return {
        key: curve_of({step: values[key] for step, values in kept.items() if key in values}) for key in keys
    }, notes


def _read_completions(folder: Path, last: int) -> list[LoggedCompletion]:
    """A few rows of the tables at the start, middle and end: evenly spaced in each, whatever they hold."""
    numbered = {int(path.stem.split("_")[-1]): path for path in folder.glob("completions_*.parquet")
                if path.stem.split("_")[-1].isdecimal()}  # fmt: skip
    steps = sorted(step for step in numbered if step <= last) or sorted(numbered)
    if not steps:
        return []
    middle = min(steps, key=lambda step: abs(step - (steps[0] + steps[-1]) / 2))
    chosen = {steps[0]: "start", steps[-1]: "end"}
    if middle not in chosen:
        chosen[middle] = "middle"
    return [row for step in sorted(chosen) for row in _rows(numbered[step], step, chosen[step])]


def _rows(path: Path, step: int, moment: str) -> list[LoggedCompletion]:
    try:
        table = pq.read_table(path)
        places = sorted({round(place) for place in np.linspace(0, table.num_rows - 1, ROWS)})
        rows = table.take(places).to_pylist() if table.num_rows else []
        return [
            LoggedCompletion(moment, step, _words(row["prompt"]), _words(row["completion"]), _numbers(row))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is not a table of completions ({said}); delete it to report without it") from error


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [{len(text) - LONGEST} more characters]"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key != "step" and is_number(value)}
