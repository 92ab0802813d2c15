"""Reward functions that a recipe names, as `trl grpo` takes them: `reward_funcs` and `reward_model_name_or_path`.

TRL's own names, a dotted path (`my_rewards.short`), or rlcredit's form of one (`my_rewards:short`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase
from trl import rewards

from rlcredit.config import model_path
from rlcredit.config.named import import_named
from rlcredit.errors import InputError, require
from rlcredit.models.loading import describe
from rlcredit.tasks.base import RewardFunction

TRL_REWARDS: dict[str, RewardFunction] = {
    "accuracy_reward": rewards.accuracy_reward,
    "reasoning_accuracy_reward": rewards.reasoning_accuracy_reward,
    "think_format_reward": rewards.think_format_reward,
    "get_soft_overlong_punishment": rewards.get_soft_overlong_punishment(
        max_completion_len=1280, soft_punish_cache=256
    ),
}
"""TRL's names with what they stand for there; a contract test holds them to TRL's script."""

OPEN_R1 = {
    "accuracy": "accuracy_reward",
    "format": "think_format_reward (<think> alone), or open_r1.rewards.format_reward where open-r1 is installed",
    "soft_overlong_punishment": "get_soft_overlong_punishment",
    "cosine": "a function of your own that calls trl.rewards.get_cosine_scaled_reward(...)",
    "repetition_penalty": "a function of your own that calls trl.rewards.get_repetition_penalty_reward(...)",
    **{
        name: f"open_r1.rewards.{function} where open-r1 is installed, or a function of your own"
        for name, function in {
            "tag_count": "tag_count_reward",
            "reasoning_steps": "reasoning_steps_reward",
            "length": "len_reward",
            "code": "code_reward",
            "binary_code": "binary_code_reward",
            "ioi_code": "ioi_code_reward",
            "cf_code": "cf_code_reward",
            "code_format": "get_code_format_reward",
        }.items()
    },
}
"""open-r1's names, with what to write in place of each."""

KEY = "reward_funcs"
MODEL_KEY = "reward_model_name_or_path"


def named_rewards(names: Sequence[str]) -> list[RewardFunction]:
    """The functions of these names. Raises: InputError for a name that stands for none."""
    return [_named(name) for name in names]


def _named(name: str) -> Callable:
    if name in TRL_REWARDS:
        if "accuracy" in name:
            require("math_verify", f"{KEY}: {name}")
        return TRL_REWARDS[name]
    if name in OPEN_R1:
        raise InputError(f"{KEY}: {name!r} is open-r1's name; write {OPEN_R1[name]}")
    if ":" not in name and "." not in name:
        near = difflib.get_close_matches(name, TRL_REWARDS, n=1)
        instead = f"did you mean {near[0]}?" if near else f"write one of {', '.join(TRL_REWARDS)}"
        raise InputError(f"{KEY}: {name!r} is no reward function of TRL's; {instead}, or package.module.function")
    function = import_named(KEY, name if ":" in name else ":".join(name.rsplit(".", 1)), "function")
    if not callable(function):
        raise InputError(f"{KEY}: {name!r} is not a function; write package.module.function")
    return function


def check_reward_model(name: str, *, conversations: bool, trust_remote_code: bool) -> str:
    """Where the reward model is, which TRL loads with one label.

    Args:
        conversations: whether the prompts are conversations, which its chat template renders.

    Raises: InputError if there is none, or it has no head for a score: TRL would give it a random one.
    """
    path = model_path(name)
    config, tokenizer = describe(path, MODEL_KEY, trust_remote_code=trust_remote_code)
    head = (config.architectures or [""])[0]
    if not head.endswith("ForSequenceClassification"):
        raise InputError(
            f"{MODEL_KEY}: {name!r} is a {head or 'model without a head'}; write a model for sequence classification, "
            "whose score is the reward"
        )
    _check_template(name, tokenizer, conversations)
    return path


def _check_template(name: str, tokenizer: PreTrainedTokenizerBase, conversations: bool) -> None:
    if conversations and tokenizer.chat_template is None:
        raise InputError(
            f"{MODEL_KEY}: {name!r} has no chat template, and the prompts are conversations; give its tokenizer one"
        )
