"""Runs that a newcomer makes: without a GPU, shorter than an interval of the log, or with nothing to learn from."""

from __future__ import annotations

import json

import pytest
import yaml
from wandb.errors import UsageError

from rlcredit.cli import main
from rlcredit.config import find_recipe
from rlcredit.errors import InputError
from rlcredit.trainers.run import begin, learned_nothing

SHORT = ["--max_steps=2", "--num_generations=4", "--per_device_train_batch_size=8", "--disable_tqdm=true"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes mine.yaml with a reward of its own; it says nothing of bf16, and logs every tenth step."""
    (tmp_path / "endings_rewards.py").write_text(
        "def length(completions, **kwargs):\n    return [len(c) / 100 for c in completions]\n\n\n"
        "def never(completions, **kwargs):\n    return [0.0] * len(completions)\n\n\n"
        "calls = []\n\n\ndef away(completions, trainer_state=None, **kwargs):\n"
        "    calls.append(trainer_state)\n"
        "    if trainer_state is None and len([call for call in calls if call is None]) > 1:\n"
        "        raise KeyError('judge')\n"
        "    return [len(c) / 100 for c in completions]\n"
    )
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"prompt": f"{n} 2 3 -> 6\n"}) + "\n" for n in range(8)))
    monkeypatch.chdir(tmp_path)
    shipped = yaml.safe_load(find_recipe("countdown_tiny/coupled_rhythm").read_text())
    for key in ("bf16", "logging_steps"):
        shipped.pop(key, None)
    shipped |= {"task": "custom", "output_dir": "out"}

    def write(reward: str) -> str:
        options = {"train": "mine.jsonl", "reward": f"endings_rewards:{reward}"}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(shipped | {"task_options": options}))
        return "mine.yaml"

    return write


def test_a_run_that_was_taught_nothing_does_not_end_well(recipe, tmp_path, capsys):
    assert main(["train", recipe("never"), *SHORT]) == 1
    ended = capsys.readouterr()
    assert "nothing was learned: at every step all rewards of a group were equal" in ended.err
    assert "policy:     out" in ended.out and (tmp_path / "out/model.safetensors").is_file()


def test_a_run_without_a_gpu_and_shorter_than_the_interval_of_its_log(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rlcredit.trainers.checks.is_torch_bf16_gpu_available", lambda: False)
    assert main(["train", recipe("length"), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "bf16: false, since this machine has no GPU that trains in bf16" in said
    (line,) = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert line["step"] == 2 and line["grad_norm"] > 0
    assert "step 2: reward" in said


@pytest.mark.parametrize("flag", [["--bf16"], ["--bf16", "true"], ["--bf16", "--max_steps=2"]], ids=" ".join)
def test_bf16_where_no_gpu_is(recipe, flag, capsys, monkeypatch):
    monkeypatch.setattr("rlcredit.trainers.checks.is_torch_bf16_gpu_available", lambda: False)
    assert main(["train", recipe("length"), *flag]) == 2
    assert capsys.readouterr().err.startswith("rlcredit: bf16: this machine has no GPU that trains in bf16; write")


@pytest.mark.parametrize(
    ("lines", "nothing"),
    [
        ([{"grad_norm": 0.0, "frac_reward_zero_std": 1.0}, {"train_runtime": 1.0}], True),
        ([{"grad_norm": 0.0, "frac_reward_zero_std": 1.0}, {"grad_norm": 0.1, "frac_reward_zero_std": 1.0}], False),
        ([{"grad_norm": 0.0, "frac_reward_zero_std": 0.9}], False),
        ([{"grad_norm": 0.0}], False),  # PPO: an advantage without a group
        ([{"train_runtime": 1.0}], False),
        # four steps a rollout: the share is on the line of the first alone
        ([{"grad_norm": 0.0, "frac_reward_zero_std": 1.0}, *[{"grad_norm": 0.0}] * 3], True),
        ([{"grad_norm": 0.0, "frac_reward_zero_std": 1.0}, {"grad_norm": 0.0}, {"grad_norm": 0.2}], False),
    ],
)
def test_what_nothing_is(lines, nothing):
    assert learned_nothing(lines) == nothing


def test_a_reward_that_fails_as_the_metric_leaves_a_checkpoint_and_one_line(recipe, tmp_path, capsys):
    words = ["train", recipe("away"), *SHORT, "--save_steps=100", "--eval_strategy=steps", "--eval_steps=1"]
    words += ["--task_options.hold_out=2", "--steps_per_generation=1"]
    assert main(words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlcredit: ")]
    assert "reward 'away', which measures held-out answers: KeyError: 'judge'" in line
    assert "checkpoint-1, go on from there with --resume_from_checkpoint latest" in line
    assert [path.name for path in tmp_path.glob("out/checkpoint-*")] == ["checkpoint-1"]


def test_rewards_of_steps_are_no_metric(recipe, tmp_path, capsys):
    words = ["train", recipe("length"), *SHORT, "--task_options.hold_out=2", "--steps_per_generation=1"]
    (tmp_path / "endings_steps.py").write_text(
        "def steps(completions, **kwargs):\n    return [[(0, len(c), 0.5)] for c in completions]\n"
    )
    assert main([*words, "--task_options.reward=endings_steps:steps"]) == 2
    assert "for a held-out answer; write task_options.check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("No API key configured. Use `wandb login` to log in."), "report_to: wandb: No API key configured"),
        (
            RuntimeError("Error(s) in loading state_dict for Llama:\n size mismatch for embed"),
            "out/checkpoint-2 is not of this model",
        ),
    ],
)
def test_what_a_run_cannot_begin_with_is_bad_input(error, said):
    class Fails:
        def train(self, **_):
            raise error

    with pytest.raises(InputError, match=said):
        begin(Fails(), "out/checkpoint-2")
