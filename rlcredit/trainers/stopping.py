"""How a run ends before its end: on SIGTERM or Ctrl-C, and when another of its processes has gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator
from torch import distributed
from transformers import TrainerCallback

from rlcredit.errors import ProcessLost


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C to any process, all finish their step, save it and end; a second one ends at once.

    Slurm, Kubernetes and `docker stop` send SIGTERM before they kill.

    Attributes:
        stopped: whether the run has ended so.
        by: the name of the signal that this process was sent: SIGTERM where it was another one.
    """

    # A launcher passes on what its processes were sent too: what comes this soon is the same signal. [s]
    SAME_SIGNAL = 1.0

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._asked_at: float | None = None
        self.stopped, self.by = False, "SIGTERM"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs (in the main thread, where Python delivers them)."""
        self._asked_at, self.stopped, self.by = None, False, "SIGTERM"
        with _handling(signal.SIGTERM, self._note), _handling(signal.SIGINT, self._note):
            yield
            if self._asked_at is not None:  # the same signal, passed on by a launcher, must not end what is saved
                time.sleep(max(0.0, self._asked_at + self.SAME_SIGNAL - time.monotonic()))

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at, self.by = now, signal.Signals(number).name
            # os.write: print() may not be called from within itself
            line = f"rlcredit: {self.by}: finishing this step, then a checkpoint; a second one ends at once\n"
            os.write(2, line.encode())
        elif number == signal.SIGINT and now - self._asked_at > self.SAME_SIGNAL:
            raise KeyboardInterrupt
        elif now - self._asked_at > self.SAME_SIGNAL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        asked = torch.tensor(float(self._asked_at is not None), device=self._accelerator.device)
        if self._accelerator.reduce(asked, reduction="sum").item() > 0:
            self.stopped = control.should_save = control.should_training_stop = True


class Terminated(BaseException):
    """SIGTERM beside the steps of a run, where nothing is lost by ending at once."""


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Raise a Terminated on SIGTERM, a KeyboardInterrupt on Ctrl-C while the block runs, except where `StopOnSignal`
    is listening inside it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling(signal.SIGTERM, end), _handling(signal.SIGINT, signal.default_int_handler):
        yield


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turn what torch raises where a peer has gone into a ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise ProcessLost(
            "another process of this run has ended, or cannot be reached "
            f"({' '.join(str(error).split())[-160:]}); this one ends too"
        ) from error


def is_lost_process(error: Exception) -> bool:
    """Whether this is what torch raises where a peer has gone."""
    # gloo raises plain RuntimeErrors, which name its source file; nccl's are DistBackendErrors
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
