"""scripts/fuzz_recipes.py: mutated recipes become a plan or one line; and the fuzzer sees what is neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKEN = """
import os, sys, time
sys.path.insert(0, "scripts")
import fuzz_recipes as fuzz
import rlcredit.cli as cli

outside = sys.argv[1]
for body in sys.argv[2:]:
    cli.main = lambda words, body=body: eval(body)
    print("code", fuzz.main(["--only", "0", "--timeout", "2"]))
"""


def said(*words: str) -> tuple[int, str]:
    """What a process of its own says: it forks, which a process with the threads of other tests should not do."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.thorough
def test_a_mutant_of_every_kind():
    code, text = said("scripts/fuzz_recipes.py", "--count", "15", "--seed", "1")
    assert code == 0, text
    assert text.splitlines()[-1].split()[-1] == "0"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_five_hundred_mutants(seed):
    code, text = said("scripts/fuzz_recipes.py", "--count", "500", "--seed", str(seed))
    assert code == 0, text


@pytest.mark.slow
def test_the_fuzzer_sees_violations(tmp_path):
    seen = {
        "1 / 0": "exit code 1, and",
        "0": "exit code 0, and",
        "time.sleep(9)": "hung for 2 s",
        "open(outside, 'a').close()": "left its folder: open",
        "os.system('true')": "left its folder: os.system",
        "open('canary', 'w').close()": "made a canary",
        "print('rlcredit: no', file=sys.stderr) or 2": "an unchanged recipe was not planned",
    }
    code, text = said("-c", BROKEN, str(tmp_path / "outside"), *seen)
    assert code == 0 and text.count("code 1\n") == len(seen) == text.count("unchanged: violation"), text
    for line in seen.values():
        assert line in text
