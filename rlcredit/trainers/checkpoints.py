"""What a checkpoint needs beside transformers' own files, so that a resumed run is the same run bit for bit.

TRL keeps the micro-step count, the buffered rollouts and the metrics not yet logged in memory only; credit keeps
frozen head groups. Each process writes them to a file of its own, before transformers writes the rest; the trainer
state, written last, marks a checkpoint as complete. Files hold tensors and plain values only, and are loaded with
`weights_only`. `trainer` is a `CreditGRPOTrainer` throughout.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl import GRPOTrainer

from rlcredit.errors import InputError
from rlcredit.signals import HeadGroups

logger = logging.getLogger(__name__)

LATEST = "latest"
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


def complete(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if (path / TRAINER_STATE_NAME).is_file()]
    return sorted(
        (p for p in found if p.name.removeprefix("checkpoint-").isdecimal()),
        key=lambda path: int(path.name.removeprefix("checkpoint-")),
    )


def find(wanted: str | bool | None, output_dir: str) -> str | None:
    """The folder of a checkpoint: a path, or the newest complete one of the run for "latest" (or True).

    Raises: InputError if there is none.
    """
    if wanted in (None, False, ""):
        return None
    if wanted in (LATEST, True, "true", "True"):
        if not (found := complete(output_dir)):
            raise InputError(
                f"resume_from_checkpoint: {output_dir} has no complete checkpoint; start without "
                "resume_from_checkpoint"
            )
        return str(found[-1])
    if not (Path(str(wanted)) / TRAINER_STATE_NAME).is_file():
        raise InputError(
            f"resume_from_checkpoint: {wanted} is no complete checkpoint (it has no "
            f"{TRAINER_STATE_NAME}); write a checkpoint folder, or latest"
        )
    return str(wanted)


def save(trainer: GRPOTrainer, folder: str) -> None:
    """Write this process's state to the checkpoint folder; returns when every process has."""
    os.makedirs(folder, exist_ok=True)
    torch.save(_state(trainer), _file(folder, trainer.accelerator.process_index))
    trainer.accelerator.wait_for_everyone()


def load(folder: str, trainer: GRPOTrainer) -> dict[str, Any] | None:
    """This process's state; what only one process kept is left out where the number of processes has changed."""
    accelerator = trainer.accelerator
    path = _file(folder, accelerator.process_index)
    if not path.is_file():
        path = _file(folder, 0)
    if not path.is_file():
        logger.warning("%s was not written by rlcredit: the run goes on from its weights, not bit for bit", folder)
        return None
    # torch knows no "cpu:0", which is what the device is called in a process launched on a CPU
    device = "cpu" if accelerator.device.type == "cpu" else accelerator.device
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or not {"processes", "credit", "frozen", "wandb_run"} <= state.keys():
        raise InputError(f"resume_from_checkpoint: {path} is no state of a run; write an earlier checkpoint")
    if state["processes"] != accelerator.num_processes:
        logger.warning(
            "%s was written by %d processes and is resumed by %d: the run goes on, but not bit for bit",
            folder,
            state["processes"],
            accelerator.num_processes,
        )
        state = {name: state[name] for name in ("processes", "frozen", "credit", "wandb_run")}
    for line in changes(state["credit"], trainer.args.credit_settings()):
        if accelerator.is_main_process:
            logger.warning("resumed with another %s", line)
    if state["wandb_run"] and "wandb" in trainer.args.report_to:
        os.environ.setdefault("WANDB_RUN_ID", state["wandb_run"])
        os.environ.setdefault("WANDB_RESUME", "allow")
    return state


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that differ, as lines `name: 0.4 -> 0.2`."""
    return [f"{name}: {before.get(name)} -> {now.get(name)}" for name in now if before.get(name) != now.get(name)]


class RestoreMemory(TrainerCallback):
    """Puts a resumed run's state back, after transformers has set its own and before the first step."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self._trainer._resume_state is not None:
            _restore(self._trainer, self._trainer._resume_state)
            self._trainer._resume_state = None


def _file(folder: str, process: int) -> Path:
    return Path(folder) / f"rlcredit-process{process}.pt"


def _state(trainer: GRPOTrainer) -> dict[str, Any]:
    frozen = trainer._reader.frozen
    return {
        "processes": trainer.accelerator.num_processes,
        "credit": trainer.args.credit_settings(),
        "frozen": None if frozen is None else [frozen.local_BLH, frozen.global_BLH],
        "wandb_run": _wandb_run(),
        "bad_steps": [trainer._bad_steps.total, trainer._bad_steps.in_a_row],
        "rows_skipped": trainer._reader.rows_skipped,
        "loss": [trainer._tr_loss, trainer._globalstep_last_logged],
        "metrics": _plain(trainer._metrics["train"]),
        "tables": _plain({name: table for name, table in trainer._logs.items() if name != "images"}),
        "trl": {name: _plain(getattr(trainer, name)) for name in TRL_MEMORY},
    }


def _restore(trainer: GRPOTrainer, state: dict[str, Any]) -> None:
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
    trainer._metrics["train"].update(state["metrics"])
    for name, table in state["tables"].items():
        _refill(trainer._logs[name], table)


def _refill(table: Any, rows: Any) -> None:
    """Put saved rows back into a deque, or into a dict of deques."""
    if isinstance(rows, dict):
        for column, values in rows.items():
            table[column].extend(values)
    else:
        table.extend(rows)


def _plain(value: Any) -> Any:
    """Deques and default dicts as lists and dicts, which `weights_only` loads."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_plain(item) for item in value]
    return value


def _wandb_run() -> str | None:
    import wandb

    return wandb.run.id if wandb.run is not None else None
