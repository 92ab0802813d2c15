"""Vision-language policies on text alone: the plan, an evaluation, an analysis, and a step of training with credit."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3_5Config,
    T5Config,
)

from rlcredit.attention import analyze
from rlcredit.cli import main
from rlcredit.credit import CreditArguments
from rlcredit.errors import InputError
from rlcredit.models.loading import auto_class
from tests import tiny
from tests.families.tiny_config import shrunk
from tests.policies import CHAT, save_rows

QWEN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
FAMILIES = {"qwen2_5_vl": QWEN, "qwen3_vl": QWEN, "idefics3": {}, "smolvlm": {}}
OPTIONS = '{"numbers": [3], "max_number": 12, "max_target": 60, "prompt_style": "compact"}'
PROBLEMS = ["--task", "countdown", "--task_options", OPTIONS]
# The chat template of SmolVLM's tokenizer: what a message says is a list of parts.
PARTS_ONLY = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def vision_language(name: str) -> PreTrainedModel:
    tokens = {"vocab_size": len(tiny.WORDS), "max_position_embeddings": 512, "eos_token_id": 1, "pad_token_id": 0}
    config = shrunk(CONFIG_MAPPING[name], {"text_config": {**tokens, "bos_token_id": None, **FAMILIES[name]}})
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)


def saved(name: str, folder: Path, template: str = CHAT) -> str:
    vision_language(name).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=FAMILIES)
def policy(request, tmp_path) -> str:
    return saved(request.param, tmp_path / "policy")


def train_words(policy: str, folder: Path) -> list[str]:
    words = ["train", "--config=countdown_tiny/coupled_rhythm", f"--model_name_or_path={policy}", "--held_out=0"]
    words += ["--num_generations=4", "--per_device_train_batch_size=4", "--gradient_accumulation_steps=1"]
    words += ["--steps_per_generation=1", "--max_completion_length=24", "--max_steps=1", "--disable_tqdm=true"]
    words += ["--reward_funcs=tests.policies.distinct"]  # random weights never solve a problem
    return [*words, f"--output_dir={folder / 'run'}"]


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_dry_run_counts_the_parameters(policy, tmp_path, capsys):
    assert main([*train_words(policy, tmp_path), "--dry_run=true"]) == 0
    count = sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(policy).parameters())
    said = capsys.readouterr().out
    assert f"{policy}: {count:,} parameters, all trained" in said
    assert "reads layers 2, 3, 4 of 6" in said


def test_it_is_evaluated(policy, tmp_path):
    words = ["--model", policy, *PROBLEMS, "--limit", "4", "--max_new_tokens", "8", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 0 < metrics["estimates"]["length"]["value"] <= 8


def test_it_is_analysed(policy, tmp_path):
    words = ["--model", policy, *PROBLEMS, "--samples", "1", "--max_new_tokens", "24", "--output", str(tmp_path)]
    assert main(["analyze", *words, "--perturbed", "0"]) == 0
    assert (tmp_path / "report.html").is_file()


def test_a_step_is_trained_with_credit(policy, tmp_path):
    assert main(train_words(policy, tmp_path)) == 0
    line = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])
    assert 1 < line["credit/weight_mean"] <= 1.5 and line["credit/rows_skipped"] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_signals_are_those_of_its_own_maps_whatever_the_padding(name):
    model = vision_language(name).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(2, len(tiny.WORDS), (1, 24), generator=torch.Generator().manual_seed(0))
    real, response = torch.ones_like(ids), torch.arange(24)[None] >= 8
    args = CreditArguments(credit_layers=[2], credit_waad_window=4, credit_fai_horizon=[2, 10], credit_heads="all")
    plain = analyze(model, ids, real, response, args)
    with torch.no_grad():
        (map_BHNN,) = [model(ids, attention_mask=real, output_attentions=True).attentions[2]]
    away_NN = (torch.arange(24)[:, None] - torch.arange(24)).clamp(min=0)
    waad_N = (map_BHNN.mean(1)[0] * away_NN.clamp(max=4)).sum(-1)
    torch.testing.assert_close(plain.waad[0, 8:], waad_N[8:], atol=1e-5, rtol=1e-5)
    left = [torch.nn.functional.pad(value, (5, 0)) for value in (ids, real, response)]
    padded = analyze(model, *left, args)
    torch.testing.assert_close(padded.waad[0, 13:], plain.waad[0, 8:], atol=1e-4, rtol=1e-4)


def test_adapters_on_it_are_evaluated_with_them(tmp_path):
    policy = saved("qwen2_5_vl", tmp_path / "policy")
    base = AutoModelForImageTextToText.from_pretrained(policy)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(base, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    completions = {}
    for name in ("policy", "adapter", "merged"):
        tiny.tokenizer().save_pretrained(tmp_path / name)
        words = ["--model", str(tmp_path / name), *PROBLEMS, "--limit", "4", "--max_new_tokens", "8"]
        assert main(["evaluate", *words, "--output", str(tmp_path / f"of-{name}")]) == 0
        rows = pq.read_table(tmp_path / f"of-{name}/samples.parquet").to_pylist()
        completions[name] = [row["completion"] for row in rows]
    assert completions["adapter"] == completions["merged"] != completions["policy"]


def test_a_chat_template_for_processors_is_refused_rather_than_dropping_the_question(tmp_path, capsys):
    policy = saved("smolvlm", tmp_path / "policy", PARTS_ONLY)
    rows = save_rows(tmp_path / "rows.jsonl", [{"question": "what is 1 and 2?", "answer": "3"}])
    words = ["--model", policy, "--task", "gsm8k", "--data", rows, "--limit", "1", "--max_new_tokens", "8"]
    assert "chat template leaves out what messages say" in refused(capsys, "evaluate", *words)


def test_the_auto_class_is_that_of_the_model_which_the_configuration_names():
    assert auto_class(LlamaConfig(), "model") is AutoModelForCausalLM
    assert auto_class(Qwen2_5_VLConfig(), "model") is AutoModelForImageTextToText
    both = Qwen3_5Config()
    assert auto_class(both, "model") is AutoModelForCausalLM
    both.architectures = ["Qwen3_5ForConditionalGeneration"]
    assert auto_class(both, "model") is AutoModelForImageTextToText
    with pytest.raises(InputError, match="critic: a model of type 't5' is not a decoder-only language model"):
        auto_class(T5Config(), "critic")


def test_what_is_no_policy_is_told_alike_wherever_it_is_named(tmp_path, capsys):
    """One function reads what describes a model, for the policy, for PPO's critic and for --model."""
    policy = saved("qwen2_5_vl", tmp_path / "policy")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "nowhere"}')
    adapter, nothing = str(tmp_path / "adapter"), str(tmp_path / "nothing")
    words = train_words(policy, tmp_path)
    critic = [*words, "--algorithm=ppo", "--critic_model_name_or_path"]
    said = refused(capsys, *critic, adapter)
    assert "critic_model_name_or_path" in said and "holds an adapter, not a model" in said
    assert "holds an adapter, not a model" in refused(capsys, *train_words(adapter, tmp_path))
    for key, line in {
        "critic_model_name_or_path": [*critic, nothing],
        "model_name_or_path": train_words(nothing, tmp_path),
        "model": ["evaluate", "--model", nothing, *PROBLEMS],
    }.items():
        assert f"{key}: {nothing!r} is neither a folder with a model nor a model that can be" in refused(capsys, *line)


def test_what_is_no_decoder_is_refused_before_weights_load(tmp_path, capsys):
    T5Config(vocab_size=len(tiny.WORDS)).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    reason = "a model of type 't5' is not a decoder-only language model; write one that is"
    uniform = [*train_words(str(tmp_path), tmp_path), "--credit_strategy=uniform"]
    assert f"model_name_or_path: {reason}" in refused(capsys, *uniform)
    assert f"model: {reason}" in refused(capsys, "evaluate", "--model", str(tmp_path), *PROBLEMS)
