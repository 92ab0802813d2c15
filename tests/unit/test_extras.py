"""What a training run does without: the packages of extras, and what is said where one is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlcredit.config import recipes_root

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({packages!r}))
from rlcredit.cli import main
sys.exit(main({words!r}))
"""
GRID = ["--config", "benchmark/countdown_tiny", "--strategies", "uniform"]
REPORTING = ["--config", "countdown_tiny/uniform", "--credit_report_steps", "5"]


def run(words: list[str], *packages: str, cwd=None) -> subprocess.CompletedProcess[str]:
    """A command in a process in which these packages cannot be imported."""
    code = BLOCKED.format(packages=packages, words=words)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


def test_a_run_is_planned_without_any_of_them():
    done = run(
        ["train", "--config", "countdown_tiny/coupled_rhythm", "--dry_run"], "matplotlib", "math_verify", "plotly"
    )
    assert (done.returncode, "checked; nothing was trained" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("words", "package", "who"),
    [
        (["analyze", "--model", "x", "--task", "countdown"], "matplotlib", "rlcredit analyze"),
        (
            ["benchmark", "--config", "benchmark/countdown_tiny", "--strategies", "uniform"],
            "matplotlib",
            "rlcredit benchmark",
        ),
        (
            ["train", "--config", "countdown_tiny/uniform", "--credit_report_steps", "5"],
            "matplotlib",
            "credit_report_steps",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_missing_package_is_one_line(words, package, who):
    done = run(words, package)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{who}: needs {package}, which is not installed; write pip install 'rlcredit[report]'" in done.stderr


def test_the_checker_of_mathematics_is_missed_before_weights_load(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "1 + 1", "answer": "2"}) + "\n")
    model = str(recipes_root() / "countdown_tiny/policy")
    words = ["evaluate", "--model", model, "--task", "custom", "--data", "rows.jsonl"]
    words += ["--task_options", '{"check": "math", "prompt_style": "plain"}']
    done = run(words, "math_verify", cwd=tmp_path)
    assert done.returncode == 2 and "the checker math: needs math_verify" in done.stderr, done.stderr


def test_a_page_has_less_than_two_megabytes():
    from rlcredit.pages.frame import PLOTLY

    assert PLOTLY.stat().st_size < 1.6e6
