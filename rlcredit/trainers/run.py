"""`rlcredit train`: from a recipe to a policy and a summary. What can be checked is checked before weights load."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, get_peft_config, get_quantization_config

from rlcredit import recipes
from rlcredit.attention import choose_layers
from rlcredit.credit import CreditArguments
from rlcredit.errors import InputError
from rlcredit.tasks import TASKS, TaskData
from rlcredit.trainers import checkpoints, critic
from rlcredit.trainers.config import CreditGRPOConfig
from rlcredit.trainers.evaluate import greedy_accuracy
from rlcredit.trainers.grpo import CreditGRPOTrainer
from rlcredit.trainers.log import FILE_NAME, JsonlLog
from rlcredit.trainers.ppo import CreditPPOTrainer
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.progress import Progress

ACCURACY_FILE = "accuracy.json"
ALGORITHMS: dict[str, tuple[type[CreditGRPOConfig], type[CreditGRPOTrainer]]] = {
    "grpo": (CreditGRPOConfig, CreditGRPOTrainer),
    "ppo": (CreditPPOConfig, CreditPPOTrainer),
}


@dataclass
class RunArguments:
    """What a run trains on and how it reports; the model is TRL's `ModelConfig`."""

    algorithm: str = field(
        default="grpo",
        metadata={"help": "grpo, or ppo with a critic; its keys are those of PPO.", "choices": [*ALGORITHMS]},
    )
    task: str = field(default="countdown", metadata={"help": f"What to learn: {', '.join(TASKS)}."})
    task_options: dict | str | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    held_out: int = field(
        default=512, metadata={"help": "Held-out instances for the accuracy before and after the run; 0: none."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete the checkpoints and log of an earlier run in output_dir."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.task_options, str):
            self.task_options = json.loads(self.task_options)
        if self.held_out < 0:
            raise ValueError(f"held_out: {self.held_out} is out of range; write 0 or more")
        if self.task not in TASKS:
            near = difflib.get_close_matches(self.task, TASKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
            raise ValueError(f"task: {self.task!r} is unknown; {hint}")


class Prepared(NamedTuple):
    """A run that has passed every check, its policy loaded."""

    run: RunArguments
    task: TaskData
    trainer: CreditGRPOTrainer
    checkpoint: str | None


def train(argv: Sequence[str]) -> None:
    """Run `rlcredit train` with these arguments.

    Raises: InputError for what the user has to mend; RunStopped if the run cannot go on.
    """
    run, task, trainer, checkpoint = prepare(argv)
    measure = _accuracy_of(trainer, task, run.held_out)
    before = _first_accuracy(Path(trainer.args.output_dir), measure, resumed=checkpoint is not None)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    _summarize(trainer, before, measure() if measure else None, argv)


def prepare(argv: Sequence[str]) -> Prepared:
    """Check everything, then load the policy. Raises: InputError."""
    if not torch.accelerator.is_available():
        # Without it, accelerate's multi-process launch on a CPU starts runs that do not know of each other.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    disable_progress_bar()  # of loading and saving; training has its own
    config_type, _ = ALGORITHMS.get(str(recipes.peek(argv, "algorithm")), ALGORITHMS["grpo"])
    ppo_only = dict.fromkeys(CreditPPOConfig.__annotations__, "it is a key of algorithm: ppo")
    run, model, config = recipes.parse(list(argv), (RunArguments, ModelConfig, config_type), elsewhere=ppo_only)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and config.world_size == 1:
        raise InputError(f"{launched} processes were launched, but they do not see each other; add --use_cpu true")
    try:
        return _build(run, model, config)
    except ValueError as error:  # TRL's and transformers' own checks
        raise InputError(" ".join(str(error).split())) from error


def _build(run: RunArguments, model: ModelConfig, config: CreditGRPOConfig) -> Prepared:
    checkpoint = checkpoints.find(config.resume_from_checkpoint, config.output_dir)
    earlier = checkpoints.complete(config.output_dir)
    if checkpoint is None and earlier and not run.overwrite:
        raise InputError(
            f"output_dir: {config.output_dir} holds {earlier[-1].name} of an earlier run; write "
            "--resume_from_checkpoint latest to go on, --overwrite true to delete it, or another output_dir"
        )
    assert not isinstance(run.task_options, str)  # parsed in __post_init__
    task = TASKS[run.task](run.task_options or {})
    if not model.model_name_or_path:
        raise InputError("model_name_or_path: is missing; write a folder or the id of a model on the hub")
    path = _model_path(model.model_name_or_path)
    tokenizer = _check_policy(path, model, config, task)
    if isinstance(config, CreditPPOConfig) and config.critic_model_name_or_path is not None:
        config.critic_model_name_or_path = _model_path(config.critic_model_name_or_path)
        trusted = {"trust_remote_code": config.trust_remote_code}
        policy = AutoConfig.from_pretrained(path, revision=model.model_revision, **trusted)
        critic.check(config.critic_model_name_or_path, policy, tokenizer, **trusted)
    config.model_init_kwargs = {
        **(config.model_init_kwargs or {}),
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        **({"dtype": model.dtype} if model.dtype else {}),
    }
    _, trainer_type = ALGORITHMS[run.algorithm]
    trainer = trainer_type(
        path,
        task.rewards,
        args=config,
        train_dataset=task.train,
        eval_dataset=task.test if config.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    if checkpoint is None and trainer.is_world_process_zero():
        for folder in earlier:
            shutil.rmtree(folder)
    _show_progress(trainer)
    return Prepared(run, task, trainer, checkpoint)


def _model_path(name: str) -> str:
    """A folder from here, a folder among the shipped recipes, or else the id of a model on the hub."""
    shipped = recipes.recipes_root() / name
    return str(shipped) if not Path(name).exists() and shipped.is_dir() else name


def _check_policy(path: str, model: ModelConfig, config: CreditGRPOConfig, task: TaskData) -> PreTrainedTokenizerBase:
    """Refuse a policy that is not there, cannot be read, or whose context is too short; give its tokenizer."""
    options = {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code}
    try:
        policy = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model_name_or_path: {path!r} is neither a folder with a model nor a model that can be reached ({reason})"
        ) from error
    if "attention" in config.credit_needs:
        choose_layers(policy, config.credit_layers, config.credit_num_layers)
    context = getattr(policy.get_text_config(), "max_position_embeddings", None)
    longest = max(len(ids) for ids in _token_ids(tokenizer, task.train["prompt"]))
    if context and longest + config.max_completion_length > context:
        raise InputError(
            f"max_completion_length: a prompt of {longest} tokens and {config.max_completion_length} of "
            f"completion do not fit the model's context of {context}; shorten one of them"
        )
    return tokenizer


def _token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Any) -> list[list[int]]:
    prompts = list(prompts)
    if isinstance(prompts[0], str):
        return tokenizer(prompts)["input_ids"]
    return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=False)


def _show_progress(trainer: CreditGRPOTrainer) -> None:
    trainer.add_callback(JsonlLog())
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Progress())


def _accuracy_of(trainer: CreditGRPOTrainer, task: TaskData, held_out: int):  # type: ignore[no-untyped-def]
    """A function that measures the policy's held-out accuracy now; None where that cannot be done."""
    sharded = trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if task.correct is None or task.test is None or not held_out or sharded:
        return None
    rows = task.test.select(range(min(held_out, len(task.test))))
    return lambda: greedy_accuracy(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        rows,
        task.correct,
        trainer.accelerator,
        trainer.max_completion_length,
    )


def _first_accuracy(folder: Path, measure: Any, *, resumed: bool) -> float | None:
    """The accuracy before the run's first step: measured once, then kept beside the log."""
    path = folder / ACCURACY_FILE
    if resumed:
        return json.loads(path.read_text())["before"] if path.is_file() else None
    before = measure() if measure else None
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"before": before}) + "\n")
    return before


def _summarize(trainer: CreditGRPOTrainer, before: float | None, after: float | None, argv: Sequence[str]) -> None:
    """Say what came of the run, where it is, and how it goes on."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    rewards = [line["reward"] for line in trainer.state.log_history if line.get("reward") is not None]
    name = trainer.args.credit_strategy + (" (PPO)" if isinstance(trainer, CreditPPOTrainer) else "")
    lines = [f"{name}: {trainer.state.global_step} steps"]
    if rewards:
        lines.append(f"reward:     {rewards[0]:.3f} -> {rewards[-1]:.3f}")
    if after is not None:
        known = f"{before:.3f} -> " if before is not None else ""
        gain = f" ({after - before:+.3f})" if before is not None else ""
        lines.append(f"accuracy:   {known}{after:.3f}{gain}, held out, greedy")
    found = checkpoints.complete(folder)
    lines += [f"policy:     {folder}", f"log:        {folder / FILE_NAME}"]
    if found:
        lines += [f"checkpoint: {found[-1]}", f"resume:     {resume_command(argv)}"]
    print("\n" + "\n".join(lines))
    (folder / ACCURACY_FILE).write_text(json.dumps({"before": before, "after": after}) + "\n")


def describe() -> str:
    """rlcredit's own keys, with defaults, for --help."""
    own = [*fields(RunArguments), *fields(CreditArguments)]
    own += [item for item in fields(CreditGRPOConfig) if item.name in CreditGRPOConfig.__annotations__]
    own += [item for item in fields(CreditPPOConfig) if item.name in CreditPPOConfig.__annotations__]
    lines = ["\nKeys of rlcredit (every key of trl.GRPOConfig and trl.ModelConfig is one too):\n"]
    for item in own:
        default = item.default_factory() if callable(item.default_factory) else item.default
        lines.append(f"  {item.name} ({default})\n      {item.metadata['help']}")
    return "\n".join(lines) + "\n"


def resume_command(argv: Sequence[str]) -> str:
    """The command that goes on with a run started with these arguments."""
    kept, skip = [], False
    for word in argv:
        name = word.split("=")[0]
        if not skip and name not in ("--resume_from_checkpoint", "--overwrite"):
            kept.append(word)
        skip = name in ("--resume_from_checkpoint", "--overwrite") and "=" not in word
    start = ["rlcredit", "train"] if "WORLD_SIZE" not in os.environ else ["accelerate", "launch", "...", sys.argv[0]]
    return shlex.join([*start, *kept, "--resume_from_checkpoint", "latest"])
