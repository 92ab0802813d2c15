"""Unknown keys, refused before the packages that define the known ones are imported, which takes seconds."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlcredit.config.fields import Option
from rlcredit.config.flags import decoded, with_dotted
from rlcredit.config.reader import read_keys
from rlcredit.config.yaml_file import Given


def refuse_unknown(argv: Sequence[str], sources: Sequence[str], advice: Mapping[str, str]) -> tuple[Any, Any]:
    """Raise the InputError of `parse` for keys that are no field of any class in these files.

    Args:
        argv: the words of the command line.
        sources: files of installed packages, such as `trl/trainer/grpo_config.py`; one class of a file is named after
            a colon.
        advice: what to write in place of keys of other releases and programs.

    Returns: the task and its options, unchecked; None for what is not given.
    """
    names = {name for source in sources for name in names_in(source)}
    field = dataclasses.field()
    # a key of any type: what its values may be, `parse` knows
    options = {name: Option(name, dict | bool, field, False) for name in sorted(names)}
    flags, given, _ = read_keys(argv, options, advice)
    given |= {name: Given(words[0], f"--{name}") for name, words in flags.items() if len(words) == 1}
    dotted = {flag: words for flag, words in flags.items() if flag.startswith("task_options.")}
    given = with_dotted(given, dotted)
    task, task_options = (given[name].value if name in given else None for name in ("task", "task_options"))
    return task, decoded(task_options) if isinstance(task_options, str) else task_options


def names_in(source: str) -> set[str]:
    """The annotated names in the bodies of a file's classes (or of one), its dataclasses' fields among them."""
    path, _, wanted = source.partition(":")
    package, _, inside = path.partition("/")
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / inside).read_text(encoding="utf-8"))
    return {
        line.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and wanted in ("", node.name)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
