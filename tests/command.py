"""The real command line in processes of its own, with the tiny policy and short responses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlcredit.config import recipes_root

ROOT = Path(__file__).parents[1]
TINY = "--config=countdown_tiny/coupled_rhythm"
SHORT = (
    "--num_generations=4",
    "--per_device_train_batch_size=8",
    "--steps_per_generation=4",
    "--gradient_accumulation_steps=1",
    "--max_completion_length=24",
    "--held_out=0",
    "--disable_tqdm=true",
)


def start(*words: object, processes: int = 1, config: str = "ddp", **variables: str) -> subprocess.Popen[str]:
    """`rlcredit train`, or with several processes `accelerate launch scripts/train.py` with that launch config."""
    launched = processes > 1 or config != "ddp"
    program = [str(ROOT / "scripts/train.py")] if launched else ["-m", "rlcredit", "train"]
    return _started([*_launcher(processes, config), *program, *map(str, words)], variables)


def run(*words: object, processes: int = 1, **options: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return _ended(start(*words, processes=processes, **options))


def run_module(
    module: str, *words: object, processes: int = 1, config: str = "ddp"
) -> subprocess.CompletedProcess[str]:
    """`python -m module`, or launched in the same way, to its end."""
    # which rlcredit's command line sets for itself
    variables = {"ACCELERATE_USE_CPU": "true"}
    return _ended(_started([*_launcher(processes, config), "-m", module, *map(str, words)], variables))


def lines_of(folder: Path) -> list[dict]:
    """log.jsonl so far, without a last line that is still being written."""
    path = folder / "log.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(folder: Path) -> int:
    return max((line["step"] for line in lines_of(folder)), default=0)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until it holds; fails if the process ends before, or the time is over."""
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1][-3000:]}")
        assert time.monotonic() < until, "never happened"
        time.sleep(0.002)


def _launcher(processes: int, config: str = "ddp") -> list[str]:
    """What runs a script, or with -m a module."""
    if processes == 1 and config == "ddp":
        return [sys.executable]
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port=0"]
    return [*launch, f"--config_file={recipes_root() / 'accelerate' / config}.yaml", f"--num_processes={processes}"]


def _started(command: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def _ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
