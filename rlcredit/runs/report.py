"""`rlcredit report`: what came of a run, or of several side by side, as one page.

One run: RUN_DIR/report.html with its curves, accuracy before and after, completions and all metrics. Several: one
chart a metric with all curves, seeds of one thing as a group with a band, accuracies by group.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rlcredit.errors import InputError
from rlcredit.files import write_whole
from rlcredit.runs.files import REPORT_FILE
from rlcredit.runs.folder import Run, distinct, read_run
from rlcredit.runs.page import runs_page

ADVICE = "write rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE.html]"


def report(argv: Sequence[str]) -> None:
    """Run `rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE]`. Raises: InputError."""
    folders, output = _words(argv)
    path = output or (folders[0] / REPORT_FILE if len(folders) == 1 else Path(REPORT_FILE))
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
    command, created = (
        shlex.join(["rlcredit", "report", *argv]),
        time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    )
    page = runs_page(distinct(runs), left_out, command, created)
    try:
        write_whole(path, page)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); write --output FILE.html") from error
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"report: {path}")


def _words(argv: Sequence[str]) -> tuple[list[Path], Path | None]:
    """(folders, each once; output) of the command line."""
    folders: dict[Path, Path] = {}
    output: Path | None = None
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--output":
            value = value if equals else next(words, "")
            if output is not None or not value:
                raise InputError(f"--output: takes one file, once; {ADVICE}")
            output = Path(value).expanduser()
        elif word.startswith("-"):
            raise InputError(f"{word}: is not a flag of rlcredit report; {ADVICE}")
        else:
            folders.setdefault(Path(word).resolve(), Path(word))
    if not folders:
        raise InputError(f"rlcredit report takes the output folder of a run; {ADVICE}")
    if output is not None and (output.is_dir() or not output.suffix):
        output = output / REPORT_FILE
    if output is not None and output.suffix != ".html":
        raise InputError(f"--output: {output} is not a page; write a file that ends in .html, or a folder")
    return list(folders.values()), output


def describe() -> str:
    """What `rlcredit report` takes, for --help."""
    return """
rlcredit report RUN_DIR [RUN_DIR ...] [--output FILE.html]

  RUN_DIR    the output folder of rlcredit train, also of a run that is under way or was stopped
  --output   the page, or a folder for it (RUN_DIR/report.html for one run, ./report.html for several)

Several runs are laid side by side, with a table of the settings in which they differ. Those whose run.json differs in
the seed alone, or where there is none, whose folders do (uniform-seed1, uniform_s2, uniform/seed_3), are one group: a
mean with a band. A run that cannot be read is named, and the others go on.
"""
