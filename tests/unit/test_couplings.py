"""Couplings: worked by hand, against loops, found where planted and not found in noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlcredit.analysis.couplings import APART, METRICS, Coupling, Paper, Series, couplings, offsets
from rlcredit.analysis.peaks import peaks
from rlcredit.analysis.tables import coupling_table, offset_table
from rlcredit.stats.curves import ema, ema_of_peaks
from rlcredit.stats.estimates import Estimate, estimate_in

NAN = math.nan

# Ten tokens, three of which can be peaks. WAAD peaks at 1, 4 and 7; FAI at 2, 4 and 9; receiver FAI at 2, 6 and 9.
WAAD = [0, 9, 0, 0, 8, 0, 0, 7, 0, 0]
FAI = [0, 0, 9, 0, 8, 0, 0, 0, 0, 7]
RECEIVER = [0, 0, 9, 0, 0, 0, 8, 0, 0, 7]
ENTROPY = [1, 3, 0, 0, 2, 0, 0, 1, 0, 3]


def series(*rows):
    return Series(*(np.array(row, dtype=float) for row in rows))


def noise(generator, tokens):
    return Series(*generator.standard_normal((4, tokens)))


# ---- by hand ------------------------------------------------------------------------------------------------------


def test_one_response_by_hand():
    entropy, receiver, fai, _ = couplings([series(WAAD, FAI, RECEIVER, ENTROPY)])
    # entropy at 1, 4, 7: (3 + 2 + 1) / 3 = 2; over all tokens 10 / 10 = 1
    assert [entropy.observed.value, entropy.expected.value, entropy.lift.value] == pytest.approx([2, 1, 1])
    # receiver peaks 2, 6, 9: 2 and 9 are global peaks; 3 of 10 tokens are. (2/3) / 0.3 - 1 = 11/9
    assert [receiver.observed.value, receiver.expected.value, receiver.lift.value] == pytest.approx(
        [2 / 3, 0.3, 11 / 9]
    )
    # FAI peaks 2 (WAAD at 1), 4 (WAAD at 4), 9 (none at 8, 9): 2/3. {1, 2, 4, 5, 7, 8}: 6 of 10 tokens. 1/9
    assert [fai.observed.value, fai.expected.value, fai.lift.value] == pytest.approx([2 / 3, 0.6, 1 / 9])
    # shuffled, in expectation: the mean score. In pieces of 10 tokens: the same
    assert [c.shuffled.value for c in (entropy, receiver, fai)] == pytest.approx([1, 0.3, 0.6])
    assert [c.nearby.value for c in (entropy, receiver, fai)] == pytest.approx([1, 0.3, 0.6])
    assert [(c.samples, c.left_out, c.tokens, c.peaks) for c in (entropy, receiver, fai)] == [(1, 0, 10, 3)] * 3
    # one response tells nothing about the spread over responses
    assert math.isnan(entropy.lift.low) and not entropy.holds
    assert entropy.sentence() == "Entropy at WAAD peaks: cannot be judged from 1 responses with 3 such peaks."


def test_p_value_by_hand():
    # receiver: 3 of 10 tokens are drawn, 3 are global peaks. P(2 or more) = (3 * 7 + 1) / 120 = 22 / 120
    receiver = couplings([series(WAAD, FAI, RECEIVER, ENTROPY)])[1]
    assert receiver.p_value == pytest.approx(22 / 120, abs=0.04)  # standard error of 1,000 shuffles: 0.012
    # and 97.5 % of the shuffles have two or fewer: P(3) = 1 / 120
    assert (receiver.shuffled.low, receiver.shuffled.high) == pytest.approx((0, 2 / 3))


def test_two_responses_are_pooled():
    # the second, of five tokens (two can be peaks): WAAD peaks at 0 and 4, entropies 5 and 1; sum of entropies 10
    short = series([5, 0, 0, 0, 4], [5, 0, 0, 0, 4], [5, 0, 0, 0, 4], [5, 2, 1, 1, 1])
    entropy, receiver, fai, _ = couplings([series(WAAD, FAI, RECEIVER, ENTROPY), short])
    # (6 + 6) / (3 + 2), (10 + 10) / (10 + 5)
    assert (entropy.observed.value, entropy.expected.value) == pytest.approx((12 / 5, 20 / 15))
    # shuffled within each: (3 * 1 + 2 * 2) / 5; in pieces of 10 the same
    assert (entropy.shuffled.value, entropy.nearby.value) == pytest.approx((7 / 5, 7 / 5))
    # (2 + 2) / 5, (3 + 2) / 15
    assert (receiver.observed.value, receiver.expected.value) == pytest.approx((4 / 5, 1 / 3))
    # (2 + 2) / 5; tokens 0, 1 and 4 of the second are at or just after a WAAD peak: (3 * 0.6 + 2 * 0.6) / 5
    assert (fai.observed.value, fai.expected.value) == pytest.approx((4 / 5, 3 / 5))
    # resamples: first twice (1/4), each once (1/2), second twice (1/4), and 2.5 % lie in either tail
    assert (entropy.observed.low, entropy.observed.high) == pytest.approx((2, 3))
    assert (entropy.lift.low, entropy.lift.high) == pytest.approx((3 / 2 - 1, 2 - 1))


def test_undefined_tokens_do_not_enter():
    # FAI undefined at the last two: of 8 values ceil(2.4) = 3 are top, 9, 8 and 0; the zeros between are no peaks
    cut = series(WAAD, [*FAI[:8], NAN, NAN], RECEIVER, ENTROPY)
    entropy, receiver, fai, _ = couplings([cut])
    assert (entropy.tokens, receiver.tokens, fai.tokens) == (10, 8, 8)
    # receiver peaks of the whole curve 2, 6, 9, of which 2 and 6 enter; 2 of 8 tokens are global peaks
    assert (receiver.observed.value, receiver.expected.value) == pytest.approx((1 / 2, 2 / 8))
    # FAI peaks 2 and 4; of the first 8 tokens {1, 2, 4, 5, 7} follow a WAAD peak
    assert (fai.observed.value, fai.expected.value) == pytest.approx((1, 5 / 8))


def test_a_peak_before_the_first_defined_token_counts():
    # FAI undefined at 0, where WAAD peaks; its peak at 1 comes just after. Top: 2 of 5 of WAAD, 2 of 4 of FAI
    fai = couplings([series([9, 0, 0, 0, 0], [NAN, 9, 0, 0, 0], RECEIVER[:5], ENTROPY[:5])])[2]
    assert (fai.observed.value, fai.tokens, fai.peaks) == (1, 4, 1)


def test_short_responses_are_left_out_and_counted():
    usual = series(WAAD, FAI, RECEIVER, ENTROPY)
    short = series([1, 2], [2, 1], [1, 2], [9, 9])
    undefined = usual._replace(fai_T=np.array([*[NAN] * 8, 1, 2.0]))
    empty = series([], [], [], [])
    alone, judged = couplings([usual, usual])[:3], couplings([usual, short, undefined, empty, usual])[:3]
    assert [c.left_out for c in judged] == [2, 3, 3] and [c.samples for c in judged] == [3, 2, 2]
    assert judged[1].lift == alone[1].lift
    three = series([1, 3, 2], [2, 3, 1], [1, 2, 3], [4, 7, 1])
    assert [c.left_out for c in couplings([three])] == [0, 0, 0, 1]
    assert [o.left_out for o in offsets([usual, short, undefined, empty])][:3] == [3, 3, 3]


@pytest.mark.parametrize("rows", [[], [series([1, 2], [2, 1], [1, 2], [9, 9])], [series(*[[3] * 10] * 4)] * 4])
def test_where_nothing_is_known(rows):
    for coupling in couplings(rows):
        assert not coupling.holds and not coupling.holds_nearby and "cannot be judged" in coupling.sentence()
    assert all(math.isnan(offset.lift.value) for offset in offsets(rows))


def test_offsets_by_hand():
    entries = {(o.first, o.second, o.offset): o for o in offsets([series(WAAD, FAI, RECEIVER, ENTROPY)])}
    assert len(entries) == 4 * 3 * 3
    # WAAD peaks 1, 4, 7; FAI peaks 2, 4, 9. One before: FAI at 0, 3, 6, none; together: 4; one after: 2, 5, 8, so 2
    assert [entries["waad", "fai", o].observed.value for o in (-1, 0, 1)] == pytest.approx([0, 1 / 3, 1 / 3])
    # a FAI peak at t + 1 for t = 1, 3, 8: 3 of 10 tokens; at t - 1 for t = 3, 5, and 10, which there is not
    assert [entries["waad", "fai", o].expected.value for o in (-1, 0, 1)] == pytest.approx([0.2, 0.3, 0.3])
    # FAI peaks 2, 4, 9: WAAD one before the first; together at the second
    assert [entries["fai", "waad", o].observed.value for o in (-1, 0, 1)] == pytest.approx([1 / 3, 1 / 3, 0])
    assert entries["waad", "fai", 1].lift.value == pytest.approx(1 / 9)


def test_refuses_metrics_of_different_lengths():
    with pytest.raises(ValueError, match=r"series\[1\]: .* not shapes \[10\], \[9\], \[10\], \[10\]"):
        couplings([series(WAAD, FAI, RECEIVER, ENTROPY), series(WAAD, FAI[1:], RECEIVER, ENTROPY)])


# ---- against loops ------------------------------------------------------------------------------------------------


def responses(count, seed, undefined=0.1):
    generator = np.random.default_rng(seed)
    metrics_by_response = [noise(generator, tokens) for tokens in generator.integers(5, 40, count)]
    for metrics, values in itertools.product(metrics_by_response, range(4)):
        metrics[values][generator.random(len(metrics[values])) < undefined] = NAN
    return metrics_by_response


def test_offsets_equal_a_loop():
    rows = responses(6, seed=3)
    for entry in offsets(rows):
        hits = peaks_found = chance = 0.0
        for metrics in rows:
            first, second = getattr(metrics, f"{entry.first}_T"), getattr(metrics, f"{entry.second}_T")
            first_peaks, second_peaks = peaks(first), peaks(second)
            tokens = [t for t in range(len(first)) if not math.isnan(first[t]) and not math.isnan(second[t])]
            places = [t + entry.offset for t in tokens]
            at = [0 <= place < len(first) and second_peaks[place] for place in places]
            own = [first_peaks[t] for t in tokens]
            hits += sum(a and b for a, b in zip(at, own, strict=True))
            peaks_found += sum(own)
            chance += sum(own) * sum(at) / len(tokens)
        assert entry.observed.value == pytest.approx(hits / peaks_found)
        assert entry.expected.value == pytest.approx(chance / peaks_found)
        assert entry.observed.low < entry.observed.value < entry.observed.high


def test_shuffles_equal_a_loop():
    rows = responses(6, seed=4)
    generator = np.random.default_rng(7)
    entropy = couplings(rows)[0]
    means = []
    for _ in range(2000):
        drawn: list[float] = []
        for metrics in rows:
            both = ~np.isnan(metrics.waad_T) & ~np.isnan(metrics.entropy_T)
            moved = generator.permutation(peaks(metrics.waad_T)[both])
            drawn += metrics.entropy_T[both][moved].tolist()
        means.append(np.mean(drawn))
    chance = np.array(means)
    assert entropy.shuffled.value == pytest.approx(np.mean(chance), abs=0.015)
    assert (entropy.shuffled.low, entropy.shuffled.high) == pytest.approx(
        np.quantile(chance, [0.025, 0.975]), abs=0.05
    )
    assert entropy.p_value == pytest.approx(np.mean(chance >= entropy.observed.value), abs=0.04)


def test_shuffles_keep_the_number_of_peaks_of_each_response():
    # entropy the same at every token of a response, and large where there are few peaks: shuffles can change nothing
    rows = [
        metrics._replace(entropy_T=np.full(len(metrics.waad_T), 10.0**i))
        for i, metrics in enumerate(responses(5, seed=5, undefined=0))
    ]
    entropy = couplings(rows)[0]
    assert entropy.shuffled == pytest.approx([entropy.observed.value] * 3)
    assert entropy.p_value == 1


def test_nearby_shuffles_stay_within_ten_tokens():
    # entropy the same within each piece of ten tokens
    rows = [
        metrics._replace(entropy_T=np.repeat([1.0, 7.0, 3.0], 10))
        for metrics in (noise(np.random.default_rng(i), 30) for i in range(4))
    ]
    entropy = couplings(rows)[0]
    assert entropy.nearby == pytest.approx([entropy.observed.value] * 3) and entropy.nearby_p_value == 1
    assert entropy.shuffled.low < entropy.shuffled.high


def test_a_seed_gives_the_same_numbers_and_the_global_generator_is_left_alone():
    rows = responses(6, seed=6)
    before = np.random.get_state()[1].tolist()
    assert couplings(rows, seed=1)[:3] == couplings(rows, seed=1)[:3] != couplings(rows, seed=2)[:3]
    assert np.random.get_state()[1].tolist() == before


# ---- found and not found ------------------------------------------------------------------------------------------


def planted(generator, tokens):
    """Entropy doubles at WAAD peaks; FAI stands out just after half of these; receiver FAI is FAI with noise."""
    waad = generator.random(tokens)
    at = peaks(waad)
    entropy = generator.random(tokens) * (1 + at)
    fai = generator.random(tokens) + np.roll(at & (generator.random(tokens) < 0.5), 1)
    return Series(waad, fai, fai + 0.3 * generator.random(tokens), entropy)


def test_planted_couplings_are_found():
    generator = np.random.default_rng(0)
    judged = couplings([planted(generator, 80) for _ in range(20)])[:3]
    for coupling in judged:
        assert coupling.stands and 0 < coupling.lift.low < coupling.lift.value
        assert coupling.p_value == 1 / 1001  # no shuffle came near
        assert coupling.sentence().endswith(": the paper's coupling holds here.")
    # E[entropy] is 1 at peaks, which are 0.22 of the tokens, and 1/2 elsewhere: 1 / (0.5 + 0.11) - 1
    assert judged[0].lift.value == pytest.approx(0.64, abs=0.1)


def test_the_opposite_is_said():
    generator = np.random.default_rng(0)
    rows = [
        metrics._replace(entropy_T=-metrics.entropy_T + 3) for metrics in (planted(generator, 80) for _ in range(20))
    ]
    entropy = couplings(rows)[0]
    assert not entropy.holds and entropy.sentence().endswith("below chance: the opposite of the paper's coupling.")


def test_a_trend_that_all_share_holds_and_is_called_one():
    generator = np.random.default_rng(0)
    rows = [Series(*(generator.standard_normal((4, 100)) + np.linspace(0, 3, 100))) for _ in range(20)]
    entropy, _, fai, _ = couplings(rows)
    for coupling in (entropy, fai):
        assert coupling.holds and not coupling.holds_nearby
        assert "it may be a trend along the response alone" in coupling.sentence()


@pytest.mark.thorough
def test_couplings_are_rarely_found_in_noise(monkeypatch):
    # 200 shuffles and resamples instead of thousands, for speed
    monkeypatch.setattr("rlcredit.analysis.controls.SHUFFLES", 200)
    monkeypatch.setattr("rlcredit.stats.resampling.RESAMPLES", 200)
    generator = np.random.default_rng(0)
    judged = [couplings([noise(generator, 40) for _ in range(12)]) for _ in range(200)]
    holds = np.mean([[coupling.holds for coupling in row] for row in judged], axis=0)
    reached = np.mean([[coupling.p_value <= 0.05 for coupling in row] for row in judged], axis=0)
    assert (holds <= 0.06).all(), holds
    assert (reached <= 0.10).all(), reached


def test_sentences():
    usual = Coupling(
        "Entropy at WAAD peaks", "Entropy at WAAD peaks is {} that of all tokens", "nats", Estimate(1.5, 1.4, 1.6),
        Estimate(1, 0.9, 1.1), Estimate(0.52, 0.3, 0.7), Estimate(1, 0.9, 1.1), 0.001, Estimate(1, 0.9, 1.1), 0.001,
        Estimate(1, 0.9, 1.1), 0.001, Paper(0.3608, 0.2386, 0.5197), 70, 0, 7000, 1500,
    )  # fmt: skip
    start = "Entropy at WAAD peaks is 1.52 times that of all tokens (95 % interval 1.30 to 1.70)"
    assert usual.sentence() == f"{start}: the paper's coupling holds here."
    placed = usual._replace(swapped_p_value=0.3)
    assert (
        placed.holds_nearby
        and not placed.stands
        and placed.sentence()
        == (f"{start}, but no more than at the peaks of other responses (p = 0.3): it may be a matter of place alone.")
    )
    between = usual._replace(p_value=0.2)
    assert (
        between.sentence()
        == f"{start}, but not above shuffled peaks (p = 0.2): the paper's coupling does not show here."
    )
    flat = usual._replace(lift=Estimate(0.02, -0.05, 0.09))
    assert not flat.holds and flat.sentence() == (
        "Entropy at WAAD peaks is 1.02 times that of all tokens (95 % interval 0.95 to 1.09), "
        "which is not above chance: the paper's coupling does not show here."
    )


def test_the_tables_hold_the_numbers_and_none_where_nothing_is_known():
    generator = np.random.default_rng(0)
    metrics = [planted(generator, 80) for _ in range(5)]
    rows = couplings(metrics)  # the last row has no heads apart
    table = coupling_table("table2", "Couplings", {"all": rows})
    for coupling, row in zip(rows, table["rows"], strict=True):
        name, observed, expected, lift, shuffled, *chances = row["cells"][:8]
        assert (name, row["unit"], row["cells"][8:]) == (
            coupling.name,
            coupling.unit,
            [*(coupling.paper or [None] * 3)],
        )
        if coupling is rows[-1]:
            assert [observed, expected, lift, shuffled, *chances] == [None] * 7
        else:
            estimates = coupling.observed, coupling.expected, coupling.lift, coupling.shuffled
            assert tuple(map(estimate_in, (observed, expected, lift, shuffled))) == estimates
            assert chances == [coupling.p_value, coupling.nearby_p_value, coupling.swapped_p_value]
    (alone, *_) = coupling_table("table2", "Couplings", {"all": couplings(metrics[:1])})["rows"]
    assert alone["cells"][1]["low"] is None and alone["cells"][1]["value"] == couplings(metrics[:1])[0].observed.value
    entries = offsets(metrics)
    (first, *_) = offset_table(entries)["rows"]
    assert first["cells"][0] == "FAI around WAAD peaks" and first["cells"][-1] == entries[0].peaks
    assert [estimate_in(cell) for cell in first["cells"][1:-1:2]] == [entry.observed for entry in entries[:3]]
    assert first["cells"][2:-1:2] == [entry.expected.value for entry in entries[:3]]


def test_the_papers_figures():
    # as printed, and their own ratios: 0.3608 / 0.2386 = 1.512, 60.84 / 22.41 = 2.715, 52.53 / 36.87 = 1.425
    rows = couplings([])
    assert rows.pop().paper is None
    assert [row.paper.observed / row.paper.expected for row in rows] == pytest.approx([1.512, 2.715, 1.425], abs=5e-4)
    assert [row.paper.lift for row in rows] == [0.5197, 1.71, 0.42]
    assert [f"{metric}_T" for metric in METRICS] == list(Series._fields)[:4]


def test_heads_in_both_groups_are_told_from_heads_that_agree():
    generator = np.random.default_rng(3)
    shared = [noise(generator, 60) for _ in range(20)]
    shared = [
        metrics._replace(receiver_fai_T=metrics.fai_T, apart_fai_T=generator.normal(size=60)) for metrics in shared
    ]
    _, same, _, apart = couplings(shared)
    assert same.stands and same.observed.value == 1
    assert not apart.holds and apart.samples == 20 and apart.name == APART
    agreeing = [
        metrics._replace(apart_fai_T=metrics.receiver_fai_T + 0.1 * generator.normal(size=60)) for metrics in shared
    ]
    assert couplings(agreeing)[3].stands
    assert couplings([metrics._replace(apart_fai_T=None) for metrics in shared])[3].samples == 0


def test_peaks_that_share_a_place_and_nothing_else_do_not_stand():
    generator = np.random.default_rng(4)
    hump = 4.0 * (np.arange(60) % 15 == 7)  # where everything peaks, in every response
    rows = [noise(generator, 60) for _ in range(20)]
    rows = [Series(*(metric + hump for metric in metrics[:4])) for metrics in rows]
    receiver = couplings(rows)[1]
    assert receiver.holds and not receiver.stands and receiver.swapped_p_value > 0.025
    assert receiver.swapped.value > receiver.shuffled.value


def test_swapped_by_hand():
    # peaks at 1 of 4 and at 3 of 4: the other response's peak scores 0 in both
    early = series([0, 9, 0, 0], [0, 9, 0, 0], [0, 9, 0, 0], [0, 5, 0, 1])
    late = series([0, 0, 0, 9], [0, 0, 0, 9], [0, 0, 0, 9], [0, 1, 0, 5])
    entropy = couplings([early, late])[0]
    assert entropy.observed.value == 5 and entropy.swapped == (1, 1, 1)


# ---- curves -------------------------------------------------------------------------------------------------------


def test_averages_by_hand():
    x = np.array([NAN, 2, 4, NAN, 0])
    # 2; 4/2 + 2/2 = 3; kept; 0/2 + 3/2
    assert ema(x, 0.5).tolist() == pytest.approx([NAN, 2, 3, 3, 1.5], nan_ok=True)
    # 2; max(4, 2)/2 + 2/2 = 3; kept; max(0, 3)/2 + 3/2 = 3
    assert ema_of_peaks(x, 0.5).tolist() == pytest.approx([NAN, 2, 3, 3, 3], nan_ok=True)
    assert ema_of_peaks(np.array([0.0, 8, 0, 8]), 0.25).tolist() == pytest.approx([0, 2, 2, 3.5])
    with pytest.raises(ValueError, match="alpha must be above 0 and at most 1, not 0"):
        ema(x, 0)
