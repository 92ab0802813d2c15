"""From the command line to a trainer: everything that can be checked is checked before weights load."""

from __future__ import annotations

import difflib
import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import is_deepspeed_available
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, get_peft_config, get_quantization_config
from trl.import_utils import is_vllm_available

from rlcredit.attention import choose_layers
from rlcredit.config import model_path, parse, peek
from rlcredit.config.ranges import Range, check_ranges
from rlcredit.errors import InputError
from rlcredit.evaluation.held_out import HeldOut
from rlcredit.evaluation.sampling import Sampling, prompt_lengths
from rlcredit.models.weight_files import refuse_broken
from rlcredit.runs.log import HeldOutLog, JsonlLog
from rlcredit.tasks import TASKS, TaskData
from rlcredit.trainers import checkpoints, critic
from rlcredit.trainers.grpo import CreditGRPOTrainer
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.ppo import CreditPPOTrainer
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.progress import Progress
from rlcredit.trainers.reports import PROMPTS, Reports
from rlcredit.trainers.rewards import check_signature

ALGORITHMS: dict[str, tuple[type[CreditGRPOConfig], type[CreditGRPOTrainer]]] = {
    "grpo": (CreditGRPOConfig, CreditGRPOTrainer),
    "ppo": (CreditPPOConfig, CreditPPOTrainer),
}
_RANGES: tuple[Range, ...] = (
    ("held_out", lambda n: n >= 0, "0 or more"),
    ("eval_samples", lambda n: n >= 1, "1 or more"),
    ("eval_batch_size", lambda n: n >= 1, "1 or more"),
    ("eval_temperature", lambda x: x >= 0, "0 or more"),
    ("eval_second_temperature", lambda x: x >= 0, "0 or more, or null"),
    ("credit_report_steps", lambda n: n >= 1, "1 or more, or null"),
    ("processes", lambda n: n >= 1, "1 or more, or null"),
)
# Keys of rlcredit 0.1.0 that are gone.
REMOVED = {
    "credit_attention": "leave it out: the pass that is read follows from the schedule; where the policy has dropout, "
    "write disable_dropout: true"
}


@dataclass
class RunArguments:
    """What a run trains on and how it reports; the model is TRL's `ModelConfig`."""

    algorithm: str = field(
        default="grpo",
        metadata={"help": "grpo, or ppo with a critic; its keys are those of PPO.", "choices": [*ALGORITHMS]},
    )
    task: str = field(default="countdown", metadata={"help": f"What to learn: {', '.join(TASKS)}."})
    task_options: dict | None = field(default=None, metadata={"help": "Mapping that the task checks."})
    held_out: int = field(
        default=512,
        metadata={
            "help": "Problems of each evaluation set, at most, for the accuracy before, during (eval_strategy) and "
            "after the run; 0: none."
        },
    )
    eval_samples: int = field(default=1, metadata={"help": "Completions a problem in those evaluations."})
    eval_temperature: float = field(default=0.0, metadata={"help": "Their temperature; 0 is greedy."})
    eval_second_temperature: float | None = field(
        default=None,
        metadata={"help": "Answer the first set at this temperature as well, logged as SET_tTEMPERATURE."},
    )
    eval_batch_size: int = field(
        default=128, metadata={"help": "Completions generated at once by each process in those evaluations."}
    )
    credit_report_steps: int | None = field(
        default=None,
        metadata={"help": "Every so many steps, write the report of a handful of fixed prompts; null: never."},
    )
    processes: int | None = field(
        default=None,
        metadata={"help": "How many processes the recipe is meant for: a run on another number says so."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete the checkpoints and log of an earlier run in output_dir."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check all that can be checked without weights, and print the plan."}
    )

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.eval_samples > 1 and self.eval_temperature == 0:
            raise ValueError(
                "eval_temperature: 0 is greedy and all samples would be the same; write 1.0, for instance"
            )
        if self.eval_second_temperature == self.eval_temperature:
            raise ValueError(
                f"eval_second_temperature: {self.eval_second_temperature:g} is eval_temperature too; write another"
            )
        if self.task not in TASKS:
            near = difflib.get_close_matches(self.task, TASKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
            raise ValueError(f"task: {self.task!r} is unknown; {hint}")


class Checked(NamedTuple):
    """A run that has passed every check that needs no weights.

    Attributes:
        run, model, config: what the recipe and the command line say.
        task: its data.
        path: where the policy is.
        policy: the policy's configuration.
        tokenizer: the policy's.
        checkpoint: where training goes on, or None.
        notes: what the user should know before training starts.
    """

    run: RunArguments
    model: ModelConfig
    config: CreditGRPOConfig
    task: TaskData
    path: str
    policy: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    checkpoint: str | None
    notes: list[str]

    @property
    def held_out(self) -> HeldOut | None:
        """What the policy is evaluated on; None where the task has no such set, or none was asked for."""
        if self.task.check is None or not self.task.tests or not self.run.held_out:
            return None
        tests = {name: rows.select(range(min(self.run.held_out, len(rows)))) for name, rows in self.task.tests.items()}
        length = self.config.max_completion_length
        first, *others = [
            Sampling(length, temperature, seed=self.config.seed)
            for temperature in (self.run.eval_temperature, self.run.eval_second_temperature)
            if temperature is not None
        ]
        second = others[0] if others else None
        return HeldOut(tests, self.task.check, first, self.run.eval_samples, self.run.eval_batch_size, second)


def check(argv: Sequence[str]) -> Checked:
    """Read the recipe and check everything that needs no weights. Raises: InputError."""
    if not torch.accelerator.is_available():
        # Without it, accelerate's multi-process launch on a CPU starts runs that do not know of each other.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    if _launched_for("DEEPSPEED") and not is_deepspeed_available():
        raise InputError("deepspeed: the launch config asks for it, and it is not installed; pip install deepspeed")
    disable_progress_bar()  # of loading and saving; training has its own
    config_type, _ = ALGORITHMS.get(str(peek(argv, "algorithm")), ALGORITHMS["grpo"])
    elsewhere = {**REMOVED, **dict.fromkeys(CreditPPOConfig.__annotations__, "it is a key of algorithm: ppo")}
    words = list(argv)
    planned = peek(argv, "dry_run") not in (None, False, "false")
    if planned and not torch.accelerator.is_available() and peek(argv, "use_cpu") is None:
        words += ["--use_cpu", "true"]  # a plan is often made where the GPUs are not, and transformers asks for them
    run, model, config = parse(words, (RunArguments, ModelConfig, config_type), elsewhere=elsewhere)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and config.world_size == 1:
        raise InputError(f"{launched} processes were launched, but they do not see each other; add --use_cpu true")
    try:
        return _checked(run, model, config)
    except ValueError as error:  # TRL's and transformers' own checks
        raise InputError(" ".join(str(error).split())) from error


def _checked(run: RunArguments, model: ModelConfig, config: CreditGRPOConfig) -> Checked:
    checkpoint = _checkpoint(config)
    earlier = checkpoints.complete(config.output_dir)
    if checkpoint is not None:
        refuse_broken(checkpoint, "resume_from_checkpoint", _instead_of(Path(checkpoint)), states=True)
    if checkpoint is None and earlier and not run.overwrite and not run.dry_run:
        raise InputError(
            f"output_dir: {config.output_dir} holds {earlier[-1].name} of an earlier run; write "
            "--resume_from_checkpoint latest to go on, --overwrite true to delete it, or another output_dir"
        )
    tested = bool(run.held_out) or config.eval_strategy != "no"
    if unknown := set(config.report_to) - INTEGRATION_TO_CALLBACK.keys():
        known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise InputError(f"report_to: {unknown.pop()!r} is not known; write none, or some of {known}")
    task = TASKS[run.task](run.task_options or {}, tests=None if tested else [])
    for reward in task.rewards:
        check_signature(reward, task.train.column_names if task.train is not None else [])
    if not model.model_name_or_path:
        raise InputError("model_name_or_path: is missing; write a folder or the id of a model on the hub")
    path = model_path(model.model_name_or_path)
    if config.use_vllm and not run.dry_run:
        _check_vllm(config)
    policy, tokenizer = _check_policy(path, model, config, task)
    if isinstance(config, CreditPPOConfig) and config.critic_model_name_or_path is not None:
        config.critic_model_name_or_path = model_path(config.critic_model_name_or_path)
        trusted = {"trust_remote_code": config.trust_remote_code}
        critic.check(config.critic_model_name_or_path, policy, tokenizer, **trusted)
    notes = [*task.notes, *_not_sharded()]
    if checkpoint and config.resume_from_checkpoint != checkpoint:  # the newest that counts
        notes += checkpoints.passed_over(checkpoint)
    if run.processes is not None and run.processes != config.world_size and not run.dry_run:
        notes.append(
            f"processes: the recipe is meant for {run.processes}, this run has {config.world_size}: batches are "
            f"{config.world_size / run.processes:g} times as large as there"
        )
    return Checked(run, model, config, task, path, policy, tokenizer, checkpoint, notes)


def _launched_for(engine: str) -> bool:
    """Whether accelerate's launcher was told to use FSDP or DEEPSPEED."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def _not_sharded() -> list[str]:
    """A line for a launch config that asks for shards where accelerate, without a word, makes none."""
    if torch.accelerator.is_available():
        return []
    return [
        f"{engine.lower()}: accelerate shards on accelerators only; on this CPU every process holds the whole model "
        "(plain DDP)"
        for engine in ("FSDP", "DEEPSPEED")
        if _launched_for(engine)
    ]


def _check_vllm(config: CreditGRPOConfig) -> None:
    """Refuse what TRL would refuse once the policy is loaded."""
    if not is_vllm_available():
        raise InputError('use_vllm: vLLM is not installed; write pip install "trl[vllm]", or --use_vllm false')
    if config.vllm_mode == "server" and not torch.cuda.is_available():
        raise InputError(
            "vllm_mode: server sends the weights over NCCL, which needs a CUDA device; write --vllm_mode colocate"
        )


def _checkpoint(config: CreditGRPOConfig) -> str | None:
    """Where training goes on, or None; refuse names that the file system does not take."""
    output = Path(config.output_dir)
    try:
        there = next(path for path in (output, *output.parents) if path.exists())
    except OSError as error:
        raise InputError(f"output_dir: {config.output_dir!r} cannot be a folder ({error.strerror})") from error
    if "\0" in config.output_dir or not there.is_dir():
        raise InputError(f"output_dir: {config.output_dir!r} cannot be a folder; write another name")
    try:
        return checkpoints.find(config.resume_from_checkpoint, config.output_dir)
    except OSError as error:
        wanted = config.resume_from_checkpoint
        raise InputError(f"resume_from_checkpoint: {wanted!r} cannot be read ({error.strerror})") from error


def _instead_of(checkpoint: Path) -> str:
    names = [path.name for path in checkpoints.complete(checkpoint.parent)]
    before = names[: names.index(checkpoint.name)] if checkpoint.name in names else []
    if before:
        return f"write an earlier checkpoint, {checkpoint.parent / before[-1]}"
    return "write an earlier checkpoint, or start without resume_from_checkpoint"


def _check_policy(
    path: str, model: ModelConfig, config: CreditGRPOConfig, task: TaskData
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Refuse a policy that is not there, cannot be read, or whose context is too short; give what describes it."""
    options = {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code}
    refuse_broken(path, "model_name_or_path", "write the folder of a whole model")
    try:
        policy = AutoConfig.from_pretrained(path, **options)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
    except Exception as error:  # of many kinds: the files are anybody's, and tokenizers raises a bare Exception
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"model_name_or_path: {path!r} is neither a folder with a model nor a model that can be reached ({reason})"
        ) from error
    if "attention" in config.strategy.needs:
        choose_layers(policy, config.credit_layers, config.credit_num_layers)
    context = getattr(policy.get_text_config(), "max_position_embeddings", None)
    assert task.train is not None
    longest = max(prompt_lengths(tokenizer, list(task.train["prompt"])))
    if context and longest + config.max_completion_length > context:
        raise InputError(
            f"max_completion_length: a prompt of {longest} tokens and {config.max_completion_length} of "
            f"completion do not fit the model's context of {context}; shorten one of them"
        )
    return policy, tokenizer


def build(checked: Checked) -> CreditGRPOTrainer:
    """Load the policy. Raises: InputError for what TRL and transformers refuse."""
    try:
        trainer = _trainer(checked)
    except (ValueError, OSError) as error:  # OSError: weights that are missing, a vLLM server that does not answer
        raise InputError(" ".join(str(error).split())) from error
    if checked.checkpoint is None and trainer.is_world_process_zero():
        for folder in checkpoints.folders(checked.config.output_dir):  # of a run to be overwritten, or torn
            shutil.rmtree(folder)
    trainer.held_out = checked.held_out
    trainer.add_callback(HeldOutLog(lambda: trainer.last_measured))
    if checked.run.credit_report_steps:
        if trainer.is_sharded:
            raise InputError(
                "credit_report_steps: the policy's weights are sharded; leave it out, and use checkpoints"
            )
        rows = next(iter(checked.task.tests.values()), checked.task.train)
        unwrapped = functools.partial(trainer.accelerator.unwrap_model, trainer.model)
        prompts = list(rows[:PROMPTS]["prompt"])  # type: ignore[index]
        trainer.add_callback(
            Reports(trainer.args, checked.run.credit_report_steps, prompts, unwrapped, checked.tokenizer)
        )
    _show_progress(trainer)
    return trainer


def _trainer(checked: Checked) -> CreditGRPOTrainer:
    model, config = checked.model, checked.config
    config.model_init_kwargs = {
        **(config.model_init_kwargs or {}),
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        **({"dtype": model.dtype} if model.dtype else {}),
    }
    _, trainer_type = ALGORITHMS[checked.run.algorithm]
    tests: Any = next(iter(checked.task.tests.values()), None)
    return trainer_type(
        checked.path,
        checked.task.rewards,
        args=config,
        train_dataset=checked.task.train,
        eval_dataset=tests if config.eval_strategy != "no" else None,
        processing_class=checked.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )


def _show_progress(trainer: CreditGRPOTrainer) -> None:
    trainer.add_callback(JsonlLog())
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Progress())
