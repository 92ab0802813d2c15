"""The grid while it runs: a table in a terminal; elsewhere a line for every change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlcredit.benchmark.grid import Grid
from rlcredit.benchmark.workers import Job
from rlcredit.runs.files import last_logged


class GridProgress:
    """Shows every cell: waiting, its step and reward, its final accuracy, or that it failed.

    Args:
        grid: rows and columns.
        jobs: by cell name, the cells that were not finished at the start.
        final: the final accuracy of a finished cell, by its name; None while it is not finished.
        steps: of the cells, by variant.
        console: where; None: stderr.
    """

    def __init__(
        self,
        grid: Grid,
        jobs: Mapping[str, Job],
        final: Callable[[str], float | None],
        steps: Mapping[str, int],
        console: Console | None = None,
    ) -> None:
        self._grid, self._jobs, self._final, self._steps = grid, jobs, final, steps
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._said: dict[str, str] = {}
        self._start = time.monotonic()

    def __enter__(self) -> GridProgress:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=1)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Say what has changed, where no table shows it."""
        for name, job in self._jobs.items():
            if self._live is None and self._said.get(name, "waiting") != job.state:
                self._said[name] = job.state
                minutes = (time.monotonic() - self._start) / 60
                final = self._final(name)
                more = f", accuracy {final:.3f}" if final is not None else ""
                more += f", {job.reason}" if job.state == "failed" else ""
                done = sum(other.state == "done" for other in self._jobs.values())
                self._console.print(
                    f"{minutes:6.1f} min  {name}: {job.state}{more}  ({done} of {len(self._jobs)} done)",
                    highlight=False,
                    soft_wrap=True,
                )

    def _table(self) -> Table:
        done = sum(self._final(cell.name) is not None for cell in self._grid.cells)
        minutes = (time.monotonic() - self._start) / 60
        title = f"{done} of {len(self._grid.cells)} cells, {minutes:.0f} min{self._left(minutes)}"
        table = Table("", *(f"seed {seed}" for seed in self._grid.seeds), title=title, title_justify="left")
        for variant in self._grid.variants:
            cells = [cell for cell in self._grid.cells if cell.variant is variant]
            table.add_row(variant.name, *(self._shown(cell.name, variant.name) for cell in cells))
        return table

    def _left(self, minutes: float) -> str:
        finished = sum(job.state == "done" for job in self._jobs.values())
        waiting = sum(job.state in ("waiting", "running") for job in self._jobs.values())
        return f", about {minutes / finished * waiting:.0f} min left" if finished and waiting else ""

    def _shown(self, name: str, variant: str) -> str:
        final, job = self._final(name), self._jobs.get(name)
        if final is not None:
            return f"[green]{final:.3f}[/green]"
        if job is None or job.state == "waiting":
            return "[dim]waiting[/dim]" if job is not None else "[dim]-[/dim]"
        if job.state == "failed":
            return "[red]failed[/red]"
        step, reward = last_logged(job.folder)
        return f"{step}/{self._steps[variant]}" + (f"  {reward:.2f}" if reward is not None else "")
