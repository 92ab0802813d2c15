"""A custom task for the real command line, scored by `rewards`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from rlcredit.config import find_recipe


@pytest.fixture
def task(tmp_path) -> Callable[[str], list[str]]:
    """The flag of a recipe: prompts of the tiny policy's alphabet, scored by a function of `rewards`."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "{a} {b} 7 = {a + b}"}}\n' for a in range(2, 12) for b in range(2, 12)))

    def recipe(reward: str) -> list[str]:
        settings = yaml.safe_load(find_recipe("countdown_tiny/coupled_rhythm").read_text())
        options = {"train": str(prompts), "reward": f"tests.faults.rewards:{reward}"}
        path = tmp_path / f"{reward}.yaml"
        path.write_text(yaml.safe_dump({**settings, "task": "custom", "task_options": options}))
        return [f"--config={path}"]

    return recipe
