"""Relay: one token decides, many that mean nothing follow, and the end reads it. Where credit belongs is known.

    keys k and d, asked for 8 letters:     QXWB kd 8=
    a right response, and a wrong one:     RTkMBXWAQJ=k    RTMdBXWAQJ=d
    the silent variant:                    QXWB kd 8.
    a right response, and a wrong one:     RTkMBXWAQJ.H    RTMdBXWAQJ.H

A response is capital letters with one small letter, the key, among them; then the prompt's mark and one letter more.
After `=` that letter is the key again, and a response is right if it is the first of the prompt's two. A policy that
copies what it wrote therefore decides with the key alone, wherever it writes it, and the last token has to read which
letter it is. After `.` comes any capital, and the key itself is judged: it decides as before, and no later token needs
to know which letter it is. In both variants later tokens may look back to see that there is a key, since there is only
one.

The four capitals that open a prompt tell nothing: they make instances different. The number says how many capitals the
response has beside the key, before the mark; a response with more or fewer of them is judged all the same.

The held-out instances are drawn first, then those of the validation set, then those to train on.
"""

from __future__ import annotations

import functools
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets

from rlcredit.tasks.base import TaskData
from rlcredit.tasks.checkers.answers import completion_text
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict
from rlcredit.tasks.drawn import DrawnOptions, draw_sets, rewards_of
from rlcredit.tasks.options import is_list_of_integers_in, options_from, require, require_integers

KEYS = string.ascii_lowercase
FILLERS = string.ascii_uppercase
COPIED, SILENT = "=", "."
OPENING = 4

_KEY = re.compile("[a-z]")
_RESPONSE = re.compile(r"[A-Z]*(?P<key>[a-z])[A-Z]*(?:=(?P<copy>[a-z])|\.[A-Z])")
_BEGUN = re.compile(r"[A-Z]*(?:(?P<key>[a-z])[A-Z]*(?P<mark>[=.]?))?")


class RelayInstance(NamedTuple):
    """Two keys, of which the first is right, and how many fillers are asked for; `opening` tells nothing."""

    opening: str
    first: str
    second: str
    fillers: int

    @property
    def identity(self) -> tuple[object, ...]:
        return tuple(self)


@dataclass(frozen=True)
class RelayOptions(DrawnOptions):
    """The options of a task whose instances are drawn, and

    Attributes:
        keys: how many letters, from `a` on, can be keys, 2 to 26.
        fillers: how many capitals a response has before the mark, each 1 to 200; with several entries every instance
            draws one of them.
        silent: whether the last token is any capital, so that nothing has to read which letter the key is.
    """

    keys: int = 12
    fillers: tuple[int, ...] = (24,)
    silent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integers(self, 2, len(KEYS), "keys")
        require(
            "fillers", self.fillers, is_list_of_integers_in(1, 200), "a list of integers from 1 to 200 such as [24]"
        )
        require("silent", self.silent, lambda value: isinstance(value, bool), "true or false")
        object.__setattr__(self, "fillers", tuple(self.fillers))


def prompt_of(instance: RelayInstance, silent: bool) -> str:
    """The instance in about a dozen characters: opening, keys, how many fillers, the mark, and a line break."""
    mark = SILENT if silent else COPIED
    return f"{instance.opening} {instance.first}{instance.second} {instance.fillers}{mark}\n"


def load(options: Mapping[str, object], *, train: bool = True, tests: Sequence[str] | None = None) -> TaskData:
    """The relay task: rows with `prompt`, `opening`, `first`, `second`, `fillers`, `silent`; reward `relay_reward`.

    Raises: InputError if an option is unknown or impossible (see `RelayOptions`).
    """
    settings = options_from(RelayOptions, options, "relay")
    held_out, validation, trained = draw_sets(_draw, settings, None if train else 0, "more task_options.keys")
    reward = functools.partial(relay_reward, format_reward=settings.format_reward)
    sets = {"relay": held_out, "relay_validation": validation}
    rows_of = functools.partial(_dataset, silent=settings.silent)
    return TaskData(
        train=rows_of(trained) if train else None,
        tests={name: rows_of(rows) for name, rows in sets.items() if rows and (not tests or name in tests)},
        rewards=[functools.update_wrapper(reward, relay_reward)],  # a partial has no __name__ of its own
        check=check,
        answer_span=answer_span,
    )


def _draw(rng: random.Random, options: RelayOptions) -> RelayInstance:
    opening = "".join(rng.choices(FILLERS, k=OPENING))
    first, second = rng.sample(KEYS[: options.keys], 2)
    return RelayInstance(opening, first, second, rng.choice(options.fillers))


def _dataset(instances: Sequence[RelayInstance], silent: bool) -> datasets.Dataset:
    rows = [{"prompt": prompt_of(one, silent), **one._asdict(), "silent": silent} for one in instances]
    return datasets.Dataset.from_list(rows)


def relay_reward(
    completions: Sequence[str | Sequence[Mapping[str, object]]],
    first: Sequence[str],
    silent: Sequence[bool],
    format_reward: float = RelayOptions.format_reward,
    **_: object,
) -> list[float]:
    """TRL reward function: 1 for the first key of the prompt, `format_reward` for another key, else 0."""
    rows = zip(completions, first, silent, strict=True)
    return rewards_of([_verdict(completion_text(text), key, quiet) for text, key, quiet in rows], format_reward)


def check(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """A checker: right is the prompt's first key; the answer is the key that is judged, in a response of the form."""
    return [_verdict(text, row["first"], row["silent"]) for text, row in zip(texts, rows, strict=True)]


def _verdict(text: str, first: str, silent: bool) -> Verdict:
    span = answer_span(text)
    if span is None or (SILENT in text) != silent:
        return NO_ANSWER
    answer = text[slice(*span)]
    return Verdict(float(answer == first), answer)


def answer_span(text: str) -> tuple[int, int] | None:
    """Where the key that is judged begins and ends: the copy, or the key itself where there is none."""
    found = _RESPONSE.fullmatch(text)
    return None if found is None else found.span("key" if found["copy"] is None else "copy")


def key_at(text: str) -> int | None:
    """Where the token that decides stands in a response, in characters (which are tokens); None without a key."""
    found = _KEY.search(text)
    return None if found is None else found.start()


def value(text: str, row: Mapping[str, Any], names: float, copies: float = 1.0) -> float:
    """The probability that a response which begins so is right, exactly, for a policy that keeps to the form.

    Args:
        text: a response, or the beginning of one.
        row: the instance.
        names: the probability that the key will be the right one, as long as there is none. The task cannot know it:
            count it in the policy's samples.
        copies: the probability that the last token repeats the key. What does not repeat it is taken
            to be wrong, though it could be the right key by chance.
    """
    mark = SILENT if row["silent"] else COPIED
    begun = _BEGUN.fullmatch(text)
    if begun is None or begun["mark"] not in (None, "", mark):
        return check([text], [row])[0].correct
    named = names if begun["key"] is None else float(begun["key"] == row["first"])
    return named if row["silent"] else named * copies
