"""Reward functions by the names that TRL's script takes."""

from __future__ import annotations

import ast
import copy
import inspect
import sys

import pytest
import trl.scripts.grpo
from transformers import AutoModelForSequenceClassification

from rlcredit.errors import InputError
from rlcredit.rewards.named import OPEN_R1, TRL_REWARDS, check_reward_model, named_rewards
from tests import tiny


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("def short(completions, **kwargs):\n    return [0.0]\n\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


def test_names_dotted_paths_and_colons():
    functions = named_rewards(["think_format_reward", "own_rewards.short", "own_rewards:short"])
    assert functions[0] is trl.rewards.think_format_reward
    assert functions[1] is functions[2] and functions[1].__name__ == "short"


def test_trls_names_mean_what_its_script_means():
    """The registry inside `main` of trl/scripts/grpo.py, read from its source."""
    tree = ast.parse(inspect.getsource(trl.scripts.grpo.main))
    (registry,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and _is(node)]
    names = [key.value for key in registry.keys]
    assert names == list(TRL_REWARDS)
    (overlong,) = [value for value in registry.values if isinstance(value, ast.Call)]
    settings = {word.arg: word.value.value for word in overlong.keywords}
    made = TRL_REWARDS["get_soft_overlong_punishment"]
    assert settings == {name: getattr(made, name) for name in ("max_completion_len", "soft_punish_cache")}


def _is(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "reward_funcs_registry"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("think_format", "did you mean think_format_reward?"),
        ("zzz", "write one of accuracy_reward, reasoning_accuracy_reward"),
        ("accuracy", "is open-r1's name; write accuracy_reward"),
        ("tag_count", "write open_r1.rewards.tag_count_reward where open-r1 is installed"),
        ("own_rewards.shrt", "did you mean short?"),
        ("own_reward.short", "there is no module own_reward"),
        ("own_rewards.number", "is not a function"),
    ],
)
def test_names_that_stand_for_nothing(name, said):
    with pytest.raises(InputError) as refused:
        named_rewards(["accuracy_reward", name])
    assert str(refused.value).startswith("reward_funcs: ") and said in str(refused.value)


def test_open_r1s_names_are_none_of_trls():
    assert OPEN_R1.keys().isdisjoint(TRL_REWARDS)


def save_model(folder, head: str) -> str:
    config = copy.deepcopy(tiny.FAMILIES["llama"])
    if head == "classification":
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    else:
        tiny.model_of("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_reward_model_has_a_head_and_where_it_is_needed_a_template(tmp_path):
    scores, writes = save_model(tmp_path / "a", "classification"), save_model(tmp_path / "b", "language")
    options = {"trust_remote_code": False}
    assert check_reward_model(scores, conversations=False, **options) == scores
    for name, conversations, said in [
        (writes, False, "is a LlamaForCausalLM; write a model for sequence classification"),
        (scores, True, "has no chat template, and the prompts are conversations"),
        ("no/such", False, "reward_model_name_or_path: 'no/such' is neither a folder"),
    ]:
        with pytest.raises(InputError, match=said):
            check_reward_model(name, conversations=conversations, **options)
