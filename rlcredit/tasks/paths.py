"""Paths: the way through a small graph, where only its end tells which way is right.

    a graph of one-way edges, from a to e:   bc ag ab ce gh hi a>e
    a response that plans from the goal:     <think>e: ce bc ab</think><answer>abce</answer>

An instance is a path of `length` edges from the start to the goal, and dead ends: chains that leave it at a random one
of its nodes and end as deep as the goal. Walking forward, every fork looks the same; walking back from the goal there
is never a choice. So the first token of a plan made from the goal decides, long before the answer shows it: the
"path-star" graphs of Bachmann and Nagarajan (2024, arXiv 2403.06963), with the forks spread along the path [ours].

Nodes are letters, drawn anew for each instance, and edges come in random order, so that nothing but the edges tells
the way. The held-out instances are drawn first, then those of the validation set, then those to train on.
"""

from __future__ import annotations

import functools
import itertools
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets

from rlcredit.errors import InputError
from rlcredit.tasks.base import TaskData
from rlcredit.tasks.checkers.answers import completion_text, in_last_tag, tag_span
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict
from rlcredit.tasks.drawn import DrawnOptions, draw_sets, rewards_of
from rlcredit.tasks.options import is_list_of_integers_in, options_from, require, require_integers

NODES = string.ascii_lowercase


class PathsInstance(NamedTuple):
    """A graph in which exactly one path leads from `start` to `goal`; `solution` is that path."""

    edges: tuple[str, ...]
    start: str
    goal: str
    solution: str

    @property
    def identity(self) -> tuple[str, ...]:
        return (*sorted(self.edges), self.start, self.goal)


@dataclass(frozen=True)
class PathsOptions(DrawnOptions):
    """The options of a task whose instances are drawn, and

    Attributes:
        length: how many edges the path has, each 2 to 8; with several entries every instance draws one of them.
        dead_ends: how many chains lead elsewhere, 0 to 4.
    """

    length: tuple[int, ...] = (4, 5)
    dead_ends: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, 0, 4, "dead_ends")
        require("length", self.length, is_list_of_integers_in(2, 8), "a list of integers from 2 to 8 such as [4, 5]")
        object.__setattr__(self, "length", tuple(self.length))
        most = 1 + max(self.length) * (1 + self.dead_ends)
        if most > len(NODES):
            raise InputError(
                f"task_options.dead_ends: {self.dead_ends} with paths of {max(self.length)} edges may need {most} "
                f"nodes, and there are {len(NODES)} letters; write fewer, or shorter paths"
            )


def prompt_of(edges: Sequence[str], start: str, goal: str) -> str:
    """The instance in about forty characters: the edges, then `start>goal` and a line break."""
    return f"{' '.join(edges)} {start}>{goal}\n"


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The paths task: rows with `prompt`, `edges`, `start`, `goal`, `solution`; reward `paths_reward`.

    Raises: InputError if an option is unknown or impossible (see `PathsOptions`).
    """
    settings = options_from(PathsOptions, options, "paths")
    held_out, validation, trained = generate(settings, num_train=None if train else 0)
    reward = functools.partial(paths_reward, format_reward=settings.format_reward)
    sets = {"paths": held_out, "paths_validation": validation}
    return TaskData(
        train=_dataset(trained) if train else None,
        tests={name: _dataset(rows) for name, rows in sets.items() if rows and (not tests or name in tests)},
        rewards=[functools.update_wrapper(reward, paths_reward)],  # a partial has no __name__ of its own
        check=check,
        answer_span=tag_span,
    )


def generate(
    options: PathsOptions, num_train: int | None = None
) -> tuple[list[PathsInstance], list[PathsInstance], list[PathsInstance]]:
    """The held-out, the validation and the training instances (`num_train` of them, if given): all different."""
    return draw_sets(_draw, options, num_train, "longer paths in task_options.length")


def _draw(rng: random.Random, options: PathsOptions) -> PathsInstance:
    length = rng.choice(options.length)
    names = iter(rng.sample(NODES, len(NODES)))
    path = [next(names) for _ in range(length + 1)]
    edges = [tail + head for tail, head in itertools.pairwise(path)]
    for _ in range(options.dead_ends):
        depth = rng.randrange(length)
        chain = [path[depth], *(next(names) for _ in range(length - depth))]  # as deep as the goal
        edges += [tail + head for tail, head in itertools.pairwise(chain)]
    rng.shuffle(edges)
    return PathsInstance(tuple(edges), path[0], path[-1], "".join(path))


def _dataset(instances: Sequence[PathsInstance]) -> datasets.Dataset:
    rows = [{"prompt": prompt_of(*instance[:3]), **instance._asdict()} for instance in instances]
    return datasets.Dataset.from_list(rows)


def paths_reward(
    completions: Sequence[str | Sequence[Mapping[str, object]]],
    edges: Sequence[Sequence[str]],
    start: Sequence[str],
    goal: Sequence[str],
    format_reward: float = PathsOptions.format_reward,
    **_: object,
) -> list[float]:
    """TRL reward function: 1 for the path, `format_reward` for a walk from the start that ends elsewhere, else 0.

    Judged is the text of the last `<answer>...</answer>` alone: the nodes in order, white space left out. A walk has
    at least one edge, and each of its steps is an edge of the graph.
    """
    rows = zip(completions, edges, start, goal, strict=True)
    verdicts = [_verdict(completion_text(text), given, first, last) for text, given, first, last in rows]
    return rewards_of(verdicts, format_reward)


def check(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A checker: right is the walk from the start to the goal; the answer is any walk from the start."""
    return [_verdict(text, row["edges"], row["start"], row["goal"]) for text, row in zip(texts, rows, strict=True)]


def _verdict(text: str, edges: Sequence[str], start: str, goal: str) -> Verdict:
    walk = "".join((in_last_tag(text) or "").split())
    steps = {tail + head for tail, head in itertools.pairwise(walk)}
    if len(walk) < 2 or walk[0] != start or not steps <= set(edges):
        return NO_ANSWER
    return Verdict(float(walk[-1] == goal), walk[:200])
