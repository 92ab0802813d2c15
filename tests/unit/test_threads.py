"""A CPU run's own choice of threads, in processes of their own: OpenMP reads its settings once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from rlcredit import cli
assert "torch" not in sys.modules
cli._settle()
print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
import torch
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
from rlcredit.models.threads import choose_threads
print(choose_threads({parameters}))
print(torch.get_num_threads())
"""


OTHER = "OMP_NUM_THREADS sets another number)"


@pytest.mark.parametrize(
    ("given", "parameters", "policy", "said", "threads"),
    [
        ({}, 1_000_000, "PASSIVE", f"1 thread (fewer than 4 M parameters; {OTHER}", 1),
        ({}, 5_000_000, "PASSIVE", f"2 threads (one a core; {OTHER}", 2),
        ({"OMP_NUM_THREADS": "2"}, 1_000_000, "None", "2 threads (OMP_NUM_THREADS)", 2),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 5_000_000, "ACTIVE", f"2 threads (one a core; {OTHER}", 2),
    ],
)
def test_a_small_model_has_one_thread_and_the_users_setting_stays(given, parameters, policy, said, threads):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    script = SCRIPT.format(parameters=parameters)
    ran = subprocess.run([sys.executable, "-c", script], env=kept | given, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [f"{policy} False", said, str(threads)]
