"""Rewards as users write them: with bugs, async, tied to a thread, paid by the call; runs that they teach nothing."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import signal
import sqlite3
import threading
import time

import pytest
import torch
from datasets import Dataset, IterableDataset
from trl.rewards import think_format_reward

from rlcredit import CreditGRPOTrainer, CreditPPOTrainer
from rlcredit.cli import main
from rlcredit.errors import InputError, RunStopped
from rlcredit.rewards.guards import AsyncGuardedReward, GuardedReward
from rlcredit.rewards.rehearsal import rehearse
from rlcredit.rewards.run_rewards import GuardedRewards
from rlcredit.rewards.signature import check_signature, columns_of
from rlcredit.tasks.event_loop import result_of, within
from rlcredit.trainers import checkpoints
from tests import runs, tiny

PLAIN = {"prompt_style": "plain"}


def buggy(completions, **_):
    return [{}["answer"] for _ in completions]


# ---- runs that teach nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CreditGRPOTrainer, CreditPPOTrainer])
def test_a_rollout_without_a_score_ends_the_run_with_the_traceback(tmp_path, kind):
    made = runs.trainer(tmp_path, kind, reward=buggy)
    with pytest.raises(
        RunStopped, match=r"none of the 16 completions .* 'buggy' raised KeyError: 'answer'"
    ) as stopped:
        made.train()
    assert 'return [{}["answer"] for _ in completions]' in stopped.value.details
    assert made.state.global_step == 0 and [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-0"]


def test_more_rollouts_without_a_score_may_be_allowed(tmp_path):
    calls = []

    def twice_away(completions, **_):
        calls.append(1)
        return [None] * len(completions) if len(calls) <= 2 else tiny.count_digits(completions)

    made = runs.trained(tmp_path, reward=twice_away, max_unscored_rollouts=3, steps_per_generation=1)
    assert made.state.global_step == 4 and (made.rewards.unscored, made.rewards.rollouts) == (8, 2)


def test_unscored_completions_are_counted_over_a_resume(tmp_path):
    def sometimes(completions, **_):
        return [None if row % 4 == 1 else float(row) for row, _ in enumerate(completions)]

    runs.trained(tmp_path, reward=sometimes, max_steps=2, save_strategy="steps", save_steps=2)
    again = runs.trainer(tmp_path, reward=sometimes, max_steps=6)
    again.train(resume_from_checkpoint="latest")
    assert (again.rewards.unscored, again.rewards.rollouts) == (8, 2)  # steps 1 to 4 and 5 to 8 have a rollout each


@pytest.mark.parametrize("rows", [4, 8])  # step 5 begins an epoch, and is within one
def test_a_run_goes_on_bit_for_bit_after_its_reward_was_away(tmp_path, rows):
    settings = dict(max_steps=8, train_dataset=tiny.prompts(rows))

    def away(completions, trainer_state, **_):
        if trainer_state.global_step == 4:
            raise ConnectionError("away")
        return tiny.count_digits(completions)

    straight = runs.trained(tmp_path / "straight", **settings)
    broken = runs.trainer(tmp_path / "run", **settings, reward=away, reward_retries=0)
    with pytest.raises(RunStopped, match="away"):
        broken.train()
    again = runs.trainer(tmp_path / "run", **settings)
    again.train(resume_from_checkpoint="latest")
    assert all(torch.equal(value, runs.parameters(again)[name]) for name, value in runs.parameters(straight).items())


def test_a_reward_that_always_raises_ends_the_command_with_exit_code_1(tmp_path, capsys, monkeypatch):
    (tmp_path / "late_bug.py").write_text(
        "def score(completions, trainer_state, **kwargs):\n"
        "    return [trainer_state.max_steps / len(text) * {0: 1}[trainer_state.max_steps] for text in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"question": f"{n}+1="}) + "\n" for n in range(64)))
    words = ["train", "--config", "countdown_tiny/uniform", "--task", "custom", "--held_out=0", "--max_steps=4"]
    words += [
        "--task_options",
        json.dumps({"train": str(tmp_path / "rows.jsonl"), "reward": "late_bug:score", **PLAIN}),
    ]
    words += ["--disable_tqdm=true", "--max_completion_length=8", "--output_dir", str(tmp_path / "run")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "late_bug.py" in said and "KeyError: 4" in said and "go on from there" in said.splitlines()[-1]
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("command", [["--dry_run"], []])
def test_a_reward_is_called_once_before_weights_load(tmp_path, capsys, monkeypatch, command):
    """The bug of a text's method called on messages, as conversational rows bring it."""
    (tmp_path / "early_bug.py").write_text(
        "def score(completions, **kwargs):\n    return [float(text.strip() == '2') for text in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    row = {"prompt": [{"role": "user", "content": "1+1="}]}
    with pytest.raises(
        InputError, match=r"early_bug.py, line 2\), called with the first training row and a list of mes"
    ):
        rehearse([__import__("early_bug").score], row, tiny.tokenizer())
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n}+1=", "answer": n}) + "\n" for n in range(64)))
    words = ["train", "--config", "countdown_tiny/uniform", "--task", "custom", *command]
    (tmp_path / "other_bug.py").write_text("def score(completions, answer, **kwargs):\n    return [answr]\n")
    words += ["--task_options", json.dumps({"train": str(rows), "reward": "other_bug:score", **PLAIN})]
    assert main([*words, "--output_dir", str(tmp_path / "run")]) == 2
    assert "NameError: name 'answr' is not defined (" in capsys.readouterr().err


def test_a_reward_of_trl_says_that_it_reads_conversations():
    with pytest.raises(InputError, match=r"a text as its completion, as training does; TRL's own rewards read conver"):
        rehearse([think_format_reward], {"prompt": "1 + 1?"}, tiny.tokenizer())
    row = {"prompt": [{"role": "user", "content": "1 + 1?"}]}
    assert rehearse([think_format_reward], row, tiny.tokenizer()) == []


def test_rows_that_fill_no_rollout_are_refused_before_weights_load(tmp_path, capsys):
    words = ["train", "--config", "countdown_tiny/uniform", "--task_options.num_train", "15"]
    assert main([*words, "--output_dir", str(tmp_path)]) == 2
    assert "a rollout takes 16 prompts (256 completions, 16 a prompt) and the training set has 15" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(12, 3, 12), (16, 3, 24), (7, 2, None), (25, 0.5, 6)])
def test_the_plan_has_the_steps_of_the_run(tmp_path, rows, epochs, steps):
    from rlcredit.trainers.schedule import schedule_of

    settings = dict(
        max_steps=-1, num_train_epochs=epochs, per_device_train_batch_size=8, train_dataset=tiny.prompts(rows)
    )
    made = runs.trainer(tmp_path, **settings)  # 8 x 4 completions a rollout: 8 prompts of 4
    if steps is None:
        with pytest.raises(InputError, match="the run would have no step"):
            schedule_of(made.args, 1, rows)
        return
    assert schedule_of(made.args, 1, rows).steps == steps
    made.train()
    assert made.state.max_steps == made.state.global_step == steps


@pytest.mark.parametrize(("steps_per_generation", "accumulated"), [(1, 4), (2, 4), (3, 2), (4, 2)])
def test_the_plan_has_the_rollouts_of_the_run(tmp_path, steps_per_generation, accumulated):
    """Also where a step takes several, and where a rollout ends within a step."""
    from rlcredit.trainers.schedule import schedule_of

    settings = dict(steps_per_generation=steps_per_generation, gradient_accumulation_steps=accumulated)
    made = runs.trainer(tmp_path, max_steps=5, per_device_train_batch_size=8, **settings)
    drawn, score = [], made._generate_and_score_completions
    made._generate_and_score_completions = lambda inputs: drawn.append(len(inputs)) or score(inputs)
    made.train()
    found = schedule_of(made.args, 1, len(made.train_dataset))
    assert (found.rollouts, found.completions) == (len(drawn), drawn[0])


# ---- async rewards ------------------------------------------------------------------------------------------------


class Client:
    """A client that belongs to the event loop of its first call, as httpx's does."""

    loop = None

    async def score(self, texts: list[str]) -> list[float]:
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        if self.loop is not loop:
            raise RuntimeError("this client is bound to a different event loop")
        return [float(len(text)) for text in texts]


def test_a_client_kept_open_scores_every_rollout_and_every_evaluation(tmp_path):
    client = Client()

    async def judge(completions, **_):
        return await client.score(completions)

    made = runs.trained(tmp_path, reward=judge, steps_per_generation=1)
    assert [line["reward/unscored"] for line in runs.logged(made)] == [0, 0, 0, 0]
    assert result_of(judge(completions=["abc"])) == [3.0]  # as held-out evaluation calls it, outside TRL's trainer


def test_async_rewards_work_inside_a_running_loop():
    async def judge(completions, **_):
        return [float(len(text)) for text in completions]

    async def notebook():
        return result_of(judge(completions=["ab"]))

    assert asyncio.run(notebook()) == [2.0]


def test_async_judges_wait_beside_each_other(tmp_path):
    waiting, most = [], []

    def judge(name):
        async def score(completions, **_):
            waiting.append(name)
            await asyncio.sleep(0.2)
            most.append(len(waiting))
            waiting.remove(name)
            return [1.0] * len(completions)

        score.__name__ = name
        return score

    made = runs.trained(tmp_path, reward=[judge("first"), judge("second")], max_steps=1, reward_timeout=60.0)
    assert max(most) == 2 and made.state.global_step == 1


def test_an_async_reward_that_hangs_or_raises_is_left_out():
    async def hangs(completions, **_):
        await asyncio.sleep(60)

    async def raises(completions, **_):
        return [1 / (len(text) - 1) for text in completions]

    for reward, rescore, failed in ((hangs, False, {0, 1}), (raises, False, {0, 1}), (raises, True, {0})):
        guard = AsyncGuardedReward(reward, 0.1 if reward is hangs else None, rescore=rescore)
        scores = result_of(guard(["p", "p"], ["a", "ab"]))
        assert guard.failed == failed and guard.cause and math.isnan(scores[0])


# ---- a limit of time that rewards need not know of ----------------------------------------------------------------

CONNECTION = sqlite3.connect(":memory:")


def _with_alarm(completions, **_):
    """As math-verify limits itself."""

    def ring(number, frame):
        raise ValueError("the reward's own limit")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    return [1.0] * len(completions)


def _with_sqlite(completions, **_):
    return [float(CONNECTION.execute("select 1").fetchone()[0])] * len(completions)


def _with_own_loop(completions, **_):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, [1.0] * len(completions)))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize("reward", [_with_alarm, _with_sqlite, _with_own_loop])
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_what_works_without_a_limit_works_with_one(reward, timeout):
    guard = GuardedReward(reward, timeout)
    assert guard(["p", "p"], ["a", "b"]) == [1.0, 1.0] and not guard.failed


def test_a_call_that_sleeps_is_cut_short_and_the_next_is_not():
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(TimeoutError, match=r"no answer within 0.1 s"):
        within(0.1, lambda: time.sleep(60))
    assert within(30.0, lambda: 1) == 1
    assert signal.getsignal(signal.SIGUSR2) == before


def test_a_limit_holds_in_another_thread_too():
    outcome = []

    def elsewhere():
        with pytest.raises(TimeoutError):
            within(0.1, lambda: time.sleep(5))
        outcome.append(within(30.0, lambda: 2))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert outcome == [2]


def test_a_paid_judge_is_called_once_unless_the_user_allows_more():
    bill = []

    def judge(completions, **_):
        bill.append(len(completions))
        return [1 / (len(text) - 1) for text in completions]

    guard = GuardedReward(judge)
    assert all(map(math.isnan, guard(["p"] * 3, ["a", "ab", "abc"]))) and bill == [3]
    bill.clear()
    guard = GuardedReward(judge, rescore=True)
    assert guard(["p"] * 3, ["a", "ab", "abc"])[1:] == [1.0, 0.5] and guard.failed == {0} and bill == [3, 1, 1, 1]


# ---- what TRL takes, we take --------------------------------------------------------------------------------------


def test_arguments_that_come_from_elsewhere_are_taken():
    def of_environments(completions, environments, **_): ...

    def of_rollout(completions, num_turns, **_): ...

    check_signature(of_environments, ["answer"], environments=True)
    check_signature(of_rollout, ["answer"], extra_columns=True)
    for reward in (of_environments, of_rollout):
        with pytest.raises(InputError, match="missing a required"):
            check_signature(reward, ["answer"])


def test_columns_of_a_streaming_set_are_those_of_its_first_row():
    def rows():
        yield {"prompt": "1+1=", "answer": 2}

    streaming = IterableDataset.from_generator(rows)
    assert columns_of(streaming) == ["prompt", "answer"]
    check_signature(lambda completions, answer, **_: [], columns_of(streaming))
    assert columns_of(Dataset.from_dict({"prompt": ["a"]})) == ["prompt"] and columns_of(None) == []


def test_partials_of_one_function_have_metrics_of_their_own(tmp_path):
    def length(completions, scale, **_):
        return [scale * len(text) for text in completions]

    pair = [functools.partial(length, scale=1.0), functools.partial(length, scale=2.0)]
    line = runs.logged(runs.trained(tmp_path, reward=pair, max_steps=1))[0]
    assert line["rewards/length_2/mean"] == pytest.approx(2 * line["rewards/length/mean"])
    args = runs.trainer(tmp_path).args
    wrapped = GuardedRewards([*pair, tiny.count_digits], tiny.prompts(), args, environments=False, extra_columns=False)
    assert [f.__name__ for f in wrapped.functions] == ["length", "length_2", "count_digits"]
