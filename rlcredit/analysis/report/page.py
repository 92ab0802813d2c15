"""report.html: one file that asks the network for nothing, from the content of report.json.

Words and tables are written here (Jinja2, everything escaped); the view of a sample is drawn in the browser, one at a
time, from the same numbers as JSON. Charts are plotly's, whose bundle is inside the page; the token view is ours.

A completion is hostile until shown otherwise. It reaches the page twice-guarded: as JSON it has no character that ends
a script element, and the page's content security policy runs only the two scripts whose hashes it names and loads
nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from rlcredit.analysis.report.document import Document, checked

HERE = Path(__file__).parent
# In this order, as one module: each uses what those before it define.
SCRIPTS = ("colour.js", "tokens.js", "arrows.js", "charts.js", "page.js")
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
    plotly, script = get_plotlyjs(), _joined_scripts()
    for text in (plotly, script):
        if "</script" in text.lower():
            raise RuntimeError("a script of the page would end its own element")
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=cell, exact=exact)
    environment.tests["figure"] = _is_figure
    return environment.get_template("page.html.j2").render(
        report=report,
        settings=_shown_settings(report),
        verdicts=VERDICTS,
        data=Markup(embedded({"samples": report["samples"], "settings": report["settings"]})),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        plotly=Markup(plotly),
        script=Markup(script),
        policy=policy_of(plotly, script),
    )


def embedded(value: Any) -> str:
    """JSON that a script element can hold, whatever its strings say: ASCII, without `<`, `>` and `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _joined_scripts() -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)


def policy_of(*scripts: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
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


def cell(value: str | float | None) -> str:
    """A number to four digits (its cell's title has all of them), a word as it is."""
    if value is None:
        return "\N{EM DASH}"
    # + 0.0: without it -0.0 is "-0"
    return value if isinstance(value, str) else f"{value + 0.0:.4g}".replace("-", "\N{MINUS SIGN}")


def _is_figure(value: str | float | None) -> bool:
    """Is a cell one of numbers: a number, one with its unit and interval, or the dash of one that is not there?"""
    if value is None or isinstance(value, int | float):
        return True
    return re.match(r"[-+\N{MINUS SIGN}]?\d|\[|[\N{EN DASH}\N{EM DASH}]( |$)", value) is not None


def exact(value: str | float | None) -> str:
    return "" if value is None or isinstance(value, str) else repr(value)
