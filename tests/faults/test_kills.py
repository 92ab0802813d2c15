"""A run that is killed at any moment goes on from its newest complete checkpoint, and ends as if it never was."""

from __future__ import annotations

import random
import time

import pytest
import torch
from safetensors.torch import load_file

from rlcredit.trainers import checkpoints
from tests import command

KILLS, SAVE_STEPS, STEPS = 20, 2, 150


def torn(folder):
    return [path for path in checkpoints.folders(folder) if not checkpoints.is_complete(path)]


def readable(folder) -> bool:
    """Whether everything a checkpoint holds can be loaded (asked of the files, not of the list of them)."""
    load_file(folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rlcredit-process0.pt"):
        torch.load(folder / name, weights_only=True)
    return (folder / "trainer_state.json").read_text().rstrip().endswith("}")


def wait_and_kill(process, folder, moment: str, draw: random.Random) -> None:
    before = command.last_step(folder)
    if moment == "saving":
        command.wait_for(lambda: command.last_step(folder) > before and torn(folder), process)
        time.sleep(draw.uniform(0, 0.03))
    elif moment == "training":
        command.wait_for(lambda: command.last_step(folder) > before, process)
        time.sleep(draw.uniform(0, 1))
    else:
        time.sleep(draw.uniform(0, 10))
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    words = [
        command.TINY,
        *command.SHORT,
        f"--max_steps={STEPS}",
        f"--save_steps={SAVE_STEPS}",
        "--resume_from_checkpoint=auto",
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = command.run(*words, "--output_dir", straight, "--save_total_limit=2")
    assert done.returncode == 0, done.stderr[-3000:]
    draw = random.Random(7)
    moments = ["saving"] * 10 + ["training"] * 8 + ["starting"] * 2
    draw.shuffle(moments)
    assert len(moments) == KILLS
    lost, found_torn = [], 0
    for moment in moments:
        process = command.start(*words, "--output_dir", killed, "--save_total_limit=2")
        wait_and_kill(process, killed, moment, draw)
        found_torn += len(torn(killed))
        newest = checkpoints.complete(killed)[-1:]
        assert all(map(readable, newest))
        at = int(newest[0].name.split("-")[1]) if newest else 0
        lost.append(command.last_step(killed) - at)
        assert 0 <= lost[-1] <= SAVE_STEPS
    done = command.run(*words, "--output_dir", killed, "--save_total_limit=2")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(folder / "model.safetensors") for folder in (straight, killed))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    steps = [
        [(line["step"], line["reward"]) for line in command.lines_of(f) if "reward" in line]
        for f in (straight, killed)
    ]
    assert steps[0] == steps[1]
    assert found_torn >= 5, "the kills missed the saving"
    print(f"{KILLS} kills, {found_torn} torn checkpoints passed over, steps lost: {sorted(lost)}")
