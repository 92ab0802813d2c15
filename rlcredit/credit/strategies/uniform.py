"""uniform: plain GRPO or PPO, every token the same.

Formula:  gamma_t = 1.
Reads:    nothing.
In the trainer the advantage then stays (B,), so that loss and gradient are TRL's own (bit for bit with
`trim_padding: false`).
"""

import torch

from rlcredit.credit.types import Batch, Credit, Strategy


def _assign(batch: Batch) -> Credit:
    return Credit.of(torch.ones_like(batch.response, dtype=torch.float32))


uniform = Strategy(_assign, needs=frozenset(), neutral=True)
