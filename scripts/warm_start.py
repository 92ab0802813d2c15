"""Warm-start a language model on Countdown: reinforcement needs a model that is right now and then.

    rlcredit prepare-model smollm2-135m models/smollm2
    python scripts/warm_start.py --model models/smollm2 --output models/smollm2_countdown

Supervised learning, by TRL's SFTTrainer, on demonstrations of two players (players.py) in the words of a recipe's
prompts. Only training instances of the recipe are demonstrated, no validation and no held-out ones.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path

import datasets
import torch
from players import CAREFUL, HASTY, demonstrate
from trl import SFTConfig, SFTTrainer

from rlcredit.config import peek
from rlcredit.tasks import TASKS

OPENING = "<think>"


def demonstrations(options: Mapping[str, object], hasty_share: float, seed: int) -> datasets.Dataset:
    """Prompt and completion of every training instance of these `task_options`, three numbers each."""
    rng = random.Random(seed)
    rows = []
    for row in TASKS["countdown"](options).train.to_list():
        player = HASTY if rng.random() < hasty_share else CAREFUL
        response = demonstrate(player, row["numbers"], row["target"], rng)
        if row["prompt"].endswith(OPENING):  # the prompt in words opens the response
            response = response.removeprefix(OPENING)
        rows.append({"prompt": row["prompt"], "completion": response})
    return datasets.Dataset.from_list(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="the model to start from: a folder or an id")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the policy to")
    parser.add_argument(
        "--recipe", default="benchmark/countdown_smollm2", help="the recipe with the instances and the prompts"
    )
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps")
    parser.add_argument("--batch_size", type=int, default=32, help="demonstrations a step")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument(
        "--hasty_share", type=float, default=0.5, help="share of the demonstrations by the hasty player"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    has_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(arguments.output),
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(20, arguments.steps),
        bf16=has_gpu,
        use_cpu=not has_gpu,
        gradient_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        seed=arguments.seed,
        model_init_kwargs={"dtype": "float32"},
    )
    options = peek(["--config", arguments.recipe], "task_options")
    rows = demonstrations(options, arguments.hasty_share, arguments.seed)
    trainer = SFTTrainer(arguments.model, config, train_dataset=rows)
    trainer.train()
    trainer.save_model()
    print(f"saved to {arguments.output}")


if __name__ == "__main__":
    main()
