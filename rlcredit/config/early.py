"""Unknown keys, refused before the packages that define the known ones are imported, which takes seconds."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rlcredit.config.fields import Option
from rlcredit.config.reader import read_keys


def refuse_unknown(argv: Sequence[str], sources: Sequence[str], besides: Sequence[str] = ()) -> None:
    """Raise the InputError of `parse` for keys that are no field of any class in these files.

    Args:
        argv: the words of the command line.
        sources: files of installed packages, such as `trl/trainer/grpo_config.py`.
        besides: other keys that are left to `parse`.
    """
    names = {*besides, *(name for source in sources for name in names_in(source))}
    field = dataclasses.field()
    # a key of any type: what its values may be, `parse` knows
    read_keys(argv, {name: Option(name, dict | bool, field, False) for name in sorted(names)}, {})


def names_in(source: str) -> set[str]:
    """The annotated names in the bodies of a file's classes, its dataclasses' fields among them."""
    package, _, inside = source.partition("/")
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / inside).read_text(encoding="utf-8"))
    return {
        line.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
