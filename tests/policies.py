"""The configurations of the paper's policies, and a tokenizer of single characters: what a dry run needs, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen3Config

from tests import tiny


def _qwen3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> PretrainedConfig:
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32_768,
        tie_word_embeddings=tied,
    )


def _llama3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=tied,
    )


POLICIES = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B-Base": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-8B-Base": _qwen3(4096, 36, 32, 12_288, tied=False),
    "meta-llama/Llama-3.2-3B": _llama3(3072, 28, 24, 8192, tied=True),
    "meta-llama/Llama-3.1-8B": _llama3(4096, 32, 32, 14_336, tied=False),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _llama3(4096, 32, 32, 14_336, tied=False),
}
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_policy(name: str, folder: Path) -> str:
    """A folder with the configuration of a policy of the paper and a tokenizer, and no weights."""
    POLICIES[name].save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def local_data(task: str, folder: Path, rows: int = 80) -> dict[str, Any]:
    """`task_options` that put small local files in place of a task's sets on the hub."""
    letters = {"choices": ["yes", "no"], "answer": "A"} if task == "qa" else {"answer": "4"}
    train = save_rows(folder / "train.jsonl", [{"question": f"what is {i} and more?", **letters} for i in range(rows)])
    test = save_rows(folder / "test.jsonl", [{"question": f"how many are {i}?", **letters} for i in range(6)])
    return {"train": train, "test": test}


def distinct(completions: list[str], **_: object) -> list[float]:
    """A reward that differs between completions of random weights: the share of distinct characters."""
    return [len(set(text)) / max(len(text), 1) for text in completions]
