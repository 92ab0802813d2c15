"""Reading attention inside a forward pass that runs anyway.

A pass is recognised by the modules that run (those of the model given) and by when and where it runs (inside the
`with`, in its thread): a reference model, the recomputation of gradient checkpointing in the backward, or a pass of
another thread is never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from rlcredit.attention import eager
from rlcredit.attention.scores import AttentionInputs, distance
from rlcredit.attention.seams import BYPASSING, AttentionCall, index_in_path, watch_interface, watch_modules
from rlcredit.attention.stream import Block, Statistics, head_statistics, row_blocks, statistics_of_blocks
from rlcredit.signals import HeadStatistics

# Attention modules whose family's eager function was found to give the rows that this package computes.
_AGREEING: WeakSet[nn.Module] = WeakSet()
PACKED = ("cu_seq_lens_q", "tree_kv_index")  # what transformers and TRL give attention with such rows
NOT_CAUSAL = "the model's attention is not causal; credit reads decoders only"


class StopForward(Exception):
    """Raised inside a forward when the last layer needed has been read (a truncated pass)."""


class Masks(NamedTuple):
    """Which positions of some rows count: bool [B, N] each.

    Attributes:
        real: no padding.
        response: the rows of A that are read.
        fai_rows: those among them that FAI is a mean over; None: all.
    """

    real: Tensor
    response: Tensor
    fai_rows: Tensor | None

    def rows(self, first: int, count: int) -> Masks:
        real, response, fai_rows = (None if mask is None else mask[first : first + count] for mask in self)
        assert real is not None and response is not None
        return Masks(real, response, fai_rows)


class Capture:
    """Per-head statistics of chosen layers, read while the model runs over a batch in one or more chunks.

    Args:
        model: the module whose layers are read, wrapped (DDP, FSDP, PEFT, torch.compile) or not.
        layers: layer indices to read.
        real_mask, response_mask: [B, N] bool over the whole batch; chunks of rows run through the model in order.
        window, horizon: W and (H_lo, H_hi), in tokens.
        fai_rows: [B, N] bool, the response rows that FAI is a mean over; None: all of them.
        finish: applied to the statistics of each chunk as soon as its layers are complete, so that per-head values
            need not be kept for the whole batch.
        stop_early: raise `StopForward` once a chunk's last layer is read.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: list[int],
        real_mask: Tensor,
        response_mask: Tensor,
        window: int,
        horizon: tuple[int, int],
        fai_rows: Tensor | None = None,
        finish: Callable[[HeadStatistics], Any] = lambda statistics: statistics,
        stop_early: bool = False,
    ) -> None:
        self._model, self._model_name = model, type(unwrapped(model)).__name__
        self._index = _layer_indices(model)
        self._layers = layers
        response = response_mask.bool()
        self._masks = Masks(real_mask.bool(), response, None if fai_rows is None else fai_rows.bool() & response)
        self._window, self._horizon = window, horizon
        self._finish, self._stop_early = finish, stop_early
        self._chunk: dict[int, Statistics] = {}
        self._rows_done = 0
        self._says_no_more = WeakIdKeyDictionary()  # mask: {window: bool}; layers share masks
        self.chunks: list[Any] = []
        self.seconds = 0.0

    @contextmanager
    def reading(self) -> Iterator[Capture]:
        """Read every pass of the model that runs inside this context; compiled modules run uncompiled in it."""
        with ExitStack() as seams:
            if _is_compiled(self._model):
                seams.enter_context(torch.compiler.set_stance("force_eager"))
            attention_class = BYPASSING.get(unwrapped(self._model).config.get_text_config().model_type)
            if attention_class is None:
                seams.enter_context(watch_interface(self._see_module))
            else:
                seams.enter_context(
                    watch_modules(self._model, attention_class, self._layers, self._see_map, self._see_call)
                )
            yield self

    def results(self) -> list[Any]:
        """What `finish` made of each chunk.

        Raises: RuntimeError if a layer was never seen or rows are missing: never silence.
        """
        if self._chunk or self._rows_done != len(self._masks.response):
            seen = sorted(self._chunk) or ("none" if not self.chunks else "all, but not for every row")
            raise RuntimeError(
                f"{self._model_name}: attention layers {self._layers} were to be read, seen: {seen}. "
                "The model bypasses transformers' attention interface; rlcredit cannot read it, use "
                "credit_strategy: uniform"
            )
        return self.chunks

    # ---- what the seams show --------------------------------------------------------------------------------------

    def _see_module(self, call: AttentionCall) -> None:
        index = self._index.get(call.module)
        if index in self._layers and not self._is_within_positions(call):
            self._see_call(index, call)

    def _is_within_positions(self, call: AttentionCall) -> bool:
        """Each position attends to states of its own, positions are where heads are: the residuals of Inkling 2."""
        N = self._masks.real.shape[1]
        return call.query.shape[1] == call.key.shape[1] == N and N not in (call.query.shape[2], call.key.shape[2])

    def _see_call(self, index: int, call: AttentionCall) -> None:
        self._see(index, call.query, lambda masks: self._read_call(call, masks))

    def _see_map(self, index: int, attention: Tensor) -> None:
        N = self._masks.real.shape[1]
        if attention.shape[-2:] == (N, N):
            self._see(index, attention, lambda masks: self._read_map(attention.detach(), masks))

    def _see(self, index: int, shown: Tensor, read: Callable[[Masks], Statistics]) -> None:
        """Read one layer of the chunk at hand."""
        started = time.perf_counter()
        if index in self._chunk:
            raise RuntimeError(
                f"{self._model_name}: layer {index} ran twice before layers {self._layers} were all seen"
            )
        rows = shown.shape[0]
        if shown.dim() == 3:  # a map [B * H, N, N]
            rows //= unwrapped(self._model).config.get_text_config().num_attention_heads
        # Statistics are fp32 without gradient, also inside an autocast region.
        with torch.no_grad(), torch.autocast(shown.device.type, enabled=False):
            self._chunk[index] = read(self._masks.rows(self._rows_done, rows))
            if len(self._chunk) == len(self._layers):
                self._complete()
        self.seconds += time.perf_counter() - started
        if self._stop_early and not self._chunk:
            raise StopForward

    def _complete(self) -> None:
        parts = [self._chunk[index] for index in self._layers]
        span, waad, fai = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
        self._rows_done += len(span)
        self._chunk.clear()
        self.chunks.append(self._finish(HeadStatistics(self._layers, span, waad, fai)))

    # ---- one layer ------------------------------------------------------------------------------------------------

    def _read_call(self, call: AttentionCall, masks: Masks) -> Statistics:
        real, response, fai_rows = masks
        query, key = call.query.detach(), call.key.detach()
        if any(call.options.get(name) is not None for name in PACKED):
            raise RuntimeError(
                f"{self._model_name}: rows that hold several sequences (packed, without padding) cannot be read: a "
                "token would be credited with attention across their borders"
            )
        if query.shape[0] != len(real) or not query.shape[2] == key.shape[2] == real.shape[1]:
            raise RuntimeError(
                f"{self._model_name}: attention saw queries {list(query.shape)} and keys {list(key.shape)}, "
                f"expected rows and positions {list(real.shape)}"
            )
        call = call._replace(query=query, key=key, value=call.value.detach())
        layer = self._layer(call, real, response)
        if call.eager is not None and call.module not in _AGREEING and response.any():
            if not eager.agrees(layer, call, response):
                blocks = eager.blocks(layer, call, response)
                return statistics_of_blocks(blocks, query.shape[1], response, self._window, self._horizon, fai_rows)
            _AGREEING.add(call.module)
        return head_statistics(layer, response, self._window, self._horizon, fai_rows)

    def _read_map(self, attention: Tensor, masks: Masks) -> Statistics:
        real, response, fai_rows = masks
        N = response.shape[1]
        attention = attention.view(len(response), -1, N, N)
        if ((attention.triu(1).sum(-1) > 0) & response[:, None]).any():  # rows of padding may not be finite
            raise RuntimeError(NOT_CAUSAL)
        seen = real[:, None, None, :]  # XLM's causal mask leaves padding on the left visible
        blocks = (
            Block(rows, slice(0, rows.stop), attention[:, :, rows, : rows.stop].float() * seen[..., : rows.stop])
            for rows in row_blocks(response, 4 * N * len(response) * attention.shape[1])
        )
        return statistics_of_blocks(blocks, attention.shape[1], response, self._window, self._horizon, fai_rows)

    def _layer(self, call: AttentionCall, real: Tensor, response: Tensor) -> AttentionInputs:
        options = call.options
        scale = options.get("scaling")
        window = options.get("sliding_window")
        sinks = options.get("s_aux")
        mask = self._own_mask(call, real, response, window)
        if mask is not None:
            window = None  # the map holds it
        if (bias := options.get("position_bias")) is not None:
            mask = _biased(bias.detach(), mask)
        return AttentionInputs(
            q_BHND=call.query,
            k_BKND=call.key,
            scale=_scale(call.module, call.query) if scale is None else scale,
            real_BN=real,
            softcap=options.get("softcap"),
            sinks_H=None if sinks is None else sinks.detach().float().flatten(),
            mask_BHNN=mask,
            sliding_window=window if window and window < real.shape[1] else None,
        )

    def _own_mask(self, call: AttentionCall, real: Tensor, response: Tensor, window: int | None) -> Tensor | None:
        """The layer's mask where it says more than causality, padding and window, else None."""
        mask = call.mask
        if mask is None:
            causal = call.options.get("is_causal")
            causal = getattr(call.module, "is_causal", True) if causal is None else causal
            if not causal and real.shape[1] > 1:
                raise RuntimeError(NOT_CAUSAL)
            return None
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return None
        if not (isinstance(mask, Tensor) and mask.dim() == 4):
            raise RuntimeError(
                f"{self._model_name}: attention masks of type {type(mask).__name__} cannot be read; "
                "use attn_implementation sdpa, eager or flash_attention_2"
            )
        known = self._says_no_more.setdefault(mask, {})
        if window not in known:
            known[window] = _says_no_more(mask, real, response, window)
        return None if known[window] else mask


def unwrapped(model: Any) -> Any:
    """The model inside DistributedDataParallel, torch.compile and the like."""
    while isinstance(getattr(model, "config", {}), dict):  # the configuration of DeepSpeed's engine is a dictionary
        model = model.module
    return model


def _decoder(model: Any) -> nn.Module:
    """The part whose layers are read: not the towers of a model that also takes images or sound."""
    model = unwrapped(model)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return decoder if any(decoder.children()) else model  # some families call their output layer "decoder"


def _layer_indices(model: nn.Module) -> dict[nn.Module, int]:
    """The decoder layer of every module that has one: the index it carries, else the one in its path (Zamba)."""
    indices = {}
    for name, module in _decoder(model).named_modules():
        carried, in_path = getattr(module, "layer_idx", None), index_in_path(name)
        index = carried if carried is not None and carried >= 0 else in_path
        if index is not None:
            indices[module] = index
    return indices


def _is_compiled(model: nn.Module) -> bool:
    return any(getattr(m, "_compiled_call_impl", None) or hasattr(m, "_orig_mod") for m in model.modules())


def _scale(module: nn.Module, query: Tensor) -> float:
    """The factor that attention functions use when they are given none."""
    return getattr(module, "scaling", query.shape[-1] ** -0.5)


def _biased(bias: Tensor, mask: Tensor | None) -> Tensor:
    """A position bias and a mask as one additive mask; -inf where a boolean mask hides."""
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _says_no_more(mask: Tensor, real: Tensor, response: Tensor, window: int | None) -> bool:
    """Whether, in the response rows, the mask is causality, padding and the sliding window, and nothing else."""
    length = real.shape[1]
    everywhere = slice(0, length)
    for start in range(0, length, 256):
        rows = slice(start, min(start + 256, length))
        block = mask[:, :, rows]
        shown = block if block.dtype == torch.bool else block == 0
        delta = distance(rows, everywhere, mask.device)
        if (shown & (delta < 0) & response[:, None, rows, None]).any():
            raise RuntimeError(NOT_CAUSAL)
        # an additive mask that is neither 0 nor "hidden" is a score bias, such as ALiBi
        if block.dtype != torch.bool and not (shown | (block <= -1e4)).all():
            return False
        expected = (delta >= 0) & (delta < (window or length)) & real[:, None, :]
        if not ((shown == expected[:, None]) | ~response[:, None, rows, None]).all():
            return False
    return True
