"""The real command line in processes of its own, with the tiny policy and short responses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlcredit.recipes import recipes_root

ROOT = Path(__file__).parents[1]
SHORT = (
    "--config=countdown_tiny/coupled_rhythm",
    "--num_generations=4",
    "--per_device_train_batch_size=8",
    "--steps_per_generation=4",
    "--gradient_accumulation_steps=1",
    "--max_completion_length=24",
    "--held_out=0",
    "--disable_tqdm=true",
)


def start(*words: object, processes: int = 1, **variables: str) -> subprocess.Popen[str]:
    """`rlcredit train`, or with several processes `accelerate launch scripts/train.py`."""
    command = [sys.executable, "-m", "rlcredit", "train"]
    if processes > 1:
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port=0"]
        command += ["--config_file", str(recipes_root() / "accelerate/ddp.yaml"), f"--num_processes={processes}"]
        command += [str(ROOT / "scripts/train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.Popen(
        [*command, *map(str, words)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*words: object, processes: int = 1, timeout: float = 600, **variables: str) -> tuple[int, str, str]:
    """The same, to its end: exit code, stdout, stderr."""
    process = start(*words, processes=processes, **variables)
    said = process.communicate(timeout=timeout)
    return process.returncode, *said


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
