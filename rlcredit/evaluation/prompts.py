"""PromptRenderer: how a prompt becomes tokens, the same in training's checks, held-out sets, evaluate and analyze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlcredit.errors import InputError

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class PromptRenderer:
    """Renders prompts as TRL's trainer does.

    Attributes:
        tokenizer: of the policy; a conversation is rendered with its chat template.
        chat_template_kwargs: what the template gets beside the conversation, such as `enable_thinking: false`.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, prompts: Sequence[Prompt]) -> Any:
        """Prompts padded on the left: `input_ids` and `attention_mask`, [B, N]."""
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return self.tokenizer.pad({"input_ids": self.ids(prompts)}, padding_side="left", return_tensors="pt")

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt."""
        return [len(ids) for ids in self.ids(prompts)]

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The tokens of each prompt. Raises: InputError for a conversation where there is no chat template."""
        if isinstance(prompts[0], str):
            # verbose=False: the caller refuses prompts that are too long, and the tokenizer need not warn of them
            return self.tokenizer(list(prompts), verbose=False)["input_ids"]
        return self._templated(prompts, tokenize=True, return_dict=False)

    def texts(self, prompts: Sequence[Prompt]) -> list[str]:
        """Each prompt as the text that is split into tokens. Raises: InputError as `ids`."""
        return list(map(str, prompts)) if isinstance(prompts[0], str) else self._templated(prompts, tokenize=False)

    def _templated(self, prompts: Sequence[Prompt], **options: bool) -> Any:
        if self.tokenizer.chat_template is None:
            raise InputError("task_options.prompt_style: 'chat', but the model has no chat template; write 'plain'")
        return self.tokenizer.apply_chat_template(
            list(prompts), add_generation_prompt=True, **options, **self.chat_template_kwargs
        )
