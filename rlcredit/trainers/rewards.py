"""Rewards that fail: a completion that cannot be scored is left out, a reward function that is wrong ends the run.

A signature or a number of scores that is wrong is the user's to mend: `InputError`. An exception, a time-out or a
score that is not finite makes that completion unscored: it gets no advantage and the run goes on. None keeps TRL's
meaning, "this reward does not apply here"; a completion for which every reward says None is unscored too.

A server that does not answer concerns every completion: the call is repeated, and the run stops with a checkpoint if
that does not help.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from accelerate.utils import gather_object
from torch import nn

from rlcredit.errors import InputError, RunStopped
from rlcredit.tasks.base import result_of

logger = logging.getLogger(__name__)

# What TRL passes to a reward function beside the columns of the data set.
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# Row by row, give up on the rest of a batch after this many time-outs: each leaves a thread that cannot be stopped.
TIMEOUTS_PER_BATCH = 3
# What means that a server is away, by the class of the exception (Python's, requests', httpx's, aiohttp's, urllib's)
# or by the status that it answers with.
OUTAGES = frozenset({"ConnectionError", "TransportError", "ClientConnectionError", "URLError"})
OUTAGE_STATUS = frozenset({429, 502, 503, 504})


class RewardsStopped(RunStopped):
    """A reward that the run cannot go on without."""


def check_signature(reward: Callable, columns: Iterable[str]) -> None:
    """Raise an InputError unless the function takes what TRL passes: by name, the data set's columns among it."""
    passed = {name: None for name in (*TRL_ARGUMENTS, *columns) if name != "prompt"}
    try:
        inspect.signature(reward).bind(**passed)
    except TypeError as error:
        raise InputError(
            f"reward {_name(reward)!r}: {error}; write def {_name(reward)}(completions, **kwargs)"
        ) from error


class GuardedRewards:
    """The reward functions of a run, guarded; reward models and their names stay as they are.

    Args:
        rewards: what TRL's trainer takes: a function, a model, a name, or a list of them.
        columns: the columns of the training set.
        timeout, retries: as for `GuardedReward`.

    Attributes:
        functions: the same, for TRL's trainer.
    """

    def __init__(self, rewards: Any, columns: Iterable[str], timeout: float | None, retries: int) -> None:
        self._guards: list[GuardedReward] = []

        def guarded(reward: Any) -> Any:
            if not callable(reward) or isinstance(reward, nn.Module):
                return reward
            check_signature(reward, columns)
            self._guards.append(GuardedReward(reward, timeout, retries))
            return self._guards[-1]

        self.functions = [guarded(reward) for reward in rewards] if isinstance(rewards, list) else guarded(rewards)

    @property
    def failed(self) -> set[int]:
        """The rows of the last batch that one of the functions could not score."""
        return set().union(*(guard.failed for guard in self._guards))

    def agree(self) -> None:
        """Raise, on every process, what a function cannot go on from on one of them."""
        errors = [(type(guard.error), str(guard.error)) for guard in self._guards if guard.error is not None]
        for kind, reason in gather_object(errors):
            raise kind(reason)


class GuardedReward:
    """A reward function whose failures concern single completions.

    Args:
        reward: a TRL reward function, plain or async: (prompts, completions, **columns) -> a score for each.
        timeout: seconds for one call, or None.
        retries: how often a call is repeated whose server does not answer, after 1, 2, 4, ... seconds.

    Attributes:
        failed: the rows of the last call that raised, timed out or got a score that is not finite.
        error: what ends the run, or None. It is kept, not raised: other processes are waiting for the scores, so all
            have to raise it together.
    """

    def __init__(self, reward: Callable, timeout: float | None = None, retries: int = 0) -> None:
        functools.update_wrapper(self, reward, updated=())
        self.__name__ = _name(reward)
        self._reward, self._timeout, self._retries = reward, timeout, retries
        self._reported: set[str] = set()
        self.failed: set[int] = set()
        self.error: InputError | RewardsStopped | None = None

    def __call__(self, prompts: Sequence, completions: Sequence, **columns: Any) -> list[float | None]:
        """Scores of all completions; nan for those that could not be scored."""
        self.failed, self.error = set(), None
        log_extra = columns.pop("log_extra", None)
        try:
            try:
                scores, extras = self._score(prompts, completions, columns)
            except (InputError, RewardsStopped):
                raise
            except Exception as error:  # whatever a user's function raises: find the completions that cause it
                self._report(error)
                scores, extras = self._score_rows(prompts, completions, columns)
        except (InputError, RewardsStopped) as error:
            self.error = error
            return [math.nan] * len(completions)
        if log_extra is not None:
            for column, values in extras.items():
                log_extra(column, values)
        self.failed |= {row for row, score in enumerate(scores) if score is not None and not math.isfinite(score)}
        return [math.nan if row in self.failed else score for row, score in enumerate(scores)]

    def _score(
        self, prompts: Sequence, completions: Sequence, columns: dict[str, Any]
    ) -> tuple[list, dict[str, list]]:
        """One call of the function: its scores, and what it logged (kept back until the call has succeeded)."""
        extras: dict[str, list] = {}

        def log_extra(column: str, values: list) -> None:
            extras.setdefault(column, []).extend(values)

        def call() -> Any:
            extras.clear()  # what an attempt before logged
            return self._reward(prompts=prompts, completions=completions, log_extra=log_extra, **columns)

        scores = self._answer(call)
        if isinstance(scores, str) or not isinstance(scores, Iterable):
            raise InputError(f"reward {self.__name__!r} returned {type(scores).__name__}; return a list of numbers")
        scores = list(scores)
        if len(scores) != len(completions):
            raise InputError(
                f"reward {self.__name__!r} returned {len(scores)} scores for {len(completions)} "
                "completions; return exactly one for each"
            )
        return [self._number(score) for score in scores], extras

    def _answer(self, call: Callable[[], Any]) -> Any:
        """The call's result, asked for again while a server is away. Raises: RewardsStopped if it stays away."""
        for attempt in range(self._retries + 1):
            try:
                return _within(self._timeout, call)
            except Exception as error:
                if not _is_outage(error):
                    raise
                last, wait = error, 2.0**attempt
            if attempt < self._retries:
                logger.warning(
                    "reward %r: no server (%s: %s); asking again in %g s",
                    self.__name__,
                    type(last).__name__,
                    last,
                    wait,
                )
                time.sleep(wait)
        raise RewardsStopped(
            f"reward {self.__name__!r}: its server did not answer {self._retries + 1} times "
            f"({type(last).__name__}: {' '.join(str(last).split())[:160]})"
        ) from last

    def _score_rows(self, prompts: Sequence, completions: Sequence, columns: dict[str, Any]) -> tuple[list, dict]:
        """Call the function once for each completion."""
        scores: list[float | None] = []
        extras: dict[str, list] = {}
        timeouts = 0
        for row in range(len(completions)):
            columns_of_row = {name: _row(value, row, len(completions)) for name, value in columns.items()}
            logged: dict[str, list] = {}
            try:
                if timeouts >= TIMEOUTS_PER_BATCH:
                    raise TimeoutError("too many time-outs in this batch")
                (score,), logged = self._score(prompts[row : row + 1], completions[row : row + 1], columns_of_row)
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

    def _number(self, score: Any) -> float | None:
        if score is None:
            return None
        try:
            return float(score)
        except (TypeError, ValueError) as error:
            raise InputError(f"reward {self.__name__!r} returned the score {score!r}; return numbers") from error

    def _report(self, error: Exception) -> None:
        """Say each kind of failure once."""
        kind = f"{type(error).__name__}: {error}"[:200]
        if kind not in self._reported:
            self._reported.add(kind)
            logger.warning("reward %r failed (%s); such completions stay unscored", self.__name__, kind)


def _is_outage(error: Exception) -> bool:
    answer = getattr(error, "response", error)
    for name in ("status_code", "status", "code"):
        if isinstance(status := getattr(answer, name, None), int):
            return status in OUTAGE_STATUS
    return any(kind.__name__ in OUTAGES for kind in type(error).__mro__)


def _within(timeout: float | None, call: Callable[[], Any]) -> Any:
    """The call's result, an async one awaited; TimeoutError after `timeout` seconds (its thread is left behind)."""

    def run() -> Any:
        return result_of(call())

    if timeout is None:
        return run()
    outcome: dict[str, Any] = {}

    def worker() -> None:
        try:
            outcome["result"] = run()
        except BaseException as error:  # handed to the caller's thread below
            outcome["error"] = error

    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TimeoutError(f"no answer within {timeout} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def _row(value: Any, row: int, rows: int) -> Any:
    """A column cut to one row; what is no column stays as it is."""
    return value[row : row + 1] if isinstance(value, list) and len(value) == rows else value


def _name(reward: Callable) -> str:
    return getattr(reward, "__name__", type(reward).__name__)
