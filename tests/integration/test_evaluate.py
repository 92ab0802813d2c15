"""`rlcredit evaluate` and `rlcredit compare`, as commands: what they refuse, that they resume, that they agree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcredit.cli import main
from rlcredit.config import recipes_root
from rlcredit.errors import InputError
from rlcredit.evaluation.of_run import flags_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.samples import batches
from rlcredit.evaluation.sampling import Sampling, complete
from rlcredit.stats.estimates import pass_at_k
from rlcredit.tasks import TASKS
from tests import command
from tests.policies import save_rows

POLICY = str(recipes_root() / "countdown_tiny/policy")
OPTIONS = '{"numbers": [3], "max_number": 12, "max_target": 60, "prompt_style": "compact"}'
WORDS = ["--model", POLICY, "--task", "countdown", "--task_options", OPTIONS, "--max_new_tokens", "56"]
SAMPLED = [*WORDS, "--samples", "4", "--temperature", "1", "--limit", "24", "--batch_size", "8"]


def evaluated(folder: Path, *words: str) -> dict:
    assert main(["evaluate", *words, "--output", str(folder)]) == 0
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON


def samples(folder: Path) -> list[dict]:
    return pq.read_table(folder / "samples.parquet").to_pylist()


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rlcredit: ")
    return error


def test_the_figures_are_those_of_the_samples(tmp_path, capsys):
    metrics = evaluated(tmp_path / "a", *SAMPLED)
    found = samples(tmp_path / "a")
    assert [(row["problem"], row["sample"]) for row in found] == [(p, s) for p in range(24) for s in range(4)]
    correct = np.array([row["correct"] for row in found]).reshape(24, 4)
    estimates = metrics["estimates"]
    assert estimates["pass@1"]["value"] == correct.mean() and 0.1 < correct.mean() < 0.6
    assert estimates["pass@2"]["value"] == pytest.approx(pass_at_k(correct, 2).mean())
    assert estimates["pass@4"]["value"] == correct.max(axis=1).mean()
    assert all(e["low"] <= e["value"] <= e["high"] for e in estimates.values())
    said = capsys.readouterr().out
    assert "countdown: 24 problems x 4 samples, temperature 1" in said
    for name, digits in (("pass@1", 3), ("maj@4", 3), ("length", 1)):
        value, low, high = (f"{estimates[name][part]:.{digits}f}" for part in ("value", "low", "high"))
        assert f"{name:9}  {value} [{low}, {high}]\n" in said
    assert not (tmp_path / "a/parts").exists()
    stamp = (tmp_path / "a/samples.parquet").stat().st_mtime_ns
    again = evaluated(tmp_path / "a", *SAMPLED)
    assert (tmp_path / "a/samples.parquet").stat().st_mtime_ns == stamp  # nothing was drawn again
    assert again["estimates"] == estimates
    one = evaluated(tmp_path / "one", *WORDS, "--limit", "1")["estimates"]
    assert one["length"]["value"] > 0 and one["length"]["low"] is None  # one problem has no interval


def test_another_evaluation_in_the_same_folder_is_refused_and_can_be_replaced(tmp_path, capsys):
    greedy = [*WORDS, "--limit", "8"]
    evaluated(tmp_path, *greedy)
    said = refused(capsys, "evaluate", *greedy, "--seed", "1", "--output", str(tmp_path))
    assert "holds an evaluation with seed 0 instead of 1" in said and "--overwrite true" in said
    said = refused(capsys, "evaluate", *WORDS, "--limit", "9", "--output", str(tmp_path))
    assert "problems 8 instead of 9" in said
    assert evaluated(tmp_path, *greedy, "--seed", "1", "--overwrite", "true")["settings"]["seed"] == 1


@pytest.mark.thorough
def test_killed_and_started_again_it_ends_as_if_never_stopped(tmp_path):
    whole = evaluated(tmp_path / "whole", *SAMPLED)
    words = [sys.executable, "-m", "rlcredit", "evaluate", *SAMPLED, "--output", str(tmp_path / "cut")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "cut/parts").glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list((tmp_path / "cut/parts").glob("*.parquet")))
    assert 3 <= kept < 12
    again = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert f"countdown: {kept} of 12 batches are in" in again.stdout  # and are not drawn again
    assert samples(tmp_path / "cut") == samples(tmp_path / "whole")
    assert json.loads((tmp_path / "cut/metrics.json").read_text())["estimates"] == whole["estimates"]


@pytest.mark.slow
def test_two_processes_give_the_same_samples_and_figures(tmp_path):
    whole = evaluated(tmp_path / "one", *SAMPLED)
    done = command.run_module("rlcredit", "evaluate", *SAMPLED, "--output", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("24 problems x 4 samples") == 1
    assert samples(tmp_path / "two") == samples(tmp_path / "one")
    assert json.loads((tmp_path / "two/metrics.json").read_text())["estimates"] == whole["estimates"]


def test_a_checkpoint_with_adapters_is_evaluated_with_them(tmp_path):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(POLICY), LoraConfig(r=4, target_modules="all-linear")
    )
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    words = [*WORDS[2:], "--limit", "16"]
    evaluated(tmp_path / "a", "--model", str(tmp_path / "adapter"), *words)
    evaluated(tmp_path / "b", "--model", POLICY, *words)
    saved, plain = ([row["completion"] for row in samples(tmp_path / name)] for name in "ab")
    rows = TASKS["countdown"](json.loads(OPTIONS) | {"num_test": 16}, train=False).tests["countdown"]
    (batch,) = batches(rows, PromptRenderer(tokenizer), samples=1, batch_size=32)
    prompts = [rows[problem]["prompt"] for problem, _ in batch.pairs]
    found = complete(adapted, PromptRenderer(tokenizer), prompts, batch.pairs, Sampling(56))
    live = {problem: completion.text for (problem, _), completion in zip(batch.pairs, found, strict=True)}
    assert saved == [live[problem] for problem in range(16)] != plain


def test_an_evaluation_during_training_is_that_of_the_command(tmp_path):
    words = ["--config", "countdown_tiny/uniform", "--max_steps=4", "--num_generations=4", "--save_steps=2"]
    words += ["--per_device_train_batch_size=8", "--per_device_eval_batch_size=8", "--held_out=24"]
    words += ["--eval_strategy=steps", "--eval_steps=2", "--disable_tqdm=true", "--learning_rate=3e-3"]
    words += ["--eval_samples=2", "--eval_temperature=1"]
    assert main(["train", *words, "--output_dir", str(tmp_path / "run")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "eval/countdown/pass@1" in line}
    assert list(logged) == [2, 4]
    for step, line in logged.items():
        model = str(tmp_path / f"run/checkpoint-{step}")
        words = ["--model", model, *WORDS[2:], "--limit", "24", "--samples", "2", "--temperature", "1"]
        words += ["--seed", "42", "--batch_size", "128"]
        estimates = evaluated(tmp_path / f"at-{step}", *words)["estimates"]
        for name in ("pass@1", "pass@2", "maj@2", "length", "truncated"):
            assert line[f"eval/countdown/{name}"] == estimates[name]["value"]
        assert line["eval/countdown/pass@1_low"] == estimates["pass@1"]["low"]
    accuracy = json.loads((tmp_path / "run/accuracy.json").read_text())
    assert np.mean(accuracy["after"]["countdown"]) == logged[4]["eval/countdown/pass@1"]


def test_a_run_knows_its_task(tmp_path, capsys):
    words = ["--config", "countdown_tiny/uniform", "--max_steps=1", "--num_generations=4", "--held_out=24"]
    words += ["--per_device_train_batch_size=8", "--disable_tqdm=true", "--eval_samples=2", "--eval_temperature=1"]
    words += ["--max_completion_length=40", "--chat_template_kwargs", '{"enable_thinking": false}']
    shares = {}
    for name, seed in (("a", 1), ("b", 2)):
        run = tmp_path / name
        assert main(["train", *words, f"--seed={seed}", f"--output_dir={run}"]) == 0
        assert main(["evaluate", str(run), "--dtype", "float32"]) == 0
        shares[name] = json.loads((run / "accuracy.json").read_text())["after"]["countdown"]
        found = samples(run / "evaluations/countdown")
        assert np.array([row["correct"] for row in found]).reshape(24, 2).mean(axis=1).tolist() == shares[name]
    settings = json.loads((tmp_path / "a/evaluations/countdown/settings.json").read_text())
    assert (settings["max_new_tokens"], settings["seed"], settings["samples"]) == (40, 1, 2)
    assert settings["chat_template_kwargs.enable_thinking"] is False and settings["task_options.numbers"] == [3]
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert (
        f"B - A  {np.mean(shares['b']) - np.mean(shares['a']):+.3f}" in said and "note: seed differs: 1 and 2" in said
    )
    # flags override; a checkpoint finds its run; the analysis has the run's prompts and length
    assert main(["evaluate", str(tmp_path / "a"), "--samples=1", "--temperature=0", "--limit=3", "--identity"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["samples"], settings["problems"], settings["max_new_tokens"]) == (1, 3, 40)
    assert main(["analyze", str(tmp_path / "a"), "--samples=2", "--perturbed=0", f"--output={tmp_path / 'page'}"]) == 0
    report = json.loads((tmp_path / "page/report.json").read_text())
    assert report["settings"]["max_new_tokens"] == 40 and report["settings"]["temperature"] == 1.0


def test_what_is_no_run_is_refused(tmp_path, capsys):
    for name in ("evaluate", "analyze"):
        assert "is not the folder of a training run" in refused(capsys, name, str(tmp_path))
    (tmp_path / "run.json").write_text('{"task": "countdown"}')
    assert "run.json: says nothing of evaluate" in refused(capsys, "evaluate", str(tmp_path))
    assert "no set was evaluated in both" in refused(capsys, "compare", str(tmp_path), str(tmp_path))


def test_an_evaluation_of_the_policy_before_the_run_went_on_is_not_compared(tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copytree(POLICY, tmp_path / name)
        flags = {"task": "countdown", "task_options": json.loads(OPTIONS), "max_new_tokens": 8, "limit": 4}
        (tmp_path / name / "run.json").write_text(json.dumps({"evaluate": flags}))
        assert main(["evaluate", str(tmp_path / name)]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    weights = (tmp_path / "b/model.safetensors").read_bytes()
    (tmp_path / "b/model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    said = refused(capsys, "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert "b/evaluations/countdown: is of the policy before the run went on; run rlcredit evaluate" in said


@pytest.mark.parametrize("command", ["evaluate", "analyze"])
def test_an_output_that_is_a_file_is_refused(tmp_path, capsys, command):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        words = [command, "--model", POLICY, "--task", "countdown", "--task_options", OPTIONS, "--max_new_tokens", "8"]
        assert "cannot be made" in refused(capsys, *words, "--output", str(tmp_path / place))
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_run_hands_on(tmp_path):
    flags = {"task": "math500", "task_options": {"prompt_style": "plain"}, "limit": 5, "temperature": 0.0}
    flags |= {"trust_remote_code": True, "chat_template_kwargs": None}
    (tmp_path / "run.json").write_text(json.dumps({"evaluate": flags, "analyze": flags}))
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(InputError, match=r"the run has not finished, .*; write .*checkpoint-4, or resume it"):
        flags_of("evaluate", [str(tmp_path)])
    (tmp_path / "config.json").write_text("{}")

    def handed_on(command, *words, folder=tmp_path):
        return {word.split("=")[0][2:]: word.split("=", 1)[1] for word in flags_of(command, [str(folder), *words])}

    first = handed_on("evaluate", "--temperature=1")
    assert first == {
        **{"task": "math500", "task_options": '{"prompt_style": "plain"}', "limit": "5", "temperature": "1"},
        **{"model": str(tmp_path), "output": str(tmp_path / "evaluations/math500")},
    }
    assert handed_on("evaluate", folder=tmp_path / "checkpoint-4")["model"] == str(tmp_path / "checkpoint-4")
    assert handed_on("evaluate", "--task=gsm8k").keys() == {"task", "temperature", "model"}
    assert handed_on("evaluate", "--data=x.jsonl").keys() == first.keys() - {"limit"} | {"data"}
    assert handed_on("analyze", "--prompts=x.jsonl").keys() == {"prompts", "temperature", "model"}
    assert handed_on("analyze").keys() == {"task", "task_options", "temperature", "model"}
    flags |= {"credit_strategy": "global_anchor", "credit_amplification": 4.0, "credit_fai_horizon": [6, 100]}
    (tmp_path / "run.json").write_text(json.dumps({"evaluate": flags, "analyze": flags}))
    assert {key for key in handed_on("analyze") if "credit" in key} == {"credit_strategy", "credit_amplification"}
    assert handed_on("fidelity")["credit_fai_horizon"] == "[6, 100]" and "credit_strategy" not in handed_on("fidelity")
    flags |= {"credit_strategy": "os:system"}  # a run's folder may be another's: no module is imported for it
    (tmp_path / "run.json").write_text(json.dumps({"analyze": flags}))
    assert "credit_strategy" not in handed_on("analyze")


@pytest.mark.thorough
def test_evaluations_are_kept_problem_by_problem_at_two_temperatures_and_over_a_stop(tmp_path):
    words = ["--config", "countdown_tiny/uniform", "--num_generations=4", "--save_steps=2", "--learning_rate=3e-3"]
    words += ["--per_device_train_batch_size=8", "--held_out=24", "--disable_tqdm=true"]
    words += ["--eval_strategy=steps", "--eval_steps=2", "--per_device_eval_batch_size=8"]
    words += ["--eval_second_temperature=1", "--task_options.num_validation=16"]

    def run(name: str, steps: int, *more: str) -> tuple[list[dict], dict]:
        assert main(["train", *words, f"--max_steps={steps}", f"--output_dir={tmp_path / name}", *more]) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "held_out.jsonl").read_text().splitlines()]
        return lines, json.loads((tmp_path / name / "accuracy.json").read_text())

    lines, accuracy = run("whole", 4)
    assert [line["step"] for line in lines] == [2, 4]
    sizes = {"countdown": 24, "countdown_validation": 16, "countdown_t1": 24}
    for right in (*(line["right"] for line in lines), accuracy["before"], accuracy["after"]):
        assert {name: len(values) for name, values in right.items()} == sizes
    assert lines[1]["right"] == accuracy["after"]
    logged = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    for line in lines:
        (found,) = [entry for entry in logged if entry["step"] == line["step"] and "eval/countdown/pass@1" in entry]
        assert all(found[f"eval/{name}/pass@1"] == np.mean(values) for name, values in line["right"].items())
    # the second temperature is that of `rlcredit evaluate`
    model = str(tmp_path / "whole/checkpoint-4")
    again = ["--model", model, *WORDS[2:], "--limit", "24", "--temperature", "1"]
    evaluated(tmp_path / "again", *again, "--seed", "42", "--batch_size", "128", "--dtype", "float32")
    assert [row["correct"] for row in samples(tmp_path / "again")] == accuracy["after"]["countdown_t1"]
    # a run that stops after the second step and goes on
    run("stopped", 2)
    assert run("stopped", 4, "--resume_from_checkpoint", "latest") == (lines, accuracy)


@pytest.mark.thorough
def test_evaluation_leaves_training_alone(tmp_path):
    words = ["--config", "countdown_tiny/coupled_rhythm", "--max_steps=3", "--num_generations=4", "--save_steps=9"]
    words += ["--per_device_train_batch_size=8", "--per_device_eval_batch_size=8", "--disable_tqdm=true"]
    words += ["--log_completions=true", "--steps_per_generation=2"]
    assert main(["train", *words, "--held_out=0", "--output_dir", str(tmp_path / "a")]) == 0
    extra = ["--held_out=8", "--eval_strategy=steps", "--eval_steps=1"]
    assert main(["train", *words, *extra, "--output_dir", str(tmp_path / "b")]) == 0

    def steps(run):
        lines = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        timed = ("time", "seconds")
        return [{k: v for k, v in line.items() if not any(t in k for t in timed)} for line in lines if "loss" in line]

    assert steps("a") == steps("b") and len(steps("a")) == 3


# What is refused


BAD = [
    (["--task", "gsm9k"], "task: 'gsm9k' is no evaluation set; write one of countdown"),
    (["--samples", "4"], "temperature: 0 is greedy"),
    (["--samples", "0"], "samples: 0 is out of range"),
    (["--limit", "0"], "limit: 0"),
    (["--top_p", "0"], "top_p: 0.0"),
    (["--temperature=-1"], "temperature: -1.0"),
    (["--model", "no/such/model"], "model: 'no/such/model' is neither a folder"),
    (["--max_new_tokens", "1000"], "max_new_tokens: a prompt of"),
    (["--dtype", "float8"], "dtype: expected one of auto, float32, bfloat16, float16"),
    (["--sample", "2"], "did you mean --samples?"),
    (["--task", "custom", "--task_options", "{}"], "task_options.reward: is missing"),
    (["--task", "gsm8k", "--data", "no.jsonl", "--task_options", "{}"], "no.jsonl: there is no such file"),
    (["--task_options", '{"numbrs": [3]}'], "did you mean task_options.numbers?"),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words)[:40] for words, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = dict(zip(WORDS[::2], WORDS[1::2], strict=True))
    for word, value in zip(words[::2], words[1::2], strict=False):
        given[word] = value
    flat = [part for pair in given.items() for part in pair] + (words if len(words) == 1 else [])
    assert expected in refused(capsys, "evaluate", *flat, "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_file_shorter_than_its_set_is_refused_unless_the_limit_says_so(tmp_path, capsys):
    data = save_rows(tmp_path / "few.jsonl", [{"question": f"{n}?", "answer": "1"} for n in range(3)])
    words = ["evaluate", "--model", POLICY, "--task", "math500", "--data", data, "--output", str(tmp_path / "out")]
    words += ["--task_options.prompt_style", "plain", "--max_new_tokens", "8"]
    assert "has 3 usable rows, but the evaluation set math500 has 500" in refused(capsys, *words)
    assert main([*words, "--limit", "3"]) == 0
    assert [row["gold"] for row in samples(tmp_path / "out")] == ["1", "1", "1"]


def test_a_conversation_needs_a_chat_template(tmp_path, capsys):
    data = save_rows(tmp_path / "few.jsonl", [{"question": "1?", "answer": "1"}])
    words = ["evaluate", "--model", POLICY, "--task", "gsm8k", "--data", data, "--limit", "1"]
    assert "the prompts are conversations, but the model has no chat template; take a model" in refused(capsys, *words)


# Comparison


def test_compare_two_policies(tmp_path, capsys):
    evaluated(tmp_path / "a", *WORDS, "--limit", "40")
    evaluated(tmp_path / "b", *WORDS, "--limit", "40", "--temperature", "1", "--seed", "3")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    one, two = (np.array([row["correct"] for row in samples(tmp_path / name)]) for name in "ab")
    assert "note: temperature differs: 0.0 and 1.0" in said and "note: seed differs: 0 and 3" in said
    assert f"B - A  {two.mean() - one.mean():+.3f}" in said and "(40 problems, paired)" in said
    assert f"by B alone: {(two > one).sum()}" in said and f"by A alone: {(two < one).sum()}" in said
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert "B - A  +0.000" in capsys.readouterr().out


def test_what_compare_refuses(tmp_path, capsys):
    evaluated(tmp_path / "a", *WORDS, "--limit", "4")
    evaluated(tmp_path / "b", *WORDS, "--limit", "5")
    assert "different problems" in refused(capsys, "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert "holds no finished evaluation" in refused(capsys, "compare", str(tmp_path / "a"), str(tmp_path / "nothing"))
    assert "takes the folders of two evaluations" in refused(capsys, "compare", str(tmp_path / "a"))
