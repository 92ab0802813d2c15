"""Evaluation of a policy while it trains: the same samples, checkers and estimates as `rlcredit evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel

from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.samples import SampleTable, batches, draw, table
from rlcredit.evaluation.sampling import Sampling
from rlcredit.stats.estimates import summarize
from rlcredit.tasks.checkers.verdict import Checker


@dataclass(frozen=True)
class HeldOut:
    """What a policy in training is evaluated on.

    Attributes:
        tests: evaluation sets by name.
        check: the task's checker.
        sampling: temperature and the like.
        samples: completions a problem.
        batch_size: completions generated at once by each process.
        has_answers: whether the checker says what a completion answered.
        second: how the first set is answered a second time, under the name SET_tTEMPERATURE; None: it is not.
    """

    tests: Mapping[str, Dataset]
    check: Checker
    sampling: Sampling
    samples: int = 1
    batch_size: int = 32
    has_answers: bool = True
    second: Sampling | None = None

    def measure(
        self, model: PreTrainedModel, renderer: PromptRenderer, accelerator: Accelerator, *, in_step: bool = False
    ) -> dict[str, SampleTable]:
        """The samples of every set, over all processes; draws nothing from the global random streams.

        Args:
            in_step: every process generates as often as the others, as it has to where weights are sharded.
        """
        wanted = [(name, rows, self.sampling) for name, rows in self.tests.items()]
        if self.second is not None:
            name, rows, _ = wanted[0]
            wanted.append((second_name(name, self.second.temperature), rows, self.second))
        tables = {}
        for name, rows, sampling in wanted:
            cut = batches(rows, renderer, self.samples, self.batch_size)
            mine = cut[accelerator.process_index :: accelerator.num_processes]
            with accelerator.autocast():
                records = [
                    record for batch in mine for record in draw(model, renderer, rows, batch, sampling, self.check)
                ]
                for _ in range(-(-len(cut) // accelerator.num_processes) - len(mine) if in_step else 0):
                    draw(model, renderer, rows, cut[0], sampling, self.check)  # the others have a batch more
            tables[name] = table(gather_object(records), has_answers=self.has_answers)
        return tables

    @property
    def metric_names(self) -> list[str]:
        """What an evaluation logs, without the prefix: `SET/pass@1`, ..."""
        shape = 1, self.samples
        answers: list[list[str | None]] | None = [[None] * self.samples] if self.has_answers else None
        some = SampleTable(np.zeros(shape), answers, np.zeros(shape, int), np.zeros(shape, bool))
        sets = list(self.tests)
        sets += [second_name(sets[0], self.second.temperature)] if self.second is not None else []
        return [f"{name}/{key}" for name in sets for key in metrics_of(some)]


def second_name(name: str, temperature: float) -> str:
    """What a set is called at the second temperature: `countdown_t1`."""
    return f"{name}_t{temperature:g}"


def metrics_of(table: SampleTable) -> dict[str, float]:
    """The estimates of a set for a log: each value, and the 95 % interval of pass@1."""
    estimates = summarize(*table)
    metrics = {name: estimate.value for name, estimate in estimates.items()}
    return {**metrics, "pass@1_low": estimates["pass@1"].low, "pass@1_high": estimates["pass@1"].high}
