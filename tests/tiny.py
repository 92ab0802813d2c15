"""Tiny models, a tokenizer and a data set for tests: no download, no file outside the test's own folder."""

from __future__ import annotations

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

WORDS = ["<pad>", "<eos>", *"0123456789+-*/()= abcdefghijklmnopqrstuvwxyz"]
SHAPE = dict(
    vocab_size=len(WORDS),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=None,
)
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "mistral": MistralConfig(**SHAPE, sliding_window=8),
    "gemma2": Gemma2Config(**SHAPE, head_dim=8, sliding_window=8, attn_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=8),
}
# How far apart two fp32 readings of a model of `model_of` may be, as a share of the value. Its scores reach 60, and
# six layers of rounding leave them off by up to 1e-4 (against float64, on three instruction sets). An attention weight
# is off by that share of itself, and so is a sum of weights, which WAAD, FAI and spans are; of two readings, twice.
SCORE_ERROR = 2e-4


def model_of(family: str, implementation: str | None = None, seed: int = 0, spread: float = 0.4) -> PreTrainedModel:
    """A random model whose attention is far from uniform (weights of standard deviation `spread`)."""
    config = FAMILIES[family]
    if implementation is None:
        implementation = "eager" if family == "gemma2" else "sdpa"  # sdpa has no soft-capping
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=spread)
    return model.eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=" "))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", padding_side="left", truncation_side="left"
    )


def prompts(count: int = 16) -> Dataset:
    """Prompts of different lengths."""
    return Dataset.from_dict({"prompt": ["ab"[i % 2] * (1 + i % 5) + str(i) for i in range(count)]})


def count_digits(completions: list[str], **kwargs: object) -> list[float]:
    """A reward that varies: the share of digits."""
    return [sum(c.isdigit() for c in text) / 20 + 0.001 * len(text) for text in completions]
