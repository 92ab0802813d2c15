"""`rlcredit analyze`: the rhythm of a model on prompts, as a page, figures and numbers.

Writes report.html, report.json, figures/ and signals.parquet into the output folder. With the settings of the paper's
section 4: temperature 0.7, H_lo = 0, H_hi = the end; the report says what was chosen where the paper is silent.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from rlcredit.analysis.build import REPORT_FILES, build, write
from rlcredit.analysis.perturbation import Table1, perturb, table1
from rlcredit.analysis.reading import MapRoom, Reading, opening_first, read
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
from rlcredit.attention import choose_layers
from rlcredit.config import list_keys, model_path, parse
from rlcredit.config.output import check_folder
from rlcredit.config.ranges import at_least, check_ranges
from rlcredit.credit import CreditArguments, strategy_of
from rlcredit.errors import InputError
from rlcredit.evaluation.decoding import note_of
from rlcredit.evaluation.of_run import flags_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling
from rlcredit.models.loading import ModelArguments, load_model, load_tokenizer
from rlcredit.tasks import EVALUATION_SETS, load_set
from rlcredit.tasks.checkers import Checker
from rlcredit.terminal import progress


@dataclass
class AnalysisCredit(CreditArguments):
    """The credit settings, with the horizon of the paper's analysis (section 4): H_lo = 0, H_hi = the end."""

    credit_fai_horizon: list[int] = field(
        default_factory=lambda: [0, -1],
        metadata={"help": "[H_lo, H_hi] in tokens (eq. 10); -1: to the end. Training looks 10 to 100 tokens ahead."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.credit_fai_rows == "answer":
            raise ValueError(
                "credit_fai_rows: 'answer' is for training, where the task knows the answer; write response"
            )
        strategy_of(self)  # refuses a strategy that does not exist, before a model loads


@dataclass(kw_only=True)
class AnalyzeArguments(ModelArguments):
    """What is analysed, and how; the signals' settings are the credit_* keys."""

    task: str | None = field(default=None, metadata={"help": f"Prompts of a set: {', '.join(EVALUATION_SETS)}."})
    data: str | None = field(
        default=None, metadata={"help": "A file, or a set on the hub, in place of the task's own."}
    )
    task_options: dict | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    prompts: str | None = field(default=None, metadata={"help": "A file of your own with `prompt` or `question`."})
    completions: str | None = field(
        default=None,
        metadata={"help": "With completions: a run's completions_*.parquet, an evaluation's samples."},
    )
    chat_template_kwargs: dict | None = field(
        default=None, metadata={"help": 'What the chat template gets beside the prompt, {"enable_thinking": false}.'}
    )
    samples: int = field(default=70, metadata={"help": "Prompts, from the first on."})
    temperature: float = field(default=0.7, metadata={"help": "0 is greedy."})
    max_new_tokens: int = field(default=512, metadata={"help": "Most tokens of a response."})
    seed: int = field(default=0, metadata={"help": "Seed of responses, resamples and shuffles."})
    batch_size: int = field(default=16, metadata={"help": "Responses generated at once."})
    layers: str | list[int] | None = field(
        default=None, metadata={"help": "middle, all, top, bottom or layer indices; the same as credit_layers."}
    )
    perturbed: int = field(
        default=10, metadata={"help": "Prompts for the perturbation of Table 1 (30 continuations each); 0: none."}
    )
    continuation: int = field(
        default=0, metadata={"help": "Tokens after the forced one that Table 1 compares; 0: all, as the paper."}
    )
    output: str | None = field(default=None, metadata={"help": "A folder; default: outputs/analyze/MODEL."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier report in the output folder."})

    def __post_init__(self) -> None:
        given = [name for name in ("task", "prompts", "completions") if getattr(self, name) is not None]
        if len(given) != 1:
            keys = " and ".join(given) if given else "none of them"
            raise ValueError(f"task, prompts, completions: {keys} given; write exactly one, --task gsm8k for instance")
        if self.task is not None and self.task not in EVALUATION_SETS:
            raise ValueError(f"task: {self.task!r} is no evaluation set; write one of {', '.join(EVALUATION_SETS)}")
        check_ranges(self, at_least(0, "seed", "perturbed", "continuation", "temperature"))
        check_ranges(self, [*at_least(1, "samples", "batch_size"), *at_least(2, "max_new_tokens")])

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else self.folder_under("outputs/analyze")


def analyze(argv: Sequence[str]) -> None:
    """Run `rlcredit analyze` with these arguments. Raises: InputError."""
    disable_progress_bar()
    args, credit = _parsed(argv)
    _check_output(args)
    questions, check = _questions(args)
    path = model_path(args.model)
    config, tokenizer = load_tokenizer(path, args)
    try:
        choose_layers(config, credit.credit_layers, credit.credit_num_layers)
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    renderer = PromptRenderer(tokenizer, args.chat_template_kwargs or {})
    kept, skipped = usable(questions, renderer, context, 1 if args.completions else args.max_new_tokens)
    if not kept:
        raise InputError(f"none of the {len(questions)} prompts can be used; the first: {skipped[0].reason}")
    model = load_model(path, args, config, torch.accelerator.current_accelerator() or torch.device("cpu"))
    for line in note_of(model.generation_config, "the analysis"):
        print(f"note: {line}")
    responses, unwritten = _responses(args, kept, model, renderer, context, check)
    readings, unread = _read_all(model, responses, credit, args.temperature or 1.0)
    skipped += [*unwritten, *unread]
    if not readings:
        raise InputError(f"none of the responses can be read; the first: {skipped[-1].reason}")
    table = _perturbation(model, renderer, kept, credit, args) if args.perturbed and not args.completions else None
    document = build(readings, tokenizer, credit, _about(args, argv), table, skipped, args.seed)
    write(document, args.folder)
    _say(document, args.folder)


def _parsed(argv: Sequence[str]) -> tuple[AnalyzeArguments, AnalysisCredit]:
    args, credit = parse(flags_of("analyze", argv), (AnalyzeArguments, AnalysisCredit))
    return args, credit if args.layers is None else replace(credit, credit_layers=args.layers)


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
            "chat_template_kwargs": str(args.chat_template_kwargs) if args.chat_template_kwargs else None,
            "continuation": args.continuation or None,
        },
    }


def _check_output(args: AnalyzeArguments) -> None:
    check_folder("output", args.folder)
    there = [name for name in REPORT_FILES if (args.folder / name).exists()]
    if there and not args.overwrite:
        raise InputError(f"output: {args.folder} holds a report; write another --output, or --overwrite true")


def _questions(args: AnalyzeArguments) -> tuple[list[Question], Checker | None]:
    """What is to be answered, and the checker of the answers, if there is one."""
    if args.prompts is not None:
        return read_prompts(Path(args.prompts))[: args.samples], None
    if args.completions is not None:
        return read_completions(Path(args.completions))[: args.samples], None
    assert args.task is not None
    rows, task = load_set(args.task, args.data, args.task_options, args.samples if args.data else None)
    first = rows.select(range(min(args.samples, len(rows))))
    questions = [Question(str(row.get("id", number)), row["prompt"], row=row) for number, row in enumerate(first)]
    return questions, task.check


def _responses(
    args: AnalyzeArguments,
    kept: Sequence[tuple[Question, list[int]]],
    model: PreTrainedModel,
    renderer: PromptRenderer,
    context: int | None,
    check: Checker | None,
) -> tuple[list[Response], list[Skipped]]:
    if args.completions:
        return written(kept, renderer.tokenizer, context)
    sampling = Sampling(args.max_new_tokens, args.temperature, seed=args.seed)
    responses = generated(kept, model, renderer, sampling, args.batch_size)
    if check is None:
        return responses, []
    texts = [renderer.tokenizer.decode(response.ids, skip_special_tokens=True) for response in responses]
    return checked(responses, [question.row or {} for question, _ in kept], texts, check), []


def _read_all(
    model: PreTrainedModel, responses: Sequence[Response], credit: CreditArguments, temperature: float
) -> tuple[list[Reading], list[Skipped]]:
    readings, skipped, room = {}, [], MapRoom()
    for place in progress(opening_first(responses), "reading", "responses"):
        try:
            readings[place] = read(model, responses[place], credit, temperature, room=room)
        except ValueError as error:
            skipped.append(Skipped(responses[place].id, " ".join(str(error).split())[:200]))
    return [readings[place] for place in sorted(readings)], skipped


def _perturbation(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    kept: Sequence[tuple[Question, list[int]]],
    credit: CreditArguments,
    args: AnalyzeArguments,
) -> Table1:
    """Table 1: its originals are greedy, so they are responses of their own."""
    part = kept[: args.perturbed]
    responses = generated(part, model, renderer, Sampling(args.max_new_tokens), args.batch_size)
    perturbed = []
    for response in progress(responses, "perturbing", "responses"):
        fai_T = read(model, response, credit, 1.0, maps=False).series.fai_T
        longest = args.continuation or None
        perturbed.append(perturb(model, renderer.tokenizer, response.prompt_ids, response.ids, fai_T, longest=longest))
    return table1(perturbed, args.seed)


def _say(document: dict[str, Any], folder: Path) -> None:
    for finding in document["findings"]:
        verdict = {True: "holds:", False: "does not hold:", None: "cannot be told:"}[finding["holds"]]
        print(f"{verdict:15} {finding['sentence']}")
    for skipped in document["skipped"]:
        print(f"left out:       {skipped['id']}: {skipped['reason']}")
    print(f"report:         {folder / 'report.html'}")


def describe() -> str:
    """The keys of the command, with defaults, for --help."""
    title = (
        "rlcredit analyze RUN [--key value ...]: the policy, prompts, length and temperature of a training run.\n\n"
    )
    title += "Keys of rlcredit analyze (and the credit_* keys of rlcredit train):"
    return f"\n{title}\n\n{list_keys(fields(AnalyzeArguments))}"
