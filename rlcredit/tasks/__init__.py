"""Tasks by name, and the evaluation sets that each one brings. A task makes `TaskData` of a recipe's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from rlcredit.errors import InputError
from rlcredit.tasks import countdown, custom, dataset, paths, products, relay, zebra
from rlcredit.tasks.base import Load, TaskData
from rlcredit.tasks.gsm8k import GSM8K
from rlcredit.tasks.knights_knaves import KNIGHTS_KNAVES
from rlcredit.tasks.math import MATH
from rlcredit.tasks.options import refuse_unknown_options
from rlcredit.tasks.qa import QA
from rlcredit.tasks.questions import QuestionTask

TASKS: dict[str, Load] = {
    "countdown": countdown.load,
    "paths": paths.load,
    "products": products.load,
    "relay": relay.load,
    "gsm8k": GSM8K,
    "math": MATH,
    "qa": QA,
    "knights_knaves": KNIGHTS_KNAVES,
    "zebra": zebra.load,
    "custom": custom.load,
    dataset.NAME: dataset.load,
}

OPTIONS: dict[str, type] = {
    "countdown": countdown.CountdownOptions,
    "paths": paths.PathsOptions,
    "products": products.ProductsOptions,
    "relay": relay.RelayOptions,
    "zebra": zebra.ZebraOptions,
    "custom": custom.CustomOptions,
    dataset.NAME: dataset.DatasetOptions,
    **{name: task.options for name, task in TASKS.items() if isinstance(task, QuestionTask)},
}
"""What a recipe may say of each task."""

EVALUATION_SETS: dict[str, str] = {
    "countdown": "countdown",
    "paths": "paths",
    "products": "products",
    "relay": "relay",
    **{name: task.name for task in (MATH, GSM8K, QA, KNIGHTS_KNAVES) for name in task.test},
    "crossthink_qa": "qa",  # with task_options.hold_out, or a file
    "zebra": "zebra",
    "custom": "custom",
    dataset.NAME: dataset.NAME,
}
"""Which task an evaluation set belongs to."""

__all__ = ["EVALUATION_SETS", "TASKS", "Load", "TaskData", "check_options", "load_set"]


def check_options(name: object, options: object) -> None:
    """Raise an InputError that lists the unknown options of a task or an evaluation set; nothing else is checked."""
    task = EVALUATION_SETS.get(str(name), str(name))
    if task in OPTIONS and isinstance(options, Mapping):
        refuse_unknown_options(OPTIONS[task], options, task)


def load_set(
    name: str, data: str | None, task_options: Mapping[str, Any] | None, limit: int | None, *, judged: bool = False
) -> tuple[Dataset, TaskData]:
    """The rows of an evaluation set, and its task.

    Args:
        name: one of EVALUATION_SETS.
        data: a file, or a set on the hub, in place of the task's own.
        task_options: as in a recipe.
        limit: take the first so many rows; a set with fewer is an error.
        judged: whether answers are to be judged.

    Raises: InputError.
    """
    options = dict(task_options or {})
    if name == dataset.NAME:
        options |= {"dataset_name": data} if data is not None else {}
    else:
        options |= {"num_test": limit} if limit is not None else {}
        if data is not None:
            options["test"] = data if name in ("countdown", "custom") else {name: data}
    task = TASKS[EVALUATION_SETS[name]](options, train=False, tests=[name])
    if judged and task.check is None:
        raise InputError(
            f"task: {name} has no checker, which says what is right; write --task custom with --data FILE and "
            "--task_options.check math, for instance"
        )
    if not task.tests:
        raise InputError("data: is missing; write a file, or the id of a data set on the hub")
    if len(task.tests) > 1:
        raise InputError("task_options.test: names several sets; write one, or --data FILE")
    return next(iter(task.tests.values())), task
