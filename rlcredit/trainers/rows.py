"""Rows of a batch as TRL makes it: prompt and completion apart, padded to the outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def joined(batch: dict[str, Any], what: str) -> Tensor:
    """Prompt and completion side by side, their "ids" or their "mask": [B, N]."""
    return torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1)


def loss_mask(batch: dict[str, Any]) -> Tensor:
    """Where the loss is taken: the tokens that the model wrote, int [B, T]."""
    return batch["completion_mask"] * batch["tool_mask"] if "tool_mask" in batch else batch["completion_mask"]


def response_mask(batch: dict[str, Any]) -> Tensor:
    """The same over prompt and completion: bool [B, N]."""
    return torch.cat([torch.zeros_like(batch["prompt_mask"]), loss_mask(batch)], dim=1).bool()


def advantages_of(batch: dict[str, Any]) -> Tensor:
    """The strategy's own advantages [B, T] where it has some, else the trainer's: [B], or [B, T] of PPO."""
    return batch.get("credit_advantages", batch["advantages"])


def total_of(scores_BF: Tensor, weights_F: Tensor) -> Tensor:
    """The weighted sum of the reward functions: [B], nan where none of them scored."""
    total_B = (scores_BF * weights_F.to(scores_BF.device)).nansum(dim=1)
    return torch.where(scores_BF.isnan().all(dim=1), torch.nan, total_B)
