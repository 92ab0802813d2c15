"""Reward functions that meet what long runs meet; `--task custom --task_options.reward tests.faults.rewards:NAME`.

What they do depends on variables of the environment: RLCREDIT_FAULT_STEP (at which step), RLCREDIT_FAULT_RANK (which
process), RLCREDIT_SCORES (a server), RLCREDIT_SLEEP (seconds).
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request


def digits(completions, **_):
    """The share of digits, and a little for length."""
    return [sum(c.isdigit() for c in text) / 20 + 0.001 * len(text) for text in completions]


def _is_now(trainer_state) -> bool:
    step, rank = os.environ.get("RLCREDIT_FAULT_STEP"), os.environ.get("RLCREDIT_FAULT_RANK", "1")
    return str(trainer_state.global_step) == step and os.environ.get("RANK", "0") == rank


def slow(completions, **_):
    """Takes its time."""
    time.sleep(float(os.environ.get("RLCREDIT_SLEEP", "0.5")))
    return digits(completions)


def hangs(completions, trainer_state, **_):
    """The process never hears of one of its completions."""
    if _is_now(trainer_state) and any(map(_is_long, completions)):
        time.sleep(3600)
    return digits(completions)


def raises(completions, trainer_state, **_):
    """The process cannot score some completions."""
    return [1 / (1 - (_is_now(trainer_state) and _is_long(text))) * score for text, score in _scored(completions)]


def miscounts(completions, trainer_state, **_):
    """The process gives a score too few."""
    scores = digits(completions)
    return scores[:-1] if _is_now(trainer_state) else scores


def dies(completions, trainer_state, **_):
    """The process is killed (by the kernel, say, which is out of memory)."""
    if _is_now(trainer_state):
        os.kill(os.getpid(), signal.SIGKILL)
    return digits(completions)


def unreachable(completions, trainer_state, **_):
    """The process cannot reach its server."""
    if _is_now(trainer_state):
        raise ConnectionError("no route")
    return digits(completions)


def server(completions, **_):
    """The scores of a server."""
    request = urllib.request.Request(os.environ["RLCREDIT_SCORES"], json.dumps(completions).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _is_long(text: str) -> bool:
    return len(text) > 20


def _scored(completions):
    return zip(completions, digits(completions), strict=True)
