"""Groups whose rewards are all equal: by hand, and in runs. (test_cuts.py: two processes; test_resume.py.)"""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from rlcredit import CreditPPOConfig
from rlcredit.cli import main
from rlcredit.errors import InputError
from rlcredit.trainers.dynamic_sampling import DynamicSampling, groups_that_differ
from rlcredit.trainers.sampler import NewPrompts
from tests import runs, tiny
from tests.fixed_rollouts import of_some_prompts

NAN = float("nan")


def test_groups_that_differ_by_hand():
    rewards = torch.tensor([[0.0], [1], [1], [1], [NAN], [1], [NAN], [NAN], [0.3], [0.3]])
    assert groups_that_differ(rewards, 2).tolist() == [True, False, False, False, False]
    two = torch.tensor([[0.0, 1], [1, 0], [1, 1], [1, 1]])  # whose sum is the same in both
    assert groups_that_differ(two, 2).tolist() == [True, False]
    assert groups_that_differ(two.sum(1, keepdim=True), 2).tolist() == [False, False]


def test_new_prompts_go_through_the_set_before_one_returns():
    order = NewPrompts(Dataset.from_dict({"prompt": list("abcde")}), seed=3)
    first, second = ([row["prompt"] for row in order.take(5, set())] for _ in range(2))
    assert sorted(first) == sorted(second) == list("abcde") and first != second
    again = NewPrompts(Dataset.from_dict({"prompt": list("abcde")}), seed=3)
    again.drawn = 3
    assert [row["prompt"] for row in again.take(4, set())] == [*first[3:], *second[:2]]
    seen = {first[3]}
    again.drawn = 3
    assert again.take(1, seen)[0]["prompt"] == first[4] and seen == {first[3], first[4]} and again.drawn == 5
    again.drawn = 0
    assert [row["prompt"] for row in again.take(2, set("abcde"))] == second[:2]  # the set has no others


def watched(made):
    """The prompts of each draw of the trainer."""
    draws, draw = [], made.dynamic_sampling._draw

    def noting(rows, prompts, generate):
        draws.append([row["prompt"] for row in rows])
        return draw(rows, prompts, generate)

    made.dynamic_sampling._draw = noting
    return draws


@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_equal_groups_are_replaced_until_none_is_left(tmp_path, schedule):
    """Rewards of prompts that begin with "b" are equal; four completions a prompt."""
    settings = dict(dynamic_sampling=True, dynamic_sampling_max_rounds=20, log_completions=True, max_steps=1)
    settings |= dict(num_completions_to_print=0, train_dataset=tiny.prompts(60), **schedule)
    made = runs.trainer(tmp_path, reward=of_some_prompts, **settings)
    draws = watched(made)
    made.train()
    first, *anew = ([prompt[0] for prompt in draw[::4]] for draw in draws)
    assert "b" in first and anew
    kept = made._logs["prompt"]
    assert len(kept) == len(draws[0]) and all(prompt.startswith("a") for prompt in kept)
    assert [prompt for prompt in draws[0] if prompt.startswith("a")] == [p for p in kept if p in draws[0]]
    assert of_some_prompts(list(kept), list(made._logs["completion"])) == pytest.approx(
        list(made._logs["rewards"]["of_some_prompts"])
    )
    missing = first.count("b")
    for draw in anew:  # as many as are missing, no more
        assert len(draw) == missing
        missing -= draw.count("a")
    assert missing == 0
    (line,) = runs.logged(made)
    found = {name.split("/")[1]: value for name, value in line.items() if name.startswith("dynamic_sampling/")}
    share = first.count("b") / len(first)
    assert found["equal_share"] == found["replaced_share"] == share and line["frac_reward_zero_std"] == 0
    assert found["rounds"] == len(anew) and found["completions"] == 4 * sum(map(len, anew))
    assert found["reward_rejected"] == 0.5 and 0 < found["tokens"] <= 16 * found["completions"]
    drawn = found["reward_drawn"]  # of the first draw: the rewards of "a" there, and 0.5
    digits = [r for p, r in zip(kept, made._logs["rewards"]["of_some_prompts"], strict=True) if p in draws[0]]
    assert drawn == pytest.approx(share * 0.5 + (1 - share) * sum(digits) / len(digits), abs=1e-6)


def test_what_is_left_after_the_last_round_stays(tmp_path):
    """A reward that is always the same: the rollout is the one without dynamic sampling."""
    same = lambda completions, **columns: [0.25] * len(completions)  # noqa: E731
    settings = dict(reward=same, max_steps=1, **runs.ALIGNED)
    plain = runs.trained(tmp_path / "a", **settings)
    made = runs.trained(tmp_path / "b", dynamic_sampling=True, dynamic_sampling_max_rounds=2, **settings)
    assert made._logs["completion"] == plain._logs["completion"] and made._logs["prompt"] == plain._logs["prompt"]
    line, wanted = runs.logged(made)[0], runs.logged(plain)[0]
    own = {name: line.pop(name) for name in list(line) if name.startswith("dynamic_sampling/")}
    assert own["dynamic_sampling/rounds"] == 2 and own["dynamic_sampling/replaced_share"] == 0
    assert own["dynamic_sampling/completions"] == 16 and "dynamic_sampling/reward_rejected" not in own
    assert line.pop("num_tokens") > wanted.pop("num_tokens")  # all that was generated
    assert len([name for name in wanted if name.startswith("completions/")]) == 7  # which are of the first draw
    for name in wanted:
        if not name.startswith(("credit/", "entropy")):  # means over micro-batches, whose rows are shuffled otherwise
            assert line[name] == pytest.approx(wanted[name], rel=1e-5), name
    unscored = runs.trained(tmp_path / "c", reward=none_scored, dynamic_sampling=True, max_unscored_rollouts=9)
    assert all(line["dynamic_sampling/rounds"] == 0 for line in runs.logged(unscored) if "reward" in line)


def none_scored(completions, **columns):
    return [None] * len(completions)


def in_steps(prompts, completions, completion_ids, log_extra, **columns):
    """A reward at the first token and one at the last, equal in sum where the prompt begins with "b"."""
    log_extra("begins", [prompt[0] for prompt in prompts])
    log_extra("length", [len(ids) for ids in completion_ids])
    totals = of_some_prompts(prompts, completions)
    return [
        [total if place == 0 else 0.0 if place == len(ids) - 1 else None for place in range(len(ids))]
        for total, ids in zip(totals, completion_ids, strict=True)
    ]


@pytest.mark.parametrize("strategy", ["process", "monte_carlo"])
def test_columns_and_the_rewards_of_steps_go_with_their_completion(tmp_path, strategy):
    options = {"samples": 2} if strategy == "monte_carlo" else {}
    settings = dict(dynamic_sampling=True, log_completions=True, num_completions_to_print=0, max_steps=1)
    made = runs.trained(tmp_path, reward=in_steps, credit_strategy=strategy, credit_options=options, **settings)
    extra = made._logs["extra"]
    assert list(extra["begins"]) == [prompt[0] for prompt in made._logs["prompt"]]
    assert list(extra["length"]) == made._lengths
    if strategy == "monte_carlo":  # whose continuations were rewarded since
        return
    landed = made.rewards.landings(made._scores, torch.ones(1), made._lengths)
    rewards = list(made._logs["rewards"]["in_steps"])
    assert [steps[0] for steps in landed] == [(0, pytest.approx(reward)) for reward in rewards]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"dynamic_sampling: .* PPO learns by its critic"):
        runs.arguments(tmp_path, CreditPPOConfig, dynamic_sampling=True)
    with pytest.raises(ValueError, match=r"dynamic_sampling_max_rounds: 0 .* 1 or more"):
        runs.trainer(tmp_path, dynamic_sampling_max_rounds=0)
    images = Dataset.from_dict({"prompt": ["ab", "cd"], "image": [[0], [0]]})
    with pytest.raises(InputError, match="dynamic_sampling: replaces prompts of text alone"):
        runs.trainer(tmp_path, dynamic_sampling=True, train_dataset=images)
    made = runs.trainer(tmp_path)
    with pytest.raises(InputError, match="write a training set that has a length"):
        DynamicSampling(made, tiny.prompts().to_iterable_dataset())


def test_a_plan_counts_what_may_be_drawn(tmp_path, capsys):
    words = ["--config", "countdown_tiny/coupled_rhythm", "--dry_run", "--output_dir", str(tmp_path / "out")]
    assert main(["train", *words, "--dynamic_sampling", "--dynamic_sampling_max_rounds=2"]) == 0
    said = capsys.readouterr().out
    assert (
        "12,800 completions and, by dynamic sampling, at most 25,600 that are drawn anew, at most 2.15 M tokens"
        in said
    )
