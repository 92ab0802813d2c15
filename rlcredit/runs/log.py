"""The whole run in one log, also over interruptions: what the trainer calls to write log.jsonl and held_out.jsonl."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from rlcredit.runs.files import HELD_OUT_FILE, LOG_FILE, append_line, go_back


class JsonlLog(TrainerCallback):
    """Appends every log of the main process, with its step; a resumed run drops the steps that it will repeat.

    The last step is logged whatever `logging_steps` is, or a run shorter than that would leave nothing to look at. A
    line that does not fit on the disk is left out, with a warning: only a checkpoint that does not fit ends a run.
    """

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            go_back(Path(args.output_dir) / LOG_FILE, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step >= state.max_steps and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        # the closing summary speaks of one call of train(), not of a step
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            # as transformers names them for wandb and the like: eval_math500/pass@1 is eval/math500/pass@1
            named = {re.sub("^eval_", "eval/", key): value for key, value in (logs or {}).items()}
            append_line(Path(args.output_dir) / LOG_FILE, {"step": state.global_step, **named})


class HeldOutLog(TrainerCallback):
    """Appends what an evaluation during training measured, problem by problem; resumes like `JsonlLog`.

    Args:
        measured: the step of the last evaluation and, by set, each problem's share of right samples.
    """

    def __init__(self, measured: Callable[[], tuple[int, Mapping[str, Sequence[float]]] | None]) -> None:
        self._measured = measured

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        path = Path(args.output_dir) / HELD_OUT_FILE
        if state.is_world_process_zero and path.is_file():
            go_back(path, state.global_step)

    def on_evaluate(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        measured = self._measured()
        if state.is_world_process_zero and measured is not None and measured[0] == state.global_step:
            append_line(Path(args.output_dir) / HELD_OUT_FILE, {"step": state.global_step, "right": dict(measured[1])})
