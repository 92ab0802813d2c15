"""math-verify in processes of its own, each answer under a limit of time and memory.

math-verify ends long computations with a signal, which only a main thread can use, and a signal does not end one that
is inside a single operation of C (`9^{9^{9^9}}`). A process can be killed. This file is both sides of the pipe: run as
a script it is the worker, so it imports nothing of rlcredit (whose tasks import `datasets`), and the standard library
alone until it has set its limits.

The protocol is lines of JSON. The worker says "ready", then for every `{"gold", "answer"}`: "gold" when it
has parsed the gold answer, whether the answer is equal, and, for one that is not, the answer's canonical form.

Nothing that a completion says runs as code. math-verify hands text to sympy's `parse_expr`, which does call `eval`,
only where it matched numbers or `[0-9 .+-*/^()]`, which can name nothing; LaTeX goes through a grammar. Should that
change, an audit hook ends the worker before it starts a program, opens a socket or writes a file.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import mmap
import os
import queue
import select
import subprocess
import sys
import time
from typing import Any

ANSWER_SECONDS = 1.5
GOLD_SECONDS = 5.0  # a gold answer is parsed once, by a grammar that is slow while it warms up
START_SECONDS = 60.0  # importing sympy takes one second, but from a cold network disk many
MEMORY_BYTES = 2 << 30
MAX_WORKERS = 4


class WorkerDied(Exception):
    """The pipe is closed, or what came out of it is not the protocol."""


class MathWorker:
    """One worker process, started on first use and again whenever it died; used by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._unread = b""

    def compare(self, gold: str, answer: str) -> tuple[bool, str | None]:
        """Whether `answer` equals `gold`, and the canonical form of one that does not, if it has any.

        An answer that takes over `ANSWER_SECONDS`, or kills its worker, equals nothing.

        Raises:
            RuntimeError: if no worker can be started.
        """
        request = json.dumps({"gold": gold, "answer": answer}).encode() + b"\n"
        for _ in range(2):  # a worker may have died since its last answer: the second one is fresh
            try:
                self._ask(request)
            except WorkerDied:
                self._restart()
                continue
            except TimeoutError:
                self._restart()
                break
            return self._result()
        return False, None

    def stop(self) -> None:
        """Kill the process and wait for its end, so that no zombie is left."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._close(process)

    def forget(self) -> None:
        """In a fork of the parent: drop the parent's process without sending it anything."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # it is not this process's child
            self._close(process)

    def _restart(self) -> None:
        """Begin a new process and do not wait for it: it imports sympy while the parent reads the next answer."""
        self.stop()
        self._start()

    def _start(self) -> None:
        # -P: the script's folder is not put on sys.path. No buffers: a fork of the parent must hold no unsent bytes.
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)],
            bufsize=0,
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ready, self._unread = False, b""

    def _ask(self, request: bytes) -> None:
        """Send a request and wait until the worker has parsed its gold answer."""
        if self._process is None:
            self._start()
        if not self._ready:
            self._wait_for_start()
        try:
            self._pipes()[0].write(request)
        except OSError as error:
            raise WorkerDied from error
        self._expect("gold", time.monotonic() + GOLD_SECONDS)

    def _wait_for_start(self) -> None:
        """Wait for "ready"; a worker that was killed while it started is started once more."""
        for again in (True, False):
            try:
                self._expect("ready", time.monotonic() + START_SECONDS)
            except (WorkerDied, TimeoutError) as error:
                self.stop()
                if not again:
                    raise RuntimeError(f"no math checker starts: `{sys.executable} {__file__}`") from error
                self._start()
            else:
                self._ready = True
                return

    def _result(self) -> tuple[bool, str | None]:
        deadline = time.monotonic() + ANSWER_SECONDS
        equal, canonical = False, None
        try:
            equal = self._read(deadline) is True
            if not equal:
                canonical = self._read(deadline)
        except (TimeoutError, WorkerDied):
            self._restart()
        return equal, canonical if isinstance(canonical, str) else None

    def _expect(self, word: str, deadline: float) -> None:
        if self._read(deadline) != word:
            raise WorkerDied

    def _read(self, deadline: float) -> Any:
        """The next line's value. `poll`, not `select`: a training process may have over 1,024 open files."""
        _, pipe = self._pipes()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                raise TimeoutError
            received = os.read(pipe.fileno(), 65_536)
            if not received:
                raise WorkerDied
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError as error:
            raise WorkerDied from error

    def _pipes(self) -> tuple[Any, Any]:
        assert self._process is not None
        return self._process.stdin, self._process.stdout

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class MathPool:
    """A few workers for the threads of this process; a thread waits while all of them are taken."""

    def __init__(self) -> None:
        self.size = min(MAX_WORKERS, os.cpu_count() or 1)
        self._workers = [MathWorker() for _ in range(self.size)]
        # Last in, first out: a second process is started when two threads ask at once, not before.
        self._free: queue.LifoQueue[MathWorker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def compare(self, gold: str, answer: str) -> tuple[bool, str | None]:
        """`MathWorker.compare` by a free worker."""
        worker = self._free.get()
        try:
            return worker.compare(gold, answer)
        except BaseException:
            worker.stop()  # interrupted between a question and its answer: the next one must not read this answer
            raise
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def forget(self) -> None:
        for worker in self._workers:
            worker.forget()


pool = MathPool()


def _stop_pool() -> None:
    pool.stop()


def _renew_pool() -> None:
    """A fork shares its parent's pipes, and locks that threads held which the fork does not have."""
    global pool
    pool.forget()
    pool = MathPool()


# The worker's side

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # sympy's order of terms, and so the canonical form, depends on hashes in places
    "PYTHONIOENCODING": "utf-8",
}
_FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "webbrowser.")
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.putenv", "os.unsetenv")


def main() -> None:
    """Answer the lines of standard input until it is closed."""
    say = _Voice()
    _limit()
    from math_verify import parse, verify

    mathematics = _Mathematics(parse, verify)
    mathematics.warm_up()
    sys.addaudithook(_guard)
    say("ready")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        gold = mathematics.gold(request["gold"])
        say("gold")
        answer = mathematics.parsed(request["answer"])
        equal = mathematics.equal(gold, answer)
        say(equal)
        if not equal:
            say(mathematics.canonical(answer))
        if not _has_room():
            return


def _has_room() -> bool:
    """Whether half of the memory is free. Memory in caches is freed only with the process."""
    try:
        mmap.mmap(-1, MEMORY_BYTES // 2).close()
    except (OSError, MemoryError):
        return False
    return True


class _Voice:
    """Sends values to the parent. The output of libraries is discarded, since it would break the protocol."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)

    def __call__(self, value: object) -> None:
        os.write(self._out, json.dumps(value).encode() + b"\n")


def _limit() -> None:
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes our input
    sys.dont_write_bytecode = True
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Ends the worker where something would act outside of it; nothing that sympy computes does."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or (event.startswith(_FORBIDDEN) and event not in _HARMLESS):
        os._exit(3)


def _near(gold: Any, answer: Any) -> bool:
    """Whether two numbers that math-verify calls equal differ by less than a hundred-thousandth of themselves.

    It compares to fifteen decimal places, to which all tiny numbers are 0. Each variable stands for a number here;
    what has no value then (an interval, an equation) is left to math-verify.
    """
    values = []
    for expression in (gold, answer):
        if not getattr(expression, "is_Number", False) and not hasattr(expression, "free_symbols"):
            return True
        variables = sorted(expression.free_symbols, key=str)
        point = {variable: 1.25 + 0.37 * place for place, variable in enumerate(variables)}
        try:
            values.append(complex(expression.subs(point).evalf(30)))
        except (TypeError, AttributeError, ValueError, OverflowError):
            return True
    size = max(map(abs, values))
    return not size < math.inf or abs(values[0] - values[1]) <= 1e-5 * size


class _Mathematics:
    """math-verify's two functions, without its time limit and without exceptions."""

    def __init__(self, parse: Any, verify: Any) -> None:
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import LatexExtractionConfig

        # Units are off: it takes the m of 6m for meters and drops it, and "million" too.
        normalization = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True)
        self._config = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)]
        self._parse, self._verify = parse, verify
        self.gold = functools.lru_cache(maxsize=1_000)(self.parsed)

    def warm_up(self) -> None:
        for example in (r"\frac{1}{2}", r"(1,2]\cup\{3\}", r"x^2+\sqrt{3}=y", r"\begin{pmatrix}1\\2\end{pmatrix}"):
            self.equal(self.parsed(example), self.parsed("7"))

    def parsed(self, answer: str) -> list[Any]:
        """What math-verify makes of an answer: an expression, if it finds one, and the text it was read from."""
        try:
            return list(self._parse(rf"\boxed{{{answer}}}", self._config, parsing_timeout=None))
        except Exception:  # of any kind, for a hostile text: it is no answer
            return []

    def equal(self, gold: list[Any], answer: list[Any]) -> bool:
        try:
            return bool(self._verify(gold, answer, timeout_seconds=None)) and _near(gold[0], answer[0])
        except Exception:  # as above: not equal
            return False

    def canonical(self, answer: list[Any]) -> str | None:
        """A string that is the same for 1/2, 0.5 and x = 1/2; `None` where the answer is no mathematics."""
        import sympy
        from math_verify.grader import is_assignment_relation, take_last_relation

        if not answer or isinstance(answer[0], str):
            return None
        try:
            value = answer[0]
            if is_assignment_relation(value):
                value = take_last_relation(value).rhs
            value = value.replace(lambda part: part.is_Float, lambda part: sympy.Rational(str(part)))
            return str(value.doit())
        except Exception:  # as above: no value to vote by
            return None


if __name__ == "__main__":
    main()
else:
    atexit.register(_stop_pool)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew_pool)
