"""docs/from-trl.md: its files train here and under `trl grpo`, to the same weights; what it shows is what is said."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from rlcredit.cli import main
from tests import tiny
from tests.policies import CHAT, save_rows

PAGE = (Path(__file__).parents[2] / "docs/from-trl.md").read_text()
FILES = {name: text for text, name in re.findall(r"```(?:yaml|python)\n(# (\w+\.\w+)\n.*?)```", PAGE, re.S)}
NAMES = ("trl", "open_r1", "axolotl")
OPEN_R1S = ("dataset_prompt_column", "system_prompt", "overwrite")  # which `trl grpo` does not know
SHORT = {
    **{"dtype": "float32", "attn_implementation": "sdpa", "bf16": "false", "use_cpu": "true", "report_to": "none"},
    **{"max_steps": "2", "num_generations": "4", "per_device_train_batch_size": "8", "steps_per_generation": "2"},
    **{"gradient_accumulation_steps": "1", "max_completion_length": "12", "save_strategy": "no", "logging_steps": "1"},
    "learning_rate": "1e-3",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: the page's files, a tiny policy, and rows for each of the files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # beside the page's rewards, which a tiny policy never earns, one that differs between completions
    (tmp_path / "varied.py").write_text(
        "def digits(completions, **kwargs):\n"
        "    return [sum(c.isdigit() for c in turns[0]['content']) / 9 for turns in completions]\n"
    )
    for module in ("my_rewards", "rewards", "varied"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    policy, tokenizer = tiny.model_of("llama", spread=0.15), tiny.tokenizer()
    tokenizer.chat_template = CHAT
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path


def settings_of(name: str, place: Path, *, for_trl: bool = False) -> list[str]:
    """The words after `--config` for a file of the page, cut short, on local rows.

    Args:
        for_trl: leave out open-r1's keys, and give the rows the prompts that these stand for.
    """
    given = yaml.safe_load(FILES[f"{name}.yaml"])
    asked = {"trl": "prompt", "open_r1": "problem", "axolotl": "question"}[name]
    rows: list[dict[str, Any]] = []
    for i in range(16):
        text = f"{i} + {i}"
        answers = {"solution": f"${2 * i}$", "answer": f"so #### {2 * i}"}
        rows.append({asked: [{"role": "user", "content": text}] if name == "trl" else text, **answers})
    if for_trl:
        system = [{"role": "system", "content": given["system_prompt"]}] if "system_prompt" in given else []
        if name != "trl":
            rows = [{**row, "prompt": [*system, {"role": "user", "content": row[asked]}]} for row in rows]
        given = {key: value for key, value in given.items() if key not in OPEN_R1S}
    data = place / ("for_trl" if for_trl else "data")
    data.mkdir(exist_ok=True)
    save_rows(data / "train.jsonl", rows)
    if "datasets" in given:
        given["datasets"] = [{"path": str(data), "split": given["datasets"][0]["split"]}]
    else:
        given["dataset_name"] = str(data)
    given["reward_funcs"] = [*given["reward_funcs"], "varied.digits"]
    given["reward_weights"] = [*given["reward_weights"], 1.0]
    config = place / f"{name}_{data.name}.yaml"
    config.write_text(yaml.safe_dump({**given, "model_name_or_path": str(place / "policy")}))
    return [str(config), *(word for key, value in SHORT.items() for word in (f"--{key}", value))]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_taken(name, place, capsys):
    flags = settings_of(name, place)
    assert main(["train", "--config", *flags, "--credit_strategy", "coupled_rhythm", "--dry_run"]) == 0
    assert "16 training rows" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["open_r1", "axolotl"])
def test_the_page_shows_what_is_said_of_the_files_before(name, place, capsys):
    assert main(["train", "--config", f"before_{name}.yaml"]) == 2
    (shown,) = re.findall(rf"\$ rlcredit train --config before_{name}\.yaml\n(.*?)```", PAGE, re.S)
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("name", NAMES)
def test_the_files_train_with_credit(name, place):
    flags = settings_of(name, place)
    assert main(["train", "--config", *flags, "--credit_strategy=coupled_rhythm", "--output_dir=credited"]) == 0
    lines = [json.loads(line) for line in Path("credited/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1]  # one rollout for two steps
    assert "rewards/digits/mean" in lines[0] and lines[0]["reward"] > 0
    facts = json.loads(Path("credited/run.json").read_text())
    assert facts["task"] == str(place / "data") and facts["analyze"]["task"] == "dataset"
    assert f"on `{place}/data`" in Path("credited/README.md").read_text()


TASK = ["--config", "countdown_tiny/uniform", "--dry_run", "--task_options.num_train=64", "--held_out=0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model_name_or_path=x"], "task: is missing; write a task (countdown, paths"),
        (["--config=trl.yaml", "--task=gsm8k"], "dataset_name: task: gsm8k has data of its own"),
        (
            [*TASK, "--system_prompt=x"],
            "system_prompt: task: countdown has data of its own; write task_options.system",
        ),
        ([*TASK, "--reward_funcs=accuracy"], "reward_funcs: 'accuracy' is open-r1's name; write accuracy_reward"),
        ([*TASK, "--reward_funcs", "think_format_reward"], "reward 'think_format_reward': TypeError"),
        ([*TASK, "--reward_model_name_or_path=no/such"], "reward_model_name_or_path: 'no/such' is neither a folder"),
    ],
)
def test_what_does_not_go_together_is_one_line(words, said, place, capsys):
    flags = [f"--{key}={value}" for key, value in SHORT.items()] if words[0] == "--config=trl.yaml" else []
    assert main(["train", *words, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_evaluations_need_a_split(place, capsys):
    flags = settings_of("trl", place)
    assert main(["train", "--config", *flags, "--eval_strategy=steps", "--dry_run"]) == 2
    assert "dataset_test_split: eval_strategy is steps, and the data have no split 'test'" in capsys.readouterr().err


def test_rewards_are_missing(place, capsys):
    flags = settings_of("trl", place)
    config = yaml.safe_load(Path(flags[0]).read_text())
    Path(flags[0]).write_text(yaml.safe_dump({key: config[key] for key in config if "reward" not in key}))
    assert main(["train", "--config", *flags, "--dry_run"]) == 2
    assert "reward_funcs: is missing; write some of accuracy_reward" in capsys.readouterr().err


def test_a_reward_model_scores_before_the_functions(place):
    config = copy.deepcopy(tiny.FAMILIES["llama"])
    config.num_labels = 1
    scores = AutoModelForSequenceClassification.from_config(config)
    scores.save_pretrained(place / "scores")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(place / "scores")
    words = ["--reward_model_name_or_path=scores", "--reward_funcs", "varied.digits", "--reward_weights", "0", "1"]
    assert main(["train", "--config", *settings_of("trl", place), *words, "--output_dir=scored"]) == 0
    line = json.loads(Path("scored/log.jsonl").read_text().splitlines()[0])
    assert line["rewards/scores/mean"] != 0 and line["reward"] == pytest.approx(line["rewards/digits/mean"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [*((name, []) for name in NAMES), ("trl", ["--dataset_streaming", "true"])])
def test_uniform_credit_trains_the_weights_of_trl_grpo(name, more, place):
    uniform = ["--credit_strategy=uniform", "--trim_padding=false"]
    for program, words, folder in (
        (["rlcredit", "train"], [*settings_of(name, place), *uniform], "ours"),
        (["trl", "grpo"], settings_of(name, place, for_trl=True), "theirs"),
    ):
        command = [str(Path(sys.executable).parent / program[0]), program[1], "--config", *words, *more]
        done = subprocess.run(
            [*command, "--output_dir", folder], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    file = "adapter_model.safetensors" if name == "axolotl" else "model.safetensors"
    ours, theirs = load_file(f"ours/{file}"), load_file(f"theirs/{file}")
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    if name != "axolotl":  # whose adapters are new
        start = load_file("policy/model.safetensors")
        assert any((ours[key] != start[key]).any() for key in ours)
