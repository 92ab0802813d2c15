"""A run of two processes in which one step's loss is not finite on the second process alone.

`accelerate launch -m tests.faults.bad_step FOLDER ALGORITHM`; each process writes what it ended with.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from rlcredit import CreditGRPOTrainer, CreditPPOTrainer
from rlcredit.trainers import shards
from tests import runs

BAD = 2


class Snapshots(TrainerCallback):
    def __init__(self, trainer):
        self._trainer, self.found = trainer, {}

    def on_step_end(self, args, state, control, **kwargs):
        names = {BAD: "before", BAD + 1: "skipped", BAD + 2: "after"}
        if state.global_step in names:
            weights = shards.whole_state(self._trainer.accelerator.unwrap_model(self._trainer.model), True)
            if isinstance(self._trainer, CreditPPOTrainer):
                critic = self._trainer.accelerator.unwrap_model(self._trainer.critic.model)
                weights |= {f"critic.{name}": value for name, value in shards.whole_state(critic, True).items()}
            self.found[names[state.global_step]] = weights


def main(folder: str, algorithm: str) -> None:
    kind = {"grpo": CreditGRPOTrainer, "ppo": CreditPPOTrainer}[algorithm]

    class BadOnOne(kind):
        def _compute_loss(self, model, inputs):
            if self.state.global_step == BAD and self.accelerator.process_index == 1:
                inputs["advantages"] = inputs["advantages"] * math.nan
            return super()._compute_loss(model, inputs)

    made = runs.trainer(Path(folder), BadOnOne, max_steps=5)
    snapshots = Snapshots(made)
    made.add_callback(snapshots)
    made.train()
    found = {**snapshots.found, "bad_steps": made.bad_steps.total}
    torch.save(found, Path(folder) / f"process{made.accelerator.process_index}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
