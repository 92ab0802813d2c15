"""`rlcredit analyze`: the rhythm of a model on prompts, as a page, figures and numbers.

Writes report.html, report.json, figures/ and signals.parquet into the output folder. With the settings of the paper's
section 4: temperature 0.7, H_lo = 0, H_hi = the end; what it leaves open is stated in the report.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rlcredit import recipes
from rlcredit.analysis.couplings import couplings, offsets
from rlcredit.analysis.perturbation import Table1, perturb, table1
from rlcredit.analysis.reading import PARTS, Reading, read
from rlcredit.analysis.report import write_figures, write_page
from rlcredit.analysis.responses import (
    Question,
    Response,
    Skipped,
    checked,
    generated,
    read_completions,
    read_prompts,
    usable,
    written,
)
from rlcredit.analysis.tables import coupling_table, findings, offset_table, perturbation_table
from rlcredit.attention import choose_layers
from rlcredit.credit import CreditArguments
from rlcredit.errors import InputError
from rlcredit.evaluation.loading import ModelArguments, load_model, load_set, load_tokenizer
from rlcredit.evaluation.sampling import Sampling
from rlcredit.tasks import EVALUATION_SETS
from rlcredit.tasks.checkers import Checker

PEAK = "higher than both neighbours and among the top 30 % of the response's defined values [ours]"
CONTEXT = 16  # tokens in front of one that decide how it is written
REPORT_FILES = ("report.html", "report.json", "signals.parquet", "figures")


@dataclass(kw_only=True)
class AnalyzeArguments(ModelArguments):
    """What is analysed, and how; the signals' settings are the credit_* keys."""

    task: str | None = field(default=None, metadata={"help": f"Prompts of a set: {', '.join(EVALUATION_SETS)}."})
    data: str | None = field(
        default=None, metadata={"help": "A file, or a set on the hub, in place of the task's own."}
    )
    task_options: dict | str | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    prompts: str | None = field(default=None, metadata={"help": "A file of your own with `prompt` or `question`."})
    completions: str | None = field(
        default=None,
        metadata={
            "help": "A file with prompts and completions: a run's completions_*.parquet, an evaluation's samples."
        },
    )
    samples: int = field(default=70, metadata={"help": "Take the first so many prompts."})
    temperature: float = field(default=0.7, metadata={"help": "0 is greedy."})
    max_new_tokens: int = field(default=512, metadata={"help": "Tokens a response may have."})
    seed: int = field(default=0, metadata={"help": "Of the responses, resamples and shuffles."})
    batch_size: int = field(default=16, metadata={"help": "Responses generated at once."})
    layers: str | list[int] | None = field(
        default=None, metadata={"help": "middle, all, top, bottom or layer indices; the same as credit_layers."}
    )
    perturbed: int = field(
        default=10, metadata={"help": "Prompts for the perturbation of Table 1 (30 continuations each); 0: none."}
    )
    continuation: int = field(
        default=0, metadata={"help": "Tokens after the forced one that Table 1 compares [ours]; 0: all, as the paper."}
    )
    output: str | None = field(default=None, metadata={"help": "A folder; default: outputs/analyze/MODEL."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier report in the output folder."})

    def __post_init__(self) -> None:
        if isinstance(self.task_options, str):
            self.task_options = json.loads(self.task_options)
        given = [name for name in ("task", "prompts", "completions") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise ValueError(f"task, prompts, completions: {said} given; write exactly one, --task gsm8k for instance")
        if self.task is not None and self.task not in EVALUATION_SETS:
            raise ValueError(f"task: {self.task!r} is no evaluation set; write one of {', '.join(EVALUATION_SETS)}")
        for name, low in (
            ("samples", 1),
            ("max_new_tokens", 2),
            ("batch_size", 1),
            ("seed", 0),
            ("perturbed", 0),
            ("continuation", 0),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; write {low} or more")
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature} is out of range; write 0 or more")

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else self.folder_under("outputs/analyze")


def analyze(argv: Sequence[str]) -> None:
    """Run `rlcredit analyze` with these arguments. Raises: InputError."""
    disable_progress_bar()
    args, credit = _parsed(argv)
    _check_output(args)
    questions, check = _questions(args)
    path = recipes.model_path(args.model)
    config, tokenizer = load_tokenizer(path, args)
    try:
        choose_layers(config, credit.credit_layers, credit.credit_num_layers)
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    kept, skipped = usable(questions, tokenizer, context, 1 if args.completions else args.max_new_tokens)
    if not kept:
        raise InputError(f"none of the {len(questions)} prompts can be used; the first: {skipped[0].reason}")
    model = load_model(path, args, torch.accelerator.current_accelerator() or torch.device("cpu"))
    responses, unwritten = _responses(args, kept, model, tokenizer, context, check)
    readings, unread = _read_all(model, responses, credit, args.temperature or 1.0)
    skipped += [*unwritten, *unread]
    if not readings:
        raise InputError(f"none of the responses can be read; the first: {skipped[-1].reason}")
    table = _perturbation(model, tokenizer, kept, credit, args) if args.perturbed and not args.completions else None
    document = build(readings, tokenizer, credit, _about(args, argv), table, skipped, args.seed)
    write(document, args.folder)
    _say(document, args.folder)


def _parsed(argv: Sequence[str]) -> tuple[AnalyzeArguments, CreditArguments]:
    args, credit = recipes.parse(list(argv), (AnalyzeArguments, CreditArguments))
    if not any(word.startswith(("--credit_fai_horizon", "--credit-fai-horizon")) for word in argv):
        credit.credit_fai_horizon = [0, -1]  # the paper's section 4; credit in training looks 10 to 100 tokens ahead
    if args.layers is not None:
        credit = CreditArguments(**{**vars(credit), "credit_layers": args.layers})
    return args, credit


def _about(args: AnalyzeArguments, argv: Sequence[str]) -> dict[str, Any]:
    return {
        "model": args.model,
        "task": args.task or args.prompts or args.completions or "",
        "command": f"rlcredit analyze {shlex.join(argv)}",
        "settings": {
            "responses": "read from a file, their text split again" if args.completions else "generated",
            "temperature": args.temperature,
            "max_new_tokens": args.max_new_tokens,
            "seed": args.seed,
            "continuation": args.continuation or None,
        },
    }


def _check_output(args: AnalyzeArguments) -> None:
    there = [name for name in REPORT_FILES if (args.folder / name).exists()]
    if there and not args.overwrite:
        raise InputError(f"output: {args.folder} holds a report; write another --output, or --overwrite true")


def _questions(args: AnalyzeArguments) -> tuple[list[Question], Checker | None]:
    """What is to be answered, and the checker of the answers, if there is one."""
    if args.prompts is not None:
        return read_prompts(Path(args.prompts))[: args.samples], None
    if args.completions is not None:
        return read_completions(Path(args.completions))[: args.samples], None
    assert args.task is not None and not isinstance(args.task_options, str)
    rows, task = load_set(args.task, args.data, args.task_options, args.samples if args.data else None)
    first = rows.select(range(min(args.samples, len(rows))))
    made = [Question(str(row.get("id", number)), row["prompt"], row=row) for number, row in enumerate(first)]
    return made, task.check


def _responses(
    args: AnalyzeArguments,
    kept: Sequence[tuple[Question, list[int]]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
    check: Checker | None,
) -> tuple[list[Response], list[Skipped]]:
    if args.completions:
        return written(kept, tokenizer, context)
    sampling = Sampling(args.max_new_tokens, args.temperature, seed=args.seed)
    responses = generated(kept, model, tokenizer, sampling, args.batch_size)
    if check is None:
        return responses, []
    texts = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in responses]
    return checked(responses, [question.row or {} for question, _ in kept], texts, check), []


def _read_all(
    model: PreTrainedModel, responses: Sequence[Response], credit: CreditArguments, temperature: float
) -> tuple[list[Reading], list[Skipped]]:
    readings, skipped = [], []
    for response in tqdm(responses, desc="reading", unit="response", mininterval=_interval()):
        try:
            readings.append(read(model, response, credit, temperature))
        except ValueError as error:
            skipped.append(Skipped(response.id, " ".join(str(error).split())[:200]))
    return readings, skipped


def _perturbation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kept: Sequence[tuple[Question, list[int]]],
    credit: CreditArguments,
    args: AnalyzeArguments,
) -> Table1:
    """Table 1: its originals are greedy, so they are responses of their own."""
    part = kept[: args.perturbed]
    responses = generated(part, model, tokenizer, Sampling(args.max_new_tokens), args.batch_size)
    found = []
    for response in tqdm(responses, desc="perturbing", unit="response", mininterval=_interval()):
        fai_T = read(model, response, credit, 1.0, maps=False).series.fai_T
        longest = args.continuation or None
        found.append(perturb(model, tokenizer, response.prompt_ids, response.ids, fai_T, longest=longest))
    return table1(found, args.seed)


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 10


# ---- what is written ----------------------------------------------------------------------------------------------


def build(
    readings: Sequence[Reading],
    tokenizer: PreTrainedTokenizerBase,
    credit: CreditArguments,
    about: dict[str, Any],
    table: Table1 | None = None,
    skipped: Sequence[Skipped] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The content of report.json; `about` has `model`, `task`, `command` and settings of the caller's."""
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
        "format": 1,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": version("rlcredit"),
        "settings": {**about["settings"], **_settings(credit, readings[0])},
        "samples": [sample_of(reading, tokenizer) for reading in readings],
        "tables": tables,
        "findings": findings(parts["all"], table),
        "skipped": [one._asdict() for one in skipped],
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
    response, credit, signals, start = (
        reading.response,
        reading.credit,
        reading.signals,
        len(reading.response.prompt_ids),
    )
    series = reading.series
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
        "correct": response.correct,
    }


def token_texts(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it. A character of several tokens is shown at its last one."""
    every, texts = [*prompt_ids[-CONTEXT:], *ids], []
    for end in range(len(every) - len(ids), len(every)):
        start = max(0, end - CONTEXT)
        before, now = (tokenizer.decode(every[start:stop]).rstrip("\ufffd") for stop in (end, end + 1))
        same = next((place for place, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before))
        texts.append(now[same:])
    return texts


def _listed(values_T: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_T]


def _rounded(map_TT: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in map_TT]


def write(document: dict[str, Any], folder: Path) -> None:
    """All files, made aside and moved into the folder at the end: an earlier report is replaced as a whole."""
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


def _say(document: dict[str, Any], folder: Path) -> None:
    for finding in document["findings"]:
        print({True: "holds:    ", False: "does not: ", None: "unknown:  "}[finding["holds"]] + finding["sentence"])
    for one in document["skipped"]:
        print(f"left out:  {one['id']}: {one['reason']}")
    print(f"report:    {folder / 'report.html'}")


def describe() -> str:
    """The keys of `rlcredit analyze`, with defaults, for --help."""
    lines = ["\nKeys of rlcredit analyze (and the credit_* keys of rlcredit train):\n"]
    for item in fields(AnalyzeArguments):
        default = "needed" if item.name == "model" else item.default
        lines.append(f"  {item.name} ({default})\n      {item.metadata['help']}")
    return "\n".join(lines) + "\n"
