"""SIGTERM: the step is finished, a checkpoint written, exit code 0; a second one ends at once."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlcredit.cli import main
from rlcredit.trainers import build, checkpoints, run
from rlcredit.trainers.stopping import StopOnSignal
from tests import command, runs, tiny


class SendsItself(TrainerCallback):
    """A signal in the middle of a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self._step, self._number = step, number

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize(
    ("number", "save_strategy"),
    [
        (signal.SIGTERM, "steps"),
        (signal.SIGINT, "steps"),
        pytest.param(signal.SIGTERM, "no", marks=pytest.mark.thorough),
    ],
)
def test_the_step_is_finished_saved_and_the_run_goes_on_from_there(tmp_path, save_strategy, number, capfd):
    straight = runs.trained(tmp_path / "a", max_steps=8)
    settings = dict(max_steps=8, save_strategy=save_strategy, save_steps=2)
    first = runs.trainer(tmp_path / "b", **settings)
    first.add_callback(SendsItself(4, number))  # the second of the four steps that share a rollout
    handler = signal.getsignal(number)
    first.train()
    assert first.was_stopped and first.state.global_step == 5
    assert signal.getsignal(number) is handler and first.stopped_by == number.name
    assert f"rlcredit: {number.name}" in capfd.readouterr().err
    saved = [path.name for path in checkpoints.complete(tmp_path / "b")]
    assert saved == (["checkpoint-5"] if save_strategy == "no" else ["checkpoint-2", "checkpoint-4", "checkpoint-5"])
    second = runs.trainer(tmp_path / "b", **settings)
    second.train(resume_from_checkpoint="latest")
    assert not second.was_stopped
    assert all(torch.equal(value, runs.parameters(second)[name]) for name, value in runs.parameters(straight).items())
    assert runs.logged(straight) == runs.logged(second)


@pytest.mark.thorough
@pytest.mark.parametrize("when", [1, 2])
def test_beside_the_steps_it_ends_at_once_and_loses_nothing(tmp_path, capsys, monkeypatch, when):
    """Before the first step, and after the last: while the policy is evaluated."""
    words = ["train", command.TINY, *command.SHORT, "--max_steps=2", "--save_steps=2", f"--output_dir={tmp_path}"]
    calls = []

    def measured(trainer):
        calls.append(trainer.state.global_step)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(run, "_accuracies", measured)
    handler = signal.getsignal(signal.SIGTERM)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "stopped by SIGTERM beside training" in said and "resume_from_checkpoint auto" in said
    assert calls == [0, 2][:when] and signal.getsignal(signal.SIGTERM) is handler
    assert main([*words, "--resume_from_checkpoint=auto"]) == 0
    assert "2 steps" in capsys.readouterr().out and (tmp_path / "model.safetensors").is_file()


def test_a_stop_keeps_its_checkpoint_beside_the_best_one(tmp_path):
    """transformers ends training with all but the best deleted, where one is to be kept."""
    settings = dict(save_strategy="steps", save_steps=1, save_total_limit=1, load_best_model_at_end=True)
    settings |= dict(eval_strategy="steps", eval_steps=1, metric_for_best_model="made_up", greater_is_better=True)
    made = runs.trainer(tmp_path, max_steps=8, eval_dataset=tiny.prompts().select(range(4)), **settings)
    made.evaluate = lambda *args, **kwargs: {"eval_made_up": float(made.state.global_step == 2)}
    made.add_callback(SendsItself(step=4))
    made.train()
    assert made.was_stopped and made.state.global_step == 5
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-2", "checkpoint-5"]
    last = load_file(tmp_path / "checkpoint-5/model.safetensors")
    assert all(torch.equal(value, runs.parameters(made)[name]) for name, value in last.items())
    assert (made.args.save_total_limit, made.args.load_best_model_at_end) == (1, True)


def test_latest_is_of_the_run_that_goes_on_from_an_older_checkpoint(tmp_path, caplog):
    settings = dict(max_steps=8, save_strategy="steps", save_steps=2)
    runs.trained(tmp_path, **settings)
    again = runs.trainer(tmp_path, **settings, learning_rate=1e-5)
    again.add_callback(SendsItself(step=2))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert Path(checkpoints.find("latest", str(tmp_path))).name == "checkpoint-3"
    rates = [line["learning_rate"] for line in again.state.log_history if "learning_rate" in line]
    assert rates[1] > 5e-4 and 5e-6 < rates[2] < 1e-5  # linear decay, of the new rate
    assert "resumed with another learning_rate: 0.001 -> 1e-05" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("abandoned-*")) == [
        f"abandoned-checkpoint-{n}" for n in (4, 6, 8)
    ]
    assert "abandoned-checkpoint-8 is newer than checkpoint-2, where the run goes on" in caplog.text
    elsewhere = runs.trainer(tmp_path / "other", **{**settings, "max_steps": 4})
    elsewhere.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-2", "checkpoint-3"]


WORDS = (*command.SHORT, "--max_steps=12", "--save_steps=100")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_every_process_ends_with_0_and_says_how_to_go_on(tmp_path, task, processes):
    words = [*WORDS, *task("slow")]
    done = command.run(*words, "--output_dir", tmp_path / "straight", processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    process = command.start(*words, "--output_dir", tmp_path / "run", processes=processes)
    command.wait_for(lambda: command.last_step(tmp_path / "run") >= 2, process)
    # to one of the processes only: the others hear of it from this one
    trained = [process.pid] if processes == 1 else children(process.pid)
    assert len(trained) == processes
    os.kill(trained[-1], signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    step = int(re.search(r"stopped by SIGTERM after step (\d+)", out)[1])
    assert 2 <= step < 12 and checkpoints.complete(tmp_path / "run")[-1].name == f"checkpoint-{step}"
    resume = shlex.split(re.search(r"resume: +(.*)", out)[1])
    assert out.count("resume:") == 1 and resume[-2:] == ["--resume_from_checkpoint", "latest"]
    done = command.run(*words, "--output_dir", tmp_path / "run", *resume[-2:], processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("straight", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def children(parent: int) -> list[int]:
    """The processes that this one has started, by the order of their start."""
    with open(f"/proc/{parent}/task/{parent}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
def test_a_launcher_that_passes_it_on_as_well_is_one_signal(tmp_path, task):
    process = command.start(*WORDS, *task("slow"), "--output_dir", tmp_path)
    command.wait_for(lambda: command.last_step(tmp_path) >= 1, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "stopped by SIGTERM" in out


@pytest.mark.slow
def test_a_second_one_ends_at_once(tmp_path, task):
    process = command.start(*WORDS, *task("slow"), "--output_dir", tmp_path, RLCREDIT_SLEEP="60")
    command.wait_for(lambda: (tmp_path / "log.jsonl").is_file(), process)  # the first step scores its rollout
    time.sleep(5)
    process.send_signal(signal.SIGTERM)
    time.sleep(StopOnSignal.SAME_SIGNAL + 0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM


def test_ctrl_c_is_saved_and_said_with_exit_code_130(tmp_path, capsys, monkeypatch):
    made = build.build

    def interrupted(checked):
        trainer = made(checked)
        trainer.add_callback(SendsItself(1, signal.SIGINT))
        return trainer

    monkeypatch.setattr(build, "build", interrupted)
    words = ["train", command.TINY, *command.SHORT, "--max_steps=4", "--save_steps=100", f"--output_dir={tmp_path}"]
    assert main(words) == 130
    said = capsys.readouterr()
    assert "stopped by SIGINT after step 2, which is saved" in said.out and "interrupted" in said.err
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-2"]


def test_a_second_ctrl_c_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(StopOnSignal, "SAME_SIGNAL", 0.0)

    class Twice(SendsItself):
        def on_pre_optimizer_step(self, *args, **kwargs):
            super().on_pre_optimizer_step(*args, **kwargs)
            super().on_pre_optimizer_step(*args, **kwargs)

    made = runs.trainer(tmp_path, max_steps=4, save_strategy="no")
    made.add_callback(Twice(1, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert made.state.global_step == 1
