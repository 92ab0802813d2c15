"""A run of two processes, the second of which cannot write while step 4 is saved.

`accelerate launch -m tests.faults.full_disk FOLDER stop|continue`
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlcredit.errors import RunStopped
from tests import runs
from tests.faults.test_disk import FullFrom


def main(folder: str, choice: str) -> None:
    made = runs.trainer(Path(folder), save_strategy="steps", save_steps=2, max_steps=6, on_save_error=choice)
    if made.accelerator.process_index == 1:
        made.add_callback(FullFrom(range(4, 5), 1_000))
    try:
        made.train()
    except RunStopped as error:
        print(f"process {made.accelerator.process_index} stopped: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
