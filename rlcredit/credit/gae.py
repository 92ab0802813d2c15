"""Generalised advantage estimation over the tokens that the model wrote (Schulman et al. 2015, arXiv 1506.02438,
eq. 16; the advantage of arXiv 2510.13554, eq. 5).

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * lambda * A_{t+1}

V_t values the state in which token t is chosen. Tokens that the model did not write (tool output, padding) are stepped
over: t + 1 is the next token it wrote, and after the last one V and A are 0.
"""

import torch
from torch import Tensor


def gae(rewards_BT: Tensor, values_BT: Tensor, written_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns): fp32 [B, T] each, 0 where the model wrote nothing. returns = advantages + values.

    Args:
        rewards_BT: r_t, in reward; read where the model wrote.
        values_BT: V_t of the critic, in reward.
        written_BT: bool, the tokens that the model wrote.
        gamma: discount a token, in [0, 1].
        lam: lambda, in [0, 1]: 0 gives one-step TD errors, 1 the reward-to-go less V_t.
    """
    rewards, values = rewards_BT.double(), values_BT.double()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        written = written_BT[:, t].bool()
        advantage = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * next_advantage
        advantages[:, t] = torch.where(written, advantage, 0.0)
        next_advantage = torch.where(written, advantage, next_advantage)
        next_value = torch.where(written, values[:, t], next_value)
    returns = torch.where(written_BT.bool(), advantages + values, 0.0)
    return advantages.float(), returns.float()
