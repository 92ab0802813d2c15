"""Weights from a trainer to a vLLM server without a GPU: gloo over loopback in place of NCCL, at both ends.

The server finds `register` as a plugin of vLLM; the trainer's end is `connect`. The routes, what is said over them and
when are TRL's and vLLM's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from trl.generation import vllm_client
from trl.generation.vllm_client import VLLMClient
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

BACKEND = "gloo"
HOST = "127.0.0.1"


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """The server's end: vLLM's own but for how a tensor arrives, and without the wait for a GPU."""

    def init_transfer_engine(self, init_info):
        self.group = _join(init_info.master_port, init_info.rank_offset, init_info.world_size)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        info = self.parse_update_info(update_info)
        for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast(weight, 0).wait()
            self.model.load_weights([(name, weight)])


def register() -> None:
    WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)


def connect(patch: Any) -> None:
    """The trainer's end, in place of the two functions of TRL's client that need CUDA."""
    patch.setattr(VLLMClient, "init_communicator", _init_communicator)
    patch.setattr(vllm_client, "packed_nccl_broadcast_producer", _send)


def _init_communicator(self: VLLMClient, device: torch.device) -> None:
    info = dict(master_address=HOST, master_port=self.group_port, rank_offset=1, world_size=self.get_world_size() + 1)
    with ThreadPoolExecutor(max_workers=1) as executor:  # the server answers once both ends have met
        met = executor.submit(self._post, f"{self.base_url}/init_weight_transfer_engine", json={"init_info": info})
        # Of a launch's processes one alone has this group: torchrun's store, which all would wait in, is not for it.
        with mock.patch.dict(os.environ, TORCHELASTIC_USE_AGENT_STORE="False"):
            self.communicator = _join(self.group_port, 0, info["world_size"])
        met.result()


def _send(iterator: Iterator[tuple[str, Tensor]], group: Any, src: int, post_iter_func: Any) -> None:
    for item in iterator:
        group.broadcast(post_iter_func(item).detach().contiguous(), src).wait()


def _join(port: int, rank: int, world_size: int) -> Any:
    return stateless_init_torch_distributed_process_group(HOST, port, rank, world_size, "gloo")
