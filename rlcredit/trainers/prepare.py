"""From the command line to a run that can be built: everything that can be checked is checked before weights load.

No trainer is imported here, which takes time (`rlcredit.trainers.build` does): a mistake is answered, and a plan made,
without one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig

from rlcredit.config import model_path, parse, peek
from rlcredit.config.elsewhere import ADVICE
from rlcredit.errors import InputError
from rlcredit.evaluation.held_out import HeldOut
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling
from rlcredit.models import value_model
from rlcredit.models.weight_files import best_of, refuse_broken
from rlcredit.rewards.named import TRL_REWARDS, check_reward_model, named_rewards
from rlcredit.rewards.process_model import ProcessReward
from rlcredit.rewards.rehearsal import rehearse
from rlcredit.rewards.signature import check_signature
from rlcredit.tasks import TASKS, TaskData, dataset
from rlcredit.tasks.dataset import DatasetArguments
from rlcredit.trainers import checkpoints, checks, launch
from rlcredit.trainers.agents import Agents
from rlcredit.trainers.continuations import refuse_other_than_text
from rlcredit.trainers.dynamic_sampling import refuse_dynamic_sampling
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.ppo_config import CreditPPOConfig
from rlcredit.trainers.rollouts import refuse_unknown_answer
from rlcredit.trainers.run_arguments import RunArguments
from rlcredit.trainers.run_state import changes_since, refuse_launch
from rlcredit.trainers.schedule import Schedule, schedule_of

ALGORITHMS: dict[str, type[CreditGRPOConfig]] = {"grpo": CreditGRPOConfig, "ppo": CreditPPOConfig}


class Checked(NamedTuple):
    """A run that has passed every check that needs no weights.

    Attributes:
        run, model, config: what the recipe and the command line say.
        task: its data.
        path: where the policy is.
        policy: the policy's configuration.
        tokenizer: the policy's.
        agents: tools and the like that take part in the rollouts.
        schedule: how many rollouts and steps the run has.
        checkpoint: where training goes on, or None.
        notes: what the user should know before training starts.
        reward_model: where the model is whose score is the first reward, or None.
    """

    run: RunArguments
    model: ModelConfig
    config: CreditGRPOConfig
    task: TaskData
    path: str
    policy: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    agents: Agents
    schedule: Schedule
    checkpoint: str | None
    notes: list[str]
    reward_model: str | None

    @property
    def renderer(self) -> PromptRenderer:
        """How the run's prompts become tokens."""
        return PromptRenderer(self.tokenizer, checks.template_options(self.config, self.agents))

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
        return HeldOut(
            tests,
            self.task.check,
            first,
            self.run.eval_samples,
            self.run.eval_batch_size,
            self.task.has_answers,
            second,
        )


def check(argv: Sequence[str]) -> Checked:
    """Read the recipe and check everything that needs no weights. Raises: InputError."""
    if all(peek(argv, key) is None for key in ("task", "dataset_name", "datasets")):
        raise InputError(
            f"task: is missing; write a task ({', '.join(TASKS)}), or a data set as for trl grpo: dataset_name and "
            "reward_funcs"
        )
    flags = launch.choose_device()
    disable_progress_bar()  # of loading and saving; training has its own
    config_type = ALGORITHMS.get(str(peek(argv, "algorithm")), ALGORITHMS["grpo"])
    advice = {**ADVICE, **dict.fromkeys(CreditPPOConfig.__annotations__, "it is a key of algorithm: ppo")}
    words = list(argv) if peek(argv, "ddp_backend") else [*argv, *flags]
    planned = peek(argv, "dry_run") not in (None, False, "false")
    elsewhere = planned and not torch.accelerator.is_available() and peek(argv, "use_cpu") is None
    if elsewhere:
        words += ["--use_cpu", "true"]  # a plan is often made where the GPUs are not, and transformers asks for them
    without_bf16 = [] if planned else checks.precision_here(argv)
    words += without_bf16
    kinds = (RunArguments, ModelConfig, config_type, DatasetArguments)
    run, model, config, data = parse(words, kinds, elsewhere=advice)
    launch.shard_on_cpu()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and config.world_size == 1:
        raise InputError(f"{launched} processes were launched, but they do not see each other; add --use_cpu true")
    try:
        lacks = checks.missing_here(config, model, planned_elsewhere=elsewhere)
        if lacks and not run.dry_run:
            raise InputError(lacks[0])
        notes = [checks.BF16_OFF, *lacks] if without_bf16 else lacks
        return _checked(with_data(run, data, config), model, config, notes)
    except ValueError as error:  # TRL's and transformers' own checks
        raise InputError(" ".join(str(error).split())) from error


def _checked(run: RunArguments, model: ModelConfig, config: CreditGRPOConfig, notes: list[str]) -> Checked:
    checkpoint = _checkpoint(run, config)
    tested = bool(run.held_out) or evaluates(config)
    checks.check_installed(config, model)
    agents = Agents.named(run, config)
    assert run.task is not None
    task = TASKS[run.task](run.task_options or {}, tests=None if tested else [])
    assert task.train is not None
    if evaluates(config) and run.task == dataset.NAME and not task.tests:
        raise InputError(
            f"dataset_test_split: eval_strategy is {config.eval_strategy.value}, and the data have no split 'test'; "
            "write dataset_test_split, test_split_size beside datasets, or eval_strategy: no"
        )
    _add_rewards(run, config, task, agents)
    refuse_unknown_answer(config, task.answer_span)
    columns = set(task.train.column_names)
    for refuse in (refuse_other_than_text, refuse_dynamic_sampling):
        refuse(config, agents.keys, has_images=not columns.isdisjoint({"image", "images"}))
    schedule = schedule_of(config, run.processes or config.world_size, len(task.train))
    if not model.model_name_or_path:
        raise InputError("model_name_or_path: is missing; write a folder or the id of a model on the hub")
    path = model_path(model.model_name_or_path)
    if config.use_vllm and not run.dry_run:
        checks.check_vllm(config)
    policy, tokenizer = checks.check_policy(path, model, config, task, agents)
    if isinstance(config, CreditPPOConfig) and config.critic_model_name_or_path is not None:
        config.critic_model_name_or_path = model_path(config.critic_model_name_or_path)
        trusted = {"trust_remote_code": config.trust_remote_code}
        value_model.check(config.critic_model_name_or_path, policy, tokenizer, **trusted)
    conversations = not isinstance(task.train[0]["prompt"], str)
    reward_model = run.reward_model_name_or_path and check_reward_model(
        run.reward_model_name_or_path, conversations=conversations, trust_remote_code=config.trust_remote_code
    )
    notes = [*notes, *task.notes]
    if not agents.factories and agents.rollout_func is None:  # which give rewards more than the columns
        notes += rehearse(task.rewards, task.train[0], tokenizer, config.reward_timeout)
    if checkpoint and config.resume_from_checkpoint != checkpoint:  # the newest that counts
        notes += checkpoints.passed_over(checkpoint)
    if checkpoint and run.dry_run:  # a run says it when it resumes
        notes += [
            f"resumed with another {line}" for line in changes_since(Path(checkpoint), config.compared_settings())
        ]
    if run.processes is not None and run.processes != config.world_size and not run.dry_run:
        notes.append(
            f"processes: the recipe is meant for {run.processes}, this run has {config.world_size}: batches are "
            f"{config.world_size / run.processes:g} times as large as there"
        )
    checked = Checked(
        run, model, config, task, path, policy, tokenizer, agents, schedule, checkpoint, notes, reward_model
    )
    checks.check_best_metric(config, checked.held_out)
    return checked


def _checkpoint(run: RunArguments, config: CreditGRPOConfig) -> str | None:
    """Where training goes on. Raises: InputError where that cannot be, or where a run would be lost."""
    checkpoint = checks.checkpoint_of(config)
    earlier = checkpoints.complete(config.output_dir)
    if checkpoint is not None:
        instead = checks.instead_of(Path(checkpoint))
        refuse_broken(checkpoint, "resume_from_checkpoint", instead, states=True)
        if config.load_best_model_at_end and (best := best_of(checkpoint)):
            refuse_broken(best, "resume_from_checkpoint", instead, states=True)
    if checkpoint is not None and not run.dry_run:
        refuse_launch(Path(checkpoint), config, config.world_size)
    if checkpoint is None and earlier and not run.overwrite and not run.dry_run:
        raise InputError(
            f"output_dir: {config.output_dir} holds {earlier[-1].name} of an earlier run; write "
            "--resume_from_checkpoint latest to go on, --overwrite true to delete it, or another output_dir"
        )
    return checkpoint


def _add_rewards(run: RunArguments, config: CreditGRPOConfig, task: TaskData, agents: Agents) -> None:
    """The functions that the recipe names join the task's. Raises: InputError for those that TRL could not call."""
    assert task.train is not None
    task.rewards.extend(named_rewards(run.reward_funcs or []))
    if run.process_reward_model:
        task.rewards.append(_process_reward(run, config))
    if not task.rewards and not run.reward_model_name_or_path and not agents.factories:
        names = ", ".join(TRL_REWARDS)
        raise InputError(f"reward_funcs: is missing; write some of {names}, or package.module.function")
    for reward in task.rewards:
        check_signature(
            reward,
            task.train.column_names,
            environments=bool(agents.factories),
            extra_columns=agents.rollout_func is not None,
        )


def with_data(run: RunArguments, data: DatasetArguments, config: CreditGRPOConfig) -> RunArguments:
    """The run with its task: the one that it names, or the data set of TRL's keys. Raises: InputError where both."""
    given = data.given()
    if run.task not in (None, dataset.NAME):
        if given:
            key = next(iter(given))
            instead = f"task_options.{key}" if key == "system_prompt" else "its task_options"
            raise InputError(f"{key}: task: {run.task} has data of its own; write {instead}, or leave task out")
        return run
    options = {**(run.task_options or {}), **given, "seed": config.seed}
    if data.dataset_streaming or data.streaming:
        if config.max_steps <= 0:
            raise InputError("max_steps: is missing, and a stream has no length; write a number of steps")
        sizes = schedule_of(config, run.processes or config.world_size, sys.maxsize)
        options |= {"rows": sizes.rollouts * sizes.prompts, "shuffle": config.shuffle_dataset}
        config.shuffle_dataset = False  # the rows stand in the order of the shuffled stream
    return replace(run, task=dataset.NAME, task_options=options)


def _process_reward(run: RunArguments, config: CreditGRPOConfig) -> ProcessReward:
    assert run.process_reward_model is not None
    return ProcessReward(
        model_path(run.process_reward_model),
        separator=run.process_reward_separator,
        trust_remote_code=config.trust_remote_code,
    )


def evaluates(config: CreditGRPOConfig) -> bool:
    """Whether TRL's own evaluation takes place."""
    return config.eval_strategy != "no" or config.eval_on_start
