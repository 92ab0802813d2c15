"""Scores of a process reward model as rewards of steps: against passes over one text at a time."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, LlamaConfig

from rlcredit.cli import main
from rlcredit.errors import InputError
from rlcredit.rewards.process_model import ProcessReward
from tests import tiny

PROMPTS, TEXTS = ["ab1", "b", "a"], ["1+1=2;2-1=1", "7", " ;"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"


def saved(folder, kind, labels, **settings):
    torch.manual_seed(0)
    model = kind.from_config(LlamaConfig(**tiny.SHAPE, num_labels=labels, **settings))
    torch.nn.init.normal_(model.score.weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(folder)
    return model.eval(), lambda text: tokenizer(text)["input_ids"]


def score_of(logits):
    return logits[0].item() if len(logits) == 1 else logits.softmax(-1)[1].item()


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_of_tokens_are_read_at_separators(tmp_path, labels):
    model, encode = saved(tmp_path, AutoModelForTokenClassification, labels)
    found = ProcessReward(str(tmp_path), separator=";", batch_size=2)(PROMPTS, TEXTS)
    with torch.no_grad():
        first, second, third = (
            model(torch.tensor([encode(text)])).logits[0, -1] for text in ("ab11+1=2;", "ab11+1=2;2-1=1;", "b7;")
        )
    wanted = [[(0, 5, score_of(first)), (6, 11, score_of(second))], [(0, 1, score_of(third))], []]
    assert [[step[:2] for step in steps] for steps in found] == [[step[:2] for step in steps] for steps in wanted]
    for steps, others in zip(found, wanted, strict=True):
        assert [score for *_, score in steps] == pytest.approx([score for *_, score in others], abs=1e-5)
    assert len({round(score, 3) for steps in found for *_, score in steps}) == 3


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_of_sequences_are_those_of_the_text_so_far(tmp_path, labels):
    model, encode = saved(tmp_path, AutoModelForSequenceClassification, labels)
    found = ProcessReward(str(tmp_path), separator=";")(PROMPTS, TEXTS)
    with torch.no_grad():
        wanted = [
            score_of(model(torch.tensor([encode(text)])).logits[0]) for text in ("ab11+1=2", "ab11+1=2;2-1=1", "b7")
        ]
    scores = [score for steps in found for *_, score in steps]
    assert scores == pytest.approx(wanted, abs=1e-5) and len({round(score, 3) for score in scores}) == 3


def test_a_conversation_is_rendered_by_the_models_template(tmp_path):
    saved(tmp_path, AutoModelForTokenClassification, 2)
    talk = [{"role": "user", "content": "ab"}]
    said = [{"role": "assistant", "content": "1;2"}]
    with pytest.raises(InputError, match="has no chat template for prompts that are conversations"):
        ProcessReward(str(tmp_path), separator=";")([talk], [said])
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE.replace(":", "=")
    tokenizer.save_pretrained(tmp_path)
    reward = ProcessReward(str(tmp_path), separator=";")
    assert reward([talk], [said]) == reward(["ab="], ["1;2"])


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        (
            AutoModelForTokenClassification,
            3,
            "is a LlamaForTokenClassification of 3 labels; write a model for",
        ),
        (None, 2, "is a LlamaForCausalLM of 2 labels; write a model for token or sequence classification with one"),
    ],
)
def test_a_model_with_no_such_head_is_refused(tmp_path, kind, labels, said):
    if kind is None:
        tiny.model_of("llama").save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
    else:
        saved(tmp_path, kind, labels)
    with pytest.raises(InputError, match=said):
        ProcessReward(str(tmp_path))


def test_a_recipe_names_it(tmp_path, capsys):
    words = ["train", "--config", "countdown_tiny/process", "--output_dir", str(tmp_path / "run"), "--held_out=0"]
    words += ["--process_reward_separator", " "]
    assert main([*words, "--process_reward_model", str(tmp_path / "none"), "--dry_run"]) == 2
    assert "process_reward_model: " in capsys.readouterr().err
    saved(tmp_path / "model", AutoModelForTokenClassification, 1)
    words += ["--process_reward_model", str(tmp_path / "model"), "--max_steps=2", "--save_strategy=no"]
    assert main([*words, "--disable_tqdm=true"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any(line.get("rewards/process_reward/std", 0) > 0 for line in log)
