"""FSDP 2, ZeRO-2 and ZeRO-3 on two CPU processes over gloo, launched as users launch them: with the shipped files.

What holds under DDP holds under each of them: the same steps, runs that resume bit for bit, a bad step that is
dropped, a signal that is answered with a checkpoint. Sums over processes are added in another order, so that a run
and its counterpart under DDP drift apart by rounding: `CLOSE` of the value after the handful of steps here.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlcredit.runs.files import read_accuracies
from rlcredit.trainers import checkpoints
from tests import command, tiny

pytestmark = pytest.mark.slow
no_deepspeed = importlib.util.find_spec("deepspeed") is None
needs_deepspeed = pytest.mark.skipif(no_deepspeed, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'")
ENGINES = ["fsdp2", pytest.param("zero2", marks=needs_deepspeed), pytest.param("zero3", marks=needs_deepspeed)]
CLOSE = dict(rtol=2e-4, atol=2e-5)  # float32 sums in another order, through six steps of Adam at 1e-3 to 1e-2

GRPO, PPO = "countdown_tiny/coupled_rhythm", "countdown_tiny/ppo_coupled_rhythm"
DEFAULTS: dict[str, Any] = dict(
    config=GRPO,
    num_generations=4,
    per_device_train_batch_size=8,
    steps_per_generation=4,
    gradient_accumulation_steps=1,
    max_completion_length=24,
    learning_rate=1e-3,
    held_out=0,
    disable_tqdm="true",
    max_steps=6,
    save_steps=3,
)
LORA = dict(use_peft="true", lora_r=4, lora_target_modules="all-linear")
KINDS: dict[str, dict[str, Any]] = {
    "misaligned": dict(max_steps=4),  # the rollout is scored before its first loss
    "aligned": dict(max_steps=4, steps_per_generation=2, gradient_accumulation_steps=2, credit_head_grouping="batch"),
    "lora": dict(LORA, max_steps=4),
    "continuations": dict(config="countdown_tiny/monte_carlo", max_steps=4),
    # KL to a reference that moves, rollouts used twice, accumulation, and all that generates beside training:
    # 20 problems in batches of 7 are three for two processes
    "kl": dict(
        beta=0.1,
        num_iterations=2,
        gradient_accumulation_steps=2,
        sync_ref_model="true",
        ref_model_sync_steps=1,
        ref_model_mixup_alpha=0.5,
        held_out=20,
        eval_batch_size=7,
        eval_strategy="steps",
        eval_steps=2,
        credit_report_steps=3,
        max_steps=5,
    ),
    "ppo": dict(config=PPO, critic_warmup_steps=2, gradient_accumulation_steps=2, critic_learning_rate=1e-2),
    "ppo_lora": dict(
        LORA, config=PPO, critic_warmup_steps=1, critic_lora_r=4, gradient_checkpointing="true", value_clip=0.2,
        max_steps=4,
    ),
}  # fmt: skip


def words_of(folder: Path, **settings: Any) -> list[str]:
    return [f"--{name}={value}" for name, value in {**DEFAULTS, **settings, "output_dir": folder}.items()]


def launched(engine: str, folder: Path, processes: int = 2, **settings: Any) -> Path:
    done = command.run(*words_of(folder, **settings), processes=processes, config=engine)
    said = [line for line in done.stderr.splitlines() if "rlcredit: " in line or "Error: " in line]
    assert done.returncode == 0, said or done.stderr[:3000]
    return folder


def log_of(folder: Path) -> list[dict[str, float]]:
    """What was logged, times left out."""
    timed = ("time", "seconds", "runtime", "per_second")
    return [
        {key: value for key, value in line.items() if not any(word in key for word in timed)}
        for line in command.lines_of(folder)
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The saved policy's, and the critic's."""
    found = {}
    for path in [*folder.glob("*.safetensors"), *folder.glob("critic/*.safetensors")]:
        found |= {f"{path.parent.name if path.parent != folder else ''}/{k}": v for k, v in load_file(path).items()}
    assert found
    return found


@pytest.fixture(scope="module")
def under_ddp(tmp_path_factory):
    """The same run under DDP, made once."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = launched("ddp", tmp_path_factory.mktemp(kind), **KINDS[kind])
        return made[kind]

    return of


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_that_of_ddp(tmp_path, under_ddp, engine, kind):
    plain, sharded = under_ddp(kind), launched(engine, tmp_path, **KINDS[kind])
    logs = log_of(plain), log_of(sharded)
    assert len(logs[0]) == len(logs[1])
    for one, two in zip(*logs, strict=True):
        assert one == pytest.approx(two, rel=CLOSE["rtol"], abs=CLOSE["atol"])
    ours, theirs = weights_of(plain), weights_of(sharded)
    for name in ours.keys() & theirs.keys():  # a tied head may be there twice
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE)
    assert {name.split("/")[0] for name in ours} == {name.split("/")[0] for name in theirs}
    before = load_file(command.ROOT / "recipes/countdown_tiny/policy/model.safetensors")
    if kind not in ("lora", "ppo_lora"):  # the runs moved the policy further than they are apart
        assert max((ours[f"/{k}"] - v).abs().max() for k, v in before.items() if f"/{k}" in ours) > 1e-3
    if KINDS[kind].get("held_out"):
        assert read_accuracies(plain) == read_accuracies(sharded) and read_accuracies(plain)["before"]
        assert (sharded / "reports/step-000003/report.html").is_file()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["misaligned", "kl", "lora", "ppo", "ppo_lora"])
def test_a_run_resumes_bit_for_bit(tmp_path, engine, kind):
    settings = {**KINDS[kind], "max_steps": 6}
    straight = launched(engine, tmp_path / "straight", **settings)
    resumed = tmp_path / "resumed"
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoint-6")
    launched(engine, resumed, **settings, resume_from_checkpoint="latest")
    ours, theirs = weights_of(straight), weights_of(resumed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = log_of(straight), log_of(resumed)
    assert [line for line in logs[0] if line] == [line for line in logs[1] if line]


@pytest.mark.parametrize("engine", ENGINES)
def test_another_launch_does_not_drop_the_optimiser_in_silence(tmp_path, engine):
    settings = dict(max_steps=3, resume_from_checkpoint="latest")
    launched(engine, tmp_path, max_steps=2, save_steps=2)
    other = command.run(*words_of(tmp_path, **settings), processes=2)
    assert other.returncode != 0 and f"was written under {engine.replace('fsdp2', 'fsdp')}, whose" in other.stderr
    alone = command.run(*words_of(tmp_path, **settings), config=engine)
    if engine == "fsdp2":  # one process puts the shards together
        assert alone.returncode == 0 and "written by 2 processes and is resumed by 1" in alone.stderr
    else:
        assert alone.returncode != 0 and "DeepSpeed resumes with as many; add --num_processes 2" in alone.stderr


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_step_that_is_bad_on_one_process_is_dropped(tmp_path, engine, algorithm):
    done = command.run_module("tests.faults.bad_step", tmp_path, algorithm, processes=2, config=engine)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"process{rank}.pt", weights_only=True) for rank in range(2))
    assert one["bad_steps"] == two["bad_steps"] == 1
    for found in (one, two):
        assert all(torch.equal(value, found["skipped"][name]) for name, value in found["before"].items())
        moved = [name for name, value in found["skipped"].items() if (value != found["after"][name]).any()]
        assert len(moved) > len(found["skipped"]) / 2
    assert all(torch.equal(value, two["after"][name]) for name, value in one["after"].items())


@pytest.mark.parametrize("engine", ENGINES)
def test_sigterm_saves_and_the_run_goes_on_from_there(tmp_path, engine):
    process = command.start(*words_of(tmp_path, max_steps=40, save_steps=40), processes=2, config=engine)
    command.wait_for(lambda: command.last_step(tmp_path) >= 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    saved = checkpoints.complete(tmp_path)
    assert len(saved) == 1, err[-3000:]
    assert "stopped by SIGTERM after step" in out
    steps = int(saved[0].name.split("-")[1]) + 1
    launched(engine, tmp_path, max_steps=steps, save_steps=40, resume_from_checkpoint="latest")
    assert command.last_step(tmp_path) == steps


@pytest.mark.parametrize(("process", "size"), [("1", "1000"), ("0", "100000")])  # its own state, files of the engine's
@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_that_cannot_save_ends_the_run(tmp_path, engine, process, size):
    """A file of one process cannot be written: the other must not wait for ever, or be met in another collective."""
    done = command.run_module("tests.faults.full_disk", tmp_path, "stop", process, size, processes=2, config=engine)
    assert f"process {process} stopped: checkpoint-4 could not be saved" in done.stdout, done.stderr[-3000:]
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["checkpoint-2"]


@pytest.mark.parametrize("family", ["gemma3", "llama"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_critic_of_its_own_and_one_without_a_class(tmp_path, engine, family):
    """Gemma 3 has no token-classification class; the llama's critic comes from a folder."""
    policy = tiny.model_of(family, spread=0.15)
    policy.save_pretrained(tmp_path / "policy")
    tiny.tokenizer().save_pretrained(tmp_path / "policy")
    settings = dict(KINDS["ppo"], model_name_or_path=tmp_path / "policy", credit_strategy="uniform", max_steps=4)
    # an untrained policy is never right on Countdown, and a critic would learn nothing
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n} 7 = "}) + "\n" for n in range(64)))
    settings["task"] = "custom"
    settings["task_options"] = json.dumps({"train": str(prompts), "reward": "tests.faults.rewards:digits"})
    if family == "llama":
        settings["critic_model_name_or_path"] = tmp_path / "policy"
    plain, sharded = (launched(name, tmp_path / name, **settings) for name in ("ddp", engine))
    ours, theirs = weights_of(plain), weights_of(sharded)
    for name in (name for name in ours if name.startswith("critic")):
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE)
    for one, two in zip(log_of(plain), log_of(sharded), strict=True):
        assert one == pytest.approx(two, rel=CLOSE["rtol"], abs=CLOSE["atol"])


@pytest.mark.parametrize("kind", ["misaligned", "ppo"])
def test_bf16_autocast_keeps_float32_weights_under_fsdp(tmp_path, kind):
    """DeepSpeed's bf16 needs a GPU."""
    saved = weights_of(launched("fsdp2", tmp_path, **KINDS[kind], bf16="true", use_cpu="true"))
    assert {value.dtype for value in saved.values()} == {torch.float32}
    before = load_file(command.ROOT / "recipes/countdown_tiny/policy/model.safetensors")
    moved = torch.cat([(saved[f"/{name}"] - value).flatten() for name, value in before.items() if f"/{name}" in saved])
    assert (moved != 0).float().mean() > 0.9
