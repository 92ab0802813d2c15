"""What a run keeps in memory only: taken for a checkpoint and put back, so that a resumed run is the same bit for bit.

Each component gives its own state and takes it back (`Component`). What TRL and transformers keep in private
attributes of their trainers is the component `TrlState`. States hold tensors and plain values only, which
`torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import random
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from rlcredit.errors import InputError
from rlcredit.trainers.launch import engine_of
from rlcredit.trainers.sturdy_config import ROLLOUT_SETTINGS

if TYPE_CHECKING:
    from trl import GRPOTrainer

logger = logging.getLogger(__name__)

FORMAT = 3  # of the file; a state without it is of rlcredit 0.1.0
# Attributes of TRL's trainer that hold a run's state in memory only. A contract test looks for others.
TRL_ATTRIBUTES = ("_step", "_buffered_inputs", "_entropy_window_stats", "_current_train_step_time")


class Component(Protocol):
    """A part of a run whose state goes into checkpoints.

    Attributes:
        of_one_process: whether the state belongs to a process's share of the batches, so that it means nothing to a
            run with another number of processes.
    """

    of_one_process: bool

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrlState:
    """The state that TRL's and transformers' trainers keep in private attributes."""

    of_one_process = True

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """The state now; tensors of rollouts are not copied."""
        trainer = self._trainer
        return {
            "attributes": {name: _plain(getattr(trainer, name)) for name in TRL_ATTRIBUTES},
            "loss": [trainer._tr_loss.clone(), trainer._globalstep_last_logged],  # added to in place
            "metrics": _plain(trainer._metrics["train"]),
            "tables": _plain({name: table for name, table in trainer._logs.items() if name != "images"}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trainer = self._trainer
        for name, value in state["attributes"].items():
            setattr(trainer, name, value)
        trainer._tr_loss, trainer._globalstep_last_logged = state["loss"]
        trainer._metrics["train"].clear()
        trainer._metrics["train"].update(state["metrics"])
        for name, table in state["tables"].items():
            _refill(trainer._logs[name], table)


class RunState(TrainerCallback):
    """The state of all components: written into checkpoints, put back before a resumed run's first step, and
    remembered at the start of each step.

    Args:
        trainer: whose run it is.

    Attributes:
        components: by name; a subclass of the trainer adds its own.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer, self._settings = trainer, trainer.args.compared_settings()
        self.components: dict[str, Component] = {"trl": TrlState(trainer)}
        self._resumed: dict[str, Any] | None = None
        self._rate_before: float | None = None
        self._at_step: dict[str, Any] = {"step": None}
        self._at_epoch: dict[str, Any] = {"step": None}

    def save(self, folder: Path) -> None:
        """Write this process's state into a checkpoint."""
        state = {
            "format": FORMAT,
            "processes": self._trainer.accelerator.num_processes,
            "engine": engine_of(self._trainer.args),
            "settings": self._settings,
            "wandb_run": _wandb_run(),
            "components": self._components(),
        }
        path = _file(folder, self._trainer.accelerator.process_index)
        torch.save(state, path)
        try:
            _read(path, "cpu")  # what cannot be read back would be found by the resume
        except pickle.UnpicklingError as error:
            raise RuntimeError(f"{path.name} cannot be read back: {' '.join(str(error).split())[:120]}") from error

    def load(self, folder: Path) -> None:
        """Read this process's state, to be put back when training begins.

        Raises: InputError if the file is no state of a run, or of an earlier version.
        """
        accelerator = self._trainer.accelerator
        path = _file(folder, accelerator.process_index)
        if not path.is_file():
            path = _file(folder, 0)
        if not path.is_file():
            logger.warning("%s was not written by rlcredit: the run goes on from its weights, not bit for bit", folder)
            return
        # torch knows no "cpu:0", which is what the device is called in a process launched on a CPU
        state = _checked(path, "cpu" if accelerator.device.type == "cpu" else accelerator.device)
        _refuse_launch(folder, state, self._trainer.args, accelerator.num_processes)
        if state["processes"] != accelerator.num_processes:
            logger.warning(
                "%s was written by %d processes and is resumed by %d: the run goes on, but not bit for bit",
                folder,
                state["processes"],
                accelerator.num_processes,
            )
            shared = {name for name, component in self.components.items() if not component.of_one_process}
            state["components"] = {name: state["components"][name] for name in shared & state["components"].keys()}
        if _drops_rollout(state["settings"], self._settings):
            state["components"].pop("trl", None)
        if accelerator.is_main_process:
            for line in changes(state["settings"], self._settings):
                logger.warning("resumed with another %s", line)
        self._rate_before = state["settings"].get("learning_rate")
        if state["wandb_run"] and "wandb" in self._trainer.args.report_to:
            os.environ.setdefault("WANDB_RUN_ID", state["wandb_run"])
            os.environ.setdefault("WANDB_RESUME", "allow")
        self._resumed = state["components"]

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self._resumed is not None:  # put back now, since transformers has set its own values by now
            self._restore(self._resumed)
            self._take_learning_rate(args.learning_rate)
            if "trl" not in self._resumed:  # the next step generates anew
                self._trainer._step = state.global_step * args.gradient_accumulation_steps
            self._resumed = None

    def _take_learning_rate(self, rate: float) -> None:
        """The rate of the arguments, where transformers has put back that of the checkpoint."""
        before = self._rate_before
        if before in (None, 0, rate):
            return
        schedule = getattr(self._trainer.lr_scheduler, "scheduler", self._trainer.lr_scheduler)
        for number, group in enumerate(self._trainer.optimizer.param_groups[: len(schedule.base_lrs)]):
            if math.isclose(group.get("initial_lr", before), before):  # not that of a critic
                group["initial_lr"], group["lr"] = rate, group["lr"] * rate / before
                schedule.base_lrs[number] = rate
                schedule._last_lr[number] = group["lr"]

    def on_epoch_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """The loader draws its seed next. A run that is resumed within an epoch has drawn it before."""
        begins = float(state.epoch or 0).is_integer()
        random = _random_state(self._trainer.accelerator.device) if begins else None
        self._at_epoch = {"step": state.global_step if begins else None, "random": random}

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self._at_step = {
            "step": state.global_step,
            "tokens": state.num_input_tokens_seen,
            "components": self._components(),
            "random": _random_state(self._trainer.accelerator.device),
        }

    def rewind(self) -> None:
        """Go back to the start of a step that was broken off, whose weights have not changed yet."""
        state = self._trainer.state
        if self._at_step["step"] == state.global_step:
            state.num_input_tokens_seen = self._at_step["tokens"]
            self._restore(self._at_step["components"])
            begun = self._at_epoch if self._at_epoch["step"] == state.global_step else self._at_step
            _set_random_state(self._trainer.accelerator.device, begun["random"])

    def _components(self) -> dict[str, dict[str, Any]]:
        return {name: component.state_dict() for name, component in self.components.items()}

    def _restore(self, states: dict[str, dict[str, Any]]) -> None:
        for name in self.components.keys() & states.keys():
            self.components[name].load_state_dict(states[name])


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that differ, as lines `name: 0.4 -> 0.2`, and what that costs."""
    # checkpoints of earlier versions do not tell all settings
    lines = [f"{name}: {before[name]} -> {now[name]}" for name in now if name in before and before[name] != now[name]]
    dropped = {name for name in ROLLOUT_SETTINGS if before.get(name) != now.get(name)}
    cost = ": the rollout at hand is dropped, and the next step generates anew"
    return [line + cost if line.split(":")[0] in dropped else line for line in lines]


def changes_since(folder: Path, settings: dict[str, Any]) -> list[str]:
    """The same for the settings that a checkpoint was written with. Raises: InputError as for `RunState.load`."""
    path = _file(folder, 0)
    return changes(_checked(path, "cpu")["settings"], settings) if path.is_file() else []


def refuse_launch(folder: Path, args: TrainingArguments, processes: int) -> None:
    """Raise an InputError if a checkpoint's optimiser states are not those that a run launched so would read."""
    path = _file(folder, 0)
    if path.is_file():
        _refuse_launch(folder, _checked(path, "cpu"), args, processes)


def _refuse_launch(folder: Path, state: dict[str, Any], args: TrainingArguments, processes: int) -> None:
    before, now = state["engine"], engine_of(args)
    others = f"or start from its weights with --model_name_or_path {folder} and another output_dir"
    if before != now:
        raise InputError(
            f"resume_from_checkpoint: {folder} was written under {before}, whose optimiser states are not read under "
            f"{now}; launch as before, {others}"
        )
    if before.startswith("zero") and state["processes"] != processes:
        raise InputError(
            f"resume_from_checkpoint: {folder} was written by {state['processes']} processes under {before}, and "
            f"DeepSpeed resumes with as many; add --num_processes {state['processes']} to the launch, {others}"
        )


def _drops_rollout(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the rollout at hand was made under settings that its use depends on, and they have changed."""
    return any(before.get(name) != now.get(name) for name in ROLLOUT_SETTINGS)


def _checked(path: Path, device: str | torch.device) -> dict[str, Any]:
    state = _read(path, device)
    if isinstance(state, dict) and {"processes", "credit", "frozen"} <= state.keys():
        raise InputError(
            f"resume_from_checkpoint: {path.parent} was written by rlcredit 0.1.0; go on from it with that version, "
            f"or start from its weights with --model_name_or_path {path.parent} and another output_dir"
        )
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"resume_from_checkpoint: {path} is no state of a run; write an earlier checkpoint")
    return state


def _read(path: Path, device: str | torch.device) -> Any:
    return torch.load(path, map_location=device, weights_only=True)


def _file(folder: Path, process: int) -> Path:
    return folder / f"rlcredit-process{process}.pt"


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
    """The value in types that `weights_only` loads: deques and default dicts as lists and dicts, numpy's numbers as
    Python's, and the name of its type for what has no such form, such as an image in a table of prompts."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or type(value) in (bool, int, float, complex, str, bytes) or isinstance(value, Tensor):
        return value
    return str(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def _random_state(device: torch.device) -> dict[str, Any]:
    own: Tensor | None = torch.get_device_module(device).get_rng_state(device) if device.type != "cpu" else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state(), "device": own}


def _set_random_state(device: torch.device, state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if state["device"] is not None:
        torch.get_device_module(device).set_rng_state(state["device"], device)


def _wandb_run() -> str | None:
    import wandb

    return wandb.run.id if wandb.run is not None else None
