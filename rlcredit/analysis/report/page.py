"""report.html: one file that asks the network for nothing, from the content of report.json (see `pages.frame`).

The view of a response is drawn in the browser, one at a time, from the same numbers (see `view`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcredit.analysis.report.document import (
    Document,
    ReportSample,
    ReportTable,
    TableCell,
    Unit,
    checked,
    representative,
)
from rlcredit.analysis.report.view import view_of
from rlcredit.pages.frame import cell, exact, render
from rlcredit.stats.estimates import Estimate, estimate_in

DIGITS = 3  # of a number in a table
VERDICTS = {True: ("holds", "Holds"), False: ("fails", "Does not hold"), None: ("open", "Cannot tell")}
LABELS = {
    "responses": "Responses were",
    "temperature": "Temperature",
    "max_new_tokens": "Longest response",
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
    first = representative(report["samples"])
    return render(
        Path(__file__).with_name("report.html.j2"),
        {"samples": view_of(report["samples"]), "first": first},
        {
            "report": report,
            "marks": _marks(report),
            "horizon": _horizon(report["settings"]),
            "names": [_named(sample) for sample in report["samples"]],
            "opens_with": None if first is None else _opens_with(report["samples"][first]),
            "subject": [report["model"], *filter(None, [report["task"]])],
            "made_by": report["command"],
            "created": report["created"],
            "version": report["version"],
            "settings": _facts(report),
            "tables": [_shown_table(table) for table in report["tables"]],
            "verdicts": VERDICTS,
        },
        styles=("report.css",),
        scripts=("tokens.js", "arrows.js", "attention.js", "curves.js", "maps.js", "report.js"),
    )


def _marks(report: Document) -> str:
    """What the marks and the weights have to do with the credit strategy, by what it did."""
    name = report["settings"].get("credit_strategy", "")
    every = [sample["tokens"] for sample in report["samples"]]
    if any(any(tokens["preplan"]) or any(tokens["anchor"]) for tokens in every):
        return (
            f"Marked are the preplan tokens and anchors by which the credit strategy {name}, with the settings below, "
            "decides what counts more in training."
        )
    if any(weight != 1 for tokens in every for weight in tokens["gamma"]):
        return f"The credit strategy {name} gives some of them more weight in training than others; it marks none."
    return f"The credit strategy {name} marks none of them, and they all have the same weight in training."


def _horizon(settings: Mapping[str, Any]) -> str:
    low, high = settings.get("fai_horizon", [0, None])
    if high is not None:
        return f"{low} to {high} places later"
    return f"from {low} places later on" if low else "after it"


def _named(sample: ReportSample) -> str:
    """A response in the chooser."""
    size = len(sample["tokens"]["text"])
    verdict = {True: "right, ", False: "wrong, ", None: ""}[sample["correct"]]
    cut = ", cut off" if sample.get("finished") is False else ""
    return f"{sample['id']} ({verdict}{size:,} token{'' if size == 1 else 's'}{cut})"


def _opens_with(sample: ReportSample) -> str:
    """Which response the page opens with, see `representative`."""
    right = "right answer" if sample["correct"] else "response"
    return f"the longest {right}{' that ended by itself' if sample.get('finished') else ''}"


def _facts(report: Document) -> list[tuple[str, str]]:
    # a peak's definition is a sentence: it stands with the tables
    settings = [
        (LABELS.get(key, key.replace("_", " ").capitalize()), _setting(key, value))
        for key, value in report["settings"].items()
        if key != "peak" and value is not None
    ]
    skipped = f", {len(report['skipped'])} skipped" if report["skipped"] else ""
    return [*settings, ("Responses", f"{len(report['samples'])}{skipped}")]


def _setting(key: str, value: Any) -> str:
    match key, value:
        case "fai_horizon", [low, None]:
            return f"from {low} tokens later to the end"
        case "fai_horizon", [low, high]:
            return f"{low} to {high} tokens later"
        case "waad_window" | "max_new_tokens", int():
            return f"{value} tokens"
        case "head_fraction" | "quantile", int() | float():
            return f"{100 * value:g} %"
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
    return cell(number, _spec(number, unit)), exact(number), not isinstance(value, str)


def _spec(number: Estimate | float | str | None, unit: Unit) -> str:
    """The format of a number of this unit: three digits, fewer where it is small; an estimate as its value."""
    if unit == "count" or number is None or isinstance(number, str):
        return "z,.0f"
    size = abs(number.value if isinstance(number, Estimate) else number) * (100 if unit == "share" else 1)
    before = len(str(int(size))) if size >= 1 else 0
    decimals = max(0, min(DIGITS - before, 1 if unit == "share" else DIGITS))
    return f"z.{decimals}{'%' if unit == 'share' else 'f'}"
