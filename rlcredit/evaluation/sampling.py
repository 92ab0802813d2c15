"""Completions that depend on problem and seed alone: not on the batch, the order, or the number of processes.

Every sample has a stream of uniform numbers of its own, keyed by (seed, problem, sample). Token t is drawn by
inverting the cumulative distribution at the t-th number, so what else is in the batch does not matter. (Rounding does:
another batch may move a probability by a part in a million, and about one token in a million with it. Batches are
therefore cut before they are handed to processes; see `samples`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlcredit.evaluation.decoding import own_decoding
from rlcredit.evaluation.prompts import Prompt, PromptRenderer
from rlcredit.models.modes import evaluating

_KEEPS_ROWS = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_new_tokens: tokens a completion may have.
        temperature: 0 is greedy.
        top_p: keep the most likely tokens that together have this probability; 1: all.
        top_k: keep this many of the most likely tokens; 0: all.
        seed: of the samples' streams.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class Completion(NamedTuple):
    """A completion.

    Attributes:
        text: without special tokens.
        ids: its tokens as drawn, the closing one included.
        truncated: whether it was cut off at `max_new_tokens`.
    """

    text: str
    ids: list[int]
    truncated: bool

    @property
    def tokens(self) -> int:
        return len(self.ids)


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    prompts: Sequence[Prompt],
    streams: Sequence[tuple[int, int]],
    sampling: Sampling,
) -> list[Completion]:
    """One completion a prompt, by these settings alone: nothing of the model's generation config but its tokens.

    Draws nothing from the global random streams and leaves the model in the mode it was in.

    Args:
        model: any model with `generate`, adapters included.
        renderer: how prompts become tokens.
        prompts: texts, or conversations.
        streams: which problem and which of its samples each prompt is: what, with the seed, decides the sample.
        sampling: temperature and the like.
    """
    tokenizer = renderer.tokenizer
    ends = end_tokens(model, tokenizer)
    drawn = continue_ids(model, renderer.ids(prompts), streams, sampling, ends, tokenizer.pad_token_id)
    return [Completion(tokenizer.decode(ids, skip_special_tokens=True), ids, ids[-1] not in ends) for ids in drawn]


@torch.no_grad()
def continue_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[tuple[int, ...]],
    sampling: Sampling,
    ends: Sequence[int],
    pad: int | None = None,
    *,
    read_once: bool = False,
) -> list[list[int]]:
    """The tokens drawn after each text, up to the first that ends it, which is included.

    As `complete`: by these settings alone, in evaluation mode, and nothing is drawn from the global random streams.

    Args:
        prompts: the tokens of each text; at least one each.
        streams: what, with the seed, decides the sample of each.
        ends: the tokens that end a text.
        pad: the token that fills a batch, on the left; None: the first of `ends`.
        read_once: whether equal texts pass through the model once, where its cache allows; what is drawn is the same
            up to rounding. Not where processes have to run as many passes as each other.
    """
    pad, width = ends[0] if pad is None else pad, max(map(len, prompts))
    ids_BN = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device)
    real_BN = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    with evaluating(model), own_decoding(model):
        read = _read_once(model, ids_BN, real_BN, prompts, pad) if read_once else None
        drawn = model.generate(
            input_ids=ids_BN,
            attention_mask=real_BN,
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=pad,
            logits_processor=_processors(sampling, streams, width),
            use_cache=True,
            **({} if read is None else {"past_key_values": read}),
        )[:, width:].tolist()
    return [_until(ids, ends) for ids in drawn]


def _read_once(
    model: PreTrainedModel, ids_BN: Tensor, real_BN: Tensor, texts: Sequence[Sequence[int]], pad: int
) -> DynamicCache | None:
    """What a model keeps of all tokens but the last, each distinct text read once; None where it saves nothing."""
    first = {tuple(text): row for row, text in reversed(list(enumerate(texts)))}
    if len(first) == len(texts) or min(map(len, texts)) < 2:
        return None
    rows = torch.tensor(list(first.values()), device=model.device)
    cache = model.generate(
        input_ids=ids_BN[rows, :-1],
        attention_mask=real_BN[rows, :-1],
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=pad,
        use_cache=True,
        return_dict_in_generate=True,
    ).past_key_values
    # What an attention layer keeps is one row a text. Other layers keep states that are not checked here.
    if not isinstance(cache, DynamicCache) or any(type(layer) not in _KEEPS_ROWS for layer in cache.layers):
        return None
    place = {text: number for number, text in enumerate(first)}
    cache.reorder_cache(torch.tensor([place[tuple(text)] for text in texts], device=model.device))
    return cache


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion: the tokenizer's (which training ends on), and the model's own."""
    own = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in ends if token is not None))


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first that ends a text, which is included."""
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]


def _processors(sampling: Sampling, streams: Sequence[tuple[int, ...]], width: int) -> LogitsProcessorList:
    """What turns scores into a choice; nothing at temperature 0."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    chain += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    chain += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList([*chain, _Draw(_uniform(sampling, streams), width)])


def _uniform(sampling: Sampling, streams: Sequence[tuple[int, ...]]) -> Tensor:
    """The numbers of the streams in [0, 1): float64 [B, max_new_tokens]."""
    rows = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([sampling.seed, *stream]))) for stream in streams
    ]
    return torch.from_numpy(np.stack([row.random(sampling.max_new_tokens) for row in rows]))


class _Draw(LogitsProcessor):
    """Leaves one token a row: where the cumulative distribution passes the row's number."""

    def __init__(self, uniform_BT: Tensor, width: int) -> None:
        self._uniform_BT, self._width = uniform_BT, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        t = input_ids.shape[1] - self._width
        cumulative_BV = scores.float().softmax(-1).double().cumsum(-1)
        wanted_B1 = self._uniform_BT[:, t : t + 1].to(scores.device) * cumulative_BV[:, -1:]
        # the first token at which the sum exceeds the number: never one of probability 0
        token_B1 = torch.searchsorted(cumulative_BV, wanted_B1, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token_B1, 0.0)
