"""`rlcredit report --watch`: what is served, to whom, when it is made anew, and how it ends."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rlcredit.errors import InputError
from rlcredit.runs import watch as module
from rlcredit.runs.files import append_line, is_finished, write_accuracies
from rlcredit.runs.page import Live
from rlcredit.runs.report import report
from rlcredit.runs.watch import ADDRESS, LivePage, serve, stamp_of
from tests.browser.document import held_by
from tests.unit.test_runs import write_run

LATER = 4_000_000_000  # seconds since the epoch: later than any file of a test


def asked(port: int, path: str = "/", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{ADDRESS}:{port}{path}", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, html.unescape(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def served():
    """Serve a page at any free port; gives the port."""
    servers = []

    def start(page: LivePage) -> int:
        server = serve(0, page)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server.server_port

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_new_row_of_the_log_is_a_new_page(tmp_path, served):
    folder = write_run(tmp_path / "a", facts={"settings": {"max_steps": 20}})
    port = served(LivePage([folder], "rlcredit report a --watch"))
    (status, first), (_, stamp) = asked(port), asked(port, "/stamp")
    assert status == 200 and held_by(first)["live"] == stamp
    assert "The run is at step 12 of 20, last logged at" in first and "connect-src 'self'" in first
    assert asked(port) == (200, first)  # nothing has changed: the very page
    append_line(folder / "log.jsonl", {"step": 13, "reward": 0.25})
    (_, second), (_, newer) = asked(port), asked(port, "/stamp")
    assert newer != stamp and held_by(second)["live"] == newer
    line = held_by(second)["charts"][0]["lines"][0]
    assert (line["x"][-1], line["raw"][-1]) == (13, 0.25)
    assert "step 13 of 20" in second
    write_accuracies(folder, before={}, after={})
    assert "The run has finished after step 13." in asked(port)[1]


def test_a_page_that_is_written_is_not_live(tmp_path):
    folder = write_run(tmp_path / "a")
    report([str(folder)])
    page = html.unescape((folder / "report.html").read_text())
    assert "live" not in held_by(page) and 'id="live"' not in page and "connect-src 'none'" in page


def test_a_run_that_has_not_begun_is_waited_for(tmp_path, served):
    first, second = tmp_path / "a", tmp_path / "b"
    page = LivePage([first, second], "rlcredit report a b --watch")
    port = served(page)
    waits = asked(port)[1]
    assert 'http-equiv="refresh"' in waits and f"{first}: no log.jsonl yet" in waits and "<script" not in waits
    write_run(first, "")
    assert "has not logged a step yet" in asked(port)[1] and page.waiting() == [second]
    (first / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    shown = asked(port)[1]
    assert "The run is at step 1, last logged at" in shown and f"{second} has not begun." in shown
    write_accuracies(write_run(second), before={}, after={})
    assert "1 of 2 runs has finished. a is at step 1, last logged at" in asked(port)[1]


def test_a_run_that_cannot_be_read_for_a_while_stays_as_it_was(tmp_path, served):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", completions={1: []})
    port = served(LivePage([first, second], "rlcredit report a b --watch"))
    assert len(held_by(asked(port)[1])["runs"]) == 2
    table = second / "completions" / "completions_00001.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:40])  # as in mid-write
    broken = asked(port)[1]
    assert len(held_by(broken)["runs"]) == 2 and "shown as it was read before" in broken
    table.write_bytes(whole)
    assert "shown as it was read before" not in asked(port)[1]


def test_only_this_machine_is_served(tmp_path, served):
    folder = write_run(tmp_path / "a")
    server = serve(0, LivePage([folder], "x"))
    assert server.socket.getsockname()[0] == "127.0.0.1"
    server.server_close()
    port = served(LivePage([folder], "x"))
    assert asked(port, Host="localhost:9000")[0] == 200  # as by way of ssh -L 9000:127.0.0.1:8710
    assert asked(port, Host=f"rebound.example:{port}") == (403, "this page is served to this machine alone\n")
    assert asked(port, "/log.jsonl")[0] == 404 and asked(port, "/../log.jsonl")[0] == 404


def test_a_taken_port_is_the_next_one_or_one_line(tmp_path, monkeypatch):
    page = LivePage([tmp_path], "x")
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} is taken"):
            serve(port, page)
        monkeypatch.setattr(module, "PORT", port)
        monkeypatch.setattr(module, "MORE_PORTS", 1)
        with pytest.raises(InputError, match=f"{port} to {port} are taken"):
            serve(None, page)
        monkeypatch.setattr(module, "MORE_PORTS", 20)
        with serve(None, page) as server:
            assert port < server.server_port < port + 20


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "--watch", "--output", "x.html"], "--output: --watch serves"),
        (["a", "--port", "8000"], "--port: is for --watch alone"),
        (["a", "--watch", "--port", "seven"], "'seven' is not a port"),
        (["a", "--watch", "--port=70000"], "is not a port"),
        (["a", "--watch", "--port"], "--port: takes one number, once"),
        (["--watch"], "takes the output folder"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, said):
    with pytest.raises(InputError, match=said) as caught:
        report(argv)
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_after_its_end_is_not_finished(tmp_path):
    folder = write_run(tmp_path / "a", accuracies={"before": {}})
    assert not is_finished(folder)
    write_accuracies(folder, before={}, after={})
    assert is_finished(folder)
    os.utime(folder / "log.jsonl", (LATER, LATER))  # resumed, with more steps
    assert not is_finished(folder)
    live = Live("stamp", 4, [], [])
    assert not live.going_on and live._replace(waiting=["b"]).going_on


def test_the_stamp_follows_every_file_of_a_run(tmp_path):
    folder = write_run(tmp_path / "a", completions={1: []})
    stamps = [stamp_of([folder]), stamp_of([folder])]
    assert len(set(stamps)) == 1
    shutil.copy(
        folder / "completions" / "completions_00001.parquet", folder / "completions" / "completions_00002.parquet"
    )
    stamps.append(stamp_of([folder]))
    for name in ("accuracy.json", "run.json", "held_out.jsonl"):
        (folder / name).write_text(json.dumps({}))
        stamps.append(stamp_of([folder]))
    assert len(set(stamps)) == 5


def test_ctrl_c_ends_it_cleanly_also_where_stdout_is_no_terminal(tmp_path):
    command = [sys.executable, "-m", "rlcredit", "report", str(tmp_path / "none"), "--watch", "--port", "0"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # a shell that runs the tests in the background has its children ignore Ctrl-C
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], preexec_fn=heard, **pipes) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        port = int(re.fullmatch(r"report: http://127\.0\.0\.1:(\d+)/ \(live; Ctrl-C ends it\)\n", first)[1])
        assert second == f"waiting for {tmp_path / 'none' / 'log.jsonl'}: the run has not begun\n"
        assert asked(port)[0] == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out.strip(), err) == (0, "report: ended", "")
