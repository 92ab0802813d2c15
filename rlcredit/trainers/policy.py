"""What of a policy decides whether, and when, its attention can be read."""

from __future__ import annotations

import logging

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from rlcredit.attention import choose_layers
from rlcredit.trainers.grpo_config import CreditGRPOConfig

logger = logging.getLogger(__name__)


def refuse_unreadable(model: str | PreTrainedModel, args: CreditGRPOConfig) -> None:
    """Raise a ValueError before weights load, if the layers asked for are not there to be read."""
    if isinstance(model, str):
        options = args.model_init_kwargs or {}
        config = AutoConfig.from_pretrained(
            model, revision=options.get("revision"), trust_remote_code=args.trust_remote_code
        )
    else:
        config = model.config
    choose_layers(config, args.credit_layers, args.credit_num_layers)


def adapter_is_off(model: nn.Module) -> bool:
    """Whether this is PEFT's way of running the reference: adapters disabled, or the copy called "ref" active."""
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return layer is not None and (layer.disable_adapters or "ref" in layer.active_adapters)


def head_of(policy: nn.Module) -> nn.Module:
    """The model whose forward has TRL's fused head: that under an adapter."""
    return policy.get_base_model() if isinstance(policy, PeftModel) else policy


def widen_head(policy: nn.Module, args: CreditGRPOConfig, temperature: float) -> None:
    """Have TRL's fused head give the log of the sum of squared probabilities too, at a small cost a pass."""
    outputs = ("log_probs", "entropy", "log_sum_sq_probs")
    add_fused_lm_head(
        head_of(policy), temperature=temperature, cast_lm_head_to_fp32=args.cast_lm_head_to_fp32, outputs=outputs
    )


def warn_of_dropout(model: PreTrainedModel) -> None:
    """Say that a training pass of a policy with dropout shows other attention than an evaluation pass.

    That of LoRA is left out, which TRL has by default: it concerns what adapters add, not what they are added to.
    """
    dropouts = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    rates = [rate for name, rate in dropouts.items() if "lora_dropout" not in name.split(".")]
    rates.append(getattr(model.config.get_text_config(), "attention_dropout", None) or 0.0)
    if max(rates) > 0:
        logger.warning(
            "the policy has dropout: attention read from a training pass differs from that of an evaluation pass; set "
            "disable_dropout: true"
        )
