"""The engine that a run was launched for, and what it takes to shard on a machine without an accelerator.

accelerate's launcher says through environment variables what its launch file asks for. On a CPU it starts FSDP 2 and
DeepSpeed as it does on GPUs, but its state then holds a whole model in every process: `choose_device` and
`shard_on_cpu` let it shard there, over gloo. So a launch can be tried, and tested, before it costs GPU hours.
"""

from __future__ import annotations

import os
import warnings

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, is_deepspeed_available
from transformers import TrainingArguments

from rlcredit.errors import InputError


def launched_for(engine: str) -> bool:
    """Whether accelerate's launcher was told to use FSDP, DEEPSPEED or MEGATRON_LM."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def engine_of(args: TrainingArguments) -> str:
    """What holds the policy while it trains, as checkpoints name it: ddp (one process too), fsdp, zero1 to zero3."""
    if args.deepspeed_plugin is not None:
        return f"zero{args.deepspeed_plugin.zero_stage}"
    return "fsdp" if args.fsdp_plugin_args is not None or launched_for("FSDP") else "ddp"


def choose_device() -> list[str]:
    """Set what accelerate and DeepSpeed read when they start; gives the flags that the run's arguments need for it.

    Raises: InputError for an engine that is not installed.
    """
    # The recipe decides the precision (bf16, fp16), whatever the launch file says: transformers reads this first.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    if launched_for("DEEPSPEED") and not is_deepspeed_available():
        raise InputError("deepspeed: the launch config asks for it, and it is not installed; pip install deepspeed")
    if launched_for("DEEPSPEED"):  # it calls what torch has renamed, once a process and name
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if torch.accelerator.is_available():
        return []
    if launched_for("DEEPSPEED"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ["ACCELERATE_USE_CPU"] = "false"  # "true" makes accelerate leave DeepSpeed out, without a word
        return ["--ddp_backend", "gloo"]
    # Without it, accelerate's multi-process launch on a CPU starts runs that do not know of each other.
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return []


def shard_on_cpu() -> None:
    """Have accelerate shard a run launched for FSDP on CPUs; called once the run's arguments are read.

    accelerate shards where its state says MULTI_GPU and the like; the device stays the CPU, and the group is gloo's.
    """
    if launched_for("FSDP") and not torch.accelerator.is_available():
        state = PartialState()
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU
