"""What `monte_carlo` costs: continuations, their tokens and CPU seconds a step, against uniform; prints a table.

    python scripts/bench_continuations.py [--steps 9] [--recipe countdown_tiny/uniform]

One process for all ways, one after the other; the first step, which also warms up, is left out of the seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from datetime import date
from pathlib import Path

from transformers import TrainerCallback

from rlcredit.trainers.build import build
from rlcredit.trainers.prepare import check

WAYS = {
    "uniform": {},
    "decisive, K = 4": {"samples": 4},
    "decisive, K = 8": {"samples": 8},
    "segments of 5, K = 8": {"where": "segments", "segment": 5, "samples": 8},
    "every token, K = 4": {"where": "every", "samples": 4},
}


class Clock(TrainerCallback):
    """CPU seconds of this process at the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.seconds.append(used.ru_utime + used.ru_stime)


def run(recipe: str, steps: int, options: dict[str, object], folder: str) -> dict[str, float]:
    """CPU seconds a step, completions a rollout, and what a rollout's continuations were."""
    words = ["--config", recipe, "--output_dir", folder, f"--max_steps={steps}", "--save_strategy=no", "--held_out=0"]
    words += ["--disable_tqdm=true", "--logging_steps=1"]
    if options:
        words += ["--credit_strategy=monte_carlo", "--credit_options", json.dumps(options)]
    checked, clock = check(words), Clock()
    trainer = build(checked)
    trainer.add_callback(clock)
    trainer.train()
    log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    found = {
        name: statistics.fmean([line[f"credit/{name}"] for line in log if f"credit/{name}" in line] or [0.0])
        for name in ("continuations", "continuation_tokens")
    }
    lengths = [line["completions/mean_length"] for line in log if "completions/mean_length" in line]
    completions = checked.schedule.completions
    return {
        **found,
        "completions": completions,
        "tokens": completions * statistics.fmean(lengths),
        "seconds": (clock.seconds[-1] - clock.seconds[0]) / (len(clock.seconds) - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--recipe", default="countdown_tiny/uniform")
    arguments = parser.parse_args()
    rows = {}
    for way, options in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[way] = run(arguments.recipe, arguments.steps, options, folder)
    plain = rows["uniform"]["seconds"]
    print(f"\n{arguments.recipe}, {arguments.steps} steps, {date.today()}")
    print(
        "| where values are taken | completions | their tokens | continuations | their tokens | CPU s a step | ratio |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way, row in rows.items():
        print(
            f"| {way} | {row['completions']:,} | {row['tokens']:,.0f} | {row['continuations']:,.0f} | "
            f"{row['continuation_tokens']:,.0f} | {row['seconds']:.2f} | {row['seconds'] / plain:.1f} |"
        )


if __name__ == "__main__":
    main()
