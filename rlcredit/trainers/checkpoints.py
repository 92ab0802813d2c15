"""Checkpoints that are complete or do not count, and how a run finds, writes and reads them.

Each process writes what it keeps in memory to a file of its own, then transformers writes the rest; a list of all
files with their sizes, written last, marks the checkpoint as complete. So a kill at any moment, a full disk or a copy
cut short leaves a folder that is passed over.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from accelerate.utils import gather_object
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from rlcredit.errors import InputError, RunStopped
from rlcredit.files import write_whole
from rlcredit.trainers import shards
from rlcredit.trainers.stopping import is_lost_process

if TYPE_CHECKING:
    from trl import GRPOTrainer

logger = logging.getLogger(__name__)

LATEST, AUTO = "latest", "auto"
MANIFEST = "rlcredit-files.json"
REFERENCE_FILE = "rlcredit-reference.safetensors"
# What a disk that is full, gone or read-only raises: in Python, in torch's writer of archives, in safetensors.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def is_complete(folder: Path) -> bool:
    """Whether every file of a checkpoint is there, whole; of one by TRL alone, which has no list, the last one."""
    return fault_of(folder) is None


def fault_of(folder: Path) -> str | None:
    """Why a checkpoint does not count, in a few words."""
    if not (folder / TRAINER_STATE_NAME).is_file():
        return f"it has no {TRAINER_STATE_NAME}"
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}: it was not written to its end" if any(folder.glob("rlcredit-*")) else None
    try:
        sizes = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        return f"{MANIFEST} is no list of files"
    for name, size in sizes.items():
        if not (folder / name).is_file():
            return f"it has no {name}"
        if (folder / name).stat().st_size != size:
            return f"{name} is not whole"
    return None


def folders(output_dir: str | Path) -> list[Path]:
    """The checkpoint folders of a run, complete or not, oldest first."""
    paths = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir() and _step(path).isdecimal()]
    return sorted(paths, key=lambda path: int(_step(path)))


def complete(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return [path for path in folders(output_dir) if is_complete(path)]


def find(wanted: str | bool | None, output_dir: str) -> str | None:
    """The folder of a checkpoint: a path, or the newest complete one of the run for "latest" (or True).

    For "auto" it is the newest complete one, or None where there is none yet: one command starts and goes on.

    Raises: InputError if there is none.
    """
    if wanted in (None, False, ""):
        return None
    if wanted in (AUTO, LATEST, True, "true", "True"):
        whole = complete(output_dir)
        if not whole and wanted != AUTO:
            raise InputError(
                f"resume_from_checkpoint: {output_dir} has no complete checkpoint; start without "
                "resume_from_checkpoint, or write auto"
            )
        return str(whole[-1]) if whole else None
    if reason := fault_of(Path(str(wanted))):
        raise InputError(
            f"resume_from_checkpoint: {wanted} is no complete checkpoint ({reason}); write another folder, or latest"
        )
    return str(wanted)


def passed_over(checkpoint: str) -> list[str]:
    """A line for each checkpoint that is newer than this one and does not count."""
    newer = [path for path in folders(Path(checkpoint).parent) if int(_step(path)) > int(_step(Path(checkpoint)))]
    return [f"{path}: passed over, {fault}" for path in newer if (fault := fault_of(path))]


def set_aside_newer(checkpoint: Path) -> list[Path]:
    """Rename the complete checkpoints that a run leaves behind where it goes on from an older one, so that `latest` is
    of the run that goes on: where they are now."""
    moved = []
    for path in complete(checkpoint.parent):
        if int(_step(path)) > int(_step(checkpoint)):
            target = path.with_name(f"abandoned-{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            moved.append(path.rename(target))
    return moved


def agree(path: str | None) -> None:
    """Raise an InputError where processes have found different checkpoints, as on machines with disks of their own."""
    names = sorted({Path(name).name if name else "none" for name in gather_object([path])})
    if len(names) > 1:
        raise InputError(
            f"resume_from_checkpoint: the processes found different checkpoints ({', '.join(names)}); write the path "
            "of one that every machine has, or use an output_dir that they share"
        )


# ---- writing ------------------------------------------------------------------------------------------------------


def write(trainer: GRPOTrainer, folder: Path, steps: Sequence[Callable[[], None]], *, needed: bool) -> bool:
    """Write a checkpoint, then delete older ones beyond `save_total_limit`.

    Args:
        folder: where; what an earlier run left there is removed.
        steps: write the files of this process there, in this order. All processes agree on how a step went before
            the next one, in which they may wait for each other; one in which they wait in the middle is `in_step`.
        needed: whether the run ends with it, so that it cannot go on without.

    Returns: whether it is there. Where one process could not write, it is nowhere: it is removed.

    Raises: RunStopped, on every process, if it could not be written and is needed, or `on_save_error` is stop.
    """
    saves, accelerator = trainer.args.should_save, trainer.accelerator

    if saves:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()
    # transformers deletes older checkpoints as soon as its own files are written, which is before this one counts
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    try:
        failure = _first_failure(
            lambda: folder.mkdir(parents=True, exist_ok=True),
            *steps,
            lambda: mark_complete(folder) if saves else None,
        )
    finally:
        trainer.args.save_total_limit = limit
    if failure:
        if saves:
            shutil.rmtree(folder, ignore_errors=True)
        line = _not_saved(folder, failure.reason)
        if needed or trainer.args.on_save_error == "stop":
            raise RunStopped(f"{line}; {failure.advice}, then go on with --resume_from_checkpoint latest")
        logger.warning("%s, and the run goes on", line)
    elif saves:
        rotate_checkpoints(str(folder.parent), limit, trainer.state.best_model_checkpoint, use_mtime=True)
    return failure is None


def _not_saved(folder: Path, reason: str) -> str:
    older = complete(folder.parent)
    # torch's own words name no disk
    free = f"; {shutil.disk_usage(folder.parent).free / 1e6:,.0f} MB are free there" if folder.parent.is_dir() else ""
    kept = f"{older[-1].name} is kept" if older else "there is no older one"
    return f"{folder.name} could not be saved ({reason}{free}); {kept}"


class Failure(NamedTuple):
    """Why something could not be written, in a few words, and what to do."""

    reason: str
    advice: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """What one of WRITE_ERRORS says."""
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, HfHubHTTPError):
            return Failure(f"the hub: {reason}", "mend the token or the connection, or write --push_to_hub false")
        return Failure(reason, "make room")


def _first_failure(*steps: Callable[[], None]) -> Failure | None:
    """Run the steps on every process, up to the first that fails on one of them: why it failed, told to all."""
    for step in steps:
        failure = None
        try:
            step()
        except RunStopped:  # of `in_step`: the others are in the middle of it, and would not hear
            raise
        except WRITE_ERRORS as error:
            if is_lost_process(error):
                raise
            failure = Failure.of(error)
        if failures := [other for other in gather_object([failure]) if other]:
            return failures[0]
    return None


def in_step(step: Callable[[], None], folder: Path) -> None:
    """Take a step in whose middle processes wait for each other, as engines that shard do: one that cannot write has
    no way to tell the others, and ends the run. The checkpoint has no list of files then, and does not count.

    Raises: RunStopped.
    """
    try:
        step()
    except WRITE_ERRORS as error:
        if is_lost_process(error):
            raise
        failure = Failure.of(error)
        raise RunStopped(
            f"{_not_saved(folder, failure.reason)}; {failure.advice}, then go on with --resume_from_checkpoint latest"
        ) from error


def mark_complete(folder: Path) -> None:
    """Have the disk hold every file of a checkpoint, then list them."""
    sizes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    write_whole(folder / MANIFEST, json.dumps(sizes, indent=1) + "\n")


class Part(Protocol):
    """What a checkpoint holds beside transformers' files, such as a second model; every process calls both."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class MovingReference:
    """The reference model of `sync_ref_model`, which moves with the policy: saved beside it."""

    def __init__(self, reference: nn.Module, args: TrainingArguments) -> None:
        self._reference, self._args = reference, args

    def save(self, folder: Path) -> None:
        state = shards.whole_state(self._reference, self._args.should_save)
        if self._args.should_save:
            save_file(state, folder / REFERENCE_FILE)

    def load(self, folder: Path) -> None:
        """Raises: InputError if the checkpoint has no reference."""
        if not (folder / REFERENCE_FILE).is_file():
            raise InputError(
                f"resume_from_checkpoint: {folder} has no {REFERENCE_FILE}: it is of a run without sync_ref_model"
            )
        shards.load_whole(self._reference, load_file(folder / REFERENCE_FILE))


def _step(folder: Path) -> str:
    return folder.name.removeprefix("checkpoint-")
