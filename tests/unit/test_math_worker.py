"""The worker behind the mathematics checker: no text of a completion breaks it, holds it up or runs as code."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlcredit.tasks.checkers import math_worker
from rlcredit.tasks.checkers.mathematics import _by_library, check_math
from rlcredit.tasks.checkers.verdict import Verdict

HALF = Verdict(1.0, r"\frac{1}{2}")
TRACE = "rlcredit_hostile_trace"
CODE = f"__import__('os').system('touch /tmp/{TRACE}')"

QUICK = [
    "1" * 1_000_000,
    "\\boxed{" + "1" * 1_000_000 + "}",
    "\\boxed{" * 10_000,
    "\\boxed{" * 10_000 + "7" + "}" * 10_000,
    "(" * 1_000_000,
    "\\boxed{" + "(" * 900 + "}",
    "\\boxed{" + "\\frac{1}{" * 5_000 + "}" * 5_001,
    "\\boxed{" + "\\frac{1}{" * 80 + "1" + "}" * 81,
    "\\boxed{" + "\\sqrt{" * 35 + "1" + "}" * 36,
    "\\boxed{" + "-" * 990 + "1}",
    "\\boxed{" + "1+" * 490 + "1}",
    "\x00\x01\x1b[2J\x7f",
    "\\boxed{\x00\x01\x1b}",
    "\\boxed{\ud800}",
    "\ud800 \udfff 7",
    "\u202e\u200f\\boxed{\u202e7\u200f}",
    f"\\boxed{{{CODE}}}",
    f"${CODE}$ and {CODE} = 1+1",
    f"\\boxed{{\\text{{{CODE}}}}}",
    f"\\boxed{{\\operatorname{{{CODE}}}(1)}}",
    "\\boxed{\\text{...}}",
    "\\boxed{\\text{" + "a" * 900 + "}}",
    "\\boxed{\\begin{matrix}" + "1&2\\\\" * 150 + "\\end{matrix}}",
    "\\boxed{\\operatorname{eye}(10000)}",
    "\\boxed{\\int_0^1 x^{x^{x}} dx + \\lim_{x \\to 0} \\frac{\\sin(\\tan x)}{x^9}",
    "\\boxed{\\frac12",
    "\\boxed{}",
    "",
    " \n\t ",
    '"gold"\n"gold"\ntrue\n',
    "9**9**9**9 + 1",
]
SLOW = [  # each of them takes all of its time, or all of its memory
    "\\boxed{9^{9^{9^{9^9}}}}",
    pytest.param("\\boxed{((((10!)!)!)!)}", marks=pytest.mark.thorough),
    pytest.param("\\boxed{\\sum_{k=1}^{10^{12}} \\frac{\\sin(k)}{k^2+1}}", marks=pytest.mark.slow),
    pytest.param("\\boxed{\\int_0^1 \\frac{\\sin(x^{x})}{\\ln(1+x^{x^x})} dx}", marks=pytest.mark.slow),
]


def half():
    """An ordinary question that the worker, not a cache, has to answer."""
    _by_library.cache_clear()
    return check_math([r"\boxed{\frac{2}{\sqrt{16}}}"], [{"answer": r"\frac{1}{2}"}])[0]


def judged(text):
    return check_math([text], [{"answer": r"\frac{1}{2}"}])[0]


def processes():
    return [w._process for w in math_worker.pool._workers if w._process is not None]


@pytest.fixture(autouse=True)
def a_worker_runs():
    assert half() == HALF


@pytest.mark.thorough
def test_hostile_texts_score_nothing_in_no_time():
    for text in QUICK:
        verdict = judged(text)
        assert verdict.correct == 0.0, text[:60]
        assert verdict.answer is None or len(verdict.answer) <= 200
        assert half() == HALF, text[:60]
    assert not os.path.exists(f"/tmp/{TRACE}")


@pytest.mark.parametrize("text", SLOW)
def test_bombs_end_with_their_worker(text, monkeypatch):
    monkeypatch.setattr(math_worker, "ANSWER_SECONDS", 0.3)
    before = processes()
    assert judged(text).correct == 0.0
    (killed,) = set(before) - set(processes())
    assert killed.poll() is not None
    monkeypatch.undo()
    assert half() == HALF


@pytest.mark.thorough
def test_a_repeated_bomb_does_not_reach_the_worker(monkeypatch):
    judged(SLOW[0])
    monkeypatch.setattr(math_worker.pool, "compare", None)
    assert judged(SLOW[0]).correct == 0.0


@pytest.mark.thorough
def test_threads_are_no_obstacle():
    """math-verify's own time limit works in no thread but the first."""
    results = []
    thread = threading.Thread(target=lambda: results.extend([judged(SLOW[0]), judged(QUICK[4]), half()]))
    thread.start()
    thread.join()
    bomb, brackets, ordinary = results
    assert (bomb.correct, brackets.correct, ordinary) == (0.0, 0.0, HALF)


@pytest.mark.thorough
def test_eight_threads_at_once():
    results = {}

    def work(number):
        golds = [str(number), rf"\frac{{{number}}}{{7}}", "x+1"]
        texts = [rf"\boxed{{{number}.000}}", rf"\boxed{{{number}/7}}", rf"\boxed{{{number}+x}}"]
        bomb = ["\\boxed{9^{9^{9^{9^{NUMBER}}}}}".replace("NUMBER", str(number))] if number in (3, 5) else []
        verdicts = check_math(texts + bomb, [{"answer": gold} for gold in golds + ["7"] * len(bomb)])
        results[number] = [verdict.correct for verdict in verdicts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [1.0, 1.0, 0.0] + [0.0] * (n in (3, 5)) for n in range(2, 10)}
    assert half() == HALF


def test_a_killed_worker_is_replaced():
    for _ in range(2):
        for process in processes():
            os.kill(process.pid, signal.SIGKILL)
        assert half() == HALF


def test_a_stopped_worker_costs_one_answer(monkeypatch):
    worker = math_worker.MathWorker()
    try:
        assert worker.compare("1/2", "0.5") == (True, None)
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(math_worker, "GOLD_SECONDS", 0.2)
        assert worker.compare("1/2", "0.5") == (False, None)
        assert worker.compare("1/2", "0.5") == (True, None)
    finally:
        worker.stop()


@pytest.mark.thorough
def test_a_broken_protocol_is_a_dead_worker():
    worker = math_worker.MathWorker()
    try:
        assert worker.compare("2", "4") == (False, "4")
        worker._unread = b"nonsense\n"
        assert worker.compare("2", "4") == (False, "4")
        worker._unread = b"true\n"
        assert worker.compare("2", "4") == (False, "4")
    finally:
        worker.stop()


def test_a_fork_gets_workers_of_its_own():
    child = os.fork()
    if child == 0:
        os._exit(0 if not processes() and half() == HALF and len(processes()) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert half() == HALF


def test_workers_end_with_their_parent():
    code = (
        "import os, signal, sys; from rlcredit.tasks.checkers import math_worker as m;"
        "print(m.pool.compare('2', '4'), m.pool._workers[-1]._process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    worker = int(re.fullmatch(r"\(False, '4'\) (\d+)\n", found)[1])
    for _ in range(1_200):
        if not _runs(worker):
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlives its parent")


def _runs(process):
    """Neither gone nor a zombie that waits for its new parent."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_worker_loads_neither_torch_nor_rlcredit():
    code = (
        "import runpy, sys; module = runpy.run_path(sys.argv[1], run_name='__main__');"
        "print([m for m in ('torch', 'datasets', 'transformers', 'rlcredit') if m in sys.modules], file=sys.stderr)"
    )
    run = [sys.executable, "-P", "-c", code, math_worker.__file__]
    found = subprocess.run(run, input='{"gold": "2", "answer": "4"}\n', capture_output=True, text=True)
    assert found.stdout.split("\n") == ['"ready"', '"gold"', "false", '"4"', ""]
    assert found.stderr.strip().endswith("[]")


def test_only_arithmetic_reaches_eval(monkeypatch):
    """sympy's `parse_expr` evaluates Python: what math-verify gives it can name nothing."""
    import math_verify.parser as parser

    given = []
    monkeypatch.setattr(parser, "parse_expr_cached", given.append)
    for text in [*QUICK, "1+1", f"(2){CODE}", f"1 + {CODE}", f"2*(3)+{CODE}", f"= 3*({CODE})", "4^2 = x"]:
        parser.parse(text[-500:], parsing_timeout=None)
    assert "1+1" in given
    assert all(re.fullmatch(r"[\d\s.+\-*/^()\u00d7\u00f7]*", text) for text in given)


@pytest.mark.thorough
@pytest.mark.parametrize("action", ["os.system('true')", "open(os.devnull, 'w')", "__import__('socket').socket()"])
def test_a_worker_that_would_act_outside_ends(action):
    code = (
        f"import os, sys; from rlcredit.tasks.checkers import math_worker as m; sys.addaudithook(m._guard); {action}"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
