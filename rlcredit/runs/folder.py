"""A run's output folder, read: log.jsonl, accuracy.json, run.json and completions/; nothing is unpickled.

log.jsonl       every metric as a curve over steps; needed, all the rest may be missing
accuracy.json   held-out accuracies before and after, problem by problem
run.json        what was run: recipe, algorithm, credit_strategy, seed, model, task, eval_samples, command; without
                it a folder's name speaks: uniform-seed1, uniform_s2 and uniform/seed_3 are seeds of "uniform"
completions/    completions_00001.parquet, ...: three of them are read, at the start, middle and end
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

LOG_FILE, ACCURACY_FILE, FACTS_FILE = "log.jsonl", "accuracy.json", "run.json"  # as rlcredit.trainers writes them
FACTS = ("algorithm", "credit_strategy", "model", "task", "seed", "recipe", "command")
MOMENTS = ("start", "middle", "end")
SAMPLES = 4  # a moment
LONGEST = 20_000  # characters of a text that are kept
SEED = re.compile(r"(?:(?P<stem>.*?)[-_. ]+)?(?:seed|s)[-_=. ]?(?P<seed>\d+)", re.IGNORECASE)
ODD = "its lines are JSON objects with a step, and only the last may be cut short"


class Curve(NamedTuple):
    """One metric over the steps at which it was logged, in order: [T] each."""

    step_T: np.ndarray
    value_T: np.ndarray


class Sample(NamedTuple):
    """One row of a completions table."""

    moment: str
    """One of MOMENTS."""
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
    accuracies: dict[str, dict[str, list[float]]]
    """"before" and "after", where they were measured: by evaluation set, each problem's share of right samples."""
    eval_samples: int | None
    """Completions a problem in those evaluations; None if run.json does not say."""
    samples: list[Sample]
    notes: list[str]
    """What a reader has to know of the files."""

    @property
    def last_step(self) -> int:
        return max(int(curve.step_T[-1]) for curve in self.curves.values())

    @property
    def evaluation_sets(self) -> list[str]:
        logged = [key.split("/")[1] for key in self.curves if re.fullmatch(r"eval/[^/]+/pass@1", key)]
        return list(dict.fromkeys([*logged, *(name for part in self.accuracies.values() for name in part)]))

    def samples_behind(self, values_P: Sequence[float]) -> int:
        """How many completions stand behind each value, at least: what run.json says, or the values' denominators."""
        return self.eval_samples or math.lcm(
            *{Fraction(value).limit_denominator(64).denominator for value in values_P}
        )


def read_run(folder: Path) -> Run:
    """The run in this folder. Raises: InputError of one line if there is none, or a file of it is broken."""
    if not (folder / LOG_FILE).is_file():
        raise InputError(f"{folder}: is no run's output folder, it has no {LOG_FILE}{_advice(folder)}")
    curves, notes = _read_log(folder / LOG_FILE)
    facts = _read_object(folder / FACTS_FILE)
    name, kin, seed = _named(folder.resolve())
    known = {key: str(facts[key]) for key in FACTS if facts.get(key) is not None}
    if seed is not None:
        known.setdefault("seed", seed)
    last = max(int(curve.step_T[-1]) for curve in curves.values())
    return Run(
        folder=folder,
        name=name,
        kin=kin,
        facts=known,
        curves=curves,
        accuracies=_read_accuracies(folder / ACCURACY_FILE),
        eval_samples=_eval_samples(facts, folder / FACTS_FILE),
        samples=_read_samples(folder / "completions", last),
        notes=notes,
    )


def _advice(folder: Path) -> str:
    inside = sorted(path.parent for path in folder.glob(f"*/{LOG_FILE}")) if folder.is_dir() else []
    return f"; its subfolders have: write {folder}/*" if inside else ""


def _named(folder: Path) -> tuple[str, Path, str | None]:
    """(name, kin, seed) of a folder; one that is called by its seed alone is named after its parent too."""
    found = SEED.fullmatch(folder.name)
    if found is None:
        return folder.name, folder, None
    if found["stem"]:
        return folder.name, folder.with_name(found["stem"]), found["seed"]
    return f"{folder.parent.name}/{folder.name}", folder.parent, found["seed"]


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs, those of one name called by their whole folders."""
    names = [run.name for run in runs]
    return [run._replace(name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


# ---- log.jsonl ----------------------------------------------------------------------------------------------------


def _read_log(path: Path) -> tuple[dict[str, Curve], list[str]]:
    lines, torn = _lines(path)
    notes = ["The log's last line is cut short, as by a crash or in mid-write, and is left out."] if torn else []
    kept: dict[int, dict[str, float]] = {}
    kinds: dict[int, set[bool]] = {}  # a step has a line of training, and one of its evaluation
    repeated, last = 0, -1
    for line in lines:
        step, values = line["step"], {key: value for key, value in line.items() if key != "step" and _is_number(value)}
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
    curves = {key: _curve(kept, key) for key in sorted({key for entry in kept.values() for key in entry})}
    if not curves:
        raise InputError(f"{path}: is empty; the run has not logged a step yet")
    return curves, notes


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The log's lines, and whether its last one was cut short."""
    texts = _text(path).split("\n")
    while texts and not texts[-1].strip("\0 \r"):  # what a power failure may leave
        texts.pop()
    found: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == len(texts):
                return found, True
            raise InputError(f"{path}: line {number} is no JSON; {ODD}") from error
        if not isinstance(line, dict) or type(line.get("step")) is not int or not _is_number(line["step"]):
            raise InputError(f"{path}: line {number} is no log of a step; {ODD}")
        found.append(line)
    return found, False


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)  # more is no number of a run


def _curve(kept: Mapping[int, Mapping[str, float]], key: str) -> Curve:
    steps = sorted(step for step, entry in kept.items() if key in entry)
    return Curve(np.array(steps), np.array([kept[step][key] for step in steps], dtype=float))


# ---- the other files ----------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no JSON object; delete it to report without it")
    return found


def _read_accuracies(path: Path) -> dict[str, dict[str, list[float]]]:
    found = _read_object(path)
    try:
        return {
            part: {name: [_share(value) for value in values] for name, values in found[part].items() if values}
            for part in ("before", "after")
            if part in found
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: before and after hold a list of values in [0, 1] by evaluation set; delete it to report "
            "without it"
        ) from error


def _share(value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError
    return float(value)


def _eval_samples(facts: Mapping[str, Any], path: Path) -> int | None:
    given = facts.get("eval_samples")
    if given is not None and (type(given) is not int or given < 1):
        raise InputError(f"{path}: eval_samples: {given!r:.40} is no number of completions; write 1 or more")
    return given


def _read_samples(folder: Path, last: int) -> list[Sample]:
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
    return [sample for step in sorted(chosen) for sample in _rows(numbered[step], step, chosen[step])]


def _rows(path: Path, step: int, moment: str) -> list[Sample]:
    try:
        table = pq.read_table(path)
        places = sorted({round(place) for place in np.linspace(0, table.num_rows - 1, SAMPLES)})
        rows = table.take(places).to_pylist() if table.num_rows else []
        return [Sample(moment, step, _words(row["prompt"]), _words(row["completion"]), _numbers(row)) for row in rows]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is no table of completions ({said}); delete it to report without it") from error


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [{len(text) - LONGEST} more characters]"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key != "step" and _is_number(value)}
