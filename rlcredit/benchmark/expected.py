"""What a cell is run with and must contain: known before the run, and compared with finished cells."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import rlcredit
from rlcredit.benchmark.grid import OF_A_CELL
from rlcredit.config import find_recipe, peek
from rlcredit.config.yaml_file import load_yaml
from rlcredit.errors import InputError
from rlcredit.evaluation.identity import code_of, modules_of
from rlcredit.tasks import TaskData
from rlcredit.trainers.prepare import Checked

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "numpy")
PLUMBING = {*OF_A_CELL, "run_name", "report_to", "save_steps", "save_total_limit", "save_strategy"}
"""Keys that do not change what is learned."""


class Expected(NamedTuple):
    """What the finished run of a variant must contain, and what it is run with.

    Attributes:
        identity: recipe, data, policy, device and versions, which are the same for all cells of a grid.
        settings: of the variant, as the run's dataclasses have them.
        steps, completions_a_rollout, steps_a_rollout: the budget.
        evaluated: the steps at which held-out sets are measured.
        samples: completions a problem, at most 9.
        second_temperature: at which the main set is answered too, or None.
        sources: digests of the modules of a strategy or reward that is not rlcredit's, by `source of NAME`.
    """

    identity: dict[str, Any]
    settings: dict[str, Any]
    steps: int
    completions_a_rollout: int
    steps_a_rollout: int
    evaluated: list[int]
    samples: int
    second_temperature: float | None = None
    sources: Mapping[str, str] = MappingProxyType({})

    def run_with(self) -> dict[str, Any]:
        """What a cell tells that it was run with."""
        return {**self.identity, "settings": self.settings, "sources": dict(self.sources), "steps": self.steps}


def identify(base: Checked, recipe: Sequence[str]) -> dict[str, Any]:
    """What all cells of a grid share, from the checked recipe without any variant and the words that name it."""
    return {
        "recipe": _values(base, sorted(set(_written(recipe)) - PLUMBING)),
        "data": _digest_of_data(base.task),
        "policy": _policy(base),
        "device": _device(),
        "versions": versions(),
    }


def expect(checked: Checked, settings: Mapping[str, Any], identity: Mapping[str, Any], base: Checked) -> Expected:
    """What the run of a checked variant must contain; `base` is the recipe without the variant.

    Raises: InputError for recipes whose budget or evaluation does not fit a benchmark, or differs from the base's.
    """
    config, run = checked.config, checked.run
    if config.max_steps <= 0:
        raise InputError("max_steps: is missing, and cells need matched budgets; write a number of steps")
    if checked.held_out is None:
        key, what = (
            ("held_out: 0", "512, say") if not run.held_out else ("task_options.test: is missing", "a held-out file")
        )
        raise InputError(f"{key}: there is nothing to compare cells by; write {what}")
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
        raise InputError(f"{said[0]}: policy, budget, data and evaluation are the same for all cells; leave it out")
    budget = checked.schedule
    if not float(budget.steps_per_rollout).is_integer():
        raise InputError(
            f"steps_per_generation: a rollout lasts {budget.steps_per_rollout:g} steps, and cells count whole ones; "
            "write a multiple of gradient_accumulation_steps"
        )
    return Expected(
        identity=dict(identity),
        settings=_values(checked, settings),
        steps=config.max_steps,
        completions_a_rollout=budget.completions,
        steps_a_rollout=int(budget.steps_per_rollout),
        evaluated=_evaluated(checked),
        samples=run.eval_samples,
        second_temperature=run.eval_second_temperature,
        sources=_sources(checked),
    )


def _budget(checked: Checked) -> dict[str, Any]:
    config, run, budget = checked.config, checked.run, checked.schedule
    return {
        "max_steps": config.max_steps,
        "policy": _policy(checked) or checked.path,
        "completions a step": budget.completions / budget.steps_per_rollout,
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
    """Digest of rlcredit's code below the benchmark: cells of different code are compared with a note."""
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
    of_data = checked.run.task_options or {}  # the keys of a data set, which a recipe has at its top level
    known = {**of_data, **vars(checked.config), **vars(checked.model), **vars(checked.run)}
    return json.loads(json.dumps({key: known[key] for key in keys}, default=str))


def _digest_of_data(task: TaskData) -> str:
    """Digest of every row to train on and every row to be measured on."""
    digest = hashlib.sha256()
    for rows in (task.train, *task.tests.values()):
        for row in rows or ():
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _sources(checked: Checked) -> dict[str, str]:
    """Digests of the code that is not rlcredit's: of the rewards and of the strategy."""
    names = modules_of(checked.task.rewards)
    if ":" in (strategy := checked.config.credit_strategy):
        names.add(strategy.partition(":")[0])
    return {f"source of {name}": digest for name, digest in code_of(names).items()}


def _policy(checked: Checked) -> str | None:
    """Digest of a policy in a folder; of one that is fetched by its id the commit, where it is known."""
    folder = Path(checked.path)
    if not folder.is_dir():
        return getattr(checked.policy, "_commit_hash", None)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _device() -> str:
    if not torch.accelerator.is_available():
        return f"cpu {platform.machine()}"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Where the settings of a cell are not as expected: `max_steps 60 instead of 80`."""
    said = []
    for part, wanted in expected.items():
        given = actual.get(part)
        if isinstance(wanted, dict) and isinstance(given, dict):
            for key in sorted({*wanted, *given}):
                if given.get(key) != wanted.get(key):
                    said.append(f"{key} {given.get(key, 'nothing')!r} instead of {wanted.get(key, 'nothing')!r}")
        elif given != wanted:
            said.append(f"{part} {given!r} instead of {wanted!r}")
    return said
