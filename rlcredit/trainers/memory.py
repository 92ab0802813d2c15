"""What TRL and credit keep of a run in memory only: taken for a checkpoint, and put back, so that a resumed run is the
same run bit for bit.

TRL keeps the micro-step count, the buffered rollouts and the metrics not yet logged; credit keeps frozen head groups.
States hold tensors and plain values only, which `weights_only` loads. `trainer` is a `CreditGRPOTrainer` throughout.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer

from rlcredit.signals import HeadGroups

# Attributes of TRL's trainer that hold a run's state in memory only.
TRL_MEMORY = ("_step", "_buffered_inputs", "_entropy_window_stats", "_current_train_step_time")
# Settings that frozen head groups depend on: where one has changed, the groups are calibrated anew.
HEAD_SETTINGS = (
    "credit_head_grouping",
    "credit_layers",
    "credit_num_layers",
    "credit_head_fraction",
    "credit_heads",
    "credit_fai_horizon",  # receiver heads are ranked by FAI
)


class Memory(TrainerCallback):
    """Puts a resumed run's state back before its first step, and remembers the state at the start of each step.

    Attributes:
        resumed: the state of a checkpoint, to be put back after transformers has set its own; None if there is none.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self.resumed: dict[str, Any] | None = None
        self._at_step: dict[str, Any] = {"step": None}

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self.resumed is not None:
            restore(self._trainer, self.resumed)
            self.resumed = None

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self._at_step = {
            "step": state.global_step,
            "tokens": state.num_input_tokens_seen,
            "memory": take(self._trainer),
            "random": _random_state(self._trainer),
        }

    def rewind(self) -> None:
        """Go back to the start of a step that was broken off, whose weights have not changed yet."""
        state = self._trainer.state
        if self._at_step["step"] == state.global_step:
            state.num_input_tokens_seen = self._at_step["tokens"]
            restore(self._trainer, self._at_step["memory"])
            _set_random_state(self._trainer, self._at_step["random"])


def take(trainer: GRPOTrainer) -> dict[str, Any]:
    """The state now; tensors of rollouts are not copied."""
    frozen = trainer._reader.frozen
    return {
        "processes": trainer.accelerator.num_processes,
        "credit": trainer.args.credit_settings(),
        "frozen": None if frozen is None else [frozen.local_BLH, frozen.global_BLH],
        "wandb_run": _wandb_run(),
        "bad_steps": [trainer._bad_steps.total, trainer._bad_steps.in_a_row],
        "rows_skipped": trainer._reader.rows_skipped,
        "loss": [trainer._tr_loss.clone(), trainer._globalstep_last_logged],  # added to in place
        "metrics": _plain(trainer._metrics["train"]),
        "tables": _plain({name: table for name, table in trainer._logs.items() if name != "images"}),
        "trl": {name: _plain(getattr(trainer, name)) for name in TRL_MEMORY},
    }


def restore(trainer: GRPOTrainer, state: dict[str, Any]) -> None:
    """Put a state back; what only one process kept ("trl" and the like) may be missing from it."""
    now = trainer.args.credit_settings()
    if state["frozen"] is not None and all(state["credit"][name] == now[name] for name in HEAD_SETTINGS):
        trainer._reader.frozen = HeadGroups(*state["frozen"])
    if "trl" not in state:  # another number of processes
        return
    for name, value in state["trl"].items():
        setattr(trainer, name, value)
    trainer._bad_steps.total, trainer._bad_steps.in_a_row = state["bad_steps"]
    trainer._reader.rows_skipped = state["rows_skipped"]
    trainer._tr_loss, trainer._globalstep_last_logged = state["loss"]
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update(state["metrics"])
    for name, table in state["tables"].items():
        _refill(trainer._logs[name], table)


def _refill(table: Any, rows: Any) -> None:
    """Put saved rows in place of those of a deque, or of a dict of deques."""
    if isinstance(rows, dict):
        for column in table.keys() - rows.keys():
            table[column].clear()
        for column, values in rows.items():
            _refill(table[column], values)
    else:
        table.clear()
        table.extend(rows)


def _plain(value: Any) -> Any:
    """Deques and default dicts as lists and dicts, which `weights_only` loads."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_plain(item) for item in value]
    return value


def _random_state(trainer: GRPOTrainer) -> dict[str, Any]:
    device = trainer.accelerator.device
    own: Tensor | None = torch.get_device_module(device).get_rng_state(device) if device.type != "cpu" else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state(), "device": own}


def _set_random_state(trainer: GRPOTrainer, state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if state["device"] is not None:
        device = trainer.accelerator.device
        torch.get_device_module(device).set_rng_state(state["device"], device)


def _wandb_run() -> str | None:
    import wandb

    return wandb.run.id if wandb.run is not None else None
