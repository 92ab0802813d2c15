"""Calling what users write: async functions on one event loop, and limits of time that a function need not know of."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Sent to the main thread by its own process; rewards use SIGALRM themselves (math-verify does).
LIMIT_SIGNAL = signal.SIGUSR2
AGAIN = 1.0  # seconds after which a function that has caught its time-out meets the next


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The loop of all async rewards, in a thread of its own: a client that one keeps open works in every call."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlcredit-event-loop", daemon=True).start()
    return loop


def result_of(value: Any) -> Any:
    """What a function gave, awaited if it is an async one; works inside a running loop, such as a notebook's, too."""

    async def awaited() -> Any:
        return await value

    if not inspect.isawaitable(value):
        return value
    return asyncio.run_coroutine_threadsafe(awaited(), event_loop()).result()


def within(seconds: float | None, call: Callable[[], Any]) -> Any:
    """The call's result. Raises: TimeoutError after so many seconds; None: no limit.

    In the main thread the call stays there, since what it uses may be tied to it (signals, a connection to sqlite, an
    event loop); a call into C that ignores signals ends late. In another thread, where Python delivers no signals, the
    call runs in a thread of its own, which is left behind.
    """
    if seconds is None:
        return result_of(call())
    if threading.current_thread() is threading.main_thread():
        with _limit(seconds):
            return result_of(call())
    outcome: dict[str, Any] = {}

    def worker() -> None:
        try:
            outcome["result"] = result_of(call())
        except BaseException as error:  # handed to the caller's thread below
            outcome["error"] = error

    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in the main thread, inside the block, when the time is over."""
    main, over = threading.get_ident(), threading.Event()

    def ring() -> None:
        left = seconds
        while not over.wait(left):
            signal.pthread_kill(main, LIMIT_SIGNAL)
            left = AGAIN

    def fire(number: int, frame: FrameType | None) -> None:
        if not over.is_set():
            raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(LIMIT_SIGNAL, fire)
    bell = threading.Thread(target=ring, daemon=True)
    bell.start()
    try:
        yield
    finally:
        over.set()
        bell.join()
        signal.signal(LIMIT_SIGNAL, before or signal.SIG_DFL)
