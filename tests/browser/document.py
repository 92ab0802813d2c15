"""A report as `rlcredit analyze` would give it: a solution with plausible signals, a short one with maps, a mean one.

The signals follow docs of the method where that is cheap (preplan, anchors, dominated anchors, gamma), and are drawn
from a seeded generator where it is not.

    python -m tests.browser.document FOLDER        writes report.json, report.html and the figures there
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rlcredit.analysis.report.packing import HEAD, PackedMap, pack

PROMPT = (
    "Context: Natalia sells clips at a market. In April she sold clips to 48 of her friends, and in May she sold half "
    "as many. Each clip costs $3, and she pays 10% of what she takes as a fee.\nQuestion: How much does she keep?"
)
SOLUTION = """Let's work through this step by step.

First, find how many clips Natalia sold in May. She sold half as many as in April, so that is 48 / 2 = 24 clips.

Next, add the two months together: 48 + 24 = 72 clips in total.

Each clip costs $3, so she takes 72 * 3 = $216. However, she has to pay a fee of 10% on this amount, which means we \
need 216 * 0.10 = $21.60 for the market.

Therefore, what she keeps is the amount she takes minus the fee:
\t216 - 21.60 = $194.40

Wait, let me check: 194.40 + 21.60 = 216, and 216 / 3 = 72, which agrees with the number of clips.

The answer is \\boxed{194.40}."""
SHORT = "She sold 48 / 2 = 24 clips in May, so 48 + 24 = 72 in total.\n\n#### 72"
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "</html>",
    "<!--",
    '<img src=x onerror="window.hacked=2">',
    "{{7*7}}",
    "{% raw %}",
    "a\u2028b\u2029c",
    "\x00\x01\x1b[31m\x7f",
    "\u202eright to left\u202c",
    "half \ud83d",
    " $x_1$ and \\frac{",
    "&lt;b&gt;",
    "<b>bold</b><br><a href='javascript:window.hacked=3'>link</a>",
    "",
    "\r\n",
    "\t\t",
    "   ",
    "\N{GRINNING FACE}",
    "漢字",
    "مرحبا",
    "-" * 120,
    "']; window.hacked=4; //",
    "${window.hacked=5}",
    "<svg/onload=window.hacked=6>",
]
WORDS = re.compile(r" ?[A-Za-z]+'?[a-z]*| ?\d{1,3}| ?[^\w\s]|\n+|\t|\s")


def words(text: str) -> list[str]:
    """Something like a tokenizer's pieces; joined they are the text."""
    pieces = [piece for match in WORDS.findall(text) for piece in _split(match)]
    assert "".join(pieces) == text
    return pieces


def _split(word: str) -> list[str]:
    return [word[:5], word[5:]] if len(word) > 8 else [word]


def sample(name: str, texts: list[str], seed: int, *, maps: bool, correct: bool | None) -> dict[str, Any]:
    """One sample with these tokens."""
    draw = np.random.default_rng(seed)
    size, heads, layers = len(texts), 16, [9, 11, 14, 16, 18]
    starts = np.array([index == 0 or texts[index - 1].strip()[-1:] in {".", ":", ",", ""} for index in range(size)])
    carries = np.array([bool(re.search(r"[\d=]", text)) for text in texts])
    waad = np.clip(draw.gamma(2.0, 0.9, size) + 4.0 * starts, 0, 10)
    entropy = draw.gamma(0.5, 0.35, size) + 0.8 * starts * draw.random(size)
    fai = np.exp(draw.normal(-5.6, 0.7, size)) * (1 + 3 * carries + starts)
    receiver = fai * np.exp(draw.normal(0.2, 0.45, size))
    tokens: dict[str, Any] = {
        "text": texts,
        "waad": _rounded(waad),
        "fai": _rounded(fai, undefined=min(10, size)),
        "receiver_fai": _rounded(receiver, undefined=min(10, size)),
        "entropy": _rounded(entropy),
    }
    tokens |= _credit(tokens)
    spans = draw.gamma(1.6, 14, (len(layers), heads)) + 1.5
    ranks = spans.ravel().argsort().argsort().reshape(spans.shape)
    group = int(0.3 * spans.size)
    return {
        "id": name,
        "prompt": PROMPT,
        "tokens": tokens,
        "layers": layers,
        "head_span": spans.round(5).tolist(),
        "local_heads": (ranks < group).tolist(),
        "global_heads": (ranks >= spans.size - group).tolist(),
        "maps": _maps(size, fai, draw) if maps else None,
        "head_maps": _head_maps(spans, size, draw) if maps and size > 24 else None,
        "correct": correct,
        "finished": True,
    }


def _rounded(values: np.ndarray, undefined: int = 0) -> list[float | None]:
    # single precision, as the program's tensors have it: seventeen digits as doubles
    known = [float(np.float32(value)) for value in values[: len(values) - undefined]]
    return known + [None] * undefined


def _top(values: list[float | None], quantile: float = 0.4) -> list[int]:
    known = [index for index, value in enumerate(values) if value is not None]
    return sorted(known, key=lambda index: (-(values[index] or 0.0), index))[
        : int(np.ceil(quantile * len(values) - 1e-9))
    ]


def _credit(tokens: dict[str, Any], k: int = 3) -> dict[str, Any]:
    """Coupled rhythm, as docs of the method write it."""
    waad, size = tokens["waad"], len(tokens["text"])
    change = [abs(waad[index] - waad[index + 1]) if index + 1 < size else None for index in range(size)]
    preplan, anchors = _top(change), _top(tokens["fai"])
    cut = min((change[index] for index in preplan), default=np.inf)
    median = sorted(waad)[(size - 1) // 2] if size else 0.0
    intro: list[int | None] = [None] * size
    for anchor in anchors:
        window = [index for index in range(max(0, anchor - k), anchor) if change[index] is not None]
        best = max(window, key=lambda index: (change[index], index), default=None)
        if best is not None and waad[anchor] <= median and change[best] >= cut:
            intro[anchor] = best
    gamma = [1.0] * size
    for anchor in anchors:
        gamma[anchor] += 0.25 if intro[anchor] is not None else 0.5
    for index in {index for index in intro if index is not None}:
        gamma[index] += 0.25
    return {
        "gamma": gamma,
        "preplan": [index in set(preplan) for index in range(size)],
        "anchor": [index in set(anchors) for index in range(size)],
        "dominated": [index is not None for index in intro],
        "intro": intro,
    }


def _maps(size: int, fai: np.ndarray, draw: np.random.Generator) -> dict[str, list[list[float]]]:
    back = np.subtract.outer(np.arange(size), np.arange(size)).astype(float)
    local = np.where(back >= 0, np.exp(-back / 3 + draw.normal(0, 0.3, back.shape)), 0)
    wide = np.where(back >= 0, fai[None, :] * 40 + 0.05 * draw.random(back.shape) + (back == 0), 0)
    # part of each row's mass is on the prompt
    maps = {"local": 0.92 * local / local.sum(1, keepdims=True), "global": 0.5 * wide / wide.sum(1, keepdims=True)}
    return {name: rows.round(6).tolist() for name, rows in maps.items()}


def _head_maps(spans: np.ndarray, size: int, draw: np.random.Generator) -> list[list[PackedMap | None]]:
    """Of each head but the last a map that looks as far back as its span."""
    back = np.subtract.outer(np.arange(size), np.arange(size)).astype(float)
    packed: list[list[PackedMap | None]] = []
    for row in spans:
        rows = [np.where(back >= 0, np.exp(-back / span) * draw.random(back.shape), 0) for span in row]
        packed.append([pack(values / values.sum(1, keepdims=True), HEAD) for values in rows])
    packed[-1][-1] = None
    return packed


def document() -> dict[str, Any]:
    """The whole report."""
    return {
        "format": 2,
        "model": "example/made-up-4B",
        "task": "gsm8k",
        "created": "2026-11-21T10:40:00+00:00",
        "command": "rlcredit analyze --model example/made-up-4B --task gsm8k --temperature 0.7 --output runs/analyze",
        "version": "0.1.0",
        "settings": {
            "temperature": 0.7,
            "layers": [12, 15, 18, 21, 24],
            "waad_window": 10,
            "fai_horizon": [0, None],
            "head_fraction": 0.3,
            "credit_strategy": "coupled_rhythm",
            "quantile": 0.4,
            "amplification": 1.5,
            "peak": "a token whose value is above that of both neighbours and above the response's 60th percentile",
            "seed": 0,
            "dtype": "bfloat16",
        },
        "samples": [
            sample("gsm8k/test/0007", words(SOLUTION), 7, maps=False, correct=True),
            sample("gsm8k/test/0019", words(SHORT), 19, maps=True, correct=None),
            sample("hostile <b>&amp; {{7*7}}</b>", HOSTILE, 3, maps=True, correct=False),
            sample("gsm8k/test/0041", [], 1, maps=False, correct=False),
            sample("gsm8k/test/0042", ["7"], 2, maps=True, correct=True),
        ],
        "tables": _tables(),
        "findings": [
            {
                "holds": True,
                "sentence": "Entropy is higher at WAAD peaks than over all tokens: 0.352 nats against 0.241, a "
                "difference of 0.111 [0.083, 0.139] (the paper: 0.361 against 0.239).",
            },
            {
                "holds": False,
                "sentence": "Peaks of FAI do not fall at or just after a WAAD peak more often than shuffled ones do: "
                "38.1 % [35.2, 41.0] against 36.9 %.",
            },
            {
                "holds": None,
                "sentence": "Whether another token at an anchor changes more cannot be told from 12 trials <b>&</b>.",
            },
        ],
        "skipped": [
            {"id": "gsm8k/test/0003", "reason": "the response is empty"},
            {"id": "gsm8k/test/0011", "reason": "2,913 tokens, and the limit is 2,048"},
        ],
    }


def _tables() -> list[dict[str, Any]]:
    table2 = {
        "id": "table2",
        "title": "Couplings of the signals",
        "caption": "Made-up numbers: means over 70 responses with 95 % intervals; control: peaks at shuffled places.",
        "columns": [
            column("Coupling"),
            column("Measured", role="measured"),
            column("Control", role="control"),
            column("Paper", role="paper"),
            column("Paper's control"),
        ],
        "rows": [
            row("nats", "Entropy at WAAD peaks, against all tokens", (0.35213, 0.331, 0.374), 0.24081, 0.3608, 0.2386),
            row("share", "Receiver-FAI peaks that are FAI peaks", (0.582, 0.549, 0.615), 0.229, 0.6084, 0.2241),
            row("share", "FAI peaks at or just after a WAAD peak", (0.381, 0.352, 0.41), 0.369, 0.5253, 0.3687),
            row("nats", "One response", (0.5, None, None), None, None, None),
            row("", "Not measured here", None, None, 0.534, None),
        ],
    }
    offsets = {
        "id": "table20",
        "title": "Offsets between peaks",
        "caption": "Made-up numbers: share of the first metric's peaks with one of the second's before or at them.",
        "columns": [*map(column, ("pair", "-1", "expected at -1", "0", "expected at 0")), column("peaks", "count")],
        "rows": [
            row("share", "entropy around WAAD peaks", (0.125, 0.101, 0.152), 0.098, (0.312, 0.28, 0.345), 0.101, 1512),
            row("share", "FAI around WAAD peaks", (0.15, -0.124, 0.181), 0.152, (0.221, 0.19, 0.253), 0.151, 512),
            row("share", "entropy around FAI peaks", None, None, None, None, -0.0),
        ],
    }
    return [table2, offsets]


def column(title: str, unit: str | None = None, role: str | None = None) -> dict[str, Any]:
    return {"title": title, "unit": unit, "role": role}


def row(unit: str, name: str, *cells: Any) -> dict[str, Any]:
    """A row of a table; three numbers are a value and its bounds."""
    bounded = [dict(zip(("value", "low", "high"), cell, strict=True)) if isinstance(cell, tuple) else cell
               for cell in cells]  # fmt: skip
    return {"unit": unit, "cells": [name, *bounded]}


def held_by(html: str) -> Any:
    """What the page's scripts draw."""
    inside = re.search(r'<script type="text/plain" id="data">([A-Za-z0-9+/=]*)</script>', html)
    assert inside
    return json.loads(gzip.decompress(base64.b64decode(inside[1])))


def main(folder: Path) -> None:
    from rlcredit.analysis.report.figures import write_figures
    from rlcredit.analysis.report.page import write_page
    from rlcredit.pages.frame import clean

    folder.mkdir(parents=True, exist_ok=True)
    report = document()
    (folder / "report.json").write_text(json.dumps(clean(report), indent=1), encoding="utf-8")
    print(write_page(report, folder / "report.html"))
    for path in write_figures(report, folder / "figures"):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
