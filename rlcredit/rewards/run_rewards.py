"""The reward functions of a run: guarded, counted, and agreed on by all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import is_async_callable

from rlcredit.rewards.guards import AsyncGuardedReward, GuardedReward, RewardsStopped
from rlcredit.rewards.parts import Landing
from rlcredit.rewards.signature import check_signature, columns_of
from rlcredit.tasks.event_loop import result_of


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

    def steps_of(self, row: int) -> list[list[Landing] | None]:
        """Where the rewards of the steps of a completion of the last batch land, by function; None: at its end."""
        return [guard.steps.get(row) for guard in self._guards]

    def put_steps(self, rows: Sequence[Sequence[list[Landing] | None]]) -> None:
        """Take a batch put together of several for the last one: by row what `steps_of` gave."""
        for number, guard in enumerate(self._guards):
            guard.steps = {row: steps for row, by_guard in enumerate(rows) if (steps := by_guard[number]) is not None}

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
