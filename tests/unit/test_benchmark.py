"""The benchmark without training: grids, cells that are whole or not used, the workers, results worked by hand."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from rlcredit.benchmark import cells as cell_files
from rlcredit.benchmark import workers
from rlcredit.benchmark.budget import at_budget, rollouts_of, tokens_after
from rlcredit.benchmark.cells import Unfinished
from rlcredit.benchmark.expected import Expected
from rlcredit.benchmark.figures import draw
from rlcredit.benchmark.grid import (
    Cell,
    Grid,
    Variant,
    make_grid,
    read_seeds,
    read_set,
    set_names,
    set_path,
    split_words,
)
from rlcredit.benchmark.markdown import markdown
from rlcredit.benchmark.progress import GridProgress
from rlcredit.benchmark.results import document, measures
from rlcredit.benchmark.workers import Job, locked, work
from rlcredit.cli import main
from rlcredit.config import list_recipes, recipes_root
from rlcredit.errors import InputError, RunStopped
from rlcredit.runs.files import last_logged
from rlcredit.stats.curves import Curve, curve_of
from rlcredit.trainers.prepare import check
from tests.policies import save_policy

RECIPE = "benchmark/countdown_tiny"
SETS = set_names(RECIPE)
UNIFORM = Variant("uniform", {"credit_strategy": "uniform"})
COUPLED = Variant("coupled_rhythm", {"credit_strategy": "coupled_rhythm"})


# ---- grids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [("0..4", [0, 1, 2, 3, 4]), ("0 1 5", [0, 1, 5]), ("0..1 7", [0, 1, 7]), ("3", [3]), ("4..4", [4])],
)
def test_seeds(words, expected):
    assert read_seeds(words.split()) == expected


@pytest.mark.parametrize("words", ["4..0", "a", "0...4", "-1", "0..1 1", "", "1.5", "0..9999"])
def test_bad_seeds(words):
    with pytest.raises(InputError, match="seeds: "):
        read_seeds(words.split())


def test_words_of_the_benchmark_and_of_training():
    words = ["--config", "r", "--strategies", "uniform", "random", "--max_steps=3", "--seeds=0..1", "--jobs", "2"]
    own, others = split_words(words, ["strategies", "seeds", "jobs"])
    assert own == ["--strategies", "uniform", "random", "--seeds=0..1", "--jobs", "2"]
    assert others == ["--config", "r", "--max_steps=3"]


def test_a_grid_has_the_baseline_and_what_is_compared_with():
    grid = make_grid(RECIPE, ["local_chunk_bottom"], [], [0, 1])
    assert [variant.name for variant in grid.variants] == ["uniform", "local_chunk_bottom", "local_chunk"]
    assert [cell.name for cell in grid.cells][:4] == [
        "uniform-seed0",
        "local_chunk_bottom-seed0",
        "local_chunk-seed0",
        "uniform-seed1",
    ]
    assert grid.title == "results"
    assert make_grid(RECIPE, ["gtpo"], ["q"], [0]).title == "results-q"


def test_a_strategy_is_compared_with_the_baseline_alone(tmp_path):
    """Whatever a set of the same name asks for; both together ask for both."""
    assert [variant.name for variant in make_grid(RECIPE, ["entropy"], [], [0]).variants] == ["uniform", "entropy"]
    found = {variant.name: variant.against for variant in make_grid(RECIPE, ["entropy"], ["rivals"], [0]).variants}
    assert found["entropy"] == ("uniform", "coupled_rhythm")
    (tmp_path / "mine.yaml").write_text("a: {credit_alpha: 0.1}")
    assert make_grid(RECIPE, [], [str(tmp_path / "mine.yaml")], [0]).title == "results-mine"


def test_two_sets_share_a_variant_that_is_the_same_in_both(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("b: {credit_alpha: 0.2}\na: {credit_alpha: 0.1, against: [uniform, b]}")
    two.write_text("a: {credit_alpha: 0.1}")
    found = make_grid(RECIPE, [], [str(one), str(two)], [0])
    assert {v.name: v.against for v in found.variants if v.name == "a"} == {"a": ("uniform", "b")}
    two.write_text("a: {credit_alpha: 0.3}")
    with pytest.raises(InputError, match="a: two sets give it different settings"):
        make_grid(RECIPE, [], [str(one), str(two)], [0])


def test_a_cell_is_a_command_of_train(tmp_path):
    settings = {"credit_fai_horizon": [10, -1], "use_peft": True, "task_options": {"a": 1}, "revision": None}
    cell = Cell(Variant("mine", settings), 3)
    words = cell.words(["--config", "r"], tmp_path)
    assert words == [
        *("--config", "r", "--credit_fai_horizon", "10", "-1", "--use_peft", "true"),
        *("--task_options", '{"a": 1}', "--revision", "null"),
        *("--seed", "3", "--credit_seed", "3", "--output_dir", str(tmp_path)),
    ]
    command = cell.command(["--config", "a b"], {"OMP_NUM_THREADS": "1"})
    assert command.startswith("OMP_NUM_THREADS=1 rlcredit train --config 'a b' --credit_fai_horizon 10 -1")


def test_strategies_of_ones_own_and_unknown_ones():
    own = "tests.unit.test_credit:power"
    with pytest.raises(InputError, match="credit_strategy"):
        make_grid(RECIPE, ["uniformm"], [], [0])
    with pytest.raises(InputError, match="nothing to compare"):
        make_grid(RECIPE, [], [], [0])
    with pytest.raises(InputError, match="did you mean top_bottom"):
        make_grid(RECIPE, [], ["top_bottm"], [0])
    variant = make_grid(RECIPE, [own], [], [0]).variants[1]
    assert (variant.name, dict(variant.settings)) == (own.replace(":", "."), {"credit_strategy": own})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b: {credit_alpha: 0.1}", "cannot name files"),
        ("a: 3", "write settings such as"),
        ("a: {seed: 3}", "seed is set by the grid"),
        ("a: {credit-alpha: 0.1}", "'credit-alpha' is not a key"),
        ("a: {task_options.numbers: 3}", "'task_options.numbers' is not a key"),
        ("a: {against: []}", "name of a variant"),
        ("a: {credit_alpha: 0.1}\na: {credit_alpha: 0.2}", "duplicate key"),
    ],
)
def test_bad_sets(text, expected, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_set(tmp_path / "s.yaml")
    with pytest.raises(InputError, match=expected):
        make_grid(RECIPE, [], [str(tmp_path / "s.yaml")], [0])


def test_what_is_compared_with_has_to_be_there(tmp_path):
    (tmp_path / "s.yaml").write_text("a: {credit_alpha: 0.1, against: nobody}")
    with pytest.raises(InputError, match="'nobody' is not a variant"):
        make_grid(RECIPE, [], [str(tmp_path / "s.yaml")], [0])


# ---- the shipped sets ---------------------------------------------------------------------------------------------


def test_the_shipped_sets_are_there_and_are_no_recipes():
    wanted = (
        "algorithms alpha controls head_groups horizon_hi horizon_lo layers lookback lora mean_one oracles q raw "
        "reference reference_k16 rivals share signs thresholds top_bottom window"
    )
    assert wanted.split() == SETS
    assert not [recipe.name for recipe in list_recipes() if "sets" in recipe.name]


def test_a_name_means_the_same_in_every_set():
    found: dict[str, Any] = {}
    for name in SETS:
        for variant in read_set(set_path(RECIPE, name)):
            assert found.setdefault(variant.name, variant.settings) == variant.settings
    # and variants that differ in name differ in what they do
    settings = [json.dumps(given, sort_keys=True) for given in found.values()]
    assert len(set(settings)) == len(settings)


def test_the_values_are_the_papers():
    def values(name: str, key: str) -> set[Any]:
        return {v.settings[key] for v in read_set(set_path(RECIPE, name)) if key in v.settings}

    assert values("q", "credit_quantile") | {0.4} == {0.2, 0.4, 0.6, 0.8, 1.0}  # Table 16
    assert values("layers", "credit_layers") | {"middle"} == {"all", "middle", "top", "bottom"}  # 9
    assert values("window", "credit_waad_window") | {10} == {5, 8, 10, 12, 20}  # 19
    lows = {v.settings["credit_fai_horizon"][0] for v in read_set(set_path(RECIPE, "horizon_lo"))[1:]}
    highs = {v.settings["credit_fai_horizon"][1] for v in read_set(set_path(RECIPE, "horizon_hi"))[1:]}
    assert lows | {10} == {0, 5, 10, 15, 20} and highs | {100} == {50, 100, 150, 200, -1}
    assert values("signs", "credit_sign") | {"both"} == {"both", "positive", "negative"}  # 7a
    assert values("lookback", "credit_lookback") | {3} == {1, 2, 3}


@pytest.mark.parametrize("name", SETS)
def test_every_variant_passes_the_checks_of_train(name, tmp_path):
    small = ["--task_options", '{"numbers": [3], "prompt_style": "compact", "num_train": 300, "num_test": 8}']
    for variant in read_set(set_path(RECIPE, name)):
        checked = check(["--config", RECIPE, *variant.words, *small, "--output_dir", str(tmp_path)])
        for key, value in variant.settings.items():
            known = {**vars(checked.config), **vars(checked.model), **vars(checked.run)}
            assert known[key] == (value if value != ["all-linear"] else "all-linear")


@pytest.mark.thorough
def test_the_recipes_of_the_benchmark(tmp_path):
    found = {path.stem: yaml.safe_load(path.read_text()) for path in (recipes_root() / "benchmark").glob("*.yaml")}
    assert set(found) == {"countdown_tiny", "paths_tiny", "relay_tiny", "countdown_smollm2"}
    for name, recipe in found.items():
        assert recipe["credit_strategy"] == "uniform" and recipe["held_out"] == 512
        assert recipe["task_options"]["num_test"] == 512
        assert recipe["task_options"].get("num_validation") == (None if name == "relay_tiny" else 256)
        assert (recipe.get("eval_temperature", 0), recipe["eval_second_temperature"]) == (0, 1)
        assert recipe["max_steps"] % recipe["eval_steps"] == 0
        assert recipe["output_dir"] == f"outputs/benchmark/{name}"
        words = ["--config", f"benchmark/{name}", "--output_dir", str(tmp_path / "run")]
        if name == "countdown_smollm2":  # whose policy is made by scripts/warm_start.py
            words += ["--model_name_or_path", save_policy("Qwen/Qwen3-0.6B", tmp_path / "policy"), "--dry_run", "true"]
        assert check(words).held_out is not None


# ---- cells --------------------------------------------------------------------------------------------------------

IDENTITY = {
    "recipe": {"max_steps": 4, "task": "countdown"},
    "data": "4567",
    "policy": "0123",
    "device": "cpu",
    "versions": {"torch": "2.0"},
}
EXPECTED = Expected(IDENTITY, {"credit_strategy": "uniform"}, 4, 16, 2, [0, 2, 4], 1)
TOLD = {"command": "rlcredit train", "finished": "2026-01-01T00:00:00Z", "code": "abc"}


def run_folder(folder: Path, steps: int = 4, evaluated: tuple[int, ...] = (2, 4), after: bool = True) -> Path:
    """What `rlcredit train` leaves, made up."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "loss": 0.1, "reward": step / 10, "step_time": 3.0 if step % 2 else 1.0, "num_tokens": 9.0,
         "credit/seconds": 0.4 if step % 2 else 0.0, "entropy": step / 100}
        for step in range(1, steps + 1)
    ]  # fmt: skip
    lines += [{"step": step, "eval/countdown/pass@1": 0.5, "eval/countdown/length": 20.0 + step} for step in evaluated]
    lines.sort(key=lambda line: line["step"])
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    right = {step: {"countdown": [1.0, 0.0, 1.0], "countdown_validation": [0.0, 1.0]} for step in evaluated}
    text = "".join(json.dumps({"step": step, "right": found}) + "\n" for step, found in right.items())
    (folder / "held_out.jsonl").write_text(text)
    accuracy = {"before": {"countdown": [0.0, 0.0, 1.0], "countdown_validation": [0.0, 0.0]}}
    if after:
        accuracy["after"] = {"countdown": [1.0, 1.0, 1.0], "countdown_validation": [1.0, 1.0]}
    (folder / "accuracy.json").write_text(json.dumps(accuracy))
    return folder


def test_a_cell_of_a_finished_run(tmp_path):
    made = cell_files.collect(run_folder(tmp_path / "run"), Cell(UNIFORM, 0), EXPECTED, **TOLD)
    assert made["held_out"]["countdown"] == {"0": "001", "2": "101", "4": "111"}
    assert made["held_out"]["countdown_validation"] == {"0": "00", "2": "01", "4": "11"}
    assert made["curves"]["reward"] == {"step": [1, 2, 3, 4], "value": [0.1, 0.2, 0.3, 0.4]}
    assert made["curves"]["eval/countdown/length"] == {"step": [2, 4], "value": [22.0, 24.0]}
    assert "num_tokens" not in made["curves"] and "eval/countdown/pass@1" not in made["curves"]
    assert made["seconds_a_step"] == 2  # rollouts of two steps: (3 + 1) / 2
    assert made["credit_share"] == 0.1  # 2 x 0.4 of 2 x 4 seconds: not the mean of the steps' own shares
    assert made["last_entropy"] == 0.04
    path = tmp_path / "cells" / "uniform-seed0.json"
    cell_files.write_cell(path, made)
    assert cell_files.read_cell(path, Cell(UNIFORM, 0)) == made
    assert cell_files.read_cell(path.with_name("other.json"), Cell(UNIFORM, 0)) is None


def test_a_longer_run_with_several_samples(tmp_path):
    folder = run_folder(tmp_path / "run", steps=20)
    lines = (folder / "log.jsonl").read_text()
    (folder / "log.jsonl").write_text(lines.replace('"step_time": 3.0', '"step_time": 103.0', 1))  # another job's time
    half = {"before": {"countdown": [0.0, 0.25, 1.0]}, "after": {"countdown": [0.5, 0.75, 1.0]}}
    (folder / "accuracy.json").write_text(json.dumps(half))
    (folder / "held_out.jsonl").write_text('{"step": 2, "right": {"countdown": [0.0, 0.5, 0.25]}}\n')
    expected = EXPECTED._replace(steps=20, evaluated=[0, 2, 20], samples=4)
    made = cell_files.collect(folder, Cell(UNIFORM, 0), expected, **TOLD)
    assert made["held_out"]["countdown"] == {"0": "014", "2": "021", "20": "234"}
    assert made["last_entropy"] == 0.195  # of steps 19 and 20
    assert made["seconds_a_step"] == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"steps": 3}, "has 3 steps, not each from 1 to 4 once"),
        ({"steps": 5}, "has 5 steps, not each from 1 to 4 once"),
        ({"evaluated": (4,)}, "step 2 is missing"),
        ({"after": False}, "step 4 is missing"),
    ],
)
def test_half_a_run_is_no_cell(options, expected, tmp_path):
    with pytest.raises(Unfinished, match=expected):
        cell_files.collect(run_folder(tmp_path / "run", **options), Cell(UNIFORM, 0), EXPECTED, **TOLD)


def test_a_damaged_run_is_no_cell(tmp_path):
    for number, (name, text) in enumerate(
        [("log.jsonl", "{nonsense\n{}\n"), ("held_out.jsonl", '{"step": "x"}\n'), ("accuracy.json", "[]")]
    ):
        folder = run_folder(tmp_path / str(number))
        (folder / name).write_text(text)
        with pytest.raises(Unfinished):
            cell_files.collect(folder, Cell(UNIFORM, 0), EXPECTED, **TOLD)
    folder = run_folder(tmp_path / "fewer")
    lines = (folder / "held_out.jsonl").read_text()
    (folder / "held_out.jsonl").write_text(lines.replace("[1.0, 0.0, 1.0]", "[1.0, 0.0]", 1))
    with pytest.raises(Unfinished, match="step 2 is of other problems than the first"):
        cell_files.collect(folder, Cell(UNIFORM, 0), EXPECTED, **TOLD)
    with pytest.raises(Unfinished, match="is not a run's output folder"):
        cell_files.collect(tmp_path / "nowhere", Cell(UNIFORM, 0), EXPECTED, **TOLD)
    lines = (run_folder(tmp_path / "hole") / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "hole/log.jsonl").write_text("".join(lines[1:]))  # as after a disk that was full for a while
    with pytest.raises(Unfinished, match="has 3 steps, not each from 1 to 4 once"):
        cell_files.collect(tmp_path / "hole", Cell(UNIFORM, 0), EXPECTED, **TOLD)


def test_a_damaged_cell_is_not_read(tmp_path):
    cell, path = Cell(UNIFORM, 0), tmp_path / "uniform-seed0.json"
    made = cell_files.collect(run_folder(tmp_path / "run"), cell, EXPECTED, **TOLD)
    cell_files.write_cell(path, made)
    whole = path.read_text()
    one_digit = whole.replace('"2": "101"', '"2": "111"')
    assert one_digit != whole
    for text in (one_digit, whole[:-30], "", "[]", "{}", whole.replace('"format": 1', '"format": 2')):
        path.write_text(text)
        with pytest.raises(Unfinished):
            cell_files.read_cell(path, cell)
    # a whole cell that is another one is refused, and not deleted
    path.write_text(whole)
    with pytest.raises(InputError, match="its seed is 0 instead of 1"):
        cell_files.read_cell(path, Cell(UNIFORM, 1))
    cell_files.write_cell(path, {**made, "format": 2})
    with pytest.raises(InputError, match="its format is 2 instead of 1"):
        cell_files.read_cell(path, cell)
    # the order of a text's keys and spaces is no damage
    path.write_text(json.dumps(json.loads(whole), sort_keys=True))
    assert cell_files.read_cell(path, cell) == made


def test_cells_that_differ_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "x.json"
    same = json.loads(json.dumps(IDENTITY))
    cell_files.refuse_different(path, {**same, "more": 1}, IDENTITY)
    other = {**same, "recipe": {"max_steps": 5, "beta": 0.1, "task": "countdown"}, "versions": {"torch": "2.1"}}
    with pytest.raises(InputError) as caught:
        cell_files.refuse_different(path, other, IDENTITY)
    said = str(caught.value)
    assert "beta 0.1 instead of 'nothing'" in said and "max_steps 5 instead of 4" in said
    assert "torch '2.1' instead of '2.0'" in said and "\n" not in said
    with pytest.raises(InputError, match="device 'gpu' instead of 'cpu'"):
        cell_files.refuse_different(path, {**same, "device": "gpu"}, IDENTITY)


def test_a_folder_begun_with_other_settings_is_begun_anew(tmp_path):
    folder, cell = tmp_path / "run", Cell(UNIFORM, 0)
    assert not cell_files.prepare_folder(folder, cell, EXPECTED, "abc")
    (folder / "checkpoint-2").mkdir()
    assert cell_files.prepare_folder(folder, cell, EXPECTED, "abc")
    other = EXPECTED._replace(identity={**IDENTITY, "recipe": {"max_steps": 5}})
    for expected, code in ((other, "abc"), (other, "other code")):
        assert not cell_files.prepare_folder(folder, cell, expected, code)
        assert not (folder / "checkpoint-2").exists()
        (folder / "checkpoint-2").mkdir()
    (folder / "benchmark.json").unlink()  # whose is this?
    with pytest.raises(InputError, match="was not made by a benchmark"):
        cell_files.prepare_folder(folder, cell, other, "abc")
    assert (folder / "checkpoint-2").exists()


def test_long_curves_are_thinned_but_the_reward():
    steps = np.arange(1, 201)
    curve = Curve(steps, steps / 3)
    whole, thin = cell_files._points(curve, thin=False), cell_files._points(curve, thin=True)
    assert len(whole["step"]) == 200 and len(thin["step"]) == 40
    assert thin["step"][:2] == [5, 10] and thin["value"][0] == 1.0  # the mean of 1/3 .. 5/3
    sixty = cell_files._points(Curve(steps[:61], steps[:61] / 3), thin=True)
    assert sixty["step"] == [*range(2, 61, 2), 61]  # equally many each


# ---- the workers --------------------------------------------------------------------------------------------------


def job(folder: Path, script: str, name: str = "a", keep: bool = True) -> Job:
    """A job that runs a Python script in its folder, and is done when the file `done` is there."""
    place = folder / name

    def prepare() -> bool:
        begun = place.is_dir()
        place.mkdir(parents=True, exist_ok=True)
        return begun

    def collect() -> None:
        if not (place / "done").is_file():
            raise Unfinished("not done")

    head = f"import os, pathlib, signal, sys, time; place = pathlib.Path({str(place)!r})\n"
    return Job(name, [sys.executable, "-c", head + script], place, prepare, collect)


DONE = "(place / 'done').touch()"


def do(jobs: list[Job], folder: Path, at_once: int = 2, show=lambda: None, devices=()) -> None:
    with locked(folder) as lock:
        work(jobs, at_once, devices, lock, show)


def test_so_many_at_once_and_one_thread_each(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as a shell may have it
    script = "(place / 'env').write_text(os.environ['OMP_NUM_THREADS']); time.sleep(0.1); " + DONE
    jobs = [job(tmp_path, script, name) for name in "abcd"]
    most = 0

    def show() -> None:
        nonlocal most
        most = max(most, sum(one.state == "running" for one in jobs))

    do(jobs, tmp_path, show=show)
    assert [one.state for one in jobs] == ["done"] * 4 and most == 2
    assert (tmp_path / "a/env").read_text() == "1"


def test_a_run_holds_the_lock_of_its_grid(tmp_path):
    script = "(place / 'open').write_text(' '.join(map(os.path.realpath, pathlib.Path('/proc/self/fd').iterdir())));"
    do([job(tmp_path, script + DONE)], tmp_path)
    assert str(tmp_path / workers.LOCK) in (tmp_path / "a/open").read_text().split()


def test_gpus_are_shared_out(tmp_path):
    script = "(place / 'env').write_text(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.1); " + DONE
    jobs = [job(tmp_path, script, name) for name in "abc"]
    do(jobs, tmp_path, at_once=3, devices=["4", "7"])
    assert sorted((tmp_path / name / "env").read_text() for name in "abc") == ["4", "4", "7"]


def test_a_crash_is_run_again_from_the_start_and_then_fails(tmp_path):
    flag = tmp_path / "flag"  # outside of its folder
    script = f"""
flag = pathlib.Path({str(flag)!r})
if not flag.exists():
    flag.touch()
    (place / 'torn').touch()
    sys.exit(1)
assert not (place / 'torn').exists()
"""
    once = job(tmp_path, script + DONE, "once")
    never = job(tmp_path, "print('no room'); sys.exit(1)", "never")
    wrong = job(tmp_path, "sys.exit(2)", "wrong")
    do([once, never, wrong], tmp_path)
    assert (once.state, never.state, wrong.state) == ("done", "failed", "failed")
    assert once.attempts == 2 and never.attempts == 2 and wrong.attempts == 1  # bad input stays bad
    assert never.reason == "ended with 1: no room"


def test_bad_input_in_what_a_run_left_is_no_bad_input(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/torn").touch()
    one = job(tmp_path, "if (place / 'torn').exists(): sys.exit(2)\n" + DONE)
    do([one], tmp_path)
    assert one.state == "done" and one.attempts == 2


def test_an_end_without_a_result_is_no_success(tmp_path):
    half = job(tmp_path, "pass", "half")
    do([half], tmp_path)
    assert half.state == "failed" and half.attempts == 2 and half.reason.startswith("not done")


def test_a_killed_run_goes_on_in_its_folder(tmp_path):
    script = "if not (place / 'part').exists():\n (place / 'part').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    one = job(tmp_path, script + DONE)
    do([one], tmp_path)
    assert one.state == "done" and one.attempts == 2 and (tmp_path / "a/part").exists()


def test_a_run_that_had_ended_is_not_run_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/done").touch()
    one = job(tmp_path, "sys.exit(1)")
    do([one], tmp_path)
    assert one.state == "done" and one.attempts == 0


POLITE = (
    "signal.signal(signal.SIGTERM, lambda *_: ((place / 'saved').touch(), sys.exit(0)))\n"
    "(place / 'up').touch()\nwhile True: time.sleep(0.02)"
)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, RunStopped)])
def test_a_stopped_grid_stops_its_runs_which_save(number, expected, tmp_path, capfd):
    jobs = [job(tmp_path, POLITE, name) for name in "abc"]

    def stop_when_up() -> None:
        while not all((tmp_path / name / "up").exists() for name in "ab"):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop_when_up, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(expected):
        do(jobs, tmp_path)
    assert (tmp_path / "a/saved").exists() and (tmp_path / "b/saved").exists()
    assert not (tmp_path / "c").exists() and {one.state for one in jobs} == {"waiting"}
    assert all(one._process is None or one._process.poll() is not None for one in jobs)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "a second Ctrl-C ends them at once" in capfd.readouterr().err


def test_a_run_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "GRACE", 0.3)
    deaf = job(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); (place / 'up').touch(); time.sleep(60)")

    def stop_when_up() -> None:
        while not (tmp_path / "a/up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_up, daemon=True).start()
    with pytest.raises(RunStopped):
        do([deaf], tmp_path)
    assert deaf._process.returncode == -signal.SIGKILL


def test_a_second_ctrl_c_ends_them_at_once(tmp_path):
    deaf = job(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); (place / 'up').touch(); time.sleep(60)")
    alive = []

    def stop_when_up() -> None:
        while not (tmp_path / "a/up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        alive.append(deaf._process.poll() is None)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop_when_up, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        do([deaf], tmp_path)
    thread.join()
    assert alive == [True] and deaf._process.returncode == -signal.SIGKILL


def test_two_grids_in_one_folder_are_refused_also_while_a_run_is_left(tmp_path):
    with locked(tmp_path) as lock:
        with pytest.raises(InputError, match="is at work"), locked(tmp_path):
            pass
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    try:
        with pytest.raises(InputError, match="a run that it left"), locked(tmp_path):
            pass
    finally:
        left.communicate(b"\n")
    with locked(tmp_path):
        pass


def test_the_last_step_of_a_log(tmp_path):
    assert last_logged(tmp_path) == (0, None)
    lines = [json.dumps({"step": step, "pad": "x" * 300} | ({"reward": step / 10} if step % 2 else {}))
             for step in range(1, 101)]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 1')
    assert last_logged(tmp_path) == (100, 9.9)


def shown(folder: Path, terminal: bool, states: dict[str, str]) -> str:
    """What GridProgress says of four cells, one of which was finished before."""
    grid = Grid("results", [UNIFORM, COUPLED], [0, 1])
    jobs = {name: job(folder, "", name) for name in states}
    for name, state in states.items():
        jobs[name].state, jobs[name].reason = state, "ended with 1: no room" if state == "failed" else ""
    finals = {"uniform-seed0": 0.5} | {name: 0.625 for name, state in states.items() if state == "done"}
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with GridProgress(grid, jobs, finals.get, {"uniform": 80, "coupled_rhythm": 80}, console) as progress:
        progress.show()
        progress.show()
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_grid_in_a_terminal_and_elsewhere(tmp_path):
    run_folder(tmp_path / "coupled_rhythm-seed0")
    states = {"uniform-seed1": "done", "coupled_rhythm-seed0": "running", "coupled_rhythm-seed1": "failed"}
    table = shown(tmp_path, True, states)
    rows = [line for line in table.splitlines() if "coupled_rhythm" in line or "uniform" in line]
    assert [cell.strip() for cell in rows[0].split("│")[1:-1]] == ["uniform", "0.500", "0.625"]
    assert [cell.strip() for cell in rows[1].split("│")[1:-1]] == ["coupled_rhythm", "4/80  0.40", "failed"]
    assert "2 of 4 cells" in table
    lines = shown(tmp_path, False, states).splitlines()
    assert len(lines) == 3  # each change once
    assert lines[0].endswith("uniform-seed1: done, accuracy 0.625  (1 of 3 done)")
    assert lines[2].endswith("coupled_rhythm-seed1: failed, ended with 1: no room  (1 of 3 done)")


# ---- results ------------------------------------------------------------------------------------------------------


def made_up(name: str, seed: int, finals: tuple[str, str, str], first_reward: float = 0.3) -> dict[str, Any]:
    """A cell of four problems: held out at steps 0, 20 and 40, as digits."""
    return {
        "format": 1,
        "name": name,
        "seed": seed,
        **json.loads(json.dumps(IDENTITY)),
        "versions": {"torch": "2.0", "transformers": "5", "trl": "1.16"},
        "settings": {},
        "code": "abc",
        "command": f"rlcredit train --seed {seed}",
        "finished": f"2026-01-0{seed + 1}T00:00:00Z",
        "steps": 40,
        "completions_a_rollout": 256,
        "steps_a_rollout": 4,
        "seconds_a_step": 1.5,
        "credit_share": 0.04 if name == "coupled_rhythm" else None,
        "last_entropy": 0.2,
        "samples": 1,
        "second_temperature": 1.0,
        "held_out": {
            "countdown": dict(zip(("0", "20", "40"), finals, strict=True)),
            "countdown_validation": {"0": "00", "20": "11", "40": "10"},
            "countdown_t1": {"0": "0000", "20": "1000", "40": "1100"},
        },
        "curves": {
            "reward": {"step": [1, 21], "value": [first_reward, 0.5]},
            "eval/countdown/length": {"step": [20, 40], "value": [20.0, 24.0]},
        },
    }


def made_up_cells() -> dict[str, dict[int, dict[str, Any]]]:
    return {
        "uniform": {
            0: made_up("uniform", 0, ("1000", "1000", "1100")),  # final 0.5
            1: made_up("uniform", 1, ("1000", "1100", "1110")),  # 0.75
            2: made_up("uniform", 2, ("1000", "1000", "1000")),  # 0.25
        },
        "coupled_rhythm": {
            0: made_up("coupled_rhythm", 0, ("1000", "1110", "1110")),  # +0.25
            1: made_up("coupled_rhythm", 1, ("1000", "1100", "1111")),  # +0.25
            2: made_up("coupled_rhythm", 2, ("1000", "1000", "1111")),  # +0.75
        },
    }


def test_what_one_cell_comes_to():
    found = measures(made_up("uniform", 0, ("1000", "1110", "1100")))
    assert (found["before"], found["final"]) == (0.25, 0.5)
    assert (found["best"], found["best_step"], found["validation"]) == (0.75, 20, 1)  # step 20, by validation
    assert found["area"] == pytest.approx(((0.25 + 0.75) / 2 + (0.75 + 0.5) / 2) / 2)
    assert (found["before_t"], found["final_t"], found["area_t"]) == (0, 0.5, 0.25)
    assert found["reward_area"] == pytest.approx(0.4)
    assert (found["entropy"], found["length"], found["seconds_a_step"]) == (0.2, 24, 1.5)
    assert "credit_share" not in found


def test_a_document_by_hand():
    found = document([UNIFORM, COUPLED], [0, 1, 2], made_up_cells(), "rlcredit benchmark")
    assert found["targets"] == {"final": 0.5, "final_t": 0.5} and found["lowest_p"] == 1 / 4 and found["notes"] == []
    assert found["finished"] == "2026-01-03T00:00:00Z" and found["problems"] == 4
    (final,) = [pair for pair in found["paired"] if pair["measure"] == "final"]
    # d = 0.25 0.25 0.75: mean 0.41667, sd 0.288675, t(0.975, 2) = 4.302653
    half = 4.302653 * 0.288675 / np.sqrt(3)
    assert final["value"] == pytest.approx(0.4166667)
    assert (final["low"], final["high"]) == pytest.approx((0.4166667 - half, 0.4166667 + half), abs=1e-5)
    assert (final["p"], final["seeds"], final["verdict"]) == (0.25, 3, "open")
    reach = {name: one["reached"] for name, one in found["variants"].items()}
    # uniform: at step 40, at 20, never; coupled_rhythm: half way to 0.75 at 10, at 20, 20 + 20 / 3
    assert [one["step"] for one in reach["uniform"]["by_seed"].values()] == [40, 20, None]
    assert (reach["uniform"]["median_step"], reach["uniform"]["never"]) == (40, 1)
    assert [one["step"] for one in reach["coupled_rhythm"]["by_seed"].values()] == pytest.approx([10, 20, 26.666667])
    assert reach["coupled_rhythm"]["median_completions"] == 5 * 256


def test_the_last_rollout_counts_whole_where_the_run_uses_a_part_of_it():
    """Ten steps, four a rollout: three rollouts."""
    cell = {"steps": 10, "steps_a_rollout": 4, "completions_a_rollout": 256}
    lengths = {"completions/mean_length": {"step": [1, 5, 9], "value": [10.0] * 3}}
    cell["curves"] = {**lengths, "credit/continuation_tokens": {"step": [1, 5, 9], "value": [2560.0] * 3}}
    assert rollouts_of(cell) == 3
    assert tokens_after({**cell, "curves": lengths}, 3) == 3 * 2560
    curve = curve_of({0: 0.0, 10: 1.0})
    assert at_budget(cell, curve, 3 * 2560) == pytest.approx(0.6)  # one and a half of its own rollouts: step 6
    assert at_budget(cell, curve, 1e9) == 1.0  # step 10, not 12


def test_generated_tokens_by_hand():
    """Ten rollouts of 256 completions, logged in four points that stand for 3, 3, 3 and 1 of them."""
    cells = made_up_cells()
    lengths = {"step": [9, 21, 33, 37], "value": [10.0, 20.0, 10.0, 30.0]}
    for cell in (*cells["uniform"].values(), *cells["coupled_rhythm"].values()):
        cell["curves"]["completions/mean_length"] = lengths
    assert tokens_after(cells["uniform"][0], 4.5) == pytest.approx((3 * 10 + 1.5 * 20) * 256)
    found = document([UNIFORM, COUPLED], [0, 1, 2], cells, "rlcredit benchmark")
    assert "budget" not in found  # nobody draws continuations
    reach = found["variants"]["uniform"]["reached"]
    assert [one["tokens"] for one in reach["by_seed"].values()] == [150 * 256, (30 + 2 * 20) * 256, None]
    assert found["variants"]["coupled_rhythm"]["reached_t"]["median_step"] == 40
    for cell in cells["coupled_rhythm"].values():
        cell["curves"]["credit/continuation_tokens"] = {**lengths, "value": [3840.0] * 4}
    found = document([UNIFORM, COUPLED], [0, 1, 2], cells, "rlcredit benchmark")
    # 38,400 tokens of uniform. With continuations 19,200 after three rollouts and 46,080 after six: 5 1/7 rollouts,
    # 20 4/7 steps, a sampled accuracy of 0.25 + 0.25 (4/7) / 20.
    assert found["budget"]["coupled_rhythm"]["final_t"]["value"] == pytest.approx(0.25 + 0.25 * (4 / 7) / 20 - 0.5)
    assert "## At the tokens that uniform generated" in markdown(found, "x", [])
    for cell in cells["coupled_rhythm"].values():  # the same, as half of each: groups that were replaced count alike
        half = {**lengths, "value": [1920.0] * 4}
        cell["curves"] |= {"credit/continuation_tokens": half, "dynamic_sampling/tokens": half}
    assert document([UNIFORM, COUPLED], [0, 1, 2], cells, "rlcredit benchmark")["budget"] == found["budget"]


def test_the_share_of_the_oracles_gain_is_drawn(tmp_path):
    cells = made_up_cells()
    cells["half"] = {
        seed: made_up("half", seed, digits)
        for seed, digits in enumerate([("1000", "1000", "1110"), ("1000", "1100", "1111"), ("1000", "1000", "1110")])
    }
    variants = [UNIFORM, COUPLED, Variant("half", COUPLED.settings)]
    found = document(variants, [0, 1, 2], cells, "rlcredit benchmark", "coupled_rhythm")
    # gains 0.25, 0.25, 0.5 of 0.25, 0.25, 0.75
    assert found["oracle"]["shares"]["final"]["half"]["value"] == pytest.approx(1 / 1.25)
    assert draw(found, cells, tmp_path, "results")[-1] == "results-shares.png"
    assert "half" in (tmp_path / "results-shares.svg").read_text()


def test_pairs_are_of_the_seeds_that_both_have(tmp_path):
    cells = made_up_cells()
    del cells["coupled_rhythm"][1]
    cells["uniform"][0]["code"] = "other"
    cells["coupled_rhythm"][2]["curves"]["reward"]["value"][0] = 0.31
    found = document([UNIFORM, COUPLED], [0, 1, 2], cells, "x")
    (final,) = [pair for pair in found["paired"] if pair["measure"] == "final"]
    assert final["seeds"] == 2 and final["value"] == 0.5
    missing, differ, codes = found["notes"]
    assert "coupled_rhythm at seed 1" in missing and "coupled_rhythm at seed 2" in differ and "2 states" in codes
    del cells["uniform"][2]
    found = document([UNIFORM, COUPLED], [0, 1, 2], cells, "x")  # 0 and 1 against 0 and 2: nothing to pair
    (final,) = [pair for pair in found["paired"] if pair["measure"] == "final"]
    # 0.75 and 1 against 0.5 and 0.75: Welch's t with two degrees of freedom, error sqrt(2 * 0.03125 / 2)
    half = 4.302653 * np.sqrt(0.03125)
    assert (final["value"], final["low"], final["high"]) == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=1e-6)
    assert (final["seeds"], final["p"], final["lowest_p"], final["verdict"]) == (0, None, None, "open")
    text = markdown(found, "x", draw(found, cells, tmp_path, "results"))
    assert "| `coupled_rhythm` | `uniform` | final, greedy | +0.250 [-0.511, +1.011] | - | - | 0 | open |" in text
    with pytest.raises(ValueError, match="no cell of uniform"):
        document([UNIFORM, COUPLED], [0], {"coupled_rhythm": cells["coupled_rhythm"]}, "x")


def test_what_is_written_is_the_same_every_time(tmp_path):
    cells = made_up_cells()
    found = document([UNIFORM, COUPLED], [0, 1, 2], cells, "rlcredit benchmark --x")
    for name in "ab":
        figures = draw(found, cells, tmp_path / name, "results")
    assert figures == ["results-curves.png", "results-differences.png"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 4
    text = markdown(found, "countdown_tiny: strategies", figures)
    assert "with 3 seeds it cannot go below 1/4" in text
    assert "| `coupled_rhythm` | `uniform` | final, greedy | +0.417 [-0.300, +1.134] | 1/4 | 1/4 | 3 | open |" in text
    assert "| `uniform` | 40 | 2,560 | - | 2 of 3 |" in text and "censored" in text
    assert "Best is chosen on countdown_validation, never on the held-out set." in text


def test_report_only_from_cells_that_are_there(tmp_path, capsys):
    for name, by_seed in made_up_cells().items():
        for seed, cell in by_seed.items():
            cell_files.write_cell(tmp_path / "cells" / f"{name}-seed{seed}.json", cell)
    words = ["--config", RECIPE, "--strategies", "coupled_rhythm", "--report_only", "--output", str(tmp_path)]
    assert main(["benchmark", *words, "--seeds", "0..2"]) == 0
    said = capsys.readouterr().out
    assert "coupled_rhythm" in said and "+0.417 [-0.300, +1.134]" in said and "p cannot go below 0.25" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cells", "results.json", "results.md", "results-curves.png", "results-curves.svg"),
        *("results-differences.png", "results-differences.svg"),
    }
    # cells of other packages do not go together
    odd = made_up("coupled_rhythm", 1, ("1000", "1000", "1000"))
    odd["versions"]["torch"] = "2.1"
    cell_files.write_cell(tmp_path / "cells/coupled_rhythm-seed1.json", odd)
    assert main(["benchmark", *words, "--seeds", "0..2"]) == 2
    assert "torch '2.1' instead of '2.0'" in capsys.readouterr().err
    # nor do cells of one variant with other settings
    odd = {**made_up("coupled_rhythm", 1, ("1000", "1000", "1000")), "settings": {"credit_alpha": 0.1}}
    cell_files.write_cell(tmp_path / "cells/coupled_rhythm-seed1.json", odd)
    assert main(["benchmark", *words, "--seeds", "0..2"]) == 2
    assert "credit_alpha 0.1 instead of 'nothing'" in capsys.readouterr().err


@pytest.mark.thorough
def test_what_a_variant_may_not_set(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for settings, expected in (
        ("max_steps: 61", "max_steps 61 instead of 60"),
        ("gradient_accumulation_steps: 2", "completions a step 128.0 instead of 64.0"),
        ("max_completion_length: 40", "max_completion_length 40 instead of 56"),
        ("eval_steps: 30", "evaluations [0, 30, 60] instead of"),
        ("held_out: 16", "held_out 16 instead of 512"),
        ("eval_second_temperature: 0.5", "eval_second_temperature 0.5 instead of 1.0"),
        ("task_options: {numbers: [3], prompt_style: compact}", "max_number 'nothing' instead of 12"),
    ):
        (tmp_path / "s.yaml").write_text(f"longer: {{{settings}}}")
        assert main(["benchmark", "--config", RECIPE, "--set", "s.yaml", "--seeds", "0"]) == 2
        error = capsys.readouterr().err.strip()
        assert f"longer: {expected}" in error and "are the same for all cells" in error and "\n" not in error


@pytest.mark.thorough
def test_a_place_that_cannot_be_written_is_said_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for key, expected in (("output", "output: file/x/cells cannot be made"), ("runs", "'file/x/checked' cannot be a")):
        words = ["--config", RECIPE, "--strategies", "random", "--seeds", "0", f"--{key}", "file/x"]
        assert main(["benchmark", *words]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--strategies", "random"], "--config: is missing"),
        (["--config", RECIPE], "nothing to compare"),
        (["--config", RECIPE, "--strategies", "nobody"], "'nobody' is unknown"),
        (["--config", RECIPE, "--strategies", "random", "--jobs", "0"], "jobs: 0"),
        (["--config", RECIPE, "--strategies", "random", "--seeds", "4..0"], "seeds: '4..0'"),
        (["--config", RECIPE, "--strategies", "random", "--max_stepps", "3"], "did you mean --max_steps"),
        (["--config", RECIPE, "--strategies", "random", "--held_out", "0", "--eval_strategy", "no"], "held_out: 0"),
        (["--config", RECIPE, "--strategies", "random", "--max_steps=-1"], "max_steps: is missing"),
        (["--config", RECIPE, "--strategies", "random", "--credit_strategy", "entropy"], "given twice"),
        (["--config", RECIPE, "--set", "q", "--credit_quantile", "0.3"], "--credit_quantile: given twice"),
        (["--config", RECIPE, "--set", "q", "--seed", "3"], "--seed: the grid sets it; write --seeds"),
        (["--config", RECIPE, "--set", "q", "--output-dir=x"], "--output_dir: the grid sets it; write --output"),
        (["--config", RECIPE, "--set", "q", "--dry_run"], "--dry_run: the grid sets it; leave it out"),
        (["--config", RECIPE, "--set", "q", "--eval_temperature", "0.6"], "are measured greedily; write 0"),
        (["--config", RECIPE, "--set", "q", "--logging_steps", "7"], "logging_steps: 7"),
    ],
)
def test_bad_input_is_one_line(words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and error.startswith("rlcredit: ") and "\n" not in error
    assert not any(tmp_path.iterdir())
