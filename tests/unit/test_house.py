"""The shape of the package: no circle of imports, no file or function that grew past reading, one class a name."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[2] / "rlcredit"
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".js", ".css", ".j2"))
MODULES = [path for path in SOURCES if path.suffix == ".py"]


def test_imports_have_no_circle():
    graph = grimp.build_graph("rlcredit")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(TopologicalSorter(imports).static_order())) > 100  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_functions_are_short():
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert not long


def test_no_room_holds_a_fifth_of_the_house():
    lines: defaultdict[str, int] = defaultdict(int)
    for path in SOURCES:
        lines[path.relative_to(PACKAGE).parts[0]] += len(path.read_text(encoding="utf-8").splitlines())
    room, most = max(lines.items(), key=lambda item: item[1])
    assert most < sum(lines.values()) / 5, room


def test_a_class_name_means_one_class():
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
