"""Zebra puzzles, drawn with reasoning-gym: who lives in the first house?

    The person who keeps horses is Bob. The cat lover is directly left of Bob. ... What is Name of the person who lives
    in House 1?   arnold

Of every puzzle the text is read again and solved here, without the library's solver, so that each answer is the only
one that the text allows. Two puzzles are the same if they have the same people, characteristics and clues, in whatever
order.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlcredit.errors import InputError, RunStopped

_VERSION = "0.1.25"
_LITERALS = "reasoning_gym.logic.contrib.logic_puzzle.literals"  # how the clues speak of "root beer" and the like
_REPEATS = 500  # known puzzles in a row: then hardly any new one of this size is left
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
_NAMES = "Each person has a unique name"
_GROUP = re.compile(r"^ - (.+?): (.+)$", re.MULTILINE)
_CLUE = re.compile(r"^\d+\. (.+)$", re.MULTILINE)
_QUESTION = re.compile(r"^What is Name of the person who lives in House (\d+)\?", re.MULTILINE)

Domains = dict[str, frozenset[int]]
"""For each item the houses where it may still be, counted from 1 on the left."""


class Clue(NamedTuple):
    """What a clue states of its items: `at` a house, in the `same` one, directly `left` of, or `beside` the other."""

    kind: str
    items: tuple[str, ...]
    house: int = 0

    @property
    def identity(self) -> tuple[str, tuple[str, ...], int]:
        return self.kind, self.items if self.kind == "left" else tuple(sorted(self.items)), self.house


class Puzzle(NamedTuple):
    """A puzzle as its text tells it: `groups` has a dict from name to item for each characteristic."""

    groups: tuple[dict[str, str], ...]
    clues: tuple[Clue, ...]
    names: dict[str, str]
    house: int

    @property
    def identity(self) -> tuple[object, ...]:
        items = frozenset(item for group in self.groups for item in group.values())
        return items, frozenset(clue.identity for clue in self.clues), self.house


def generate(count: int, seed: int, people: int = 4, characteristics: int = 4) -> list[dict[str, str]]:
    """Draw `count` different puzzles; the same seed gives the same ones in the same order.

    Returns: rows with `id`, `question` (the puzzle, and to give only the name) and `answer` (the name in small
        letters).

    Raises:
        InputError: if reasoning-gym is missing, or if there are fewer different puzzles.
        RunStopped: if a puzzle of the library cannot be read or has another answer, or more than one.
    """
    draws = _library_puzzles(seed, people, characteristics)
    rows: dict[tuple[object, ...], dict[str, str]] = {}
    index = repeats = 0
    while len(rows) < count:
        entry = draws[index]
        index += 1
        identity = read(entry["question"]).identity
        if identity not in rows:
            _verify(entry)
            name = f"zebra-{people}x{characteristics}-{seed}-{len(rows)}"
            rows[identity] = {"id": name, "question": entry["question"], "answer": entry["answer"]}
            repeats = 0
            continue
        repeats += 1
        if repeats == _REPEATS:
            raise InputError(
                f"zebra puzzles: {count} of {people} people and {characteristics} characteristics are more than the "
                f"about {len(rows)} different ones that there are; ask for fewer, or for more people"
            )
    return list(rows.values())


def answers(question: str) -> set[str]:
    """Every name that the clues allow in the house that the question is about.

    Raises: RunStopped if the text is no puzzle of the library.
    """
    puzzle = read(question)
    everywhere = frozenset(range(1, len(puzzle.names) + 1))
    places = {item: everywhere for group in puzzle.groups for item in group.values()}
    return {
        name for name, item in puzzle.names.items() if _solvable({**places, item: frozenset({puzzle.house})}, puzzle)
    }


def read(question: str) -> Puzzle:
    """What the text of a puzzle says.

    Raises: RunStopped if the text is no puzzle of the library.
    """
    vocabulary = _vocabulary()
    try:
        groups = {
            heading: {name: vocabulary[heading][name] for name in names.split(", ")}
            for heading, names in _GROUP.findall(question)
        }
        sentences = _sentences(groups)
        clues = tuple(sentences[text] for text in _CLUE.findall(question))
        (house,) = _QUESTION.findall(question)
        return Puzzle(tuple(groups.values()), clues, groups[_NAMES], int(house))
    except (KeyError, ValueError) as error:
        raise RunStopped(
            f"a zebra puzzle of reasoning-gym cannot be read ({error!r} is not as expected); "
            f"write pip install reasoning-gym=={_VERSION}"
        ) from error


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"zebra puzzles need the package reasoning-gym, which cannot be imported ({error}); "
            "write pip install reasoning-gym"
        ) from error


def _library_puzzles(seed: int, people: int, characteristics: int) -> Any:
    """The library's puzzles, as many as are asked for.

    It seeds puzzle i with seed + i, so that its seeds 0 and 1 share all puzzles but one; seeds far apart do not.
    """
    return _library("reasoning_gym").create_dataset(
        "zebra_puzzles",
        seed=random.Random(seed).getrandbits(62),
        size=1,  # indices beyond it are fine
        num_people=people,
        num_characteristics=characteristics,
    )


def _verify(entry: Mapping[str, str]) -> None:
    possible = answers(entry["question"])
    if possible != {entry["answer"]}:
        raise RunStopped(
            f"a zebra puzzle of reasoning-gym has the answer {entry['answer']!r}, but its clues allow "
            f"{', '.join(sorted(possible)) or 'none'}; write pip install reasoning-gym=={_VERSION}"
        )


@functools.cache
def _vocabulary() -> dict[str, dict[str, str]]:
    """For each heading, from the names in its list to the items in the clues."""
    base = _library(_LITERALS).Literal
    return {
        kind.description().partition(":")[0]: {item.name.replace("_", " "): item.value for item in kind}
        for kind in base.__subclasses__()
    }


def _sentences(groups: Mapping[str, Mapping[str, str]]) -> dict[str, Clue]:
    """Every clue that the puzzle could have, by its text."""
    items = [item for group in groups.values() for item in group.values()]
    said: dict[str, Clue] = {}
    for item in items:
        for house, ordinal in enumerate(_ORDINALS, 1):
            said[f"{item} is in the {ordinal} house."] = Clue("at", (item,), house)
    for pair in itertools.permutations(items, 2):
        said[f"{pair[0]} is {pair[1]}."] = Clue("same", pair)
        said[f"{pair[0]} is directly left of {pair[1]}."] = Clue("left", pair)
        said[f"{pair[0]} and {pair[1]} are next to each other."] = Clue("beside", pair)
    return {text[0].upper() + text[1:]: clue for text, clue in said.items()}


def _solvable(places: Domains, puzzle: Puzzle) -> bool:
    """Whether every item can be given one of its places, no two of a group the same, as the clues say."""
    places = _narrowed(places, puzzle)
    if not all(places.values()):
        return False
    open_items = [item for item, houses in places.items() if len(houses) > 1]
    if not open_items:
        return True
    item = min(open_items, key=lambda item: len(places[item]))
    return any(_solvable({**places, item: frozenset({house})}, puzzle) for house in places[item])


def _narrowed(places: Domains, puzzle: Puzzle) -> Domains:
    """Without the places that a clue or a settled item of the same group rules out, until nothing changes."""
    before: Domains = {}
    while places != before:
        before = places
        places = dict(places)
        for clue in puzzle.clues:
            _apply(clue, places)
        for group in puzzle.groups:
            for item, other in itertools.permutations(group.values(), 2):
                if len(places[item]) == 1:
                    places[other] -= places[item]
    return places


def _apply(clue: Clue, places: Domains) -> None:
    if clue.kind == "at":
        places[clue.items[0]] &= {clue.house}
        return
    left, right = clue.items
    steps = {"same": (0,), "left": (1,), "beside": (1, -1)}[clue.kind]  # from the left item's house to the right's
    places[right] &= {house + step for house in places[left] for step in steps}
    places[left] &= {house - step for house in places[right] for step in steps}
