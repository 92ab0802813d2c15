"""A custom task for the real command line, scored by `rewards`."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def task(tmp_path) -> Callable[[str], list[str]]:
    """Flags for prompts of the tiny policy's alphabet, scored by a function of `rewards`."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "{a} {b} 7 = {a + b}"}}\n' for a in range(2, 12) for b in range(2, 12)))
    return lambda reward: [
        "--task=custom",
        f"--task_options.train={path}",
        f"--task_options.reward=tests.faults.rewards:{reward}",
    ]
