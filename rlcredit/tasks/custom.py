"""The user's own task: rows with a `question` (or a ready `prompt`), and a checker or a reward function.

task: custom
task_options:
  train: data/train.jsonl              # .jsonl, .json, .csv or .parquet; or the id of a data set on the hub
  test: data/test.jsonl                # optional, held out
  check: math                          # math, choice, knights or exact: judges `answer`; and, or
  reward: my_package.rewards:score     # score(completions, **columns) -> one number for each completion

A reward without a checker is the metric of evaluation too: what scores 1 or more counts as right.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlcredit.config.named import import_named
from rlcredit.errors import InputError, RunStopped
from rlcredit.tasks.base import RewardFunction, TaskData
from rlcredit.tasks.checkers import CHECKERS
from rlcredit.tasks.checkers.verdict import Checker, Verdict
from rlcredit.tasks.event_loop import result_of
from rlcredit.tasks.options import options_from, require
from rlcredit.tasks.questions import QuestionOptions, QuestionTask

RIGHT = 1.0  # a score of this or more counts as right


@dataclass(frozen=True)
class CustomOptions(QuestionOptions):
    """The options of a task of questions, and

    Attributes:
        reward: package.module:function, importable from where the run starts; it replaces the checker as reward.
        check: the name of a checker.
    """

    reward: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ", ".join(CHECKERS)
        require("check", self.check, lambda value: value is None or value in CHECKERS, f"one of {names}")
        require(
            "reward", self.reward, lambda value: value is None or isinstance(value, str), "package.module:function"
        )
        if self.reward is None and self.check is None:
            raise InputError(f"task_options.reward: is missing; write package.module:function, or check: {names}")


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The task that `task_options` describe. Raises: InputError that names the option, the file and the row."""
    settings = options_from(CustomOptions, options, "custom")
    reward = _function(settings.reward) if settings.reward else None
    task = replace(CUSTOM, check=CHECKERS[settings.check] if settings.check else None)
    data = task.load(settings, train=train, tests=tests)
    if reward is None:
        return data
    judged = data.check is not None
    return replace(data, rewards=[reward], check=data.check or check_by(reward), has_answers=judged)


CUSTOM = QuestionTask(name="custom", check=None, options=CustomOptions, keeps_columns=True)


def check_by(reward: RewardFunction) -> Checker:
    """A checker made of a reward function: answers with a score of 1 or more are right."""

    def check(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"} if rows else {}
        prompts = [row["prompt"] for row in rows]
        completions = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for text, prompt in zip(texts, prompts, strict=True)
        ]
        name = getattr(reward, "__name__", type(reward).__name__)
        try:
            scores = list(result_of(reward(prompts=prompts, completions=completions, **columns)))
        except InputError:
            raise
        except Exception as error:  # of any kind: it is the user's function
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise RunStopped(
                f"reward {name!r}, which measures held-out answers: {kind} ({last.filename}, line {last.lineno}); "
                "mend it, or write task_options.check"
            ) from error
        if len(scores) != len(texts):
            raise InputError(f"the reward returned {len(scores)} scores for {len(texts)} completions; return one each")
        return [Verdict(float(_value(score, name) >= RIGHT), None) for score in scores]

    return check


def _value(score: Any, name: str) -> float:
    """Raises: InputError for rewards of steps, which say of no answer whether it is right."""
    try:
        return 0.0 if score is None else float(score)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"reward {name!r} returned {score!r:.60} for a held-out answer; write task_options.check, which measures "
            "those, or return numbers"
        ) from error


def _function(name: str) -> RewardFunction:
    function = import_named("task_options.reward", name, "function")
    if not callable(function):
        raise InputError(f"task_options.reward: {name!r} is not a function; write package.module:function")
    return function
