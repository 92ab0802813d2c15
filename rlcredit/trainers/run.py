"""`rlcredit train`: from a recipe to a policy and a summary."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from rlcredit.config import given_values, list_keys
from rlcredit.credit import CreditArguments
from rlcredit.errors import InputError, RunStopped
from rlcredit.evaluation.held_out import second_name
from rlcredit.models.threads import choose_threads
from rlcredit.runs.files import LOG_FILE, Shares, read_accuracies, write_accuracies, write_facts
from rlcredit.stats.paired import compare
from rlcredit.tasks import EVALUATION_SETS
from rlcredit.tasks.dataset import DatasetArguments
from rlcredit.trainers import checkpoints
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.model_card import write_card
from rlcredit.trainers.plan import plan
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.prepare import Checked, check
from rlcredit.trainers.quiet import without_tied_keys
from rlcredit.trainers.run_arguments import RunArguments
from rlcredit.trainers.stopping import Terminated, ending_at_once, naming_lost_processes
from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

if TYPE_CHECKING:
    from rlcredit.trainers.grpo import CreditGRPOTrainer


def train(argv: Sequence[str]) -> None:
    """Run `rlcredit train` with these arguments.

    Raises: InputError for what the user has to mend; RunStopped if the run cannot go on.
    """
    checked = check(argv)
    if checked.run.dry_run:
        return _say([plan(checked)])
    _say(checked.notes)
    try:
        with naming_lost_processes(), ending_at_once():
            _run(checked, argv)
    except Terminated:
        _say(["\nstopped by SIGTERM beside training: nothing is lost", f"resume:     {resume_command(argv, 'auto')}"])


def _run(checked: Checked, argv: Sequence[str]) -> None:
    from rlcredit.trainers.build import build  # here: a plan needs no trainer of TRL's

    trainer = build(checked)
    if trainer.accelerator.device.type == "cpu":
        _say([f"threads:    {choose_threads(sum(parameter.numel() for parameter in trainer.model.parameters()))}"])
    if trainer.is_world_process_zero():
        _describe_run(checked, argv)
    first = FirstAccuracies(trainer)
    trainer.add_callback(first)
    with without_tied_keys(trainer.accelerator.unwrap_model(trainer.model)):
        begin(trainer, checked.checkpoint)
    if trainer.was_stopped:
        step = trainer.state.global_step
        _say(
            [
                f"\nstopped by {trainer.stopped_by} after step {step}, which is saved",
                f"resume:     {resume_command(argv)}",
            ]
        )
        if trainer.stopped_by == "SIGINT":
            raise KeyboardInterrupt
        return
    _save(trainer)
    _summarize(trainer, checked, first.shares, _last_accuracies(trainer), argv)
    if learned_nothing(trainer.state.log_history):
        raise RunStopped(
            "nothing was learned: at every step all rewards of a group were equal, so that no token had an advantage. "
            "Look at completions and rewards (--log_completions true); take easier problems, or more num_generations"
        )


def begin(trainer: CreditGRPOTrainer, checkpoint: str | None) -> None:
    """Raises: InputError where a tracker is not to be had, or the checkpoint is of another model."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except Exception as error:
        line = " ".join(str(error).split())[:160]
        if type(error).__module__.startswith("wandb."):
            raise InputError(
                f"report_to: wandb: {line}; run wandb login, set WANDB_MODE=offline, or leave wandb out"
            ) from error
        if checkpoint and isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in line:
            raise InputError(
                f"resume_from_checkpoint: {checkpoint} is not of this model ({line}); write the run's own model, or "
                "another output_dir"
            ) from error
        raise


def learned_nothing(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether no logged step had a gradient, and no group in any rollout two different rewards."""
    gradients = [line["grad_norm"] for line in history if "grad_norm" in line]
    # on the lines of steps that made a rollout; PPO has no groups to tell of
    alike = [
        line["frac_reward_zero_std"] for line in history if "frac_reward_zero_std" in line and "grad_norm" in line
    ]
    return bool(gradients and alike) and all(norm == 0 for norm in gradients) and all(share == 1 for share in alike)


def _save(trainer: CreditGRPOTrainer) -> None:
    """Write the trained policy. Raises: RunStopped where it cannot be written."""
    try:
        trainer.save_model()
    except checkpoints.WRITE_ERRORS as error:
        failure = checkpoints.Failure.of(error)
        raise RunStopped(
            f"the policy could not be saved in {trainer.args.output_dir} ({failure.reason}); {failure.advice}, then "
            "go on from the last checkpoint with --resume_from_checkpoint latest"
        ) from error


def _say(lines: Sequence[str]) -> None:
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line)


def _describe_run(checked: Checked, argv: Sequence[str]) -> None:
    """run.json: what the run is, for `rlcredit report`."""
    facts: dict[str, Any] = {
        "command": shlex.join(["rlcredit", "train", *argv]),
        "algorithm": checked.run.algorithm,
        "task": checked.run.data_name,
        "model": checked.model.model_name_or_path,
        "credit_strategy": checked.config.credit_strategy,
        "seed": checked.config.seed,
        "eval_samples": checked.run.eval_samples,
        "settings": _settings(checked, argv),
        "evaluate": _why_not(checked) or _evaluate_flags(checked),
        "analyze": {
            **_prompt_flags(checked),
            "temperature": checked.config.temperature,
            **_credit_flags(checked.config),
        },
    }
    write_facts(Path(checked.config.output_dir), facts)


def _settings(checked: Checked, argv: Sequence[str]) -> dict[str, Any]:
    """The keys that the recipe and the flags set, with the values that the run takes; no tokens for the hub."""
    holders = {item.name: holder for holder in (checked.run, checked.model, checked.config) for item in fields(holder)}
    settings = {
        key: getattr(holders[key], key) if key in holders else value
        for key, value in given_values(argv).items()
        if not key.endswith("_token")
    }
    return json.loads(json.dumps(settings, default=str))


def _prompt_flags(checked: Checked) -> dict[str, Any]:
    """The flags of `rlcredit evaluate` and `analyze` for the run's prompts: those of its first evaluation set."""
    run, options = checked.run, dict(checked.run.task_options or {})
    name = next((name for name in checked.task.tests if name in EVALUATION_SETS), None)
    name = name or next((name for name, task in EVALUATION_SETS.items() if task == run.task), run.task)
    if isinstance(options.get("test"), Mapping):
        options["test"] = dict([*options["test"].items()][:1])
    elif isinstance(options.get("test"), list):
        options["test"] = options["test"][:1]
    return {
        "task": name,
        "task_options": options or None,
        "chat_template_kwargs": checked.config.chat_template_kwargs,
        "max_new_tokens": checked.config.max_completion_length,
    }


def _credit_flags(config: CreditGRPOConfig) -> dict[str, Any]:
    """The credit settings that differ from the defaults. A strategy that marks no tokens of a text is not among them:
    `rlcredit analyze` then shows those of the default one."""
    given = {item.name: getattr(config, item.name) for item in fields(CreditArguments)}
    if config.strategy.neutral or config.strategy.of_rollout:
        del given["credit_strategy"]
    return {name: value for name, value in given.items() if value != getattr(CreditArguments(), name)}


def _why_not(checked: Checked) -> str | None:
    """Why `rlcredit evaluate` does not measure what the run learned; None where it does."""
    if checked.agents:
        key = checked.agents.keys[0]
        return f"the policy was trained with {key}, and evaluate answers without; write --model and --task"
    if checked.task.check is None:
        return "the run's data have rewards and no checker; write --model, --task custom, --data and a check"
    return None


def _evaluate_flags(checked: Checked) -> dict[str, Any]:
    """The flags with which `rlcredit evaluate` measures what the run measured on that set."""
    run, held_out = checked.run, checked.held_out
    return {
        **_prompt_flags(checked),
        "limit": len(next(iter(held_out.tests.values()))) if held_out else None,
        "samples": run.eval_samples,
        "temperature": run.eval_temperature,
        "seed": checked.config.seed,
        "batch_size": run.eval_batch_size,
    }


def _accuracies(trainer: CreditGRPOTrainer) -> Shares:
    """The policy's held-out accuracies now, problem by problem; none where they cannot be measured."""
    return {name: table.shares() for name, table in (trainer.measure_held_out() or {}).items()}


def _last_accuracies(trainer: CreditGRPOTrainer) -> Shares:
    """The accuracies after the run: those of its last evaluation, if that was of this very policy."""
    last = trainer.last_measured
    if last is None or last[0] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        return _accuracies(trainer)
    return last[1]


class FirstAccuracies(TrainerCallback):
    """The accuracies before a run's first step: measured once, then kept beside the log.

    Args:
        trainer: whose run it is.

    Attributes:
        shares: by set, each problem's share of right samples; none where they cannot be measured.
    """

    def __init__(self, trainer: CreditGRPOTrainer) -> None:
        self._trainer = trainer
        self.shares: Shares = {}

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        folder = Path(args.output_dir)
        if state.global_step:
            self.shares = read_accuracies(folder).get("before", {})
            return
        with ending_at_once():
            self.shares = _accuracies(self._trainer)
        if state.is_world_process_zero:
            write_accuracies(folder, before=self.shares)


def _summarize(
    trainer: CreditGRPOTrainer, checked: Checked, before: Shares, after: Shares, argv: Sequence[str]
) -> None:
    """Say what came of the run, where it is, and how it goes on."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    rewards = [line["reward"] for line in trainer.state.log_history if line.get("reward") is not None]
    name = trainer.args.credit_strategy + (" (PPO)" if isinstance(trainer.args, CreditPPOConfig) else "")
    lines = [f"{name}: {trainer.state.global_step} steps"]
    if rewards:
        lines.append(f"reward:     {rewards[0]:.3f} -> {rewards[-1]:.3f}")
    if measured := [line["eval_reward"] for line in trainer.state.log_history if "eval_reward" in line]:
        lines.append(f"held out:   reward {measured[0]:.3f} -> {measured[-1]:.3f}")
    if trainer.rewards.unscored:
        lines.append(f"unscored:   {trainer.rewards.unscored} completions in {trainer.rewards.rollouts} rollouts")
    run = checked.run
    lines += [
        f"accuracy:   {_change(before.get(name), values, run)}  {name}, {_how(name, run)}"
        for name, values in after.items()
    ]
    saved = checkpoints.complete(folder)
    lines += [f"policy:     {folder}", f"log:        {folder / LOG_FILE}"]
    if saved:
        lines += [f"checkpoint: {saved[-1]}", f"resume:     {resume_command(argv)}"]
    print("\n" + "\n".join(lines))
    write_accuracies(folder, before=before, after=after)
    write_card(trainer.args, trainer.state, trainer.accelerator.unwrap_model(trainer.model))


def _how(name: str, run: RunArguments) -> str:
    second = run.eval_second_temperature
    at = second if second is not None and name.endswith(second_name("", second)) else run.eval_temperature
    return "greedy" if at == 0 else f"{run.eval_samples} at temperature {at:g}"


def _change(before: list[float] | None, after: list[float], run: RunArguments) -> str:
    """`0.344 -> 0.568 (+0.225 [+0.182, +0.268])`: the difference with its 95 % interval, paired by problem."""
    now = f"{np.mean(after):.3f}"
    if before is None or len(before) != len(after):
        return now
    gain = compare(np.array(before), np.array(after), run.eval_samples, run.eval_samples).difference
    return f"{np.mean(before):.3f} -> {now} ({gain:+.3f})"


def describe() -> str:
    """rlcredit's own keys, with defaults, for --help."""
    own = [*fields(RunArguments), *fields(CreditArguments)]
    own += [item for item in fields(DatasetArguments) if item.name != "ignore_bias_buffers"]
    own += [item for item in fields(CreditGRPOConfig) if item.name in SturdyGRPOConfig.__annotations__]
    own += [item for item in fields(CreditPPOConfig) if item.name in CreditPPOConfig.__annotations__]
    title = "Keys of rlcredit train (every key of trl.GRPOConfig and trl.ModelConfig is one too):"
    return f"\n{title}\n\n{list_keys(own)}"


def resume_command(argv: Sequence[str], start_from: str = checkpoints.LATEST) -> str:
    """The command that goes on with a run started with these arguments."""
    kept, skip = [], False
    for word in argv:
        name = word.split("=")[0]
        if not skip and name not in ("--resume_from_checkpoint", "--overwrite"):
            kept.append(word)
        skip = name in ("--resume_from_checkpoint", "--overwrite") and "=" not in word
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1  # vLLM in this process sets it too, to 1
    start = ["accelerate", "launch", "...", sys.argv[0]] if launched else [*_program(), "train"]
    return shlex.join([*start, *kept, "--resume_from_checkpoint", start_from])


def _program() -> list[str]:
    """How the command was called, so that what is printed can be pasted: by its name where the shell finds it, else by
    its path, `.venv/bin/rlcredit` say."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("rlcredit", "__main__.py"):
        return ["python", "-m", "rlcredit"]
    found = shutil.which("rlcredit")
    by_path = called.name == "rlcredit" and called.is_file() and not (found and Path(found).samefile(called))
    return [os.path.relpath(called) if by_path else "rlcredit"]
