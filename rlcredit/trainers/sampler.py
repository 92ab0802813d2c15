"""Orders of prompts that depend on seed and count alone, so that a resumed run finds them: TRL's, and of new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
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


class NewPrompts:
    """Rows of the training set beside TRL's order: all of them, in an order of chance, before one returns.

    Attributes:
        drawn: how many were taken so far: the whole state.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._turn = -1, np.empty(0, dtype=int)  # the order at hand
        self.drawn = 0

    def take(self, count: int, seen: set[str]) -> list[dict[str, Any]]:
        """The next rows. Prompts that were seen are passed over where there are others; those taken are seen then."""
        taken: list[dict[str, Any]] = []
        passed = 0
        while len(taken) < count:
            row = self._dataset[self._place(self.drawn)]
            self.drawn += 1
            if str(row["prompt"]) in seen and passed < len(self._dataset):
                passed += 1
                continue
            taken.append(row)
            seen.add(str(row["prompt"]))
        return taken

    def _place(self, number: int) -> int:
        turn, place = divmod(number, len(self._dataset))
        if turn != self._turn[0]:  # by another generator than TRL's shuffles: its next prompts are not these
            self._turn = turn, np.random.default_rng([self._seed, turn]).permutation(len(self._dataset))
        return int(self._turn[1][place])
