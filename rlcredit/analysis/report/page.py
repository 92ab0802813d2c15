"""report.html: one file that asks the network for nothing, from the content of report.json (see `pages.frame`).

The view of a sample is drawn in the browser, one at a time, from the same numbers as JSON; the token view is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.analysis.report.document import Document, checked
from rlcredit.pages.frame import cell, exact, render

VERDICTS = {True: ("holds", "Holds"), False: ("fails", "Does not hold"), None: ("open", "Cannot tell")}
LABELS = {
    "temperature": "Temperature",
    "layers": "Layers",
    "waad_window": "WAAD window W",
    "fai_horizon": "FAI horizon",
    "head_fraction": "Heads in a group",
    "credit_strategy": "Credit strategy",
    "quantile": "Quantile q",
    "amplification": "Amplification a",
    "peak": "Peak",
}


def write_page(document: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report as one HTML file; a document that is not one is a ValueError, and nothing is written."""
    path = Path(path)
    path.write_text(page(document), encoding="utf-8", newline="\n")
    return path


def page(document: Mapping[str, Any]) -> str:
    """The whole page as text."""
    report = checked(document)
    return render(
        Path(__file__).with_name("page.html.j2"),
        {"samples": report["samples"], "settings": report["settings"]},
        {"report": report, "settings": _shown_settings(report), "verdicts": VERDICTS},
        styles=("page.css",),
        scripts=("colour.js", "tokens.js", "arrows.js", "charts.js", "page.js"),
        filters={"cell": cell, "exact": exact},
        tests={"figure": _is_figure},
    )


def _shown_settings(report: Document) -> list[tuple[str, str]]:
    # a peak's definition is a sentence: it stands at the foot of the page
    return [
        (LABELS.get(key, key.replace("_", " ").capitalize()), _setting(key, value))
        for key, value in report["settings"].items()
        if key != "peak"
    ]


def _setting(key: str, value: Any) -> str:
    match key, value:
        case "fai_horizon", [low, None]:
            return f"from {low} tokens later to the end"
        case "fai_horizon", [low, high]:
            return f"{low} to {high} tokens later"
        case "waad_window", int():
            return f"{value} tokens"
        case "head_fraction" | "quantile", int() | float():
            return f"{100 * value:g} %"
        case _, None:
            return "none"
        case _, bool():
            return "yes" if value else "no"
        case _, float():
            return f"{value:g}"
        case _, list():
            return ", ".join(_setting("", entry) for entry in value)
        case _:
            return str(value)


def _is_figure(value: str | float | None) -> bool:
    """Is a cell one of numbers: a number, one with its unit and interval, or the dash of one that is not there?"""
    if value is None or isinstance(value, int | float):
        return True
    return re.match(r"[-+\N{MINUS SIGN}]?\d|\[|[\N{EN DASH}\N{EM DASH}]( |$)", value) is not None
