"""What an installed wheel carries."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rlcredit

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_carries_recipes_and_policy(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rlcredit/_recipes/")}
    shipped = [path for path in (ROOT / "recipes").rglob("*") if path.is_file()]
    assert found == {f"rlcredit/_recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in shipped}
    assert "rlcredit/_recipes/countdown_tiny/policy/model.safetensors" in found
    assert "rlcredit/_recipes/relay_tiny/oracle.py" in found
    whole = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "rlcredit"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {*tracked.stdout.split(), "rlcredit/py.typed"} <= whole
    assert wheel.name.startswith(f"rlcredit-{rlcredit.__version__}-")
    assert wheel.stat().st_size < 7_000_000
