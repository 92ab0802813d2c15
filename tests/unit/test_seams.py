"""The seams that attention is read at: readings of several threads, readings that Ctrl-C ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from transformers import AttentionInterface, BloomConfig, BloomForCausalLM, PreTrainedModel

from rlcredit.attention import Capture
from tests import tiny

LAYERS = [1, 2]
TOKENS = 12


def bloom() -> PreTrainedModel:
    """A family that bypasses transformers' attention interface."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tiny.WORDS), hidden_size=32, n_layer=4, n_head=4, initializer_range=0.2)
    return BloomForCausalLM(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"interface": lambda: tiny.model_of("llama"), "modules": bloom}


@pytest.fixture(params=MODELS)
def model(request) -> PreTrainedModel:
    return MODELS[request.param]()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """After each test attention is as transformers made it, and no mode of torch is on."""
    original = AttentionInterface.get_interface
    yield
    left, AttentionInterface.get_interface = AttentionInterface.get_interface, original
    assert left is original
    assert _get_current_function_mode_stack() == []


def ids(seed: int) -> torch.Tensor:
    return torch.randint(2, len(tiny.WORDS), (1, TOKENS), generator=torch.Generator().manual_seed(seed))


def capture(model: PreTrainedModel) -> Capture:
    real = torch.ones(1, TOKENS, dtype=torch.bool)
    response = torch.arange(TOKENS)[None] >= 4
    return Capture(model, LAYERS, real, response, window=3, horizon=(1, 6))


def read_alone(model: PreTrainedModel, seed: int) -> torch.Tensor:
    with torch.no_grad(), (reader := capture(model)).reading():
        model(ids(seed))
    return reader.results()[0].span_BLH


def test_readings_of_two_threads_that_interleave_see_their_own_passes(model):
    """The first reading to begin is the first to end, and the model of both is the same one."""
    alone = [read_alone(model, seed) for seed in (1, 2)]
    assert not torch.equal(*alone)
    both_read, first_ran, first_ended = threading.Barrier(2, timeout=600), threading.Event(), threading.Event()

    def first() -> torch.Tensor:
        with torch.no_grad(), (reader := capture(model)).reading():
            both_read.wait()
            model(ids(1))
            first_ran.set()
        first_ended.set()
        return reader.results()[0].span_BLH

    def second() -> torch.Tensor:
        with torch.no_grad(), (reader := capture(model)).reading():
            both_read.wait()
            assert first_ran.wait(600) and first_ended.wait(600)
            model(ids(2))
        return reader.results()[0].span_BLH

    with ThreadPoolExecutor(2) as threads:
        together = [task.result() for task in [threads.submit(first), threads.submit(second)]]
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_a_pass_of_another_thread_is_not_read(model):
    with torch.no_grad(), (reader := capture(model)).reading(), ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: model(ids(2))).result()
        model(ids(1))
    assert torch.equal(reader.results()[0].span_BLH, read_alone(model, 1))


def test_ctrl_c_inside_a_layer_leaves_nothing_behind(monkeypatch):
    model = bloom()
    expected = model(ids(1)).logits

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    attention = model.transformer.h[1].self_attention
    with monkeypatch.context() as patch:
        patch.setattr(attention, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt), capture(model).reading():
            model(ids(1))
    assert _get_current_function_mode_stack() == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids(1)).logits, expected)
    assert read_alone(model, 1).isfinite().all()


def test_rows_that_hold_several_sequences_are_refused():
    model = tiny.model_of("llama")
    borders = torch.tensor([0, TOKENS // 2, TOKENS], dtype=torch.int32)
    with torch.no_grad(), capture(model).reading(), pytest.raises(RuntimeError, match="across their borders"):
        model(ids(1), cu_seq_lens_q=borders, cu_seq_lens_k=borders, max_length_q=TOKENS, max_length_k=TOKENS)
