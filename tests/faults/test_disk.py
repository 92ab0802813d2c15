"""A disk that is full while a checkpoint is written: an older one is kept, and the run says so."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest
import torch
from transformers import TrainerState

from rlcredit import CreditGRPOConfig, CreditGRPOTrainer, CreditPPOTrainer
from rlcredit.errors import RunStopped
from rlcredit.runs.files import read_lines
from rlcredit.runs.log import JsonlLog
from rlcredit.trainers import checkpoints
from tests import command, runs
from tests.faults.test_sigterm import SendsItself


@contextmanager
def files_of_at_most(size: int):
    """No file may grow beyond it: writing fails as on a full disk, whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullFrom(JsonlLog):
    """The disk is full while the steps of a range are taken and saved."""

    def __init__(self, steps: range, size: int):
        self._steps, self._size, self._limit = steps, size, None

    def on_step_end(self, args, state, control, **kwargs):
        self._end()
        if state.global_step in self._steps:
            self._limit = files_of_at_most(self._size)
            self._limit.__enter__()

    def on_step_begin(self, args, state, control, **kwargs):
        self._end()

    def _end(self):
        if self._limit is not None:
            self._limit.__exit__(None, None, None)
            self._limit = None


SETTINGS = dict(save_strategy="steps", save_steps=2, max_steps=8)


@pytest.mark.parametrize(
    ("kind", "size"),  # the first file fails; the policy; its optimiser
    [
        (CreditGRPOTrainer, 100_000),
        *(pytest.param(CreditGRPOTrainer, size, marks=pytest.mark.thorough) for size in (15_000, 300_000)),
        *(pytest.param(CreditPPOTrainer, size, marks=pytest.mark.thorough) for size in (15_000, 100_000, 300_000)),
    ],
)
def test_the_older_checkpoint_is_kept_and_the_run_stops(tmp_path, size, kind):
    made = runs.trainer(tmp_path, kind, **SETTINGS)
    full = FullFrom(range(4, 5), size)
    made.add_callback(full)
    said = r"checkpoint-4 could not be saved \(.+ MB are free there\); checkpoint-2 is kept"
    try:
        with pytest.raises(RunStopped, match=said):
            made.train()
    finally:
        full._end()
    assert [path.name for path in checkpoints.folders(tmp_path)] == ["checkpoint-2"]
    again = runs.trainer(tmp_path, kind, **SETTINGS)
    again.train(resume_from_checkpoint="latest")
    straight = runs.trained(tmp_path / "straight", kind, max_steps=8)
    assert all(torch.equal(value, runs.parameters(again)[name]) for name, value in runs.parameters(straight).items())


@pytest.mark.thorough
def test_the_run_goes_on_where_it_is_told_to(tmp_path, caplog):
    made = runs.trainer(tmp_path, **SETTINGS, on_save_error="continue", save_total_limit=1)
    made.add_callback(FullFrom(range(4, 7), 15_000))
    made.train()
    assert [path.name for path in checkpoints.folders(tmp_path)] == ["checkpoint-8"]
    assert caplog.text.count("could not be saved") == 2 and "checkpoint-2 is kept, and the run goes on" in caplog.text
    straight = runs.trained(tmp_path / "straight", max_steps=8)
    assert all(torch.equal(value, runs.parameters(made)[name]) for name, value in runs.parameters(straight).items())


def test_a_run_that_ends_with_a_save_says_that_it_failed(tmp_path):
    made = runs.trainer(tmp_path, **SETTINGS, on_save_error="continue")
    full = FullFrom(range(3, 4), 15_000)
    made.add_callback(SendsItself(step=2))
    made.add_callback(full)
    try:
        with pytest.raises(RunStopped, match=r"checkpoint-3 could not be saved .+ checkpoint-2 is kept; make room"):
            made.train()
    finally:
        full._end()
    assert [path.name for path in checkpoints.folders(tmp_path)] == ["checkpoint-2"]


def test_a_line_of_the_log_that_does_not_fit_is_left_out_whole(tmp_path, caplog):
    args, state = runs.arguments(tmp_path, CreditGRPOConfig), TrainerState(global_step=1)
    written = JsonlLog()
    written.on_log(args, state, None, logs={"reward": 1.0})
    state.global_step = 2
    with files_of_at_most((tmp_path / "log.jsonl").stat().st_size + 9):
        written.on_log(args, state, None, logs={"reward": 2.0})
    state.global_step = 3
    written.on_log(args, state, None, logs={"reward": 3.0})
    assert read_lines(tmp_path / "log.jsonl")[0] == [{"step": 1, "reward": 1.0}, {"step": 3, "reward": 3.0}]
    assert "step 2 is missing from" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_real_disk_that_fills_up(tmp_path, choice):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        words = [
            command.TINY,
            *command.SHORT,
            "--max_steps=6",
            "--save_steps=2",
            f"--on_save_error={choice}",
            "--output_dir",
            disk / "run",
        ]
        process = command.start(*words)
        command.wait_for(lambda: checkpoints.complete(disk / "run"), process)
        process.send_signal(signal.SIGSTOP)  # it writes nothing while the room is counted
        with (disk / "ballast").open("wb") as file:  # leaves a few megabytes: less than a checkpoint
            file.write(bytes(max(0, shutil.disk_usage(disk).free - 4 * 2**20)))
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=300)
        kept = checkpoints.complete(disk / "run")
        assert process.returncode == 1 and kept and "No space left" in said
        last = [line for line in said.splitlines() if line.startswith("rlcredit: ")]
        assert len(last) == 1 and ("policy could not be saved" if choice == "continue" else "is kept") in last[0]
        assert "Traceback" not in said
        os.unlink(disk / "ballast")
        done = command.run(*words, "--resume_from_checkpoint=latest")
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_disk_that_is_full_for_one_process_of_two_ends_or_goes_on_for_both(tmp_path, choice):
    """The own file of the second process cannot be written: the first must not wait for it in a collective."""
    done = command.run_module("tests.faults.full_disk", tmp_path, choice, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = [path.name for path in checkpoints.folders(tmp_path)]
    if choice == "continue":
        assert kept == ["checkpoint-2", "checkpoint-6"] and "could not be saved" in done.stderr
    else:
        assert kept == ["checkpoint-2"]
        assert all(f"process {rank} stopped: checkpoint-4 could not be saved" in done.stdout for rank in range(2))


@pytest.mark.slow
def test_a_disk_that_is_full_where_processes_wait_for_each_other_for_the_best_checkpoint(tmp_path):
    """transformers' own saving has a barrier in its middle there: the process that fails must leave at once."""
    done = command.run_module("tests.faults.full_disk", tmp_path, "stop", "0", "100000", "best", processes=2)
    assert "process 0 stopped: checkpoint-4 could not be saved" in done.stdout, done.stderr[-3000:]
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-2"]
