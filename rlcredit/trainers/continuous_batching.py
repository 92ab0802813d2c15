"""Generation by transformers' continuous batching (TRL's `use_transformers_continuous_batching`), safe to train with.

Under greedy decoding its completions are those of plain generation (a test says so); drawn ones are of the same
distribution, but which requests share a forward depends on the speed of a thread, so that a seed does not fix them.

As TRL runs it, the policy that is trained would be cast to 16 bits with `bf16: true`, rotary frequencies included, and
stay so; it would be in training mode after an evaluation; and prompts whose requests failed would be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import torch
from torch import nn
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from trl import GRPOConfig

from rlcredit.trainers.launch import engine_of

# Of `generation_kwargs`: what its sampling knows. It drops other processors of logits with a warning in each rollout.
KNOWN = ("do_sample", "max_new_tokens", "temperature", "top_k", "top_p", "eos_token_id", "pad_token_id")


def refuse_continuous_batching(args: GRPOConfig) -> None:
    """Refuse what it would leave out, or cannot do. Raises: ValueError of one line."""
    if not args.use_transformers_continuous_batching:
        return
    name, instead = "use_transformers_continuous_batching", "write use_transformers_continuous_batching: false"
    if args.use_vllm:
        raise ValueError(f"{name}: vLLM generates with use_vllm: true; leave one of them out")
    if engine_of(args) != "ddp":
        raise ValueError(
            f"{name}: each process makes as many forwards as its own requests take, and FSDP and DeepSpeed need all "
            f"processes in each; {instead}, or launch with recipes/accelerate/ddp.yaml"
        )
    if args.repetition_penalty != 1:
        raise ValueError(f"repetition_penalty: {name} leaves it out; write repetition_penalty: 1.0, or {instead}")
    if args.min_p:
        raise ValueError(f"min_p: {name} is not known to apply it; leave it out, or {instead}")
    unknown = [key for key in args.generation_kwargs or {} if key not in KNOWN]
    if unknown:
        raise ValueError(f"generation_kwargs: {name} leaves {unknown[0]} out; write some of {', '.join(KNOWN)}")
    settings = args.transformers_continuous_batching_config
    known = [item.name for item in fields(ContinuousBatchingConfig)]
    name = "transformers_continuous_batching_config"
    if not isinstance(settings or {}, dict):
        raise ValueError(f'{name}: {settings!r:.80} is no mapping; write {{"key": value}}')
    if wrong := [key for key in settings or {} if key not in known]:
        raise ValueError(f"{name}: {wrong[0]!r} is not one of its settings; they are {', '.join(known)}")


@contextmanager
def safely_generating(policy: nn.Module, args: GRPOConfig) -> Iterator[None]:
    """Within, the policy's weights are in the 16 bits that it trains in, if any; then they are as before, bit for bit.

    Args:
        policy: the model that is trained, without wrappers.
        args: its `bf16` and `fp16` are off within, so that TRL does not cast the policy itself, buffers included.
    """
    trains, bf16, fp16 = policy.training, args.bf16, args.fp16
    dtype = torch.bfloat16 if bf16 else torch.float16 if fp16 else None
    kept = [(weight, weight.data) for weight in policy.parameters() if dtype and weight.is_floating_point()]
    try:
        args.bf16 = args.fp16 = False
        for weight, data in kept:
            weight.data = data.to(dtype)
        yield
    finally:
        args.bf16, args.fp16 = bf16, fp16
        for weight, data in kept:
            weight.data = data
        policy.train(trains)
