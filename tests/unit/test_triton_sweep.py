"""The Triton kernels against a dense map in float64, in Triton's interpreter (no GPU needed)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlcredit.attention import stream, triton_sweep
from rlcredit.attention.scores import AttentionInputs
from rlcredit.signals import TO_THE_END

triton = pytest.importorskip("triton")

from triton.runtime import JITFunction  # noqa: E402
from triton.runtime.interpreter import InterpretedFunction  # noqa: E402

SMALL = dict(block_rows=16, block_cols=16)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """Run the kernels in Python, whether or not triton was imported under TRITON_INTERPRET=1.

    Triton decides when a function is decorated, those of its own library (tl.sum and the like) included.
    """
    with contextlib.suppress(ImportError):  # the interpreter imports it on first use, and it wants the originals
        import_module("triton.experimental.gluon")
    with pytest.MonkeyPatch.context() as patch:
        for module in (triton_sweep, triton.language, triton.language.standard):
            for name, member in vars(module).copy().items():
                if isinstance(member, JITFunction):
                    patch.setattr(module, name, InterpretedFunction(member.fn))
        yield


def case(
    length: int = 40,
    dim: int = 32,
    heads: int = 1,
    groups: int = 1,
    pads: tuple[tuple[int, int], ...] = ((0, 0),),
    spans: tuple[tuple[int, int], ...] = ((5, 1000),),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random queries and keys laid out as [B, N, H, D], with nan where there is padding, and what goes with them.

    pads: (left, right) of each row; spans: response positions, the same for every row but for its padding.
    """
    generator = torch.Generator().manual_seed(seed)
    B = len(pads)
    q_BNHD = 1.5 * torch.randn(B, length, heads, dim, generator=generator)
    k_BNKD = 1.5 * torch.randn(B, length, groups, dim, generator=generator)
    start_B = torch.tensor([left for left, _ in pads])
    end_B = torch.tensor([length - right for _, right in pads])
    position = torch.arange(length)
    real_BN = (position >= start_B[:, None]) & (position < end_B[:, None])
    response_BN = torch.zeros(B, length, dtype=torch.bool)
    for first, stop in spans:
        response_BN[:, first:stop] = True
    q_BNHD[~real_BN] = torch.nan
    k_BNKD[~real_BN] = torch.nan
    return {
        "q_BHND": q_BNHD.to(dtype).transpose(1, 2),
        "k_BKND": k_BNKD.to(dtype).transpose(1, 2),
        "start_B": start_B,
        "end_B": end_B,
        "response_BN": response_BN & real_BN,
    }


def dense(
    q_BHND: Tensor,
    k_BKND: Tensor,
    start_B: Tensor,
    end_B: Tensor,
    response_BN: Tensor,
    *,
    scale: float,
    window: int,
    horizon: tuple[int, int],
    softcap: float | None = None,
    sliding_window: int | None = None,
    sinks_H: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every statistic from the map itself, in float64: [B, H, N] each, 0 outside the response."""
    B, H, N, _ = q_BHND.shape
    keys = k_BKND.double().nan_to_num().repeat_interleave(H // k_BKND.shape[1], dim=1)
    scores = q_BHND.double().nan_to_num() @ keys.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(N)
    delta = position[:, None] - position
    visible = (delta >= 0) & (position >= start_B[:, None, None]) & (position < end_B[:, None, None])
    if sliding_window is not None:
        visible = visible & (delta < sliding_window)
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    logits = scores
    if sinks_H is not None:
        logits = torch.cat([scores, sinks_H.double()[None, :, None, None].expand(B, H, N, 1)], -1)
    lse = logits.logsumexp(-1)
    counted = response_BN[:, None, :, None]
    attention = torch.where(counted, torch.exp(scores - lse[..., None]), 0.0)
    lo, hi = horizon
    inside = (delta >= lo) & (delta <= (N if hi == TO_THE_END else hi))
    received = (attention * inside).sum(-2)
    return {
        "lse": torch.where(response_BN[:, None], lse, 0.0),
        "away": (attention * delta).sum(-1),
        "waad": (attention * delta.clamp(max=window)).sum(-1),
        "received": torch.where(response_BN[:, None], received, 0.0),
    }


def check(
    inputs: dict[str, Tensor],
    *,
    scale: float = 0.15,
    window: int = 10,
    horizon: tuple[int, int] = (10, 100),
    tile: dict[str, int] = SMALL,
    **options,
) -> None:
    """Every sum against the dense map."""
    expected = dense(**inputs, scale=scale, window=window, horizon=horizon, **options)
    sums = triton_sweep.sweep(**inputs, scale=scale, window=window, horizon=horizon, **options, **tile)
    torch.testing.assert_close(sums.lse_BHN.double(), expected["lse"], atol=1e-4, rtol=0)
    torch.testing.assert_close(sums.away_BHN.double(), expected["away"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sums.waad_BHN.double(), expected["waad"], atol=1e-5 * max(window, 10), rtol=0)
    torch.testing.assert_close(sums.received_BHN.double(), expected["received"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [8, 32, 64, 80, 96, 128, 192, 256])
def test_head_dimension(dim: int) -> None:
    check(case(dim=dim), scale=dim**-0.5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads(groups: int) -> None:
    check(case(heads=4, groups=groups))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 101])
def test_length(length: int) -> None:
    check(case(length=length, spans=((0, length),)), horizon=(1, 20))


def test_padding_and_ragged_lengths() -> None:
    check(case(length=70, pads=((0, 0), (13, 0), (0, 21), (9, 30)), spans=((20, 70),)))


def test_padding_does_not_change_a_bit() -> None:
    alone = case(length=50)
    padded = {
        "q_BHND": torch.nn.functional.pad(alone["q_BHND"], (0, 0, 13, 8), value=torch.nan),
        "k_BKND": torch.nn.functional.pad(alone["k_BKND"], (0, 0, 13, 8), value=torch.nan),
        "start_B": alone["start_B"] + 13,
        "end_B": alone["end_B"] + 13,
        "response_BN": torch.nn.functional.pad(alone["response_BN"], (13, 8)),
    }
    for plain, shifted in zip(everything(alone), everything(padded), strict=True):
        assert torch.equal(plain, shifted[:, :, 13:-8])


@pytest.mark.parametrize("sliding_window", [1, 16, 47, 1000])
def test_sliding_window(sliding_window: int) -> None:
    inputs = case(length=70, pads=((3, 2),), spans=((30, 70),))
    check(inputs, sliding_window=sliding_window, horizon=(3, 40))
    check(inputs, sliding_window=sliding_window, horizon=(0, TO_THE_END), window=3)


def test_softcap() -> None:
    check(case(length=50), scale=1.0, softcap=5.0)


def test_sinks() -> None:
    sinks_H = torch.tensor([3.0, -40.0, 20.0, -torch.inf])
    check(case(heads=4, groups=2), sinks_H=sinks_H)
    check(case(heads=4, groups=2), sinks_H=sinks_H, sliding_window=9, softcap=8.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [32, 80])
def test_half_precision_is_summed_in_fp32(dtype: torch.dtype, dim: int) -> None:
    check(case(length=70, dim=dim, dtype=dtype), scale=dim**-0.5)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "horizon", [(10, 100), (0, TO_THE_END), (3, 7), (0, 0), (0, 30), (16, 32), (60, TO_THE_END), (200, 300)]
)
def test_horizon(horizon: tuple[int, int]) -> None:
    check(case(length=120), horizon=horizon)


@pytest.mark.parametrize(("first", "lo"), [(14, 0), (15, 1), (16, 1)])
def test_response_starts_near_the_edge_of_a_block(first: int, lo: int) -> None:
    check(case(length=50, spans=((first, 50),)), horizon=(lo, TO_THE_END))


@pytest.mark.parametrize("window", [1, 2, 16, 17, 200])
def test_window(window: int) -> None:
    check(case(length=60), window=window)


def test_response_spans() -> None:
    check(case(length=90, spans=((2, 4), (30, 41), (80, 81))), horizon=(2, 60))


def test_a_row_without_a_response() -> None:
    inputs = case(length=40, pads=((0, 0), (0, 0)), spans=((8, 40),))
    inputs["response_BN"][0] = False
    check(inputs)


@pytest.mark.thorough
@pytest.mark.parametrize("tile", [dict(block_rows=32, block_cols=16), dict(block_rows=16, block_cols=64), {}])
def test_tiles(tile: dict[str, int]) -> None:
    check(case(length=150, pads=((5, 3),), spans=((30, 150),)), tile=tile)
    check(case(length=150, pads=((5, 3),), spans=((30, 150),)), tile=tile, sliding_window=40, horizon=(0, TO_THE_END))


def test_distances_are_exact_far_out() -> None:
    """Equal scores over 70,000 keys: the mean distance is (t - s0) / 2, and WAAD follows in closed form."""
    length = 70_000
    inputs = {
        "q_BHND": torch.zeros(1, 1, length, 16),
        "k_BKND": torch.zeros(1, 1, length, 16),
        "start_B": torch.tensor([3]),
        "end_B": torch.tensor([length]),
        "response_BN": torch.arange(length)[None] == length - 1,
    }
    tile = dict(block_rows=256, block_cols=1024)
    sums = triton_sweep.sweep(**inputs, scale=1.0, window=10, horizon=(1, 1), **tile)
    lse, away, waad, _ = (values_BHN[0, 0, -1].double() for values_BHN in sums)
    keys = length - 3
    torch.testing.assert_close(lse, torch.tensor(float(keys)).double().log(), atol=1e-5, rtol=0)
    torch.testing.assert_close(away, torch.tensor((keys - 1) / 2).double(), atol=0, rtol=1e-6)
    torch.testing.assert_close(waad, torch.tensor(10 - 55 / keys).double(), atol=2e-6, rtol=0)


def everything(inputs: dict[str, Tensor]) -> triton_sweep.Sums:
    return triton_sweep.sweep(**inputs, scale=0.2, window=10, horizon=(3, 30), **SMALL)


def test_two_runs_are_bitwise_equal() -> None:
    inputs = case(length=80, pads=((7, 3),))
    for first, second in zip(everything(inputs), everything(inputs), strict=True):
        assert torch.equal(first, second)


def test_statistics_are_those_of_the_rows_of_a_map() -> None:
    inputs = case(length=60, heads=4, groups=2, pads=((0, 0), (7, 5)), spans=((10, 60),))
    inputs = {name: tensor.nan_to_num() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    q_BHND, k_BKND, start_B, end_B, response_BN = inputs.values()
    position = torch.arange(60)
    real_BN = (position >= start_B[:, None]) & (position < end_B[:, None])
    layer = AttentionInputs(q_BHND, k_BKND, 0.2, real_BN, softcap=8.0, sinks_H=torch.randn(4), sliding_window=20)
    swept = stream._swept_on_gpu(layer, response_BN, 10, (3, 30))
    expected = stream.statistics_of_blocks(stream.score_blocks(layer, response_BN), 4, response_BN, 10, (3, 30))
    for values, expected_values in zip(swept, expected, strict=True):
        torch.testing.assert_close(values, expected_values, atol=1e-4, rtol=1e-5, equal_nan=True)


@settings(max_examples=10)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 70))
    left = data.draw(st.integers(0, length - 1))
    right = data.draw(st.integers(0, length - 1 - left))
    first = data.draw(st.integers(left, length - 1 - right))
    lo = data.draw(st.integers(0, 30))
    check(
        case(
            length=length,
            dim=data.draw(st.sampled_from([16, 24, 32])),
            heads=2,
            groups=data.draw(st.sampled_from([1, 2])),
            pads=((left, right),),
            spans=((first, data.draw(st.integers(first + 1, length))),),
            seed=data.draw(st.integers(0, 99)),
        ),
        window=data.draw(st.integers(1, 40)),
        horizon=(lo, data.draw(st.sampled_from([TO_THE_END, lo, lo + 9, lo + 50]))),
        sliding_window=data.draw(st.none() | st.integers(1, 80)),
        softcap=data.draw(st.none() | st.floats(1.0, 30.0)),
        sinks_H=data.draw(st.none() | st.just(torch.tensor([0.5, -1.0]))),
        tile=dict(
            block_rows=data.draw(st.sampled_from([16, 32])),
            block_cols=data.draw(st.sampled_from([16, 32])),
        ),
    )


def test_factors_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        triton_sweep.sweep(**case(), scale=0.0, window=10, horizon=(10, 100))


def test_available_follows_the_interpreter() -> None:
    assert triton_sweep.available(torch.device("cpu"))
    assert triton_sweep.available(torch.device("cuda"))


def test_without_triton_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sweep, "triton", None)
    assert not triton_sweep.available(torch.device("cuda"))
