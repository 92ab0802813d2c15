"""Strategies that see the whole rollout, against the loops written from the papers, on random rollouts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlcredit import Credit, CreditArguments, Strategy, assign_credit
from rlcredit.credit import Rollout, strategy_of, sums_of_gamma, weighted_advantage
from rlcredit.credit.token_tables import fisher
from rlcredit.signals import AttentionSignals
from tests.reference import rollout_methods as loops

# Sums over a group are taken in another order than the loop's, in fp64, and given in fp32.
CLOSE = dict(rtol=2e-5, atol=2e-5)


def rollout_of(seed: int) -> dict[str, Tensor]:
    """Groups of one to eight responses whose rows are mixed up; tool output in between, empty responses, ties."""
    draw = random.Random(seed)
    sizes = [draw.choice([1, 2, 3, 4, 8]) for _ in range(draw.randint(1, 4))]
    group = [number for number, size in enumerate(sizes) for _ in range(size)]
    draw.shuffle(group)
    B, N = len(group), draw.randint(1, 14)
    given = {"mixed": [0.0, 1.0, 0.5], "right": [1.0], "wrong": [0.0]}[
        draw.choice(["mixed", "right", "wrong", "mixed"])
    ]
    density, lengths = draw.choice([0.5, 1.0, 0.9]), [draw.choice([0, 1, N, draw.randint(0, N)]) for _ in range(B)]
    mask = [[t < length and draw.random() < density for t in range(N)] for length in lengths]
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, N, 7, generator=made, dtype=torch.float64) * draw.choice([0.0, 1.0, 8.0])
    p = logits.softmax(-1)
    drawn = torch.multinomial(p.reshape(-1, 7), 1, generator=made).view(B, N, 1)
    return {
        "group": torch.tensor(group),
        "reward": torch.tensor([draw.choice(given) for _ in range(B)]),
        "mask": torch.tensor(mask).reshape(B, N),
        "ids": torch.randint(0, draw.choice([2, 6, 151_000]), (B, N), generator=made),
        "logps": p.log().gather(2, drawn)[..., 0].float(),
        "squares": p.square().sum(-1).log().float(),
        "entropy": (torch.special.entr(p).sum(-1) * draw.choice([0.0, 1.0, 1.0])).float(),
    }


def at_last_token(mask: Tensor, value: Tensor) -> Tensor:
    placed = torch.zeros(mask.shape)
    for row, there in enumerate(mask):
        placed[row, there.nonzero()[-1:]] = value[row]
    return placed


def steps_of(x: dict[str, Tensor]) -> Tensor:
    """The rewards of steps; without steps that of the response at its last token."""
    return x.get("steps", at_last_token(x["mask"], x["reward"].nan_to_num()))


def credit_of(strategy: str, x: dict[str, Tensor], **options: Any) -> Credit:
    """What the strategy gives, with everything that it did not ask for left out."""
    args = CreditArguments(credit_strategy=strategy, credit_options=options or None)
    needs = strategy_of(args).needs
    usual = torch.zeros(len(x["group"]))
    for number in x["group"].unique().tolist():
        at = (x["group"] == number) & ~x["reward"].isnan()
        usual[at] = torch.tensor(loops.grpo(x["reward"][at].tolist()))
    there = lambda name, value: value if name in needs else None  # noqa: E731
    rollout = Rollout(
        input_ids=there("ids", x["ids"]),
        logps=there("logps", torch.where(x["mask"], x["logps"], torch.nan)),
        log_sum_sq=there("sum_sq", torch.where(x["mask"], x["squares"], torch.nan)),
        reward=there("rewards", x["reward"]),
        step_rewards=there("rewards", steps_of(x)),
        step_ends=there("rewards", x.get("ends", at_last_token(x["mask"], torch.ones(len(x["group"]))) > 0)),
        advantages=there("advantages", usual),
        groups=there("groups", x["group"]),
    )
    entropy = torch.where(x["mask"] & ("entropy" in needs), x["entropy"], torch.nan)
    return assign_credit(AttentionSignals.without_attention(entropy), x["mask"], args, rollout=rollout)


def advantages_of(strategy: str, x: dict[str, Tensor], **options: Any) -> Tensor:
    credit = credit_of(strategy, x, **options)
    assert (credit.weights == 1).all() and credit.advantages is not None and credit.advantages.dtype == torch.float32
    return credit.advantages


def by_loop(x: dict[str, Tensor], loop: Callable[..., list[dict[int, float]]]) -> Tensor:
    """The loop's advantages, group by group: [B, N], 0 outside the response."""
    wanted = torch.zeros(x["mask"].shape, dtype=torch.float64)
    for number in x["group"].unique().tolist():
        at = (x["group"] == number).nonzero()[:, 0].tolist()
        rows = [x["mask"][i].nonzero()[:, 0].tolist() for i in at]
        of = lambda name, at=at: [x[name][i].tolist() for i in at]  # noqa: E731
        for i, found in zip(at, loop(rows, of), strict=True):
            for t, advantage in found.items():
                wanted[i, t] = advantage
    return wanted.float()


def otb_loop(rows, of):
    landed = [[0.0] * len(ids) for ids in of("ids")]
    for row, reward, lands in zip(rows, of("reward"), landed, strict=True):
        if row:
            lands[row[-1]] = reward
    probabilities = [[torch.tensor(p).double().exp().item() for p in row] for row in of("logps")]
    squares = [[torch.tensor(p).double().exp().item() for p in row] for row in of("squares")]
    return loops.otb(rows, landed, probabilities, squares)


def otb_scaled(rows, of):
    scale = loops.spread(of("reward")) + 1e-4
    return [{t: a / scale for t, a in found.items()} for found in otb_loop(rows, of)]


CASES: dict[str, tuple[str, dict[str, Any], Callable[..., Any]]] = {
    "otb": ("otb", {}, otb_loop),
    "otb, scaled": ("otb", {"scale": "group"}, otb_scaled),
    "ktae": ("ktae", {}, lambda rows, of: loops.ktae(rows, of("ids"), of("reward"))),
    "ktae, options": (
        "ktae",
        {"right_above": 0.6, "exclude_id": 1},
        lambda rows, of: loops.ktae(rows, of("ids"), of("reward"), above=0.6, excluded=(1,)),
    ),
    "gtpo": ("gtpo", {}, lambda rows, of: loops.gtpo(rows, of("entropy"), of("reward"), apart=False)),
    "gtpo, apart": (
        "gtpo",
        {"normalize": "apart", "entropy_share": 0.5, "right_above": 0.6},
        lambda rows, of: loops.gtpo(rows, of("entropy"), of("reward"), share=0.5, above=0.6),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_strategy_is_its_loop(case):
    strategy, options, loop = CASES[case]
    moved = 0
    for seed in range(80):
        x = rollout_of(seed)
        found, wanted = advantages_of(strategy, x, **options), by_loop(x, loop)
        torch.testing.assert_close(found, wanted, **CLOSE)
        assert (found[~x["mask"]] == 0).all()
        moved += int((wanted != 0).sum())
    assert moved > 400


READ = {"otb": ("logps", "squares"), "ktae": (), "gtpo": ("entropy",), "process": ()}


@pytest.mark.parametrize("strategy", READ)
def test_a_response_without_a_score_has_no_say_and_no_advantage(strategy):
    """As in TRL: it is not a wrong one, nor one of reward 0."""
    for seed in range(40):
        x = rollout_of(seed)
        draw = torch.Generator().manual_seed(seed)
        x["reward"] = torch.where(torch.rand(len(x["reward"]), generator=draw) < 0.3, torch.nan, x["reward"])
        scored = ~x["reward"].isnan()
        found = advantages_of(strategy, x)
        assert (found[~scored] == 0).all()
        if scored.any():
            without = advantages_of(strategy, {name: value[scored] for name, value in x.items()})
            torch.testing.assert_close(found[scored], without, **CLOSE)


@pytest.mark.parametrize(("strategy", "what"), [(name, what) for name, read in READ.items() for what in read])
def test_a_response_whose_pass_was_not_finite_is_skipped_and_has_no_say(strategy, what):
    for x in map(rollout_of, range(40)):
        if len(x["group"]) < 2 or not x["mask"][0].any():
            continue
        broken, others = x | {what: x[what].clone()}, {name: value[1:] for name, value in x.items()}
        broken[what][0, x["mask"][0].nonzero()[0]] = torch.nan
        credit = credit_of(strategy, broken)
        assert credit.skipped.tolist() == [True] + [False] * (len(x["group"]) - 1)
        torch.testing.assert_close(credit.advantages[1:], advantages_of(strategy, others), **CLOSE)


def test_otb_counts_rewards_within_a_response():
    # To come: 3, 2 (a step of 1, the rest of 3 at the last token) and 1, 1; equal weights: the means are 2 and 1.5.
    x = {
        "group": torch.zeros(2, dtype=torch.long),
        "reward": torch.tensor([3.0, 1]),
        "mask": torch.tensor([[False, True, True]] * 2),
        "logps": torch.full((2, 3), 0.5).log(),
        "squares": torch.full((2, 3), 0.5).log(),
        "ids": torch.zeros(2, 3, dtype=torch.long),
        "entropy": torch.zeros(2, 3),
        "steps": torch.tensor([[0.0, 1, 2], [0, 0, 1]]),
    }
    torch.testing.assert_close(advantages_of("otb", x), torch.tensor([[0.0, 1, 0.5], [0, -1, -0.5]]))


def with_steps(x: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Steps that end anywhere in a response, some of reward 0, and the sums as the rewards of responses."""
    draw = torch.Generator().manual_seed(seed)
    ends = (torch.rand(x["mask"].shape, generator=draw) < 0.4) & x["mask"]
    steps = torch.where(ends, torch.randint(-1, 3, ends.shape, generator=draw).float(), 0.0)
    return x | {"steps": steps, "ends": ends, "reward": steps.sum(1)}


def steps_to_loop(loop):
    def over(rows, of):
        steps = [
            {t: reward for t, (reward, ends) in enumerate(zip(*both, strict=True)) if ends}
            for both in zip(of("steps"), of("ends"), strict=True)
        ]
        return loop(rows, steps)

    return over


@pytest.mark.parametrize(("baseline", "loop"), [("group", loops.process), ("return_to_go", loops.return_to_go)])
def test_process_is_its_loop(baseline, loop):
    moved = 0
    for seed in range(80):
        x = with_steps(rollout_of(seed), seed)
        found, wanted = advantages_of("process", x, baseline=baseline), by_loop(x, steps_to_loop(loop))
        torch.testing.assert_close(found, wanted, **CLOSE)
        assert (found[~x["mask"]] == 0).all()
        moved += int((wanted != 0).sum())
    assert moved > 400


@pytest.mark.parametrize(
    ("baseline", "wanted"),
    [
        # Steps of 1, 0 and 2, mean 1, deviation 1: 0, -1 and 1 are still to come.
        ("group", [[-1.0, -1, 0], [1, 1, 0]]),
        # To come: 1, 0 and 2, 2.
        ("return_to_go", [[-0.5, -1, 0], [0.5, 1, 0]]),
    ],
)
def test_process_by_hand(baseline, wanted):
    x = rollout_of(0) | {
        "group": torch.zeros(2, dtype=torch.long),
        "reward": torch.tensor([1.0, 2]),
        "mask": torch.tensor([[True, True, False]] * 2),
        "steps": torch.tensor([[1.0, 0, 0], [0, 2, 0]]),
        "ends": torch.tensor([[True, True, False], [False, True, False]]),
    }
    x["ids"], x["logps"], x["squares"], x["entropy"] = torch.zeros(4, 2, 3).unbind()
    torch.testing.assert_close(advantages_of("process", x, baseline=baseline), torch.tensor(wanted), atol=2e-4, rtol=0)


def test_reweight_is_its_loop():
    for seed in range(20):
        x = rollout_of(seed)
        found = credit_of("reweight", x, share=0.3)
        assert found.advantages is None and (found.weights[~x["mask"]] == 1).all()
        for row, mask, logps in zip(found.weights, x["mask"], x["logps"].tolist(), strict=True):
            where = mask.nonzero()[:, 0].tolist()
            wanted = loops.reweight(where, torch.tensor(logps).exp().tolist(), 0.3)
            assert row[where].tolist() == pytest.approx(list(wanted.values()), rel=1e-5)


@pytest.mark.parametrize("strategy", ["otb", "ktae", "gtpo", "process"])
@pytest.mark.parametrize(
    ("setting", "said"),
    [({"credit_sign": "positive"}, "write both"), ({"credit_normalize": "batch"}, "write none")],
)
def test_settings_of_weights_where_there_are_none(strategy, setting, said):
    with pytest.raises(ValueError, match=f"is for weights, and {strategy} gives advantages; {said}"):
        strategy_of(CreditArguments(credit_strategy=strategy, **setting))


def test_fishers_test_of_every_small_table_is_the_loops():
    tables = [
        (a, b, n - a, m - b) for n in range(7) for m in range(7) if n + m for a in range(n + 1) for b in range(m + 1)
    ]
    found = fisher(*torch.tensor(tables, dtype=torch.float64).T)
    wanted = torch.tensor([loops.fisher(*table) for table in tables], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        ("gtpo", {"share": 1}, "gtpo does not take share; it takes entropy_share, right_above, normalize"),
        ("gtpo", {"entropy_share": 1.5}, "entropy_share: 1.5 is not a number from 0.0 to 1.0"),
        ("gtpo", {"normalize": "both"}, "normalize: 'both' is not one of group, apart"),
        ("ktae", {"exclude_id": 1.5}, "exclude_id: 1.5 is not a whole number of at least -1"),
        ("ktae", {"right_above": True}, "right_above: True is not a number"),
        ("otb", {"scale": 1}, "scale: 1 is not one of none, group"),
        ("process", {"baseline": "value"}, "baseline: 'value' is not one of group, return_to_go"),
        ("reweight", {"share": 2}, "share: 2 is not a number from 0.0 to 1.0"),
    ],
)
def test_options_that_a_strategy_does_not_take(strategy, options, said):
    with pytest.raises(ValueError, match=said):
        strategy_of(CreditArguments(credit_strategy=strategy, credit_options=options))


# ---- what a strategy may ask for and give ---------------------------------------------------------------------------

RESPONSE = torch.tensor([[False, True, True, True]])
NOTHING = AttentionSignals.without_attention(torch.full((1, 4), torch.nan))


def given_by(strategy: Strategy, rollout: Rollout | None = None) -> Credit:
    return assign_credit(NOTHING, RESPONSE, CreditArguments(), strategy=strategy, rollout=rollout)


def test_a_strategy_may_give_weights_and_advantages():
    def assign(batch):
        return Credit.of(torch.full((1, 4), 2.0), advantages=torch.arange(4.0)[None])

    credit = given_by(Strategy(assign, frozenset({"rewards"}), gives_advantages=True), Rollout())
    assert credit.weights.tolist() == [[1, 2, 2, 2]] and credit.advantages.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("gives", "advantages", "said"),
    [
        (
            True,
            torch.tensor([[0.0, 1, torch.nan, 1]]),
            r"gave the advantage nan \(row 0, position 2\); an advantage is a",
        ),
        (False, torch.zeros(1, 4), r"gave advantages without saying so; write Strategy\(..., gives_advantages=True\)"),
    ],
)
def test_advantages_that_cannot_be(gives, advantages, said):
    strategy = Strategy(lambda batch: Credit.of(advantages=advantages), frozenset(), gives_advantages=gives)
    with pytest.raises(ValueError, match=said):
        given_by(strategy)


def test_advantages_of_another_shape():
    strategy = Strategy(
        lambda batch: Credit.of(torch.ones(1, 4), advantages=torch.zeros(1, 3)), frozenset(), gives_advantages=True
    )
    with pytest.raises(ValueError, match=r"gave advantages of shape \[1, 3\] for a batch of \[1, 4\]"):
        given_by(strategy)


def test_needs_are_known_and_a_rollout_is_there():
    with pytest.raises(ValueError, match=r"Strategy.needs: reward is not known; there are advantages, "):
        Strategy(lambda batch: Credit.of(torch.ones(1, 4)), frozenset({"reward"}))
    with pytest.raises(ValueError, match="needs the rewards and the like of a rollout in training"):
        given_by(Strategy(lambda batch: Credit.of(torch.ones(1, 4)), frozenset({"rewards"})))


# ---- normalisation --------------------------------------------------------------------------------------------------

GAMMA = torch.tensor([[2.0, 1, 1], [4, 1, 1]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def test_gamma_divided_by_its_mean_over_the_response():
    found = weighted_advantage(torch.tensor([1.0, -2]), GAMMA, "both", mask_BT=MASK, normalize="response")
    torch.testing.assert_close(found[0], torch.tensor([1.5, 0.75, 0.75]))  # the mean is 4/3
    torch.testing.assert_close(found[1, :2], torch.tensor([-3.2, -0.8]))  # 5/2 over its two tokens
    sums = found.abs().mul(MASK).sum(1)
    torch.testing.assert_close(sums, torch.tensor([3.0, 4.0]))  # |A| times its tokens, as without credit


def test_the_mean_is_over_the_tokens_of_the_sign():
    found = weighted_advantage(torch.tensor([1.0, -2]), GAMMA, "positive", mask_BT=MASK, normalize="response")
    torch.testing.assert_close(found[0], torch.tensor([1.5, 0.75, 0.75]))
    assert found[1].tolist() == [-2, -2, -2]  # the other sign stays as it is
    per_token = weighted_advantage(torch.tensor([[1.0, -1, 1]]), GAMMA[:1], "positive", mask_BT=MASK[:1],
                                   normalize="response")  # fmt: skip
    torch.testing.assert_close(per_token, torch.tensor([[4 / 3, -1, 2 / 3]]))


def test_the_mean_of_a_step_is_the_same_however_it_is_cut():
    advantages = torch.tensor([1.0, -2])
    whole = torch.stack(sums_of_gamma(advantages, GAMMA, "both", MASK))
    parts = sum(
        torch.stack(sums_of_gamma(advantages[i : i + 1], GAMMA[i : i + 1], "both", MASK[i : i + 1])) for i in (0, 1)
    )
    assert whole.tolist() == parts.tolist() == [9, 5]
    mean = (whole[0] / whole[1]).float()
    found = weighted_advantage(advantages, GAMMA, "both", normalize="batch", mean=mean)
    torch.testing.assert_close((found.abs() / advantages.abs()[:, None] * MASK).sum(), torch.tensor(5.0))
