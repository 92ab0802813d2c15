"""Tables and findings of the report: the paper's numbers on this model, with intervals, controls and the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlcredit.analysis.couplings import APART, SHARED, Coupling, Offset
from rlcredit.analysis.perturbation import Table1
from rlcredit.stats.estimates import Estimate

PART_NAMES = {
    "all": "all layers",
    "bottom": "bottom third",
    "middle": "middle third",
    "top": "top third",
}
Cell = str | float | None


def coupling_table(name: str, title: str, parts: Mapping[str, Sequence[Coupling]]) -> dict[str, Any]:
    """Table 2 (one part) or Table 10 (several)."""
    rows: list[list[Cell]] = [
        [
            (f"{PART_NAMES[part]}: " if len(parts) > 1 else "") + row.name,
            _share_or_nats(row.observed, row.unit),
            _share_or_nats(row.expected, row.unit),
            f"{_percent(row.lift.value)} {_bounds(row.lift, _percent)}",
            _share_or_nats(row.shuffled, row.unit),
            _number(row.p_value),
            _number(row.nearby_p_value),
            _number(row.swapped_p_value),
            _plain(row.paper.observed, row.unit) if row.paper else None,
            _plain(row.paper.expected, row.unit) if row.paper else None,
            _percent(row.paper.lift) if row.paper else None,
        ]
        for part, rows_of_part in parts.items()
        for row in rows_of_part
    ]
    first = next(iter(parts.values()))
    counts = "; ".join(f"{row.name}: {row.samples} responses, {row.peaks} peaks" for row in first)
    left_out = max(row.left_out for rows_of_part in parts.values() for row in rows_of_part)
    return {
        "id": name,
        "title": title,
        "caption": "95 % bootstrap intervals over responses. The control puts the first metric's peaks of each "
        "response at random tokens of it; p is the share of such shuffles with the observed value or more; p nearby: "
        "shuffled within 10 tokens; p swapped: at the peaks of other responses [ours]. The row without a figure of "
        f"the paper's is ours too. Paper: Table 2, Qwen3-4B-Base on 70 GSM8K prompts. {counts}."
        + (f" {left_out} responses with fewer than 3 defined tokens were left out." if left_out else ""),
        "columns": [
            "coupling",
            "observed",
            "expected",
            "lift",
            "shuffled",
            "p",
            "p nearby",
            "p swapped",
            "paper",
            "paper expected",
            "paper lift",
        ],
        "rows": rows,
    }


def offset_table(offsets: Sequence[Offset]) -> dict[str, Any]:
    """Table 20: where the second metric peaks around the peaks of the first."""
    pairs = list(dict.fromkeys((entry.first, entry.second) for entry in offsets))
    by_place = {(entry.first, entry.second, entry.offset): entry for entry in offsets}
    rows: list[list[Cell]] = []
    for first, second in pairs:
        cells: list[Cell] = [f"{_metric(second)} around {_metric(first)} peaks"]
        for offset in (-1, 0, 1):
            entry = by_place[first, second, offset]
            cells += [
                f"{_percent(entry.observed.value)} {_bounds(entry.observed, _percent)}",
                _percent(entry.expected.value),
            ]
        rows.append([*cells, str(by_place[first, second, 0].peaks)])
    return {
        "id": "table20",
        "title": "Peak offsets (Table 20)",
        "caption": "Share of the first metric's peaks with a peak of the second one token before, at, and one token "
        "after it, with 95 % bootstrap intervals over responses; expected: with the first metric's peaks shuffled "
        "within each response. All layers. The paper's Table 20, of eight responses, is not copied here.",
        "columns": [
            "pair",
            "-1",
            "expected at -1",
            "0",
            "expected at 0",
            "+1",
            "expected at +1",
            "peaks",
        ],
        "rows": rows,
    }


def perturbation_table(found: Table1) -> dict[str, Any]:
    """Table 1."""
    paper = found.paper

    def row(name: str, value: Estimate, printed: float | None, control: str | None = None) -> list[Cell]:
        return [name, f"{_number(value.value)} {_bounds(value, _number)}", control, printed]

    share = f"{_number(found.control.value)} {_bounds(found.control, _number)}"
    return {
        "id": "table1",
        "title": "Perturbation (Table 1)",
        "caption": "Overlap (Jaccard, eq. 11) of content words after a forced token with the original greedy "
        "response: at the 5 tokens of highest and the 5 of lowest FAI with at least 20 tokens after them, the 3 "
        "likeliest other tokens each, greedy continuation. A trial is one response. 95 % bootstrap intervals over "
        f"responses; control: the labels high and low dealt at random, p = {_number(found.p_value)}. "
        f"{found.samples} responses"
        + (f", {found.left_out} too short" if found.left_out else "")
        + f". High positions lie at {_percent(found.high_place.value)} of the response on average, low ones at "
        f"{_percent(found.low_place.value)}.",
        "columns": ["measure", "observed", "control", "paper"],
        "rows": [
            row("overlap at high FAI", found.high, paper.high),
            row("overlap at low FAI", found.low, paper.low),
            row("low minus high", found.difference, round(paper.low - paper.high, 3)),
            row("share of trials lower at high FAI", found.share, paper.share, share),
        ],
    }


def findings(couplings: Sequence[Coupling], table1: Table1 | None) -> list[dict[str, Any]]:
    """What holds on this model and what does not, in words; a coupling holds if both controls and, where heads are
    shared, the row with heads apart agree."""
    rows = {row.name: row for row in couplings}
    found = [_finding(row, rows[APART] if row.name == SHARED else None) for row in couplings if row.name != APART]
    if table1 is not None:
        unknown = math.isnan(table1.share.low + table1.p_value)
        found.append({"holds": None if unknown else table1.holds, "sentence": table1.sentence()})
    return found


def _finding(row: Coupling, apart: Coupling | None) -> dict[str, Any]:
    if math.isnan(row.lift.low + row.p_value):
        return {"holds": None, "sentence": row.sentence()}
    if apart is None or not row.stands or apart.stands:
        return {"holds": row.stands, "sentence": row.sentence()}
    if math.isnan(apart.lift.low + apart.p_value):
        reason = "Every global head shares its keys with a receiver head here, so that it says nothing."
        return {"holds": None, "sentence": f"{row.sentence()} {reason}"}
    value, low, high = (1 + bound for bound in apart.lift)
    reason = (
        "But heads that are both, or share their keys, explain it: with global heads apart from receiver heads it is "
        f"{value:.2f} times ({low:.2f} to {high:.2f}), no more than place and chance give."
    )
    return {"holds": False, "sentence": f"{row.sentence()} {reason}"}


def _metric(name: str) -> str:
    return {"waad": "WAAD", "fai": "FAI", "receiver_fai": "receiver FAI", "entropy": "entropy"}[name]


def _share_or_nats(value: Estimate, unit: str) -> str:
    def show(number: float) -> str:
        return _plain(number, unit)

    return f"{show(value.value)} {_bounds(value, show)}"


def _plain(value: float, unit: str) -> str:
    return _percent(value) if unit == "share" else _number(value)


def _bounds(value: Estimate, show) -> str:  # type: ignore[no-untyped-def]
    return f"[{show(value.low)}, {show(value.high)}]"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"
