"""Files that ruff does not read: Dockerfiles and shell scripts, by their own linters."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
SCRIPTS = [*sorted((ROOT / "scripts/slurm").glob("*.sbatch")), ROOT / ".ci/run"]


def findings(linter: str, path: Path) -> str:
    """What a linter of the dev extra has to say; it lies beside the interpreter."""
    command = [str(Path(sys.executable).parent / linter), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600).stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    assert findings("hadolint", path) == ""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    assert findings("shellcheck", path) == ""


def test_there_is_something_to_lint():
    assert len(DOCKERFILES) == 2 and len(SCRIPTS) == 2
