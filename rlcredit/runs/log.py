"""Files of lines in the output folder: the whole run in one, also over interruptions.

log.jsonl        one line a log: its step and every metric
held_out.jsonl   one line an evaluation during training: its step and, by set, each problem's share of right samples
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlcredit.files import write_whole

logger = logging.getLogger(__name__)

FILE_NAME = "log.jsonl"
HELD_OUT_FILE = "held_out.jsonl"


class JsonlLog(TrainerCallback):
    """Appends every log of the main process, with its step; a resumed run drops the steps that it will repeat.

    A line that does not fit on the disk is left out, with a warning: what a full disk ends is decided by checkpoints.
    """

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            _go_back(Path(args.output_dir) / FILE_NAME, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        # the closing summary speaks of one call of train(), not of a step
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            # as transformers names them for wandb and the like: eval_math500/pass@1 is eval/math500/pass@1
            named = {re.sub("^eval_", "eval/", key): value for key, value in (logs or {}).items()}
            _append(Path(args.output_dir) / FILE_NAME, {"step": state.global_step, **named})


class HeldOutLog(TrainerCallback):
    """Appends what an evaluation during training found, problem by problem; resumes like `JsonlLog`.

    Args:
        measured: the step of the last evaluation and, by set, each problem's share of right samples.
    """

    def __init__(self, measured: Callable[[], tuple[int, Mapping[str, Sequence[float]]] | None]) -> None:
        self._measured = measured

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        path = Path(args.output_dir) / HELD_OUT_FILE
        if state.is_world_process_zero and path.is_file():
            _go_back(path, state.global_step)

    def on_evaluate(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        measured = self._measured()
        if state.is_world_process_zero and measured is not None and measured[0] == state.global_step:
            _append(Path(args.output_dir) / HELD_OUT_FILE, {"step": state.global_step, "right": dict(measured[1])})


def _go_back(path: Path, step: int) -> None:
    """Drop the lines that a run which goes on from this step will repeat."""
    kept = [line for line in read(path) if line["step"] <= step] if step else []
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """One more line: all of it, or with a warning nothing."""
    before = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        logger.warning("step %d is missing from %s (%s)", line["step"], path, error.strerror)
        if path.is_file():
            os.truncate(path, before)  # no half a line


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a crash is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines) - 1:
                raise
    return found
