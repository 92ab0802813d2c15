"""Write the table of grids in docs/results.md, and the sentence that counts their intervals, from benchmarks/.

python scripts/write_grid_table.py docs/results.md

The rows stay in their order; a grid without one comes after the last row of its task.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.benchmark.results import TITLES

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| \[[^]]+\]\(\.\./(benchmarks/[^)]*)\.md\) \|.*\n", re.MULTILINE)
COUNTS = re.compile(r"of the \d+ in these grids (\(.*?\)) about \d+ would, and \d+ do", re.DOTALL)


def grids() -> dict[str, dict[str, Any]]:
    """Results by path without suffix: benchmarks/paths_tiny/results-controls, ..."""
    found = sorted((ROOT / "benchmarks").glob("*/results*.json"))
    return {str(path.relative_to(ROOT).with_suffix("")): json.loads(path.read_text()) for path in found}


def tested(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences that have an interval."""
    return [pair for pair in results["paired"] if pair["low"] is not None]


def outside(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those whose interval leaves out 0."""
    return [pair for pair in tested(results) if pair["verdict"] != "open"]


def row(path: str, results: Mapping[str, Any]) -> str:
    """The seeds of a grid, how many intervals it has, how many leave out 0, and which."""
    _, task, stem = path.split("/")
    name = f"{task.removesuffix('_tiny').capitalize()}, {stem.removeprefix('results').lstrip('-') or 'strategies'}"
    apart: dict[str, list[str]] = {}
    for pair in outside(results):
        side = {"higher": "above", "lower": "below"}[pair["verdict"]]
        apart.setdefault(f"`{pair['variant']}` {side} `{pair['against']}`", []).append(TITLES[pair["measure"]])
    which = "; ".join(sorted(f"{words} ({'; '.join(sorted(titles))})" for words, titles in apart.items()))
    counts = f"{len(results['seeds'])} | {len(tested(results))} | {len(outside(results))}"
    return f"| [{name}](../{path}.md) | {counts} | {which} |\n"


def written(text: str) -> str:
    """The page with the table and its sentence as the grids are now."""
    found = grids()
    rows = list(ROW.finditer(text))
    order = [match[1] for match in rows if match[1] in found]
    for path in found:
        if path not in order:
            task = path.rpartition("/")[0]
            after = [place for place, known in enumerate(order) if known.startswith(f"{task}/")]
            order.insert(after[-1] + 1 if after else len(order), path)
    table = "".join(row(path, found[path]) for path in order)
    text = text[: rows[0].start()] + table + text[rows[-1].end() :]
    total, apart = (sum(len(kind(results)) for results in found.values()) for kind in (tested, outside))
    counts = rf"of the {total} in these grids \1 about {total / 20:.0f} would, and {apart} do"
    return COUNTS.sub(counts, text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(written(page.read_text()))
