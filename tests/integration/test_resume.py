"""A run that stops and resumes is the run that never stopped, bit for bit."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerState

from rlcredit import CreditGRPOConfig, CreditGRPOTrainer, CreditPPOTrainer
from rlcredit.errors import InputError, RunStopped
from rlcredit.runs.files import HELD_OUT_FILE, LOG_FILE, read_lines
from rlcredit.runs.log import HeldOutLog, JsonlLog
from rlcredit.trainers import checkpoints, critic, run_state
from tests import runs, tiny
from tests.fixed_rollouts import of_some_prompts

THOROUGH = pytest.mark.thorough


class Unreadable:
    """Of no type that `weights_only` loads."""


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


def optimiser_of(folder, step):
    return torch.load(folder / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def continued(folder, steps, stop, kind=CreditGRPOTrainer, **settings):
    """Train to `stop`, then resume in a fresh trainer up to `steps`."""
    settings = dict(max_steps=steps, save_strategy="steps", save_steps=stop, **settings)

    class Stop(JsonlLog):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= stop

    first = runs.trainer(folder, kind, **settings)
    first.add_callback(Stop())
    first.train()
    assert first.state.global_step == stop
    second = runs.trainer(folder, kind, **settings)
    second.add_callback(JsonlLog())
    second.train(resume_from_checkpoint="latest")
    return second


@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        pytest.param(3, {}, id="inside-a-window"),
        pytest.param(4, dict(learning_rate=1e-4), id="at-a-window", marks=THOROUGH),
        pytest.param(
            3, dict(num_iterations=2, beta=0.05, logging_steps=2), id="iterations-and-pending-metrics", marks=THOROUGH
        ),
        pytest.param(6, dict(**runs.ALIGNED), id="aligned", marks=THOROUGH),
        pytest.param(3, dict(credit_head_grouping="frozen"), id="frozen-heads", marks=THOROUGH),
        pytest.param(6, dict(credit_strategy="random"), id="random", marks=THOROUGH),
        pytest.param(6, dict(train_dataset=tiny.prompts(4), num_train_epochs=99), id="second-epoch", marks=THOROUGH),
        pytest.param(4, dict(train_dataset=tiny.prompts(4), num_train_epochs=99), id="epoch-boundary", marks=THOROUGH),
        pytest.param(5, dict(peft_config=LORA, beta=0.05), id="lora", marks=THOROUGH),
        pytest.param(3, dict(dynamic_sampling=True, reward=of_some_prompts), id="dynamic-sampling"),
    ],
)
def test_resumed_run_is_the_straight_run(tmp_path, stop, settings):
    steps = 2 * stop
    straight = runs.trainer(tmp_path / "a", max_steps=steps, save_strategy="steps", save_steps=steps, **settings)
    straight.add_callback(JsonlLog())
    straight.train()
    resumed = continued(tmp_path / "b", steps, stop, **settings)
    for name, value in runs.parameters(straight).items():
        assert torch.equal(value, runs.parameters(resumed)[name]), name
    assert same(optimiser_of(tmp_path / "a", steps), optimiser_of(tmp_path / "b", steps))
    assert runs.logged(straight) == runs.logged(resumed)
    assert list(straight._logs["completion"]) == list(resumed._logs["completion"])
    one, two = (read_lines(tmp_path / run / "log.jsonl")[0] for run in "ab")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    assert [line["reward"] for line in one if "reward" in line] == [line["reward"] for line in two if "reward" in line]


@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param(dict(critic_warmup_steps=4, critic_lora_r=4, value_clip=0.2, num_iterations=2), marks=THOROUGH)],
)
def test_resumed_ppo_is_the_straight_run(tmp_path, settings):
    settings = dict(critic_learning_rate=1e-3, **settings)
    straight = runs.trained(
        tmp_path / "a", CreditPPOTrainer, max_steps=6, save_strategy="steps", save_steps=6, **settings
    )
    resumed = continued(tmp_path / "b", 6, 3, CreditPPOTrainer, **settings)
    assert all(torch.equal(value, runs.parameters(resumed)[name]) for name, value in runs.parameters(straight).items())
    assert same(optimiser_of(tmp_path / "a", 6), optimiser_of(tmp_path / "b", 6))
    critics = [torch.load(tmp_path / run / "checkpoint-6" / critic.STATE_FILE, weights_only=True) for run in "ab"]
    assert same(*critics) and critics[0]["optimizer"]["state"]
    assert runs.logged(straight) == runs.logged(resumed)


def test_a_checkpoint_without_a_critic_is_refused(tmp_path):
    runs.trained(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    made = runs.trainer(tmp_path, CreditPPOTrainer, max_steps=4)
    with pytest.raises(ValueError, match="has no critic"):
        made.train(resume_from_checkpoint="latest")


def test_changed_credit_is_listed(tmp_path, caplog):
    settings = dict(save_strategy="steps", save_steps=2, max_steps=2)
    runs.trained(tmp_path, **settings)
    again = runs.trainer(tmp_path, **{**settings, "max_steps": 3}, credit_quantile=0.2, credit_strategy="random")
    again.train(resume_from_checkpoint="latest")
    assert "credit_quantile: 0.4 -> 0.2" in caplog.text
    assert "credit_strategy: coupled_rhythm -> random" in caplog.text
    assert again.state.global_step == 3


@pytest.mark.thorough
def test_frozen_heads_of_other_layers_are_calibrated_anew(tmp_path):
    settings = dict(save_strategy="steps", save_steps=4, credit_head_grouping="frozen")
    first = runs.trained(tmp_path, **settings, max_steps=4)
    again = runs.trainer(tmp_path, **settings, max_steps=8, credit_layers=[1, 5])
    again.train(resume_from_checkpoint="latest")
    assert first.reader.frozen.local_BLH.shape == (1, 3, 4)
    assert again.reader.frozen.local_BLH.shape == (1, 2, 4)


def test_a_checkpoint_of_an_earlier_version_is_refused_with_one_line(tmp_path):
    runs.trained(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    folder = tmp_path / "checkpoint-2"
    state = {"processes": 1, "credit": {}, "frozen": None, "wandb_run": None, "trl": {"_step": 2}}
    torch.save(state, folder / "rlcredit-process0.pt")
    checkpoints.mark_complete(folder)
    made = runs.trainer(tmp_path, max_steps=4)
    with pytest.raises(InputError, match=r"written by rlcredit 0\.1\.0; go on from it with that version") as error:
        made.train(resume_from_checkpoint="latest")
    assert "\n" not in str(error.value)


@pytest.mark.thorough
def test_a_rollout_of_uniform_is_used_up_without_credit(tmp_path):
    settings = dict(save_strategy="steps", save_steps=2)
    runs.trained(tmp_path, **settings, max_steps=2, credit_strategy="uniform")
    again = runs.trainer(tmp_path, **settings, max_steps=6)
    again.train(resume_from_checkpoint="latest")
    credited = [line["step"] for line in again.state.log_history if line.get("credit/weight_mean", 1) > 1]
    assert credited == [5, 6]  # steps 3 and 4 belong to the window that uniform began


def by_trl_alone(folder, step):
    """A checkpoint without rlcredit's list of files."""
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "trainer_state.json").write_text("{}")
    return made


def test_logs_go_back_to_the_checkpoint(tmp_path):
    args = runs.arguments(tmp_path, CreditGRPOConfig)
    for name, made in ((LOG_FILE, JsonlLog()), (HELD_OUT_FILE, HeldOutLog(lambda: None))):
        path = tmp_path / name
        path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4)))
        for step, kept in ((2, [1, 2]), (0, [])):
            made.on_train_begin(args, TrainerState(global_step=step), None)
            assert [line["step"] for line in read_lines(path)[0]] == kept


def test_counts_of_what_went_wrong_go_on(tmp_path):
    first = runs.trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    first.bad_steps.total, first.credit_log.rows_skipped, first.credit_log.rows_without_fai = 3, 5, 7
    first.train()
    second = runs.trainer(tmp_path, max_steps=3)
    second.train(resume_from_checkpoint="latest")
    line = runs.logged(second)[-1]
    assert (line["bad_steps"], line["credit/rows_skipped"]) == (3, 5)
    assert line["credit/rows_without_fai"] >= 7
    assert "arXiv:2510.13554" in (tmp_path / "README.md").read_text()  # written with a checkpoint


def test_latest_is_the_newest_complete_one(tmp_path):
    for step in (2, 10, 9):
        by_trl_alone(tmp_path, step)
    (tmp_path / "checkpoint-11").mkdir()  # torn: its trainer state was never written
    assert checkpoints.find("latest", str(tmp_path)) == str(tmp_path / "checkpoint-10")
    with pytest.raises(ValueError, match="no complete checkpoint"):
        checkpoints.find("latest", str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match="checkpoint-11"):
        checkpoints.find(str(tmp_path / "checkpoint-11"), str(tmp_path))


def test_auto_starts_and_goes_on(tmp_path):
    assert checkpoints.find("auto", str(tmp_path)) is None
    by_trl_alone(tmp_path, 4)
    assert checkpoints.find("auto", str(tmp_path)) == str(tmp_path / "checkpoint-4")


def test_a_checkpoint_is_complete_when_every_file_is_there_whole(tmp_path):
    runs.trained(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    made = tmp_path / "checkpoint-2"
    names = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    assert checkpoints.is_complete(made) and len(names) > 8
    for name in names:
        whole = (made / name).read_bytes()
        (made / name).unlink()
        assert not checkpoints.is_complete(made), f"{name} is missing"
        (made / name).write_bytes(whole[: len(whole) // 2])
        assert not checkpoints.is_complete(made), f"{name} is cut short"
        (made / name).write_bytes(whole)
    assert checkpoints.is_complete(made)


def test_what_latest_passes_over_is_said(tmp_path):
    for step in (2, 4, 6):
        by_trl_alone(tmp_path, step)
    for step in (2, 6):
        (tmp_path / f"checkpoint-{step}/trainer_state.json").unlink()
    newest = checkpoints.find("latest", str(tmp_path))
    assert newest == str(tmp_path / "checkpoint-4")
    assert checkpoints.passed_over(newest) == [
        f"{tmp_path / 'checkpoint-6'}: passed over, it has no trainer_state.json"
    ]


def test_a_checkpoint_replaces_what_was_there_and_is_written_once(tmp_path):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "of-an-earlier-run").touch()
    made = runs.trained(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    assert checkpoints.is_complete(folder) and not (folder / "of-an-earlier-run").exists()
    (folder / "mark").touch()
    made._save_checkpoint(made.model, trial=None)  # as where a run stops before the step that follows
    assert (folder / "mark").exists()


@pytest.mark.thorough
def test_a_second_run_of_one_trainer_saves_too(tmp_path):
    made = runs.trained(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    shutil.rmtree(tmp_path / "checkpoint-2")
    made.train()
    assert checkpoints.is_complete(tmp_path / "checkpoint-2")


def test_a_run_at_its_end_takes_no_further_step(tmp_path):
    """In the middle of an epoch too, where transformers would."""
    ended = runs.trained(tmp_path, save_strategy="steps", save_steps=3, max_steps=3)
    again = runs.trainer(tmp_path, save_strategy="steps", save_steps=3, max_steps=3)
    again.train(resume_from_checkpoint="latest")
    assert again.state.global_step == 3 and again.state.epoch % 1 > 0
    assert all(torch.equal(value, runs.parameters(again)[name]) for name, value in runs.parameters(ended).items())


def test_older_checkpoints_go_once_the_newer_one_counts(tmp_path, monkeypatch):
    seen = []
    rotate = checkpoints.rotate_checkpoints

    def watched(folder, *args, **options):
        seen.append([path.name for path in checkpoints.complete(folder)])
        rotate(folder, *args, **options)

    monkeypatch.setattr(checkpoints, "rotate_checkpoints", watched)
    runs.trained(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1, max_steps=3)
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in checkpoints.folders(tmp_path)] == ["checkpoint-3"]


def test_processes_that_found_different_checkpoints_do_not_start(monkeypatch):
    monkeypatch.setattr(checkpoints, "gather_object", lambda found: [*found, "run/checkpoint-4", None])
    with pytest.raises(InputError, match=r"different checkpoints \(checkpoint-2, checkpoint-4, none\)"):
        checkpoints.agree("run/checkpoint-2")
    monkeypatch.setattr(checkpoints, "gather_object", lambda found: [*found, "run/checkpoint-2"])
    checkpoints.agree("run/checkpoint-2")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            dict(per_device_train_batch_size=8, steps_per_generation=2),
            dict(per_device_train_batch_size=4, steps_per_generation=2, gradient_accumulation_steps=2),
            "per_device_train_batch_size: 8 -> 4",
        ),
        ({}, dict(steps_per_generation=3), "steps_per_generation: 4 -> 3"),
        ({}, dict(beta=0.05), "beta: 0.0 -> 0.05"),
        ({}, dict(num_iterations=2), "num_iterations: 1 -> 2"),
    ],
    ids=["batch", "steps-a-rollout", "beta", "iterations"],
)
def test_a_run_resumed_with_other_sizes_drops_the_rollout_at_hand_and_goes_on(tmp_path, caplog, before, after, line):
    """After three of four steps that use one rollout; the first step then generates a new one."""
    settings = dict(save_strategy="steps", save_steps=3)
    runs.trained(tmp_path, **settings, **before, max_steps=3)
    again = runs.trainer(tmp_path, **{**settings, **before, **after}, max_steps=6)
    rollouts = []

    class Counter(CreditGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            rollouts.append(self.state.global_step)
            return super()._generate_and_score_completions(inputs)

    again.__class__ = Counter
    again.train(resume_from_checkpoint="latest")
    assert again.state.global_step == 6 and rollouts[0] == 3
    assert f"resumed with another {line}: the rollout at hand is dropped" in caplog.text
    assert all(math.isfinite(entry["loss"]) for entry in runs.logged(again))


def test_what_rewards_log_is_kept_in_plain_types(tmp_path):
    """numpy's numbers in the table of completions made every checkpoint unreadable."""

    def reward(completions, log_extra, **_):
        log_extra("size", [np.float32(len(text)) for text in completions])
        log_extra("shape", [np.array([1, 2]) for _ in completions])
        log_extra("object", [object() for _ in completions])
        return [float(len(text)) for text in completions]

    runs.trained(tmp_path, reward=reward, max_steps=2, save_strategy="steps", save_steps=2)
    again = runs.trainer(tmp_path, reward=reward, max_steps=3)
    again.train(resume_from_checkpoint="latest")
    extra = again._logs["extra"]
    assert isinstance(extra["size"][0], float) and extra["shape"][0] == [1, 2] and extra["object"][0] == "<object>"


def test_a_state_that_cannot_be_read_back_is_no_checkpoint(tmp_path, monkeypatch):
    plain = run_state._plain
    monkeypatch.setattr(run_state, "_plain", lambda value: value if isinstance(value, Unreadable) else plain(value))

    def reward(completions, log_extra, **_):
        log_extra("object", [Unreadable() for _ in completions])
        return [float(len(text)) for text in completions]

    made = runs.trainer(tmp_path, reward=reward, max_steps=2, save_strategy="steps", save_steps=2)
    with pytest.raises(RunStopped, match=r"checkpoint-2 could not be saved .*cannot be read back"):
        made.train()
    assert not checkpoints.folders(tmp_path)
