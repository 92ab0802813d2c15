"""What a training step costs with TRL's GRPOTrainer and with rlcredit's: CPU seconds by part, and memory.

python scripts/bench_step.py            measure, store benchmarks/step.json, write the tables of docs/performance.md
python scripts/bench_step.py --write    the table alone, from what is stored

All ways take turns in one process and learn from the same completions: the learning rate is 0, which costs as much. A
policy of random weights ends its responses by many end tokens, so that lengths are ragged (each token ends one with a
probability of about 1/END_EVERY). The first rollout of each run is left out; of the rounds the one that took least
counts, since other work on the machine slows CPU seconds too. The most memory is that of a process of its own, over a
single rollout.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench_attention import SMOLLM2_135M
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import GRPOTrainer

from rlcredit.attention import Capture
from rlcredit.trainers.grpo import CreditGRPOTrainer
from rlcredit.trainers.prepare import check

ROOT = Path(__file__).parents[1]
STORED, DOCUMENT = ROOT / "benchmarks/step.json", ROOT / "docs/performance.md"
MARKERS = "<!-- scripts/bench_step.py -->", "<!-- end -->"
RECIPE = "countdown_tiny/coupled_rhythm"
END_EVERY = 48  # tokens
# Policies and how their rollouts are cut: completions a rollout, rows of a micro-batch, micro-batches of a step.
CUTS = {
    "tiny, 1 M parameters, micro-batches of 64": dict(rows=64, accumulated=1, steps=4, length=56),
    "tiny, 1 M parameters, micro-batches of 8": dict(rows=8, accumulated=8, steps=4, length=56),
    "135 M parameters, micro-batches of 4": dict(rows=4, accumulated=4, steps=2, length=128),
}
WAYS: dict[str, tuple[type[GRPOTrainer], dict[str, Any]]] = {
    "TRL": (GRPOTrainer, {"credit_strategy": "uniform"}),
    "`uniform`": (CreditGRPOTrainer, {"credit_strategy": "uniform"}),
    "`coupled_rhythm`": (CreditGRPOTrainer, {}),
    "`coupled_rhythm`, `sort_by_length: true`": (CreditGRPOTrainer, {"sort_by_length": True}),
    "`coupled_rhythm`, `trim_padding: false`": (CreditGRPOTrainer, {"trim_padding": False}),
    "`coupled_rhythm`, continuous batching": (
        CreditGRPOTrainer,
        {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": (
                '{"num_blocks": 600, "page_size": 16, "max_batch_tokens": 256, "max_requests_per_batch": 64}'
            ),
        },
    ),
}
SECONDS = ("generation", "scoring", "loss", "backward", "reading", "rest")


class Parts:
    """CPU seconds of this process by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.positions = 0
        self._open = ["rest"]
        self._since = time.process_time()

    def note(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.note()
        self._open.append(name)
        try:
            yield
        finally:
            self.note()
            self._open.pop()

    def timed(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        """The function as a part; without a name it is scoring or, with gradients, the loss."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name or ("loss" if torch.is_grad_enabled() else "scoring")):
                return function(*args, **kwargs)

        return call


def counting(loss: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """The loss, which counts the positions that its forward goes through, padding among them."""

    def call(model: Any, inputs: dict[str, Any]) -> Any:
        parts.positions += sum(inputs[f"{part}_ids"].numel() for part in ("prompt", "completion"))
        return loss(model, inputs)

    return call


class FromTheSecondRollout(TrainerCallback):
    """Starts the count anew after the first rollout."""

    def __init__(self, parts: Parts, first: int) -> None:
        self._parts, self._first = parts, first

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self._parts.note()
        if state.global_step == self._first:
            self._parts.seconds.clear()
            self._parts.positions = 0


def by_parity(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that varies, of the policy with random weights."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


def trainer_of(cut: str, way: str, folder: str, rollouts: int) -> GRPOTrainer:
    how, (kind, settings) = CUTS[cut], WAYS[way]
    per_rollout = how["accumulated"] * how["steps"]
    changes = {
        "output_dir": folder,
        "per_device_train_batch_size": how["rows"],
        "gradient_accumulation_steps": how["accumulated"],
        "steps_per_generation": per_rollout,
        "max_completion_length": how["length"],
        "max_steps": how["steps"] * rollouts,
        "num_generations": min(16, how["rows"] * per_rollout // 2),
        **{"learning_rate": 0.0, "held_out": 0, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000},
        **settings,
    }
    warnings.simplefilter("ignore")  # what libraries say of each other
    checked = check(["--config", RECIPE, *(f"--{name}={value}" for name, value in changes.items())])
    own, policy, rewards = {}, checked.path, checked.task.rewards
    if issubclass(kind, CreditGRPOTrainer):
        own = {"answer_span": checked.task.answer_span}
    if cut.startswith("135"):
        torch.manual_seed(0)
        policy = LlamaForCausalLM._from_config(LlamaConfig(**SMOLLM2_135M), attn_implementation="sdpa")
        policy.generation_config.eos_token_id = list(range(2, policy.config.vocab_size, END_EVERY))
        rewards = [by_parity]
    else:
        checked.config.model_init_kwargs = {"dtype": checked.model.dtype}
    return kind(
        policy,
        rewards,
        args=checked.config,
        train_dataset=checked.task.train,
        processing_class=checked.tokenizer,
        **own,
    )


def measure(cut: str, way: str, rollouts: int) -> dict[str, float]:
    """CPU seconds a step by part, after the first of the rollouts, and completions a step."""
    parts = Parts()
    reading = mock.patch.object(Capture, "_see", parts.timed(Capture._see, "reading"))
    with tempfile.TemporaryDirectory() as folder, reading:
        made = trainer_of(cut, way, folder, rollouts)
        made._generate_single_turn = parts.timed(made._generate_single_turn, "generation")
        made._get_per_token_logps_and_entropies = parts.timed(made._get_per_token_logps_and_entropies, None)
        made._compute_loss = parts.timed(counting(made._compute_loss, parts), "loss")
        made.accelerator.backward = parts.timed(made.accelerator.backward, "backward")
        if isinstance(made, CreditGRPOTrainer):
            made.reader.credit = parts.timed(made.reader.credit, "reading")  # type: ignore[method-assign]
            made.reader._signals = parts.timed(made.reader._signals, "reading")  # type: ignore[method-assign]
        steps = CUTS[cut]["steps"]
        made.add_callback(FromTheSecondRollout(parts, steps))
        made.train()
    count = steps * (rollouts - 1)
    return {"positions": parts.positions / count, **{name: parts.seconds[name] / count for name in SECONDS}}


def peak(cut: str, way: str) -> float:
    """The most memory of one rollout and its steps, in MiB: of the process, or on the GPU where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(cut, way, folder, 1).train()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run(cuts: list[str], ways: list[str], rounds: int, rollouts: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    made = {"date": str(date.today()), "torch": torch.__version__, "rounds": rounds, "rollouts": rollouts}
    for cut in cuts:
        measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                gc.collect()
                measured[way].append(measure(cut, way, rollouts))
                print(f"{cut}: {way}: {total(measured[way][-1]):.3f} CPU s a step", flush=True)
        how, found[cut] = CUTS[cut], {**made, "ways": {}}
        for way, rows in measured.items():
            command = [sys.executable, __file__, "--peak", cut, way]
            said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
            least = min(rows, key=total)
            found[cut]["ways"][way] = {
                **{name: round(value, 4) for name, value in least.items()},
                "step": round(total(least), 4),
                "completions": how["rows"] * how["accumulated"],
                "peak": round(float(said.split()[-1])),
            }
    return found


def total(row: dict[str, float]) -> float:
    return sum(row[name] for name in SECONDS)


def table(found: dict[str, Any]) -> str:
    head = ["completions a s", "s a step", *SECONDS, "against TRL", "positions", "MiB"]
    lines = []
    for cut, measured in found.items():
        ways = measured["ways"]
        lines += ["", f"| {cut} | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
        for way, row in ways.items():
            cells = [f"{row['completions'] / row['step']:.1f}", f"{row['step']:.3f}"]
            cells += [f"{row[name]:.3f}" for name in SECONDS]
            cells += [f"{row['step'] / next(iter(ways.values()))['step']:.2f}", f"{row['positions']:,.0f}"]
            cells.append(f"{row['peak']:,}")
            lines.append(f"| {way} | {' | '.join(cells)} |")
        how = f"`--cuts {list(CUTS).index(cut)} --rounds {measured['rounds']} --rollouts {measured['rollouts']}`"
        lines += ["", f"{how}, {measured['date']}, torch {measured['torch']}."]
    return "\n".join(lines[1:])


def written(text: str, found: dict[str, Any]) -> str:
    """The document with the table between its markers."""
    begin, end = (text.index(marker) for marker in MARKERS)
    return f"{text[: begin + len(MARKERS[0])]}\n{table(found)}\n{text[end:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default 3)")
    parser.add_argument("--rollouts", type=int, default=3, help="of each run, the first not counted (default 3)")
    parser.add_argument("--cuts", type=int, nargs="+", default=list(range(len(CUTS))), help="which rows, by number")
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(len(WAYS))), help="which lines, by number")
    parser.add_argument("--dry", action="store_true", help="store and write nothing")
    parser.add_argument("--write", action="store_true", help="write the table from what is stored")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(*options.peak))
        return
    if not options.write:
        cuts, ways = [list(CUTS)[n] for n in options.cuts], [list(WAYS)[n] for n in options.ways]
        found = run(cuts, ways, options.rounds, options.rollouts)
        print(table(found))
        if options.dry:
            return
        earlier = json.loads(STORED.read_text()) if STORED.exists() else {}
        found = {cut: {**earlier, **found}[cut] for cut in CUTS if cut in earlier or cut in found}
        STORED.write_text(json.dumps(found, indent=1) + "\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(), json.loads(STORED.read_text())))


if __name__ == "__main__":
    main()
