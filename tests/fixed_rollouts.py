"""Runs whose completions are fixed, to compare ways of cutting the same batches: machines, processes, micro-batches.

A completion depends on its prompt and its place in the prompt's group, its reward on itself, and every optimiser step
uses the whole of its rollout: what is left to differ is rounding. In this process, or one process of a launch:

    run(folder, gradient_accumulation_steps=2)
    accelerate launch ... -m tests.fixed_rollouts FOLDER '{"gradient_accumulation_steps": 1}'

Two cuts are the same if processes x per_device_train_batch_size x gradient_accumulation_steps is.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcredit import CreditGRPOTrainer, CreditPPOTrainer
from tests import runs, tiny

Row = tuple[int, tuple[int, ...], tuple[int, ...]]
"""A response: its optimiser step, the prompt's tokens, its own tokens."""


class Recording:
    """Keeps the factor on the advantage of every response, or its own advantages, without padding."""

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.weights: dict[Row, Tensor] = getattr(self, "weights", {})
        normalized = self.args.credit_normalize != "none"
        kept = self._weighted(inputs) if self.strategy.gives_advantages or normalized else inputs["credit_weights"]
        for row, weights in enumerate(kept):
            prompt, response = (
                inputs[f"{part}_ids"][row][inputs[f"{part}_mask"][row].bool()] for part in ("prompt", "completion")
            )
            key = self.state.global_step, tuple(prompt.tolist()), tuple(response.tolist())
            self.weights[key] = weights[inputs["completion_mask"][row].bool()].clone()
        return loss


class RecordedGRPO(Recording, CreditGRPOTrainer):
    pass


class RecordedPPO(Recording, CreditPPOTrainer):
    pass


def rollout(prompts: list[str], trainer: CreditGRPOTrainer) -> dict[str, Any]:
    """Responses of 6 to 16 tokens, drawn from a seed that is made of the prompt and the place in its group."""
    before = trainer.accelerator.process_index * len(prompts)  # rows of the whole batch that other processes hold
    responses = []
    for number, prompt in enumerate(prompts, before):
        drawn = torch.Generator().manual_seed(zlib.crc32(f"{prompt} {number % trainer.num_generations}".encode()))
        length = int(torch.randint(6, 17, (), generator=drawn))
        responses.append(torch.randint(2, 40, (length,), generator=drawn).tolist())
    return {
        "prompt_ids": trainer.processing_class(prompts)["input_ids"],
        "completion_ids": responses,
        "logprobs": None,
    }


def of_some_prompts(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that is the same for the whole group where the prompt begins with "b", as every other one does."""
    digits = tiny.count_digits(completions)
    return [0.5 if prompt.startswith("b") else share for prompt, share in zip(prompts, digits, strict=True)]


def run(folder: Path, algorithm: str = "grpo", **changes: Any) -> None:
    """Train five steps and write what this process saw to `folder`; `changes` are settings of `tests.runs`."""
    settings = {"max_steps": 5, "gradient_accumulation_steps": 1, **changes}
    settings["steps_per_generation"] = settings["gradient_accumulation_steps"]
    if settings.get("dynamic_sampling"):
        settings["reward"] = of_some_prompts
    made = runs.trainer(folder, {"grpo": RecordedGRPO, "ppo": RecordedPPO}[algorithm], **settings)
    made.rollout_func = rollout
    made.train()
    folder.mkdir(parents=True, exist_ok=True)
    parameters = runs.parameters(made)
    if algorithm == "ppo":
        critic = made.accelerator.unwrap_model(made.critic.model)
        parameters |= {f"critic.{name}": value.detach() for name, value in critic.named_parameters()}
    found = {
        "losses": [line["loss"] for line in runs.logged(made)],
        "weights": made.weights,
        "parameters": parameters,
    }
    torch.save(found, folder / f"rank{made.accelerator.process_index}.pt")


class Result(NamedTuple):
    """What all processes of a run saw: losses and parameters, which they share, and the weights of every response."""

    losses: list[float]
    weights: dict[Row, Tensor]
    parameters: dict[str, Tensor]


def read(folder: Path, processes: int = 1) -> Result:
    """The result of a run; its processes must have ended with the same parameters."""
    files = sorted(folder.glob("rank*.pt"))
    assert len(files) == processes
    first, *others = (torch.load(file) for file in files)
    weights = dict(first["weights"])
    for other in others:
        assert all(torch.equal(value, other["parameters"][name]) for name, value in first["parameters"].items())
        assert not weights.keys() & other["weights"].keys()
        weights |= other["weights"]
    return Result(first["losses"], weights, first["parameters"])


def assert_same(one: Result, two: Result, tolerance: float = 1e-5) -> None:
    """Losses, parameters, and the credit weights of the same responses agree."""
    near = dict(rtol=0, atol=tolerance)
    assert len(one.losses) == len(two.losses)
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(two.losses), **near)
    assert one.weights.keys() == two.weights.keys()
    torch.testing.assert_close(one.weights, two.weights, **near)
    torch.testing.assert_close(one.parameters, two.parameters, **near)


if __name__ == "__main__":
    run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
