"""`rlcredit fidelity`: responses, values by continuations, and how well strategies meet what decided.

A run that was stopped goes on where it was. Strategies and credit settings are no part of what is stored: the same
folder gives other strategies at the cost of one pass a response.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from rlcredit.attention import choose_layers
from rlcredit.config import list_keys, model_path, parse
from rlcredit.credit import CreditArguments
from rlcredit.errors import InputError, RunStopped
from rlcredit.evaluation.decoding import note_of
from rlcredit.evaluation.identity import identity, prompts_digest
from rlcredit.evaluation.of_run import flags_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.store import Store, open_folder
from rlcredit.fidelity.arguments import FidelityArguments
from rlcredit.fidelity.choices import Chosen, controls, oracle, read
from rlcredit.fidelity.document import DOCUMENT_FILE, PAGE_FILE, TOKENS_FILE, document_of, percent, write
from rlcredit.fidelity.values import RESPONSES_FILE, ResponseBatch, Valued, batches, draw, response_store
from rlcredit.models.loading import load_model, load_tokenizer
from rlcredit.stats.fidelity import Changes, Fidelity, fidelity
from rlcredit.tasks import TaskData, load_set
from rlcredit.terminal import progress

OF_THE_VALUES = ("continuations", "p_max", "temperature", "max_new_tokens", "seed")
NOT_OF_THE_VALUES = {"output", "overwrite", "dry_run", "strategies", "data"}
OUT_OF_MEMORY = "out of memory with {} continuations at once; write a smaller --batch_size (and --overwrite true)"


def measure(argv: Sequence[str]) -> None:
    """Run `rlcredit fidelity` with these arguments.

    Raises: InputError for what the user has to mend; RunStopped if the run cannot go on.
    """
    disable_progress_bar()
    args, credit = parse(flags_of("fidelity", argv), (FidelityArguments, CreditArguments))
    try:
        settings = args.settings_of(credit)
    except ValueError as error:
        raise InputError(str(error)) from error
    path = model_path(args.model)
    rows, task = load_set(args.task, args.data, args.task_options, None, judged=True)
    rows = rows.select(range(min(args.samples, len(rows))))
    config, renderer = _described(path, args, settings, rows)
    wanted = batches(len(rows), args.samples, args.responses_at_once)
    if args.dry_run:
        print(plan(args, len(rows)))
        return
    state = PartialState(cpu=not torch.accelerator.is_available())
    names = {item.name for item in fields(args)} - NOT_OF_THE_VALUES
    decides = {name: getattr(args, name) for name in sorted(names)} | {"device": state.device.type}
    wanted_identity = identity(decides | {"prompts_sha256": prompts_digest(renderer, rows)}, path, config, rows, task)
    made = (RESPONSES_FILE, DOCUMENT_FILE, TOKENS_FILE, PAGE_FILE)
    open_folder(args.folder, wanted_identity, "values", made, state, overwrite=args.overwrite)
    store = response_store(args.folder)
    model = load_model(path, args, config, state.device)
    if state.is_main_process:
        for line in note_of(model.generation_config, "the measurement"):
            print(f"note: {line}")
    _draw(store, wanted, model, renderer, rows, task, args, state)
    if state.is_main_process:
        store.close(wanted)
        _report(store, model, renderer, settings, args, credit, argv)


def plan(args: FidelityArguments, problems: int) -> str:
    """What a measurement will cost, told without any weights."""
    places = args.samples * args.max_new_tokens
    continuations = places * args.continuations
    where = "before every token" if args.p_max == 1 else f"before tokens of probability below {args.p_max:g}"
    return "\n".join(
        [
            f"responses      {args.samples:,} to {problems:,} problems, up to {args.max_new_tokens:,} tokens each",
            f"values         {where}, {args.continuations} continuations each, equal prefixes once",
            f"continuations  at most {continuations:,}, of {continuations * args.max_new_tokens / 2:.3g} tokens; as a "
            "rule a fraction: as many places as there are uncertain tokens",
            f"output         {args.folder}",
            "checked; nothing was drawn",
        ]
    )


def _described(
    path: str, args: FidelityArguments, settings: Mapping[str, CreditArguments], rows: Dataset
) -> tuple[PretrainedConfig, PromptRenderer]:
    """Configuration and renderer; refuses a model that is not there, cannot be read, or whose context is too short."""
    config, tokenizer = load_tokenizer(path, args)
    try:
        for credit in settings.values():
            choose_layers(config, credit.credit_layers, credit.credit_num_layers)
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    renderer = PromptRenderer(tokenizer, args.chat_template_kwargs or {})
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = max(renderer.lengths(list(rows["prompt"])))
    if context and longest + args.max_new_tokens > context:
        raise InputError(
            f"max_new_tokens: a prompt of {longest} tokens and {args.max_new_tokens} of response do not fit the "
            f"model's context of {context}; shorten one of them"
        )
    return config, renderer


def _draw(
    store: Store,
    wanted: Sequence[ResponseBatch],
    model: PreTrainedModel,
    renderer: PromptRenderer,
    rows: Dataset,
    task: TaskData,
    args: FidelityArguments,
    state: PartialState,
) -> None:
    """The batches that are not stored yet; the processes share them."""
    assert task.check is not None
    todo = store.missing(wanted)
    state.wait_for_everyone()  # every process has to see the same batches missing
    mine = todo[state.process_index :: state.num_processes]
    done = len(wanted) - len(mine)
    for batch in progress(mine, "values", "batches", done=done, show=state.is_main_process):
        try:
            records = draw(
                model,
                renderer,
                rows,
                batch,
                args.sampling,
                task.check,
                continuations=args.continuations,
                p_max=args.p_max,
                batch_size=args.batch_size,
            )
        except torch.OutOfMemoryError as error:
            raise RunStopped(OUT_OF_MEMORY.format(args.batch_size)) from error
        store.keep(batch, records)
    state.wait_for_everyone()


def _report(
    store: Store,
    model: PreTrainedModel,
    renderer: PromptRenderer,
    settings: Mapping[str, CreditArguments],
    args: FidelityArguments,
    credit: CreditArguments,
    argv: Sequence[str],
) -> None:
    """Score the strategies, write the files, and say what they show."""
    records = store.records()
    responses = [Valued.of(record) for record in records]
    reads = []
    for response in progress(responses, "reading", "responses"):
        try:
            reads.append(read(model, response, settings, args.temperature))
        except ValueError as error:
            raise InputError(f"response {response.id}: {error}") from error
    about = {
        "model": args.model,
        "task": args.task,
        "command": f"rlcredit fidelity {shlex.join(argv)}",
        "settings": {
            **{name: getattr(args, name) for name in OF_THE_VALUES},
            **{name: value for name, value in credit.credit_settings().items() if name != "credit_strategy"},
        },
        "cost": {name: sum(record[name] for record in records) for name in ("continuations", "tokens")},
    }
    document = document_of(measured(responses, reads, settings, credit, args.seed), responses, about)
    write(document, responses, reads, renderer.tokenizer, args.folder)
    cost = document["cost"]
    print(
        f"{args.task}: {len(responses)} responses ({percent(document['right'])} right), values before "
        f"{document['places']:,} of {document['tokens']:,} tokens, {cost['continuations']:,} continuations of "
        f"{cost['tokens']:,} tokens"
    )
    for entry in document["strategies"].values():
        print(entry["sentence"])
    print(f"page: {args.folder / PAGE_FILE}")


def measured(
    responses: Sequence[Valued],
    reads: Sequence[Chosen],
    settings: Mapping[str, CreditArguments],
    credit: CreditArguments,
    seed: int,
) -> dict[str, Fidelity]:
    """The fidelity of every strategy and control."""
    changes = [Changes(response.problem, response.squared_T()) for response in responses]
    by_name = {name: [one.choices[name] for one in reads] for name in settings}
    by_name |= controls(responses, credit.credit_quantile, seed)
    found = {name: fidelity(changes, choices, seed) for name, choices in by_name.items()}
    return found | {"oracle": fidelity(*oracle(responses, credit.credit_quantile), seed)}


def describe() -> str:
    """The keys of the command, with defaults, for --help."""
    title = "rlcredit fidelity RUN [--key value ...]: the policy, set, length and temperature of a training run.\n\n"
    title += "Keys of rlcredit fidelity (and the credit_* keys of rlcredit train):"
    return f"\n{title}\n\n{list_keys(fields(FidelityArguments))}"
