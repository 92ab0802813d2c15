"""Two players that demonstrate a task to a policy before it learns: a careful one and a hasty one.

On Countdown the careful one writes down the goal, considers every calculation, and mostly tries another one after a
miss; the hasty one only adds and subtracts, in the order given, and hands in whatever comes out:

    3 7 12 -> 57                                             3 7 12 -> 57
    <think>57: 7*12=84 84-3=81                               <think>3+7=10 10+12=22</think><answer>(3+7)+12</answer>
    3+7=10 ...

On paths the careful one plans from the goal, where there is never a choice, and now and then takes another end for it;
the hasty one walks off from the start, takes any fork, and hands in where it arrives:

    bc ag ab ce gh hi a>e                                    bc ag ab ce gh hi a>e
    <think>e: ce bc ab</think><answer>abce</answer>          <think>ag gh hi</think><answer>aghi</answer>

On products the careful one asks the calculator and copies its value, the hasty one guesses:

    <call>calculator expression=37*46</call> 1702 <answer>1702</answer>                     <answer>1602</answer>

On relay the careful one names the first key of the prompt and the hasty one any letter that can be a key; both copy
what they named, and both play the silent variant in half of their turns:

    RTkMBXWAQJ=k                                             RTMgBXWAQJ=g
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlcredit.tasks import countdown, paths, relay

MAX_ATTEMPTS = 2
PLAUSIBLE = 120  # the largest value anybody would try for


@dataclass(frozen=True)
class Player:
    """A demonstrator.

    Attributes:
        skill: probability that an attempt is a right one, where the player sees one.
        patience: probability of a second attempt after a miss; else the miss is handed in.
        states_goal: whether the player writes down the target before anything else.
        thorough: whether the player considers every operation on every pair of numbers, or only sums and differences
            with the numbers taken in the order given, which solve four instances in ten.
    """

    skill: float
    patience: float
    states_goal: bool
    thorough: bool


CAREFUL = Player(skill=0.95, patience=0.9, states_goal=True, thorough=True)
HASTY = Player(skill=0.95, patience=0.0, states_goal=False, thorough=False)


@dataclass(frozen=True)
class Attempt:
    """A calculation over all three numbers: its steps as text, the expression that it amounts to, and its value."""

    steps: str
    expression: str
    value: int


def attempts(numbers: Sequence[int], thorough: bool) -> list[Attempt]:
    """The calculations that a player considers: each of three numbers once, every value a positive integer."""
    first, second, third = numbers
    pairs = [(first, second, third), (first, third, second), (second, third, first)]
    operations = "+-*/" if thorough else "+-"
    return [
        Attempt(f"{step}={between} {last}={value}", _nested(step, between, last), value)
        for left, right, rest in (pairs if thorough else pairs[:1])
        for step, between in _steps(left, right, operations)
        for last, value in _steps(between, rest, operations)
    ]


def _steps(left: int, right: int, operations: str) -> Iterator[tuple[str, int]]:
    """One operation on two positive integers, as text and value; differences and quotients from the larger number."""
    low, high = sorted((left, right))
    if "+" in operations:
        yield f"{left}+{right}", left + right
    if "*" in operations:
        yield f"{left}*{right}", left * right
    if "-" in operations and high > low:
        yield f"{high}-{low}", high - low
    if "/" in operations and high % low == 0:
        yield f"{high}/{low}", high // low


def _nested(first: str, middle: int, second: str) -> str:
    """The second step with the first one, in brackets, in place of its value: "12*7", 84, "84-3" to "(12*7)-3"."""
    operator = next(character for character in second if character in "+-*/")
    left, right = second.split(operator)
    return f"({first}){operator}{right}" if left == str(middle) else f"{left}{operator}({first})"


def demonstrate(player: Player, numbers: Sequence[int], target: int, rng: random.Random) -> str:
    """One response of the player, whose last attempt is the one handed in."""
    seen = [attempt for attempt in attempts(numbers, player.thorough) if attempt.value <= PLAUSIBLE]
    right = [attempt for attempt in seen if attempt.value == target]
    wrong = [attempt for attempt in seen if attempt.value != target]
    tried: list[Attempt] = []
    while not tried or (tried[-1].value != target and len(tried) < MAX_ATTEMPTS and rng.random() < player.patience):
        tried.append(rng.choice(right if right and (not wrong or rng.random() < player.skill) else wrong))
    goal = f"{target}: " if player.states_goal else ""
    steps = "\n".join(attempt.steps for attempt in tried)
    return f"<think>{goal}{steps}</think><answer>{tried[-1].expression}</answer>"


def countdown_pair(row: dict, hasty: bool, rng: random.Random) -> tuple[str, str]:
    """An instance, its numbers in any order (each is the same instance), and a response."""
    numbers = rng.sample(row["numbers"], len(row["numbers"]))
    prompt = countdown.compact_prompt(numbers, row["target"])
    return prompt, demonstrate(HASTY if hasty else CAREFUL, numbers, row["target"], rng)


def paths_pair(row: dict, hasty: bool, rng: random.Random) -> tuple[str, str]:
    """An instance, its edges in any order (each is the same instance), and a response."""
    edges = rng.sample(row["edges"], len(row["edges"]))
    walk = walk_on(edges, row["start"], rng) if hasty else plan_back(edges, row["start"], row["goal"], rng)
    steps = [tail + head for tail, head in itertools.pairwise(walk)]
    plan = " ".join(steps) if hasty else f"{walk[-1]}: {' '.join(reversed(steps))}"
    return paths.prompt_of(edges, row["start"], row["goal"]), f"<think>{plan}</think><answer>{walk}</answer>"


def walk_on(edges: Sequence[str], start: str, rng: random.Random) -> str:
    """From the start along any edges, until there is none."""
    walk = start
    while onward := [edge[1] for edge in edges if edge[0] == walk[-1]]:
        walk += rng.choice(onward)
    return walk


def plan_back(edges: Sequence[str], start: str, goal: str, rng: random.Random) -> str:
    """Back from the goal, or now and then from another end, to the start: the nodes in walking order."""
    ends = sorted({edge[1] for edge in edges} - {edge[0] for edge in edges} - {goal})
    walk = rng.choice(ends) if ends and rng.random() > CAREFUL.skill else goal
    before = {edge[1]: edge[0] for edge in edges}
    while walk[0] != start:
        walk = before[walk[0]] + walk
    return walk


def products_pair(row: dict, hasty: bool, rng: random.Random) -> tuple[str, str]:
    """A question and a guess; or one turn of the two that a call takes: the call, or what follows the tool's value."""
    question = f"{row['a']}*{row['b']}"
    if hasty:
        guess = row["a"] * row["b"] + rng.choice((-1, 1)) * 10 ** rng.randrange(4)
        return f"<user>{question}<assistant>", f"<answer>{abs(guess)}</answer>"
    call = f"<call>calculator expression={question}</call>"
    if rng.random() < 0.5:
        return f"<user>{question}<assistant>", call
    value = row["a"] * row["b"]
    return f"<user>{question}<assistant>{call}<eos><tool>{value}<assistant>", f"<answer>{value}</answer>"


def relay_pair(row: dict, hasty: bool, rng: random.Random) -> tuple[str, str]:
    """An instance in one of the two variants, and a response whose key is at any of its first two thirds of places."""
    instance = relay.RelayInstance(row["opening"], row["first"], row["second"], row["fillers"])
    key = rng.choice(relay.KEYS[: relay.RelayOptions.keys]) if hasty else instance.first
    body = rng.choices(relay.FILLERS, k=instance.fillers)
    body.insert(rng.randint(0, 2 * instance.fillers // 3), key)
    silent = rng.random() < 0.5
    end = relay.SILENT + rng.choice(relay.FILLERS) if silent else relay.COPIED + key
    return relay.prompt_of(instance, silent), "".join(body) + end
