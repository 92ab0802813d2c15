"""What credit costs, as ratios from one run: interleaved repetitions, medians.

    python scripts/bench_credit.py

1. Forward and backward of a policy of 135 M parameters (SmolLM2's shape, random weights), plain, with the statistics
   read along the way, and with the eager maps of the same layers, as other implementations do.
2. A step of the tiny Countdown recipes: GRPO with uniform credit and with coupled_rhythm, PPO with uniform credit.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date

import torch
from bench_attention import SMOLLM2_135M, Passes
from transformers import LlamaConfig, LlamaForCausalLM


def interleaved(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run; the runs take turns, so that other work slows them alike. The first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(repeats + 1):
        for name, run in runs.items():
            gc.collect()
            started = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def pass_runs(model: LlamaForCausalLM, length: int) -> dict[str, Callable[[], None]]:
    """Forward and backward over one sequence, in three ways."""
    passes = Passes(model, length)

    def step(reading: bool) -> None:
        passes.forward(reading).float().logsumexp(-1).mean().backward()
        model.zero_grad(set_to_none=True)

    def maps() -> None:
        passes.eager_maps()
        step(False)

    return {"plain": lambda: step(False), "with capture": lambda: step(True), "plain + eager maps": maps}


def bench_passes(lengths: list[int], repeats: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SMOLLM2_135M), attn_implementation="sdpa").train()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"\nforward + backward, {millions:.0f} M parameters, one sequence, fp32; median of {repeats}")
    print("| tokens | way | seconds | against plain |\n|---:|---|---:|---:|")
    for length in lengths:
        seconds = interleaved(pass_runs(model, length), repeats)
        for name, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(values, seconds["plain"], strict=True))
            print(f"| {length} | {name} | {statistics.median(values):.2f} | {ratio:.3f} |", flush=True)


def bench_steps(steps: int) -> None:
    from rlcredit.trainers.build import build
    from rlcredit.trainers.prepare import check

    print(
        f"\nstep of recipes/countdown_tiny, {steps} steps three times each, taken in turn; the first rollout left out"
    )
    times: dict[str, list[float]] = {"uniform": [], "coupled_rhythm": [], "ppo_uniform": []}
    credit = []
    for _ in range(3):
        for recipe in times:
            with tempfile.TemporaryDirectory() as folder:
                changes = f"--output_dir {folder} --max_steps {steps} --save_strategy no --disable_tqdm true"
                trainer = build(check(["--config", f"countdown_tiny/{recipe}", *changes.split()]))
                trainer.train()
            lines = [line for line in trainer.state.log_history if "step_time" in line]
            lines = lines[trainer.args.steps_per_generation :]
            # a step that generates costs more than one that reuses its rollout: means over whole rollouts
            times[recipe].append(statistics.mean(line["step_time"] for line in lines))
            if recipe == "coupled_rhythm":
                credit.append(statistics.mean(line["credit/seconds"] for line in lines))
    print("| recipe | seconds a step | against uniform |\n|---|---:|---:|")
    plain = statistics.median(times["uniform"])
    for recipe, values in times.items():
        print(f"| {recipe} | {statistics.median(values):.3f} | {statistics.median(values) / plain:.3f} |")
    share = statistics.median(c / t for c, t in zip(credit, times["coupled_rhythm"], strict=True))
    print(f"\ncredit's own share of the step, by its clock: {share:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048], help="tokens")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--steps", type=int, default=12, help="steps of each recipe (default 12)")
    options = parser.parse_args()
    print(f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    bench_passes(options.lengths, options.repeats)
    bench_steps(options.steps)


if __name__ == "__main__":
    main()
