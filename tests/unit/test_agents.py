"""Tools, environments and rollout functions that a recipe names: what is refused before weights load, in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from rlcredit.config import recipes_root
from rlcredit.errors import InputError
from rlcredit.evaluation.of_run import flags_of
from rlcredit.runs.files import write_facts
from rlcredit.tasks import TaskData
from rlcredit.tasks.products import calculator
from rlcredit.trainers.agents import Agents
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.run_arguments import RunArguments
from tests import command, tiny

TOOL = "rlcredit.tasks.products:calculator"
HERE = __name__


class Room:
    """An environment."""

    size = 3

    def reset(self, **columns) -> None:
        """Begin."""

    def look(self, place: str) -> str:
        """Look around.

        Args:
            place: Where.
        """
        return place

    def get_reward(self) -> float:
        return 1.0

    def _hidden(self, anything): ...


class NoReset:
    reset = None


class Untold:
    def reset(self): ...

    def look(self, place): ...


def untyped(a, b):
    """Multiply."""


def undescribed(a: int):
    """Take one.

    Returns:
        It.
    """


def made() -> Room:
    return Room()


def rollout(prompts, trainer): ...


rooms = {"room": Room, "other": Room}
number = 7
mixed = {"room": 7}


def named(**keys) -> Agents:
    settings = {"held_out": 0, **keys}
    config = settings.pop("config", CreditGRPOConfig(output_dir="none", report_to=[], use_cpu=True, bf16=False))
    return Agents.named(RunArguments(**settings), config)


def task_of(prompt, **columns) -> TaskData:
    return TaskData(Dataset.from_list([{"prompt": prompt, **columns}] * 2), {}, [], None)


CHAT = [{"role": "user", "content": "1*2"}]


def test_what_is_named_is_imported():
    agents = named(tools=[TOOL], environment_factory=f"{HERE}:Room")
    assert agents.tools == [calculator] and agents.environment_factory is Room and agents.rollout_func is None
    assert [tool.__name__ for tool in agents.schemas] == ["calculator", "look"]
    assert agents.keys == ["tools", "environment_factory"]
    assert named(environment_factory=f"{HERE}:rooms").factories == rooms
    assert named(rollout_func=f"{HERE}:rollout").template_options == {}
    assert not named() and named(tools=[TOOL])


def config_of(**settings) -> SimpleNamespace:
    """What is read of a configuration: the engines that TRL itself would look for are not here."""
    plain = {"use_vllm": False, "vllm_mode": "colocate", "vllm_tensor_parallel_size": 1, "world_size": 2}
    return SimpleNamespace(**{**plain, "deepspeed_plugin": None, "fsdp_plugin_args": None, **settings})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tools": ["nowhere:it"]}, "tools: 'nowhere:it' cannot be imported: there is no module nowhere"),
        ({"tools": [f"{HERE}:number"]}, "tools: .* is not a function; write package.module:function"),
        ({"tools": ["rlcredit.tasks.products:calculater"]}, "has no calculater; did you mean calculator"),
        ({"environment_factory": f"{HERE}:number"}, "environment_factory: .* is not callable; write pack"),
        ({"environment_factory": f"{HERE}:mixed"}, "environment_factory: .* is not callable"),
        ({"rollout_func": f"{HERE}:number"}, "rollout_func: .* is not a function"),
        ({"tools": [TOOL], "rollout_func": f"{HERE}:rollout"}, "rollout_func: generates whole completions; leave"),
        ({"tools": [TOOL], "held_out": 8}, "held_out: held-out sets are answered without tools; write held"),
        ({"rollout_func": f"{HERE}:rollout", "held_out": 8}, "answered without rollout_func"),
        ({"tools": [TOOL], "credit_report_steps": 5}, "credit_report_steps: reports are written without tools; leave"),
        (
            {"tools": [TOOL], "config": config_of(use_vllm=True, vllm_mode="server")},
            "tools: a vLLM server generates in all processes at once, .* the run would wait for ever; launch with ddp",
        ),
        (
            {"environment_factory": f"{HERE}:Room", "config": config_of(use_vllm=True, vllm_tensor_parallel_size=2)},
            "environment_factory: vllm_tensor_parallel_size generates in all processes at once",
        ),
        (
            {"tools": [TOOL], "config": config_of(deepspeed_plugin=SimpleNamespace(zero_stage=3))},
            "tools: zero3 generates in all processes at once",
        ),
        ({"tools": [TOOL], "config": config_of(fsdp_plugin_args={})}, "tools: fsdp generates in all proc"),
    ],
)  # fmt: skip
def test_names_and_settings_that_cannot_be(keys, said):
    with pytest.raises(InputError, match=said) as error:
        named(**keys)
    assert "\n" not in str(error.value)


def test_processes_that_generate_by_themselves_may_have_tools():
    for settings in ({}, {"use_vllm": True}, {"deepspeed_plugin": SimpleNamespace(zero_stage=2)}):
        assert named(tools=[TOOL], config=config_of(**settings))
    assert named(tools=[TOOL], config=config_of(use_vllm=True, vllm_mode="server", world_size=1))
    assert named(rollout_func=f"{HERE}:rollout", config=config_of(use_vllm=True, vllm_mode="server"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(recipes_root() / "tools_tiny/policy")


@pytest.mark.parametrize(
    ("keys", "task", "said"),
    [
        ({"tools": [TOOL]}, task_of(CHAT), None),
        ({"environment_factory": f"{HERE}:Room"}, task_of(CHAT), None),
        ({"environment_factory": f"{HERE}:made"}, task_of(CHAT), None),
        ({"environment_factory": f"{HERE}:rooms"}, task_of(CHAT, environment="room"), None),
        ({"rollout_func": f"{HERE}:rollout"}, task_of("1*2"), None),
        ({"tools": [TOOL]}, task_of("1*2"), "tools: the prompts are texts, and a tool is called in a conversation"),
        ({"tools": [f"{HERE}:untyped"]}, task_of(CHAT), "cannot be told of 'untyped' .*; write type hints, and"),
        ({"tools": [f"{HERE}:undescribed"]}, task_of(CHAT), "cannot be told of 'undescribed'"),
        ({"environment_factory": f"{HERE}:Untold"}, task_of(CHAT), "environment_factory: .* cannot be told of 'look'"),
        ({"environment_factory": f"{HERE}:NoReset"}, task_of(CHAT), "NoReset has no method reset; write one"),
        ({"environment_factory": f"{HERE}:rooms"}, task_of(CHAT), "the training set has no column environment, which"),
        ({"environment_factory": f"{HERE}:rooms"}, task_of(CHAT, environment="hall"), "has the environment 'hall', a"),
    ],
)  # fmt: skip
def test_data_and_tools_that_do_not_go_together(tokenizer, keys, task, said):
    agents = named(**keys)
    if said is None:
        return agents.check(task, tokenizer)
    with pytest.raises(InputError, match=said) as error:
        agents.check(task, tokenizer)
    assert "\n" not in str(error.value)


def test_chat_templates_without_a_place_for_calls(tokenizer):
    agents, task = named(tools=[TOOL]), task_of(CHAT)
    with pytest.raises(InputError, match="tools: the policy's chat template has no place for tool calls"):
        agents.check(task, tiny.tokenizer())
    strange = AutoTokenizer.from_pretrained(recipes_root() / "tools_tiny/policy")
    strange.response_template = None
    with pytest.raises(InputError, match=r"tools: TRL does not know .*; give the tokenizer a response_template, and"):
        agents.check(task, strange)
    assert strange.response_template is None  # nothing was changed on the way


def test_a_dry_run_says_it_too(capsys):
    done = command.run("--config=tools_tiny/coupled_rhythm", "--held_out=8", "--dry_run=true")
    assert done.returncode == 2 and "held_out: held-out sets are answered without tools" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_run_with_tools_learned_is_not_measured_without_them(tmp_path):
    write_facts(tmp_path, {"evaluate": "the policy was trained with tools", "analyze": {"task": "products"}})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"run.json: the policy was trained with tools$"):
        flags_of("evaluate", [str(tmp_path)])
    assert "--task=products" in flags_of("analyze", [str(tmp_path)])
