"""Ready prompts of rows, checked; and conversations in the model's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rlcredit.errors import InputError
from rlcredit.tasks.options import is_text, kind_of

if TYPE_CHECKING:  # its import takes seconds, which tasks do without
    from transformers import PreTrainedTokenizerBase

Prompt = str | list[dict[str, Any]]
ADVICE = 'write a text, or a list of messages such as [{"role": "user", "content": "..."}]'


def checked_prompt(prompt: object) -> Prompt:
    """A ready prompt if it is a text or a conversation. Raises: InputError that says what it is."""
    if is_text(prompt):
        return prompt  # type: ignore[return-value]
    if isinstance(prompt, str | list) and not str(prompt or "").strip():
        raise InputError(f"prompt is empty; {ADVICE}")
    if not isinstance(prompt, list):
        raise InputError(f"prompt is {kind_of(prompt)} ({prompt!r:.60}); {ADVICE}")
    for number, message in enumerate(prompt, start=1):
        if not isinstance(message, dict) or not is_text(message.get("role")) or not message.get("content"):
            raise InputError(f"prompt is a list whose entry {number} is no message ({message!r:.60}); {ADVICE}")
    return prompt


def refuse_unused(prompt: Prompt, prompt_style: str | None, system_prompt: str | None, where: str) -> None:
    """Raise an InputError for options that a ready prompt leaves without effect."""
    if system_prompt is not None:
        raise InputError(
            f"{where}: has a ready prompt, which task_options.system_prompt does not reach; leave system_prompt out "
            "and write it into the prompts, or write a column question in place of prompt"
        )
    kind, style = ("text", "plain") if isinstance(prompt, str) else ("conversation", "chat")
    if prompt_style not in (None, style):
        raise InputError(
            f"{where}: the ready prompt is a {kind}, and task_options.prompt_style is {prompt_style!r}; leave "
            "prompt_style out: ready prompts are used as they are"
        )


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[dict[str, Any]]], **template_options: Any
) -> list[list[int]]:
    """Tokens of conversations, rendered for the model to go on.

    Args:
        template_options: variables of the chat template, such as `enable_thinking`.

    Raises: InputError for a conversation that the template refuses, or whose system message it leaves out.
    """

    options = {"add_generation_prompt": True, "return_dict": False, **template_options}
    try:
        ids = tokenizer.apply_chat_template(list(conversations), tokenize=True, **options)
        system = next((messages for messages in conversations if messages[0]["role"] == "system"), None)
        if system and str(system[0]["content"]).strip() not in tokenizer.apply_chat_template(
            system, tokenize=False, **options
        ):
            raise TemplateError("it leaves the system message out")
    except TemplateError as error:
        has_system = any(message["role"] == "system" for messages in conversations for message in messages)
        remedy = (
            "leave task_options.system_prompt and system messages out, and write their text into the questions"
            if has_system
            else "write messages of the roles, and in the order, that it takes"
        )
        raise InputError(
            f"prompt: the model's chat template does not take the conversations ({error}); {remedy}"
        ) from error
    return ids
