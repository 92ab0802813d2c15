"""Tables and findings of the report: the paper's measures on this model, with intervals, controls and its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from rlcredit.analysis.couplings import APART, OFFSETS, SHARED, Coupling, Offset
from rlcredit.analysis.perturbation import PAPER, Table1
from rlcredit.analysis.report.document import Column, Finding, Measured, ReportTable, Role, Row, Unit
from rlcredit.stats.estimates import Estimate

PARTS = {"all": "all layers", "bottom": "bottom third", "middle": "middle third", "top": "top third"}
METRICS = {"waad": "WAAD", "fai": "FAI", "receiver_fai": "receiver FAI", "entropy": "entropy"}
COUPLING_COLUMNS: dict[str, Unit | None] = {  # title: unit; None: that of the row
    "coupling": None, "observed": None, "expected": None, "lift": "share", "shuffled": None, "p": "", "p nearby": "",
    "p swapped": "", "paper": None, "paper expected": None, "paper lift": "share",
}  # fmt: skip
OFFSET_COLUMNS: dict[str, Unit | None] = {
    "pair": None, "-1": None, "expected at -1": None, "0": None, "expected at 0": None, "+1": None,
    "expected at +1": None, "peaks": "count",
}  # fmt: skip
ROLES: Mapping[str, Role] = {"observed": "measured", "expected": "control", "control": "control", "paper": "paper"}


def coupling_table(name: str, title: str, parts: Mapping[str, Sequence[Coupling]]) -> ReportTable:
    """Table 2 (one part) or Table 10 (several)."""
    rows = [
        _coupling_row(f"{PARTS[part]}: {row.name}" if len(parts) > 1 else row.name, row)
        for part, rows_of_part in parts.items()
        for row in rows_of_part
    ]
    first = next(iter(parts.values()))
    counts = "; ".join(f"{row.name}: {row.samples} responses, {row.peaks} peaks" for row in first)
    left_out = max(row.left_out for rows_of_part in parts.values() for row in rows_of_part)
    return {
        "id": name,
        "title": title,
        "caption": f"{'All layers. ' if len(parts) == 1 else ''}95 % bootstrap intervals over responses. The control "
        "puts the peaks of the first metric at random tokens of the same response; p is the share of such shuffles "
        "that reach the observed value. Two stricter controls, and the row without numbers of the paper, are "
        "rlcredit's: p nearby, with peaks shuffled within 10 tokens, and p swapped, at the peaks of other responses. "
        f"Paper: Table 2, Qwen3-4B-Base on 70 GSM8K prompts. {counts}."
        + (f" Responses with fewer than 3 defined tokens were left out: {left_out}." if left_out else ""),
        "columns": _columns(COUPLING_COLUMNS),
        "rows": rows,
    }


def _coupling_row(label: str, row: Coupling) -> Row:
    measured = [_measured(value) for value in (row.observed, row.expected, row.lift, row.shuffled)]
    chances = [_number(value) for value in (row.p_value, row.nearby_p_value, row.swapped_p_value)]
    return {"unit": row.unit, "cells": [label, *measured, *chances, *(row.paper or [None] * 3)]}


def offset_table(offsets: Sequence[Offset]) -> ReportTable:
    """Table 20: where the second metric peaks around the peaks of the first."""
    rows: list[Row] = []
    for start in range(0, len(offsets), len(OFFSETS)):
        of_pair = offsets[start : start + len(OFFSETS)]
        name = f"{METRICS[of_pair[0].second]} around {METRICS[of_pair[0].first]} peaks"
        shares = [cell for at in of_pair for cell in (_measured(at.observed), _number(at.expected.value))]
        rows.append({"unit": "share", "cells": [name, *shares, of_pair[0].peaks]})
    return {
        "id": "table20",
        "title": "Peak offsets (Table 20)",
        "caption": "Share of the first metric's peaks with a peak of the second one token before, at, and one token "
        "after it, with 95 % bootstrap intervals over responses; expected: with the first metric's peaks shuffled "
        "within each response. All layers. The paper's Table 20, of eight responses, is not copied here.",
        "columns": _columns(OFFSET_COLUMNS),
        "rows": rows,
    }


def perturbation_table(table: Table1) -> ReportTable:
    """Table 1."""
    rows: list[tuple[str, Estimate, Estimate | None, float]] = [
        ("overlap at high FAI", table.high, None, PAPER.high),
        ("overlap at low FAI", table.low, None, PAPER.low),
        ("low minus high", table.difference, None, round(PAPER.low - PAPER.high, 3)),
        ("share of trials lower at high FAI", table.share, table.control, PAPER.share),
    ]
    place = (
        f", p = {table.p_value:.3f}. High positions lie at {100 * table.high_place.value:.1f} % of the response on "
        f"average, low ones at {100 * table.low_place.value:.1f} %"
    )
    return {
        "id": "table1",
        "title": "Perturbation (Table 1)",
        "caption": "Overlap (Jaccard, eq. 11) of content words after a forced token with the original greedy "
        "response: at the 5 tokens of highest and the 5 of lowest FAI with at least 20 tokens after them, the 3 "
        "likeliest other tokens each, greedy continuation. A trial is one response: "
        f"{table.samples} responses{f', {table.left_out} too short' if table.left_out else ''}. 95 % bootstrap "
        f"intervals over responses; control: the labels high and low dealt at random{place if table.samples else ''}.",
        "columns": _columns(dict.fromkeys(("measure", "observed", "control", "paper"))),
        "rows": [
            {"unit": "", "cells": [name, _measured(value), control and _measured(control), printed]}
            for name, value, control, printed in rows
        ],
    }


def findings(couplings: Sequence[Coupling], table1: Table1 | None) -> list[Finding]:
    """What holds on this model and what does not, in words; a coupling holds if all controls and, where heads are
    shared, the row with heads apart agree."""
    rows = {row.name: row for row in couplings}
    judged = [_finding(row, rows[APART] if row.name == SHARED else None) for row in couplings if row.name != APART]
    if table1 is not None:
        unknown = math.isnan(table1.share.low + table1.p_value)
        judged.append({"holds": None if unknown else table1.holds, "sentence": table1.sentence()})
    return judged


def _finding(row: Coupling, apart: Coupling | None) -> Finding:
    if math.isnan(row.lift.low + row.p_value):
        return {"holds": None, "sentence": row.sentence()}
    if apart is None or not row.stands or apart.stands:
        return {"holds": row.stands, "sentence": row.sentence()}
    if math.isnan(apart.lift.low + apart.p_value):
        reason = "but every global head shares its keys with a receiver head here, so that this says nothing"
        return {"holds": None, "sentence": f"{row.measured()}, {reason}."}
    value, low, high = (1 + bound for bound in apart.lift)
    reason = (
        "but heads that are in both groups, or share their keys, explain it: at the peaks of the other global heads "
        f"it is {value:.2f} times ({low:.2f} to {high:.2f}), which does not exceed all of the controls"
    )
    return {"holds": False, "sentence": f"{row.measured()}, {reason}."}


def _columns(units: Mapping[str, Unit | None]) -> list[Column]:
    return [{"title": title, "unit": unit, "role": ROLES.get(title)} for title, unit in units.items()]


def _measured(estimate: Estimate) -> Measured | None:
    return None if math.isnan(estimate.value) else cast(Measured, estimate.entry())


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
