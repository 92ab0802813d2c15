"""What the identity of an evaluation holds: each change that can move a figure changes it, and is named."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlcredit.cli import main
from rlcredit.config import recipes_root
from rlcredit.evaluation import identity as identities
from tests.policies import CHAT, save_rows

REWARD = "def score(completions, **columns):\n    return [float(helper.right(text)) for text in completions]\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a policy, rows, and a reward that a module beside it helps."""
    shutil.copytree(recipes_root() / "countdown_tiny/policy", tmp_path / "policy")
    save_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} 2 -> {n + 2}:", "answer": str(n)} for n in range(1, 7)])
    (tmp_path / "graded_here.py").write_text("import helped_here as helper\n" + REWARD)
    (tmp_path / "helped_here.py").write_text("def right(text):\n    return '1' in text\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("graded_here", "helped_here"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def words(home: Path, *more: str, **options: str) -> list[str]:
    given = options or {"check": "exact"}
    model = ["--model", str(home / "policy"), "--task", "custom", "--data", str(home / "rows.jsonl")]
    return ["evaluate", *model, "--task_options", json.dumps(given), "--max_new_tokens", "8", *more]


def identity_of(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main([*argv, "--identity"]) == 0
    return json.loads(capsys.readouterr().out)


def edit(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}))


CHANGES = {
    "generation": (
        lambda home: edit(home / "policy/generation_config.json", top_k=3),
        ["files.generation_config.json"],
    ),
    "tokenizer": (lambda home: edit(home / "policy/tokenizer_config.json", seen=1), ["files.tokenizer_config.json"]),
    "template": (lambda home: (home / "policy/chat_template.jinja").write_text(CHAT), ["files.chat_template.jinja"]),
    "config": (lambda home: edit(home / "policy/config.json", rms_norm_eps=1e-3), ["files.config.json"]),
    "reward": (lambda home: (home / "graded_here.py").open("a").write("#"), ["code.graded_here"]),
    "beside": (lambda home: (home / "helped_here.py").open("a").write("#"), ["code.helped_here"]),
    "answers": (lambda home: save_rows(home / "rows.jsonl", [{"prompt": "a", "answer": "1"}]), ["data_sha256"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_the_identity(home, capsys, name):
    change, keys = CHANGES[name]
    argv = words(home, reward="graded_here:score")
    before = identity_of(capsys, *argv)
    assert {"code.graded_here", "code.helped_here", "code.rlcredit.tasks", "versions.math-verify"} <= before.keys()
    assert before["files.model.safetensors"] and before == identity_of(capsys, *argv)
    change(home)
    assert set(keys) <= identities.differences(before, identity_of(capsys, *argv)).keys()


def test_another_checker_is_refused_where_the_figures_of_the_first_are(home, capsys):
    output = ["--output", str(home / "out")]
    assert main(words(home, *output, check="math")) == 0
    capsys.readouterr()
    for options in ({"check": "exact"}, {"reward": "graded_here:score"}):
        assert main(words(home, *output, **options)) == 2
        said = capsys.readouterr().err.strip()
        assert "task_options.check 'math' instead of" in said and "--overwrite true" in said
    assert main(words(home, *output, check="exact")) == 2
    assert main(words(home, *output, "--overwrite", "true", check="exact")) == 0
    stored = json.loads((home / "out/metrics.json").read_text())["settings"]
    assert stored == identity_of(capsys, *words(home, check="exact"))


def test_the_base_under_an_adapter_belongs_to_the_identity(home, capsys):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(home / "policy"), LoraConfig(r=2, target_modules="all-linear")
    )
    adapted.save_pretrained(home / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(home / "policy" / name, home / "adapter")
    argv = words(home, "--model", str(home / "adapter"))
    argv = [word for place, word in enumerate(argv) if place not in (1, 2)]
    before = identity_of(capsys, *argv)
    base = AutoModelForCausalLM.from_pretrained(home / "policy")
    base.lm_head.weight.data.mul_(2)
    base.save_pretrained(home / "policy")
    differing = identities.differences(before, identity_of(capsys, *argv))
    assert "base_files.model.safetensors" in differing and not any(key.startswith("files.") for key in differing)


def test_compare_names_what_differs_beyond_the_policy(home, capsys):
    shutil.copytree(home / "policy", home / "other")
    edit(home / "other/config.json", rms_norm_eps=1e-3)
    assert main(words(home, "--output", str(home / "a"), check="math")) == 0
    argv = words(home, "--output", str(home / "b"), check="exact")
    argv[2] = str(home / "other")
    assert main(argv) == 0
    capsys.readouterr()
    assert main(["compare", str(home / "a"), str(home / "b")]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ["note: task_options.check differs: math and exact"]


def test_a_reward_without_answers_has_no_majority(home, capsys):
    more = ["--samples", "2", "--temperature", "1"]
    for output, options, there in (("a", {"reward": "graded_here:score"}, False), ("b", {"check": "exact"}, True)):
        assert main(words(home, *more, "--output", str(home / output), **options)) == 0
        estimates = json.loads((home / output / "metrics.json").read_text())["estimates"]
        assert ("maj@2" in estimates) is there and "pass@2" in estimates


def test_large_files_have_a_digest_of_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(identities, "WHOLE", 100)
    monkeypatch.setattr(identities, "PART", 40)
    file = tmp_path / "weights.safetensors"
    digests = set()
    for content in (b"a" * 120, b"b" + b"a" * 119, b"a" * 119 + b"b", b"a" * 121, b"a" * 90, b"a" * 45 + b"b" * 45):
        file.write_bytes(content)
        digests.add(identities.file_digest(file))
    assert len(digests) == 6


def test_chat_template_kwargs_reach_the_plan_the_length_checks_and_the_evaluation(home, tmp_path, capsys):
    template = "{{ messages[0].content }}{% if enable_thinking is false %}" + "1 " * 30 + "{% endif %}"
    (home / "policy/chat_template.jinja").write_text(template)
    told = '{"enable_thinking": false}'
    save_rows(home / "rows.jsonl", [{"prompt": [{"role": "user", "content": "1 2"}], "answer": "3"}] * 8)
    options = {"train": str(home / "rows.jsonl"), "check": "exact"}
    argv = ["train", "--task=custom", "--task_options", json.dumps(options), f"--model_name_or_path={home / 'policy'}"]
    argv += ["--dry_run", f"--output_dir={tmp_path / 'out'}", "--num_generations=4", "--max_steps=1"]
    argv += ["--per_device_train_batch_size=4", "--report_to=none", "--use_cpu=true"]
    argv += ["--bf16=false"]
    lengths = []
    for more in ([], [f"--chat_template_kwargs={told}"]):
        capsys.readouterr()
        assert main([*argv, *more, "--max_completion_length=16"]) == 0
        lengths.append(int(re.search(r"prompts of (\d+) to", capsys.readouterr().out)[1]))
    assert lengths[1] >= lengths[0] + 30
    context = json.loads((home / "policy/config.json").read_text())["max_position_embeddings"]
    edge = f"--max_completion_length={context - lengths[0]}"
    assert main([*argv, edge]) == 0
    assert main([*argv, edge, f"--chat_template_kwargs={told}"]) == 2
    assert f"a prompt of {lengths[1]} tokens" in capsys.readouterr().err
    plain, changed = (identity_of(capsys, *words(home, *more)) for more in ([], ["--chat_template_kwargs", told]))
    differing = identities.differences(plain, changed)
    assert differing.keys() == {"chat_template_kwargs.enable_thinking", "prompts_sha256"}
