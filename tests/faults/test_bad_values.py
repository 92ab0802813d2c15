"""Rewards that fail, losses that are not finite, and responses with tool output."""

from __future__ import annotations

import math
import sys
import threading

import pytest
import torch

from rlcredit import CreditGRPOTrainer
from rlcredit.attention import Capture
from rlcredit.errors import InputError, RunStopped
from rlcredit.rewards.guards import AsyncGuardedReward, GuardedReward
from rlcredit.rewards.signature import check_signature
from rlcredit.tasks.event_loop import result_of
from tests import runs, tiny
from tests.analyzed import Recorder, assert_as_analyzed


def rows_of(reward, completions, /, **columns):
    guard = GuardedReward(reward, columns.pop("timeout", None), rescore=columns.pop("rescore", False))
    return guard, guard(["p"] * len(completions), completions, **columns)


def test_one_completion_that_raises_costs_only_itself():
    def reward(completions, answer, **kwargs):
        return [1.0 / (len(c) - a) for c, a in zip(completions, answer, strict=True)]

    guard, scores = rows_of(reward, ["ab", "abc", "a"], answer=[1, 3, 0], rescore=True)
    assert scores[0] == 1 and math.isnan(scores[1]) and scores[2] == 1
    assert guard.failed == {1}


def test_scores_that_are_not_finite_fail_and_none_does_not():
    guard, scores = rows_of(lambda completions, **_: [1, math.nan, None, math.inf, 1e308], ["a"] * 5)
    assert guard.failed == {1, 3, 4} and scores[2] is None and scores[0] == 1  # TRL holds scores in float32


def test_a_reward_that_exits_does_not_end_the_run_as_if_all_were_well():
    guard, scores = rows_of(lambda completions, **_: sys.exit(0), ["a", "b"])
    assert all(map(math.isnan, scores)) and guard.kind == "RuntimeError: SystemExit: 0"


def test_a_column_may_be_called_self():
    _, scores = rows_of(lambda completions, **columns: columns["self"], ["a", "b"], self=[1.0, 2.0])
    assert scores == [1.0, 2.0]


def test_a_reward_that_hangs_meets_its_limit():
    answered = threading.Event()

    def reward(completions, **kwargs):
        if "slow" in completions:
            answered.wait()
        return [1.0] * len(completions)

    guard, scores = rows_of(reward, ["a", "slow", "b"], timeout=1, rescore=True)
    assert guard.failed == {1} and scores[0] == scores[2] == 1
    answered.set()  # it was not waited for: it would hang to this line


def test_async_rewards_are_awaited():
    async def reward(completions, **kwargs):
        return [len(c) for c in completions]

    guard = AsyncGuardedReward(reward)
    assert result_of(guard(["p", "p"], ["a", "abc"])) == [1, 3]


def test_what_a_failed_call_logged_is_not_logged_twice():
    def reward(completions, log_extra, **kwargs):
        log_extra("size", [len(c) for c in completions])
        return [1 / len(c) for c in completions]

    found = []
    rows_of(reward, ["ab", "", "a"], rescore=True, log_extra=lambda column, values: found.append((column, values)))
    assert found == [("size", [2, None, 1])]


@pytest.mark.parametrize("answer", [[1.0], 3.0, "ab", b"ab", ["x", "y"], {0: 1.0, 1: 2.0}, {1.0, 2.0}])
def test_wrong_scores_are_bad_input(answer):
    guard, scores = rows_of(lambda completions, **_: answer, ["a", "b"])
    assert isinstance(guard.error, InputError) and "reward" in str(guard.error) and all(map(math.isnan, scores))


def test_wrong_scores_end_the_run(tmp_path):
    with pytest.raises(InputError, match="returned 1 scores for 16 completions"):
        runs.trained(tmp_path, reward=lambda completions, **_: [1.0])


def test_wrong_signatures_are_bad_input():
    check_signature(lambda completions, **kwargs: [], ["prompt", "answer"])
    check_signature(tiny.count_digits, ["prompt", "answer"])
    with pytest.raises(InputError, match="answer"):
        check_signature(
            lambda prompts, completions, completion_ids, trainer_state, log_extra, log_metric: [], ["prompt", "answer"]
        )
    with pytest.raises(InputError, match="solution"):
        check_signature(lambda solution, **kwargs: [], ["prompt", "answer"])


def test_unscored_completions_get_no_advantage(tmp_path):
    def sometimes(completions, **kwargs):
        return [None if i % 4 == 1 else float(i) for i, _ in enumerate(completions)]

    class Recorder(CreditGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            self.advantages = output["advantages"]
            return output

    made = runs.trained(tmp_path, Recorder, reward=sometimes, max_steps=1)
    assert (made.advantages.view(-1, 4)[:, 1] == 0).all()
    assert (made.advantages.view(-1, 4)[:, 0] < 0).all() and (made.advantages.view(-1, 4)[:, 3] > 0).all()
    assert made.state.log_history[0]["reward/unscored"] == len(made.advantages) / 4
    assert made.state.global_step == 1


class Exploding(CreditGRPOTrainer):
    """Losses of some steps are not finite."""

    bad = range(0)

    def _compute_loss(self, model, inputs):
        if self.state.global_step in self.bad:
            inputs["advantages"] = inputs["advantages"] * math.nan
        return super()._compute_loss(model, inputs)


def test_a_step_that_is_not_finite_is_skipped(tmp_path):
    class Twice(Exploding):
        bad = (1, 2)

        def log(self, logs, *args):
            self.history = [*getattr(self, "history", []), runs.parameters(self)]
            super().log(logs, *args)

    made = runs.trained(tmp_path, Twice, steps_per_generation=1)
    one, two, three, four = made.history[:4]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one[name], two[name]) and torch.equal(two[name], three[name])
    assert not torch.equal(three[name], four[name]) and all(v.isfinite().all() for v in four.values())
    assert [line["bad_steps"] for line in made.state.log_history if "bad_steps" in line] == [0, 1, 2, 2]


def test_too_many_bad_steps_stop_the_run_and_keep_the_batch(tmp_path):
    class Always(Exploding):
        bad = range(1, 99)

    made = runs.trainer(tmp_path, Always, max_steps=20, max_bad_steps=3)
    with pytest.raises(RunStopped, match="3 steps in a row"):
        made.train()
    (saved,) = tmp_path.glob("bad_batch-*.pt")
    assert torch.load(saved, weights_only=True)["completion_ids"].dim() == 2
    assert made.state.global_step == 3


@pytest.mark.parametrize("schedule", [runs.ALIGNED, pytest.param(runs.MISALIGNED, marks=pytest.mark.thorough)])
def test_a_row_whose_signals_are_not_finite_loses_its_credit_and_is_counted(tmp_path, monkeypatch, caplog, schedule):
    layer_of = Capture._layer

    def second_row_is_broken(self, call, *masks):
        query = call.query.clone()
        query[1] = math.nan
        return layer_of(self, call._replace(query=query), *masks)

    class Recorder(CreditGRPOTrainer):
        def _assign(self, batch, signals, rows=None):
            super()._assign(batch, signals, rows)
            self.weights = [*getattr(self, "weights", []), batch["credit_weights"]]

    monkeypatch.setattr(Capture, "_layer", second_row_is_broken)
    made = runs.trained(tmp_path, Recorder, **schedule)
    broken = 0
    for weights in made.weights:
        chosen = (weights != 1).any(1)
        rows = torch.arange(len(weights)) % made.args.per_device_train_batch_size == 1
        assert (weights[rows] == 1).all() and chosen[~rows].any()
        broken += int(rows.sum())
    assert made.state.log_history[-2]["credit/rows_skipped"] == pytest.approx(broken, abs=2) and broken > 1
    assert made.credit_log.rows_skipped == broken
    assert caplog.text.count("keep weight 1") == 1
    assert all(value.isfinite().all() for value in runs.parameters(made).values())


@pytest.mark.thorough
def test_tool_output_carries_no_credit_and_counts_as_distance(tmp_path):
    """A rollout function that reports environment tokens (env_mask 0) in the middle of each completion."""

    def rollout(prompts, trainer):
        made = torch.Generator().manual_seed(0)
        ids = [torch.randint(2, 40, (14,), generator=made).tolist() for _ in prompts]
        return {
            "prompt_ids": [[5, 6, 7 + i % 3] for i in range(len(prompts))],
            "completion_ids": ids,
            "logprobs": None,
            "env_mask": [[1] * 5 + [0] * 3 + [1] * 6 for _ in prompts],
        }

    for schedule in (runs.ALIGNED, runs.MISALIGNED):  # read in the loss, and where TRL scores the rollout
        made = runs.trainer(tmp_path, Recorder, max_steps=1, **schedule)
        made.rollout_func = rollout
        made.train()
        assert_as_analyzed(made)
        assert all((row[5:8] == 1).all() and (row != 1).any() for row in made.weights_by_row().values())
