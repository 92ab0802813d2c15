"""`rlcredit report --watch`: the page of runs while they go on, served on this machine alone.

The page asks every few seconds whether there is a newer one, and only then are the runs' files looked at: where no
browser looks at the page, nothing is read or rendered. A request whose Host is another name is refused, so that no
web page that a browser has open can read the runs by way of a name of its own (DNS rebinding).
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from rlcredit.errors import InputError
from rlcredit.pages.frame import clean, render
from rlcredit.runs.files import (
    ACCURACY_FILE,
    COMPLETIONS_FOLDER,
    FACTS_FILE,
    HELD_OUT_FILE,
    LOG_FILE,
    is_finished,
)
from rlcredit.runs.folder import Run, distinct, read_run
from rlcredit.runs.page import Live, RunProgress, moment, runs_page

ADDRESS, PORT, MORE_PORTS = "127.0.0.1", 8710, 20
SECONDS = 4
"""Between two questions of an open page whether there is a newer one."""


class Rendered(NamedTuple):
    """A page, and what the files were when it was made."""

    stamp: str
    html: bytes


class LivePage:
    """The page of these runs as their files are now.

    Args:
        folders: of runs, of which some or all may not have begun.
        command: that serves the page.
    """

    def __init__(self, folders: Sequence[Path], command: str) -> None:
        self._folders, self._command = folders, command
        self._last: dict[Path, tuple[Run, RunProgress]] = {}
        self._rendered: Rendered | None = None
        self._lock = threading.Lock()

    def now(self) -> Rendered:
        """The page, made anew where a file has changed since the last one."""
        with self._lock:
            stamp = stamp_of(self._folders)
            if self._rendered is None or self._rendered.stamp != stamp:
                self._rendered = Rendered(stamp, self._html(stamp).encode())
            return self._rendered

    def waiting(self) -> list[Path]:
        """Folders without a log: runs that have not begun, or have another name."""
        return [folder for folder in self._folders if not (folder / LOG_FILE).is_file()]

    def _html(self, stamp: str) -> str:
        waiting = self.waiting()
        read, troubles = self._read([folder for folder in self._folders if folder not in waiting])
        created = moment(time.time())
        if not read:
            shown = {"waiting": waiting, "troubles": troubles, "created": created, "seconds": SECONDS}
            return clean(render(Path(__file__).with_name("waiting.html.j2"), {}, shown, own_server=True))
        runs = distinct([run for run, _ in read])
        states = [state._replace(name=run.name) for (_, state), run in zip(read, runs, strict=True)]
        live = Live(stamp, SECONDS, states, [str(folder) for folder in waiting])
        return runs_page(runs, troubles, self._command, created, live)

    def _read(self, folders: Sequence[Path]) -> tuple[list[tuple[Run, RunProgress]], list[str]]:
        """The runs that can be read, and what is wrong with others; one that was read before stays as it was."""
        troubles = []
        for folder in folders:
            try:
                run = read_run(folder)
                self._last[folder] = (run, progress_of(run))
            except InputError as error:
                again = " (shown as it was read before)" if folder in self._last else ""
                troubles.append(f"{error}{again}")
        return [self._last[folder] for folder in folders if folder in self._last], troubles


def stamp_of(folders: Sequence[Path]) -> str:
    """A word that changes when a file of a run does: from sizes and times, without reading them."""
    seen: list[Any] = []
    for folder in folders:
        for name in (LOG_FILE, HELD_OUT_FILE, ACCURACY_FILE, FACTS_FILE):
            path = folder / name
            seen.append((known.st_size, known.st_mtime_ns) if (known := _stat(path)) else None)
        completions = folder / COMPLETIONS_FOLDER
        seen.append(sorted((table.name, _size(table)) for table in completions.glob("*.parquet")))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # not there yet; a file that is there and cannot be read is a trouble of `read_run`
        return None


def _size(path: Path) -> int:
    known = _stat(path)
    return known.st_size if known else -1


def progress_of(run: Run) -> RunProgress:
    """How far a run is. Raises: InputError."""
    most = run.settings.get("max_steps")
    logged = _stat(run.folder / LOG_FILE)
    return RunProgress(
        name=run.name,
        step=run.last_step,
        of=most if isinstance(most, int) and most >= run.last_step else None,
        logged=moment(logged.st_mtime if logged else 0),
        finished=is_finished(run.folder),
    )


# ---- server -------------------------------------------------------------------------------------------------------


class PageServer(ThreadingHTTPServer):
    """Serves one page to browsers of this machine."""

    def __init__(self, port: int, page: LivePage) -> None:
        self.page = page
        super().__init__((ADDRESS, port), PageHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that has gone away is no error
            super().handle_error(request, client_address)


class PageHandler(BaseHTTPRequestHandler):
    """/ is the page, /stamp the word that tells one page from the next."""

    server: PageServer

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        path = self.path.partition("?")[0]
        if host not in (ADDRESS, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, b"this page is served to this machine alone\n")
        elif path == "/":
            self._answer(HTTPStatus.OK, self.server.page.now().html, "text/html")
        elif path == "/stamp":
            self._answer(HTTPStatus.OK, self.server.page.now().stamp.encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"the page is at /\n")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        headers: Mapping[str, str] = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each question of a page would hide the address."""


def serve(port: int | None, page: LivePage) -> PageServer:
    """A server at this port, or without one at the first free port from PORT on. Raises: InputError."""
    for candidate in (port,) if port is not None else range(PORT, PORT + MORE_PORTS):
        try:
            return PageServer(candidate, page)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"--port: {candidate} cannot be used ({error.strerror}); write one above 1023"
                ) from error
    which = f"{port} is" if port is not None else f"{PORT} to {PORT + MORE_PORTS - 1} are"
    raise InputError(f"--port: {which} taken by another program; write another, or --port 0 for any free one")


def watch(folders: Sequence[Path], port: int | None, command: str) -> None:
    """Serve the page of these runs until Ctrl-C. Raises: InputError where the port cannot be used."""
    page = LivePage(folders, command)
    with serve(port, page) as server:
        print(f"report: http://{ADDRESS}:{server.server_port}/ (live; Ctrl-C ends it)", flush=True)
        for folder in page.waiting():
            print(f"waiting for {folder / LOG_FILE}: the run has not begun", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nreport: ended", flush=True)
