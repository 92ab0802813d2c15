"""From readings to a report: the content of report.json, and all files that show it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from rlcredit.analysis.couplings import couplings, offsets
from rlcredit.analysis.perturbation import Table1
from rlcredit.analysis.reading import PARTS, Reading
from rlcredit.analysis.report import FORMAT, write_figures, write_page
from rlcredit.analysis.responses import Skipped
from rlcredit.analysis.tables import coupling_table, findings, offset_table, perturbation_table
from rlcredit.analysis.token_texts import token_texts
from rlcredit.credit import CreditArguments

PEAK = (
    "a token whose value is higher than both neighbours' and among the top 30 % of the response's defined values. The "
    "paper counts peaks and does not define them; this definition is rlcredit's"
)
REPORT_FILES = ("report.html", "report.json", "signals.parquet", "figures")


def build(
    readings: Sequence[Reading],
    tokenizer: PreTrainedTokenizerBase,
    credit: CreditArguments,
    about: dict[str, Any],
    table: Table1 | None = None,
    skipped: Sequence[Skipped] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The content of report.json; `about` has `model`, `task`, `command` and the caller's `settings`."""
    parts = {
        name: couplings([reading.parts[name] for reading in readings], seed)
        for name in PARTS
        if all(name in reading.parts for reading in readings)
    }
    tables = [coupling_table("table2", "Couplings (Table 2)", {"all": parts["all"]})]
    tables += [perturbation_table(table)] if table else []
    tables += [coupling_table("table10", "Couplings by layer third (Table 10)", parts)]
    tables += [offset_table(offsets([reading.parts["all"] for reading in readings], seed))]
    return {
        **about,
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": version("rlcredit"),
        "settings": {**about["settings"], **_settings(credit, readings[0])},
        "samples": [sample_of(reading, tokenizer) for reading in readings],
        "tables": tables,
        "findings": findings(parts["all"], table),
        "skipped": [question._asdict() for question in skipped],
    }


def _settings(credit: CreditArguments, first: Reading) -> dict[str, Any]:
    low, high = credit.credit_fai_horizon
    return {
        "layers": first.signals.layers,
        "waad_window": credit.credit_waad_window,
        "fai_horizon": [low, None if high == -1 else high],
        "head_fraction": credit.credit_head_fraction,
        "credit_strategy": credit.credit_strategy,
        "quantile": credit.credit_quantile,
        "amplification": credit.credit_amplification,
        "peak": PEAK,
    }


def sample_of(reading: Reading, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """One response of report.json."""
    response, credit, signals, series = reading.response, reading.credit, reading.signals, reading.series
    start = len(response.prompt_ids)
    intro = [place - start if place >= 0 else None for place in credit.intro[0, start:].tolist()]
    maps = reading.maps
    return {
        "id": response.id,
        "prompt": response.prompt,
        "tokens": {
            "text": token_texts(tokenizer, response.prompt_ids, response.ids),
            "waad": _listed(series.waad_T),
            "fai": _listed(series.fai_T),
            "receiver_fai": _listed(series.receiver_fai_T),
            "entropy": _listed(series.entropy_T),
            "gamma": credit.weights[0, start:].tolist(),
            "preplan": credit.preplan[0, start:].tolist(),
            "anchor": credit.anchor[0, start:].tolist(),
            "dominated": credit.dominated[0, start:].tolist(),
            "intro": intro,
        },
        "layers": signals.layers,
        "head_span": signals.head_span[0].tolist(),
        "local_heads": signals.local_heads[0].tolist(),
        "global_heads": signals.global_heads[0].tolist(),
        "maps": None if maps is None else {"local": _rounded(maps[0]), "global": _rounded(maps[1])},
        "head_maps": reading.head_maps,
        "correct": response.correct,
        "finished": response.finished,
    }


def _listed(values_T: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_T]


def _rounded(map_TT: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in map_TT]


def write(document: dict[str, Any], folder: Path) -> None:
    """Write all files into a hidden folder and move them at the end: an earlier report is replaced as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".writing-{os.getpid()}"
    aside.mkdir()
    try:
        (aside / "report.json").write_text(json.dumps(document, ensure_ascii=True, allow_nan=False) + "\n")
        _write_signals(document, aside / "signals.parquet")
        write_page(document, aside / "report.html")
        write_figures(document, aside / "figures")
        for name in REPORT_FILES:
            target = folder / name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(aside / name, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_signals(document: dict[str, Any], path: Path) -> None:
    """Every token's values: a row a token."""
    rows = [
        {"id": sample["id"], "position": place, **{name: values[place] for name, values in sample["tokens"].items()}}
        for sample in document["samples"]
        for place in range(len(sample["tokens"]["text"]))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
