"""Countdown after TinyZero: reach a target with the four operations, each given number used exactly once.

    numbers 3, 7, 12; target 81:   <think>7*12=84 84-3=81</think><answer>(7*12)-3</answer>

Every instance is built from a random expression over all its numbers (kept as `solution`), so every one is solvable.
Two instances are the same if target and sorted numbers agree; the held-out set is drawn first and no training instance
repeats one of it. With a given seed the held-out set therefore stays the same whatever `num_train` is.

Instances can also be read from files: rows with `numbers` and `target` (`train`, `test` in the options).
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from rlcredit.errors import InputError
from rlcredit.tasks.arithmetic import ExpressionError, evaluate
from rlcredit.tasks.base import RewardFunction, TaskData
from rlcredit.tasks.checkers.answers import completion_text, in_last_tag, tag_span
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict
from rlcredit.tasks.drawn import DrawnOptions, draw_sets, rewards_of
from rlcredit.tasks.files import Row, read_file
from rlcredit.tasks.options import (
    is_integer_in,
    is_list_of_integers_in,
    is_number_from_0,
    is_text,
    options_from,
    require,
    require_integers,
)

_TEXT_PROMPT = (
    "A conversation between User and Assistant. The Assistant reasons about the problem in the User's message and "
    "then answers it.\n"
    "User: Using the numbers {numbers}, write an expression that equals {target}. You can use the operations "
    "+, -, *, / and brackets, and every number must be used exactly once. Show your work in <think> </think> tags and "
    "give the final expression in <answer> </answer> tags, for example <answer>(1 + 2) / 3</answer>.\n"
    "Assistant: Let me solve this step by step.\n<think>"
)


_CALCULATION = re.compile(r"(\(*[0-9]+(?: ?[-+*/] ?\(*[0-9]+\)*){1,8}) ?= ?(-?[0-9]+)")


class CountdownInstance(NamedTuple):
    """A solvable instance; `solution` is one expression that reaches `target` with each of `numbers` once."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def identity(self) -> tuple[int, ...]:
        return (*sorted(self.numbers), self.target)


@dataclass(frozen=True)
class CountdownOptions(DrawnOptions):
    """The options of a task whose instances are drawn, and

    Attributes:
        numbers: how many numbers an instance has, each 2 to 6; with several entries every instance draws one of them.
        max_number: numbers are drawn uniformly from 1 to this.
        max_target: targets lie between 1 and this.
        prompt_style: "text" for a language model (after TinyZero, ends with `<think>`), "compact" for a
            character-level policy (`3 7 12 -> 81` and a line break).
        step_penalty: taken off where a calculation in the reasoning, such as `7*12=84`, is wrong: a reward of steps
            (docs/rewards.md); 0: calculations are not looked at.
        train: a file of training instances to read in place of drawing them.
        test: the same for the held-out ones.
    """

    numbers: tuple[int, ...] = (3, 4)
    max_number: int = 99
    max_target: int = 100
    prompt_style: str = "text"
    step_penalty: float = 0.0
    train: str | None = None
    test: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, 1, 9_999, "max_number")
        require_integers(self, 1, 1_000_000, "max_target")
        require("numbers", self.numbers, is_list_of_integers_in(2, 6), "a list of integers from 2 to 6 such as [3, 4]")
        object.__setattr__(self, "numbers", tuple(self.numbers))
        require("prompt_style", self.prompt_style, _is_prompt_style, " or ".join(map(repr, PROMPTS)))
        require("step_penalty", self.step_penalty, is_number_from_0, "a number of 0 or more such as 0.1")
        for name in ("train", "test"):
            require(name, getattr(self, name), lambda value: value is None or is_text(value), "a file")


def _is_prompt_style(value: object) -> bool:
    return isinstance(value, str) and value in PROMPTS


def text_prompt(numbers: Sequence[int], target: int) -> str:
    """The instance in words, ending where the policy's reasoning begins."""
    return _TEXT_PROMPT.format(numbers=list(numbers), target=target)


def compact_prompt(numbers: Sequence[int], target: int) -> str:
    """The instance in about fifteen characters: `3 7 12 -> 81` and a line break."""
    return f"{' '.join(map(str, numbers))} -> {target}\n"


Prompt = Callable[[Sequence[int], int], str]
PROMPTS: dict[str, Prompt] = {"text": text_prompt, "compact": compact_prompt}


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The countdown task: rows with `prompt`, `numbers`, `target`, `solution`; reward `countdown_reward`.

    Raises:
        InputError: if an option is unknown or impossible (see `CountdownOptions`), if a file cannot be used, or if the
            options describe fewer different instances than were asked for.
    """
    settings = options_from(CountdownOptions, options, "countdown")
    if settings.num_validation and (settings.train or settings.test):
        raise InputError(
            f"task_options.num_validation: {settings.num_validation} instances are drawn with the others, not beside "
            "files; write 0, or leave out train and test"
        )
    both_read = settings.train and settings.test
    held_out, validation, trained = ([], [], []) if both_read else generate(settings, None if train else 0)
    if settings.train and train:
        trained = _read(settings.train)
    if settings.test:
        held_out = _read(settings.test)[: settings.num_test]
    if settings.test and len(held_out) < settings.num_test:
        raise InputError(
            f"{settings.test}: has {len(held_out)} instances; write task_options.num_test: {len(held_out)} or less"
        )
    reward = functools.partial(countdown_reward, format_reward=settings.format_reward)
    rewards: list[RewardFunction] = [
        functools.update_wrapper(reward, countdown_reward)
    ]  # a partial has no __name__ of its own
    if settings.step_penalty:
        steps = functools.partial(calculations_reward, penalty=settings.step_penalty)
        rewards.append(functools.update_wrapper(steps, calculations_reward))
    shared = {instance.identity for instance in trained} & {instance.identity for instance in held_out}
    rows = functools.partial(_dataset, prompt=PROMPTS[settings.prompt_style])
    sets = {"countdown": held_out, "countdown_validation": validation}
    return TaskData(
        train=rows(trained) if train else None,
        tests={name: rows(part) for name, part in sets.items() if part and (not tests or name in tests)},
        rewards=rewards,
        check=check,
        answer_span=tag_span,
        notes=[f"overlap: {len(shared)} instances are in the training and in the held-out set"] if shared else [],
    )


def _read(name: str) -> list[CountdownInstance]:
    """The instances of a file. Raises: InputError that names the first row that is none."""
    return [_instance(f"{name}: {place}", row) for place, row in read_file(Path(name))]


def _instance(place: str, row: Row) -> CountdownInstance:
    numbers, target = row.get("numbers"), row.get("target")
    fits = is_integer_in(1, 10**9)
    if not isinstance(numbers, list) or not 2 <= len(numbers) <= 6 or not all(map(fits, numbers)):
        raise InputError(f"{place}: numbers is {numbers!r}; write a list of 2 to 6 integers above 0")
    if not fits(target):
        raise InputError(f"{place}: target is {target!r}; write an integer above 0")
    return CountdownInstance(tuple(numbers), int(str(target)), str(row.get("solution") or ""))


def generate(
    options: CountdownOptions, num_train: int | None = None
) -> tuple[list[CountdownInstance], list[CountdownInstance], list[CountdownInstance]]:
    """The held-out, the validation and the training instances (`num_train` of them, if given): all different."""
    return draw_sets(_draw, options, num_train, "raise task_options.max_number or task_options.max_target")


def _draw(rng: random.Random, options: CountdownOptions) -> CountdownInstance | None:
    """One instance from a random expression over random numbers, or `None` if its value is no possible target.

    Values on the way are positive integers, as in the game: no zero, nothing negative, no fraction.
    """
    uniform = rng.random  # several times faster than randint, and bias of one part in 2**53 does no harm here
    count = options.numbers[int(uniform() * len(options.numbers))]
    numbers = tuple(1 + int(uniform() * options.max_number) for _ in range(count))
    pool = [(number, str(number)) for number in numbers]
    while len(pool) > 1:
        left, left_text = pool.pop(int(uniform() * len(pool)))
        right, right_text = pool.pop(int(uniform() * len(pool)))
        operator = "+-*/"[int(uniform() * 4)]
        if operator == "+":
            value = left + right
        elif operator == "*":
            value = left * right
        elif operator == "-" and left > right:
            value = left - right
        elif operator == "/" and left % right == 0:
            value = left // right
        else:
            return None
        pool.append((value, f"({left_text}{operator}{right_text})"))
    target, text = pool[0]
    return CountdownInstance(numbers, target, text[1:-1]) if target <= options.max_target else None


def _dataset(instances: Sequence[CountdownInstance], prompt: Prompt) -> datasets.Dataset:
    rows = [{"prompt": prompt(instance.numbers, instance.target), **instance._asdict()} for instance in instances]
    return datasets.Dataset.from_list(rows)


def countdown_reward(
    completions: Sequence[str | Sequence[Mapping[str, object]]],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    format_reward: float = CountdownOptions.format_reward,
    **_: object,
) -> list[float]:
    """TRL reward function: 1 for a solution, `format_reward` for a well-formed expression that is none, else 0.

    Judged is the text of the last `<answer>...</answer>` and nothing else in the completion. Well-formed means that it
    has a finite value under the grammar of `rlcredit.tasks.arithmetic`; a solution also equals the target exactly and
    uses every number exactly once and no other.

    Args:
        completions: texts, or conversations whose assistant messages are read.
        numbers: column of the data set, the numbers given to each completion.
        target: column of the data set, the value that each completion has to reach.
        format_reward: reward of an expression with the wrong value or the wrong numbers.
    """
    rows = zip(completions, numbers, target, strict=True)
    verdicts = [_verdict(completion_text(completion), given, goal) for completion, given, goal in rows]
    return rewards_of(verdicts, format_reward)


def calculations_reward(
    completions: Sequence[str | Sequence[Mapping[str, object]]],
    penalty: float = CountdownOptions.step_penalty,
    **_: object,
) -> list[list[tuple[int, int, float]]]:
    """Rewards of steps: each calculation of the reasoning (`7*12=84`) is one, 0 where it is right, else -penalty.

    Calculations within `<answer>` are not looked at. More of them gain nothing.
    """
    reasoning = [completion_text(completion).partition("<answer>")[0] for completion in completions]
    return [
        [
            (found.start(), found.end(), 0.0 if _holds(*found.groups()) else -penalty)
            for found in _CALCULATION.finditer(text)
        ]
        for text in reasoning
    ]


def _holds(expression: str, value: str) -> bool:
    try:
        return evaluate(expression).value == evaluate(value).value
    except ExpressionError:
        return False


def check(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A checker: right is what solves its row; the answer is the expression, white space left out."""
    return [_verdict(text, row["numbers"], row["target"]) for text, row in zip(texts, rows, strict=True)]


def _verdict(text: str, numbers: Sequence[int], target: int) -> Verdict:
    answer = in_last_tag(text)
    if answer is None:
        return NO_ANSWER
    try:
        expression = evaluate(answer)
    except ExpressionError:
        return NO_ANSWER
    solved = expression.value == target and sorted(expression.numbers) == sorted(numbers)
    return Verdict(float(solved), "".join(answer.split())[:200])
