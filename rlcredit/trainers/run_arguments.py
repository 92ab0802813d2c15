"""RunArguments: what a run trains on and how it reports."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from rlcredit.config.ranges import Range, check_ranges
from rlcredit.errors import require
from rlcredit.tasks import TASKS

_RANGES: tuple[Range, ...] = (
    ("held_out", lambda n: n >= 0, "0 or more"),
    ("eval_samples", lambda n: n >= 1, "1 or more"),
    ("eval_batch_size", lambda n: n >= 1, "1 or more"),
    ("eval_temperature", lambda x: x >= 0, "0 or more"),
    ("eval_second_temperature", lambda x: x >= 0, "0 or more, or null"),
    ("credit_report_steps", lambda n: n >= 1, "1 or more, or null"),
    ("processes", lambda n: n >= 1, "1 or more, or null"),
)


@dataclass
class RunArguments:
    """What a run trains on and how it reports; the model is TRL's `ModelConfig`."""

    algorithm: str = field(
        default="grpo",
        metadata={"help": "grpo, or ppo with a critic; its keys are those of PPO.", "choices": ["grpo", "ppo"]},
    )
    task: str | None = field(
        default=None,
        metadata={"help": f"What to learn: {', '.join(TASKS)}; null: the data set of dataset_name or datasets."},
    )
    task_options: dict | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Reward functions beside those of the task: TRL's (accuracy_reward, think_format_reward, ...), or "
            "package.module.function."
        },
    )
    reward_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A model for sequence classification whose score is one more reward, the first of all."},
    )
    process_reward_model: str | None = field(
        default=None,
        metadata={
            "help": "A folder or an id on the hub: a model for token or sequence classification whose scores of steps "
            "are one more reward; null: none."
        },
    )
    process_reward_separator: str = field(
        default="\n\n", metadata={"help": "What stands between two steps of a completion, for that model."}
    )
    tools: list[str] | None = field(
        default=None,
        metadata={"help": "Functions that the policy may call in its completions, each as package.module:function."},
    )
    environment_factory: str | None = field(
        default=None,
        metadata={"help": "package.module:class of an environment (or a dict of them), whose methods are tools."},
    )
    rollout_func: str | None = field(
        default=None, metadata={"help": "package.module:function that generates the completions in TRL's place."}
    )
    held_out: int = field(
        default=512,
        metadata={
            "help": "Problems of each evaluation set, at most, for the accuracy before, during (eval_strategy) and "
            "after the run; 0: none."
        },
    )
    eval_samples: int = field(default=1, metadata={"help": "Completions a problem in those evaluations."})
    eval_temperature: float = field(default=0.0, metadata={"help": "Their temperature; 0 is greedy."})
    eval_second_temperature: float | None = field(
        default=None,
        metadata={"help": "Answer the first set at this temperature as well, logged as SET_tTEMPERATURE."},
    )
    eval_batch_size: int = field(
        default=128, metadata={"help": "Completions generated at once by each process in those evaluations."}
    )
    credit_report_steps: int | None = field(
        default=None,
        metadata={"help": "Every so many steps, write the report of a handful of fixed prompts; null: never."},
    )
    processes: int | None = field(
        default=None,
        metadata={"help": "How many processes the recipe is meant for: a run on another number says so."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete the checkpoints and log of an earlier run in output_dir."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check all that can be checked without weights, and print the plan."}
    )

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.credit_report_steps:
            require("matplotlib", "credit_report_steps")
        if self.eval_samples > 1 and self.eval_temperature == 0:
            raise ValueError(
                "eval_temperature: 0 is greedy and all samples would be the same; write 1.0, for instance"
            )
        if self.eval_second_temperature == self.eval_temperature:
            raise ValueError(
                f"eval_second_temperature: {self.eval_second_temperature:g} is eval_temperature too; write another"
            )
        if self.task is not None and self.task not in TASKS:
            near = difflib.get_close_matches(self.task, TASKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
            raise ValueError(f"task: {self.task!r} is unknown; {hint}")

    @property
    def data_name(self) -> str:
        """What is trained on, in words: the task, or where it has a data set's keys the set."""
        options = self.task_options or {}
        paths = [entry["path"] for entry in options.get("datasets", [])]
        return str(options.get("dataset_name") or " and ".join(paths) or self.task)
