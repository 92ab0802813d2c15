"""scripts/warm_start.py: what it demonstrates, and that a policy comes out."""

import json
import subprocess
import sys

import pytest
import warm_start
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcredit.config import peek
from rlcredit.tasks import TASKS
from tests import tiny
from tests.command import ROOT

RECIPE = "benchmark/countdown_smollm2"


def test_only_training_instances_are_demonstrated():
    options = {**peek(["--config", RECIPE], "task_options"), "num_train": 200}
    data = TASKS["countdown"](options)
    made = warm_start.demonstrations(options, hasty_share=0.0, seed=0)
    assert made["prompt"] == data.train["prompt"]
    assert not set(made["prompt"]) & {prompt for rows in data.tests.values() for prompt in rows["prompt"]}
    rows = data.train.to_list()
    texts = [row["prompt"] + row["completion"] for row in made.to_list()]
    assert all(text.count("<think>") == 2 for text in texts)  # named in the prompt, and opened once
    assert sum(verdict.correct for verdict in data.check(texts, rows)) > 180
    hasty = warm_start.demonstrations(options, hasty_share=1.0, seed=0).to_list()
    texts = [row["prompt"] + row["completion"] for row in hasty]
    assert sum(verdict.correct for verdict in data.check(texts, rows)) < 150


@pytest.mark.slow
def test_a_policy_comes_out(tmp_path):
    policy = tmp_path / "start"
    tiny.model_of("llama").save_pretrained(policy)
    tiny.tokenizer().save_pretrained(policy)
    words = ["--model", str(policy), "--output", str(tmp_path / "made"), "--steps", "3", "--batch_size", "4"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/warm_start.py"), *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (policy, tmp_path / "made"))
    assert any((one != other).any() for one, other in zip(before.parameters(), after.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "made")("12")["input_ids"]
    assert json.loads((tmp_path / "made/config.json").read_text())["model_type"] == before.config.model_type
