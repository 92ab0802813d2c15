"""Errors that end a run with one line instead of a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

EXTRAS = {"matplotlib": "report", "math_verify": "math"}
"""Packages that a training run does without, and the extra that brings each."""


class InputError(ValueError):
    """Bad input by the user: one line, what is wrong, where, what to write instead.

    The command line turns it into exit code 2 and prints the line without a traceback.

    Attributes:
        lines: where several things of one kind are wrong, a line for each; they are part of the error's text.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *lines]))
        self.lines = list(lines)


class RunStopped(RuntimeError):
    """A run that cannot go on, through no fault of its arguments: one line, and what to do next.

    The command line turns it into exit code 1 and prints the line without a traceback.

    Attributes:
        details: lines to be shown before, such as the traceback of a user's own function.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class ProcessLost(RunStopped):
    """Another process of the run has gone; said by every one that is left, since the main process may be the one."""


def require(package: str, who: str) -> None:
    """Raise an InputError where a package of an extra is missing; `who` needs it."""
    try:
        found = find_spec(package) is not None
    except ValueError:  # in sys.modules, without a spec
        found = False
    if not found:
        raise InputError(missing(package, who))


def missing(package: str, who: str) -> str:
    """The line about a package of an extra that is not installed."""
    return f"{who}: needs {package}, which is not installed; write pip install 'rlcredit[{EXTRAS[package]}]'"
