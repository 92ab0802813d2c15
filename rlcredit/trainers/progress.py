"""A readable line now and then in place of every metric (those are in log.jsonl), and in a terminal a bar below."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import mean
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

LINES = 20
AMPLIFIED, WEIGHT = "credit/amplified_share", "credit/weight_mean"
_SHOWN = {
    "reward/unscored": "unscored {:.1f}",
    "completions/mean_length": "length {:.0f}",
    "value/explained_variance": "explained {:.2f}",
    "credit/time_share": "credit {:.1%} of the time",
    "step_time": "{:.1f} s a step",
}


class Bar(ProgressCallback):
    """transformers' progress bar, without its lines."""

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        pass


class StepLines(TrainerCallback):
    """About 20 times a run, a line of what was logged since the last one, on average.

    Args:
        bar: where it is shown, the lines stand above it.
        weighs: whether the strategy gives weights, so that their mean says something.
    """

    def __init__(self, bar: Bar | None, *, weighs: bool) -> None:
        self._bar, self._weighs = bar, weighs
        self._logged: dict[str, list[float]] = defaultdict(list)
        self._reward: tuple[float, int] | None = None  # of the last rollout, and the step that logged it

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        for line in state.log_history:  # of a run that resumes
            if line.get("reward") is not None:
                self._reward = line["reward"], line["step"]

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        for name in {"reward", AMPLIFIED, WEIGHT, *_SHOWN} & (logs or {}).keys():
            value = logs[name]
            if value is not None and math.isfinite(value) and (name != "reward/unscored" or value):
                self._logged[name].append(value)
        if self._logged["reward"]:
            self._reward = mean(self._logged["reward"]), state.global_step
        due = state.global_step % max(1, state.max_steps // LINES) == 0
        if state.is_world_process_zero and due and logs and "loss" in logs:
            self._write(f"step {state.global_step}: " + "  ".join(self._parts()))
            self._logged.clear()

    def _parts(self) -> list[str]:
        parts = [self._of_reward()]
        shown = {name: shape.format(mean(self._logged[name])) for name, shape in _SHOWN.items() if self._logged[name]}
        shown = {name: text.replace("%", " %") for name, text in shown.items()}
        parts += [shown.pop(name) for name in ("reward/unscored", "completions/mean_length") if name in shown]
        if self._weighs and self._logged[AMPLIFIED] and self._logged[WEIGHT]:
            share, weight = mean(self._logged[AMPLIFIED]), mean(self._logged[WEIGHT])
            parts.append(f"tokens amplified {100 * share:.0f} %, mean weight {weight:.2f}")
        return [*parts, *shown.values()]

    def _of_reward(self) -> str:
        """The mean reward since the last line; where no rollout ended since, that of the one in use."""
        if self._logged["reward"]:
            return f"reward {mean(self._logged['reward']):.3f}"
        if self._reward is None:
            return "no reward: no completion has a score yet"
        value, step = self._reward
        return f"reward {value:.3f} (still the rollout of step {step})"

    def _write(self, line: str) -> None:
        write: Any = print if self._bar is None or self._bar.training_bar is None else self._bar.training_bar.write
        write(line)
