"""Held-out accuracy of a policy, greedy: the figure before and after a run."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlcredit.attention.eager import evaluating
from rlcredit.tasks.base import AccuracyFunction


@torch.no_grad()
def greedy_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    correct: AccuracyFunction,
    accelerator: Accelerator,
    max_new_tokens: int,
    batch_size: int = 128,
) -> float:
    """Share of rows answered correctly at temperature 0, over all processes.

    Draws nothing from the random streams and leaves the model in the mode it was in.
    """
    mine = rows.select(range(accelerator.process_index, len(rows), accelerator.num_processes))
    solved = 0.0
    with evaluating(model), accelerator.autocast():
        for start in range(0, len(mine), batch_size):
            part = mine.select(range(start, min(start + batch_size, len(mine))))
            solved += sum(correct(_complete(model, tokenizer, part["prompt"], max_new_tokens), part))
    total = accelerator.reduce(torch.tensor(solved, device=accelerator.device), reduction="sum")
    return total.item() / len(rows)


def _complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list, max_new_tokens: int
) -> list[str]:
    """Greedy completions of prompts, texts or conversations, as the trainer would render and decode them."""
    prompts = list(prompts)
    if isinstance(prompts[0], str):
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    else:
        inputs = tokenizer.apply_chat_template(
            prompts,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
