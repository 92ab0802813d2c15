"""Credit worked by hand, and its pieces against the loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcredit import (
    AttentionSignals,
    Batch,
    Credit,
    CreditArguments,
    CreditGRPOConfig,
    CreditPPOConfig,
    Strategy,
    assign_credit,
)
from rlcredit.analysis.analyze import AnalysisCredit
from rlcredit.credit import CREDIT_STRATEGIES, strategy_of, weighted_advantage
from rlcredit.signals import group_heads, lower_quantile, select
from tests.reference import loop

NAN = math.nan


def signals(waad=None, fai=None, entropy=None) -> AttentionSignals:
    """Signals of one row, given as lists."""
    row = torch.tensor([next(x for x in (waad, fai, entropy) if x is not None)])
    made = AttentionSignals.without_attention(torch.full(row.shape, NAN))
    values = {name: torch.tensor([x]) for name, x in (("waad", waad), ("fai", fai), ("entropy", entropy)) if x}
    return AttentionSignals(**{**made.__dict__, "entropy": None, **values})


def assign(given: AttentionSignals, response=None, **settings) -> Credit:
    mask = torch.tensor([response]).bool() if response else torch.ones_like(given.waad, dtype=torch.bool)
    return assign_credit(given, mask, CreditArguments(**settings))


# ---- five tokens by hand ------------------------------------------------------------------------------------------


def test_local_chunk_by_hand():
    # WAAD 1 4 4 2 9: Delta = 3 0 2 7 -, so the top two of five (q = 0.4) are t = 3 and t = 0
    credit = assign(signals(waad=[1.0, 4, 4, 2, 9]), credit_strategy="local_chunk")
    assert credit.weights.tolist() == [[1.5, 1, 1, 1.5, 1]]
    assert credit.preplan.tolist() == [[True, False, False, True, False]]
    assert not credit.anchor.any() and not credit.dominated.any()
    # the bottom two: t = 1 (0) and t = 2 (2); the last token has no Delta and is never taken
    bottom = assign(signals(waad=[1.0, 4, 4, 2, 9]), credit_strategy="local_chunk", credit_select="bottom")
    assert bottom.weights.tolist() == [[1, 1.5, 1.5, 1, 1]]


def test_global_anchor_by_hand():
    # ties go to the earlier token: 0.5 stands at t = 0, 2 and 3, two are taken
    credit = assign(signals(fai=[0.5, 0.1, 0.5, 0.5, NAN]), credit_strategy="global_anchor", credit_amplification=2)
    assert credit.weights.tolist() == [[2, 1, 2, 1, 1]]
    assert credit.anchor.tolist() == [[True, False, True, False, False]]
    # q = 1 asks for five, only the four defined ones can be taken
    everything = assign(signals(fai=[0.5, 0.1, 0.5, 0.5, NAN]), credit_strategy="global_anchor", credit_quantile=1)
    assert everything.weights.tolist() == [[1.5, 1.5, 1.5, 1.5, 1]]


def test_coupled_rhythm_by_hand():
    # Delta = 3 0 2 7 -: T_loc = {0, 3}, tau_Delta = 3; lower median WAAD = 4
    # T_glob = {2, 4}. t = 2: WAAD 4 <= 4, window {-1, 0, 1} in R, best Delta = 3 at u = 0: dominated, intro 0.
    #                  t = 4: WAAD 9 > 4: not dominated.
    credit = assign(signals(waad=[1.0, 4, 4, 2, 9], fai=[0.1, 0.2, 0.9, 0.3, 0.8]))
    assert credit.anchor.tolist() == [[False, False, True, False, True]]
    assert credit.dominated.tolist() == [[False, False, True, False, False]]
    assert credit.intro.tolist() == [[-1, -1, 0, -1, -1]]
    assert credit.weights.tolist() == [[1.25, 1, 1.25, 1, 1.5]]
    assert credit.preplan.tolist() == [[True, False, False, True, False]]


def test_coupled_rhythm_shared_intro_counts_once_and_terms_add():
    # Delta = 5 0 0 1 -, tau_Delta = 1 (T_loc = {0, 3}); WAAD 6 1 1 1 2, lower median 1; T_glob = {0, 1, 2} (q = 0.6)
    # t = 0: no window; t = 1 and 2: dominated, both introduced by 0, which is an anchor itself: 1 + 0.5 + 0.25
    credit = assign(signals(waad=[6.0, 1, 1, 1, 2], fai=[0.9, 0.8, 0.7, 0.1, 0.1]), credit_quantile=0.6)
    assert credit.intro.tolist() == [[-1, 0, 0, -1, -1]]
    assert credit.weights.tolist() == [[1.75, 1.25, 1.25, 1, 1]]
    # alpha = 1 gives the whole bonus of a dominated anchor away
    given = assign(signals(waad=[6.0, 1, 1, 1, 2], fai=[0.9, 0.8, 0.7, 0.1, 0.1]), credit_quantile=0.6, credit_alpha=1)
    assert given.weights.tolist() == [[2, 1, 1, 1, 1]]


def test_coupled_rhythm_takes_the_nearest_of_equal_introductions():
    # Delta = 2 2 0 0 -: T_loc = {0, 1}; t = 3 looks back at 0, 1, 2 and finds 1 nearer than 0
    credit = assign(signals(waad=[5.0, 3, 1, 1, 1], fai=[0.0, 0, 0.1, 0.9, 0]), credit_quantile=0.4)
    assert credit.intro.tolist() == [[-1, -1, 1, 1, -1]]


def test_lookback_stays_within_the_response_and_distances_count_positions():
    # response at 0 1 and 4 5 (tool output between): Delta is defined at 0 and 4 only
    credit = assign(
        signals(waad=[5.0, 1, NAN, NAN, 1, 1], fai=[0.1, 0.2, NAN, NAN, 0.9, 0.3]),
        response=[1, 1, 0, 0, 1, 1],
        credit_quantile=0.25,
    )
    assert credit.preplan.tolist() == [[True, False, False, False, False, False]]
    assert credit.anchor.nonzero().tolist() == [[0, 4]]
    assert not credit.dominated.any()  # 0 is four positions back, beyond k = 3
    wider = assign(
        signals(waad=[5.0, 1, NAN, NAN, 1, 1], fai=[0.1, 0.2, NAN, NAN, 0.9, 0.3]),
        response=[1, 1, 0, 0, 1, 1],
        credit_quantile=0.25,
        credit_lookback=4,
    )
    assert wider.intro[0, 4] == 0


@pytest.mark.parametrize("strategy", ["global_anchor", "coupled_rhythm"])
def test_no_defined_fai_means_no_anchors(strategy):
    credit = assign(signals(waad=[1.0, 2, 3, 4, 5], fai=[NAN] * 5), credit_strategy=strategy)
    assert (credit.weights == 1).all() and not credit.anchor.any()


@pytest.mark.parametrize("strategy", [name for name, one in CREDIT_STRATEGIES.items() if not one.of_rollout])
@pytest.mark.parametrize("length", [0, 1])
def test_empty_and_single_token_responses(strategy, length):
    response = [True] * length + [False] * (4 - length)
    value = [1.0 if r else NAN for r in response]
    nothing = [NAN] * 4 if strategy != "entropy" else value
    credit = assign(signals(waad=value, fai=nothing, entropy=value), response=response, credit_strategy=strategy)
    assert (credit.weights[:, length:] == 1).all() and credit.weights.isfinite().all()


def test_all_equal_values_go_to_the_earlier_tokens():
    credit = assign(signals(waad=[2.0] * 5, fai=[0.3] * 5), credit_strategy="global_anchor")
    assert credit.weights.tolist() == [[1.5, 1.5, 1, 1, 1]]


# ---- the pieces against the loop ----------------------------------------------------------------------------------

values = st.lists(
    st.one_of(st.just(NAN), st.sampled_from([0.0, 1.0, 2.0]), st.floats(-5, 5, width=32)), min_size=1, max_size=24
)


@settings(max_examples=200, deadline=None)
@given(values, st.floats(0.01, 1.0), st.booleans(), st.data())
def test_selection_is_the_loops(x, q, bottom, data):
    response = data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x)))
    where = [t for t, r in enumerate(response) if r]
    want = loop.top({t: x[t] for t in where if not math.isnan(x[t])}, where, q, bottom)
    got = select(torch.tensor([x]), torch.tensor([response]), q, bottom=bottom)
    assert set(got[0].nonzero().flatten().tolist()) == want


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 24), st.integers(1, 4), st.floats(0.05, 1), st.floats(0, 1), st.booleans(), st.data())
def test_coupled_rhythm_is_the_loops(length, lookback, q, alpha, bottom, data):
    tau_waad = data.draw(st.sampled_from([0.5, 0.0, 0.3, 1.0]))
    tau_delta = data.draw(st.sampled_from([None, 0.2, 1.0]))
    grid = st.integers(0, 6).map(lambda n: n / 4)
    waad = data.draw(st.lists(grid, min_size=length, max_size=length))
    fai = data.draw(st.lists(st.one_of(grid, st.just(NAN)), min_size=length, max_size=length))
    response = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    where = [t for t, r in enumerate(response) if r]
    if not where:
        return
    gamma, intro = loop.coupled_rhythm(
        {t: waad[t] for t in where},
        {t: fai[t] for t in where if not math.isnan(fai[t])},
        where,
        q=q,
        k=lookback,
        alpha=alpha,
        bottom=bottom,
        tau_waad=tau_waad,
        tau_delta=tau_delta,
    )
    credit = assign(
        signals(
            waad=[w if r else NAN for w, r in zip(waad, response, strict=True)],
            fai=[f if r else NAN for f, r in zip(fai, response, strict=True)],
        ),
        response=response,
        credit_quantile=q,
        credit_lookback=lookback,
        credit_alpha=alpha,
        credit_tau_waad=tau_waad,
        credit_tau_delta=tau_delta,
        credit_select="bottom" if bottom else "top",
    )
    assert [credit.weights[0, t].item() for t in where] == pytest.approx([gamma[t] for t in where])
    assert {t: int(credit.intro[0, t]) for t in where if credit.dominated[0, t]} == intro


def test_quota_does_not_suffer_from_rounding():
    # 0.1 * 30 is 3.0000000000000004 in binary: the quota is 3, not 4
    x = torch.arange(30.0)[None]
    assert select(x, torch.ones(1, 30, dtype=torch.bool), 0.1).sum() == 3


def test_coupled_rhythm_with_other_thresholds_by_hand():
    # as above: Delta = 3 0 2 7 -, T_glob = {2, 4}, WAAD 1 4 4 2 9; t = 2 has its best Delta (3) at u = 0
    given = signals(waad=[1.0, 4, 4, 2, 9], fai=[0.1, 0.2, 0.9, 0.3, 0.8])
    # the largest WAAD as tau_waad: t = 4 passes too, with Delta 7 at u = 3
    every = assign(given, credit_tau_waad=1.0)
    assert every.intro.tolist() == [[-1, -1, 0, -1, 3]]
    assert every.weights.tolist() == [[1.25, 1, 1.25, 1.25, 1.25]]
    # sorted WAAD 1 2 4 4 9: the quantile 0.25 is 2, and t = 2 has 4
    assert not assign(given, credit_tau_waad=0.25).dominated.any()
    # tau_Delta of the largest fifth is 7: t = 2 sees only 3; which tokens are anchors does not change
    strict = assign(given, credit_tau_delta=0.2)
    assert not strict.dominated.any() and strict.weights.tolist() == [[1, 1, 1.5, 1, 1.5]]


def test_lower_quantile():
    x = torch.tensor([[4.0, 1, 3, 2, 9], [NAN, 5, 7, NAN, 9], [6, 5, 4, 7, 8]])
    response = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    found = {share: lower_quantile(x, response, share).tolist() for share in (0.0, 0.3, 0.5, 0.74, 0.75, 1.0)}
    # four values, two, five: places 0 to 3, 0 to 1, 0 to 4, rounded down
    assert found == {0.0: [1, 5, 4], 0.3: [1, 5, 5], 0.5: [2, 5, 6], 0.74: [3, 5, 6], 0.75: [3, 5, 7], 1.0: [4, 7, 8]}
    assert lower_quantile(x, torch.zeros_like(response), 0.5).isnan().all()


def test_head_groups_by_hand():
    span = torch.tensor([[[3.0, 1, 1, 9], [2, 2, 8, 9]]])  # ranked: (0,1) (0,2) (1,0) (1,1) (0,0) (1,2) (0,3) (1,3)
    groups = group_heads(span, 0.25)
    assert groups.local_BLH.nonzero().tolist() == [[0, 0, 1], [0, 0, 2]]
    assert groups.global_BLH.nonzero().tolist() == [[0, 0, 3], [0, 1, 3]]
    one = group_heads(torch.tensor([[[2.0]]]), 0.3)
    assert one.local_BLH.all() and one.global_BLH.all()
    assert group_heads(torch.rand(1, 5, 10), 0.3).local_BLH.sum() == 15
    assert not group_heads(torch.full((1, 2, 2), NAN), 0.3).local_BLH.any()


# ---- gamma meets the advantage ------------------------------------------------------------------------------------


def test_sign_of_the_advantage():
    gamma, advantage = torch.tensor([[2.0, 1, 3]] * 3), torch.tensor([1.0, -1, 0])
    both = [[2, 1, 3], [-2, -1, -3], [0, 0, 0]]
    assert weighted_advantage(advantage, gamma, "both").tolist() == both
    assert weighted_advantage(advantage, gamma, "positive").tolist() == [both[0], [-1, -1, -1], both[2]]
    assert weighted_advantage(advantage, gamma, "negative").tolist() == [[1, 1, 1], both[1], both[2]]
    per_token = torch.tensor([[1.0, -1, 2]])
    assert weighted_advantage(per_token, gamma[:1], "positive").tolist() == [[2, -1, 6]]


# ---- random, and strategies of one's own --------------------------------------------------------------------------


def test_random_depends_on_seed_and_key_alone():
    mask = torch.ones(3, 20, dtype=torch.bool)
    nothing = AttentionSignals.without_attention(torch.full((3, 20), NAN))
    keys = torch.tensor([[5, 0], [5, 1], [6, 0]])
    args = CreditArguments(credit_strategy="random")
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = assign_credit(nothing, mask, args, row_keys=keys).weights
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.sum(1).tolist() == [24, 24, 24]  # 8 of 20 at 1.5
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(assign_credit(nothing, mask, args, row_keys=keys[order]).weights, first[order])
    other = CreditArguments(credit_strategy="random", credit_seed=1)
    assert not torch.equal(assign_credit(nothing, mask, other, row_keys=keys).weights, first)
    padded = torch.nn.functional.pad(mask, (3, 2))
    wide = AttentionSignals.without_attention(torch.full((3, 25), NAN))
    assert torch.equal(assign_credit(wide, padded, args, row_keys=keys).weights[:, 3:-2], first)


def _needs_power(args):
    if set(args.credit_options or {}) != {"power"}:
        raise ValueError("credit_options: write {power: 2}")


def _assign_power(batch: Batch) -> Credit:
    return Credit.of(batch.signals.waad ** batch.args.credit_options["power"])


power = Strategy(_assign_power, validate=_needs_power)


def test_a_strategy_of_ones_own():
    name = f"{__name__}:power"
    credit = assign(signals(waad=[1.0, 2, NAN]), response=[1, 1, 0], credit_strategy=name, credit_options={"power": 2})
    assert credit.weights.tolist() == [[1, 4, 1]]  # 1 outside the response, whatever the strategy says
    with pytest.raises(ValueError, match="power: 2"):
        strategy_of(CreditArguments(credit_strategy=name))
    with pytest.raises(ValueError, match="takes no options"):
        strategy_of(CreditArguments(credit_options={"power": 2}))
    for bad in ("nowhere:x", f"{__name__}:signals", f"{__name__}:nothing"):
        with pytest.raises(ValueError, match="credit_strategy"):
            strategy_of(CreditArguments(credit_strategy=bad))


@pytest.mark.parametrize("config", [CreditGRPOConfig, CreditPPOConfig, AnalysisCredit])
def test_configs_refuse_a_strategy_that_does_not_exist(config):
    with pytest.raises(
        ValueError, match="credit_strategy: 'global_ancor' is unknown; did you mean global_anchor"
    ) as error:
        config(credit_strategy="global_ancor")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="takes no options"):
        config(credit_options={"power": 2})


def test_uniform_alone_is_neutral():
    assert [name for name, strategy in CREDIT_STRATEGIES.items() if strategy.neutral] == ["uniform"]


# ---- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("credit_quantile", 0, "above 0 and at most 1"),
        ("credit_quantile", 1.2, "above 0 and at most 1"),
        ("credit_quantile", NAN, "out of range"),
        ("credit_amplification", -1, "0 or more"),
        ("credit_head_fraction", 0.6, "at most 0.5"),
        ("credit_fai_horizon", [100, 10], r"\[100, 10\] is no range"),
        ("credit_fai_horizon", [10], "needs two numbers"),
        ("credit_fai_horizon", [-1, 10], "no range"),
        ("credit_fai_horizon", ["a", 10], "whole number"),
        ("credit_waad_window", 0, "1 or more"),
        ("credit_waad_window", 2.5, "whole number"),
        ("credit_lookback", 0, "1 or more"),
        ("credit_alpha", 1.5, "between 0 and 1"),
        ("credit_select", "topp", "did you mean top"),
        ("credit_sign", "plus", "both, positive, negative"),
        ("credit_heads", "some", "grouped, receiver, all"),
        ("credit_head_grouping", "frosen", "did you mean frozen"),
        ("credit_layers", "midle", "did you mean middle"),
        ("credit_layers", [], "list of layer indices"),
        ("credit_layers", [3, 3], "twice"),
        ("credit_layers", [True], "list of layer indices"),
        ("credit_num_layers", 0, "1 or more"),
        ("credit_seed", -1, "0 or more"),
    ],
)
def test_values_out_of_range_are_one_clear_line(field, value, words):
    with pytest.raises(ValueError, match=words) as error:
        CreditArguments(**{field: value})
    assert field in str(error.value) and "\n" not in str(error.value)


def test_values_as_they_come_from_yaml_and_the_command_line():
    args = CreditArguments(credit_layers=["3", "5"], credit_fai_horizon=["10", "-1"], credit_options="{}")
    assert args.credit_layers == [3, 5] and args.horizon == (10, -1) and args.credit_options == {}
    assert CreditArguments(credit_layers="7,3").credit_layers == [3, 7]
    assert isinstance(CreditArguments(credit_lookback=3.0).credit_lookback, int)
    assert CreditArguments(credit_layers=["top"]).credit_layers == "top"
    assert args.credit_settings()["credit_quantile"] == 0.4
