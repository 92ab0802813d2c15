"""Where a running model shows its attention.

`watch_interface`: in each layer and each pass, every modern family in transformers asks
`AttentionInterface.get_interface` for its attention function. Inside the context, that function shows its inputs
before it runs.

`watch_modules`: the families that bypass this interface call torch's own functions inside one attention module for
each layer. While such a module runs, `softmax` shows its result and `scaled_dot_product_attention` its inputs.

Neither changes what the model computes. Several threads may watch at once; each is shown the passes of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock, get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

# Model type: class of the attention module, for the families of transformers that bypass the attention interface.
# tests/families compares every one of them with its own eager maps.
BYPASSING = {
    "big_bird": "BigBirdSelfAttention",
    "bloom": "BloomAttention",
    "codegen": "CodeGenAttention",
    "falcon": "FalconAttention",
    "git": "GitSelfAttention",
    "gpt_neo": "GPTNeoSelfAttention",
    "gpt_neox_japanese": "GPTNeoXJapaneseAttention",
    "gptj": "GPTJAttention",
    "megatron-bert": "MegatronBertSelfAttention",
    "mpt": "MptAttention",
    "mvp": "MvpAttention",
    "openai-gpt": "Attention",
    "rembert": "RemBertSelfAttention",
    "roformer": "RoFormerSelfAttention",
    "trocr": "TrOCRAttention",
    "xglm": "XGLMAttention",
    "xlm": "MultiHeadAttention",
}


class AttentionCall(NamedTuple):
    """What an attention function was called with.

    Attributes:
        module: the attention module that called it.
        query, key, value: [B, H or K, N, D].
        mask: [B, 1, N, N] or [B, H, N, N], bool or additive; [B, N]; or None.
        options: the other arguments: scaling, softcap, s_aux, sliding_window, ...
        eager: the family's own eager attention function, or None where it has none of its own.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    options: dict[str, Any]
    eager: Callable[..., tuple[Tensor, Tensor]] | None


Watcher = tuple[int, Callable[[AttentionCall], None]]  # a thread, and what its attention calls are shown to


@contextmanager
def watch_interface(see: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Show every attention call that any model makes through transformers' interface, in this thread and context."""
    watcher = (get_ident(), see)
    try:
        _INTERFACE.add(watcher)
        yield
    finally:
        _INTERFACE.remove(watcher)


class _WatchedInterface:
    """One patch of `AttentionInterface.get_interface`, there as long as any thread watches."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watchers: list[Watcher] = []
        self._original: Callable[..., Callable] | None = None

    def add(self, watcher: Watcher) -> None:
        with self._lock:
            if self._original is None:
                self._original = AttentionInterface.get_interface
                AttentionInterface.get_interface = self._patched(self._original)
            self._watchers.append(watcher)

    def remove(self, watcher: Watcher) -> None:
        with self._lock:
            if watcher in self._watchers:  # not where Ctrl-C came before it was added
                self._watchers.remove(watcher)
            if self._original is not None and not self._watchers:
                AttentionInterface.get_interface, self._original = self._original, None

    def _patched(self, original: Callable[..., Callable]) -> Callable[..., Callable]:
        def get_interface(interface: AttentionInterface, name: str, default: Callable) -> Callable:
            attention = original(interface, name, default)
            watching = [see for thread, see in self._watchers if thread == get_ident()]
            if not watching:
                return attention

            def observed(module, query, key, value, attention_mask, *args, **options):  # type: ignore[no-untyped-def]
                for see in watching:
                    see(AttentionCall(module, query, key, value, attention_mask, options, default))
                return attention(module, query, key, value, attention_mask, *args, **options)

            return observed

        return get_interface


_INTERFACE = _WatchedInterface()


@contextmanager
def watch_modules(
    model: nn.Module,
    attention_class: str,
    layers: list[int],
    see_map: Callable[[int, Tensor], None],
    see_call: Callable[[int, AttentionCall], None],
) -> Iterator[None]:
    """Show, for the attention modules of these layers, each softmax's result and each fused call's inputs."""
    # The mode is torch's for this thread alone, and is left with the context, however a forward ends.
    with _ShowAttention(see_map, see_call) as mode, ExitStack() as hooks:
        for name, module in model.named_modules():
            index = index_in_path(name)
            is_attention = any(kind.__name__ == attention_class for kind in type(module).__mro__)
            if index is None or not is_attention or index not in layers:
                continue
            hooks.enter_context(_removed(module.register_forward_pre_hook(partial(mode.enter, index))))
            hooks.enter_context(_removed(module.register_forward_hook(mode.leave, always_call=True)))
        yield


def index_in_path(name: str) -> int | None:
    """The number of the layer in a module's name: 3 for `model.layers.3.self_attn`."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(number[1]) if number else None


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


class _ShowAttention(TorchFunctionMode):
    """Shows torch's functions inside attention modules, whose hooks say when one runs."""

    def __init__(self, see_map: Callable[[int, Tensor], None], see_call: Callable[[int, AttentionCall], None]) -> None:
        super().__init__()
        self._see_map, self._see_call = see_map, see_call
        self._thread = get_ident()  # hooks are called by every thread that runs the module
        self._running: tuple[int, nn.Module] | None = None

    def enter(self, index: int, module: nn.Module, args: Any) -> None:
        if get_ident() == self._thread:
            self._running = (index, module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if get_ident() == self._thread:
            self._running = None

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if self._running is None:
            return func(*args, **kwargs)
        index, module = self._running
        if func is nn.functional.scaled_dot_product_attention:
            self._see_call(index, self._sdpa_call(module, *args, **kwargs))
        result = func(*args, **kwargs)
        if func in (nn.functional.softmax, torch.softmax, Tensor.softmax):
            self._see_map(index, result)
        return result

    @staticmethod
    def _sdpa_call(module, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):  # type: ignore[no-untyped-def]
        options = {"scaling": query.shape[-1] ** -0.5 if scale is None else scale, "is_causal": is_causal}
        return AttentionCall(module, query, key, value, attn_mask, options, None)
