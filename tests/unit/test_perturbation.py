"""Table 1: by hand, against one continuation at a time, and how often noise looks like a finding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlcredit.analysis import perturbation as module
from rlcredit.analysis.perturbation import (
    PAPER,
    STOP_WORDS,
    Perturbed,
    Table1,
    choose_positions,
    content_words,
    jaccard,
    perturb,
    table1,
)
from rlcredit.analysis.tables import perturbation_table
from rlcredit.stats.estimates import Estimate, estimate_in
from tests import tiny

NAN = math.nan

# ---- words --------------------------------------------------------------------------------------------------------


def test_content_words_by_hand():
    # the, of, is, it, and are function words; don't leaves don and t, which are too; 3.5 is 3 and 5; _ is no letter
    assert content_words("The cost of 3.5 Apples is $12, and it doesn't_Change!") == {
        "cost", "3", "5", "apples", "12", "doesn", "change",
    }  # fmt: skip
    assert content_words("") == content_words("... it was the") == frozenset()
    assert all(word == word.lower() and word.isalpha() for word in STOP_WORDS)


def test_jaccard_by_hand():
    a, b = content_words("add the 3 apples"), content_words("3 apples, 4 pears")
    assert jaccard(a, b) == 2 / 5  # {3, apples} of {add, 3, apples, 4, pears}
    assert jaccard(a, a) == 1 and jaccard(a, frozenset()) == 0 and jaccard(frozenset(), frozenset()) == 1


# ---- positions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fai", "wanted"),
    [
        # the last 2 of 8 are not candidates; highest 6 and 5, lowest 1 and 2
        ([3, 6, 1, 5, 2, 4, 9, 0], ([1, 3], [2, 4])),
        # five candidates: two and two, and the middle one is neither
        ([3, 6, NAN, 5, 1, 2, 9, 0], ([1, 3], [4, 5])),
        ([1, 2, 3, 9, 0], ([2], [0])),  # three candidates: one and one
        ([1, 2, 9, 0], ([1], [0])),
        ([1, 9, 0], ([], [])),
        ([7, 7, 7, 7, 7, 0, 0], ([0, 1], [3, 4])),  # equal FAI: the earlier one counts as the higher
        ([NAN] * 9, ([], [])),
        ([], ([], [])),
    ],
)
def test_positions_by_hand(fai, wanted):
    assert choose_positions(np.array(fai, dtype=float), 2, 2) == wanted


# ---- against one continuation at a time ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy():
    """A random model. Texts end at "<eos>" by its tokenizer, and at "a" by its own settings."""
    model = tiny.model_of("llama")
    model.generation_config.eos_token_id = tiny.WORDS.index("a")
    return model


ENDS = [1, tiny.WORDS.index("a")]
PROMPT = [12, 13, 2, 9]


@torch.no_grad()
def greedy(model, ids, limit):
    """One token at a time, without a cache; with the closing token."""
    written = []
    while len(written) < limit and not (written and written[-1] in ENDS):
        written.append(int(model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
    return written


def sample(model, length=45):
    """A greedy response, and FAI of its tokens: noise, undefined at some."""
    response = greedy(model, PROMPT, length)
    fai = np.random.default_rng(1).random(len(response))
    fai[[2, 11]] = NAN
    return response, fai


@torch.no_grad()
def loop(model, tokenizer, response, t, candidates):
    """(mean overlap at t, lengths of the continuations, ends among the likely): one continuation at a time."""
    likely = model(input_ids=torch.tensor([[*PROMPT, *response[:t]]])).logits[0, -1].argsort(descending=True).tolist()
    others = [token for token in likely if token != response[t] and token not in ENDS][:candidates]
    wanted = content_words(tokenizer.decode(response[t + 1 :], skip_special_tokens=True))
    written = [greedy(model, [*PROMPT, *response[:t], other], len(response) - t - 1) for other in others]
    kept = [[token for token in ids if token not in ENDS] for ids in written]
    overlaps = [jaccard(wanted, content_words(tokenizer.decode(ids, skip_special_tokens=True))) for ids in kept]
    passed_over = set(likely[: likely.index(others[-1])]) & set(ENDS)
    return np.mean(overlaps), [len(ids) for ids in kept], len(passed_over)


@pytest.fixture(scope="module")
def looped(policy):
    """A response of 45 tokens, its FAI, and what `loop` says of each position."""
    response, fai = sample(policy)
    high_at, low_at = choose_positions(fai, 5, 20)
    return response, fai, {t: loop(policy, tiny.tokenizer(), response, t, 3) for t in high_at + low_at}


@pytest.mark.parametrize("batch_size", [32, 4])
def test_equals_one_continuation_at_a_time(policy, looped, batch_size):
    tokenizer = tiny.tokenizer()
    response, fai, wanted_at = looped
    assert len(response) == 45
    outcome = perturb(policy, tokenizer, PROMPT, response, fai, batch_size=batch_size)
    assert (outcome.high_at, outcome.low_at) == choose_positions(fai, 5, 20) and outcome.tokens == 45
    shorter = passed_over = 0
    for places, overlaps in ((outcome.high_at, outcome.high_overlaps), (outcome.low_at, outcome.low_overlaps)):
        assert len(places) == len(overlaps) == 5
        for t, overlap in zip(places, overlaps, strict=True):
            wanted, lengths, ends = wanted_at[t]
            assert overlap == pytest.approx(wanted, abs=1e-12)
            assert len(lengths) == 3 and max(lengths) <= 44 - t
            shorter += sum(length < 44 - t for length in lengths)
            passed_over += ends
    assert 0 < shorter < 30  # some continuations ended by themselves, and some did not
    assert passed_over > 0  # a token that ends the text was likely, and was not forced
    assert len({round(overlap, 6) for overlap in outcome.high_overlaps + outcome.low_overlaps}) > 3
    assert (outcome.high, outcome.low) == pytest.approx(
        (np.mean(outcome.high_overlaps), np.mean(outcome.low_overlaps))
    )


def test_only_the_first_tokens_after_the_forced_one_are_compared(policy):
    tokenizer, (response, fai) = tiny.tokenizer(), sample(policy)
    outcome = perturb(policy, tokenizer, PROMPT, response, fai, positions=1, candidates=1, longest=6)
    (t,) = outcome.high_at
    likely = policy(input_ids=torch.tensor([[*PROMPT, *response[:t]]])).logits[0, -1].argsort(descending=True).tolist()
    other = next(token for token in likely if token != response[t] and token not in ENDS)
    written = [token for token in greedy(policy, [*PROMPT, *response[:t], other], 6) if token not in ENDS]
    words = [
        content_words(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (response[t + 1 : t + 7], written)
    ]
    assert outcome.high == pytest.approx(jaccard(*words))


def test_settings_reach_the_loop(policy):
    response, fai = sample(policy, 20)
    outcome = perturb(policy, tiny.tokenizer(), PROMPT, response, fai, positions=2, candidates=1, after=5)
    assert (outcome.high_at, outcome.low_at) == choose_positions(fai, 2, 5)
    for t, overlap in zip(outcome.high_at + outcome.low_at, outcome.high_overlaps + outcome.low_overlaps, strict=True):
        assert overlap == pytest.approx(loop(policy, tiny.tokenizer(), response, t, 1)[0])


def test_short_responses_have_fewer_positions_or_none(policy):
    response, fai = sample(policy, 23)  # tokens 0, 1 and 2 have 20 after them, and 2 is undefined
    outcome = perturb(policy, tiny.tokenizer(), PROMPT, response, fai)
    assert sorted(outcome.high_at + outcome.low_at) == [0, 1]
    assert perturb(policy, tiny.tokenizer(), PROMPT, response[:-2], fai[:-2]) is None  # token 0 alone
    assert perturb(policy, tiny.tokenizer(), PROMPT, response, np.full(23, NAN)) is None


def test_mode_and_random_streams_are_left_alone(policy):
    policy.train()
    before = torch.get_rng_state()
    response, fai = sample(policy.eval(), 24)
    policy.train()
    perturb(policy, tiny.tokenizer(), PROMPT, response, fai)
    assert policy.training and torch.equal(before, torch.get_rng_state())
    policy.eval()


def test_refuses_what_does_not_fit(policy):
    with pytest.raises(ValueError, match="2 values, 3 tokens and 1 tokens"):
        perturb(policy, tiny.tokenizer(), [5], [5, 6, 7], np.zeros(2))
    with pytest.raises(ValueError, match="3 values, 3 tokens and 0 tokens"):
        perturb(policy, tiny.tokenizer(), [], [5, 6, 7], np.zeros(3))


# ---- over samples -------------------------------------------------------------------------------------------------


def perturbed(high, low, tokens=100):
    return Perturbed(list(range(len(high))), list(range(50, 50 + len(low))), list(high), list(low), tokens)


def test_table1_by_hand():
    # means high 0.3, 0.5, 0.6; low 0.4, 0.5, 0.2: lower at high, equal, higher
    rows = [perturbed([0.2, 0.4], [0.4, 0.4]), None, perturbed([0.5, 0.5], [0.4, 0.6]), perturbed([0.6], [0.2])]
    outcome = table1(rows)
    assert (outcome.high.value, outcome.low.value) == pytest.approx((1.4 / 3, 1.1 / 3))
    assert outcome.difference.value == pytest.approx(-0.1)
    assert outcome.share.value == pytest.approx(1.5 / 3)
    # mean of 0, 1 of 100 tokens, twice, and of 0; mean of 50, 51, twice, and of 50
    assert (outcome.high_place.value, outcome.low_place.value) == pytest.approx((0.01 / 3, (2 * 0.505 + 0.5) / 3))
    assert (outcome.samples, outcome.left_out) == (3, 1)
    # of 27 resamples one has the first sample only, and one the last only: 3.7 % > 2.5 %
    assert (outcome.share.low, outcome.share.high, outcome.difference.low) == pytest.approx((0, 1, -0.4))
    # dealt at random, each of the samples is as often lower as higher
    assert outcome.control.value == pytest.approx(0.5, abs=0.03) and not outcome.holds
    assert outcome.sentence() == (
        "The text after a forced token overlaps 0.467 with the original at high FAI and 0.367 at low, and is lower at "
        "high FAI in 50 % of trials (95 % interval 0 to 100 %, by chance 50 %), which is not beyond chance: the "
        "paper's finding does not show here."
    )


def test_the_table_holds_the_numbers():
    outcome = table1([perturbed([0.2, 0.4], [0.4, 0.4]), perturbed([0.6], [0.2])])
    table = perturbation_table(outcome)
    assert [row["cells"][3] for row in table["rows"]] == [0.534, 0.631, 0.097, 0.8714]
    measured = [estimate_in(row["cells"][1]) for row in table["rows"]]
    assert measured == [outcome.high, outcome.low, outcome.difference, outcome.share]
    assert [row["cells"][2] for row in table["rows"]][:3] == [None] * 3
    assert estimate_in(table["rows"][3]["cells"][2]) == outcome.control
    assert f"p = {outcome.p_value:.3f}. High positions lie at 0.2 % of the response" in table["caption"]
    nothing = perturbation_table(table1([None]))
    assert [row["cells"][1] for row in nothing["rows"]] == [None] * 4 and "nan" not in nothing["caption"]


def test_p_value_by_hand():
    # of the 6 ways to deal two low and two high values, one puts both low ones first, and four tie. Both samples: 1/36
    outcome = table1([perturbed([0.1, 0.1], [0.5, 0.5])] * 2)
    assert outcome.share.value == 1
    assert outcome.p_value == pytest.approx(1 / 36, abs=0.02)  # standard error of 1,000 deals: 0.005


def test_a_planted_difference_is_found_and_its_opposite_too():
    generator = np.random.default_rng(0)
    rows = [perturbed(generator.random(5) * 0.8, generator.random(5) * 0.8 + 0.2) for _ in range(40)]
    outcome = table1(rows)
    assert outcome.holds and outcome.difference.low > 0.1 and outcome.p_value == 1 / 1001
    assert outcome.sentence().endswith("by chance 50 %): the paper's finding holds here.")
    turned = table1([row._replace(high_overlaps=row.low_overlaps, low_overlaps=row.high_overlaps) for row in rows])
    assert not turned.holds and turned.sentence().endswith(": the opposite of the paper's finding.")


def test_a_few_large_differences_are_no_finding():
    # lower by 0.9 in 16 of 40 trials, higher by 0.01 in 24: lower on average, in the minority of trials
    outcome = table1([perturbed([0.05] * 5, [0.95] * 5)] * 16 + [perturbed([0.51] * 5, [0.5] * 5)] * 24)
    assert outcome.difference.low > 0.1 and outcome.share.value == 0.4 and not outcome.holds


@pytest.mark.thorough
def test_noise_is_rarely_a_finding(monkeypatch):
    monkeypatch.setattr(module, "SHUFFLES", 200)  # of 1,000, for speed
    generator = np.random.default_rng(0)
    outcomes = [table1([perturbed(generator.random(5), generator.random(5)) for _ in range(20)]) for _ in range(200)]
    assert np.mean([outcome.holds for outcome in outcomes]) <= 0.06
    assert np.mean([outcome.p_value <= 0.05 for outcome in outcomes]) <= 0.10
    assert np.mean([outcome.control.value for outcome in outcomes]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rows", [[], [None, None], [perturbed([0.1], [0.2]), None]])
def test_where_nothing_is_known(rows):
    outcome = table1(rows)
    assert not outcome.holds and "cannot be judged" in outcome.sentence()
    assert outcome.samples + outcome.left_out == len(rows)


def test_the_papers_figures():
    assert PAPER == (0.534, 0.631, 0.8714)
    unknown = Estimate(NAN, NAN, NAN)
    high, low, difference = Estimate(0.534, 0.5, 0.57), Estimate(0.631, 0.6, 0.66), Estimate(0.097, 0.07, 0.12)
    outcome = Table1(high, low, difference, Estimate(0.8714, 0.79, 0.94), unknown, 0.001, unknown, unknown, 70, 0)
    assert outcome.sentence() == (
        "The text after a forced token overlaps 0.534 with the original at high FAI and 0.631 at low, and is lower at "
        "high FAI in 87 % of trials (95 % interval 79 to 94 %, by chance 50 %): the paper's finding holds here."
    )
