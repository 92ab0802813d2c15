"""Rewards that fail: a completion that cannot be scored is left out, a reward function that is wrong ends the run.

A signature or a number of scores that is wrong is the user's to mend: `InputError`. An exception or a time-out leaves
the completions of that call unscored (with `reward_rescore` only those that cause it), a score that is not finite its
own: they get no advantage, and the run goes on while some completion of a rollout has a score. None keeps TRL's
meaning, "this reward does not apply here"; a completion for which every reward says None is unscored too.

A server that does not answer concerns every completion: the call is repeated, and the run stops with a checkpoint if
that does not help.

A function may reward the steps of a completion (`rlcredit.rewards.parts`); TRL is given the sum.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlcredit.errors import InputError, RunStopped
from rlcredit.rewards.parts import Landing, is_parts, landings, total_of_parts
from rlcredit.rewards.signature import name_of
from rlcredit.tasks.event_loop import event_loop, within

logger = logging.getLogger(__name__)

# Row by row, give up on the rest of a batch after this many time-outs.
TIMEOUTS_PER_BATCH = 3
LARGEST = torch.finfo(torch.float32).max  # TRL holds scores so
FRAMES = 3  # of a traceback that ends a run
# What means that a server is away, by the class of the exception (Python's, requests', httpx's, aiohttp's, urllib's)
# or by the status that it answers with.
OUTAGES = frozenset({"ConnectionError", "TransportError", "ClientConnectionError", "URLError"})
OUTAGE_STATUS = frozenset({429, 502, 503, 504})


class RewardsStopped(RunStopped):
    """A reward that the run cannot go on without."""


class GuardedReward:
    """A reward function whose failures concern completions, not the run.

    Args:
        reward: a TRL reward function: (prompts, completions, **columns) -> a score for each.
        timeout: seconds for one call, or None.
        retries: how often a call is repeated whose server does not answer, after 1, 2, 4, ... seconds.
        rescore: after a call that raised, call once for each completion, to lose only those that cause it.
        tokenizer: the policy's, for rewards of parts of a text.

    Attributes:
        steps: where rewards land, by the rows of the last call that were given more than one number.
        failed: the rows of the last call that raised, timed out or got a score that is not finite.
        cause: the last frames of what the last call raised, or "".
        error: what ends the run, or None. It is kept, not raised: other processes are waiting for the scores, so all
            have to raise it together.
    """

    def __init__(
        self,
        reward: Callable,
        timeout: float | None = None,
        retries: int = 0,
        *,
        rescore: bool = False,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        functools.update_wrapper(self, reward, updated=())
        self.given_name = self.__name__ = name_of(reward)
        self._reward, self._timeout, self._retries, self._rescore = reward, timeout, retries, rescore
        self._reported: set[str] = set()
        self.tokenizer = tokenizer
        self.steps: dict[int, list[Landing]] = {}
        self.failed: set[int] = set()
        self.cause = ""
        self.error: InputError | RewardsStopped | None = None

    def __call__(self, /, prompts: Sequence, completions: Sequence, **columns: Any) -> Any:
        """Scores of all completions; nan for those that could not be scored."""
        scoring = self._guarded(prompts, completions, columns)
        try:
            scoring.send(None)
        except StopIteration as ended:  # a coroutine that never waits runs to its end at once
            return ended.value
        raise RuntimeError("a plain reward function waited for something")

    async def _call(self, call: Callable[[], Any]) -> Any:
        return within(self._timeout, call)

    async def _wait(self, seconds: float) -> None:
        time.sleep(seconds)

    async def _guarded(self, prompts: Sequence, completions: Sequence, columns: dict[str, Any]) -> list[float | None]:
        self.failed, self.cause, self.kind, self.error, self.steps = set(), "", "", None, {}
        log_extra = columns.pop("log_extra", None)
        given: list[float | list[Landing] | None]
        extras: dict[str, list]
        try:
            try:
                given, extras = await self._score(prompts, completions, columns)
            except (InputError, RewardsStopped):
                raise
            except Exception as error:  # whatever a user's function raises
                self._report(error)
                if self._rescore and len(completions) > 1:
                    given, extras = await self._score_rows(prompts, completions, columns)
                else:
                    given, extras = [math.nan] * len(completions), {}
        except (InputError, RewardsStopped) as error:
            self.error = error
            return [math.nan] * len(completions)
        if log_extra is not None:
            for column, values in extras.items():
                log_extra(column, values)
        self.steps = {row: steps for row, steps in enumerate(given) if isinstance(steps, list)}
        scores = [total_of_parts(score) if isinstance(score, list) else score for score in given]
        self.failed |= {row for row, score in enumerate(scores) if score is not None and not abs(score) <= LARGEST}
        return [math.nan if row in self.failed else score for row, score in enumerate(scores)]

    async def _score(
        self, prompts: Sequence, completions: Sequence, columns: dict[str, Any]
    ) -> tuple[list[float | list[Landing] | None], dict[str, list]]:
        """One call of the function: its scores, and what it logged (kept back until the call has succeeded)."""
        extras: dict[str, list] = {}

        def log_extra(column: str, values: list) -> None:
            extras.setdefault(column, []).extend(values)

        def call() -> Any:
            extras.clear()  # what an attempt before logged
            try:
                return self._reward(prompts=prompts, completions=completions, log_extra=log_extra, **columns)
            except SystemExit as error:  # it would end the run as if all were well
                raise RuntimeError(f"SystemExit: {error.code}") from error

        scores = await self._answer(call)
        if isinstance(scores, str | bytes | Mapping | Set) or not isinstance(scores, Iterable):
            raise InputError(f"reward {self.__name__!r} returned {type(scores).__name__}; return a list of numbers")
        scores = list(scores)
        if len(scores) != len(completions):
            raise InputError(
                f"reward {self.__name__!r} returned {len(scores)} scores for {len(completions)} "
                "completions; return exactly one for each"
            )
        ids = columns.get("completion_ids", [()] * len(completions))
        return [self._given(*row) for row in zip(scores, completions, ids, strict=True)], extras

    async def _answer(self, call: Callable[[], Any]) -> Any:
        """The call's result, asked for again while a server is away. Raises: RewardsStopped if it stays away."""
        for attempt in range(self._retries + 1):
            try:
                return await self._call(call)
            except Exception as error:
                if not _is_outage(error):
                    raise
                last, kind, wait = error, type(error).__name__, 2.0**attempt
            if attempt < self._retries:
                logger.warning("reward %r: no server (%s: %s); asking again in %g s", self.__name__, kind, last, wait)
                await self._wait(wait)
        raise RewardsStopped(
            f"reward {self.__name__!r}: its server did not answer {self._retries + 1} times "
            f"({kind}: {' '.join(str(last).split())[:160]})"
        ) from last

    async def _score_rows(
        self, prompts: Sequence, completions: Sequence, columns: dict[str, Any]
    ) -> tuple[list[float | list[Landing] | None], dict[str, list]]:
        """Call the function once for each completion."""
        scores: list[float | list[Landing] | None] = []
        extras: dict[str, list] = {}
        timeouts = 0
        for row in range(len(completions)):
            columns_of_row = {name: _row(value, row, len(completions)) for name, value in columns.items()}
            logged: dict[str, list] = {}
            try:
                if timeouts >= TIMEOUTS_PER_BATCH:
                    raise TimeoutError("too many time-outs in this batch")
                (score,), logged = await self._score(
                    prompts[row : row + 1], completions[row : row + 1], columns_of_row
                )
            except (InputError, RewardsStopped):
                raise
            except Exception as error:
                timeouts += isinstance(error, TimeoutError)
                self._report(error)
                self.failed.add(row)
                score = math.nan
            scores.append(score)
            for column in extras.keys() | logged.keys():
                earlier = extras.setdefault(column, [None] * row)
                earlier.extend(logged.get(column, [None]))
        return scores, extras

    def _given(self, score: Any, completion: Any, ids: Sequence[int]) -> float | list[Landing] | None:
        """The reward of one completion, or of its steps."""
        if isinstance(score, np.ndarray | Tensor):
            score = score.tolist()
        if is_parts(score):
            try:
                return landings(score, completion, ids, self.tokenizer)
            except ValueError as error:
                raise InputError(f"reward {self.__name__!r} returned {error}") from error
        if score is None:
            return None
        try:
            return float(score)
        except (TypeError, ValueError) as error:
            raise InputError(f"reward {self.__name__!r} returned the score {score!r}; return numbers") from error

    def _report(self, error: Exception) -> None:
        """Keep the last frames, and say each kind of failure once."""
        self.cause = "".join(
            traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES)
        ).strip()
        kind = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        self.kind = kind
        if kind not in self._reported:
            self._reported.add(kind)
            logger.warning("reward %r failed (%s); such completions stay unscored", self.__name__, kind)


class AsyncGuardedReward(GuardedReward):
    """An async reward function, guarded: on the one event loop that all of them share, beside the others."""

    async def __call__(self, /, prompts: Sequence, completions: Sequence, **columns: Any) -> list[float | None]:
        scoring = self._guarded(prompts, completions, columns)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(scoring, event_loop()))

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await asyncio.wait_for(call(), self._timeout)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_outage(error: Exception) -> bool:
    answer = getattr(error, "response", error)
    for name in ("status_code", "status", "code"):
        if isinstance(status := getattr(answer, name, None), int):
            return status in OUTAGE_STATUS
    return any(kind.__name__ in OUTAGES for kind in type(error).__mro__)


def _row(value: Any, row: int, rows: int) -> Any:
    """A column cut to one row; what is no column stays as it is."""
    return value[row : row + 1] if isinstance(value, list) and len(value) == rows else value
