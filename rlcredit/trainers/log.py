"""log.jsonl in the output folder: one line a log, the whole run in one file, also over interruptions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

FILE_NAME = "log.jsonl"


class JsonlLog(TrainerCallback):
    """Appends every log of the main process, with its step; a resumed run drops the steps that it will repeat."""

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            path = Path(args.output_dir) / FILE_NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read(path) if line["step"] <= state.global_step] if state.global_step else []
            path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        # the closing summary speaks of one call of train(), not of a step
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            with (Path(args.output_dir) / FILE_NAME).open("a", encoding="utf-8") as file:
                # as transformers names them for wandb and the like: eval_math500/pass@1 is eval/math500/pass@1
                named = {re.sub("^eval_", "eval/", key): value for key, value in (logs or {}).items()}
                file.write(json.dumps({"step": state.global_step, **named}) + "\n")


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
