"""Weights that processes hold in shards: cut, put together, and made while DeepSpeed would cut them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations import deepspeed as integration


def cut(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its layers, then itself, cut over all processes (FSDP 2); the first process's weights count.

    A launch for FSDP loads models in the first process alone: in the others they are on the device "meta".
    """
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    model = model.to_empty(device=device) if on_meta else model.to(device)
    for tensor in [*model.parameters(), *model.buffers()]:
        torch.distributed.broadcast(tensor.data, 0)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing is written into values
    kinds = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    for module in list(model.modules()):
        if type(module).__name__ in kinds:
            fully_shard(module)
    fully_shard(model)
    return model


@contextmanager
def whole_weights(policy: nn.Module) -> Iterator[None]:
    """Inside, the weights of a policy that ZeRO-3 has cut are whole, and DeepSpeed cuts no model that is made."""
    if not integration.is_deepspeed_zero3_enabled():
        yield
        return
    config = integration._hf_deepspeed_config_weak_ref()
    integration.unset_hf_deepspeed_config()
    try:
        with _gathered(policy):
            yield
    finally:
        integration.set_hf_deepspeed_config(config)


def whole_state(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The parameters by name, whole and on the CPU, under any engine; collective, and empty where not to `keep`."""
    with _gathered(model):
        state = {name: whole(parameter.data, keep) for name, parameter in model.named_parameters()}
        return {name: value.cpu().clone() for name, value in state.items()} if keep else {}


def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `whole_state` gave; every process has read it."""
    with _gathered(model, changed=True), torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(as_in(parameter, state[name].to(parameter.device)))


def _gathered(model: nn.Module, changed: bool = False) -> AbstractContextManager[None]:
    """Inside, what ZeRO-3 has cut is whole on every process; with `changed`, the first one's values are kept."""
    cut_by_deepspeed = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not cut_by_deepspeed:
        return nullcontext()
    import deepspeed  # only where it is installed

    return deepspeed.zero.GatheredParameters(cut_by_deepspeed, modifier_rank=0 if changed else None)


def whole(state: Any, keep: bool) -> Any:
    """The same nested dicts and lists, with whole tensors on the CPU in place of shards; collective.

    Processes that do not `keep` them give their shards and hold no more than one tensor at a time.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, dict):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value, keep) for value in state]
    return state


def as_in(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor as the shards of the parameter that it belongs to; as it is where that is not sharded."""
    if not isinstance(parameter, DTensor) or value.dim() == 0:
        return value
    # every process has read the file, and takes its part of it without asking the others
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
