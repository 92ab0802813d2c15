"""A process of a launch that samples from a server: python -m tests.vllm.processes FOLDER POLICY URL PORT."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import runs
from tests.vllm import watch

STEP = dict(credit_strategy="coupled_rhythm", optim="sgd", learning_rate=0.1)
"""Of 12 completions in groups of 4: a group lies across the two processes, which have 6 each."""


def settings(url: str, port: int) -> dict[str, Any]:
    return dict(vllm_mode="server", vllm_server_base_url=url, vllm_group_port=port, **STEP)


def run(folder: Path, policy: Path, url: str, port: int) -> None:
    """Train, check what this process saw, and write it to `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        from tests.vllm import gloo  # which imports vLLM

        gloo.connect(patch)
        made = watch.trainer(folder, policy, per_device_train_batch_size=3, **settings(url, port))
        answers: list[dict[str, Any]] = []
        if made.accelerator.is_main_process:  # which alone talks to the server
            ask = made.vllm_generation.vllm_client.generate

            def asked(**request):
                answers.append(copy.deepcopy(ask(**request)))
                return answers[-1]

            made.vllm_generation.vllm_client.generate = asked
        made.train()
    watch.check(made)
    found = {
        "answers": answers,
        "completions": [returned.completions for returned in made.seen.returned],
        "rows": made.seen.trained,
        "difference": max(watch.differences(made)),
        "parameters": runs.parameters(made),
    }
    torch.save(found, folder / f"rank{made.accelerator.process_index}.pt")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
