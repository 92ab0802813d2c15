"""What a visitor of the repository meets first: its version, its changelog, its citation, its workflow."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import rlcredit
from rlcredit.cli import main

ROOT = Path(__file__).parents[2]


def test_version_says_the_version_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlcredit {rlcredit.__version__}\n"


def test_version_takes_nothing_else(capsys):
    assert main(["--version", "train"]) == 2
    assert "--version" in capsys.readouterr().err


def test_version_is_answered_without_torch():
    code = "import sys; from rlcredit.cli import main; main(['--version']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_the_version_is_typed_once_for_the_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "rlcredit/__init__.py"


def test_changelog_and_citation_know_the_version():
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[:2] == ["Unreleased", rlcredit.__version__]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == rlcredit.__version__


def test_modules_that_the_changelog_names_exist():
    table = re.findall(r"^  \| `rlcredit.*\| (`.*`) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(table) >= 10
    for row in table:
        package = ""
        for name in re.findall(r"`(.+?)`", row):
            package = name.rpartition(".")[0] if not name.startswith(".") else package
            path = (package + name if name.startswith(".") else name).replace(".", "/")
            assert (ROOT / f"{path}.py").is_file() or (ROOT / path / "__init__.py").is_file(), name


def test_the_workflow_runs_the_checks_of_the_repository():
    workflow = (ROOT / ".github/workflows/checks.yml").read_text()
    steps = yaml.safe_load(workflow)["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "secrets" not in workflow and "://" not in workflow
