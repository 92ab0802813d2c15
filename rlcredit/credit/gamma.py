"""gamma and the advantage: where weights are made of a choice, and where sign and mask are applied (eq. 12-13)."""

import torch
from torch import Tensor


def amplify(chosen: Tensor, amplification: float) -> Tensor:
    """gamma_t = 1 + (a - 1) * 1{t chosen}: fp32, of the shape of `chosen`."""
    return torch.where(chosen, float(amplification), 1.0)


def weighted_advantage(
    advantages: Tensor,
    weights_BT: Tensor,
    sign: str,
    *,
    mask_BT: Tensor | None = None,
    normalize: str = "none",
    mean: Tensor | None = None,
) -> Tensor:
    """gamma_t * A_t, for the advantages whose sign is asked for: [B, T].

    Args:
        advantages: [B] (GRPO: one for the response) or [B, T] (PPO), as they enter the loss.
        weights_BT: gamma; 1 outside the loss mask.
        sign: "both", "positive" or "negative": the advantages of the other sign keep gamma = 1 (Table 7a).
        mask_BT: the loss mask, for `normalize`.
        normalize: "response": gamma is divided by its mean over the response's tokens [not in the paper], so that arms
            differ in where credit goes and not in how much there is; "batch": by `mean`; "none". The mean is over the
            tokens whose advantage has the sign, and of |gamma| where a strategy's gamma is signed.
        mean: [] or [B, 1], that of the optimiser step's tokens (`sums_of_gamma` over all of its rows).
    """
    advantages_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    meant_BT = _of_sign(advantages_BT, sign)
    if normalize != "none":
        if normalize == "response":
            assert mask_BT is not None
            total, count = sums_of_gamma(advantages, weights_BT, sign, mask_BT, each_row=True)
            mean = total / count.clamp(min=1)
        assert mean is not None
        weights_BT = weights_BT / torch.where(mean > 0, mean, 1.0)
    return advantages_BT * torch.where(meant_BT, weights_BT, 1.0)


def sums_of_gamma(
    advantages: Tensor, weights_BT: Tensor, sign: str, mask_BT: Tensor, *, each_row: bool = False
) -> tuple[Tensor, Tensor]:
    """Sum of |gamma| over the tokens of the mask whose advantage has the sign, and their number: [] or [B, 1] each."""
    advantages_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    meant_BT = _of_sign(advantages_BT, sign) & mask_BT.bool()
    total, count = (weights_BT.double().abs() * meant_BT), meant_BT.double()
    if each_row:
        return total.sum(1, keepdim=True).float(), count.sum(1, keepdim=True).float()
    return total.sum(), count.sum()


def _of_sign(advantages_BT: Tensor, sign: str) -> Tensor:
    if sign == "positive":
        return advantages_BT > 0
    return advantages_BT < 0 if sign == "negative" else torch.ones_like(advantages_BT, dtype=torch.bool)
