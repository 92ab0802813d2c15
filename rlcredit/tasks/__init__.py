"""Tasks by name. A task is one function from a recipe's `task_options` to `TaskData`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rlcredit.tasks import countdown, custom
from rlcredit.tasks.base import TaskData

TASKS: dict[str, Callable[[Mapping[str, object]], TaskData]] = {
    "countdown": countdown.load,
    "custom": custom.load,
}

__all__ = ["TASKS", "TaskData"]
