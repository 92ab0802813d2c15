"""PromptRenderer: how a prompt becomes tokens, the same in training's checks, held-out sets, evaluate and analyze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from rlcredit.errors import InputError
from rlcredit.tasks.prompts import conversation_ids

Prompt = str | list[dict[str, str]]

PLAIN_PROMPTS = (
    "take a model that has one for text, or prompts that are texts: task_options.prompt_style: plain for a task of "
    "questions, a text in the column prompt and no system_prompt for a data set"
)


@dataclass(frozen=True)
class PromptRenderer:
    """Renders prompts as TRL's trainer does.

    Attributes:
        tokenizer: of the policy; a conversation is rendered with its chat template.
        chat_template_kwargs: what the template gets beside the conversation, such as `enable_thinking: false`.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in self.ids(prompts)]

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The tokens of each prompt. Raises: InputError for a conversation where there is no chat template."""
        if isinstance(prompts[0], str):
            # verbose=False: the caller refuses prompts that are too long, and the tokenizer need not warn of them
            return self.tokenizer(list(prompts), verbose=False)["input_ids"]
        self._check_template(prompts[0])
        return conversation_ids(self.tokenizer, prompts, **self.chat_template_kwargs)  # type: ignore[arg-type]

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        """Each prompt as the text that is split into tokens. Raises: InputError as `ids`."""
        if isinstance(prompts[0], str):
            return list(map(str, prompts))
        self._check_template(prompts[0])
        return self._templated(list(prompts))

    def _templated(self, prompts: Any) -> Any:
        return self.tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=False, **self.chat_template_kwargs
        )

    def _check_template(self, prompt: Any) -> None:
        if self.tokenizer.chat_template is None:
            raise InputError(f"the prompts are conversations, but the model has no chat template; {PLAIN_PROMPTS}")
        other = [{**message, "content": f"{message['content']}?"} for message in prompt]
        try:
            says_what_messages_say = self._templated(prompt) != self._templated(other)
        except TemplateError:
            return  # conversation_ids says what the template does not take
        if not says_what_messages_say:
            raise InputError(  # SmolVLM's takes lists of parts, and is made for the model's processor
                "the prompts are conversations, but the model's chat template leaves out what messages say as plain "
                f"text; {PLAIN_PROMPTS}"
            )
