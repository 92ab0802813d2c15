"""rlcredit: token-level credit for RL fine-tuning of language models, guided by attention (arXiv 2510.13554)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlcredit.attention import analyze, analyze_thirds
    from rlcredit.credit import (
        CREDIT_STRATEGIES,
        Batch,
        Credit,
        CreditArguments,
        Rollout,
        Strategy,
        Valuing,
        assign_credit,
        credit_weights,
    )
    from rlcredit.signals import AttentionSignals, HeadGroups
    from rlcredit.trainers.grpo import CreditGRPOTrainer
    from rlcredit.trainers.grpo_config import CreditGRPOConfig
    from rlcredit.trainers.ppo import CreditPPOTrainer
    from rlcredit.trainers.ppo_config import CreditPPOConfig
    from rlcredit.trainers.sturdy import SturdyGRPOTrainer
    from rlcredit.trainers.sturdy_config import SturdyGRPOConfig

__version__ = "0.1.0"

# Loaded on first use: importing TRL's trainer takes seconds, the command line's answers should not.
_HOMES = {
    **dict.fromkeys(("analyze", "analyze_thirds"), "rlcredit.attention"),
    **dict.fromkeys(
        ("CREDIT_STRATEGIES", "Batch", "Credit", "CreditArguments", "Rollout", "Strategy", "Valuing"),
        "rlcredit.credit",
    ),
    **dict.fromkeys(("assign_credit", "credit_weights"), "rlcredit.credit"),
    **dict.fromkeys(("AttentionSignals", "HeadGroups"), "rlcredit.signals"),
    "CreditGRPOConfig": "rlcredit.trainers.grpo_config",
    "CreditGRPOTrainer": "rlcredit.trainers.grpo",
    "CreditPPOConfig": "rlcredit.trainers.ppo_config",
    "CreditPPOTrainer": "rlcredit.trainers.ppo",
    "SturdyGRPOConfig": "rlcredit.trainers.sturdy_config",
    "SturdyGRPOTrainer": "rlcredit.trainers.sturdy",
}

__all__ = [
    "CREDIT_STRATEGIES",
    "AttentionSignals",
    "Batch",
    "Credit",
    "CreditArguments",
    "CreditGRPOConfig",
    "CreditGRPOTrainer",
    "CreditPPOConfig",
    "CreditPPOTrainer",
    "HeadGroups",
    "Rollout",
    "Strategy",
    "SturdyGRPOConfig",
    "SturdyGRPOTrainer",
    "Valuing",
    "analyze",
    "analyze_thirds",
    "assign_credit",
    "credit_weights",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlcredit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
