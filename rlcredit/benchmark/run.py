"""`rlcredit benchmark`: a grid of runs, kept cell by cell, and its results.

OUTPUT/cells/NAME-seedN.json      finished cells, which are kept (in a repository, for example) and never run again
OUTPUT/results.json, .md, -curves.png, -differences.png (.svg)      with --set: results-SET...
RUNS/NAME-seedN/                  ordinary output folders of `rlcredit train`, deleted when the cell is kept
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from rlcredit.benchmark import cells as cell_files
from rlcredit.benchmark.cells import Unfinished
from rlcredit.benchmark.expected import Expected, code_digest, expect, identify
from rlcredit.benchmark.figures import draw
from rlcredit.benchmark.grid import BASELINE, OF_A_CELL, ONE_THREAD, Cell, Grid, make_grid, read_seeds, split_words
from rlcredit.benchmark.markdown import markdown
from rlcredit.benchmark.progress import GridProgress
from rlcredit.benchmark.results import document, measures
from rlcredit.benchmark.workers import Job, locked, work
from rlcredit.config import find_recipe, list_keys, parse, peek
from rlcredit.config.ranges import at_least, check_ranges
from rlcredit.errors import InputError, RunStopped
from rlcredit.files import remove_whole, write_whole
from rlcredit.stats.estimates import estimate_in
from rlcredit.trainers.prepare import check

START = (sys.executable, "-m", "rlcredit", "train")
GO_ON = ("--resume_from_checkpoint", "auto", "--disable_tqdm", "true")
PLACES = {"seed": "write --seeds", "credit_seed": "write --seeds", "output_dir": "write --output and --runs"}
"""What to write in place of a key that the grid sets."""
SHARED = ("recipe", "data", "policy", "device", "versions", "steps", "samples")
"""What all cells of one report have in common."""


@dataclass
class BenchmarkArguments:
    """What is compared; every other key is one of `rlcredit train`, and the same for all cells."""

    strategies: list[str] = field(
        default_factory=list,
        metadata={"help": "Credit strategies (package.module:strategy too), or variants of the sets by name."},
    )
    set: list[str] = field(
        default_factory=list, metadata={"help": "Named sets of variants: files in sets/ beside the recipe, or paths."}
    )
    seeds: list[str] = field(default_factory=lambda: ["0..4"], metadata={"help": "0..4, or 0 1 2."})
    oracle: str | None = field(
        default=None,
        metadata={"help": "A variant whose gain over uniform is the whole: results then have each variant's share."},
    )
    jobs: int | None = field(
        default=None, metadata={"help": "Runs at once; null: as many as there are GPUs, or cores of the CPU."}
    )
    output: str | None = field(
        default=None, metadata={"help": "Where cells and results are kept; default: benchmarks/RECIPE."}
    )
    runs: str | None = field(
        default=None, metadata={"help": "Where the runs train; default: outputs/benchmark/RECIPE."}
    )
    keep_runs: bool = field(default=False, metadata={"help": "Keep the runs' folders when their cells are finished."})
    report_only: bool = field(
        default=False, metadata={"help": "Train nothing: write the results of the cells that are finished."}
    )

    def __post_init__(self) -> None:
        check_ranges(self, at_least(1, "jobs"))


@dataclass(frozen=True)
class Plan:
    """A grid that has been checked.

    Attributes:
        grid: its cells.
        recipe: the words of `rlcredit train` that all cells share.
        output, runs: folders.
        expected: by variant; empty where nothing is to be trained.
    """

    grid: Grid
    recipe: Sequence[str]
    output: Path
    runs: Path
    expected: Mapping[str, Expected]

    def file(self, cell: Cell) -> Path:
        return self.output / "cells" / f"{cell.name}.json"


def benchmark(argv: Sequence[str]) -> None:
    """Run `rlcredit benchmark` with these arguments.

    Raises: InputError for what the user has to mend; RunStopped if cells failed, or on SIGTERM.
    """
    own, recipe_words = split_words(argv, [item.name for item in fields(BenchmarkArguments)])
    (args,) = parse(own, (BenchmarkArguments,))
    recipe = peek(recipe_words, "config")
    if not recipe:
        raise InputError("--config: is missing; write the recipe that all cells share, benchmark/countdown_tiny say")
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in recipe_words if word.startswith("--")}
    for key in flags.intersection(OF_A_CELL):
        raise InputError(f"--{key}: the grid sets it; {PLACES.get(key, 'leave it out')}")
    name = find_recipe(recipe).stem
    plan = Plan(
        make_grid(recipe, args.strategies, args.set, read_seeds(args.seeds)),
        recipe_words,
        Path(args.output or f"benchmarks/{name}"),
        Path(args.runs or f"outputs/benchmark/{name}"),
        {},
    )
    names = [variant.name for variant in plan.grid.variants]
    if args.oracle is not None and (args.oracle == BASELINE or args.oracle not in names):
        raise InputError(f"oracle: {args.oracle!r} is not a variant of the grid; write one of {', '.join(names[1:])}")
    failed: list[Job] = []
    if not args.report_only:
        plan = checked(plan)
        failed = _train(plan, args.jobs, args.keep_runs)
    if failed and not any(plan.file(cell).is_file() for cell in plan.grid.cells if cell.variant.name == BASELINE):
        raise _failure(failed)  # nothing to report
    write_results(plan, _command(args, recipe_words), args.oracle)
    if failed:
        raise _failure(failed)


def _command(args: BenchmarkArguments, recipe: Sequence[str]) -> str:
    """The command of these results, without the flags that change nothing in them."""
    words = ["rlcredit", "benchmark", *recipe]
    for key in ("strategies", "set", "seeds"):
        if values := getattr(args, key):
            words += [f"--{key}", *values]
    if args.oracle is not None:
        words += ["--oracle", args.oracle]
    return shlex.join(words)


def _failure(failed: Sequence[Job]) -> RunStopped:
    first = failed[0]
    return RunStopped(f"{len(failed)} cells failed; {first.name}: {first.reason} (all of it: {first.log})")


def checked(plan: Plan) -> Plan:
    """Check every variant as `rlcredit train` would, before anything starts. Raises: InputError."""
    words = ["--output_dir", str(plan.runs / "checked"), "--resume_from_checkpoint", "auto"]
    base = check([*plan.recipe, *words])
    if base.run.dry_run or base.run.overwrite:
        raise InputError("dry_run, overwrite: are not keys of a benchmark's recipe; leave them out")
    identity = identify(base, plan.recipe)
    expected = {}
    for variant in plan.grid.variants:
        try:
            of_variant = check([*plan.recipe, *variant.words, *words])
            expected[variant.name] = expect(of_variant, variant.settings, identity, base)
        except InputError as error:
            raise InputError(f"{variant.name}: {error}") from error
    return replace(plan, expected=expected)


# ---- training -----------------------------------------------------------------------------------------------------


def finished_cells(plan: Plan) -> dict[str, dict[str, Any]]:
    """The whole cells that are there already, by name; those of other recipes are refused (InputError)."""
    finished = {}
    for cell, content in _stored_cells(plan, "it is run again"):
        expected = plan.expected[cell.variant.name]
        cell_files.refuse_different(plan.file(cell), content, expected.run_with())
        finished[cell.name] = content
    return finished


def _stored_cells(plan: Plan, otherwise: str) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The cells that are there, with their content; of a damaged cell a line says what becomes of it."""
    for cell in plan.grid.cells:
        try:
            content = cell_files.read_cell(plan.file(cell), cell)
        except Unfinished as error:
            print(f"{error}; {otherwise}")
            continue
        if content is not None:
            yield cell, content


def _train(plan: Plan, at_once: int | None, keep_runs: bool) -> list[Job]:
    """Run the cells that are missing; returns those that failed."""
    _make_folder("output", plan.output / "cells")
    _make_folder("runs", plan.runs)
    gpus = _devices()
    with locked(plan.runs) as lock:
        finished = finished_cells(plan)
        missing = [cell for cell in plan.grid.cells if cell.name not in finished]
        if not missing:
            return []
        for cell in missing:
            cell_files.refuse_foreign(plan.runs / cell.name)
        jobs = {cell.name: _job(plan, cell, finished, keep_runs) for cell in missing}
        steps = {name: expected.steps for name, expected in plan.expected.items()}

        def final(name: str) -> float | None:
            return measures(finished[name])["final"] if name in finished else None

        with GridProgress(plan.grid, jobs, final, steps) as progress:
            work(list(jobs.values()), at_once or len(gpus) or _cores(), gpus, lock, progress.show)
    return [job for job in jobs.values() if job.state == "failed"]


def _job(plan: Plan, cell: Cell, finished: dict[str, dict[str, Any]], keep_run: bool) -> Job:
    folder, expected = plan.runs / cell.name, plan.expected[cell.variant.name]
    told = {"command": cell.command(plan.recipe, {} if _devices() else ONE_THREAD)}

    def prepare() -> bool:
        told["code"] = code_digest()
        return cell_files.prepare_folder(folder, cell, expected, told["code"])

    def collect() -> None:
        told["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        finished[cell.name] = cell_files.collect(folder, cell, expected, **told)
        cell_files.write_cell(plan.file(cell), finished[cell.name])
        if not keep_run:
            remove_whole(folder)
            job.log.unlink(missing_ok=True)

    job = Job(cell.name, [*START, *cell.words(plan.recipe, folder), *GO_ON], folder, prepare, collect)
    return job


def _make_folder(key: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key}: {folder} cannot be made ({error.strerror}); write another --{key}") from error


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


# ---- results ------------------------------------------------------------------------------------------------------


def read_cells(plan: Plan) -> dict[str, dict[int, dict[str, Any]]]:
    """The finished cells by variant and seed. Cells of one variant agree in all settings, all cells in SHARED.

    Raises: InputError that names the difference.
    """
    cells: dict[str, dict[int, dict[str, Any]]] = {variant.name: {} for variant in plan.grid.variants}
    first: dict[str, Any] | None = None
    for cell, content in _stored_cells(plan, "it is left out"):
        first, by_seed = first or content, cells[cell.variant.name]
        agreed = {key: first[key] for key in SHARED}
        for other in by_seed.values():
            agreed |= {key: other[key] for key in ("settings", "sources") if key in other}
        cell_files.refuse_different(plan.file(cell), content, agreed)
        by_seed[cell.seed] = content
    return {name: by_seed for name, by_seed in cells.items() if by_seed}


def write_results(plan: Plan, command: str, oracle: str | None = None) -> None:
    """Write results.json, results.md and the figures. Raises: InputError where the baseline has no finished cell."""
    cells = read_cells(plan)
    try:
        results = document(plan.grid.variants, plan.grid.seeds, cells, command, oracle)
    except ValueError as error:
        raise InputError(f"output: {plan.output}: {error}; there is nothing to report yet") from error
    figures = draw(results, cells, plan.output, plan.grid.title)
    title = f"{plan.output.name}: {plan.grid.title.removeprefix('results-').replace('results', 'strategies')}"
    text = markdown(results, title, figures)
    write_whole(plan.output / f"{plan.grid.title}.json", json.dumps(results, indent=1) + "\n")
    write_whole(plan.output / f"{plan.grid.title}.md", text)
    print("\n".join(summary(results)))
    print(f"results: {plan.output / plan.grid.title}.md")


def summary(results: Mapping[str, Any]) -> list[str]:
    """One line for each variant, for the terminal."""
    lines = []
    pairs = {(p["variant"], p["against"]): p for p in reversed(results["paired"]) if p["measure"] == "final"}
    for name, variant in results["variants"].items():
        line = f"{name:24} {variant['measures']['final']['value']:.3f}"
        for (compared, against), pair in pairs.items():
            if compared == name and pair["low"] is not None:
                p = "" if pair["p"] is None else f" p {pair['p']:.3g}"
                line += f"   {estimate_in(pair):+.3f}{p} to {against}: {pair['verdict']}"
        lines.append(line)
    least = results["lowest_p"]
    return [*lines, f"(final held-out accuracy, greedy; with these seeds p cannot go below {least:.3g})"]


def describe() -> str:
    """The keys of the command, with defaults, for --help."""
    title = "Keys of rlcredit benchmark (every key of rlcredit train is one too, and the same for all cells):"
    return f"\n{title}\n\n{list_keys(fields(BenchmarkArguments))}"
