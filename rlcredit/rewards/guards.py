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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import is_async_callable

from rlcredit.errors import InputError, RunStopped
from rlcredit.rewards.parts import Landing, is_parts, landings, total_of_parts
from rlcredit.rewards.signature import check_signature, columns_of, name_of
from rlcredit.tasks.event_loop import event_loop, result_of, within

logger = logging.getLogger(__name__)

# Row by row, give up on the rest of a batch after this many time-outs.
TIMEOUTS_PER_BATCH = 3
FRAMES = 3  # of a traceback that ends a run
# What means that a server is away, by the class of the exception (Python's, requests', httpx's, aiohttp's, urllib's)
# or by the status that it answers with.
OUTAGES = frozenset({"ConnectionError", "TransportError", "ClientConnectionError", "URLError"})
OUTAGE_STATUS = frozenset({429, 502, 503, 504})


class RewardsStopped(RunStopped):
    """A reward that the run cannot go on without."""


class RewardSettings(Protocol):
    """What a run's configuration says of its rewards."""

    reward_timeout: float | None
    reward_retries: int
    reward_rescore: bool
    max_unscored_rollouts: int


class GuardedRewards:
    """The reward functions of a run, guarded; reward models and their names stay as they are.

    Args:
        rewards: what TRL's trainer takes: a function, a model, a name, or a list of them.
        dataset: the training set, whose columns they are given.
        args: the run's settings of rewards, as `SturdyGRPOConfig` documents them.
        environments: whether TRL passes the environments of the completions.
        extra_columns: whether more columns may come than the data set has, from a rollout function.

    Attributes:
        functions: the same, for TRL's trainer; their metrics have different names.
        unscored: completions of the run without any score.
        rollouts: how many rollouts these were in.
    """

    of_one_process = False  # scores are those of all processes

    def __init__(
        self, rewards: Any, dataset: Any, args: RewardSettings, *, environments: bool, extra_columns: bool
    ) -> None:
        self._guards: list[GuardedReward] = []
        self._args = args
        columns = columns_of(dataset)

        def guarded(reward: Any) -> Any:
            if not callable(reward) or isinstance(reward, nn.Module):
                return reward
            check_signature(
                reward, columns or (), environments=environments, extra_columns=extra_columns or columns is None
            )
            kind = AsyncGuardedReward if is_async_callable(reward) else GuardedReward
            guard = kind(reward, args.reward_timeout, args.reward_retries, rescore=args.reward_rescore)
            same = sum(other.given_name == guard.given_name for other in self._guards)
            guard.__name__ = f"{guard.given_name}_{same + 1}" if same else guard.given_name
            self._guards.append(guard)
            return guard

        self.functions = [guarded(reward) for reward in rewards] if isinstance(rewards, list) else guarded(rewards)
        self.unscored = self.rollouts = 0
        self._empty_in_a_row = 0

    @property
    def failed(self) -> set[int]:
        """The rows of the last batch that one of the functions could not score."""
        return set().union(*(guard.failed for guard in self._guards))

    def use(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The policy's tokenizer, which says at which token a step of a text ends."""
        for guard in self._guards:
            guard.tokenizer = tokenizer

    def landings(self, scores_BF: Tensor, weights_F: Tensor, lengths: Sequence[int]) -> list[list[Landing]]:
        """Where the rewards of each completion of the last batch land, times the weights of their functions.

        Args:
            scores_BF: what each function gave, nan where it gave nothing; one number lands at the last token.
            lengths: tokens of each completion.
        """
        functions = self.functions if isinstance(self.functions, list) else [self.functions]
        steps_F = [function.steps if isinstance(function, GuardedReward) else {} for function in functions]
        steps_F += [{}] * (scores_BF.shape[1] - len(steps_F))  # TRL adds the rewards of environments
        landed: list[list[Landing]] = []
        for row, scores_F in enumerate(scores_BF.tolist()):
            of_row: list[Landing] = []
            for score, weight, steps in zip(scores_F, weights_F.tolist(), steps_F, strict=True):
                if not math.isnan(score):
                    whole = [(lengths[row] - 1, score)]
                    of_row += [(place, weight * reward) for place, reward in steps.get(row, whole)]
            landed.append(of_row)
        return landed

    def of_others(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any], at_once: int
    ) -> Tensor:
        """What each function gives completions that are not the run's own, such as continuations: [B, F].

        nan where it gives nothing. Every process calls `agree` after it.

        Args:
            columns: what the functions are given beside them; lists have an entry a completion.
            at_once: completions of one call, which a time limit is for.
        """
        by_function = [_in_parts(guard, prompts, completions, columns, at_once) for guard in self._guards]
        return torch.tensor([[math.nan if x is None else x for x in scores] for scores in by_function]).T

    @property
    def are_functions(self) -> bool:
        """Whether all of them are functions, none a model."""
        return len(self._guards) == (len(self.functions) if isinstance(self.functions, list) else 1)

    def agree(self) -> None:
        """Raise, on every process, what a function cannot go on from on one of them."""
        errors = [(type(guard.error), str(guard.error)) for guard in self._guards if guard.error is not None]
        for kind, reason in gather_object(errors):
            raise kind(reason)

    def count(self, unscored: int, completions: int) -> None:
        """Note how many completions of a rollout have no score.

        Raises: RewardsStopped, on every process, if none has one and that was so `max_unscored_rollouts` times in a
            row: a run that is taught nothing.
        """
        self.unscored += unscored
        self.rollouts += unscored > 0
        self._empty_in_a_row = self._empty_in_a_row + 1 if unscored == completions else 0
        if self._empty_in_a_row < self._args.max_unscored_rollouts:
            return
        self._empty_in_a_row = 0  # a run that goes on from here has another try
        causes = gather_object([(guard.__name__, guard.cause) for guard in self._guards if guard.failed])
        name, cause = next(((name, cause) for name, cause in causes if cause), ("", ""))
        reason = f"reward {name!r} raised {cause.splitlines()[-1]}" if cause else "no reward gave a number"
        advice = "mend it" + (
            "" if self._args.reward_rescore else ", or write reward_rescore: true to lose only completions that raise"
        )
        raise RewardsStopped(
            f"none of the {completions} completions of a rollout has a score: {reason}; {advice}", cause
        )

    def state_dict(self) -> dict[str, int]:
        return {"unscored": self.unscored, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.unscored, self.rollouts = state["unscored"], state["rollouts"]


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

    def __call__(self, prompts: Sequence, completions: Sequence, **columns: Any) -> Any:
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
        self.failed, self.cause, self.error, self.steps = set(), "", None, {}
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
        self.failed |= {row for row, score in enumerate(scores) if score is not None and not math.isfinite(score)}
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
            return self._reward(prompts=prompts, completions=completions, log_extra=log_extra, **columns)

        scores = await self._answer(call)
        if isinstance(scores, str) or not isinstance(scores, Iterable):
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
        kind = f"{type(error).__name__}: {error}"[:200]
        if kind not in self._reported:
            self._reported.add(kind)
            logger.warning("reward %r failed (%s); such completions stay unscored", self.__name__, kind)


class AsyncGuardedReward(GuardedReward):
    """An async reward function, guarded: on the one event loop that all of them share, beside the others."""

    async def __call__(self, prompts: Sequence, completions: Sequence, **columns: Any) -> list[float | None]:
        scoring = self._guarded(prompts, completions, columns)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(scoring, event_loop()))

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await asyncio.wait_for(call(), self._timeout)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _in_parts(
    guard: GuardedReward, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any], at_once: int
) -> list[float | None]:
    """The scores of so many completions a call, up to an error that ends the run."""
    scores: list[float | None] = []
    for first in range(0, len(completions), at_once):
        part = slice(first, first + at_once)
        own = {name: value[part] if isinstance(value, list) else value for name, value in columns.items()}
        scores += result_of(guard(prompts=prompts[part], completions=completions[part], **own))
        if guard.error is not None:
            break
    return scores + [math.nan] * (len(completions) - len(scores))


def _is_outage(error: Exception) -> bool:
    answer = getattr(error, "response", error)
    for name in ("status_code", "status", "code"):
        if isinstance(status := getattr(answer, name, None), int):
            return status in OUTAGE_STATUS
    return any(kind.__name__ in OUTAGES for kind in type(error).__mro__)


def _row(value: Any, row: int, rows: int) -> Any:
    """A column cut to one row; what is no column stays as it is."""
    return value[row : row + 1] if isinstance(value, list) and len(value) == rows else value
