"""report.html: one file that asks the network for nothing, from the content of report.json (see `pages.frame`).

The view of a sample is drawn in the browser, one at a time, from the same numbers as JSON; the token view is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.analysis.report.document import Document, ReportTable, TableCell, Unit, checked
from rlcredit.pages.frame import cell, exact, render
from rlcredit.stats.estimates import estimate_in

SPECS: dict[Unit, str] = {"share": "z.1%", "nats": "z.3f", "count": "z,.0f", "": "z.3f"}
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
        Path(__file__).with_name("report.html.j2"),
        {"samples": report["samples"]},
        {
            "report": report,
            "subject": [report["model"], *filter(None, [report["task"]])],
            "made_by": report["command"],
            "created": report["created"],
            "version": report["version"],
            "settings": _facts(report),
            "tables": [_shown_table(table) for table in report["tables"]],
            "verdicts": VERDICTS,
        },
        styles=("report.css",),
        scripts=("tokens.js", "arrows.js", "sample.js", "report.js"),
    )


def _facts(report: Document) -> list[tuple[str, str]]:
    # a peak's definition is a sentence: it stands at the foot of the page
    settings = [
        (LABELS.get(key, key.replace("_", " ").capitalize()), _setting(key, value))
        for key, value in report["settings"].items()
        if key != "peak"
    ]
    skipped = f", {len(report['skipped'])} skipped" if report["skipped"] else ""
    return [*settings, ("Samples", f"{len(report['samples'])}{skipped}")]


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


def _shown_table(table: ReportTable) -> dict[str, Any]:
    """The table as text: a column or a cell is (text, every digit, whether it is of numbers)."""
    shown = [
        [_shown_cell(value, column["unit"] if column["unit"] is not None else row["unit"])
         for value, column in zip(row["cells"], table["columns"], strict=True)]
        for row in table["rows"]
    ]  # fmt: skip
    numeric = [bool(shown) and all(row[place][2] for row in shown) for place in range(len(table["columns"]))]
    titles = [(column["title"], "", of_numbers) for column, of_numbers in zip(table["columns"], numeric, strict=True)]
    return {"title": table["title"], "caption": table["caption"], "columns": titles, "rows": shown}


def _shown_cell(value: TableCell, unit: Unit) -> tuple[str, str, bool]:
    number = estimate_in(value) if isinstance(value, dict) else value
    return cell(number, SPECS[unit]), exact(number), not isinstance(value, str)
