"""What runs were set to, and in what they differ: from run.json, or of earlier versions from their commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from rlcredit.runs.folder import Run

OF_ONE_RUN = frozenset(
    ("seed", "output_dir", "run_name", "overwrite", "resume_from_checkpoint", "disable_tqdm", "report_to")
)
"""Keys in which runs of one thing differ, or that change nothing in what is learned."""

Settings = dict[str, str]


def settings_of(runs: Sequence[Run]) -> list[Settings]:
    """Of each run the keys that were set, in words, without those of OF_ONE_RUN.

    All are from run.json, or where one run's does not have them, all from the flags of their commands.
    """
    known = [{key: in_words(value) for key, value in run.settings.items()} for run in runs]
    if not all(known):
        known = [flags_of(run.facts.get("command", "")) for run in runs]
    return [{key: value for key, value in settings.items() if key not in OF_ONE_RUN} for settings in known]


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str | None]]]:
    """Each key that the runs do not all have the same value of, and each run's value; None where it was not set."""
    every = settings_of(runs)
    keys = dict.fromkeys(key for settings in every for key in settings)
    rows = [(key, [settings.get(key) for settings in every]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flags_of(command: str) -> Settings:
    """The flags of a command line with the words after them."""
    flags: dict[str, list[str]] = {}
    current: list[str] = []
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation that does not end: no command of rlcredit's
        return {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            current = flags.setdefault(name.replace("-", "_"), [value] if equals else [])
        else:
            current.append(word)
    return {name: " ".join(values) for name, values in flags.items()}


def in_words(value: Any) -> str:
    """A setting as a table shows it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(map(in_words, value))
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
