"""The real command line: what it refuses, and two-step runs of the shipped recipes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlcredit.cli import main
from rlcredit.config import find_recipe, list_recipes, recipes_root
from rlcredit.trainers import launch
from rlcredit.trainers.run import resume_command
from tests import command
from tests.policies import local_data, save_policy

TINY = [recipe for recipe in list_recipes() if recipe.name.startswith("countdown_tiny/")]
QUICK = [
    "--max_steps=2",
    "--num_generations=4",
    "--per_device_train_batch_size=8",
    "--held_out=8",
    "--save_steps=1",
    "--disable_tqdm=true",
    "--task_options.num_train=64",
]


def refused(capsys, *words: str) -> str:
    """The line that the command line says, or the lines on unknown keys; it must exit with 2."""
    capsys.readouterr()
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("rlcredit: ") and ("\n" not in error or " keys are unknown:\n" in error)
    return error


BEST = ["--load_best_model_at_end", "--eval_strategy=steps", "--eval_steps=40", "--per_device_eval_batch_size=16"]
BAD = [
    (["--credit_strategy", "global_ancor"], "did you mean global_anchor"),
    (["--credit_quantil", "0.3"], "credit_quantile"),
    (["--credit_quantile", "1.2"], "credit_quantile"),
    (["--credit_quantile", "0"], "credit_quantile"),
    (["--credit_head_fraction", "0.6"], "credit_head_fraction"),
    (["--credit_fai_horizon", "100", "10"], "credit_fai_horizon"),
    (["--credit_waad_window", "0"], "credit_waad_window"),
    (["--credit_amplification", "-1"], "credit_amplification"),
    (["--credit_layers", "40"], "credit_layers: [40]"),
    (["--importance_sampling_level", "sequence"], "importance_sampling_level: token"),
    (["--model_name_or_path", "no/such/folder"], "no/such/folder"),
    (["--task", "countdwn"], "did you mean countdown"),
    (["--task_options", '{"num_trian": 5}'], "num_train"),
    (["--task", "custom", "--task_options", '{"train": "no.jsonl", "reward": "math:sqrt"}'], "no.jsonl"),
    (["--max_completion_length", "1000"], "context"),
    (["--per_device_train_batch_size", "3"], "num_generations"),
    (["--task_options.num_trian", "5"], "num_train"),
    (["--task_option.num_train", "5"], "did you mean"),
    (["--eval_samples", "4"], "eval_temperature: 0 is greedy"),
    (["--eval_temperature=-1"], "eval_temperature: -1.0"),
    (["--eval_second_temperature=-1"], "eval_second_temperature: -1.0"),
    (["--eval_second_temperature=0"], "eval_second_temperature: 0 is eval_temperature too"),
    (["--processes", "0"], "processes: 0"),
    (["--resume_from_checkpoint", "latest"], "no complete checkpoint"),
    (["--resume_from_checkpoint", "nowhere"], "nowhere"),
    (["--max_bad_steps", "0"], "max_bad_steps"),
    (["--credit_attention", "auxiliary"], "write disable_dropout: true"),
    (["--max_unscored_rollouts", "0"], "max_unscored_rollouts: 0 is out of range"),
    (["--report_to", "tensorboard"], "report_to: 'tensorboard' is not installed"),
    (["--attn_implementation", "flash_attention_2"], "attn_implementation: flash_attention_2 is not installed"),
    (["--lora_r", "4"], "lora_r: without use_peft all weights are trained"),
    ([*BEST], "metric_for_best_model: 'loss' is not measured where held-out sets are; write countdown/pass@1"),
    ([*BEST, "--metric_for_best_model", "eval_reward"], "metric_for_best_model: 'reward' is not measured"),
    (["--num_generations", "0"], "num_generations: 0 is out of range"),
    (["--num_generations", "1"], "at least 2 generations"),
    (["--per_device_train_batch_size", "1"], "num_generations: 16 does not divide the 4 completions"),
    (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps: 0 is out of range"),
    (["--max_completion_length", "none"], "max_completion_length: null is no limit"),
    (["--temperature=-1"], "temperature: -1.0 is out of range"),
    (["--learning_rate=inf"], "learning_rate: inf is out of range"),
    (["--seed=-1"], "seed: -1 is out of range"),
    (["--loss_type", "gropo"], "loss_type: 'gropo' is not one of grpo"),
    (["--report_to", "wanb"], "report_to: 'wanb' is not known"),
    (["--save_steps", "inf"], "--save_steps: cannot convert float infinity"),
    (["--deepspeed", "nowhere.json"], "--deepspeed: "),
    (
        ["--accelerator_config", "x.json", "--accelerator_config.a", "3"],
        "accelerator_config is 'x.json', and not a map",
    ),
    (["--model_init_kwargs", "off"], "model_init_kwargs: 'off' is no mapping"),
    (["--credit_options", "3"], "credit_options: '3' is no mapping"),
    (["--task_options", "3"], "--task_options: expected mapping or null"),
    (["--task_options.train", "x" * 5_000 + ".jsonl"], "File name too long"),
    (["--task_options.test", "a\nb.jsonl"], "a b.jsonl: there is no such file"),
    (["--model_name_or_path", "x" * 5_000], "model_name_or_path: 'xxx"),
    (["--lora_r=-1", "--use_peft=true", "--dry_run"], "lora_r, lora_alpha"),
    (["--gae_lambda", "0.9"], "unknown flag; it is a key of algorithm: ppo"),
    (["--config=countdown_tiny/ppo_uniform", "--algorithm", "grpo"], "'gamma'; it is a key of algorithm: ppo"),
    (["--algorithm", "pppo"], "grpo, ppo"),
    (["--algorithm", "ppo", "grpo"], "algorithm"),
    (["--algorithm", "ppo", "--gae_lambda", "1.1"], "gae_lambda: 1.1 is out of range"),
    (["--algorithm", "ppo", "--gamma=-1"], "gamma: -1.0 is out of range"),
    (["--algorithm=ppo", "--critic_warmup_steps", "500"], "critic_warmup_steps"),
    (["--algorithm", "ppo", "--critic_model_name_or_path", "no/critic"], "no/critic"),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words)[:40] for words, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(words, expected, capsys, tmp_path):
    if not any(word.startswith("--config") for word in words):
        words = ["--config", "countdown_tiny/coupled_rhythm", *words]
    error = refused(capsys, "--output_dir", str(tmp_path / "out"), *words)
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_the_command_as_a_process(tmp_path):
    done = command.run(command.TINY, "--dry_run", *QUICK[-1:], f"--output_dir={tmp_path}")
    assert done.returncode == 0 and done.stdout.endswith("checked; nothing was trained\n"), done.stderr[-3000:]


def test_a_run_prints_clean_lines_into_files_and_leaves_a_card(tmp_path):
    """Neither carriage returns nor bars, of a run that resumes too, and no word on tied weights or LoRA's dropout."""
    quick = [word for word in QUICK if not word.startswith(("--disable_tqdm", "--max_steps"))]
    words = ["countdown_tiny/coupled_rhythm", *quick, f"--output_dir={tmp_path}"]
    for more in (["--max_steps=1"], ["--max_steps=2", "--resume_from_checkpoint=latest"]):
        done = command.run(*words, *more)
        assert done.returncode == 0 and done.stderr == "", done.stderr[-3000:]
        assert "\r" not in done.stdout and re.search(r"^step \d: reward \d\.\d{3} ", done.stdout, re.M)
    card = (tmp_path / "README.md").read_text()
    assert ", on `countdown`." in card and "| accuracy on countdown, 8 held-out problems | 0." in card


@pytest.mark.parametrize(
    ("installed", "mode", "expected"),
    [(False, "colocate", "use_vllm: vLLM is not installed"), (True, "server", "vllm_mode: server sends the weights")],
)
def test_vllm_that_cannot_work_is_refused_before_the_policy_loads(
    installed, mode, expected, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("rlcredit.trainers.checks.is_vllm_available", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--config", "countdown_tiny/coupled_rhythm", "--use_vllm", "true", "--vllm_mode", mode]
    assert expected in refused(capsys, *words, "--output_dir", str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 5_000, "a\0b"])
def test_an_output_folder_that_cannot_be_one(name, capsys, tmp_path):
    (tmp_path / "file").touch()
    words = ["--config", "countdown_tiny/uniform", "--output_dir", str(tmp_path / name)]
    assert "output_dir: " in refused(capsys, *words)


def test_a_model_without_softmax_attention_is_refused_before_its_weights(capsys, tmp_path):
    from transformers import MambaConfig

    MambaConfig(vocab_size=50).save_pretrained(tmp_path / "mamba")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "mamba" / name).write_bytes((recipes_root() / "countdown_tiny/policy" / name).read_bytes())
    words = ["--config", "countdown_tiny/local_chunk", "--output_dir", str(tmp_path / "out")]
    assert "mamba" in refused(capsys, *words, "--model_name_or_path", str(tmp_path / "mamba"))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_recipes_of_one_algorithm_differ_in_their_credit_only(algorithm):
    found = {recipe.name: yaml.safe_load(recipe.path.read_text()) for recipe in TINY}
    found = {name: recipe for name, recipe in found.items() if recipe.get("algorithm", "grpo") == algorithm}
    of_both = {"uniform", "random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm"}
    of_grpo = {"answer_attention", "monte_carlo", "process"} if algorithm == "grpo" else set()
    assert {recipe["credit_strategy"] for recipe in found.values()} == of_both | of_grpo
    for recipe in found.values():
        assert recipe["task_options"].pop("step_penalty", None) in (None, 0.2)
    rest = [
        {key: value for key, value in recipe.items() if not key.startswith("credit_") and key != "output_dir"}
        for recipe in found.values()
    ]
    assert all(recipe == rest[0] for recipe in rest)
    assert all(recipe["output_dir"] == f"outputs/{name}" for name, recipe in found.items())
    first = {recipe.name: recipe.path.read_text().splitlines()[1:] for recipe in TINY if recipe.name in found}
    texts = {
        tuple(line for line in lines if not line.startswith(("credit_", "output_dir", "  step_penalty")))
        for lines in first.values()
    }
    assert len(texts) == 1


LARGE = [recipe for recipe in list_recipes() if recipe.name.startswith("paper/")]


def plan_of(recipe, folder, capsys, *more: str) -> str:
    """The plan of a recipe whose model is not here: its configuration and the data are replaced by local ones."""
    given = yaml.safe_load(recipe.path.read_text())
    words = ["--model_name_or_path", save_policy(given["model_name_or_path"], folder / "policy")]
    task = given["task"]
    if task in ("math", "qa"):
        local = local_data(task, folder)
        words += ["--task_options.train", local["train"]]
        words += ["--task_options.hold_out=6"] if task == "qa" else ["--task_options.test", local["test"]]
    else:
        words += ["--task_options.num_train=512" if task == "countdown" else "--task_options.num_train=64"]
        words += ["--task_options.num_test=2"]
        words += ["--task_options.people=3", "--task_options.characteristics=3"] if task == "zebra" else []
    capsys.readouterr()
    assert main(["train", "--config", recipe.name, "--dry_run", *words, *more]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", LARGE, ids=[recipe.name for recipe in LARGE])
def test_recipes_of_models_that_are_not_here_pass_their_dry_run(recipe, tmp_path, capsys):
    if recipe.name == "paper/zebra_4b":
        pytest.importorskip("reasoning_gym")
    said = plan_of(recipe, tmp_path, capsys)
    given = yaml.safe_load(recipe.path.read_text())
    assert "rollout      512 completions = " in said and "; 16 steps a rollout" in said
    assert "step         32 completions" in said and "coupled_rhythm: q 0.4, a 1.5; reads layers" in said
    assert said.endswith("checked; nothing was trained\n")
    assert given["output_dir"] == f"outputs/{recipe.name}" and given["use_vllm"]
    assert not (tmp_path / "outputs").exists()
    opening = recipe.path.read_text().split("\n\n")[0]
    for said_first in (
        "Hardware:",
        "Estimated memory:",
        "Not yet run.",
        "The paper's figure:",
        f"paper/{recipe.path.stem}",
    ):
        assert said_first in opening
    size = re.search(r"about ([\d.]+) GB a device .*?(?:; ([\d.]+) GB where sharded|$)", said, re.M)
    written = re.search(r"about (\d+) GB a GPU", opening)
    estimate = float(size[2] if "sharded" in opening else size[1])
    assert abs(estimate - int(written[1])) <= 3  # the prompts here are others


def test_the_plan_knows_processes_steps_and_passes(tmp_path, capsys):
    (recipe,) = [recipe for recipe in LARGE if recipe.name == "paper/math_1k_4b"]
    said = plan_of(recipe, tmp_path, capsys, "--max_steps=160")
    assert "4.02 B parameters, all trained, float32" in said
    assert "512 completions = 64 prompts x 8, on 8 processes; up to 1,024 tokens each" in said
    assert "160 steps = 10 rollouts = 5,120 completions, at most 5.24 M tokens; 8.00 passes over the data" in said
    assert "reads layers 12, 15, 18, 21, 24 of 36" in said
    assert "note: bf16: this machine has no GPU" in said and "note: run:" not in said and "note: dtype" not in said
    said = plan_of(recipe, tmp_path, capsys, "--dtype=bfloat16")
    assert "note: run: 400 passes over the data" in said
    assert "note: dtype: bfloat16 weights mostly round steps away under plain DDP; write dtype: float32" in said
    said = plan_of(recipe, tmp_path, capsys, "--bf16=false", "--processes=1")
    assert "note: memory: the estimate of" in said and "GB of a device here" in said
    said = plan_of(recipe, tmp_path, capsys, "--use_peft=true", "--lora_r=8", "--credit_layers=top")
    assert "M trained (LoRA)" in said and "reads layers 24, 27, 30, 32, 35 of 36" in said


@pytest.mark.thorough
def test_the_plan_says_what_a_resume_costs(tmp_path, capsys):
    words = ["train", "--config", "countdown_tiny/uniform", "--output_dir", str(tmp_path), *QUICK]
    assert main(words) == 0
    capsys.readouterr()
    changed = ["--resume_from_checkpoint=latest", "--dry_run", "--num_generations=8", "--credit_quantile=0.2"]
    assert main([*words[:5], *(word for word in QUICK if "num_generations" not in word), *changed]) == 0
    said = capsys.readouterr().out
    assert "note: resumed with another num_generations: 4 -> 8: the rollout at hand is dropped" in said
    assert "note: resumed with another credit_quantile: 0.4 -> 0.2\n" in said


@pytest.mark.thorough
def test_a_run_on_another_number_of_processes_says_so(tmp_path, capsys):
    words = ["--config", "countdown_tiny/uniform", "--output_dir", str(tmp_path), *QUICK, "--processes=4"]
    assert main(["train", *words]) == 0
    assert "meant for 4, this run has 1: batches are 0.25 times as large" in capsys.readouterr().out


def test_every_recipe_of_the_paper_is_in_the_readme():
    text = (recipes_root() / "README.md").read_text()
    for recipe in LARGE:
        assert f"`{recipe.path.stem}`" in text
    for table in ("| 5,", "| 7a,", "| 8,", "| 9,", "| 13,", "| 14,", "| 16,", "| 19,", "| 1, 2, 10, 11, 12, 20"):
        assert table in text


README_FLAGS = re.findall(
    r"--(credit_\w+|top_entropy_quantile) (.*?)(?= --|`)", (recipes_root() / "README.md").read_text()
)


@pytest.mark.thorough
@pytest.mark.parametrize(("key", "values"), README_FLAGS, ids=[f"{key} {values}" for key, values in README_FLAGS])
def test_the_overrides_in_the_readme_are_possible(key, values, tmp_path, capsys):
    words = values.replace("\\|", "|").split(" | ")
    for value in words:
        flags = [f"--{key}", *value.split(), "--output_dir", str(tmp_path), "--dry_run", *QUICK[-1:]]
        assert main(["train", "--config", "countdown_tiny/coupled_rhythm", *flags]) == 0


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


EVERY_RECIPE = [
    pytest.param(
        recipe,
        id=recipe.name,
        marks=[] if recipe.name.endswith("coupled_rhythm") else pytest.mark.thorough,
    )
    for recipe in TINY
]


@pytest.mark.parametrize("recipe", EVERY_RECIPE)
def test_two_steps_of_every_recipe(recipe, tmp_path, capsys):
    ppo = "/ppo_" in recipe.name
    words = [*QUICK, *(["--critic_warmup_steps=0"] if ppo else [])]
    assert main(["train", "--config", recipe.name, "--output_dir", str(tmp_path), *words]) == 0
    said = capsys.readouterr().out
    assert "accuracy:" in said and f"checkpoint: {tmp_path / 'checkpoint-2'}" in said
    assert "--resume_from_checkpoint latest" in said
    first, last = lines_of(tmp_path)
    assert 0 <= first["rewards/countdown_reward/mean"] <= 1
    assert ("value/loss" in last) == ppo == (tmp_path / "critic").is_dir()
    if recipe.name.endswith("uniform"):
        assert not any(key.startswith("credit/") for key in last)
        return
    mean, share = last["credit/weight_mean"], last["credit/amplified_share"]
    if recipe.name.endswith(("monte_carlo", "process")):  # advantages of their own
        assert mean == 1 and share == 0 and last["grad_norm"] > 0
    elif recipe.name.endswith("answer_attention"):  # the most that a token gets is 1
        assert 0.5 < mean < 1
    else:
        assert mean > 1 and 0 < share < 1
    assert first["credit/seconds"] > 0 and 0 < first["credit/time_share"] < 1
    assert last["credit/seconds"] == 0  # the second step takes the weights of the rollout that it reuses


@pytest.mark.thorough
def test_a_run_that_would_mix_with_an_earlier_one_is_refused(tmp_path, capsys):
    words = ["--config", "countdown_tiny/uniform", "--output_dir", str(tmp_path), *QUICK]
    assert main(["train", *words]) == 0
    assert "--overwrite true" in refused(capsys, *words)
    assert main(["train", *words, "--overwrite", "true", "--max_steps", "1"][:-2]) == 0
    assert main(["train", *words[:4], "--resume_from_checkpoint", "latest", *QUICK[1:], "--max_steps=3"]) == 0
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_the_resume_command_can_be_pasted(tmp_path, monkeypatch):
    """Where the shell does not find the command, it is written as it was called."""
    script = tmp_path / ".venv/bin/rlcredit"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(script), "train"])
    rest = " train --config x --resume_from_checkpoint latest"
    assert resume_command(["--config", "x"]) == f".venv/bin/rlcredit{rest}"
    monkeypatch.setenv("PATH", str(script.parent))
    assert resume_command(["--config", "x"]) == f"rlcredit{rest}"
    monkeypatch.setattr(sys, "argv", ["/somewhere/rlcredit/__main__.py"])
    assert resume_command(["--config", "x"]) == f"python -m rlcredit{rest}"


@pytest.mark.parametrize("vllm_in_the_process", [False, True])
def test_the_resume_command(vllm_in_the_process, monkeypatch):
    if vllm_in_the_process:
        monkeypatch.setenv("WORLD_SIZE", "1")
    words = ["--config", "a b.yaml", "--resume_from_checkpoint", "x", "--overwrite=true", "--max_steps", "3"]
    assert resume_command(words) == (
        "rlcredit train --config 'a b.yaml' --max_steps 3 --resume_from_checkpoint latest"
    )


def test_your_own_data_and_reward(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_reward.py").write_text(
        "def short(completions, wanted, **kwargs):\n"
        "    return [-abs(len(c) - w) for c, w in zip(completions, wanted)]\n"
    )
    rows = [{"prompt": f"{n} 2 3 -> 6\n", "wanted": 20 + n} for n in range(8)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(find_recipe("countdown_tiny/global_anchor").read_text())
    recipe |= {"task": "custom", "task_options": {"train": "mine.jsonl", "reward": "my_reward:short"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": "out"}))
    assert main(["train", "--config", "mine.yaml", *QUICK[:-1]]) == 0
    assert "rewards/short/mean" in lines_of(tmp_path / "out")[0]
    recipe["task_options"]["reward"] = "my_reward:shot"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": "out2"}))
    assert "my_reward:shot" in refused(capsys, "--config", "mine.yaml")


@pytest.mark.thorough
def test_wandb_goes_on_as_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    words = ["--config", "countdown_tiny/random", "--output_dir", str(tmp_path / "out"), "--report_to", "wandb"]
    assert main(["train", *words, *QUICK]) == 0
    import wandb

    wandb.finish()
    again = ["train", *words, *QUICK[1:], "--max_steps=3", "--resume_from_checkpoint", "latest"]
    subprocess.run([sys.executable, "-m", "rlcredit.cli", *again], check=True, capture_output=True, timeout=600)
    runs = [path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) == 2 and len(set(runs)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "credit",
    [[], ["--credit_head_grouping=frozen"], ["--use_peft=true", "--lora_r=4"], ["--algorithm=ppo"]],
)
def test_two_processes_resume_bit_for_bit(tmp_path, credit):
    words = ["--config", "countdown_tiny/coupled_rhythm", *QUICK[1:4], "--per_device_train_batch_size=4", *credit]
    words += ["--steps_per_generation=4", "--gradient_accumulation_steps=1", "--save_steps=6"]
    words.remove("--per_device_train_batch_size=8")
    straight = command.run(*words, "--output_dir", str(tmp_path / "a"), "--max_steps=12", processes=2)
    assert straight.returncode == 0, straight.stderr[-3000:]
    # a constant learning rate: the first half does not know how long the run will be
    half = command.run(*words, "--output_dir", str(tmp_path / "b"), "--max_steps=6", processes=2)
    assert half.returncode == 0, half.stderr[-3000:]
    rest = command.run(
        *words, "--output_dir", str(tmp_path / "b"), "--max_steps=12", "--resume_from_checkpoint=latest", processes=2
    )
    assert rest.returncode == 0, rest.stderr[-3000:]
    weights = "adapter_model.safetensors" if "--use_peft=true" in credit else "model.safetensors"
    one, two = (load_file(tmp_path / run / "checkpoint-12" / weights) for run in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)
    optimisers = [torch.load(tmp_path / run / "checkpoint-12/optimizer.pt", weights_only=True) for run in "ab"]
    for index, state in optimisers[0]["state"].items():
        assert all(torch.equal(state[name], optimisers[1]["state"][index][name]) for name in state)
    if "--algorithm=ppo" in credit:
        critics = [torch.load(tmp_path / run / "checkpoint-12/rlcredit-critic.pt", weights_only=True) for run in "ab"]
        assert all(torch.equal(v, critics[1]["model"][name]) for name, v in critics[0]["model"].items())
        for index, state in critics[0]["optimizer"]["state"].items():
            assert all(torch.equal(state[name], critics[1]["optimizer"]["state"][index][name]) for name in state)
    timed = ("time", "seconds")
    logs = [
        [{k: v for k, v in line.items() if not any(t in k for t in timed)} for line in lines_of(tmp_path / run)]
        for run in "ab"
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 12


@pytest.mark.slow
def test_bad_input_in_two_processes_is_said_once(tmp_path):
    words = ["--config", "countdown_tiny/coupled_rhythm", "--credit_quantile=2"]
    failed = command.run(*words, "--output_dir", str(tmp_path), processes=2)
    assert failed.returncode != 0
    assert failed.stderr.count("rlcredit: ") == 1


def test_deepspeed_that_is_not_installed_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(launch, "is_deepspeed_available", lambda: False)
    assert "deepspeed: the launch config asks for it" in refused(capsys, "--config", "countdown_tiny/coupled_rhythm")
