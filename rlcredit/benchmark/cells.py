"""A finished cell: one small JSON file, used only where it is whole, undamaged and comparable.

recipe, data, policy, device, versions   what it was run with, which has to agree over a grid
settings   the variant's own, over the recipe's
sources    digests of the strategy's and the rewards' modules that are not rlcredit's
curves     logged metrics over steps, thinned; the reward whole
held_out   by evaluation set and step: how many samples of each problem were right, one digit a problem
checksum   of all the rest
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcredit.benchmark.budget import DRAWN_BESIDE
from rlcredit.benchmark.expected import Expected, differences
from rlcredit.benchmark.grid import Cell
from rlcredit.errors import InputError
from rlcredit.files import remove_whole, write_whole
from rlcredit.runs.files import ACCURACY_FILE, Shares, read_held_out
from rlcredit.runs.folder import Run, read_run
from rlcredit.stats.curves import Curve, last_tenth
from rlcredit.stats.estimates import rounded

FORMAT = 1
STAMP = "benchmark.json"
POINTS = 40  # of a thinned curve
DIGITS = 5
KEPT = (
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "loss",
    "grad_norm",
    "kl",
    "entropy",
    "clip_ratio/region_mean",
    "completions/mean_length",
    "completions/clipped_ratio",
    "credit/weight_mean",
    "credit/amplified_share",
    "credit/dominated_share",
    "credit/time_share",
    "credit/rows_skipped",
    "credit/continuations",
    "credit/continuation_tokens",
    "dynamic_sampling/replaced_share",
    "dynamic_sampling/reward_drawn",
    "dynamic_sampling/tokens",
    "value/loss",
    "value/explained_variance",
    "step_time",
    "bad_steps",
)


class Unfinished(Exception):
    """The folder of a run is not a finished cell; the message says what is missing."""


# ---- from a run's folder to a cell --------------------------------------------------------------------------------


def collect(folder: Path, cell: Cell, expected: Expected, **told: str) -> dict[str, Any]:
    """The cell that a run's folder holds, with `told` added. Raises: Unfinished if the run is not complete."""
    try:
        run = read_run(folder)
        measured: dict[int, Shares] = read_held_out(folder)
    except InputError as error:
        raise Unfinished(str(error)) from error
    trained = run.curves.get("loss")
    steps = trained.step_T.astype(int).tolist() if trained is not None else []
    if steps != list(range(1, expected.steps + 1)):
        raise Unfinished(f"{folder}: its log has {len(steps)} steps, not each from 1 to {expected.steps} once")
    return {
        "format": FORMAT,
        "name": cell.variant.name,
        "seed": cell.seed,
        **expected.run_with(),
        **told,
        "completions_a_rollout": expected.completions_a_rollout,
        "steps_a_rollout": expected.steps_a_rollout,
        "generated_tokens": _generated(run, expected),
        "seconds_a_step": _seconds_a_step(run, expected.steps_a_rollout),
        "credit_share": _credit_share(run),
        "last_entropy": rounded(last_tenth(run.curves["entropy"].value_T), DIGITS)
        if "entropy" in run.curves
        else None,
        "samples": expected.samples,
        "second_temperature": expected.second_temperature,
        "held_out": _held_out(run, measured, expected),
        "curves": _curves(run),
    }


def _held_out(run: Run, during: Mapping[int, Shares], expected: Expected) -> dict[str, dict[str, str]]:
    """By set and step, the digits of the problems."""
    before, after = (run.accuracies.get(part, {}) for part in ("before", "after"))
    measured = {**during, 0: before, expected.steps: after}
    if missing := [step for step in expected.evaluated if not measured.get(step)]:
        raise Unfinished(f"{run.folder}: the evaluation at step {missing[0]} is missing ({ACCURACY_FILE})")
    sizes = {name: len(values) for name, values in measured[0].items()}
    digits: dict[str, dict[str, str]] = {name: {} for name in sizes}
    for step in expected.evaluated:
        if {name: len(values) for name, values in measured[step].items()} != sizes:
            raise Unfinished(f"{run.folder}: the evaluation at step {step} is of other problems than the first")
        for name, values in measured[step].items():
            digits[name][str(step)] = "".join(str(round(value * expected.samples)) for value in values)
    return digits


def _generated(run: Run, expected: Expected) -> int | None:
    """Tokens that the training generated: those of completions, and of what is drawn beside them."""
    lengths = run.curves.get("completions/mean_length")
    if lengths is None:
        return None
    more = sum(float(run.curves[name].value_T.sum()) for name in DRAWN_BESIDE if name in run.curves)
    return round(float(lengths.value_T.sum()) * expected.completions_a_rollout + more)


def _seconds_a_step(run: Run, cycle: int) -> float | None:
    """Median over rollouts of the mean time of their steps: other work on the machine moves it least."""
    curve = run.curves.get("step_time")
    if curve is None:
        return None
    whole = len(curve.value_T) // cycle * cycle
    times = curve.value_T[:whole].reshape(-1, cycle).mean(1) if whole else curve.value_T
    return rounded(float(np.median(times)), DIGITS)


def _credit_share(run: Run) -> float | None:
    """The share of credit in the seconds of all steps; None where credit reads nothing."""
    credit, steps = run.curves.get("credit/seconds"), run.curves.get("step_time")
    if credit is None or steps is None:
        return None
    return rounded(float(credit.value_T.sum() / steps.value_T.sum()), DIGITS)


def _curves(run: Run) -> dict[str, dict[str, list[float]]]:
    lengths = [key for key in run.curves if key.startswith("eval/") and key.endswith(("/length", "/truncated"))]
    kept = [key for key in (*KEPT, *lengths) if key in run.curves]
    return {key: _points(run.curves[key], thin=key != "reward") for key in kept}


def _points(curve: Curve, *, thin: bool) -> dict[str, list[float]]:
    """At most POINTS points of a curve: means of equally many steps, at the last of them; the last may have fewer."""
    count = len(curve.step_T)
    stride = math.ceil(count / POINTS) if thin else 1
    cut = [np.arange(start, min(start + stride, count)) for start in range(0, count, stride)]
    return {
        "step": [int(curve.step_T[part[-1]]) for part in cut],
        "value": [rounded(float(np.mean(curve.value_T[part])), DIGITS) for part in cut],
    }


# ---- the file -----------------------------------------------------------------------------------------------------


def write_cell(path: Path, cell: Mapping[str, Any]) -> None:
    write_whole(path, _text({**cell, "checksum": _checksum(cell)}))


def read_cell(path: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell in a file; None if there is none.

    Raises: Unfinished if the file is damaged; InputError if it is a whole cell of another name, seed or format.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Unfinished(f"{path}: is not a whole cell") from error
    if checksum != _checksum(content):
        raise Unfinished(f"{path}: its checksum is wrong")
    for key, wanted in (("format", FORMAT), ("name", cell.variant.name), ("seed", cell.seed)):
        if content.get(key) != wanted:
            raise InputError(f"{path}: its {key} is {content.get(key)!r} instead of {wanted!r}; put it elsewhere")
    return content


def _checksum(cell: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16]


def _text(cell: Mapping[str, Any]) -> str:
    """JSON with one line for each key and for each curve."""
    lines = []
    for key, value in cell.items():
        if key in ("curves", "held_out"):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(part)}" for name, part in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, sort_keys=isinstance(value, dict))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def refuse_different(path: Path, content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise an InputError that names the differences, if a cell was run with anything else.

    Cells of earlier versions do not tell their sources, and are taken.
    """
    known = {key: value for key, value in expected.items() if key != "sources" or key in content}
    if said := differences(content, known):
        more = f" and {len(said) - 4} more" if len(said) > 4 else ""
        raise InputError(
            f"{path}: was run with {', '.join(said[:4])}{more}; cells of one grid must agree: delete it to run it "
            "anew, or write another --output"
        )


# ---- half a cell --------------------------------------------------------------------------------------------------


def prepare_folder(folder: Path, cell: Cell, expected: Expected, code: str) -> bool:
    """Make a run's folder ready to start or to go on; a run of other settings or code is deleted.

    Returns: whether there is a run to go on with.

    Raises: InputError for a folder that no benchmark has made.
    """
    refuse_foreign(folder)
    stamp = {"cell": cell.name, **expected.run_with()}
    text = json.dumps({**stamp, "code": code}, sort_keys=True, indent=1) + "\n"
    begun = folder.is_dir() and any(folder.iterdir())
    if begun and (folder / STAMP).read_bytes() != text.encode():
        remove_whole(folder)
        begun = False
    if not begun:
        write_whole(folder / STAMP, text)
    return begun


def refuse_foreign(folder: Path) -> None:
    """Raise an InputError for a folder that is not empty and that no benchmark has made."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STAMP).is_file():
        raise InputError(f"runs: {folder} was not made by a benchmark; write another --runs, or move it away")
