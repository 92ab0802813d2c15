"""Continuations: how good a state is, from what the policy itself makes of it (Monte Carlo estimates of values).

A state is a prompt and the first tokens of a response. K continuations are drawn from each *distinct* state, by
whatever generates, and each is rewarded as the whole response that it completes. The sample of a continuation depends
on the seed, the problem, the tokens of the state and its number alone: not on the batch, the order or the number of
processes (where the generator is `by_model`; vLLM has random streams of its own).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel

from rlcredit.evaluation.sampling import Sampling, continue_ids


class Prefix(NamedTuple):
    """A state that continuations start from.

    Attributes:
        problem: a number that is one problem's alone, 0 or more; prefixes of one problem have one prompt.
        prompt: its tokens.
        response: the tokens of the response so far.
        left: how many more a response may have.
    """

    problem: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    left: int

    def stream(self, sample: int) -> tuple[int, ...]:
        """What, with the seed, decides the continuation of that number."""
        digest = hashlib.blake2b(np.array(self.response, np.int64).tobytes(), digest_size=8)
        return self.problem, int.from_bytes(digest.digest(), "little"), sample


class Cost(NamedTuple):
    """What was drawn. Costs add up with `plus`.

    Attributes:
        continuations: how many.
        tokens: that were drawn, the closing ones included.
    """

    continuations: int = 0
    tokens: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.continuations + other.continuations, self.tokens + other.tokens)


Draw = tuple[Prefix, int]
"""A continuation to be drawn: the prefix, and the continuation's number among those of this prefix."""
Generate = Callable[[Sequence[Draw]], list[list[int]]]
"""Draws a batch: the tokens after each prefix, at least `left` of them or up to one that ends a response.
A batch may be empty (`Continuations.rounds`)."""
Score = Callable[[Sequence[int], Sequence[list[int]]], Sequence[float]]
"""Rewards whole responses: the problem of each, and its tokens -> a reward each, nan where there is none."""


class Continuations:
    """Draws continuations, rewards them and counts them.

    Args:
        generate: draws a batch of them.
        score: rewards the responses; called once, with all of them.
        samples: K, continuations of a prefix.
        ends: the tokens that end a response.
        batch_size: continuations of one batch.
        rounds: how many batches are drawn in place of the number given, where processes have to draw as many as each
            other; those in excess are empty.

    Attributes:
        cost: of all continuations so far.
    """

    def __init__(
        self,
        generate: Generate,
        score: Score,
        *,
        samples: int,
        ends: Collection[int],
        batch_size: int,
        rounds: Callable[[int], int] = lambda batches: batches,
    ) -> None:
        self._generate, self._score, self._rounds = generate, score, rounds
        self._samples, self._ends, self._batch_size = samples, frozenset(ends), batch_size
        self.cost = Cost()

    def rewards(self, prefixes: Sequence[Prefix]) -> np.ndarray:
        """The rewards of K continuations of each prefix: float64 [P, K], nan where there is none.

        Equal prefixes are continued once. A prefix that is a whole response already has its own reward, K times.
        """
        distinct = list(dict.fromkeys(prefixes))
        draws = [(prefix, sample) for prefix in distinct if not self._is_whole(prefix) for sample in self._numbers]
        responses = {draw: list(draw[0].response) + ids for draw, ids in zip(draws, self._drawn(draws), strict=True)}
        responses |= {(prefix, 0): list(prefix.response) for prefix in distinct if self._is_whole(prefix)}
        scores = self._score([prefix.problem for prefix, _ in responses], list(responses.values()))
        reward = dict(zip(responses, scores, strict=True))
        rows = [[reward.get((prefix, n), reward[prefix, 0]) for n in self._numbers] for prefix in prefixes]
        return np.array(rows, dtype=float).reshape(len(prefixes), self._samples)

    @property
    def _numbers(self) -> range:
        return range(self._samples)

    def _is_whole(self, prefix: Prefix) -> bool:
        return prefix.left <= 0 or (bool(prefix.response) and prefix.response[-1] in self._ends)

    def _drawn(self, draws: Sequence[Draw]) -> list[list[int]]:
        """The tokens of each continuation, drawn in batches of like length; no longer than its response may be."""
        order = sorted(range(len(draws)), key=lambda n: (draws[n][0].left, len(draws[n][0].prompt)))
        batches = [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]
        batches += [[]] * (self._rounds(len(batches)) - len(batches))
        found: dict[int, list[int]] = {}
        for batch in batches:
            drawn = self._generate([draws[n] for n in batch])
            found |= {n: ids[: draws[n][0].left] for n, ids in zip(batch, drawn, strict=True)}
        self.cost = self.cost.plus(Cost(len(draws), sum(map(len, found.values()))))
        return [found[n] for n in range(len(draws))]


def by_model(
    model: PreTrainedModel, sampling: Sampling, ends: Sequence[int], pad: int | None = None, *, read_once: bool = True
) -> Generate:
    """Continuations by transformers: temperature, top_p, top_k and the seed are those of `sampling`.

    Draws nothing from the global random streams and leaves the model in the mode it was in. `read_once`: a prefix
    passes through the model once for all of its continuations in a batch (see `continue_ids`).
    """

    def generate(draws: Sequence[Draw]) -> list[list[int]]:
        if not draws:  # one token, while other processes have more to draw
            continue_ids(model, [[ends[0]]], [(0, 0, 0)], replace(sampling, max_new_tokens=1), ends, pad)
            return []
        return continue_ids(
            model,
            [prefix.prompt + prefix.response for prefix, _ in draws],
            [prefix.stream(sample) for prefix, sample in draws],
            replace(sampling, max_new_tokens=max(prefix.left for prefix, _ in draws)),
            ends,
            pad,
            read_once=read_once,
        )

    return generate
