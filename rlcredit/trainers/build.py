"""From a run that was checked to its trainer, with the policy loaded."""

from __future__ import annotations

import shutil
from typing import Any

from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import get_peft_config, get_quantization_config

from rlcredit.errors import InputError
from rlcredit.rewards.process_model import ProcessReward
from rlcredit.runs.log import HeldOutLog, JsonlLog
from rlcredit.terminal import in_terminal
from rlcredit.trainers import checkpoints
from rlcredit.trainers.grpo import CreditGRPOTrainer
from rlcredit.trainers.ppo import CreditPPOTrainer
from rlcredit.trainers.prepare import Checked, evaluates
from rlcredit.trainers.progress import Bar, StepLines

TRAINERS: dict[str, type[CreditGRPOTrainer]] = {"grpo": CreditGRPOTrainer, "ppo": CreditPPOTrainer}


def build(checked: Checked) -> CreditGRPOTrainer:
    """Load the policy. Raises: InputError for what TRL and transformers refuse."""
    for reward in checked.task.rewards:
        if isinstance(reward, ProcessReward):
            reward.load()
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
        from rlcredit.trainers.reports import PROMPTS, Reports  # matplotlib

        rows = next(iter(checked.task.tests.values()), checked.task.train)
        prompts = list(rows[:PROMPTS]["prompt"])  # type: ignore[index]
        trainer.add_callback(
            Reports(
                trainer.args,
                checked.run.credit_report_steps,
                prompts,
                trainer.generating,
                checked.renderer,
                in_step=trainer.is_sharded,
            )
        )
    _show_progress(trainer)
    return trainer


def _trainer(checked: Checked) -> CreditGRPOTrainer:
    model, config = checked.model, checked.config
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        **({"dtype": model.dtype} if model.dtype else {}),
        **(config.model_init_kwargs or {}),
    }
    trainer_type = TRAINERS[checked.run.algorithm]
    tests: Any = next(iter(checked.task.tests.values()), None)
    return trainer_type(
        checked.path,
        [*([checked.reward_model] if checked.reward_model else []), *checked.task.rewards],
        args=config,
        train_dataset=checked.task.train,
        eval_dataset=tests if evaluates(config) else None,
        processing_class=checked.tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        answer_span=checked.task.answer_span,
        **checked.agents._asdict(),
    )


def _show_progress(trainer: CreditGRPOTrainer) -> None:
    trainer.add_callback(JsonlLog())
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    bar = Bar() if in_terminal() and not trainer.args.disable_tqdm else None
    strategy = trainer.strategy
    trainer.add_callback(StepLines(bar, weighs=not strategy.neutral and not strategy.gives_advantages))
    if bar is not None:
        trainer.add_callback(bar)
