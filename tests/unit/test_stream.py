"""Every way from queries and keys to statistics against the loop: random shapes, masks, windows and horizons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlcredit.attention import eager, kernel_check, stream
from rlcredit.attention.scores import AttentionInputs
from rlcredit.attention.seams import AttentionCall
from tests.reference import loop


@dataclass(frozen=True)
class Case:
    layer: AttentionInputs
    response: torch.Tensor
    window: int
    horizon: tuple[int, int]
    block_rows: int
    band_bytes: int


@st.composite
def cases(draw, plain: bool = False) -> Case:
    """A layer and what is asked of it; `plain` ones have causality, padding and sinks only."""
    rows, kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    length, dim = draw(st.integers(2, 32)), draw(st.sampled_from([3, 4, 8]))
    heads = kv_heads * groups
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    real = torch.ones(rows, length, dtype=torch.bool)
    response = torch.zeros_like(real)
    for row in range(rows):
        begin = draw(st.integers(0, length - 2))
        end = draw(st.integers(begin + 2, length))
        real[row, :begin] = real[row, end:] = False
        chosen = draw(st.sets(st.integers(begin + 1, end - 1), min_size=1))
        response[row, sorted(chosen)] = True
    mask = None
    kind = "none" if plain else draw(st.sampled_from(["none", "bool", "bias"]))
    if kind == "bool":  # every token sees itself
        mask = (torch.rand(rows, 1, length, length, generator=generator) > 0.4) | torch.eye(length, dtype=torch.bool)
    if kind == "bias":
        mask = torch.randn(1, heads, length, length, generator=generator)
    lo = draw(st.integers(0, 12))
    layer = AttentionInputs(
        q_BHND=1.5 * torch.randn(rows, heads, length, dim, generator=generator),
        k_BKND=torch.randn(rows, kv_heads, length, dim, generator=generator),
        scale=dim**-0.5,
        real_BN=real,
        softcap=None if plain else draw(st.sampled_from([None, 2.0])),
        sinks_H=torch.randn(heads, generator=generator) if draw(st.booleans()) else None,
        mask_BHNN=mask,
        sliding_window=None if plain else draw(st.sampled_from([None, 1, 5])),
    )
    hi = draw(st.sampled_from([-1, max(lo, 1), lo + 7, 100]))
    sizes = draw(st.sampled_from([1, 3, 128])), draw(st.sampled_from([1, 5000]))
    return Case(layer, response, draw(st.integers(1, 12)), (lo, hi), *sizes)


def maps_of(layer: AttentionInputs) -> torch.Tensor:
    """A in double precision, written from the formula: [B, H, N, N]."""
    length, heads = layer.q_BHND.shape[2], layer.q_BHND.shape[1]
    keys = layer.k_BKND.double().repeat_interleave(heads // layer.k_BKND.shape[1], dim=1)
    scores = layer.q_BHND.double() @ keys.transpose(-1, -2) * layer.scale
    if layer.softcap:
        scores = layer.softcap * (scores / layer.softcap).tanh()
    visible = torch.ones(length, length, dtype=torch.bool).tril() & layer.real_BN[:, None, None, :]
    if layer.sliding_window:
        visible = visible & torch.ones(length, length, dtype=torch.bool).triu(1 - layer.sliding_window)
    if layer.mask_BHNN is not None:
        if layer.mask_BHNN.dtype == torch.bool:
            visible = visible & layer.mask_BHNN
        else:
            scores = scores + layer.mask_BHNN
    scores = scores.masked_fill(~visible, -math.inf)
    if layer.sinks_H is not None:
        sinks = layer.sinks_H.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    return scores.softmax(-1)[..., :length].nan_to_num(nan=0.0)


def compare(found: stream.Statistics, case: Case, fai_rows: torch.Tensor | None = None) -> None:
    maps, fai_rows = maps_of(case.layer), case.response if fai_rows is None else fai_rows
    assert found.span_BH.dtype == found.waad_BHN.dtype == found.fai_BHN.dtype == torch.float32
    for row in range(len(maps)):
        where = case.response[row].nonzero().flatten().tolist()
        outside = ~case.response[row]
        for head, attention in enumerate(maps[row].tolist()):
            ((span,),) = loop.spans([[attention]], where)
            assert found.span_BH[row, head].item() == pytest.approx(span, rel=1e-4, abs=1e-5)
            waad = loop.waad(attention, where, case.window)
            fai = loop.fai(attention, where, *case.horizon, rows=fai_rows[row].nonzero().flatten().tolist())
            for t in where:
                assert found.waad_BHN[row, head, t].item() == pytest.approx(waad[t], abs=1e-4)
                got = found.fai_BHN[row, head, t].item()
                # scores of up to 20 are off by 1e-6, and a weight by that share of itself
                assert got == pytest.approx(fai.get(t, math.nan), rel=1e-5, abs=1e-6, nan_ok=True)
            assert found.waad_BHN[row, head, outside].isnan().all()
            assert found.fai_BHN[row, head, outside].isnan().all()


@settings(max_examples=60, deadline=None)
@given(cases(plain=True))
def test_the_fused_kernel_agrees_with_the_loop(case):
    assume(case.horizon[1] != -1)
    sizes = {"BLOCK_ROWS": case.block_rows, "BAND_ROWS": case.block_rows, "BAND_BYTES": case.band_bytes}
    with mock.patch.multiple(stream, **sizes):
        compare(stream._swept_on_cpu(case.layer, case.response, case.window, case.horizon), case)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_blocks_of_scores_agree_with_the_loop(case):
    with mock.patch.object(stream, "BLOCK_ROWS", case.block_rows):
        blocks = stream.score_blocks(case.layer, case.response)
        heads = case.layer.q_BHND.shape[1]
        compare(stream.statistics_of_blocks(blocks, heads, case.response, case.window, case.horizon), case)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_fai_over_some_of_the_rows_agrees_with_the_loop(case, seed):
    some = case.response & (torch.rand(case.response.shape, generator=torch.Generator().manual_seed(seed)) < 0.4)
    with mock.patch.multiple(stream, BLOCK_ROWS=case.block_rows, FUSED_FROM=2):
        compare(stream.head_statistics(case.layer, case.response, case.window, case.horizon, some), case, some)


def own_eager(module, query, key, value, attention_mask, scaling, dropout=0.0, **options):
    """A family's eager attention function, in transformers' form."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if module.softcap is not None:
        scores = torch.tanh(scores / module.softcap) * module.softcap
    scores = scores + attention_mask
    if module.sinks is not None:
        sinks = module.sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    return value, scores.softmax(-1)[..., : key.shape[2]] ** module.power


def call_of(layer: AttentionInputs, power: float = 1.0) -> AttentionCall:
    module = torch.nn.Module()
    for name, value in {"softcap": layer.softcap, "sinks": layer.sinks_H, "power": power}.items():
        setattr(module, name, value)
    return AttentionCall(module, layer.q_BHND, layer.k_BKND, layer.k_BKND, None, {}, own_eager)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_rows_of_the_familys_own_function_agree_with_the_loop(case):
    call = call_of(case.layer)
    assert eager.agrees(case.layer, call, case.response)
    with mock.patch.object(stream, "BLOCK_ROWS", case.block_rows):
        blocks = eager.blocks(case.layer, call, case.response)
        heads = case.layer.q_BHND.shape[1]
        compare(stream.statistics_of_blocks(blocks, heads, case.response, case.window, case.horizon), case)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_another_formula_is_noticed(case):
    columns = case.response.any(0).nonzero().flatten().tolist()
    compared = torch.zeros_like(case.response)  # the first and the last column that holds a response token
    compared[:, [columns[0], columns[-1]]] = case.response[:, [columns[0], columns[-1]]]
    seen = maps_of(case.layer).transpose(1, 2)[compared]
    spread = (seen - seen**1.5).abs().max() > 1e-2  # a row that sees one token only is the same under both
    assert not (spread and eager.agrees(case.layer, call_of(case.layer, power=1.5), case.response))


@pytest.mark.parametrize("length", [255, 256, 400])
def test_both_ways_agree_where_one_takes_over_from_the_other(length):
    made = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, length, 8, generator=made), torch.randn(2, 2, length, 8, generator=made)
    real = torch.ones(2, length, dtype=torch.bool)
    real[0, :30] = False
    layer, response = AttentionInputs(q, k, 0.35, real), (torch.arange(length) > 50).expand(2, length)
    assert stream._fused_kernel_fits(layer, (10, 100)) == (length >= 256)
    found = stream.head_statistics(layer, response, 10, (10, 100))
    blocks = stream.statistics_of_blocks(stream.score_blocks(layer, response), 4, response, 10, (10, 100))
    for one, two, tolerance in zip(found, blocks, (1e-3, 1e-5, 1e-7), strict=True):
        assert torch.allclose(one, two, atol=tolerance, rtol=1e-5, equal_nan=True)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    """No tensor of N x N entries is ever made."""
    length, largest = 1024, 0
    q, k = torch.randn(1, 4, length, 16), torch.randn(1, 2, length, 16)
    response = torch.arange(length)[None] > 9

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return result

    monkeypatch.setattr(stream, "BLOCK_BYTES", 1 << 18)
    real = torch.ones(1, length, dtype=torch.bool)
    for settings_of_layer in ({}, {"softcap": 5.0}, {"sliding_window": 64}):
        layer = AttentionInputs(q, k, 0.25, real, **settings_of_layer)
        with Watch():
            stream.head_statistics(layer, response, 10, (10, -1))
    assert 0 < largest < 4 * length * length


def on_gpu(monkeypatch, sweep):
    """The way of a GPU, with this sweep in place of the kernels; how often it was asked."""
    asked = []
    monkeypatch.setattr(kernel_check, "_trusted", {})
    monkeypatch.setattr(stream, "_triton_fits", lambda inputs: True)
    monkeypatch.setattr(stream, "_swept_on_gpu", lambda *args: asked.append(1) or sweep(*args))
    return asked


def layer_of(seed: int = 0, **settings_of_layer):
    made = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 4, 60, 8, generator=made), torch.randn(2, 2, 60, 8, generator=made)
    response = (torch.arange(60) > 20).expand(2, 60)
    return AttentionInputs(q, k, 0.35, torch.ones(2, 60, dtype=torch.bool), **settings_of_layer), response


def reference(inputs, response, window, horizon):
    blocks = stream.score_blocks(inputs, response)
    return stream.statistics_of_blocks(blocks, inputs.q_BHND.shape[1], response, window, horizon)


def test_kernels_that_agree_are_used(monkeypatch, caplog):
    asked = on_gpu(monkeypatch, lambda *args: reference(*args)._replace(span_BH=reference(*args).span_BH * 1.0001))
    layer, response = layer_of()
    found = stream.head_statistics(layer, response, 10, (10, 30))
    assert torch.equal(found.span_BH, reference(layer, response, 10, (10, 30)).span_BH * 1.0001)
    stream.head_statistics(layer, response, 10, (10, 30))
    assert len(asked) == 3 and not caplog.records  # compared once, then used


@pytest.mark.parametrize("field", ["span_BH", "waad_BHN", "fai_BHN"])
def test_kernels_that_differ_are_left_alone_and_the_run_is_told(monkeypatch, caplog, field):
    def wrong(*args):
        right = reference(*args)
        return right._replace(**{field: getattr(right, field) * 1.01})

    asked = on_gpu(monkeypatch, wrong)
    layer, response = layer_of()
    for _ in range(2):
        found = stream.head_statistics(layer, response, 10, (10, 30))
        for one, other in zip(found, reference(layer, response, 10, (10, 30)), strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())
    assert len(asked) == 1 and len(caplog.records) == 1 and "differ from blocks by 0.01" in caplog.text
    stream.head_statistics(*layer_of(softcap=4.0), 10, (10, 30))  # another kernel
    assert len(asked) == 2


def test_kernels_that_do_not_compile_are_left_alone(monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("out of resource: shared memory")

    on_gpu(monkeypatch, broken)
    found = stream.head_statistics(*layer_of(), 10, (10, 30))
    assert torch.isfinite(found.span_BH).all() and "out of resource: shared memory" in caplog.text


def test_undefined_values_elsewhere_are_a_difference(monkeypatch, caplog):
    def wrong(*args):
        right = reference(*args)
        return right._replace(fai_BHN=right.fai_BHN.nan_to_num())

    on_gpu(monkeypatch, wrong)
    stream.head_statistics(*layer_of(), 10, (10, 30))
    assert "differ from blocks by inf" in caplog.text


def test_blocks_are_sized_by_the_device():
    row_bytes = 4 * 8 * 32 * 2048  # 8 sequences of 2,048 tokens, 32 heads: a row of 2 MiB
    response = torch.ones(8, 2048, dtype=torch.bool)
    assert len(stream.row_blocks(response, row_bytes)) == 2048
    # on a device that has no data, as a GPU would
    columns = mock.Mock(wraps=response)
    columns.any.return_value, columns.device = response.any(0), torch.device("cuda")
    assert len(stream.row_blocks(columns, row_bytes)) == 2048 // 64
