"""What is printed while a command works, in a terminal and elsewhere."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from rlcredit import terminal
from rlcredit.cli import main
from rlcredit.credit import Credit
from rlcredit.trainers.credit_log import MEANS, totals_of_rows
from rlcredit.trainers.policy import warn_of_dropout
from rlcredit.trainers.progress import StepLines
from rlcredit.trainers.quiet import without_tied_keys
from tests import tiny


def lines_of(capsys, logs: list[dict], *, weighs: bool = True, history: tuple = (), steps: int = 20) -> list[str]:
    """The lines of a run that logs these, a step each."""
    shown = StepLines(None, weighs=weighs)
    state = TrainerState(max_steps=steps, is_world_process_zero=True, log_history=list(history))
    shown.on_train_begin(None, state, TrainerControl())
    for number, line in enumerate(logs, start=1):
        state.global_step = number
        shown.on_log(None, state, TrainerControl(), logs={"loss": 0.0, **line})
    return capsys.readouterr().out.splitlines()


FULL = {
    **{"reward": 0.414, "completions/mean_length": 28.4, "credit/weight_mean": 1.19, "credit/amplified_share": 0.47},
    **{"credit/time_share": 0.021, "step_time": 1.1, "reward/unscored": 0.0, "grad_norm": 1.0},
}


def test_a_line_reads_as_something(capsys):
    assert lines_of(capsys, [FULL]) == [
        "step 1: reward 0.414  length 28  tokens amplified 47 %, mean weight 1.19  credit 2.1 % of the time  "
        "1.1 s a step"
    ]
    (unweighted,) = lines_of(capsys, [FULL], weighs=False)
    assert "amplified" not in unweighted and "mean weight" not in unweighted


def test_every_line_has_a_reward_or_says_why_not(capsys):
    rollout, reuse, lost = {"reward": 0.5}, {"step_time": 1.0}, {"reward": float("nan"), "reward/unscored": 8.0}
    assert lines_of(capsys, [lost, rollout, reuse, {"reward": 0.7}]) == [
        "step 1: no reward: no completion has a score yet  unscored 8.0",
        "step 2: reward 0.500",
        "step 3: reward 0.500 (still the rollout of step 2)  1.0 s a step",
        "step 4: reward 0.700",
    ]
    resumed = lines_of(capsys, [reuse], history=({"reward": 0.25, "step": 7}, {"loss": 0.1, "step": 8}))
    assert resumed == ["step 1: reward 0.250 (still the rollout of step 7)  1.0 s a step"]


def test_twenty_lines_a_run_of_means(capsys):
    lines = lines_of(capsys, [{"reward": float(number)} for number in range(1, 101)], steps=100)
    assert len(lines) == 20 and lines[0] == "step 5: reward 3.000" and lines[-1] == "step 100: reward 98.000"


def test_progress_elsewhere_is_lines(capsys, monkeypatch):
    times = iter([0.0, 3.0, 11.0, 11.0, 14.0])  # when it starts, at each item, and after the line
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(times)))
    assert list(terminal.progress("abc", "reading", "responses", done=4)) == list("abc")
    assert capsys.readouterr().err == "reading: 5 of 7 responses\n"
    monkeypatch.setattr(terminal, "EVERY", -1.0)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: 0.0))
    assert list(terminal.progress("ab", "reading", "response", show=False)) == list("ab")
    assert capsys.readouterr().err == ""


def test_libraries_draw_no_bars_into_files():
    """tqdm reads its environment as it is loaded, so the command line sets it before."""
    program = (
        "from rlcredit.cli import _settle; _settle(); from tqdm import tqdm; "
        "[number for number in tqdm(range(3))]; print('done')"
    )
    environment = {name: value for name, value in os.environ.items() if name not in terminal.LIBRARIES}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    ("keys", "heard"), [("['lm_head.weight']", False), ("['lm_head.weight', 'model.norm.weight']", True)]
)
def test_weights_that_are_tied_are_not_missing(keys, heard, caplog):
    logger = logging.getLogger("transformers.trainer")
    warning = f"There were missing keys in the checkpoint model loaded: {keys}."
    policy = SimpleNamespace(all_tied_weights_keys={"lm_head.weight": "model.embed_tokens.weight"})
    logger.addHandler(caplog.handler)  # transformers' loggers need not propagate
    try:
        with without_tied_keys(policy):
            logger.warning(warning)
        assert (warning in caplog.messages) == heard
        caplog.clear()
        logger.warning(warning)
        assert warning in caplog.messages
    finally:
        logger.removeHandler(caplog.handler)


def test_the_dropout_of_lora_is_no_dropout_of_the_policy(caplog):
    policy = AutoModelForCausalLM.from_config(copy.deepcopy(tiny.FAMILIES["llama"]))
    adapted = get_peft_model(policy, LoraConfig(lora_dropout=0.5, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    warn_of_dropout(adapted)
    assert caplog.text == ""
    policy.config.attention_dropout = 0.1
    warn_of_dropout(adapted)
    assert "set disable_dropout: true" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "r.yaml", "--help"], "Keys of rlcredit train"),
        (["train", "--seed", "1", "-h"], "Keys of rlcredit train"),
        (["report", "a", "b", "--help"], "rlcredit report RUN_DIR"),
        (["compare", "a", "--help"], "rlcredit compare A B"),
        (["recipes", "--help"], "rlcredit train RECIPE"),
        (["prepare-model", "x", "--help"], "rlcredit train RECIPE"),
    ],
)
def test_help_is_answered_anywhere(words, said, capsys):
    assert main(words) == 0
    assert said in capsys.readouterr().out


def test_a_recipe_may_stand_in_front(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("torch_dtype: float32\n")
    assert main(["train", str(tmp_path / "mine.yaml")]) == 2
    assert capsys.readouterr().err == f"rlcredit: {tmp_path}/mine.yaml:1: unknown key 'torch_dtype'; write dtype\n"
    assert main(["train", "countdown_tny/uniform"]) == 2
    assert "did you mean countdown_tiny/uniform?" in capsys.readouterr().err
    words = ["--dry_run", "--task_options.num_train=64", f"--output_dir={tmp_path}"]
    assert main(["train", "countdown_tiny/uniform", *words]) == 0
    assert capsys.readouterr().out.startswith("rlcredit train: countdown_tiny/uniform\n")


def test_amplified_tokens_are_those_that_get_more():
    credit = Credit.of(torch.tensor([[0.5, 1.0, 1.5, 2.0]]))
    totals = totals_of_rows(credit, None, torch.tensor([[True, True, True, True]]))
    assert totals[0, MEANS.index("amplified_share")].tolist() == [2, 4]
