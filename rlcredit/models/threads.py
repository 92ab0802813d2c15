"""How many threads a model computes with on a CPU.

OpenMP's threads spin while they wait for each other. On a machine that others use as well, that costs many times what
a second thread gains for a model of a few layers; where a core is free, a second thread halves the step of one of
five million parameters and more (docs/performance.md). So a small model computes with one thread, and the command line
has OpenMP's threads sleep while they wait (`rlcredit.cli`, before torch is loaded). What the user set stays.
"""

from __future__ import annotations

import os

import torch

SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = 4_000_000  # parameters


def choose_threads(parameters: int) -> str:
    """Compute with one thread if the model is small; say how many there are, and why.

    Args:
        parameters: of the model.
    """
    given = next((name for name in SET_BY_USER if name in os.environ), None)
    if given is None and parameters < SMALL:
        torch.set_num_threads(1)
    threads = torch.get_num_threads()
    counted = f"{threads} thread{'s' if threads > 1 else ''}"
    if given is not None:
        return f"{counted} ({given})"
    reason = f"fewer than {SMALL // 1_000_000} M parameters" if parameters < SMALL else "one a core"
    return f"{counted} ({reason}; OMP_NUM_THREADS sets another number)"
