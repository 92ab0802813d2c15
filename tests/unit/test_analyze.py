"""`analyze` and `assign_credit` against the loop, on the families' own eager maps."""

from __future__ import annotations

import copy
import gc
import math

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, BloomConfig, BloomForCausalLM
from transformers.models.llama import modeling_llama

from rlcredit import CreditArguments, HeadGroups, analyze, analyze_thirds, assign_credit, credit_weights
from rlcredit.attention import choose_layers, open_capture, signals_maker
from tests import tiny
from tests.reference import loop

B, N = 4, 48


def masks(padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and response masks: left, right or no padding; row 3 has several response spans."""
    real = torch.ones(B, N, dtype=torch.long)
    response = torch.zeros(B, N, dtype=torch.bool)
    response[:, 14:] = True
    if padding == "left":
        real[0, :9] = real[2, :3] = 0
    if padding == "right":
        real[0, -11:] = real[2, -1:] = 0
    response[3, 20:24] = response[3, 30:37] = False
    return real, response & real.bool()


def eager_maps(model, ids, real):
    eager = type(model)._from_config(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        return eager(input_ids=ids, attention_mask=real, output_attentions=True).attentions


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_agrees_with_the_loop(family, implementation, padding):
    if family == "gemma2" and implementation == "sdpa":
        implementation = "eager"
    model = tiny.model_of(family, implementation)
    ids = torch.randint(2, len(tiny.WORDS), (B, N), generator=torch.Generator().manual_seed(1))
    real, response = masks(padding)
    args = CreditArguments(credit_fai_horizon=[3, 12], credit_waad_window=5)
    signals = analyze(model, ids, real, response, args)
    assert signals.layers == loop.layers(6) == [2, 3, 4]
    credit = assign_credit(signals, response, args)
    maps = eager_maps(model, ids, real)
    for row in range(B):
        begin, end = int(real[row].argmax()), int(real[row].sum() + real[row].argmax())
        own = [[head[begin:end, begin:end].tolist() for head in maps[index][row]] for index in signals.layers]
        where = [t - begin for t in response[row].nonzero().flatten().tolist()]
        compare_row(own, where, begin, row, signals, credit)


def compare_row(maps, where, begin, row, signals, credit):
    span = loop.spans(maps, where)
    assert signals.head_span[row].tolist() == [pytest.approx(layer, rel=tiny.SCORE_ERROR) for layer in span]
    # the groups of the fast path, so that equal spans within tolerance cannot change the comparison
    local = [tuple(pair) for pair in signals.local_heads[row].nonzero().tolist()]
    far = [tuple(pair) for pair in signals.global_heads[row].nonzero().tolist()]
    near_enough(span, local, far)
    waads = loop.waad(loop.mean_map(maps, local), where, 5)
    fais = loop.fai(loop.mean_map(maps, far), where, 3, 12)
    outside = set(range(signals.waad.shape[1])) - {t + begin for t in where}
    assert signals.waad[row, list(outside)].isnan().all() and signals.fai[row, list(outside)].isnan().all()
    for t in where:
        assert signals.waad[row, t + begin].item() == pytest.approx(waads[t], rel=tiny.SCORE_ERROR)
        wanted = pytest.approx(fais.get(t, math.nan), rel=tiny.SCORE_ERROR, nan_ok=True)
        assert signals.fai[row, t + begin].item() == wanted
    # selection is compared on the values as read: it is exact, the values are within tolerance
    exact_w = {t: signals.waad[row, t + begin].item() for t in where}
    exact_f = {t: signals.fai[row, t + begin].item() for t in fais}
    gamma, intro = loop.coupled_rhythm(single(exact_w), exact_f, where)
    assert {t: credit.weights[row, t + begin].item() for t in where} == pytest.approx(gamma)
    found = {t: int(credit.intro[row, t + begin]) - begin for t in where if credit.dominated[row, t + begin]}
    assert found == intro
    assert (credit.weights[row, list(outside)] == 1).all()


def single(values):
    """Differences of float32 values round to float32."""
    return {t: torch.tensor(v, dtype=torch.float32) for t, v in values.items()}


def near_enough(span, local, far):
    want_local, want_far = loop.groups(span, 0.3)
    for got, want in ((local, want_local), (far, want_far)):
        lengths = sorted(span[layer][head] for layer, head in got)
        assert lengths == pytest.approx(sorted(span[layer][head] for layer, head in want), rel=tiny.SCORE_ERROR)
        assert len(set(got)) == len(want)


def inputs(seed=0, rows=3, length=40, prompt=10):
    ids = torch.randint(2, len(tiny.WORDS), (rows, length), generator=torch.Generator().manual_seed(seed))
    real = torch.ones_like(ids)
    response = real.bool().clone()
    response[:, :prompt] = False
    return ids, real, response


def same(one: torch.Tensor, two: torch.Tensor, share=tiny.SCORE_ERROR):
    return torch.allclose(one, two, atol=0, rtol=share, equal_nan=True)


def test_padding_changes_nothing():
    model, args = tiny.model_of("llama"), CreditArguments(credit_fai_horizon=[2, 9])
    ids, real, response = inputs()
    plain = analyze(model, ids, real, response, args)
    left = [torch.nn.functional.pad(x, (7, 0)) for x in (ids, real, response)]
    right = [torch.nn.functional.pad(x, (0, 7)) for x in (ids, real, response)]
    moved, longer = analyze(model, *left, args), analyze(model, *right, args)
    for name in ("waad", "fai"):
        assert same(getattr(moved, name)[:, 7:], getattr(plain, name))
        assert same(getattr(longer, name)[:, :-7], getattr(plain, name))
    assert same(moved.head_span, plain.head_span) and same(longer.head_span, plain.head_span)


def test_rows_are_independent():
    model = tiny.model_of("qwen3")
    batch = inputs()
    together = analyze(model, *batch)
    order = torch.tensor([2, 0, 1])
    permuted = analyze(model, *(x[order] for x in batch))
    assert same(permuted.waad, together.waad[order]) and same(permuted.head_span, together.head_span[order])


def test_waad_is_causal_and_fai_is_not():
    model, args = tiny.model_of("llama"), CreditArguments(credit_fai_horizon=[1, -1])
    ids, real, response = inputs()
    heads = HeadGroups(torch.ones(1, 3, 4, dtype=torch.bool), torch.ones(1, 3, 4, dtype=torch.bool))
    before = analyze(model, ids, real, response, args, heads=heads)
    ids[:, 30:] = 5
    after = analyze(model, ids, real, response, args, heads=heads)
    assert same(before.waad[:, :30], after.waad[:, :30])
    assert not same(before.waad[:, 30:], after.waad[:, 30:])
    assert not same(before.fai[:, 10:30], after.fai[:, 10:30])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_long_blocks_and_an_open_horizon(family):
    """More rows than one block, and FAI to the end, against the maps."""
    model, args = tiny.model_of(family), CreditArguments(credit_fai_horizon=[0, -1], credit_waad_window=7)
    ids, real, response = inputs(rows=2, length=300, prompt=3)
    signals = analyze(model, ids, real, response, args)
    maps = torch.stack([eager_maps(model, ids, real)[index] for index in signals.layers], 1)
    t = torch.arange(300)
    apart = (t[:, None] - t).float()
    far = signals.global_heads.float() / signals.global_heads.sum((1, 2), keepdim=True)
    near = signals.local_heads.float() / signals.local_heads.sum((1, 2), keepdim=True)
    waad = (torch.einsum("blhts,blh->bts", maps, near) * apart.clamp(max=7)).sum(-1)
    later = (apart >= 0) & (t >= 3)[:, None]
    fai = (torch.einsum("blhts,blh->bts", maps, far) * later).sum(1) / later.sum(0).clamp(min=1)
    assert same(signals.waad[:, 3:], waad[:, 3:])
    assert same(signals.fai[:, 3:], fai[:, 3:])


def test_entropy_is_that_of_the_distribution_that_produced_the_token():
    model = tiny.model_of("llama")
    ids, real, response = inputs()
    args = CreditArguments(credit_strategy="entropy")
    signals = analyze(model, ids, real, response, args, temperature=0.7)
    logits = model(input_ids=ids).logits[:, :-1] / 0.7
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert same(signals.entropy[:, 10:], expected[:, 9:], 1e-4)
    assert signals.entropy[:, :10].isnan().all()
    assert analyze(model, ids, real, response).entropy is None
    assert (credit_weights(signals, response, args) == 1.5).sum(1).tolist() == [12, 12, 12]


def test_all_heads_and_frozen_heads():
    model, batch = tiny.model_of("llama"), inputs()
    everything = analyze(model, *batch, CreditArguments(credit_heads="all"))
    assert everything.local_heads.all() and everything.global_heads.all()
    own = analyze(model, *batch)
    frozen = HeadGroups(own.local_heads[:1], own.global_heads[:1])
    fixed = analyze(model, *batch, heads=frozen)
    assert torch.equal(fixed.local_heads[2], own.local_heads[0])
    assert same(fixed.waad[0], own.waad[0])


def test_the_forward_stops_after_the_last_layer_needed():
    model, ran = tiny.model_of("llama"), []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    analyze(model, *inputs())
    assert ran == [0, 1, 2, 3, 4]


def test_modes_and_attention_are_left_alone():
    model = tiny.model_of("llama").train()
    model.model.layers[0].eval()
    original = AttentionInterface.get_interface
    analyze(model, *inputs())
    assert model.training and not model.model.layers[0].training and model.model.layers[1].training
    assert AttentionInterface.get_interface is original


def test_a_model_that_bypasses_the_interface_is_an_error_not_silence(monkeypatch):
    class OwnFunctions:  # as remote code has them
        @staticmethod
        def get_interface(name, default):
            return default

    original = AttentionInterface.get_interface
    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", OwnFunctions)
    with pytest.raises(RuntimeError, match=r"Llama.*: attention layers \[2, 3, 4\] were to be read, seen: none"):
        analyze(tiny.model_of("llama"), *inputs())
    assert AttentionInterface.get_interface is original


class AttendsToItsBlocks(nn.Module):
    """Each position attends to states of its own, through the same interface: Inkling 2's residuals (5.24)."""

    is_causal, num_key_value_groups = False, 1

    def __init__(self, mlp, config):
        super().__init__()
        self.mlp, self.config = mlp, config

    def forward(self, hidden_BND):
        states_BN2D = torch.stack([hidden_BND, 2 * hidden_BND], dim=2)
        interface = AttentionInterface.get_interface(
            modeling_llama.ALL_ATTENTION_FUNCTIONS,
            self.config._attn_implementation,
            modeling_llama.eager_attention_forward,
        )
        read, _ = interface(self, hidden_BND[:, :, None], states_BN2D, states_BN2D, None, scaling=1.0)
        return self.mlp(hidden_BND) + 0 * read.reshape_as(hidden_BND)


def test_attention_within_positions_is_not_that_of_the_layer():
    model = tiny.model_of("llama")
    plain = analyze(model, *inputs())
    for layer in model.model.layers:
        layer.mlp = AttendsToItsBlocks(layer.mlp, model.config)
    again = analyze(model, *inputs())
    assert torch.equal(again.waad.nan_to_num(), plain.waad.nan_to_num())
    assert torch.equal(again.fai.nan_to_num(), plain.fai.nan_to_num()) and (plain.fai > 0).any()


@pytest.mark.parametrize("autocast", [torch.bfloat16, None])
def test_statistics_are_fp32_whatever_the_model_computes_in(autocast):
    model = tiny.model_of("llama", spread=0.1)
    batch = inputs()
    exact = analyze(copy.deepcopy(model), *batch)  # the first pass over a model also checks its family's formula
    if autocast is None:
        low = analyze(model.bfloat16(), *batch)
    else:
        with torch.autocast("cpu", autocast):
            low = analyze(model, *batch)
    assert low.waad.dtype == low.head_span.dtype == torch.float32
    assert (low.waad - exact.waad).abs().nan_to_num().max() < 0.1


@pytest.mark.parametrize(
    ("family", "implementation", "padding"),
    [
        ("llama", "sdpa", "left"),
        ("llama", "eager", "right"),
        ("gemma2", "eager", "none"),
        ("mistral", "sdpa", "left"),
    ],
)
def test_a_float64_model_is_read_as_its_float32_copy(family, implementation, padding):
    model = tiny.model_of(family, implementation)
    real, response = masks(padding)
    ids = torch.randint(2, len(tiny.WORDS), (B, N), generator=torch.Generator().manual_seed(0))
    exact, double = (
        analyze(copy.deepcopy(model).to(dtype), ids, real, response) for dtype in (torch.float32, torch.float64)
    )
    assert double.waad.dtype == torch.float32
    for name in ("waad", "fai"):
        torch.testing.assert_close(getattr(double, name), getattr(exact, name), rtol=1e-3, atol=1e-4, equal_nan=True)


def test_a_model_that_shows_maps_which_are_not_finite_is_told_so():
    """transformers' eager softmax of a float64 model has no finite row where padding lies on the left."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tiny.WORDS), hidden_size=32, n_layer=6, n_head=4)
    model = BloomForCausalLM(config).eval().double()
    ids = torch.randint(2, len(tiny.WORDS), (B, N))
    with pytest.raises(ValueError, match=r"model: its queries or keys are not finite in layers .* .rows 0, 2."):
        analyze(model, ids, *masks("left"))
    assert analyze(model, ids, *masks("right")).waad.isfinite().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, real, resp: (ids, real[:, 1:], resp), "attention_mask: shape"),
        (lambda ids, real, resp: (ids, real * 0, resp), "attention_mask: must be one run"),
        (lambda ids, real, resp: (ids, real.index_fill(1, torch.tensor([5]), 0), resp), "one run of ones .rows 0, 1"),
        (lambda ids, real, resp: (ids, real.index_fill(1, torch.tensor([39]), 0), resp), "covers padding"),
        (lambda ids, real, resp: (ids, real, resp & (torch.arange(3) != 1)[:, None]), r"is empty \(rows 1\)"),
        (lambda ids, real, resp: (ids, real, resp.index_fill(1, torch.tensor([0]), True)), "covers the prompt"),
    ],
)
def test_bad_masks_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        analyze(tiny.model_of("llama"), *change(*inputs()))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_queries_that_are_not_finite_are_named(implementation):
    model, (ids, real, response) = tiny.model_of("llama", implementation), inputs()
    ids[ids == 7], ids[1, 20] = 8, 7  # one token, in row 1
    model.model.embed_tokens.weight.data[7] = math.inf
    with pytest.raises(ValueError, match=r"model: its queries or keys are not finite in layers 2, 3, 4 \(rows 1\)"):
        analyze(model, ids, real, response)


def test_receiver_heads_are_those_whose_fai_has_the_highest_kurtosis():
    model, batch = tiny.model_of("llama"), inputs()
    args = CreditArguments(credit_heads="receiver", credit_fai_horizon=[2, 20])
    signals = analyze(model, *batch, args)
    grouped = analyze(model, *batch, CreditArguments(credit_fai_horizon=[2, 20]))
    assert torch.equal(signals.local_heads, grouped.local_heads) and same(signals.waad, grouped.waad, 0)
    maps = eager_maps(model, batch[0], batch[1])
    where = batch[2][0].nonzero().flatten().tolist()
    for row in range(3):
        found = {
            (place, head): list(loop.fai(maps[layer][row, head].tolist(), where, 2, 20).values())
            for place, layer in enumerate(signals.layers)
            for head in range(4)
        }
        wanted = loop.receivers(found, 0.3)
        assert [tuple(pair) for pair in signals.global_heads[row].nonzero().tolist()] == sorted(wanted)
        own = [maps[layer][row].tolist() for layer in signals.layers]
        fais = loop.fai(loop.mean_map(own, wanted), where, 2, 20)
        assert {t: signals.fai[row, t].item() for t in fais} == pytest.approx(fais, rel=tiny.SCORE_ERROR)


def test_thirds_come_from_one_pass_and_equal_passes_of_their_own():
    model, batch = tiny.model_of("llama"), inputs()
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    thirds = analyze_thirds(model, *batch)
    assert runs == [1] and list(thirds) == ["all", "bottom", "middle", "top"]
    assert [part.layers for part in thirds.values()] == [list(range(6)), [0, 1], [2, 3], [4, 5]]
    for part in thirds.values():
        alone = analyze(model, *batch, CreditArguments(credit_layers=part.layers))
        assert torch.equal(part.local_heads, alone.local_heads) and same(part.waad, alone.waad, 1e-5)
        assert torch.equal(part.global_heads, alone.global_heads) and same(part.fai, alone.fai, 1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12, 28, 30, 32, 36, 80])
@pytest.mark.parametrize("which", ["middle", "all", "top", "bottom"])
@pytest.mark.parametrize("number", [1, 2, 5, 7])
def test_layers(count, which, number):
    config = tiny.LlamaConfig(**{**tiny.SHAPE, "num_hidden_layers": count})
    assert choose_layers(config, which, number) == loop.layers(count, which, number)


def test_layers_by_hand():
    config = tiny.LlamaConfig(**{**tiny.SHAPE, "num_hidden_layers": 36})
    assert choose_layers(config, "middle", 5) == [12, 15, 18, 21, 24]
    assert choose_layers(config, [3, 1], 5) == [3, 1]
    with pytest.raises(ValueError, match=r"credit_layers: \[36\]"):
        choose_layers(config, [36], 5)


def test_models_without_softmax_attention_are_refused_by_name():
    from transformers import JambaConfig, MambaConfig, T5Config

    with pytest.raises(ValueError, match="mamba"):
        choose_layers(MambaConfig(), "middle", 5)
    with pytest.raises(ValueError, match=r"t5.*encoder-decoder"):
        choose_layers(T5Config(), "middle", 5)
    assert set(choose_layers(JambaConfig(), "all", 5)) <= {4, 12, 20, 28}


def read_under_ddp(model, batch, args):
    """The signals of a training pass under DistributedDataParallel, which is gone when they are there."""
    wrapped = torch.nn.parallel.DistributedDataParallel(model.train())
    capture = open_capture(wrapped, args, batch[1], batch[2], finish=signals_maker(args))
    with capture.reading():
        wrapped(input_ids=batch[0], attention_mask=batch[1]).logits.sum().backward()
    return capture.results()


def test_a_ddp_wrapper_does_not_disturb(tmp_path):
    model, batch, args = tiny.model_of("llama"), inputs(), CreditArguments()
    plain = analyze(model, *batch, args)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        (signals,) = read_under_ddp(model, batch, args)
        gc.collect()  # a wrapper that outlives its group waits, with the interpreter's lock, for threads that want it
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(signals.head_span, plain.head_span)
    assert same(signals.waad, plain.waad, 0) and same(signals.fai, plain.fai, 0)
