"""The same numbers through whatever a model is wrapped in."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard

from rlcredit import CreditArguments, analyze
from rlcredit.attention import open_capture, signals_maker
from tests import tiny

ARGS = CreditArguments(credit_fai_horizon=[2, 20])


def batch(rows: int = 3, length: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(2, len(tiny.WORDS), (rows, length), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids)
    real[0, :4] = 0
    return ids, real, real.bool() & (torch.arange(length) >= 9)


def read_in_training(model, inputs):
    """Signals read from a forward pass that is trained on."""
    ids, real, response = inputs
    capture = open_capture(model, ARGS, real, response, finish=signals_maker(ARGS))
    with capture.reading():
        logits = model(input_ids=ids, attention_mask=real).logits
    logits.float().logsumexp(-1).mean().backward()
    (signals,) = capture.results()
    return signals


def assert_same(one, two, tolerance=0.0):
    for name in ("head_span", "waad", "fai"):
        assert torch.allclose(
            getattr(one, name), getattr(two, name), atol=tolerance, rtol=tiny.SCORE_ERROR, equal_nan=True
        ), name


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(family, reentrant):
    model = tiny.model_of(family)
    plain = analyze(model, *batch(), ARGS)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    assert_same(read_in_training(model, batch()), plain)
    assert all(p.grad is not None for p in model.parameters())


def test_lora_is_read_with_the_adapter_on():
    model = tiny.model_of("llama")
    bare = analyze(model, *batch(), ARGS)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False))
    with_adapter = analyze(adapted, *batch(), ARGS)
    assert not torch.allclose(with_adapter.head_span, bare.head_span, atol=1e-2)
    assert_same(read_in_training(adapted, batch()), with_adapter)
    with adapted.disable_adapter():
        assert_same(analyze(adapted, *batch(), ARGS), bare)
    assert_same(analyze(adapted.merge_and_unload(), *batch(), ARGS), with_adapter)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_torch_compile(how):
    model = tiny.model_of("llama")
    plain = analyze(model, *batch(), ARGS)
    ids, real, _ = batch()
    if how == "wrapped":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
        compiled = model
    before = compiled(input_ids=ids, attention_mask=real).logits  # compiled before it is ever read
    assert_same(analyze(compiled, *batch(), ARGS), plain)
    assert_same(read_in_training(compiled, batch()), plain)
    assert torch.allclose(compiled(input_ids=ids, attention_mask=real).logits, before, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_half_precision_is_near(implementation):
    model = tiny.model_of("llama", implementation, spread=0.1)
    exact = analyze(model, *batch(), ARGS)
    assert_same(analyze(model.bfloat16(), *batch(), ARGS), exact, 0.1)


def _sharded(rank: int, store: str, found: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    model = tiny.model_of("llama")
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    signals = [analyze(model, *batch(), ARGS), read_in_training(model.train(), batch())]
    # every rank reads rows of its own, and one more pass still finds its shards
    ids, real, response = batch(rows=2 + rank)
    signals.append(analyze(model, ids, real, response, ARGS))
    torch.save([[s.head_span, s.waad, s.fai] for s in signals], f"{found}{rank}")
    dist.destroy_process_group()


@pytest.mark.thorough
def test_fsdp2(tmp_path):
    mp.spawn(_sharded, (str(tmp_path / "store"), str(tmp_path / "found")), nprocs=2)
    model = tiny.model_of("llama")
    for rank in range(2):
        wanted = [analyze(model, *inputs, ARGS) for inputs in (batch(), batch(), batch(rows=2 + rank))]
        found = torch.load(tmp_path / f"found{rank}")
        assert len(found) == 3
        for got, want in zip(found, wanted, strict=True):
            for tensor, name in zip(got, ("head_span", "waad", "fai"), strict=True):
                assert torch.allclose(tensor, getattr(want, name), rtol=tiny.SCORE_ERROR, equal_nan=True)
