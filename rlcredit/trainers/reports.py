"""The report of a fixed handful of prompts, while a policy trains: how its rhythm changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from rlcredit.analysis.analyze import AnalysisCredit
from rlcredit.analysis.build import build, write
from rlcredit.analysis.reading import MapRoom, Reading, opening_first, read
from rlcredit.analysis.responses import Question, generated, usable
from rlcredit.credit import CreditArguments
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling
from rlcredit.trainers.grpo_config import CreditGRPOConfig

logger = logging.getLogger(__name__)

FOLDER = "reports"
PROMPTS = 4


class Reports(TrainerCallback):
    """Writes reports/step-N/ into the run's folder every `credit_report_steps`, and a panel to wandb where it is on.

    The main process writes them; it alone runs their passes, unless weights are sharded, which takes all. Nothing is
    drawn from the global random streams. The same prompts each time, their responses greedy, FAI to the end of the
    response as in the paper's analysis (section 4). Strategies that see the rollout mark no tokens in them.

    Args:
        args: the run's configuration.
        every: steps between two reports.
        prompts: what the policy answers.
        generating: a context that gives the policy as it generates.
        renderer: how the prompts become tokens.
        in_step: every process runs the passes, as it has to where weights are sharded.
    """

    def __init__(
        self,
        args: CreditGRPOConfig,
        every: int,
        prompts: Sequence[Any],
        generating: Callable[[], AbstractContextManager[PreTrainedModel]],
        renderer: PromptRenderer,
        *,
        in_step: bool = False,
    ) -> None:
        settings = {item.name: getattr(args, item.name) for item in fields(CreditArguments)}
        settings |= {"credit_fai_horizon": [0, -1], "credit_fai_rows": "response"}
        if args.strategy.of_rollout:  # the fixed prompts have no rollout
            settings |= {"credit_strategy": "uniform", "credit_options": None}
        self._credit = AnalysisCredit(**settings)
        self._questions = [Question(str(number), prompt) for number, prompt in enumerate(prompts[:PROMPTS])]
        self._every, self._length, self._folder = every, args.max_completion_length, args.output_dir
        self._generating, self._renderer, self._in_step = generating, renderer, in_step

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step % self._every or not (state.is_world_process_zero or self._in_step):
            return
        with self._generating() as policy:
            readings, skipped = self._read(policy, state.global_step)
        if readings and state.is_world_process_zero:
            folder = Path(self._folder) / FOLDER / f"step-{state.global_step:06d}"
            self._write(readings, skipped, folder, state.global_step)
            if "wandb" in (args.report_to or []):
                _to_wandb(folder / "report.html", state.global_step)

    def _read(self, policy: PreTrainedModel, step: int) -> tuple[list[Reading], Any]:
        context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
        kept, skipped = usable(self._questions, self._renderer, context, self._length)
        responses = generated(kept, policy, self._renderer, Sampling(self._length), len(self._questions))
        readings, room = {}, MapRoom()
        for place in opening_first(responses):
            try:
                readings[place] = read(policy, responses[place], self._credit, 1.0, room=room)
            except ValueError as error:
                logger.warning("report at step %d: response %s cannot be read (%s)", step, responses[place].id, error)
        return [readings[place] for place in sorted(readings)], skipped

    def _write(self, readings: list[Reading], skipped: Any, folder: Path, step: int) -> None:
        about = {
            "model": f"{self._folder}, step {step}",
            "task": f"{len(readings)} fixed prompts",
            "command": f"credit_report_steps: {self._every}",
            "settings": {"responses": "generated", "temperature": 0.0, "max_new_tokens": self._length},
        }
        write(build(readings, self._renderer.tokenizer, self._credit, about, skipped=skipped), folder)


def _to_wandb(page: Path, step: int) -> None:
    import wandb

    if wandb.run is not None:
        # transformers plots all over train/global_step; wandb drops what comes for one of its own steps that is past
        panel = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
        wandb.log({"credit/report": panel, "train/global_step": step})
