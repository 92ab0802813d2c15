"""Batch arithmetic of a run, as TRL and transformers do it: how many rollouts and steps rows and settings come to."""

from __future__ import annotations

import math
from typing import NamedTuple

from rlcredit.errors import InputError
from rlcredit.trainers.grpo_config import CreditGRPOConfig


class Schedule(NamedTuple):
    """How a run is cut.

    Attributes:
        processes: how many there are.
        prompts: in one rollout, over all processes.
        completions: of them, generated at once.
        per_step: completions in one optimiser step.
        steps: optimiser steps of the run.
        steps_per_rollout: optimiser steps that use one rollout; below 1 where a step takes several.
    """

    processes: int
    prompts: int
    completions: int
    per_step: int
    steps: int
    steps_per_rollout: float

    @property
    def rollouts(self) -> int:
        return math.ceil(self.steps / self.steps_per_rollout - 1e-9)


def schedule_of(config: CreditGRPOConfig, processes: int, rows: int) -> Schedule:
    """The schedule of a run on so many rows of training data.

    TRL leaves out the last rows of an epoch, which do not fill a rollout.

    Raises: InputError if the rows fill none, so that the run would have no step.
    """
    together = config.per_device_train_batch_size * processes
    completions = together * config.steps_per_generation
    prompts = completions // config.num_generations
    if rows < prompts:
        raise InputError(
            f"steps_per_generation: a rollout takes {prompts} prompts ({completions} completions, "
            f"{config.num_generations} a prompt) and the training set has {rows} rows: the run would have no step; "
            "write fewer, or a smaller per_device_train_batch_size, or give more rows"
        )
    micro_steps = rows // prompts * config.steps_per_generation * config.num_iterations
    an_epoch = math.ceil(micro_steps / config.gradient_accumulation_steps)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * an_epoch)
    per_rollout = config.steps_per_generation * config.num_iterations / config.gradient_accumulation_steps
    return Schedule(
        processes,
        prompts,
        completions,
        together * config.gradient_accumulation_steps,
        steps,
        per_rollout,
    )
