"""Whether trained weights can move: in 16 bits, a step of a small learning rate is mostly rounded away."""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)


def warn_of_16_bits(model: nn.Module, learning_rate: float) -> None:
    """Say that trained weights are in 16 bits where nothing keeps a float32 copy that small steps add up in."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    low = [parameter for parameter in trained if parameter.dtype in (torch.bfloat16, torch.float16)]
    if low:
        share = sum(p.numel() for p in low) / sum(p.numel() for p in trained)
        logger.warning(
            "dtype: %.0f %% of the trained weights are in %s, and nothing keeps a float32 copy of them: at a learning "
            "rate of %g most of a step is rounded away; write dtype: float32 with bf16: true, or launch with FSDP or "
            "DeepSpeed",
            100 * share,
            str(low[0].dtype).removeprefix("torch."),
            learning_rate,
        )
