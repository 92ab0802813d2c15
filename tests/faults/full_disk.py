"""A run of two processes, one of which cannot write files of a size while step 4 is saved.

`accelerate launch -m tests.faults.full_disk FOLDER stop|continue PROCESS BYTES [best]`; with `best` a best checkpoint
is kept, for which transformers has its processes wait for each other while they write.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlcredit.errors import RunStopped
from tests import runs, tiny
from tests.faults.test_disk import FullFrom


def main(folder: str, choice: str, process: str = "1", size: str = "1000", best: str = "") -> None:
    settings = dict(save_strategy="steps", save_steps=2, max_steps=6, on_save_error=choice)
    if best:
        settings |= dict(
            eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, metric_for_best_model="step"
        )
        settings |= dict(greater_is_better=True, eval_dataset=tiny.prompts().select(range(4)))
    made = runs.trainer(Path(folder), **settings)
    if best:
        made.evaluate = lambda *args, **kwargs: {"eval_step": made.state.global_step}
    if made.accelerator.process_index == int(process):
        made.add_callback(FullFrom(range(4, 5), int(size)))
    try:
        made.train()
    except RunStopped as error:
        print(f"process {made.accelerator.process_index} stopped: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
