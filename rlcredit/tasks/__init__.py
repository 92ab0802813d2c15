"""Tasks by name, and the evaluation sets that each one brings. A task makes `TaskData` of a recipe's options."""

from __future__ import annotations

from rlcredit.tasks import countdown, custom, paths, zebra
from rlcredit.tasks.base import Load, TaskData
from rlcredit.tasks.gsm8k import GSM8K
from rlcredit.tasks.knights_knaves import KNIGHTS_KNAVES
from rlcredit.tasks.math import MATH
from rlcredit.tasks.qa import QA

TASKS: dict[str, Load] = {
    "countdown": countdown.load,
    "paths": paths.load,
    "gsm8k": GSM8K,
    "math": MATH,
    "qa": QA,
    "knights_knaves": KNIGHTS_KNAVES,
    "zebra": zebra.load,
    "custom": custom.load,
}

EVALUATION_SETS: dict[str, str] = {
    "countdown": "countdown",
    "paths": "paths",
    **{name: task.name for task in (MATH, GSM8K, QA, KNIGHTS_KNAVES) for name in task.test},
    "crossthink_qa": "qa",  # with task_options.hold_out, or a file
    "zebra": "zebra",
    "custom": "custom",
}
"""Which task an evaluation set belongs to."""

__all__ = ["EVALUATION_SETS", "TASKS", "Load", "TaskData"]
