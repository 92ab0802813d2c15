"""Files from elsewhere, torn or made to do harm: one line that names the file, and no code of theirs ever runs."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch

from rlcredit.cli import main
from rlcredit.config import recipes_root
from rlcredit.errors import InputError
from rlcredit.models.weight_files import refuse_broken
from rlcredit.trainers import checkpoints

POLICY = recipes_root() / "countdown_tiny/policy"
RECIPE = ["train", "--config", "countdown_tiny/ppo_uniform", "--num_generations=4", "--per_device_train_batch_size=8"]
RECIPE += ["--steps_per_generation=1", "--held_out=0", "--save_steps=1", "--critic_warmup_steps=0"]
RECIPE += ["--disable_tqdm=true"]
NONSENSE = [b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'{"step": 1' + b"0" * 400 + b"}", b"null"]


class Harm:
    """Unpickled, it makes its canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def plain_pickle(canary: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(Harm(canary)))


def zip_of_torch(canary: Path, path: Path) -> None:
    torch.save({"state": Harm(canary)}, path)


def torn(canary: Path, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and error.startswith("rlcredit: ") and len(error) < 1_000
    return error


def test_the_canary_sings(tmp_path):
    for number, harm in enumerate((plain_pickle, zip_of_torch)):
        harm(tmp_path / f"canary{number}", tmp_path / "file")
        with contextlib.suppress(RuntimeError):
            torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / f"canary{number}").exists()


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two steps that may be gone on with."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert main([*RECIPE, "--max_steps=2", "--output_dir", str(folder)]) == 0
    return folder


STATES = ["rlcredit-process0.pt", "rlcredit-critic.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("harm", [plain_pickle, pytest.param(zip_of_torch, marks=pytest.mark.thorough), torn])
@pytest.mark.parametrize("name", [*STATES, "model.safetensors", "trainer_state.json", "config.json"])
def test_a_checkpoint(run, tmp_path, capsys, name, harm):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    harm(tmp_path / "canary", copy / "checkpoint-2" / name)
    checkpoints.mark_complete(copy / "checkpoint-2")  # whoever replaces a file can list it too
    error = refused(capsys, *RECIPE, "--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint", "latest")
    assert str(copy / "checkpoint-2" / name) in error and f"an earlier checkpoint, {copy / 'checkpoint-1'}" in error
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["global_step2/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/.metadata"])
def test_folders_below_a_checkpoint(run, tmp_path, capsys, name):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    path = copy / "checkpoint-2" / name
    path.parent.mkdir()
    plain_pickle(tmp_path / "canary", path)
    checkpoints.mark_complete(copy / "checkpoint-2")
    error = refused(capsys, *RECIPE, "--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint", "latest")
    assert str(path) in error and f"an earlier checkpoint, {copy / 'checkpoint-1'}" in error
    assert not (tmp_path / "canary").exists()


def test_the_best_checkpoint(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    path = tmp_path / "best/global_step1/mp_rank_00_model_states.pt"
    path.parent.mkdir(parents=True)
    plain_pickle(tmp_path / "canary", path)
    state = json.loads((copy / "checkpoint-2/trainer_state.json").read_text())
    state["best_model_checkpoint"] = str(tmp_path / "best")
    (copy / "checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    checkpoints.mark_complete(copy / "checkpoint-2")
    words = [*RECIPE, "--held_out=4", "--eval_strategy=steps", "--eval_steps=1", "--load_best_model_at_end=true"]
    words += ["--metric_for_best_model=accuracy", "--max_steps=3", "--output_dir", str(copy)]
    words = [word for word in words if word != "--held_out=0"]
    assert str(path) in refused(capsys, *words, "--resume_from_checkpoint", "latest")
    assert not (tmp_path / "canary").exists()


def test_a_file_that_is_not_as_listed(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    torn(tmp_path / "canary", copy / "checkpoint-2/optimizer.pt")
    words = [*RECIPE, "--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint"]
    error = refused(capsys, *words, str(copy / "checkpoint-2"))
    assert f"{copy / 'checkpoint-2'} is no complete checkpoint (optimizer.pt is not whole)" in error
    assert main([*words, "latest", "--dry_run"]) == 0
    assert f"{copy / 'checkpoint-2'}: passed over, optimizer.pt is not whole" in capsys.readouterr().out


def test_a_state_of_something_else(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    torch.save({"a": torch.zeros(2)}, copy / "checkpoint-2/rlcredit-process0.pt")
    checkpoints.mark_complete(copy / "checkpoint-2")
    words = [*RECIPE, "--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint", "latest"]
    assert "rlcredit-process0.pt is no state of a run" in refused(capsys, *words)


def test_what_nothing_reads_is_not_loaded(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    plain_pickle(tmp_path / "canary", copy / "checkpoint-2/training_args.bin")
    checkpoints.mark_complete(copy / "checkpoint-2")
    words = ["--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint", "latest"]
    assert main([*RECIPE, *words]) == 0
    assert not (tmp_path / "canary").exists() and (copy / "checkpoint-3").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("content", NONSENSE[1:])
def test_accuracies_of_a_run_that_goes_on(run, tmp_path, capsys, content):
    copy = Path(shutil.copytree(run, tmp_path / "out"))
    (copy / "accuracy.json").write_bytes(content)
    words = ["--max_steps=3", "--output_dir", str(copy), "--resume_from_checkpoint", "latest"]
    assert str(copy / "accuracy.json") in refused(capsys, *RECIPE, *words)


# ---- policies -----------------------------------------------------------------------------------------------------


def pickled_weights(folder: Path, canary: Path) -> str:
    (folder / "model.safetensors").unlink()
    plain_pickle(canary, folder / "pytorch_model.bin")
    return "pytorch_model.bin"


def torn_weights(folder: Path, canary: Path) -> str:
    torn(canary, folder / "model.safetensors")
    return "model.safetensors"


def code_of_its_own(folder: Path, canary: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(canary)!r}, 'w')\n")
    return "custom code"


def code_of_a_tokenizer(folder: Path, canary: Path) -> str:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(canary)!r}, 'w')\n")
    return ""


def torn_tokenizer(folder: Path, canary: Path) -> str:
    torn(canary, folder / "tokenizer.json")
    return "tokenizer.json"


def odd_tokenizer(folder: Path, canary: Path) -> str:
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": [1]}}')
    return str(folder)


def odd_config(folder: Path, canary: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": "six"}')
    return str(folder)


POLICIES = [pickled_weights, torn_weights, code_of_its_own, torn_tokenizer, odd_tokenizer, odd_config]


@pytest.mark.parametrize("harm", POLICIES)
@pytest.mark.parametrize(
    "command",
    ["train", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("critic", "evaluate", "analyze"))],
)
def test_a_policy(tmp_path, capsys, harm, command):
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    named = harm(folder, tmp_path / "canary")
    train = ["train", "--config", "countdown_tiny/ppo_uniform", "--output_dir", str(tmp_path / "out")]
    of_model = ["--model", str(folder), "--task", "countdown", "--output", str(tmp_path / "out")]
    words = {
        "train": [*train, "--model_name_or_path", str(folder)],
        "critic": [*train, "--critic_model_name_or_path", str(folder)],
    }.get(command, [command, *of_model])
    error = refused(capsys, *words)
    assert named in error and str(folder) in error
    assert not (tmp_path / "canary").exists() and not (tmp_path / "out").exists()


def test_a_tokenizer_with_code_of_its_own_never_runs_it(tmp_path, capsys):
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    code_of_a_tokenizer(folder, tmp_path / "canary")
    words = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out"), "--dry_run"]
    assert main(["train", "--config", "countdown_tiny/uniform", *words]) in (0, 2)
    assert not (tmp_path / "canary").exists()


def test_what_is_not_loaded_does_not_matter(tmp_path):
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    for name in ("optimizer.pt", "pytorch_model.bin", "training_args.bin", "notes.json"):
        plain_pickle(tmp_path / "canary", folder / name)
    refuse_broken(folder, "model", "")
    with pytest.raises(InputError, match=r"optimizer\.pt"):
        refuse_broken(folder, "model", "", states=True)


def test_weights_of_an_old_format_are_taken(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refuse_broken(tmp_path, "model", "")
    refuse_broken("a/model-of-the-hub", "model", "")


# ---- GGUF ---------------------------------------------------------------------------------------------------------


def gguf(tensors: int, entries: int, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body


def entry(kind: int, value: bytes, key: bytes = b"a") -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


HUGE = 2**60
GGUF = {
    "the magic alone": b"GGUF",
    "half a header": gguf(1, 1)[:15],
    "random bytes": b"GGUF" + bytes((7 * n) % 256 for n in range(5_000)),
    "entries": gguf(0, HUGE),
    "tensors": gguf(HUGE, 0),
    "a key": gguf(0, 1, struct.pack("<Q", HUGE)),
    "a text": gguf(0, 1, entry(8, struct.pack("<Q", 2**64 - 1))),
    "an array of bytes": gguf(0, 1, entry(9, struct.pack("<IQ", 0, HUGE))),
    "an array of texts": gguf(0, 1, entry(9, struct.pack("<IQ", 8, HUGE))),
    "arrays of arrays": gguf(0, 1, entry(9, struct.pack("<IQ", 9, 1) * 5_000)),
    "an unknown type": gguf(0, 1, entry(77, b"aaaaaaaa")),
    "nothing": gguf(0, 0),
    "a tensor": gguf(1, 0, struct.pack("<Q1sIQIQ", 1, b"t", 1, HUGE, 0, 0)),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file(tmp_path, capsys, name):
    (tmp_path / "a.gguf").write_bytes(GGUF[name])
    error = refused(capsys, "prepare-model", str(tmp_path / "a.gguf"), str(tmp_path / "out"))
    assert str(tmp_path / "a.gguf") in error and not (tmp_path / "out").exists()


# ---- what rlcredit itself wrote -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", NONSENSE)
@pytest.mark.parametrize("name", ["log.jsonl", "accuracy.json", "run.json", "completions/completions_00001.parquet"])
def test_the_files_of_a_run(tmp_path, capsys, name, content):
    (tmp_path / "completions").mkdir()
    (tmp_path / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.5}\n')
    (tmp_path / name).write_bytes(content)
    code = main(["report", str(tmp_path)])
    error = capsys.readouterr().err
    assert code == 0 or (code == 2 and str(tmp_path / name) in error and error.count("\n") == 1)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    assert main([*evaluate(folder)]) == 0
    return folder


def evaluate(folder: Path) -> list[str]:
    options = '{"numbers": [3], "max_number": 12, "num_train": 1, "num_test": 4, "prompt_style": "compact"}'
    words = ["evaluate", "--model", "countdown_tiny/policy", "--task", "countdown", "--task_options", options]
    return [*words, "--max_new_tokens=8", "--output", str(folder)]


@pytest.mark.parametrize("content", NONSENSE)
@pytest.mark.parametrize("name", ["settings.json", "samples.parquet"])
def test_the_files_of_an_evaluation(evaluation, tmp_path, capsys, name, content):
    copy = Path(shutil.copytree(evaluation, tmp_path / "out"))
    (copy / name).write_bytes(content)
    if content != b"null":  # settings that say nothing are written anew
        assert str(copy) in refused(capsys, *evaluate(copy))
    if name == "samples.parquet" or not content.startswith(b'{"'):
        (copy / name).write_bytes(content)
        assert str(copy) in refused(capsys, "compare", str(evaluation), str(copy))
