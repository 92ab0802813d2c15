"""The progress bar, with a readable line now and then instead of every metric (those are in log.jsonl)."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean

from transformers.trainer_callback import ProgressCallback

LINES = 20
_SHOWN = {
    "reward": "reward {:.3f}",
    "reward/unscored": "unscored {:.1f}",
    "completions/mean_length": "length {:.0f}",
    "value/explained_variance": "explained {:.2f}",
    "credit/weight_mean": "credit {:.3f}",
    "credit/amplified_share": "amplified {:.0%}",
    "credit/time_share": "credit time {:.1%}",
    "step_time": "{:.1f} s a step",
}


class Progress(ProgressCallback):
    """transformers' progress bar; above it, about 20 times a run, what was logged since the last line, on average."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, list[float]] = defaultdict(list)

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        for name in _SHOWN.keys() & (logs or {}).keys():
            if logs[name] is not None and (name != "reward/unscored" or logs[name]):  # said where there are some
                self._logged[name].append(logs[name])
        due = state.global_step % max(1, state.max_steps // LINES) == 0
        if state.is_world_process_zero and self.training_bar is not None and due and logs and "loss" in logs:
            parts = [shape.format(mean(self._logged[name])) for name, shape in _SHOWN.items() if name in self._logged]
            self.training_bar.write(f"step {state.global_step}: " + "  ".join(parts))
            self._logged.clear()
