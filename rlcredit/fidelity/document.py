"""fidelity.json, tokens.parquet and fidelity.html: what was measured, in numbers, in tables and to look at."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from rlcredit.analysis.token_texts import token_texts
from rlcredit.fidelity.arguments import CONTROLS
from rlcredit.fidelity.choices import CURVES, Chosen
from rlcredit.fidelity.values import Valued
from rlcredit.files import write_whole
from rlcredit.pages.frame import cell, clean, exact, render
from rlcredit.stats.estimates import rounded
from rlcredit.stats.fidelity import Fidelity

DOCUMENT_FILE, TOKENS_FILE, PAGE_FILE = "fidelity.json", "tokens.parquet", "fidelity.html"
SHOWN = 24  # responses on the page
MEASURES = ("lift", "capture", "chosen", "auc")
DESCRIBED = {
    "random": "random tokens",
    "place": "the first tokens of the response",
    "oracle": "the largest changes of value",
}


def document_of(
    measured: Mapping[str, Fidelity], responses: Sequence[Valued], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of fidelity.json.

    Args:
        measured: by strategy and control.
        about: model, task, command, settings and cost.
    """
    squared = [response.squared_T() for response in responses]
    total = sum(float(row.sum()) for row in squared)
    return {
        **about,
        "version": version("rlcredit"),
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "responses": len(responses),
        "tokens": sum(len(row) for row in squared),
        "places": sum(len(response.places) for response in responses),
        "right": float(np.mean([response.reward for response in responses])),
        "squared_change": total,
        "strategies": {name: _entry(name, fidelity) for name, fidelity in measured.items()},
    }


def _entry(name: str, fidelity: Fidelity) -> dict[str, Any]:
    return {
        "control": name in CONTROLS,
        "finds": fidelity.finds,
        "sentence": sentence(name, fidelity),
        **{measure: vars(fidelity)[measure].entry() for measure in MEASURES},
    }


def sentence(name: str, fidelity: Fidelity) -> str:
    """What the measures of one strategy or control say."""
    if fidelity.chosen.value == 0:
        return f"{name}: chooses no token of these responses."
    if math.isnan(fidelity.lift.value):
        return f"{name}: cannot be told; the values do not change by more than their noise."
    share, held = fidelity.chosen.value, fidelity.capture.value
    numbers = f"{percent(share)} of the tokens hold {percent(held)} of the squared change of value"
    numbers += f" (lift {fidelity.lift:.2f})"
    said = {
        True: "finds the decisive tokens: the chosen",
        False: "chooses other tokens than the decisive ones: the chosen",
        None: "cannot be told from chance: the chosen",
    }
    if name in CONTROLS:
        return f"{name} ({DESCRIBED[name]}): the chosen {numbers}."
    return f"{name} {said[fidelity.finds]} {numbers}."


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write(
    document: Mapping[str, Any],
    responses: Sequence[Valued],
    reads: Sequence[Chosen],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """The three files, each whole or not there."""
    texts = [token_texts(tokenizer, response.prompt_ids, response.ids) for response in responses]
    _write_tokens(responses, reads, texts, folder / TOKENS_FILE)
    write_whole(folder / DOCUMENT_FILE, json.dumps(document, indent=2, allow_nan=False) + "\n")
    samples = [
        _sample(response, read, text, tokenizer)
        for response, read, text in zip(responses[:SHOWN], reads[:SHOWN], texts[:SHOWN], strict=True)
    ]
    write_whole(folder / PAGE_FILE, page(document, samples))


def _write_tokens(
    responses: Sequence[Valued], reads: Sequence[Chosen], texts: Sequence[Sequence[str]], path: Path
) -> None:
    """Every token of every response: its value, its change of value, its signals, and who chooses it."""
    columns: dict[str, list[Any]] = {}
    for number, (response, read, text) in enumerate(zip(responses, reads, texts, strict=True)):
        tokens, taken = len(response.ids), set(response.places)
        rows: dict[str, Sequence[Any]] = {
            "response": [number] * tokens,
            "problem": [response.problem] * tokens,
            "place": range(tokens),
            "token": response.ids,
            "text": clean(list(text)),
            "logp": response.logps_T.tolist(),
            "value_taken": [place in taken for place in range(tokens)],
            "value": response.values_T(),
            "change": response.changes_T().tolist(),
            "squared_change": response.squared_T().tolist(),
            **{name: read.curves[name].tolist() for name in CURVES},
            **{f"chosen_{name}": choice.chosen_T.tolist() for name, choice in read.choices.items()},
        }
        for name, values in rows.items():
            columns.setdefault(name, []).extend(values)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(pa.table(columns), unfinished)
    os.replace(unfinished, path)


# ---- the page -----------------------------------------------------------------------------------------------------


def _sample(
    response: Valued, read: Chosen, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    numbers = {"change": response.changes_T(), "value": np.array(response.values_T()), **read.curves}
    return {
        "id": response.id,
        "prompt": clean(tokenizer.decode(response.prompt_ids)),
        "text": clean(list(texts)),
        "reward": response.reward,
        "taken": [place in set(response.places) for place in range(len(response.ids))],
        "chosen": {name: choice.chosen_T.astype(bool).tolist() for name, choice in read.choices.items()},
        **{name: [_number(value) for value in values] for name, values in numbers.items()},
    }


def _number(value: float) -> float | None:
    return rounded(float(value), 4) if math.isfinite(value) else None


def page(document: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """The page as text.

    Args:
        document: of fidelity.json.
        samples: the responses that are shown token by token.
    """
    strategies = document["strategies"]
    rows = [
        {
            "name": name,
            "control": entry["control"],
            "finds": {True: "holds", False: "fails", None: "open"}[entry["finds"]],
            "sentence": entry["sentence"],
            "cells": [_cell(entry[measure], ".2f" if measure in ("lift", "auc") else ".0%") for measure in MEASURES],
        }
        for name, entry in strategies.items()
    ]
    moved = [sum(abs(change) for change in sample["change"]) for sample in samples]
    lifts = [{"name": name, "control": entry["control"], **entry["lift"]} for name, entry in strategies.items()]
    return clean(
        render(
            Path(__file__).with_name("fidelity.html.j2"),
            {
                "lifts": lifts,
                "samples": samples,
                "strategies": [row["name"] for row in rows if not row["control"]],
                "opens": moved.index(max(moved)) if moved else 0,
            },
            {
                "document": document,
                "rows": rows,
                "samples": samples,
                "facts": _facts(document),
                "subject": [document["model"], document["task"]],
                "made_by": document["command"],
                "created": document["created"],
                "version": document["version"],
            },
            styles=("fidelity.css",),
            scripts=("fidelity.js",),
        )
    )


def _cell(entry: Mapping[str, float | None], spec: str) -> tuple[str, str]:
    """A value with its bounds, and all digits of the value."""
    value, low, high = (entry[name] for name in ("value", "low", "high"))
    if low is None or high is None:
        return cell(value, spec), exact(value)
    return f"{cell(value, spec)} [{cell(low, spec)}, {cell(high, spec)}]", exact(value)


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings, cost = document["settings"], document["cost"]
    drawn = f"{cost['continuations']:,} ({settings['continuations']} a place), {cost['tokens']:,} tokens"
    return [
        ("Responses", f"{document['responses']:,}, {percent(document['right'])} right"),
        ("Tokens", f"{document['tokens']:,}"),
        ("Values taken", f"before {document['places']:,} tokens"),
        ("Continuations", drawn),
        ("Probability limit", f"{settings['p_max']:g}"),
        ("Temperature", f"{settings['temperature']:g}"),
        ("Quantile q", percent(settings["credit_quantile"])),
    ]
