"""Two machines that train as one: two network namespaces of this one, each with its own address and loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlcredit.config import recipes_root
from tests import fixed_rollouts

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CARD = "rlc0"

pytestmark = pytest.mark.slow


def ip(*words: str) -> None:
    """Raises: CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two namespaces joined by a cable; nothing else can be reached from them."""
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces here: Debian's package iproute2 is needed")
    names = [f"rlcredit-{os.getpid()}-{number}" for number in range(2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", CARD, "netns", names[0], "type", "veth", "peer", "name", CARD, "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", CARD)
            for card in ("lo", CARD):
                ip("-n", name, "link", "set", card, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def launched(machines: list[str], *words: str) -> list[str]:
    """What each machine's `accelerate launch` wrote, once all have ended well."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(recipes_root() / "accelerate/multi_node.yaml"), "--main_process_ip", ADDRESSES[0]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": CARD}
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command, "--machine_rank", str(rank), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for rank, name in enumerate(machines)
    ]
    try:
        said = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert codes == [0, 0], "\n\n".join(f"machine {rank}:\n{text[-8000:]}" for rank, text in enumerate(said))
    return said


def test_two_machines_are_one_process_that_accumulates(machines, tmp_path):
    fixed_rollouts.run(tmp_path / "one", gradient_accumulation_steps=2)
    launched(machines, "-m", "tests.fixed_rollouts", str(tmp_path / "two"), '{"gradient_accumulation_steps": 1}')
    fixed_rollouts.assert_same(fixed_rollouts.read(tmp_path / "one"), fixed_rollouts.read(tmp_path / "two", 2))


def test_rlcredit_train_on_two_machines(machines, tmp_path):
    words = ["scripts/train.py", "--config", "countdown_tiny/coupled_rhythm", "--output_dir", str(tmp_path / "run")]
    words += ["--num_generations=4", "--per_device_train_batch_size=4", "--held_out=8", "--disable_tqdm=true"]
    words += ["--save_steps=2"]
    first, second = launched(machines, *words, "--max_steps=2")
    assert "coupled_rhythm: 2 steps" in first and "coupled_rhythm" not in second
    launched(machines, *words, "--max_steps=4", "--resume_from_checkpoint=latest")
    weights = [load_file(tmp_path / f"run/checkpoint-{step}/model.safetensors") for step in (2, 4)]
    assert any((value != weights[1][name]).any() for name, value in weights[0].items())
    assert len(list((tmp_path / "run/checkpoint-4").glob("rng_state_*.pth"))) == 2
