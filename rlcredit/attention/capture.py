"""Reading queries and keys inside a forward pass that runs anyway.

Every modern family in transformers asks `AttentionInterface.get_interface` for its attention function, in each layer
and each pass. While a `Capture` is open, the function handed out first shows its inputs to the capture; what it
computes, and the model's choice of sdpa, flash or eager, stays as it is. A pass is recognised by the modules that run
(those of the model given) and by when it runs (inside the `with`): a reference model, or the recomputation of
gradient checkpointing in the backward, is never read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rlcredit.attention.stream import Layer, distance, head_statistics
from rlcredit.signals import HeadStatistics

# Inputs of attention functions that change the scores in ways this reader does not know yet.
UNKNOWN_SCORE_TERMS = ("s_aux", "position_bias", "head_mask")


class StopForward(Exception):
    """Raised inside a forward when the last layer needed has been read (a truncated pass)."""


class Capture:
    """Per-head statistics of chosen layers, read while the model runs over a batch in one or more chunks.

    Args:
        model: the module whose layers are read, wrapped (DDP, PEFT) or not.
        layers: layer indices to read.
        real_mask, response_mask: [B, N] bool over the whole batch; chunks of rows run through the model in order.
        window, horizon: W and (H_lo, H_hi), in tokens.
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
        finish: Callable[[HeadStatistics], Any] = lambda statistics: statistics,
        stop_early: bool = False,
    ) -> None:
        self._model_name = type(model).__name__
        self._owned = {id(module) for module in model.modules()}
        self._layers = layers
        self._real, self._response = real_mask.bool(), response_mask.bool()
        self._window, self._horizon = window, horizon
        self._finish, self._stop_early = finish, stop_early
        self._chunk: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._rows_done = 0
        self._plain_masks: dict[int, bool] = {}
        self.chunks: list[Any] = []
        self.seconds = 0.0

    @contextmanager
    def reading(self) -> Iterator[Capture]:
        """Read every pass of the model that runs inside this context."""
        original = AttentionInterface.get_interface

        def get_interface(interface: AttentionInterface, name: str, default: Callable) -> Callable:
            attention = original(interface, name, default)

            def observed(module, query, key, value, attention_mask, *args, **kwargs):  # type: ignore[no-untyped-def]
                self._see(module, query, key, attention_mask, kwargs)
                return attention(module, query, key, value, attention_mask, *args, **kwargs)

            return observed

        AttentionInterface.get_interface = get_interface
        try:
            yield self
        finally:
            AttentionInterface.get_interface = original

    def results(self) -> list[Any]:
        """What `finish` made of each chunk.

        Raises: RuntimeError if a layer was never seen or rows are missing: never silence.
        """
        if self._chunk or self._rows_done != len(self._response):
            seen = sorted(self._chunk) or ("none" if not self.chunks else "all, but not for every row")
            raise RuntimeError(
                f"{self._model_name}: attention layers {self._layers} were to be read, seen: {seen}. "
                "The model bypasses transformers' attention interface; rlcredit cannot read it, use "
                "credit_strategy: uniform"
            )
        return self.chunks

    def _see(self, module: nn.Module, query: Tensor, key: Tensor, mask: Any, options: dict[str, Any]) -> None:
        index = getattr(module, "layer_idx", None)
        if index not in self._layers or id(module) not in self._owned:
            return
        started = time.perf_counter()
        # Statistics are fp32 without gradient, also inside an autocast region.
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            self._read(index, query.detach(), key.detach(), mask, {"scaling": _scale(module, query), **options})
        self.seconds += time.perf_counter() - started
        if self._stop_early and not self._chunk:
            raise StopForward

    def _read(self, index: int, query: Tensor, key: Tensor, mask: Any, options: dict[str, Any]) -> None:
        if index in self._chunk:
            raise RuntimeError(
                f"{self._model_name}: layer {index} ran twice before layers {self._layers} were all seen"
            )
        if present := [name for name in UNKNOWN_SCORE_TERMS if options.get(name) is not None]:
            raise RuntimeError(f"{self._model_name}: its attention uses {present[0]}, which rlcredit cannot read yet")
        rows = slice(self._rows_done, self._rows_done + query.shape[0])
        real, response = self._real[rows], self._response[rows]
        if query.shape[0] != len(real) or not query.shape[2] == key.shape[2] == real.shape[1]:
            raise RuntimeError(
                f"{self._model_name}: layer {index} saw queries {list(query.shape)} and keys "
                f"{list(key.shape)}, expected rows and positions {list(real.shape)}"
            )
        layer = Layer(
            query.float(),
            key.float(),
            options["scaling"],
            options.get("softcap"),
            self._own_mask(mask, real, response),
            real,
            _window_in_force(mask, options.get("sliding_window"), query.shape[2]),
        )
        self._chunk[index] = head_statistics(layer, response, self._window, self._horizon)
        if len(self._chunk) == len(self._layers):
            self._complete()

    def _complete(self) -> None:
        parts = [self._chunk[index] for index in self._layers]
        span, waad, fai = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
        self._rows_done += len(span)
        self._chunk.clear()
        self._plain_masks.clear()
        self.chunks.append(self._finish(HeadStatistics(self._layers, span, waad, fai)))

    def _own_mask(self, mask: Any, real: Tensor, response: Tensor) -> Tensor | None:
        """The layer's mask where it says more than causality and padding, else None (layers share mask objects)."""
        if mask is None or (isinstance(mask, Tensor) and mask.dim() == 2):
            return None
        if not _is_map(mask):
            raise RuntimeError(
                f"{self._model_name}: attention masks of type {type(mask).__name__} cannot be read; "
                "use attn_implementation sdpa, eager or flash_attention_2"
            )
        if id(mask) not in self._plain_masks:
            self._plain_masks[id(mask)] = _plainly_causal(mask, real, response)
        return None if self._plain_masks[id(mask)] else mask


def _is_map(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dim() == 4


def _window_in_force(mask: Any, sliding_window: int | None, length: int) -> int | None:
    """The sliding window where only the attention function itself applies it: a map already holds it."""
    return sliding_window if sliding_window and sliding_window < length and not _is_map(mask) else None


def _scale(module: nn.Module, query: Tensor) -> float:
    """The factor that attention functions use when they are given none."""
    return getattr(module, "scaling", query.shape[-1] ** -0.5)


def _plainly_causal(mask: Tensor, real: Tensor, response: Tensor) -> bool:
    """Whether, in the response rows, the mask is causality and padding and nothing else."""
    length = real.shape[1]
    everywhere = slice(0, length)
    for start in range(0, length, 256):
        rows = slice(start, min(start + 256, length))
        block = mask[:, :, rows]
        shown = block if block.dtype == torch.bool else block == 0
        # an additive mask that is neither 0 nor "hidden" is a score bias, such as ALiBi
        if block.dtype != torch.bool and not (shown | (block <= -1e4)).all():
            return False
        expected = (distance(rows, everywhere, mask.device) >= 0) & real[:, None, :]
        if not ((shown == expected[:, None]) | ~response[:, None, rows, None]).all():
            return False
    return True
