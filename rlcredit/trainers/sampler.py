"""TRL's order of prompts, as a function of seed and epoch alone, so that a run resumed in a later epoch finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from trl.trainer.utils import RepeatSampler


class EpochSampler(RepeatSampler):
    """`RepeatSampler`, which shuffles from a generator that goes on from epoch to epoch, with the generator set to
    where it stands at the start of the current epoch.

    Args:
        epoch: returns the current epoch; called when iteration starts.
    """

    epoch: Callable[[], int]

    @classmethod
    def like(cls, sampler: RepeatSampler, epoch: Callable[[], int]) -> EpochSampler:
        """The same order as TRL's sampler."""
        copy = cls.__new__(cls)
        copy.__dict__.update(sampler.__dict__)
        copy.epoch = epoch
        return copy

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.num_samples, generator=self.generator)
        return super().__iter__()
