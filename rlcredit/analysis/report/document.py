"""report.json: what it holds, and a check that it does.

Every list of `Tokens` has one entry a token of the response, in the response's order; positions count from 0 at its
first token, and `intro` and the maps use the same positions. None is "undefined" (no token is H_lo later, the last
token of a span, ...), never a number that stands for it; nan and infinities are refused. Keys that are not named here
are let through, so that an older page reads a newer report.

Shapes: N tokens of the response, L layers used, H heads of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import (
    Any,
    Literal,
    NotRequired,  # pydantic asks for this one before Python 3.12
    cast,
)

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from rlcredit.analysis.report.packing import PackedMap, tokens_of
from rlcredit.pages.frame import clean

FORMAT = 2  # 1: tables of strings; `rlcredit analyze` writes such a report anew
Unit = Literal["share", "nats", "count", ""]
"""Of a number; a share is in [0, 1]."""
Role = Literal["measured", "control", "paper"]


class Tokens(TypedDict):
    """The response, one entry a token."""

    text: list[str]
    waad: list[float | None]  # in tokens
    fai: list[float | None]
    receiver_fai: list[float | None]
    entropy: list[float | None]  # in nats
    gamma: list[float]
    preplan: list[bool]
    anchor: list[bool]
    dominated: list[bool]
    intro: list[int | None]  # of a dominated anchor: its introductory token


# "global" is a keyword of Python, so these two are written as calls.
Maps = TypedDict("Maps", {"local": list[list[float]], "global": list[list[float]]})
"""Mean attention of the local and of the global heads, [N, N]; a row is a query."""


class ReportSample(TypedDict):
    id: str
    prompt: str
    tokens: Tokens
    layers: list[int]
    head_span: list[list[float]]  # [L, H], in tokens
    local_heads: list[list[bool]]  # [L, H]
    global_heads: list[list[bool]]  # [L, H]
    maps: Maps | None  # only of short responses
    head_maps: NotRequired[list[list[PackedMap | None]] | None]  # [L, H], of the heads there is room for
    correct: bool | None
    finished: NotRequired[bool | None]  # ended by the model, not by the length limit; None: not known


class Measured(TypedDict):
    """A value with its 95 % interval; the bounds are None where nothing is known of them."""

    value: float
    low: float | None
    high: float | None


TableCell = str | float | Measured | None


class Column(TypedDict):
    title: str
    unit: Unit | None  # of its numbers; None: that of the row
    role: Role | None  # what a figure of the table draws; None: nothing


class Row(TypedDict):
    unit: Unit
    cells: list[TableCell]  # one a column; the first names the row


class ReportTable(TypedDict):
    """Numbers and estimates: the page and the figures write them out. A table with a `paper` column has a figure."""

    id: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[Row]


class Finding(TypedDict):
    holds: bool | None  # None: cannot tell
    sentence: str


class ReportSkipped(TypedDict):
    id: str
    reason: str


@with_config(ConfigDict(strict=True, allow_inf_nan=False))
class Document(TypedDict):
    """The whole of report.json."""

    format: int
    model: str
    task: str
    created: str
    command: str
    version: str
    settings: dict[str, Any]
    samples: list[ReportSample]
    tables: list[ReportTable]
    findings: list[Finding]
    skipped: list[ReportSkipped]


def checked(document: Mapping[str, Any]) -> Document:
    """The document with every string writable (see `clean`), or a ValueError of one line: where, what is wrong."""
    if document.get("format") != FORMAT:
        raise ValueError(f"report: format is {document.get('format')!r}, and this version reads {FORMAT}")
    try:
        _adapter().validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"report: {_where(first['loc'])}: {first['msg']}, not {first['input']!r:.60}") from error
    _refuse_nan("settings", document["settings"])
    for index, sample in enumerate(document["samples"]):
        _check_sample(f"samples[{index}]", sample)
    for index, table in enumerate(document["tables"]):
        for number, row in enumerate(table["rows"]):
            _check_length(f"tables[{index}].rows[{number}].cells", row["cells"], len(table["columns"]), "columns")
    return cast(Document, clean(document))


def representative(samples: Sequence[ReportSample]) -> int | None:
    """The response that a reader sees first: of the right ones that ended by themselves the longest.

    Without such a one, the longest right one, then the longest that ended by itself, then the longest; the first of
    equals, and none of a single token where there are others. None where there is no response.
    """

    ranks = [rank(len(sample["tokens"]["text"]), sample["correct"], sample.get("finished")) for sample in samples]
    return max(range(len(ranks)), key=ranks.__getitem__, default=None)


def rank(tokens: int, correct: bool | None, finished: bool | None) -> tuple[bool, bool, bool, int]:
    """The higher, the sooner a reader should see this response; see `representative`."""
    return tokens > 1, correct is True, finished is not False, tokens


@cache
def _adapter() -> TypeAdapter[Document]:
    return TypeAdapter(Document)


def _where(location: Sequence[str | int]) -> str:
    """("samples", 3, "id") as samples[3].id."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).lstrip(".") or "document"


def _check_sample(where: str, sample: ReportSample) -> None:
    tokens, layers = sample["tokens"], sample["layers"]
    size = len(tokens["text"])
    for name, values in cast(dict[str, list[Any]], tokens).items():
        _check_length(f"{where}.tokens.{name}", values, size, "tokens")
    for position, intro in enumerate(tokens["intro"]):
        if intro is not None and not 0 <= intro < position:
            raise ValueError(f"report: {where}.tokens.intro[{position}] must be an earlier token, not {intro}")
    heads = len(sample["head_span"][0]) if sample["head_span"] else 0
    head_maps = sample.get("head_maps")
    if head_maps is not None:
        _check_matrix(f"{where}.head_maps", head_maps, len(layers), heads, "layers", "heads")
    for name in ("head_span", "local_heads", "global_heads"):
        _check_matrix(f"{where}.{name}", cast(dict[str, Any], sample)[name], len(layers), heads, "layers", "heads")
    for name, rows in cast(dict[str, list[list[float]]], sample["maps"] or {}).items():
        _check_matrix(f"{where}.maps.{name}", rows, size, size, "tokens", "tokens")
    for row, packed_maps in enumerate(head_maps or []):
        for head, packed in enumerate(packed_maps):
            if packed is not None and (found := tokens_of(packed)) != size:
                raise ValueError(f"report: {where}.head_maps[{row}][{head}] is a map of {found} tokens, not of {size}")


def _check_matrix(where: str, rows: Sequence[Sequence[Any]], height: int, width: int, down: str, across: str) -> None:
    _check_length(where, rows, height, down)
    for index, row in enumerate(rows):
        _check_length(f"{where}[{index}]", row, width, across)


def _check_length(where: str, values: Sequence[Any], wanted: int, what: str) -> None:
    if len(values) != wanted:
        raise ValueError(f"report: {where} has {len(values)} entries for {wanted} {what}")


def _refuse_nan(where: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"report: {where} is {value}; write null for what is undefined")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _refuse_nan(f"{where}.{key}", entry)
    if isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _refuse_nan(f"{where}[{index}]", entry)
