"""`analyze`: the signals of a batch of responses, from one forward pass of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlcredit.attention.capture import Capture, StopForward, unwrapped
from rlcredit.attention.layers import choose_layers, layer_thirds, softmax_layers
from rlcredit.credit import CreditArguments, strategy_of
from rlcredit.models.modes import evaluating
from rlcredit.signals import (
    AttentionSignals,
    HeadGroups,
    HeadStatistics,
    group_heads,
    receiver_kurtosis,
    signals_of_groups,
)


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
    answer_mask: Tensor | None = None,
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
        answer_mask: [B, N], true at the tokens of the answer, for `credit_fai_rows: answer`; FAI is undefined in rows
            without one.

    Raises: ValueError, naming the argument and the rows.
    """
    args = args or CreditArguments()
    if (answer_mask is not None) != (args.credit_fai_rows == "answer"):
        raise ValueError(
            f"answer_mask: is {'missing' if answer_mask is None else 'given'}, and credit_fai_rows is "
            f"{args.credit_fai_rows}; give it where that is answer, and only there"
        )
    if entropy is None:
        entropy = "entropy" in strategy_of(args).needs
    layers = choose_layers(unwrapped(model).config, args.credit_layers, args.credit_num_layers)
    statistics, logits = _read(
        model, input_ids, attention_mask, response_mask, args, layers, whole=entropy, fai_rows=answer_mask
    )
    signals = signals_maker(args, heads)(statistics)
    if not entropy:
        return signals
    entropies = next_token_entropy(logits, temperature)
    return with_entropy(signals, torch.where(response_mask.bool(), entropies, torch.nan))


@torch.no_grad()
def analyze_thirds(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    args: CreditArguments | None = None,
) -> dict[str, AttentionSignals]:
    """The signals of all layers, and of the bottom, middle and top third of them, from one pass (Tables 10-12).

    Arguments as for `analyze`, without `credit_layers` and `credit_num_layers`: every layer with softmax attention is
    read, and heads are grouped within each third. A third that has no layer (a model of one or two) is left out.

    Returns: "all", "bottom", "middle", "top" -> signals.
    """
    args = args or CreditArguments()
    layers = softmax_layers(unwrapped(model).config)
    statistics, _ = _read(model, input_ids, attention_mask, response_mask, args, layers, whole=False)
    parts = thirds(model, statistics)
    return {name: signals_maker(args)(part) for name, part in parts.items()}


def thirds(model: PreTrainedModel, statistics: HeadStatistics) -> dict[str, HeadStatistics]:
    """Statistics of every layer, and of the thirds of them that have layers: "all", "bottom", "middle", "top"."""
    parts = layer_thirds(unwrapped(model).config)
    return {"all": statistics, **{name: statistics.of_layers(layers) for name, layers in parts.items() if layers}}


@torch.no_grad()
def read_everything(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    args: CreditArguments,
    temperature: float = 1.0,
) -> tuple[HeadStatistics, Tensor]:
    """The statistics of every layer with softmax attention, and the entropy [B, N], from one whole pass.

    Any signals follow: `signals_maker(args)(statistics.of_layers(...))`. Arguments and errors as for `analyze`.
    """
    layers = softmax_layers(unwrapped(model).config)
    statistics, logits = _read(model, input_ids, attention_mask, response_mask, args, layers, whole=True)
    return statistics, torch.where(response_mask.bool(), next_token_entropy(logits, temperature), torch.nan)


def _read(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    args: CreditArguments,
    layers: list[int],
    *,
    whole: bool,
    fai_rows: Tensor | None = None,
) -> tuple[HeadStatistics, Tensor]:
    """(statistics of these layers, logits), from a forward that stops after the last of them unless `whole`."""
    check_masks(input_ids, attention_mask, response_mask)
    # a process that stops early would leave the others waiting for its shards
    stop_early = not whole and not _is_sharded(model)
    capture = _capture(model, layers, args, attention_mask, response_mask, fai_rows=fai_rows, stop_early=stop_early)
    logits = torch.empty(0)
    with evaluating(model), capture.reading(), suppress(StopForward):
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    (statistics,) = capture.results()
    bad_BL = ~statistics.span_BLH.isfinite().all(-1)
    if bad_BL.any():
        where = ", ".join(str(statistics.layers[i]) for i in bad_BL.any(0).nonzero().flatten().tolist())
        _refuse_rows(bad_BL.any(1), f"model: its queries or keys are not finite in layers {where}")
    return statistics, logits


def _is_sharded(model: Any) -> bool:
    """Whether processes hold parts of the weights (FSDP, DeepSpeed ZeRO-3), which they gather layer by layer."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters()) or any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    )


def signals_maker(
    args: CreditArguments, heads: HeadGroups | None = None
) -> Callable[[HeadStatistics], AttentionSignals]:
    """A function from per-head statistics to signals: with the groups given, or with each response's own."""

    def make(statistics: HeadStatistics) -> AttentionSignals:
        with torch.autocast(statistics.span_BLH.device.type, enabled=False):
            return signals_of_groups(statistics, heads or head_groups(statistics, args))

    return make


def head_groups(
    statistics: HeadStatistics, args: CreditArguments, shared: Callable[[Tensor], Tensor] = lambda score_BLH: score_BLH
) -> HeadGroups:
    """The head groups that the settings ask for.

    Args:
        shared: makes one score a head [1, L, H] of all rows' [B, L, H], for a split that rows share; by default each
            row has its own.
    """
    receiver = args.credit_heads == "receiver"
    return group_heads(
        shared(statistics.span_BLH),
        args.credit_head_fraction,
        kurtosis_BLH=shared(receiver_kurtosis(statistics.fai_BLHN)) if receiver else None,
        every_head=args.credit_heads == "all",
    )


def open_capture(
    model: Any, args: CreditArguments, real_mask: Tensor, response_mask: Tensor, **options: Any
) -> Capture:
    """A capture of the layers, window and horizon that `args` asks for, for a model wrapped or not."""
    layers = choose_layers(unwrapped(model).config, args.credit_layers, args.credit_num_layers)
    return _capture(model, layers, args, real_mask, response_mask, **options)


def _capture(
    model: Any, layers: list[int], args: CreditArguments, real_mask: Tensor, response_mask: Tensor, **options: Any
) -> Capture:
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


def check_masks(input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> None:
    """Raise a ValueError that names the argument and the rows, if the masks do not describe responses."""
    for name, mask in (("attention_mask", attention_mask), ("response_mask", response_mask)):
        if mask.shape != input_ids.shape:
            raise ValueError(f"{name}: shape {list(mask.shape)} differs from input_ids {list(input_ids.shape)}")
    real, response = attention_mask.bool(), response_mask.bool()
    starts = real.long().diff(dim=1, prepend=torch.zeros_like(real[:, :1], dtype=torch.long)) == 1
    _refuse_rows(starts.sum(1) != 1, "attention_mask: must be one run of ones")
    _refuse_rows((response & ~real).any(1), "response_mask: covers padding")
    first = real & (real.long().cumsum(1) == 1)
    _refuse_rows((response & first).any(1), "response_mask: covers the prompt, whose first token nothing precedes")
    _refuse_rows(~response.any(1), "response_mask: is empty")


def _refuse_rows(bad_B: Tensor, message: str) -> None:
    if rows := bad_B.nonzero().flatten().tolist():
        raise ValueError(f"{message} (rows {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''})")
