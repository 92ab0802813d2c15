"""The progress bar, with one readable line a log instead of every metric (those are in log.jsonl)."""

from __future__ import annotations

from transformers.trainer_callback import ProgressCallback

_SHOWN = {
    "reward": "reward {:.3f}",
    "completions/mean_length": "length {:.0f}",
    "credit/weight_mean": "credit {:.3f}",
    "credit/amplified_share": "amplified {:.0%}",
    "credit/time_share": "credit time {:.1%}",
    "step_time": "{:.1f} s",
}


class Progress(ProgressCallback):
    """transformers' progress bar; above it reward, length, credit and time of each log."""

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            parts = [shape.format(logs[name]) for name, shape in _SHOWN.items() if logs.get(name) is not None]
            self.training_bar.write(f"step {state.global_step}: " + "  ".join(parts))
