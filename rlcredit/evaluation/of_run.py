"""`rlcredit evaluate RUN`, `analyze RUN` and `fidelity RUN`: the settings that a training run wrote down, as flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcredit.errors import InputError
from rlcredit.runs.files import FACTS_FILE, read_command

# What a run may set: never whether code that comes with a model is run, or which module a strategy is imported from.
OF_ANALYZE = (
    *("task", "task_options", "chat_template_kwargs", "max_new_tokens", "temperature"),
    *("credit_quantile", "credit_amplification", "credit_select", "credit_lookback", "credit_alpha"),
    *("credit_tau_waad", "credit_tau_delta", "credit_waad_window", "credit_layers", "credit_num_layers"),
    *("credit_head_fraction", "credit_heads", "credit_head_grouping"),
)
KEYS = {
    "evaluate": (
        *("task", "task_options", "chat_template_kwargs", "limit"),
        *("max_new_tokens", "samples", "temperature", "seed", "batch_size"),
    ),
    "analyze": (*OF_ANALYZE, "credit_strategy"),  # its horizon is that of the paper's analysis
    "fidelity": (*OF_ANALYZE, "credit_fai_horizon"),  # of the strategies that it is given
}
WRITTEN_AS = {"fidelity": "analyze"}
"""The command whose flags run.json has, where that is another one."""
OF_THE_SET = ("task_options", "limit")  # of no use where another task or other data are asked for
EVALUATIONS = "evaluations"  # in a run's folder: a folder for each set


def flags_of(command: str, argv: Sequence[str]) -> list[str]:
    """The words of the command; a run's folder in front of them becomes the flags that it stands for.

    Args:
        command: evaluate, analyze or fidelity.
        argv: its words. Flags among them replace the run's.

    Raises: InputError where the folder is not that of a run, or of an earlier version.
    """
    if not argv or argv[0].startswith("-"):
        return list(argv)
    folder, words = Path(argv[0]), list(argv[1:])
    given = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    home = home_of(folder)
    settings = {
        key: value
        for key, value in read_command(home, WRITTEN_AS.get(command, command)).items()
        if key in KEYS[command] and not (key == "credit_strategy" and ":" in str(value))
    }
    if (
        folder == home
        and "model" not in given
        and not any((home / name).is_file() for name in ("config.json", "adapter_config.json"))
    ):
        newest = max(home.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime, default=None)
        instead = f"write {newest}, or resume it" if newest else "let it go on"
        raise InputError(f"{folder}: the run has not finished, and has no policy yet; {instead}")
    settings = {**settings, "model": str(folder)}
    if not given.isdisjoint({"prompts", "completions"}):
        settings.pop("task", None)
    if not given.isdisjoint({"task", "data", "prompts", "completions"}):
        own_data = given.isdisjoint({"task", "prompts", "completions"})  # the run's task on another file
        dropped = ("limit",) if own_data else OF_THE_SET
        settings = {key: value for key, value in settings.items() if key not in dropped}
    if command == "evaluate" and given.isdisjoint({"output", "task"}) and "task" in settings:
        settings["output"] = str(folder / EVALUATIONS / settings["task"])
    flags = [f"--{key}={_word(value)}" for key, value in settings.items() if key not in given and value is not None]
    return [*flags, *words]


def home_of(folder: Path) -> Path:
    """The folder with run.json: this one, or for a checkpoint the one around it. Raises: InputError."""
    for home in (folder, folder.parent):
        if (home / FACTS_FILE).is_file():
            return home
    raise InputError(f"{folder}: is not the folder of a training run (it has no {FACTS_FILE}); write --model {folder}")


def evaluations_of(folder: Path) -> dict[str, Path]:
    """The evaluations in a run's folder, by the name of the set."""
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"{EVALUATIONS}/*/settings.json"))}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
