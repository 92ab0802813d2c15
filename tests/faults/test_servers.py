"""A reward server that goes away: asked again, then the run stops with a checkpoint and loses nothing."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from rlcredit.errors import RunStopped
from rlcredit.rewards.guards import GuardedReward, RewardsStopped
from rlcredit.trainers import checkpoints
from tests import runs, tiny
from tests.faults import rewards


class Scores(BaseHTTPRequestHandler):
    """Answers with the scores of the texts it is sent; `refused` of its answers are 503."""

    refused = 0

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(tiny.count_digits(texts)).encode()
        type(self).refused -= 1
        self.send_response(503 if self.refused >= 0 else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    made = ThreadingHTTPServer(("127.0.0.1", 0), Scores)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("RLCREDIT_SCORES", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setattr(Scores, "refused", 0)
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited for between calls (and not waited for here)."""
    found = []
    monkeypatch.setattr("rlcredit.rewards.guards.time.sleep", found.append)
    return found


def test_it_is_asked_again_until_it_answers(server, waits):
    Scores.refused = 3
    guard = GuardedReward(rewards.server, retries=5)
    assert guard(["p", "p"], ["12", "a"]) == tiny.count_digits(["12", "a"])
    assert waits == [1, 2, 4] and guard.error is None


def test_what_an_attempt_logged_before_its_server_failed_is_not_logged(waits):
    def reward(completions, log_extra, **_):
        log_extra("asked", [len(waits)] * len(completions))
        if not waits:
            raise ConnectionError("no route")
        return [1.0] * len(completions)

    found = []
    GuardedReward(reward, retries=1)(["p", "p"], ["1", "2"], log_extra=lambda *logged: found.append(logged))
    assert found == [("asked", [1, 1])]


def test_a_server_that_stays_away_ends_the_run(waits, monkeypatch):
    monkeypatch.setenv("RLCREDIT_SCORES", "http://127.0.0.1:9")  # nobody listens there
    guard = GuardedReward(rewards.server, retries=2)
    guard(["p"], ["12"])
    assert waits == [1, 2] and isinstance(guard.error, RewardsStopped)
    assert "'server': its server did not answer 3 times (URLError" in str(guard.error)


def test_a_server_that_is_back_is_heard_again(waits, server, monkeypatch):
    url = os.environ["RLCREDIT_SCORES"]
    monkeypatch.setenv("RLCREDIT_SCORES", "http://127.0.0.1:9")
    guard = GuardedReward(rewards.server)
    guard(["p"], ["12"])
    assert guard.error is not None
    monkeypatch.setenv("RLCREDIT_SCORES", url)
    assert guard(["p"], ["12"]) == tiny.count_digits(["12"]) and guard.error is None


class Foreign(Exception):
    """As the clients of the field name theirs."""


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionResetError("gone"), True),
        (type("ConnectError", (type("TransportError", (Foreign,), {}),), {})("httpx"), True),
        (type("ConnectionError", (OSError,), {})("requests"), True),
        (type("ClientConnectionError", (Foreign,), {})("aiohttp"), True),
        (urllib.error.HTTPError("u", 503, "busy", None, None), True),
        (urllib.error.HTTPError("u", 404, "what?", None, None), False),
        (ValueError("a bug"), False),
        (FileNotFoundError("a file"), False),
        (TimeoutError("a completion that hangs"), False),
    ],
)
def test_what_counts_as_a_server_that_is_away(error, away, waits):
    def reward(completions, **_):
        raise error

    guard = GuardedReward(reward, retries=1)
    guard(["p"], ["x"])
    assert (guard.error is not None) == away == (waits == [1])
    assert guard.failed == (set() if away else {0})


@pytest.mark.parametrize("schedule", [runs.MISALIGNED, pytest.param(runs.ALIGNED, marks=pytest.mark.thorough)])
def test_the_run_stops_with_a_checkpoint_and_goes_on_as_if_nothing_had_been(
    tmp_path, server, waits, schedule, monkeypatch
):
    settings = dict(reward=rewards.server, max_steps=8, reward_retries=1, **schedule)
    straight = runs.trained(tmp_path / "a", **settings)
    calls = []

    def until_then(completions, **columns):
        calls.append(1)
        if len(calls) == 2:
            server.shutdown()
            server.server_close()
        return rewards.server(completions, **columns)

    until_then.__name__ = "server"
    first = runs.trainer(tmp_path / "b", **{**settings, "reward": until_then})
    with pytest.raises(RunStopped, match=r"did not answer 2 times .*the run so far is in .*checkpoint-\d"):
        first.train()
    step = first.state.global_step
    assert 1 <= step < 8 and [path.name for path in checkpoints.complete(tmp_path / "b")] == [f"checkpoint-{step}"]
    again = ThreadingHTTPServer(("127.0.0.1", 0), Scores)
    threading.Thread(target=again.serve_forever, daemon=True).start()
    monkeypatch.setenv("RLCREDIT_SCORES", f"http://127.0.0.1:{again.server_port}")
    second = runs.trainer(tmp_path / "b", **settings)
    second.train(resume_from_checkpoint="latest")
    again.shutdown()
    again.server_close()
    assert all(torch.equal(value, runs.parameters(second)[name]) for name, value in runs.parameters(straight).items())
    assert runs.logged(straight) == runs.logged(second)
