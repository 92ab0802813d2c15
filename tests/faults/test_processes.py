"""Two processes, of which one meets a fault: what it costs, both of them know."""

from __future__ import annotations

import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from rlcredit.trainers import checkpoints
from tests import command

pytestmark = pytest.mark.slow

WORDS = (*command.SHORT, "--max_steps=8", "--save_steps=2")
FAULT = {"RLCREDIT_FAULT_STEP": "4"}  # a step that begins with a rollout


def launched(folder, words, **variables) -> subprocess.CompletedProcess:
    return command.run(*WORDS, *words, "--output_dir", folder, processes=2, **variables)


def unscored(folder) -> float:
    return sum(line.get("reward/unscored", 0) for line in command.lines_of(folder))


@pytest.mark.parametrize(("reward", "settings"), [("raises", []), ("hangs", ["--reward_timeout=10"])])
def test_completions_that_one_process_cannot_score_are_left_out(tmp_path, task, reward, settings):
    done = launched(tmp_path / "run", [*task(reward), *settings], **FAULT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        command.last_step(tmp_path / "run") == 8 and 0 < unscored(tmp_path / "run") <= 32
    )  # of the 64 of that rollout
    assert "such completions stay unscored" in done.stderr


def test_wrong_scores_of_one_process_end_both(tmp_path, task):
    done = launched(tmp_path / "run", task("miscounts"), **FAULT)
    said = done.stderr
    assert done.returncode != 0 and re.findall("rlcredit: reward .*", said) == [
        "rlcredit: reward 'miscounts' returned 31 scores for 32 completions; return exactly one for each"
    ]


def test_a_server_that_one_process_cannot_reach_stops_both_with_a_checkpoint(tmp_path, task):
    done = launched(tmp_path / "run", [*task("unreachable"), "--reward_retries=1"], **FAULT)
    said = done.stderr
    assert done.returncode != 0 and said.count("rlcredit: ") == 1, said[-3000:]
    assert "did not answer 2 times" in said and "checkpoint-4, go on from there" in said
    goes_on_as_if_nothing_had_been(tmp_path, task("unreachable"))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_dies(tmp_path, task, rank):
    process = command.start(
        *WORDS, *task("dies"), "--output_dir", tmp_path / "run", processes=2, **FAULT, RLCREDIT_FAULT_RANK=rank
    )
    command.wait_for(lambda: command.last_step(tmp_path / "run") >= 4, process)
    _, said = process.communicate(timeout=600)  # both processes end, instead of waiting for each other for ever
    assert process.returncode != 0
    assert "rlcredit: another process of this run has ended, or cannot be reached" in said, said[-3000:]
    goes_on_as_if_nothing_had_been(tmp_path, task("dies"))


def goes_on_as_if_nothing_had_been(tmp_path, words) -> None:
    assert checkpoints.complete(tmp_path / "run")[-1].name == "checkpoint-4"
    done = launched(tmp_path / "run", [*words, "--resume_from_checkpoint=latest"])
    assert done.returncode == 0, done.stderr[-3000:]
    done = launched(tmp_path / "straight", words)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("straight", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_step_that_is_bad_on_one_process_is_skipped_on_both(tmp_path, algorithm):
    done = command.run_module("tests.faults.bad_step", tmp_path, algorithm, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"process{rank}.pt") for rank in range(2))
    assert one["bad_steps"] == two["bad_steps"] == 1
    for name, value in one["after"].items():
        assert torch.equal(value, two["after"][name]) and value.isfinite().all()
    assert all(torch.equal(value, one["skipped"][name]) for name, value in one["before"].items())
    assert any(not torch.equal(value, one["after"][name]) for name, value in one["before"].items())
