"""gamma and the advantage: where weights are made of a choice, and where sign and mask are applied (eq. 12-13)."""

import torch
from torch import Tensor


def amplify(chosen: Tensor, amplification: float) -> Tensor:
    """gamma_t = 1 + (a - 1) * 1{t chosen}: fp32, of the shape of `chosen`."""
    return torch.where(chosen, float(amplification), 1.0)


def weighted_advantage(advantages: Tensor, weights_BT: Tensor, sign: str) -> Tensor:
    """gamma_t * A_t, for the advantages whose sign is asked for: [B, T].

    Args:
        advantages: [B] (GRPO: one for the response) or [B, T] (PPO), as they enter the loss.
        weights_BT: gamma; 1 outside the loss mask.
        sign: "both", "positive" or "negative": the advantages of the other sign keep gamma = 1 (Table 7a).
    """
    advantages_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    if sign == "positive":
        weights_BT = torch.where(advantages_BT > 0, weights_BT, 1.0)
    elif sign == "negative":
        weights_BT = torch.where(advantages_BT < 0, weights_BT, 1.0)
    return advantages_BT * weights_BT
