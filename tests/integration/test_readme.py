"""The snippets of README and docs run as they stand; only the model is a tiny one, since there is no hub in a test."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rlcredit.cli import main
from tests import policies, tiny

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MODEL = "Qwen/Qwen3-0.6B"


def snippets(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def snippet(language: str, mark: str, page: str = "README.md") -> str:
    """The one snippet that holds the mark."""
    (text,) = [text for text in snippets(language, page) if mark in text]
    return text


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of a user's own, where the README's files are and a tiny chat model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in snippets("python"):
        if named := re.match(r"# (my_\w+\.py)", text):
            (tmp_path / named[1]).write_text(text)
            monkeypatch.delitem(sys.modules, named[1][:-3], raising=False)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = policies.CHAT
    tokenizer.save_pretrained(tmp_path / "model")
    tiny.model_of("llama", spread=0.15).save_pretrained(tmp_path / "model")
    rows = [{"question": f"{n} + 1 = ?", "answer": n + 1} for n in range(16)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_every_python_and_yaml_snippet_is_tried():
    assert len(snippets("python")) == 2 and len(snippets("yaml")) == 1


def test_the_recipe_trains_with_the_reward_beside_it(place, capsys):
    recipe = snippet("yaml", "task: custom").replace(MODEL, "model")
    (place / "recipe.yaml").write_text(recipe)
    words = ["--max_steps=2", "--max_completion_length=8", "--credit_fai_horizon", "1", "4", "--use_cpu", "true"]
    words += ["--bf16=false", "--report_to=none", "--disable_tqdm=true", "--logging_steps=1"]
    assert main(["train", "--config", "recipe.yaml", *words]) == 1  # random weights give no right answer
    ended = capsys.readouterr()
    assert "coupled_rhythm: 2 steps" in ended.out
    assert ended.err.strip().splitlines()[-1].startswith("rlcredit: nothing was learned: at every step")
    lines = [json.loads(line) for line in (place / "outputs/mine/log.jsonl").read_text().splitlines()]
    assert sum(line.get("reward/unscored", 0) for line in lines) == 0 and any("reward" in line for line in lines)


def test_the_trainer_trains(place):
    settings = (
        "max_steps=1, max_completion_length=8, use_cpu=True, bf16=False, report_to=[], credit_fai_horizon=[1, 4], "
    )
    code = snippet("python", "CreditGRPOTrainer(").replace(MODEL, "model")
    code = code.replace("CreditGRPOConfig(output_dir", f"CreditGRPOConfig({settings}output_dir")
    names = {"dataset": Dataset.from_dict({"prompt": ["1+1="] * 16, "answer": ["2"] * 16})}
    exec(code, names)
    assert names["trainer"].state.global_step == 1


def test_the_signals_are_read(place):
    ids = torch.randint(2, 40, (2, 24))
    response = torch.ones_like(ids)
    response[:, :6] = 0
    names = {"model": tiny.model_of("llama"), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    names["response_mask"] = response
    exec(snippet("python", "assign_credit(", "docs/analysis.md"), names)
    assert names["signals"].waad.shape == ids.shape and 1 < names["credit"].weights.mean() < 1.5


SHORTER = {"train": ["--max_steps", "4", "--held_out", "32"], "evaluate": ["--limit", "16"]}


@pytest.mark.slow
def test_the_commands_follow_each_other(tmp_path):
    """Those of the first screen, in order, on shorter runs; the first run is that of `make train`."""
    recipe = ["--config", "countdown_tiny/coupled_rhythm", "--output_dir", "outputs/countdown_tiny/coupled_rhythm"]
    (block,) = [text for text in snippets("") if text.startswith(". .venv/bin/activate")]
    lines = [shlex.join(["rlcredit", "train", *recipe]), *block.splitlines()[1:]]
    assert len(lines) == 7
    for line in lines:
        command, *words = shlex.split(line)[1:]
        program = [sys.executable, "-m", "rlcredit", command, *words, *SHORTER.get(command, [])]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=variables)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if command == "compare":
            assert "B - A" in done.stdout and "problems, paired" in done.stdout
    assert (tmp_path / "outputs/analyze/coupled_rhythm/report.html").is_file()


def test_an_adapter_is_merged(place, monkeypatch):
    policy = get_peft_model(
        tiny.model_of("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    policy.base_model.model.config._name_or_path = str(place / "model")
    policy.peft_config["default"].base_model_name_or_path = str(place / "model")
    policy.save_pretrained(place / "outputs/mine")
    exec(snippet("python", "merge_and_unload", "docs/faq.md"), {})
    merged = AutoModelForCausalLM.from_pretrained(place / "outputs/merged")
    ids, layer = torch.tensor([[3, 4, 5]]), "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged.state_dict()[layer], tiny.model_of("llama", spread=0.15).state_dict()[layer])
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "model"), place / "outputs/mine")
    torch.testing.assert_close(merged(ids).logits, whole(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_readme_is_short_and_names_every_page():
    assert len(README.splitlines()) < 150
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"\((docs/[\w-]+\.md)", README)) == set()


def test_pages_that_scripts_write_are_as_they_write_them(tmp_path):
    for script, page, words in (
        ("draw_concepts.py", "docs/pictures/concepts.svg", []),
        ("draw_prediction.py", "docs/pictures/prediction.png", []),
        ("write_api.py", "docs/api.md", []),
        ("write_notebook.py", "docs/tutorial.ipynb", ["docs/tutorial.md"]),
    ):
        written = tmp_path / Path(page).name
        subprocess.run([sys.executable, ROOT / "scripts" / script, *words, written], check=True, cwd=ROOT)
        assert written.read_bytes() == (ROOT / page).read_bytes(), f"python scripts/{script} {page}"
