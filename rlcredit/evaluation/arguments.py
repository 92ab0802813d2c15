"""A model and an evaluation set: what the commands that answer a set have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlcredit.models.loading import ModelArguments
from rlcredit.tasks import EVALUATION_SETS


@dataclass(kw_only=True)
class SetArguments(ModelArguments):
    """The model, the set that it answers, and how the prompts are rendered."""

    task: str = field(metadata={"help": f"The evaluation set: {', '.join(EVALUATION_SETS)}."})
    data: str | None = field(
        default=None,
        metadata={"help": "A .jsonl, .json, .csv or .parquet file, or a set on the hub, in place of the task's own."},
    )
    task_options: dict | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    chat_template_kwargs: dict | None = field(
        default=None, metadata={"help": 'What the chat template gets beside the prompt, {"enable_thinking": false}.'}
    )

    def __post_init__(self) -> None:
        if self.task not in EVALUATION_SETS:
            raise ValueError(f"task: {self.task!r} is no evaluation set; write one of {', '.join(EVALUATION_SETS)}")
