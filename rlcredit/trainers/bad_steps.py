"""Steps whose loss or gradient is not finite are skipped and counted; too many in a row stop the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from rlcredit.errors import RunStopped
from rlcredit.trainers.policy_step import PolicyStep


class BadSteps(TrainerCallback):
    """Before each optimiser step: if any process saw a bad loss or gradient, drop the step on all of them.

    Args:
        accelerator: agrees on bad steps over all processes.
        step: the policy's step.
        limit: stop after this many in a row.
        log: called with the number of bad steps of the run, before each optimiser step.

    Attributes:
        total: bad steps of the run.
        in_a_row: bad steps since the last good one.
    """

    of_one_process = False  # all processes agree on each step

    def __init__(self, accelerator: Accelerator, step: PolicyStep, limit: int, log: Callable[[float], None]) -> None:
        self._accelerator, self._step, self._limit, self._log = accelerator, step, limit, log
        self._bad: Tensor | None = None
        self._batch: dict[str, Any] | None = None
        self.total = 0
        self.in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total, self.in_a_row = state["total"], state["in_a_row"]

    def watch(self, value: Tensor | float, batch: dict[str, Any] | None = None) -> None:
        """Note a loss or gradient norm (no device synchronisation); keep the batch in case the run has to stop."""
        value = torch.as_tensor(value).detach()
        if isinstance(value, DTensor):  # the gradient norm of weights that FSDP 2 has cut
            value = value.full_tensor()
        bad = ~torch.isfinite(value).all()
        self._bad = bad if self._bad is None else self._bad | bad
        self._batch = batch if batch is not None else self._batch

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # type: ignore[no-untyped-def]
        bad, self._bad = self._bad, None
        is_bad = bad is not None and self._accelerator.reduce(bad.float(), reduction="sum").item() > 0
        self.total += is_bad
        self.in_a_row = self.in_a_row + 1 if is_bad else 0
        self._log(float(self.total))
        if not is_bad:
            return
        self._step.drop(model)
        if self.in_a_row >= self._limit:
            self._stop(Path(args.output_dir), state.global_step + 1)

    def _stop(self, folder: Path, step: int) -> None:
        path = folder / f"bad_batch-step{step}-process{self._accelerator.process_index}.pt"
        tensors = {name: value for name, value in (self._batch or {}).items() if isinstance(value, Tensor)}
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, path)
        raise RunStopped(
            f"{self.in_a_row} steps in a row had a loss or gradient that is not finite; the last batch is "
            f"in {path}. Lower the learning rate, or resume from an earlier checkpoint"
        )
