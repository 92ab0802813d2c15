"""The table of a step in docs/performance.md is the one that the stored measurement gives."""

from __future__ import annotations

import json

import bench_step


def test_the_table_is_what_is_stored():
    text = bench_step.DOCUMENT.read_text()
    assert text == bench_step.written(text, json.loads(bench_step.STORED.read_text()))


def test_a_table_by_hand():
    parts = dict.fromkeys(bench_step.SECONDS, 0.1)
    row = {**parts, "step": 0.6, "completions": 12, "positions": 3520.0, "peak": 1015}
    cut = next(iter(bench_step.CUTS))
    made = {"rounds": 3, "rollouts": 2, "date": "2026-11-26", "torch": "2.13.0"}
    found = {cut: {**made, "ways": {"TRL": row, "ours": {**row, "step": 0.48}}}}
    lines = bench_step.table(found).splitlines()
    assert lines[5] == "`--cuts 0 --rounds 3 --rollouts 2`, 2026-11-26, torch 2.13.0."
    assert lines[2] == f"| TRL | 20.0 | 0.600 | {'0.100 | ' * 6}1.00 | 3,520 | 1,015 |"
    assert lines[3] == f"| ours | 25.0 | 0.480 | {'0.100 | ' * 6}0.80 | 3,520 | 1,015 |"
    text = "before\n" + "\n".join(bench_step.MARKERS) + "\nafter"
    once = bench_step.written(text, found)
    assert bench_step.table(found) in once and bench_step.written(once, found) == once
