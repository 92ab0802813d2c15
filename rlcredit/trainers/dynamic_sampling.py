"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups that teach nothing are replaced by new prompts.

A group whose rewards are all equal has no advantage. Once a rollout is rewarded, such groups are drawn anew with other
prompts, as many at a time as are missing, until none is left or `dynamic_sampling_max_rounds` is reached; those that
are left stay in the rollout, without an advantage.

[ours] DAPO draws whole batches and keeps what it needs; here only the missing groups are drawn. A group without any
score is not replaced: its rewards failed. Every process makes as many rounds, with as many prompts each, and knows the
rewards of all; a group that replaces another is handed to the processes that hold the other's rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor

from rlcredit.errors import InputError
from rlcredit.trainers.rows import total_of
from rlcredit.trainers.sampler import NewPrompts
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

if TYPE_CHECKING:  # a plan checks these settings, and imports no trainer
    from trl import GRPOTrainer

Generate = Callable[[list[Any]], tuple[Any, ...]]
"""TRL's `_generate`: of prompts eight values, `GIVEN`."""
GIVEN = ("prompt_ids", "completion_ids", "tool_mask", "completions", "logps", "extra_fields", "images", "tool_images")


def refuse_dynamic_sampling(args: SturdyGRPOConfig, others: Sequence[str], *, has_images: bool) -> None:
    """Refuse what is prepared for the prompts of a rollout before they are replaced.

    Args:
        others: the keys of what takes part in rollouts beside the policy.
        has_images: whether prompts have images.
    """
    if args.dynamic_sampling and "environment_factory" in others:
        raise InputError(
            "dynamic_sampling: environments are reset for the prompts of a rollout, before some are replaced; leave "
            "environment_factory or dynamic_sampling out"
        )
    if args.dynamic_sampling and has_images:
        raise InputError("dynamic_sampling: replaces prompts of text alone, and these have images; leave it out")


class Sampled(NamedTuple):
    """A completion, with all of it that another process needs.

    Attributes:
        row: the data set's, with what a rollout function added.
        given: its part of `GIVEN`; None where there is none.
        logged: what reward functions logged of it, by column.
        steps: where the rewards of its steps land, by function.
    """

    row: dict[str, Any]
    given: dict[str, Any]
    logged: dict[str, Any]
    steps: list[Any]

    @property
    def tokens(self) -> int:
        """Those that the model wrote."""
        mask = self.given["tool_mask"]
        return len(self.given["completion_ids"]) if mask is None else sum(mask)


class DynamicSampling:
    """Makes rollouts without groups that teach nothing, as far as the rounds reach.

    Args:
        trainer: a `SturdyGRPOTrainer`, whose rollouts they are.
        dataset: the training set.

    Attributes:
        scores: what each function gave the completions of the last rollout, of all processes: [B, F].
    """

    of_one_process = False  # every process draws the same prompts

    def __init__(self, trainer: GRPOTrainer, dataset: Any) -> None:
        if not isinstance(dataset, Dataset):
            raise InputError("dynamic_sampling: takes prompts by their number; write a training set that has a length")
        self._trainer, self._args, self._accelerator = trainer, trainer.args, trainer.accelerator
        self._prompts = NewPrompts(trainer._remove_unused_columns(dataset), trainer.args.seed)
        self.scores = torch.empty(0)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self._prompts.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._prompts.drawn = state["drawn"]

    def rollout(self, rows: list[dict[str, Any]], prompts: list[Any], generate: Generate) -> tuple[Any, ...]:
        """`GIVEN`, as TRL's `_generate` gives it, of the groups that are kept.

        Args:
            rows, prompts: of this process; those of replaced groups are replaced in place.
            generate: TRL's own.
        """
        own, scores = self._draw(rows, prompts, generate)
        size, first = self._args.num_generations, self._accelerator.process_index * len(own)
        equal = missing = self._groups(scores, useful=False)
        metrics = {"reward_drawn": self._reward(scores), "rounds": 0.0}
        cost, rejected = torch.zeros(2, device=scores.device), []
        seen = set(gather_object([str(prompt) for prompt in prompts]))
        with self._metrics_kept():
            while missing and metrics["rounds"] < self._args.dynamic_sampling_max_rounds:
                metrics["rounds"] += 1
                drawn, new = self._draw_anew(len(missing), seen, generate)
                cost += torch.tensor([len(drawn), sum(response.tokens for response in drawn)], device=cost.device)
                found = self._groups(new, useful=True)[: len(missing)]
                filled, missing = missing[: len(found)], missing[len(found) :]
                places, numbers = _rows_of(filled, size), _rows_of(found, size)
                rejected += [scores[places]] * bool(places)
                scores[places] = new[numbers]
                for place, response in zip(places, self._handed_out(drawn, numbers), strict=True):
                    if 0 <= place - first < len(own):
                        own[place - first] = response
        completions, tokens = self._accelerator.reduce(cost, reduction="sum").tolist()
        groups = len(scores) // size
        metrics |= {"equal_share": len(equal) / groups, "replaced_share": (len(equal) - len(missing)) / groups}
        metrics |= {"completions": completions, "tokens": tokens}
        if rejected:
            metrics["reward_rejected"] = self._reward(torch.cat(rejected))
        for name, value in metrics.items():
            self._trainer._metrics["train"][f"dynamic_sampling/{name}"].append(value)
        self.scores = scores
        return self._as_given(own, rows, prompts)

    def _draw(
        self, rows: Sequence[dict[str, Any]], prompts: list[Any], generate: Generate
    ) -> tuple[list[Sampled], Tensor]:
        """Completions of this process, and the scores of those of all processes."""
        given = dict(zip(GIVEN, generate(prompts), strict=True))
        more = given.pop("extra_fields")
        whole = [
            row | {name: values[n] if isinstance(values, list) else values for name, values in more.items()}
            for n, row in enumerate(rows)
        ]
        scores = self._trainer.scored(whole, prompts, given["completions"], given["completion_ids"])
        logged = self._trainer._pending_extra_logs
        responses = [
            Sampled(
                row,
                {name: values[n] if values else None for name, values in given.items()},
                {column: values[n] for column, values in logged.items() if n < len(values)},
                self._trainer.rewards.steps_of(n),
            )
            for n, row in enumerate(whole)
        ]
        logged.clear()
        return responses, scores

    def _draw_anew(self, missing: int, seen: set[str], generate: Generate) -> tuple[list[Sampled], Tensor]:
        """Completions of new prompts for the missing groups: of a few more where these do not spread evenly."""
        size, processes = self._args.num_generations, self._accelerator.num_processes
        evenly = processes // math.gcd(processes, size)
        taken = self._prompts.take(-(-missing // evenly) * evenly, seen)
        count = len(taken) * size // processes
        first = self._accelerator.process_index * count
        rows = [dict(taken[number // size]) for number in range(first, first + count)]
        return self._draw(rows, [row["prompt"] for row in rows], generate)

    def _handed_out(self, drawn: list[Sampled], numbers: list[int]) -> list[Sampled]:
        """The completions with these numbers, of all processes."""
        first = self._accelerator.process_index * len(drawn)
        own = [(number, drawn[number - first]) for number in numbers if 0 <= number - first < len(drawn)]
        everywhere = dict(gather_object(own))
        return [everywhere[number] for number in numbers]

    def _groups(self, scores_BF: Tensor, *, useful: bool) -> list[int]:
        """The groups whose rewards differ; or, where some are scored, those whose rewards are all equal."""
        apart = self._args.multi_objective_aggregation == "normalize_then_sum"  # each function has its own advantage
        rewards = scores_BF[:, self._weights != 0] if apart else total_of(scores_BF, self._weights)[:, None]
        differ = groups_that_differ(rewards, self._args.num_generations)
        scored = ~scores_BF.isnan().all(1).view(-1, self._args.num_generations).all(1)
        chosen = differ if useful else ~differ & scored
        return chosen.nonzero()[:, 0].tolist()

    @property
    def _weights(self) -> Tensor:
        return self._trainer.reward_weights.to(self._accelerator.device)

    def _reward(self, scores_BF: Tensor) -> float:
        """The mean reward of those that have one."""
        return total_of(scores_BF, self._weights).nanmean().item()

    @contextmanager
    def _metrics_kept(self) -> Iterator[None]:
        """Lengths and the like are of the first draw: of the policy, not of what was chosen."""
        metrics = self._trainer._metrics["train"]
        before = {name: len(values) for name, values in metrics.items()}
        yield
        for name, values in list(metrics.items()):
            metrics[name] = values[: before.get(name, 0)]
            if not metrics[name]:
                del metrics[name]

    def _as_given(self, own: list[Sampled], rows: list[dict[str, Any]], prompts: list[Any]) -> tuple[Any, ...]:
        rows[:], prompts[:] = [response.row for response in own], [response.row["prompt"] for response in own]
        self._trainer.rewards.put_steps([response.steps for response in own])
        for column in {column for response in own for column in response.logged}:
            self._trainer._pending_extra_logs[column] = [response.logged.get(column) for response in own]
        given: dict[str, Any] = {name: [response.given[name] for response in own] for name in own[0].given}
        given = {name: None if all(x is None for x in values) else values for name, values in given.items()}
        given |= {"extra_fields": {}, "tool_images": given["tool_images"] or []}
        return tuple(given[name] for name in GIVEN)


def groups_that_differ(rewards_BR: Tensor, size: int) -> Tensor:
    """Whether the rewards within each group of `size` rows differ, in some column: bool [B / size].

    nan, no reward, differs from nothing.
    """
    rewards = rewards_BR.view(-1, size, rewards_BR.shape[1])
    top, bottom = rewards.nan_to_num(nan=-math.inf).amax(1), rewards.nan_to_num(nan=math.inf).amin(1)
    return (top > bottom).any(1)


def _rows_of(groups: Sequence[int], size: int) -> list[int]:
    return [group * size + place for group in groups for place in range(size)]
