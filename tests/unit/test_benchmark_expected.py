"""What cells of one grid have to share: each part of it notices a change, and nothing else does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

import rlcredit
from rlcredit.benchmark.cells import prepare_folder, refuse_different
from rlcredit.benchmark.expected import code_digest, expect, identify
from rlcredit.benchmark.grid import Cell, Variant
from rlcredit.config import recipes_root
from rlcredit.errors import InputError
from rlcredit.trainers.prepare import check

RECIPE = "benchmark/countdown_tiny"


def checked(*words: str, output: Path):
    return check(["--config", RECIPE, "--output_dir", str(output), *words])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checked(output=tmp_path_factory.mktemp("base") / "run")


def changed(rows: Dataset) -> Dataset:
    """The same rows but for the last one's target."""
    return Dataset.from_list([*rows.to_list()[:-1], {**rows[len(rows) - 1], "target": 1}])


def test_the_data_is_every_row_of_every_set(base):
    words = ["--config", RECIPE]
    same = identify(base, words)["data"]
    tests = base.task.tests
    assert len(tests) == 2  # held-out and validation
    others = [replace(base.task, train=changed(base.task.train))]
    others += [replace(base.task, tests={**tests, name: changed(rows)}) for name, rows in tests.items()]
    found = [identify(base._replace(task=task), words)["data"] for task in others]
    assert len({same, *found}) == 4
    assert identify(base._replace(task=replace(base.task)), words)["data"] == same


def test_the_policy_is_its_files(base, tmp_path):
    words = ["--config", RECIPE]
    same = identify(base, words)["policy"]
    folder = shutil.copytree(recipes_root() / "countdown_tiny/policy", tmp_path / "policy")
    moved = base._replace(path=str(folder))
    assert identify(moved, words)["policy"] == same
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert identify(moved, words)["policy"] not in (same, None)
    assert identify(base._replace(path="of/the-hub"), words)["policy"] is None


def test_the_recipe_is_what_it_sets_and_what_is_set_over_it(base, tmp_path):
    plain = identify(base, ["--config", RECIPE])["recipe"]
    assert {"learning_rate", "max_steps", "task_options", "held_out"} <= set(plain)
    assert not {"seed", "output_dir", "report_to", "save_steps", "config"} & set(plain)
    over = ["--beta", "0.04", "--task_options.num_train=100", "--save_steps", "7"]
    found = identify(checked(*over, output=tmp_path / "run"), ["--config", RECIPE, *over])["recipe"]
    assert {key for key in found if found[key] != plain.get(key)} == {"beta", "task_options"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max_steps", "-1", "--num_train_epochs", "1"], "max_steps: is missing"),
        (["--eval_samples", "10", "--eval_temperature", "0.6"], "eval_samples: 10 are too many"),
        (["--eval_temperature", "0.6"], "eval_temperature: 0.6: cells are measured greedily"),
        (["--eval_steps", "0.5"], "eval_steps: 0.5 is a share"),
        (["--held_out", "0"], "held_out: 0: there is nothing to compare cells by; write 512, say"),
        (
            [
                "--gradient_accumulation_steps",
                "4",
                "--steps_per_generation",
                "1",
                "--per_device_train_batch_size",
                "64",
            ],
            "steps_per_generation: a rollout lasts 0.25 steps",
        ),
    ],
)
def test_what_does_not_fit_a_benchmark(words, expected, tmp_path):
    found = checked(*words, output=tmp_path / "run")
    with pytest.raises(InputError, match=expected):
        expect(found, {}, {}, found)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model_name_or_path", "paths_tiny/policy"], "policy '.*' instead of '.*': policy, budget"),
        (["--steps_per_generation", "1", "--gradient_accumulation_steps", "2"], "completions a step"),
    ],
)
def test_a_variant_has_the_policy_and_budget_of_the_others(base, words, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        expect(checked(*words, output=tmp_path / "run"), {}, {}, base)


def test_the_code_of_a_strategy_of_ones_own_is_what_a_cell_was_run_with(tmp_path, monkeypatch):
    place = tmp_path / "my_weights.py"
    monkeypatch.syspath_prepend(tmp_path)

    def found(text: str):
        place.write_text(f"import rlcredit\n\nstrategy = rlcredit.Strategy(lambda call: {text})\n")
        run = checked("--credit_strategy", "my_weights:strategy", output=tmp_path / "run")
        return expect(run, {}, {}, run)

    first = found("call")
    assert first.sources.keys() == {"source of my_weights"} and found("call").sources == first.sources
    second = found("3 * call")
    cell = Cell(Variant("mine", {}), 0)
    assert not prepare_folder(tmp_path / "cell", cell, first, "code")
    assert prepare_folder(tmp_path / "cell", cell, first, "code")
    assert not prepare_folder(tmp_path / "cell", cell, second, "code")  # begun anew
    finished = first.run_with()
    refuse_different(tmp_path / "cell.json", finished, first.run_with())
    with pytest.raises(InputError, match=r"was run with source of my_weights '\w+' instead of"):
        refuse_different(tmp_path / "cell.json", finished, second.run_with())
    del finished["sources"]  # a cell of an earlier version
    refuse_different(tmp_path / "cell.json", finished, second.run_with())


def test_rlcredits_own_strategies_and_tasks_have_no_sources(base):
    assert expect(base, {}, {}, base).sources == {}


def test_the_code_is_all_but_the_benchmarks_own(tmp_path, monkeypatch):
    package = tmp_path / "rlcredit"
    for name in ("trainers/grpo.py", "__init__.py", "benchmark/run.py", "cli.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(f"# {name}\n")
    monkeypatch.setattr(rlcredit, "__file__", str(package / "__init__.py"))
    same = code_digest()
    for name in ("benchmark/run.py", "cli.py"):
        (package / name).write_text("# other\n")
        assert code_digest() == same
    (package / "trainers/grpo.py").write_text("# other\n")
    assert code_digest() != same
