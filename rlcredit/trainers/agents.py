"""What takes part in a run's rollouts beside the policy: tools, an environment, or a rollout function of the user's.

A recipe names them as package.module:object, and TRL calls them (its `tools`, `environment_factory`, `rollout_func`).
TRL finds out most of what they need once weights are loaded; here it is checked before, a line each.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException
from trl.chat_template_utils import (
    add_response_schema,
    get_training_chat_template,
    is_chat_template_prefix_preserving,
    supports_tool_calling,
)

from rlcredit.config.messages import one_line
from rlcredit.config.named import import_named
from rlcredit.errors import InputError
from rlcredit.rewards.signature import name_of
from rlcredit.tasks import TaskData
from rlcredit.trainers import launch
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.run_arguments import RunArguments


class Agents(NamedTuple):
    """What the recipe names, imported.

    Attributes:
        tools: functions that the policy may call.
        environment_factory: makes an environment, whose methods are tools; or several by name, which rows choose from.
        rollout_func: generates the completions in TRL's place.
    """

    tools: list[Callable]
    environment_factory: Callable | dict[str, Callable] | None = None
    rollout_func: Callable | None = None

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def keys(self) -> list[str]:
        """The keys that the recipe has."""
        return [name for name, value in self._asdict().items() if value]

    @property
    def factories(self) -> dict[str, Callable]:
        """The makers of environments by the name that rows choose them by; "" where there is one."""
        made = self.environment_factory
        return made if isinstance(made, dict) else {"": made} if made else {}

    @property
    def schemas(self) -> list[Any]:
        """What a prompt says of the tools: the functions, and the methods of environments that are classes."""
        methods = [method for factory in self.factories.values() for method in _methods(factory).values()]
        return [*self.tools, *methods]

    @property
    def template_options(self) -> dict[str, Any]:
        """What the chat template is given of them."""
        return {"tools": self.schemas} if self.schemas else {}

    @classmethod
    def named(cls, run: RunArguments, config: CreditGRPOConfig) -> Agents:
        """Those that the keys of a run name. Raises: InputError for a name that is no such thing, and for settings
        that do not go with them."""
        tools = [_callable("tools", name, "function") for name in run.tools or []]
        factory = rollout = None
        if run.environment_factory is not None:
            factory = import_named("environment_factory", run.environment_factory, "class")
            several = factory if isinstance(factory, dict) and factory else {"": factory}
            if not all(isinstance(name, str) and callable(one) for name, one in several.items()):
                raise InputError(
                    f"environment_factory: {run.environment_factory!r} is not callable; write package.module:class, "
                    "or a dict of classes by name"
                )
        if run.rollout_func is not None:
            rollout = _callable("rollout_func", run.rollout_func, "function")
        agents = cls(tools, factory, rollout)
        agents._refuse_settings(run, config)
        return agents

    def _refuse_settings(self, run: RunArguments, config: CreditGRPOConfig) -> None:
        if not self:
            return
        key = self.keys[0]
        if self.rollout_func is not None and len(self.keys) > 1:
            raise InputError(f"rollout_func: generates whole completions; leave {key} out, or rollout_func")
        if run.held_out:
            raise InputError(
                f"held_out: held-out sets are answered without {key}; write held_out: 0, and eval_strategy: steps for "
                f"the mean reward of the held-out set with {key}"
            )
        if run.credit_report_steps:
            raise InputError(f"credit_report_steps: reports are written without {key}; leave credit_report_steps out")
        together = _generates_together(config)
        if self.rollout_func is None and together and (run.processes or config.world_size) > 1:
            raise InputError(
                f"{key}: {together} generates in all processes at once, and each process calls tools as often as its "
                "own completions do: the run would wait for ever; launch with ddp.yaml or zero2.yaml, and generate "
                "without vLLM or with vllm_mode: colocate"
            )

    def check(self, task: TaskData, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse tools that the policy cannot be told of, and data that do not go with them. Raises: InputError."""
        assert task.train is not None
        if self.factories and "" not in self.factories:
            self._check_names(task)
        for tool in self.tools:
            _check_schema("tools", tool)
        for factory in self.factories.values():
            if inspect.isclass(factory) and not inspect.isfunction(inspect.getattr_static(factory, "reset", None)):
                raise InputError(f"environment_factory: {factory.__name__} has no method reset; write one")
            for method in _methods(factory).values():
                _check_schema("environment_factory", method)
        if not self.tools and not self.factories:
            return
        key = self.keys[0]
        if isinstance(task.train[0]["prompt"], str):
            raise InputError(
                f"{key}: the prompts are texts, and a tool is called in a conversation; write prompts as messages "
                "(task_options.prompt_style: chat)"
            )
        _check_template(key, tokenizer)

    def _check_names(self, task: TaskData) -> None:
        """Every row chooses an environment that there is."""
        assert task.train is not None
        known = ", ".join(self.factories)
        for name, rows in {"the training set": task.train, **task.tests}.items():
            if "environment" not in rows.column_names:
                raise InputError(
                    f"environment_factory: {name} has no column environment, which chooses one of {known}; add it"
                )
            if strange := set(rows["environment"]) - set(self.factories):
                raise InputError(
                    f"environment_factory: {name} has the environment {min(map(str, strange))!r}, and there are "
                    f"{known}; add it, or correct the rows"
                )


def _callable(key: str, name: str, what: str) -> Callable:
    found = import_named(key, name, what)
    if not callable(found):
        raise InputError(f"{key}: {name!r} is not a function; write package.module:{what}")
    return found


def _methods(factory: Callable) -> Mapping[str, Callable]:
    """The tools of an environment that is a class, as TRL finds them; of another factory they are not known yet."""
    if not inspect.isclass(factory):
        return {}
    found = inspect.getmembers(factory, predicate=inspect.isfunction)
    return {
        name: types.MethodType(function, object())  # bound, so that `self` is no parameter of the tool
        for name, function in found
        if name not in ("reset", "get_reward") and not name.startswith("_")
    }


def _check_schema(key: str, tool: Callable) -> None:
    try:
        get_json_schema(tool)
    except (DocstringParsingException, TypeHintParsingException, ValueError) as error:
        raise InputError(
            f"{key}: the policy cannot be told of {name_of(tool)!r} ({one_line(error)}); write type hints, and a "
            "docstring with a line for each argument under Args:"
        ) from error


def _check_template(key: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template in which TRL cannot write or read a call."""
    if not supports_tool_calling(tokenizer):
        raise InputError(f"{key}: the policy's chat template has no place for tool calls; take a policy that has")
    tried = copy.deepcopy(tokenizer)
    try:
        if tried.response_template is None:
            add_response_schema(tried)
        if not is_chat_template_prefix_preserving(tried):
            get_training_chat_template(tried)
    except ValueError as error:
        raise InputError(
            f"{key}: TRL does not know the policy's chat template ({one_line(error)}); give the tokenizer a "
            "response_template, and a chat template that keeps earlier messages as they are"
        ) from error


def _generates_together(config: CreditGRPOConfig) -> str | None:
    """What generates in all processes at once; None where each generates by itself."""
    if config.use_vllm:
        if config.vllm_mode == "server":
            return "a vLLM server"
        return "vllm_tensor_parallel_size" if config.vllm_tensor_parallel_size > 1 else None
    engine = launch.engine_of(config)
    return engine if engine in ("fsdp", "zero3") else None
