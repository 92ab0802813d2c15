"""A finished cell: one small JSON file that is whole, right and comparable, or is not used.

recipe, data, policy, device, versions   what it was run with, which has to agree over a grid
settings   the variant's own, over the recipe's
curves     logged metrics over steps, thinned; the reward whole
held_out   by evaluation set and step: how many of each problem's samples were right, one digit a problem
checksum   of all the rest
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import rlcredit
from rlcredit.analysis.run_folder import ACCURACY_FILE, Curve, Run, read_run
from rlcredit.benchmark.grid import OF_A_CELL, Cell
from rlcredit.errors import InputError
from rlcredit.files import remove_whole, write_whole
from rlcredit.recipes import find_recipe, peek
from rlcredit.recipes.yaml_file import load_yaml
from rlcredit.tasks import TaskData
from rlcredit.trainers import log
from rlcredit.trainers.plan import batches
from rlcredit.trainers.prepare import Checked

FORMAT = 1
STAMP = "benchmark.json"
POINTS = 40  # of a thinned curve
DIGITS = 5
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")
PLUMBING = {*OF_A_CELL, "run_name", "report_to", "save_steps", "save_total_limit", "save_strategy"}
"""Keys that do not change what is learned."""
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
    "value/loss",
    "value/explained_variance",
    "step_time",
    "bad_steps",
)


class Unfinished(Exception):
    """A run's folder that is no finished cell; the message says what is missing."""


class Expected(NamedTuple):
    """What the run of a variant has to show, and what its results are made with.

    Attributes:
        identity: recipe, data, policy, device and versions: what has to agree over a grid.
        settings: of the variant, as the run's dataclasses have them.
        steps, completions_a_rollout, steps_a_rollout: the budget.
        evaluated: the steps at which held-out sets are measured.
        samples: completions a problem, at most 9.
        second_temperature: at which the main set is answered too, or None.
    """

    identity: dict[str, Any]
    settings: dict[str, Any]
    steps: int
    completions_a_rollout: int
    steps_a_rollout: int
    evaluated: list[int]
    samples: int
    second_temperature: float | None = None


# ---- what a cell is run with --------------------------------------------------------------------------------------


def identify(base: Checked, recipe: Sequence[str]) -> dict[str, Any]:
    """What all cells of a grid have to share: of the recipe without any variant, and the words that name it."""
    return {
        "recipe": _values(base, sorted(set(_written(recipe)) - PLUMBING)),
        "data": _digest_of_data(base.task),
        "policy": _digest(Path(base.path)),
        "device": _device(),
        "versions": versions(),
    }


def expect(checked: Checked, settings: Mapping[str, Any], identity: Mapping[str, Any], base: Checked) -> Expected:
    """What a checked run of a variant has to show; `base` is the recipe without the variant.

    Raises: InputError for recipes whose budget or evaluation does not fit a benchmark, or differs from the base's.
    """
    config, run = checked.config, checked.run
    if config.max_steps <= 0:
        raise InputError("max_steps: is missing, and cells need matched budgets; write a number of steps")
    if checked.held_out is None:
        raise InputError("held_out: 0, or a task without a checker: there is nothing to compare; write 512, say")
    if run.eval_samples > 9:
        raise InputError(f"eval_samples: {run.eval_samples} are too many for a cell's file; write 9 or fewer")
    if run.eval_temperature != 0:
        raise InputError(
            f"eval_temperature: {run.eval_temperature}: cells are measured greedily; write 0, and "
            f"eval_second_temperature: {run.eval_temperature}"
        )
    if config.logging_steps != 1:
        raise InputError(f"logging_steps: {config.logging_steps}: a cell needs every step; write 1")
    if config.eval_strategy == "steps" and not float(config.eval_steps).is_integer():
        raise InputError(f"eval_steps: {config.eval_steps} is a share; write a number of steps")
    if said := differences(_budget(checked), _budget(base)):
        raise InputError(f"{said[0]}: budgets, data and evaluation are the same for all cells; leave it out")
    made = batches(checked)
    return Expected(
        identity=dict(identity),
        settings=_values(checked, settings),
        steps=config.max_steps,
        completions_a_rollout=made.completions,
        steps_a_rollout=made.steps_a_rollout,
        evaluated=_evaluated(checked),
        samples=run.eval_samples,
        second_temperature=run.eval_second_temperature,
    )


def _budget(checked: Checked) -> dict[str, Any]:
    config, run, made = checked.config, checked.run, batches(checked)
    return {
        "max_steps": config.max_steps,
        "completions a step": made.completions / made.steps_a_rollout,
        "max_completion_length": config.max_completion_length,
        "evaluations": _evaluated(checked),
        **{key: getattr(run, key) for key in ("task", "task_options", "held_out", "eval_samples")},
        "eval_second_temperature": run.eval_second_temperature,
    }


def _evaluated(checked: Checked) -> list[int]:
    """The steps at which held-out sets are measured."""
    config = checked.config
    every = int(config.eval_steps or 0) if config.eval_strategy == "steps" else 0
    return [0, *(range(every, config.max_steps, every) if every else ()), config.max_steps]


def versions() -> dict[str, str]:
    """The packages that decide what a run computes."""
    own = {"python": platform.python_version(), "rlcredit": rlcredit.__version__}
    return {**own, **{name: version(name) for name in PACKAGES}}


def code_digest() -> str:
    """Of rlcredit's own code below the benchmark: cells of different code are compared with a note."""
    root = Path(rlcredit.__file__).parent
    files = sorted(
        path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in ("benchmark", "cli.py")
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _written(words: Sequence[str]) -> list[str]:
    """The keys that a recipe and the flags over it set."""
    flags = [word[2:].partition("=")[0].replace("-", "_").partition(".")[0] for word in words if word[:2] == "--"]
    config = peek(words, "config")
    return [*(load_yaml(find_recipe(config)) if config else {}), *(flag for flag in flags if flag != "config")]


def _values(checked: Checked, keys: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The values of these keys in the run's dataclasses, as JSON."""
    known = {**vars(checked.config), **vars(checked.model), **vars(checked.run)}
    return json.loads(json.dumps({key: known[key] for key in keys}, default=str))


def _digest_of_data(task: TaskData) -> str:
    """Of every row to train on and every one to be measured on."""
    found = hashlib.sha256()
    for rows in (task.train, *task.tests.values()):
        for row in rows or ():
            found.update(json.dumps(row, sort_keys=True, default=str).encode())
    return found.hexdigest()[:16]


def _digest(folder: Path) -> str | None:
    """Of a policy in a folder; None for one that is fetched by its id."""
    if not folder.is_dir():
        return None
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            found.update(path.name.encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def _device() -> str:
    if not torch.accelerator.is_available():
        return f"cpu {platform.machine()}"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())


# ---- from a run's folder to a cell --------------------------------------------------------------------------------


def collect(folder: Path, cell: Cell, expected: Expected, **told: str) -> dict[str, Any]:
    """The cell that a run's folder holds, with what else is told of it. Raises: Unfinished if it is not at its end."""
    try:
        run = read_run(folder)
        lines = log.read(folder / log.HELD_OUT_FILE)
    except (InputError, ValueError) as error:
        raise Unfinished(" ".join(str(error).split())) from error
    trained = run.curves.get("loss")
    steps = trained.step_T.astype(int).tolist() if trained is not None else []
    if steps != list(range(1, expected.steps + 1)):
        missing = sorted({*range(1, expected.steps + 1)} - {*steps})
        raise Unfinished(f"{folder}: its log lacks {len(missing)} of {expected.steps} steps, {missing[:1]} first")
    return {
        "format": FORMAT,
        "name": cell.variant.name,
        "seed": cell.seed,
        **expected.identity,
        "settings": expected.settings,
        **told,
        "steps": expected.steps,
        "completions_a_rollout": expected.completions_a_rollout,
        "steps_a_rollout": expected.steps_a_rollout,
        "seconds_a_step": _seconds_a_step(run, expected.steps_a_rollout),
        "credit_share": _credit_share(run),
        "last_entropy": _last(run, "entropy"),
        "samples": expected.samples,
        "second_temperature": expected.second_temperature,
        "held_out": _held_out(run, lines, expected),
        "curves": _curves(run),
    }


def _held_out(run: Run, lines: Sequence[Mapping[str, Any]], expected: Expected) -> dict[str, dict[str, str]]:
    """By set and step, the digits of the problems."""
    try:
        measured = {int(line["step"]): line["right"] for line in lines}
    except (KeyError, TypeError, ValueError) as error:
        raise Unfinished(f"{run.folder / log.HELD_OUT_FILE}: is damaged") from error
    measured[0] = run.accuracies.get("before")
    measured[expected.steps] = run.accuracies.get("after")
    if missing := [step for step in expected.evaluated if not measured.get(step)]:
        raise Unfinished(f"{run.folder}: the evaluation at step {missing[0]} is missing ({ACCURACY_FILE})")
    sizes = {name: len(values) for name, values in measured[0].items()}
    found: dict[str, dict[str, str]] = {name: {} for name in sizes}
    for step in expected.evaluated:
        if {name: len(values) for name, values in measured[step].items()} != sizes:
            raise Unfinished(f"{run.folder}: the evaluation at step {step} is of other problems than the first")
        for name, values in measured[step].items():
            found[name][str(step)] = "".join(str(round(value * expected.samples)) for value in values)
    return found


def _seconds_a_step(run: Run, cycle: int) -> float | None:
    """Median over rollouts of the mean time of their steps: other work on the machine moves it least."""
    curve = run.curves.get("step_time")
    if curve is None:
        return None
    whole = len(curve.value_T) // cycle * cycle
    times = curve.value_T[:whole].reshape(-1, cycle).mean(1) if whole else curve.value_T
    return _short(float(np.median(times)))


def _credit_share(run: Run) -> float | None:
    """Of all the seconds of the run's steps, those that credit took; None where it reads nothing."""
    credit, steps = run.curves.get("credit/seconds"), run.curves.get("step_time")
    if credit is None or steps is None:
        return None
    return _short(float(credit.value_T.sum() / steps.value_T.sum()))


def _last(run: Run, name: str) -> float | None:
    """Mean of a curve over the last tenth of the run."""
    curve = run.curves.get(name)
    return None if curve is None else _short(float(np.mean(curve.value_T[-math.ceil(len(curve.value_T) / 10) :])))


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
        "value": [_short(float(np.mean(curve.value_T[part]))) for part in cut],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


# ---- the file -----------------------------------------------------------------------------------------------------


def write_cell(path: Path, cell: Mapping[str, Any]) -> None:
    write_whole(path, _text({**cell, "checksum": _checksum(cell)}))


def read_cell(path: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell in a file; None if there is none.

    Raises: Unfinished if the file is damaged; InputError if it is whole, and no cell of this name and format.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        checksum = found.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Unfinished(f"{path}: is no whole cell") from error
    if checksum != _checksum(found):
        raise Unfinished(f"{path}: its checksum is wrong")
    for key, wanted in (("format", FORMAT), ("name", cell.variant.name), ("seed", cell.seed)):
        if found.get(key) != wanted:
            raise InputError(f"{path}: its {key} is {found.get(key)!r} instead of {wanted!r}; put it elsewhere")
    return found


def _checksum(cell: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16]


def _text(cell: Mapping[str, Any]) -> str:
    """JSON with one line a key and one a curve."""
    lines = []
    for key, value in cell.items():
        if key in ("curves", "held_out"):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(part)}" for name, part in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, sort_keys=isinstance(value, dict))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What a cell was run with that is not as expected: `max_steps 60 instead of 80`."""
    said = []
    for part, wanted in expected.items():
        given = found.get(part)
        if isinstance(wanted, dict) and isinstance(given, dict):
            for key in sorted({*wanted, *given}):
                if given.get(key) != wanted.get(key):
                    said.append(f"{key} {given.get(key, 'nothing')!r} instead of {wanted.get(key, 'nothing')!r}")
        elif given != wanted:
            said.append(f"{part} {given!r} instead of {wanted!r}")
    return said


def refuse_different(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise an InputError that names the differences, if a cell was run with anything else."""
    if said := differences(found, expected):
        more = f" and {len(said) - 4} more" if len(said) > 4 else ""
        raise InputError(
            f"{path}: was run with {', '.join(said[:4])}{more}; cells of one grid must agree: delete it to run it "
            "anew, or write another --output"
        )


# ---- half a cell --------------------------------------------------------------------------------------------------


def prepare_folder(folder: Path, cell: Cell, expected: Expected, code: str) -> bool:
    """Make a run's folder ready to start or to go on; what was begun with other settings or code is deleted.

    Returns: whether something is there to go on from.

    Raises: InputError for a folder that no benchmark has made.
    """
    refuse_foreign(folder)
    stamp = {"cell": cell.name, **expected.identity, "settings": expected.settings, "steps": expected.steps}
    text = json.dumps({**stamp, "code": code}, sort_keys=True, indent=1) + "\n"
    begun = folder.is_dir() and any(folder.iterdir())
    if begun and (folder / STAMP).read_bytes() != text.encode():
        remove_whole(folder)
        begun = False
    if not begun:
        write_whole(folder / STAMP, text)
    return begun


def refuse_foreign(folder: Path) -> None:
    """Raise an InputError for a folder with anything in it that no benchmark has put there."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STAMP).is_file():
        raise InputError(f"runs: {folder} is of no benchmark; write another --runs, or move it away")
