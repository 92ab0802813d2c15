"""What the page's script gets of the responses: numbers rounded, maps packed, and as many maps as there is room for.

The page is to stay under 2 MB, of which plotly takes a third: what does not fit is left out, and a sentence in its
place says so. report.json has it all.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rlcredit.analysis.report.document import ReportSample, representative
from rlcredit.analysis.report.packing import MEAN, PackedMap, pack
from rlcredit.stats.estimates import rounded

DIGITS = 4  # one more than the page shows
DATA_BYTES = 850_000  # of all responses, in gzip
LEFT_OUT = "of this response are not on this page, which is kept under 2 MB; report.json has them."
KINDS = {"maps": "The maps", "head_maps": "The maps of the single heads"}


def view_of(samples: Sequence[ReportSample]) -> list[dict[str, Any]]:
    """The responses as the script takes them, each with a sentence in place of the maps that it does not have.

    First the response that the page opens with gets its maps, then the others get their means, then their heads'.
    """
    views = [_without_maps(sample) for sample in samples]
    room = DATA_BYTES - _size(views)
    first = representative(samples)
    order = sorted(range(len(samples)), key=lambda index: index != first)
    wanted = [(index, key) for index in order[:1] for key in KINDS]
    wanted += [(index, key) for key in KINDS for index in order[1:]]
    for index, key in wanted:
        held = cast(Mapping[str, Any], samples[index]).get(key)
        if held is None:
            continue
        held = {name: pack(rows, MEAN) for name, rows in held.items()} if key == "maps" else held
        size = _size(held)
        if size <= room:
            views[index][key], views[index][f"no_{key}"] = held, ""
            room -= size
        else:
            views[index][f"no_{key}"] = f"{KINDS[key]} {LEFT_OUT}"
    return views


def _without_maps(sample: ReportSample) -> dict[str, Any]:
    size = len(sample["tokens"]["text"])
    long = f"maps grow with the square of the length, and this response has {size:,} tokens. Short ones have them."
    heads = [packed for row in sample.get("head_maps") or [] for packed in row]
    return {
        "id": sample["id"],
        "prompt": sample["prompt"],
        "tokens": {name: _rounded(values) for name, values in cast(dict[str, list[Any]], sample["tokens"]).items()},
        "layers": sample["layers"],
        "head_span": [_rounded(row) for row in sample["head_span"]],
        "local_heads": sample["local_heads"],
        "global_heads": sample["global_heads"],
        "correct": sample["correct"],
        "finished": sample.get("finished"),
        "maps": None,
        "no_maps": f"Not kept for this response: {long}" if size else "The response is empty.",
        "head_maps": None,
        "no_head_maps": "Maps of single heads are kept for the response that the page opens with, if it is short, and "
        "for the others while there is room.",
        "some_heads": _some_heads(heads),
    }


def _some_heads(heads: Sequence[PackedMap | None]) -> str:
    """Which heads have maps, where not all have."""
    kept = sum(packed is not None for packed in heads)
    return (
        ""
        if kept == len(heads)
        else f"Kept are the maps of {kept} of its {len(heads)} heads, those that look nearest and furthest."
    )


def _rounded(values: Sequence[Any]) -> list[Any]:
    return [rounded(value, DIGITS) if isinstance(value, float) else value for value in values]


def _size(value: Any) -> int:
    """Bytes that the value takes of the page's data."""
    return len(gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 6))
