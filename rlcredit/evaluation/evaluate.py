"""`rlcredit evaluate`: accuracies of a checkpoint on an evaluation set, with their uncertainty.

A run that was stopped goes on where it was; under `accelerate launch` the processes share the batches. Either way the
samples are those of one process that was never stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from rlcredit.config import list_keys, model_path, parse
from rlcredit.config.ranges import Range, at_least, check_ranges
from rlcredit.errors import InputError, RunStopped
from rlcredit.evaluation.arguments import SetArguments
from rlcredit.evaluation.decoding import note_of
from rlcredit.evaluation.identity import Identity, identity, prompts_digest
from rlcredit.evaluation.of_run import flags_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.samples import SAMPLES_FILE, batches, draw, sample_store, table
from rlcredit.evaluation.sampling import Sampling
from rlcredit.evaluation.store import SETTINGS_FILE, Store, open_folder
from rlcredit.files import write_whole
from rlcredit.models.loading import load_model, load_tokenizer
from rlcredit.stats.estimates import summarize
from rlcredit.tasks import TaskData, load_set
from rlcredit.terminal import progress

METRICS_FILE = "metrics.json"
_RANGES: tuple[Range, ...] = (
    *at_least(1, "samples", "max_new_tokens", "batch_size"),
    *at_least(0, "seed", "temperature", "top_k"),
    ("limit", lambda limit: 1 <= limit <= 1_000_000, "1 to 1000000, or leave it out"),
    ("top_p", lambda share: 0 < share <= 1, "a number above 0, up to 1"),
)
RUN_IN_FRONT = (
    "rlcredit evaluate RUN [--key value ...]: the policy, set, options, length and sampling of a training run."
)


@dataclass(kw_only=True)
class EvaluateArguments(SetArguments):
    """What is evaluated, on what, and how."""

    samples: int = field(default=1, metadata={"help": "Completions a problem."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy; with more than one sample, above 0."})
    top_p: float = field(default=1.0, metadata={"help": "Draw from the likeliest tokens of this total probability."})
    top_k: int = field(default=0, metadata={"help": "Draw from this many of the likeliest tokens; 0: all."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Tokens a completion may have."})
    limit: int | None = field(default=None, metadata={"help": "Take the first so many problems."})
    seed: int = field(default=0, metadata={"help": "Of the samples; each problem and sample has its own stream."})
    batch_size: int = field(default=32, metadata={"help": "Completions generated at once by each process."})
    output: str | None = field(default=None, metadata={"help": "A folder; default: outputs/evaluate/MODEL/TASK."})
    overwrite: bool = field(default=False, metadata={"help": "Delete an earlier evaluation in the output folder."})
    identity: bool = field(default=False, metadata={"help": "Print all that decides the figures, and stop."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, _RANGES)
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature: 0 is greedy and all samples would be the same; write 1.0, or samples: 1")

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, self.top_k, self.seed)

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else self.folder_under("outputs/evaluate") / self.task


def evaluate(argv: Sequence[str]) -> None:
    """Run `rlcredit evaluate` with these arguments.

    Raises: InputError for what the user has to mend; RunStopped if the run cannot go on.
    """
    disable_progress_bar()
    (args,) = parse(flags_of("evaluate", argv), (EvaluateArguments,))
    path = model_path(args.model)
    rows, task = load_set(args.task, args.data, args.task_options, args.limit, judged=True)
    assert task.check is not None
    loaded = _loaded(path, args, rows)
    state = PartialState(cpu=not torch.accelerator.is_available())
    wanted_identity = _identity(args, path, rows, task, loaded, state)
    if args.identity:
        if state.is_main_process:
            print(json.dumps(wanted_identity, indent=2))
        return
    made = (METRICS_FILE, SAMPLES_FILE)
    open_folder(args.folder, wanted_identity, "an evaluation", made, state, overwrite=args.overwrite)
    store = sample_store(args.folder)
    wanted = batches(rows, loaded.renderer, args.samples, args.batch_size)
    todo = store.missing(wanted)
    state.wait_for_everyone()  # every process has to see the same batches missing
    if todo:
        model = load_model(path, args, loaded.config, state.device)
        if state.is_main_process and (notes := note_of(model.generation_config, "evaluation")):
            print("\n".join(f"note: {line}" for line in notes))
        if state.is_main_process and len(todo) < len(wanted):
            print(f"{args.task}: {len(wanted) - len(todo)} of {len(wanted)} batches are in {args.folder}: going on")
        mine = todo[state.process_index :: state.num_processes]
        done = len(wanted) - len(mine) if state.num_processes == 1 else 0
        for batch in progress(mine, args.task, "batches", done=done, show=state.is_main_process):
            try:
                store.keep(batch, draw(model, loaded.renderer, rows, batch, args.sampling, task.check))
            except torch.OutOfMemoryError as error:
                raise RunStopped(
                    f"out of memory with {len(batch.pairs)} completions at once; write a smaller --batch_size (now "
                    f"{args.batch_size}) and --overwrite true"
                ) from error
    state.wait_for_everyone()
    if state.is_main_process:
        store.close(wanted)
        _report(args, store, task)


class _Loaded(NamedTuple):
    """What is known of a model before its weights load."""

    config: PretrainedConfig
    renderer: PromptRenderer


def _loaded(path: str, args: EvaluateArguments, rows: Dataset) -> _Loaded:
    """Configuration and tokenizer; refuses a model that is not there, or whose context is too short."""
    config, tokenizer = load_tokenizer(path, args)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    renderer = PromptRenderer(tokenizer, args.chat_template_kwargs or {})
    longest = max(renderer.lengths(list(rows["prompt"])))
    if context and longest + args.max_new_tokens > context:
        raise InputError(
            f"max_new_tokens: a prompt of {longest} tokens and {args.max_new_tokens} of completion do not fit the "
            f"model's context of {context}; shorten one of them"
        )
    return _Loaded(config, renderer)


# ---- the folder ---------------------------------------------------------------------------------------------------


def _identity(
    args: EvaluateArguments, path: str, rows: Dataset, task: TaskData, loaded: _Loaded, state: PartialState
) -> Identity:
    """All that the figures depend on."""
    names = {item.name for item in fields(args)} - {"output", "overwrite", "limit", "data", "identity"}
    settings = {**{name: getattr(args, name) for name in sorted(names)}, "device": state.device.type}
    prompts = {"prompts_sha256": prompts_digest(loaded.renderer, rows)}
    return identity(settings | prompts, path, loaded.config, rows, task)


def _report(args: EvaluateArguments, store: Store, task: TaskData) -> None:
    """Print the estimates, and write them beside the samples."""
    drawn = table(store.records(), has_answers=task.has_answers)
    estimates = summarize(*drawn)
    settings = json.loads((args.folder / SETTINGS_FILE).read_text())
    document = {
        "settings": settings,
        "estimates": {name: estimate.entry() for name, estimate in estimates.items()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_whole(args.folder / METRICS_FILE, json.dumps(document, indent=2) + "\n")
    problems, samples = drawn.correct_PS.shape
    for note in task.notes:
        print(note)
    print(f"{args.task}: {problems} problems x {samples} samples, temperature {args.temperature:g}, {args.model}")
    width = max(map(len, estimates))
    for name, estimate in estimates.items():
        print(f"{name:{width}}  {estimate}")
    print(f"samples:  {args.folder / SAMPLES_FILE}")


def describe() -> str:
    """The keys of the command, with defaults, for --help."""
    return f"\n{RUN_IN_FRONT}\n\nKeys of rlcredit evaluate:\n\n" + list_keys(fields(EvaluateArguments))
