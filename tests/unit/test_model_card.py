"""README.md of a saved policy."""

from __future__ import annotations

import copy

import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerState

from rlcredit import CreditGRPOConfig, CreditPPOConfig
from rlcredit.trainers.model_card import model_card, write_card
from tests import tiny

OPTIONS = {"use_cpu": True, "bf16": False, "report_to": [], "num_generations": 4, "per_device_train_batch_size": 4}
STATE = TrainerState(global_step=8, log_history=[{"reward": 0.25}, {"loss": 1.0}, {"reward": 0.5}])


def test_a_card_names_strategy_settings_task_and_results(tmp_path):
    config = CreditGRPOConfig(str(tmp_path / "mine"), credit_quantile=0.3, credit_lookback=2, **OPTIONS)
    card = model_card(
        config,
        STATE,
        {"model": "Qwen/Qwen3-0.6B", "task": "gsm8k"},
        {"before": {"gsm8k": [0.0, 1.0, 0.0, 0.0]}, "after": {"gsm8k": [1.0, 1.0, 0.0, 0.0]}},
    )
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["base_model"] == "Qwen/Qwen3-0.6B" and metadata["library_name"] == "transformers"
    assert {"rlcredit", "trl", "grpo"} <= set(metadata["tags"])
    assert "GRPO with token-level credit (`credit_strategy: coupled_rhythm`)" in text
    assert "from `Qwen/Qwen3-0.6B`, on `gsm8k`." in text
    assert "After 8 optimiser steps" in text and "| mean reward of a rollout | 0.250 | 0.500 |" in text
    assert "| accuracy on gsm8k, 4 held-out problems | 0.250 | 0.500 |" in text
    assert "| `credit_quantile` | `0.3` |" in text and "| `credit_lookback` | `2` |" in text
    assert "credit_alpha" not in text  # at its default
    assert "| `num_generations` | `4` |" in text and "arXiv:2510.13554" in text


def test_a_card_of_a_folder_without_facts(tmp_path):
    """As the trainer has it in Python, where no recipe says what the task is."""
    config = CreditPPOConfig(str(tmp_path), **OPTIONS)
    policy = get_peft_model(AutoModelForCausalLM.from_config(copy.deepcopy(tiny.FAMILIES["llama"])), LoraConfig())
    write_card(config, TrainerState(global_step=0, log_history=[]), policy)
    text = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in text and "Adapters (LoRA) of a policy trained with" in text
    assert "PPO with token-level credit" in text and ", on `" not in text and "base_model" not in text


def test_a_local_model_is_no_base_model_of_the_hub(tmp_path):
    config = CreditGRPOConfig(str(tmp_path), **OPTIONS)
    card = model_card(config, STATE, {"model": "policies/mine/long"}, {})
    assert "base_model" not in card and "from `policies/mine/long`" in card
