"""Each reward function called once before a run, as training will call it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerState
from trl.trainer.utils import is_async_callable

from rlcredit.errors import InputError
from rlcredit.rewards.guards import AsyncGuardedReward, GuardedReward, RewardsStopped
from rlcredit.tasks.event_loop import result_of

TRL_TAKES_MESSAGES = (
    "TRL's own rewards read conversations: write system_prompt, or prompts that are lists of messages, with a model "
    "that has a chat template"
)


def rehearse(
    rewards: Sequence[Callable],
    row: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    timeout: float | None = None,
) -> list[str]:
    """Call each reward function once, as training will, with a made-up completion of one training row.

    rlcredit's own functions are left out: they are tested, and start processes.

    Args:
        row: with its `prompt`; the completion is a text, or messages where that is a conversation.
        tokenizer: the policy's, which the tokens of the completion are of.
        timeout: seconds for one call, or None.

    Returns: a line for each whose server does not answer now.

    Raises: InputError if one raises, or returns what is no score.
    """
    prompt, text = row["prompt"], "The answer is 42."
    completion = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
    shape = "a text" if isinstance(prompt, str) else "a list of messages"
    given: dict[str, Any] = {name: [value] for name, value in row.items() if name != "prompt"}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    given |= {"completion_ids": [ids], "trainer_state": TrainerState(), "log_metric": lambda *values: None}
    notes = []
    for reward in rewards:
        module = str(getattr(reward, "__module__", ""))
        if module.startswith("rlcredit."):
            continue
        kind = AsyncGuardedReward if is_async_callable(reward) else GuardedReward
        guard = kind(reward, timeout, tokenizer=tokenizer)
        result_of(guard(prompts=[prompt], completions=[completion], **given))
        if isinstance(guard.error, RewardsStopped):
            notes.append(f"{guard.error}, now; a run would ask it again")
        elif guard.error is not None:
            raise guard.error
        elif guard.cause:
            file, line = re.findall(r'File "(.*?)", line (\d+)', guard.cause)[-1]
            mend = TRL_TAKES_MESSAGES if isinstance(prompt, str) and module.startswith("trl.") else "mend it"
            raise InputError(
                f"reward {guard.__name__!r}: {guard.kind} ({file}, line {line}), called with the "
                f"first training row and {shape} as its completion, as training does; {mend}"
            )
    return notes
