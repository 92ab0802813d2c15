"""Errors that end a run with one line instead of a traceback."""


class InputError(ValueError):
    """Bad input by the user: one line, what is wrong, where, what to write instead.

    The command line turns it into exit code 2 and prints the line without a traceback.
    """


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
