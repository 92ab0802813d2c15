"""The files that a run leaves in its output folder: their names, and how each is written and read.

log.jsonl        one line a log: its step and every metric
held_out.jsonl   one line an evaluation during training: its step and, by set, each problem's share of right samples
accuracy.json    the same shares before and after the training, under `before` and `after`
run.json         what was run: one value for each name in FACTS, `eval_samples`, `settings` (the keys that the recipe
                 and the flags set), and the flags with which `evaluate` and `analyze` do as the run did
completions/     TRL's tables of completions, completions_00001.parquet and so on
report.html      the page of `rlcredit report`
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.errors import InputError
from rlcredit.files import write_whole

logger = logging.getLogger(__name__)

LOG_FILE, HELD_OUT_FILE, ACCURACY_FILE, FACTS_FILE = "log.jsonl", "held_out.jsonl", "accuracy.json", "run.json"
REPORT_FILE, COMPLETIONS_FOLDER = "report.html", "completions"
FACTS = ("algorithm", "credit_strategy", "model", "task", "seed", "command")
TAIL = 8192  # bytes at the end of a log that is being written
ODD = "its lines are JSON objects with a step, and only the last may be cut short"

Shares = dict[str, list[float]]
"""By evaluation set, each problem's share of right samples, in [0, 1]."""


def validation_name(name: str) -> str:
    """What the set for choices beside an evaluation set is called, where a task has one: `countdown_validation`."""
    return f"{name}_validation"


# ---- lines --------------------------------------------------------------------------------------------------------


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """One more line: all of it, or with a warning nothing."""
    before = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        logger.warning("step %d is missing from %s (%s)", line["step"], path, error.strerror)
        if path.is_file():
            os.truncate(path, before)  # no half a line


def go_back(path: Path, step: int) -> None:
    """Drop the lines that a run which goes on from this step will repeat. Raises: InputError as `read_lines`."""
    kept = [line for line in read_lines(path)[0] if line["step"] <= step] if step and path.is_file() else []
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path, *, tail: int | None = None) -> tuple[list[dict[str, Any]], bool]:
    """The lines of a log, each with its step, and whether the last one was cut short and is left out.

    Args:
        path: of log.jsonl or held_out.jsonl.
        tail: read only the lines that lie within so many bytes of the end.

    Raises: InputError where the file cannot be read, or a line before the last is broken.
    """
    texts = _text(path, tail).split("\n")
    while texts and not texts[-1].strip("\0 \r"):  # what a power failure may leave
        texts.pop()
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == len(texts):
                return lines, True
            raise InputError(f"{path}: line {number} is not JSON; {ODD}") from error
        if not isinstance(line, dict) or type(line.get("step")) is not int or not is_number(line["step"]):
            raise InputError(f"{path}: line {number} is not the log of a step; {ODD}")
        lines.append(line)
    return lines, False


def last_logged(folder: Path) -> tuple[int, float | None]:
    """The last step and the last reward in the log of a run that may be under way, from the end of the file.

    (0, None) while there is nothing that can be read: a run that is broken says so itself.
    """
    try:
        lines, _ = read_lines(folder / LOG_FILE, tail=TAIL)
    except InputError:
        return 0, None
    rewards = [line["reward"] for line in lines if line.get("reward") is not None]
    return lines[-1]["step"] if lines else 0, rewards[-1] if rewards else None


def read_held_out(folder: Path) -> dict[int, Shares]:
    """The evaluations during training by their step; none where there is no such file. Raises: InputError."""
    path = folder / HELD_OUT_FILE
    lines = read_lines(path)[0] if path.is_file() else []
    return {line["step"]: _shares(line.get("right"), path) for line in lines}


# ---- objects ------------------------------------------------------------------------------------------------------


def write_accuracies(folder: Path, **accuracies: Shares) -> None:
    """Write accuracy.json: `before`, and at the end of the run `after` as well."""
    write_whole(folder / ACCURACY_FILE, json.dumps(accuracies) + "\n")


def read_accuracies(folder: Path) -> dict[str, Shares]:
    """Before the training and, in the folder of a finished run, "after" it; nothing without accuracy.json.

    Raises: InputError.
    """
    path = folder / ACCURACY_FILE
    accuracies = _read_object(path)
    if path.is_file() and "before" not in accuracies:
        raise InputError(f"{path}: holds no accuracies before the run; delete it to go on without it")
    return {part: _shares(accuracies[part], path) for part in ("before", "after") if part in accuracies}


def is_finished(folder: Path) -> bool:
    """Has `rlcredit train` measured what came of the run, and logged nothing since? Raises: InputError."""
    accuracies, log = folder / ACCURACY_FILE, folder / LOG_FILE
    if "after" not in read_accuracies(folder):
        return False
    return not log.is_file() or accuracies.stat().st_mtime_ns >= log.stat().st_mtime_ns


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json."""
    write_whole(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")


def read_facts(folder: Path) -> tuple[dict[str, str], int | None]:
    """Of FACTS those that run.json has, in words; then `eval_samples`, completions a problem. Raises: InputError."""
    path = folder / FACTS_FILE
    facts = _read_object(path)
    samples = facts.get("eval_samples")
    if samples is not None and (type(samples) is not int or samples < 1):
        raise InputError(f"{path}: eval_samples: {samples!r:.40} is not a number of completions; write 1 or more")
    return {key: str(facts[key]) for key in FACTS if facts.get(key) is not None}, samples


def read_settings(folder: Path) -> dict[str, Any]:
    """The keys that the recipe and the flags set, from run.json; none where it does not say. Raises: InputError."""
    settings = _read_object(folder / FACTS_FILE).get("settings")
    return settings if isinstance(settings, dict) else {}


def read_command(folder: Path, command: str) -> dict[str, Any]:
    """The flags with which `rlcredit evaluate` or `analyze` do as the run did, from run.json.

    Raises: InputError where it has none; a text in their place says why.
    """
    path = folder / FACTS_FILE
    flags = _read_object(path).get(command)
    if isinstance(flags, str):  # why there are none
        raise InputError(f"{path}: {flags}")
    if not isinstance(flags, dict):
        raise InputError(f"{path}: says nothing of {command} (a run of rlcredit 0.1.0?); write --model and --task")
    return flags


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; delete it to go on without it")
    return content


def _shares(content: Any, path: Path) -> Shares:
    try:
        return {name: [_share(value) for value in values] for name, values in content.items() if values}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: an evaluation is a list of values in [0, 1] by evaluation set; delete the file to go on without "
            "it"
        ) from error


def _share(value: Any) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError
    return float(value)


def is_number(value: Any) -> bool:
    """Is it a number of a run? No bool is, and no integer of more than 64 bits."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _text(path: Path, tail: int | None = None) -> str:
    """The text of a file, or the whole lines of its last `tail` bytes."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - tail) if tail is not None else 0
            file.seek(start)
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return text.partition("\n")[2] if start else text
