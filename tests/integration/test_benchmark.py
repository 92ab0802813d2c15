"""A grid of real runs: the same first rollouts, cells that are reproduced, stopped, gone on with and never redone."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlcredit.cli import main
from tests.command import ROOT

RECIPE = ["--config", "benchmark/countdown_tiny"]
SHORT = [
    *("--max_steps=4", "--eval_steps=2", "--save_steps=1", "--held_out=16", "--num_generations=4"),
    *("--per_device_train_batch_size=8", "--per_device_eval_batch_size=8", "--log_completions=true"),
    *("--task_options.num_validation=8", "--steps_per_generation=2"),
]
GRID = ["--strategies", "uniform", "random", "coupled_rhythm", "--seeds", "0"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    places = ["--output", str(folder / "out"), "--runs", str(folder / "runs")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rlcredit", "benchmark", *RECIPE, *GRID, *SHORT, *places, *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cells_of(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "out/cells").glob("*.json"))}


def learned(cell: dict) -> dict:
    """What a cell says of the policy: all but times."""
    curves = {key: value for key, value in cell["curves"].items() if "time" not in key}
    return {"held_out": cell["held_out"], "curves": curves, "settings": cell["settings"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A grid that ran to its end without a stop, its runs kept."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, "--keep_runs", "true", "--jobs", "2")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    return folder, out, err


@pytest.mark.slow
def test_all_strategies_have_the_same_first_rollouts(whole):
    folder, _, _ = whole
    tables = {
        path.parents[1].name: pq.read_table(path)
        for path in sorted((folder / "runs").glob("*/completions/completions_00001.parquet"))
    }
    assert set(tables) == {"uniform-seed0", "random-seed0", "coupled_rhythm-seed0"}
    first = tables["uniform-seed0"]
    for table in tables.values():
        for column in ("prompt", "completion", "countdown_reward", "advantage"):
            assert table[column].to_pylist() == first[column].to_pylist()
    cells = cells_of(folder)
    rewards = {name: cell["curves"]["reward"]["value"][0] for name, cell in cells.items()}
    assert len(set(rewards.values())) == 1
    before = {json.dumps([part["0"] for part in cell["held_out"].values()]) for cell in cells.values()}
    assert len(before) == 1
    # and then they part
    assert learned(cells["uniform-seed0"]) != learned(cells["random-seed0"])
    assert cells["random-seed0"]["curves"]["loss"] != cells["coupled_rhythm-seed0"]["curves"]["loss"]


@pytest.mark.slow
def test_what_a_grid_leaves(whole):
    folder, out, err = whole
    assert "uniform-seed0: done, accuracy" in err and "p cannot go below 1" in out
    found = json.loads((folder / "out/results.json").read_text())
    assert list(found["variants"]) == ["uniform", "random", "coupled_rhythm"] and found["notes"] == []
    cell = cells_of(folder)["coupled_rhythm-seed0"]
    assert {name: {step: len(digits) for step, digits in part.items()} for name, part in cell["held_out"].items()} == {
        "countdown": {"0": 16, "2": 16, "4": 16},
        "countdown_validation": {"0": 8, "2": 8, "4": 8},
        "countdown_t1": {"0": 16, "2": 16, "4": 16},
    }
    final = found["variants"]["coupled_rhythm"]["measures"]["final"]["value"]
    assert final == np.mean([int(digit) for digit in cell["held_out"]["countdown"]["4"]])
    assert (cell["completions_a_rollout"], cell["steps_a_rollout"], cell["steps"]) == (16, 2, 4)
    text = "".join(path.read_text() for path in (folder / "out/cells").iterdir())
    assert str(ROOT) not in text  # nothing of this machine


@pytest.mark.slow
def test_the_command_of_a_cell_reproduces_it(whole, tmp_path):
    folder, _, _ = whole
    cell = cells_of(folder)["random-seed0"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # the command says it
    command = cell["command"].replace("rlcredit", shlex.join([sys.executable, "-m", "rlcredit"]), 1)
    assert subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    made = tmp_path / "outputs/random-seed0"
    again = json.loads((made / "accuracy.json").read_text())
    for name, values in again["after"].items():
        assert "".join(str(round(value)) for value in values) == cell["held_out"][name]["4"]
    lines = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    losses = [float(f"{line['loss']:.5g}") for line in lines if "loss" in line]
    assert losses == cell["curves"]["loss"]["value"]


@pytest.mark.slow
def test_cells_that_fail_are_said(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "recipe.yaml").write_text((ROOT / "recipes/benchmark/countdown_tiny.yaml").read_text())
    # found only when the optimiser is made: bitsandbytes is not installed
    (tmp_path / "sets/s.yaml").write_text("bad: {optim: adamw_8bit}\n")
    words = ["benchmark", "--config", str(tmp_path / "recipe.yaml"), "--set", "s", "--seeds", "0", *SHORT]
    places = ["--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "rlcredit", *words, *places], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "1 cells failed; bad-seed0: ended with 1" in done.stderr and "bad-seed0.log" in done.stderr
    assert "1 cells are not finished and left out: bad at seed 0" in (tmp_path / "out/results-s.md").read_text()


@pytest.mark.slow
def test_a_stopped_grid_goes_on_and_keeps_what_is_finished(whole, tmp_path, capsys):
    process = start(tmp_path, "--jobs", "1")
    until = time.monotonic() + 600
    random_log = tmp_path / "runs/random-seed0/log.jsonl"
    while not (random_log.is_file() and random_log.stat().st_size):  # the second cell is at work
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "the same command goes on" in err
    first = (tmp_path / "out/cells/uniform-seed0.json").read_text()
    assert list(cells_of(tmp_path)) == ["uniform-seed0"]
    assert list((tmp_path / "runs/random-seed0").glob("checkpoint-*"))
    assert not (tmp_path / "runs/uniform-seed0").exists()  # kept as a cell

    process = start(tmp_path, "--jobs", "1")
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    assert "uniform-seed0" not in err  # not run again
    assert (tmp_path / "out/cells/uniform-seed0.json").read_text() == first
    # a cell that was stopped on its way is the cell that never was
    stopped, never = cells_of(tmp_path), cells_of(whole[0])
    assert {name: learned(cell) for name, cell in stopped.items()} == {
        name: learned(cell) for name, cell in never.items()
    }

    # one more time: nothing to do; other settings are refused; a damaged cell alone is run again
    places = ["--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    words = ["benchmark", *RECIPE, *GRID, *SHORT, *places]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()} == stamps
    assert main([*words, "--learning_rate", "1e-3"]) == 2
    assert "learning_rate 0.0003 instead of 0.001" in capsys.readouterr().err
    path = tmp_path / "out/cells/random-seed0.json"
    whole_text = path.read_text()
    path.write_text(whole_text[:200])
    assert main(words) == 0
    assert "it is run again" in capsys.readouterr().out
    again = json.loads(path.read_text())
    assert learned(again) == learned(json.loads(whole_text))
