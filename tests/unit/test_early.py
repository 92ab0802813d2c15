"""Unknown keys are refused before the packages with the known ones are imported."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys

import pytest
from trl import ModelConfig

from rlcredit import cli
from rlcredit.analysis.analyze import AnalysisCredit, AnalyzeArguments
from rlcredit.config.early import names_in
from rlcredit.config.fields import options_of
from rlcredit.errors import InputError
from rlcredit.evaluation.evaluate import EvaluateArguments
from rlcredit.tasks.dataset import DatasetArguments
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.run_arguments import RunArguments


@pytest.mark.parametrize(
    ("sources", "dataclass_types"),
    [
        (cli.TRAIN_KEYS, (RunArguments, ModelConfig, CreditPPOConfig, DatasetArguments)),
        (cli.EVALUATE_KEYS, (EvaluateArguments,)),
        (cli.ANALYZE_KEYS, (AnalyzeArguments, AnalysisCredit)),
    ],
)
def test_no_field_is_taken_for_an_unknown_key(sources, dataclass_types):
    names = {name for source in sources for name in names_in(source)}
    assert set(options_of(dataclass_types)) <= names


@pytest.mark.parametrize("command", ["train", "evaluate", "analyze"])
def test_unknown_keys_are_listed_before_anything_heavy_is_imported(tmp_path, command):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("sed: 1\nhorizn: 2\n")
    words = [sys.executable, "-m", "rlcredit", command, "--config", str(recipe), "--sede", "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 2
    title, *lines = ended.stderr.splitlines()
    assert title == "rlcredit: 3 keys are unknown:"
    assert lines[0] == "  --sede: unknown flag; did you mean --seed?"
    assert (
        lines[1].startswith(f"  {recipe}:1: unknown key 'sed'") and lines[2] == f"  {recipe}:2: unknown key 'horizn'"
    )
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("task: custom\ntask_options: {trian: a, chekc: math}\n", []),
        ("task_options: '{\"trian\": 1}'\n", ["--task=custom", "--task_options.chekc", "math"]),
        ("task: custom\n", ["--task_options", '{"trian": 1, "chekc": 2}']),
    ],
)
def test_unknown_options_of_the_task_are_listed_before_torch_is_imported(tmp_path, recipe, flags):
    (tmp_path / "r.yaml").write_text(recipe)
    words = ["train", "--config", str(tmp_path / "r.yaml"), *flags]
    program = (
        f"import sys; from rlcredit import cli; code = cli.main({words!r}); sys.exit(code + ('torch' in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "did you mean task_options.train?; task_options.chekc: " in ended.stderr


def test_what_removed_keys_became_is_still_said(capsys):
    assert cli.main(["train", "--credit_attention", "eager"]) == 2
    assert "--credit_attention: unknown flag; leave it out" in capsys.readouterr().err


HEAVY = ("trl.trainer.grpo_trainer", "rlcredit.trainers.sturdy", "rlcredit.trainers.reports", "wandb", "matplotlib")


def test_a_plan_imports_no_trainer_and_begins_with_a_line(tmp_path):
    words = ["train", "--config", "countdown_tiny/ppo_uniform", "--dry_run", "--output_dir", str(tmp_path / "out")]
    program = (
        f"import sys; from rlcredit import cli; code = cli.main({words!r}); "
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    first, *_, done, heavy = ended.stdout.splitlines()
    assert first == "rlcredit train: countdown_tiny/ppo_uniform"
    assert done == "checked; nothing was trained" and heavy == "[]"


def test_the_first_line_is_said_before_the_trainers_are_imported(monkeypatch, capsys):
    real = importlib.import_module

    def imported(name):
        if name.startswith("rlcredit.trainers"):
            raise InputError(f"after {capsys.readouterr().out!r}")
        return real(name)

    monkeypatch.setattr(cli.importlib, "import_module", imported)
    assert cli.main(["train", "--config", "countdown_tiny/uniform"]) == 2
    assert "after 'rlcredit train: countdown_tiny/uniform\\n'" in capsys.readouterr().err
