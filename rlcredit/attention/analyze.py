"""`analyze`: the signals of a batch of responses, from one forward pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlcredit.attention.capture import Capture, StopForward
from rlcredit.attention.layers import choose_layers
from rlcredit.credit import CreditArguments, find_strategy
from rlcredit.signals import AttentionSignals, HeadGroups, HeadStatistics, group_heads, signals_of_groups


@torch.no_grad()
def analyze(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    args: CreditArguments | None = None,
    *,
    heads: HeadGroups | None = None,
    entropy: bool | None = None,
    temperature: float = 1.0,
) -> AttentionSignals:
    """WAAD, FAI and the head groups of a batch (arXiv 2510.13554, eq. 7-10).

    The forward stops after the last layer needed, unless the entropy is asked for. The model's attention
    implementation stays as it is; it runs in evaluation mode and is left in the mode it was in.

    Args:
        model: a decoder-only causal language model of transformers, wrapped by PEFT or not.
        input_ids, attention_mask: [B, N]; each row's tokens in one run, padded left or right.
        response_mask: [B, N], true at the response's tokens: no prompt, no padding, no tool output. Several spans
            are fine.
        args: which layers, heads, window and horizon; the defaults of the paper if left out.
        heads: frozen head groups to use instead of each response's own split.
        entropy: also read the entropy of each token's distribution (a full pass); by default where the strategy
            of `args` needs it.
        temperature: sampling temperature, for the entropy.

    Raises: ValueError, naming the argument and the rows.
    """
    args = args or CreditArguments()
    check_masks(input_ids, attention_mask, response_mask)
    if entropy is None:
        entropy = "entropy" in find_strategy(args.credit_strategy).needs
    capture = open_capture(
        model, args, attention_mask, response_mask, finish=signals_maker(args, heads), stop_early=not entropy
    )
    with evaluating(model), capture.reading(), suppress(StopForward):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    (signals,) = capture.results()
    if not entropy:
        return signals
    entropies = next_token_entropy(output.logits, temperature)
    return with_entropy(signals, torch.where(response_mask.bool(), entropies, torch.nan))


def signals_maker(
    args: CreditArguments, heads: HeadGroups | None = None
) -> Callable[[HeadStatistics], AttentionSignals]:
    """A function from per-head statistics to signals: with the groups given, or with each response's own."""

    def make(statistics: HeadStatistics) -> AttentionSignals:
        groups = heads or group_heads(
            statistics.span_BLH, args.credit_head_fraction, every_head=args.credit_heads == "all"
        )
        return signals_of_groups(statistics, groups)

    return make


def open_capture(
    model: Any, args: CreditArguments, real_mask: Tensor, response_mask: Tensor, **options: Any
) -> Capture:
    """A capture of the layers, window and horizon that `args` asks for, for a model wrapped or not."""
    config = model.config if hasattr(model, "config") else model.module.config
    layers = choose_layers(config, args.credit_layers, args.credit_num_layers)
    return Capture(model, layers, real_mask, response_mask, args.credit_waad_window, args.horizon, **options)


def with_entropy(signals: AttentionSignals, entropy: Tensor) -> AttentionSignals:
    """The same signals with the entropy [B, N] beside them."""
    return replace(signals, entropy=entropy.float())


def next_token_entropy(logits_BNV: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of the distribution that produced each token (logits of the position before): [B, N]."""
    entropies = torch.full(logits_BNV.shape[:2], torch.nan, device=logits_BNV.device)
    for position in range(logits_BNV.shape[1] - 1):  # a position at a time: the fp32 copy of all logits is large
        logp_BV = (logits_BNV[:, position].float() / temperature).log_softmax(-1)
        entropies[:, position + 1] = -(logp_BV.exp() * logp_BV).nansum(-1)
    return entropies


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode, then leave every module in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_masks(input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> None:
    """Raise a ValueError that names the argument and the rows, if the masks do not describe responses."""
    for name, mask in (("attention_mask", attention_mask), ("response_mask", response_mask)):
        if mask.shape != input_ids.shape:
            raise ValueError(f"{name}: shape {list(mask.shape)} differs from input_ids {list(input_ids.shape)}")
    real, response = attention_mask.bool(), response_mask.bool()
    starts = real.long().diff(dim=1, prepend=torch.zeros_like(real[:, :1], dtype=torch.long)) == 1
    _refuse_rows(starts.sum(1) != 1, "attention_mask: must be one run of ones")
    _refuse_rows((response & ~real).any(1), "response_mask: covers padding")
    _refuse_rows(~response.any(1), "response_mask: is empty")


def _refuse_rows(bad_B: Tensor, message: str) -> None:
    if rows := bad_B.nonzero().flatten().tolist():
        raise ValueError(f"{message} (rows {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''})")
