"""log.jsonl in the output folder: one line a log, the whole run in one file, also over interruptions."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlcredit.files import write_whole

logger = logging.getLogger(__name__)

FILE_NAME = "log.jsonl"


class JsonlLog(TrainerCallback):
    """Appends every log of the main process, with its step; a resumed run drops the steps that it will repeat.

    A line that does not fit on the disk is left out, with a warning: what a full disk ends is decided by checkpoints.
    """

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            path = Path(args.output_dir) / FILE_NAME
            kept = [line for line in read(path) if line["step"] <= state.global_step] if state.global_step else []
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        # the closing summary speaks of one call of train(), not of a step
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            # as transformers names them for wandb and the like: eval_math500/pass@1 is eval/math500/pass@1
            named = {re.sub("^eval_", "eval/", key): value for key, value in (logs or {}).items()}
            line = json.dumps({"step": state.global_step, **named}) + "\n"
            path = Path(args.output_dir) / FILE_NAME
            before = path.stat().st_size if path.is_file() else 0
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                logger.warning("step %d is missing from %s (%s)", state.global_step, path, error.strerror)
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
