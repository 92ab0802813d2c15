"""Runs of a grid in processes of their own: several at once, stopped cleanly, started again.

Each child has a session of its own, so Ctrl-C in the terminal reaches this process alone, which sends SIGTERM: the
children finish their step and write a checkpoint, and the same command goes on from there. The children share the lock
of the grid: a run that a killed grid has left behind keeps a second grid from starting.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rlcredit.benchmark.cells import Unfinished
from rlcredit.benchmark.grid import ONE_THREAD
from rlcredit.errors import InputError, RunStopped
from rlcredit.files import remove_whole

GRACE = 180.0  # seconds between SIGTERM and SIGKILL: one step, one checkpoint
ATTEMPTS = 2
LOCK = "lock"


@dataclass
class Job:
    """A cell that is to be run.

    Attributes:
        name: of the cell.
        command: trains the cell, or goes on with it.
        folder: where it trains.
        prepare: makes the folder ready; returns whether there is a run to go on with.
        collect: called when the process has ended with 0; raises Unfinished if the run is not complete.
        state: waiting, running, done or failed.
    """

    name: str
    command: Sequence[str]
    folder: Path
    prepare: Callable[[], bool]
    collect: Callable[[], None]
    state: str = "waiting"
    attempts: int = 0
    reason: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _resumed: bool = False
    _slot: int = 0

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def last_words(self) -> str:
        """The last line that the run printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def work(jobs: Sequence[Job], at_once: int, devices: Sequence[str], lock: IO[Any], show: Callable[[], None]) -> None:
    """Run the jobs to their end; those that fail say why in `reason`.

    Args:
        at_once: how many processes.
        devices: of CUDA, to share among them; empty: the CPU, one thread each.
        lock: handed on to the children.
        show: called now and then.

    Raises: KeyboardInterrupt and RunStopped on Ctrl-C and SIGTERM, with every child stopped.
    """
    free = list(range(at_once))
    with _listening() as asked:
        try:
            while not asked and any(job.state in ("waiting", "running") for job in jobs):
                for job in jobs:
                    if job.state == "running" and job._process is not None and job._process.poll() is not None:
                        free.append(job._slot)
                        _end(job, job._process.returncode)
                for job in jobs:
                    if job.state == "waiting" and free:
                        job._slot = free.pop(0)
                        if not _start(job, devices, lock):
                            free.append(job._slot)
                show()
                time.sleep(0.2)
        finally:
            stop([job for job in jobs if job.state == "running"], asked)
            show()
        if asked[:1] == [signal.SIGINT]:
            raise KeyboardInterrupt
        if asked:
            raise RunStopped("stopped by SIGTERM; the same command goes on where the grid was")


def stop(running: Sequence[Job], asked: Sequence[int]) -> None:
    """Send SIGTERM to every run and wait for checkpoints; when asked a second time, or after GRACE, send SIGKILL."""
    processes = [job._process for job in running if job._process is not None]
    for process in processes:
        _signal(process, signal.SIGTERM)
    until = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < until and len(asked) < 2:
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
        process.wait()
    for job in running:
        job.state = "waiting"


def _start(job: Job, devices: Sequence[str], lock: IO[Any]) -> bool:
    """Start a run, or go on with it; returns False where the run had ended already."""
    job._resumed = job.prepare()
    if job._resumed and _missing(job) is None:  # it had ended when its grid was killed
        return False
    job.attempts += 1
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[job._slot % len(devices)]
    else:
        environment |= ONE_THREAD
    with job.log.open("ab") as log:
        job._process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
    job.state = "running"
    return True


def _missing(job: Job) -> str | None:
    """What the job's result lacks; None where it is whole, and the job done."""
    try:
        job.collect()
    except Unfinished as error:
        return str(error)
    job.state = "done"
    return None


def _end(job: Job, code: int) -> None:
    """Decide about a run that has ended: it is done, waits for another attempt, or has failed."""
    reason = f"ended with {code}" if code else _missing(job)
    if reason is None:
        return
    job.reason = f"{reason}: {job.last_words()}"
    if job.attempts >= ATTEMPTS or (code == 2 and not job._resumed):  # bad input stays bad
        job.state = "failed"
        return
    if code > 0 or (code == 0 and job._resumed):
        remove_whole(job.folder)  # it may be what was left there that cannot be gone on from
    job.state = "waiting"


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send SIGTERM to the child alone (which passes it on), SIGKILL to the child's whole session."""
    try:
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        pass


@contextmanager
def _listening() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, and raise nothing: a process that is just being started must not be lost."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if not asked:
            # os.write: print() may not be called from within itself
            os.write(2, b"\nrlcredit: the runs finish their step and save; a second Ctrl-C ends them at once\n")
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def locked(folder: Path) -> Iterator[IO[Any]]:
    """The only grid in this folder. Raises: InputError while another one, or a run that it left, is at work there."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"runs: another benchmark, or a run that it left, is at work in {folder}; wait for it, or end it"
            ) from None
        yield file
