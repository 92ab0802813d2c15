"""`rlcredit report`: what came of a run, or of several side by side, as one page.

One run: RUN_DIR/report.html with its curves, accuracy before and after, completions and all metrics. Several: one
chart a metric with all curves, seeds of one thing as a group with a band, accuracies by group. With --watch the page
is served while the runs go on (`rlcredit.runs.watch`).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlcredit.errors import InputError
from rlcredit.files import write_whole
from rlcredit.runs.files import REPORT_FILE
from rlcredit.runs.folder import Run, distinct, read_run
from rlcredit.runs.page import moment, runs_page
from rlcredit.runs.watch import PORT, watch

ADVICE = "write rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE.html | --watch [--port N]]"


class Asked(NamedTuple):
    """What the command line says."""

    folders: list[Path]
    """Each once."""
    output: Path | None
    watch: bool
    port: int | None


def report(argv: Sequence[str]) -> None:
    """Run `rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE | --watch [--port N]]`. Raises: InputError."""
    asked, command = _asked(argv), shlex.join(["rlcredit", "report", *argv])
    if asked.watch:
        watch(asked.folders, asked.port, command)
        return
    folders = asked.folders
    path = asked.output or (folders[0] / REPORT_FILE if len(folders) == 1 else Path(REPORT_FILE))
    runs: list[Run] = []
    left_out: list[str] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except InputError as error:
            if len(folders) == 1:
                raise
            left_out.append(str(error))
    if not runs:
        raise InputError(f"none of the {len(folders)} runs can be read; the first: {left_out[0]}")
    page = runs_page(distinct(runs), left_out, command, moment(time.time()))
    try:
        write_whole(path, page)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); write --output FILE.html") from error
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"report: {path}")


def _asked(argv: Sequence[str]) -> Asked:
    """The command line, checked. Raises: InputError."""
    folders: dict[Path, Path] = {}
    given: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--output", "--port"):
            value = value if equals else next(words, "")
            if name in given or not value:
                raise InputError(f"{name}: takes one {'file' if name == '--output' else 'number'}, once; {ADVICE}")
            given[name] = value
        elif word == "--watch":
            given[word] = "yes"
        elif word.startswith("-"):
            raise InputError(f"{word}: is not a flag of rlcredit report; {ADVICE}")
        else:
            folders.setdefault(Path(word).resolve(), Path(word))
    if not folders:
        raise InputError(f"rlcredit report takes the output folder of a run; {ADVICE}")
    if "--watch" in given and "--output" in given:
        raise InputError("--output: --watch serves the page and writes none; write one of the two")
    if "--port" in given and "--watch" not in given:
        raise InputError("--port: is for --watch alone; write --watch too, or leave --port out")
    return Asked(
        list(folders.values()), _output(given.get("--output")), "--watch" in given, _port(given.get("--port"))
    )


def _output(given: str | None) -> Path | None:
    if given is None:
        return None
    output = Path(given).expanduser()
    if output.is_dir() or not output.suffix:
        output = output / REPORT_FILE
    if output.suffix != ".html":
        raise InputError(f"--output: {output} is not a page; write a file that ends in .html, or a folder")
    return output


def _port(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal()) or int(given) > 65535:
        raise InputError(f"--port: {given!r:.40} is not a port; write 1024 to 65535, or 0 for any free one")
    return int(given)


def describe() -> str:
    """What `rlcredit report` takes, for --help."""
    return f"""
rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE.html | --watch [--port N]]

  RUN_DIR    the output folder of rlcredit train, also of a run that is under way or was stopped
  --output   the page, or a folder for it (RUN_DIR/report.html for one run, ./report.html for several)
  --watch    serve the page while the runs go on, to browsers of this machine alone (127.0.0.1): it renews itself when
             a log has grown, and says how far the runs are. A run that has not begun is waited for; Ctrl-C ends it
  --port     where; without it {PORT}, or the next port that is free

Several runs are laid side by side, with a table of the settings in which they differ. Those whose run.json differs in
the seed alone, or where there is none, whose folders do (uniform-seed1, uniform_s2, uniform/seed_3), are one group: a
mean with a band. A run that cannot be read is named, and the others go on.
"""
