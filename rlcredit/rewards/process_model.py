"""The scores of a process reward model as a reward function: a number for each step of a completion.

A step is a piece of the completion's text between two separators. What is read, as its trainers make such models:

    token classification     prompt, then each step followed by the separator, encoded apart; the score of a step is
                             read at the last token of its separator (Lightman et al. 2023, arXiv 2305.20050; the form
                             of TRL's former PRMTrainer)
    sequence classification  the prompt with the completion up to the step's end, once for each step

With two labels the score is the probability of the second one, with one label the logit itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlcredit.errors import InputError
from rlcredit.models.loading import describe
from rlcredit.tasks.checkers.answers import completion_text

KEY = "process_reward_model"
HEADS = {
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}


class Read(NamedTuple):
    """A text as the model is given it.

    Attributes:
        ids: of the text.
        places: the tokens at which scores are read; none where the model has one score a text.
    """

    ids: list[int]
    places: list[int]


class ProcessReward:
    """A reward function that returns the spans of the steps with a model's scores.

    Args:
        model: a folder, or the id of a model on the hub, with a head for token or sequence classification.
        separator: what stands between two steps.
        batch_size: texts a pass.
        options: handed to transformers (revision, trust_remote_code, dtype).

    Raises: InputError, before weights load, if there is no such model, or it has another head or number of labels.
    """

    __name__ = "process_reward"

    def __init__(self, model: str, *, separator: str = "\n\n", batch_size: int = 16, **options: Any) -> None:
        if not separator:
            raise InputError('process_reward_separator: is empty; write what is between two steps, such as "\\n\\n"')
        described = {name: value for name, value in options.items() if name != "dtype"}
        self._config, tokenizer = describe(model, KEY, **described)
        named = (self._config.architectures or [""])[0]
        head = next((head for head in HEADS if named.endswith(head)), None)
        if head is None or self._config.num_labels > 2:
            what = f"{named or 'model without a head'} of {self._config.num_labels} labels"
            raise InputError(
                f"{KEY}: {model!r} is a {what}; write a model for token or sequence classification with one or two"
            )
        padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if padding is None:
            raise InputError(f"{KEY}: the tokenizer of {model!r} has neither a padding nor an end token; give it one")
        self._kind, self._of_tokens = HEADS[head], head == "ForTokenClassification"
        self._tokenizer: PreTrainedTokenizerBase = tokenizer
        self._padding: int = padding
        self._model_name, self._options = model, options
        self._separator, self._batch_size = separator, batch_size
        self._model: PreTrainedModel | None = None

    def load(self) -> PreTrainedModel:
        """The model, on this process's device; loaded once. Raises: InputError if its weights cannot be loaded."""
        if self._model is None:
            try:
                model = self._kind.from_pretrained(self._model_name, **self._options)
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{KEY}: {self._model_name!r} cannot be loaded ({reason})") from error
            self._model = model.to(PartialState().device).eval()
        return self._model

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[list[tuple[int, int, float]]]:
        """(start, end, score) of each step of each completion."""
        steps = [self.steps_of(completion_text(completion)) for completion in completions]
        reads: list[Read] = []
        for prompt, completion, spans in zip(prompts, completions, steps, strict=True):
            reads += self._reads(self._rendered(prompt), completion_text(completion), spans)
        scores = iter(self._scores(reads))
        return [[(start, end, next(scores)) for start, end in spans] for spans in steps]

    def steps_of(self, text: str) -> list[tuple[int, int]]:
        """Where each step begins and ends, without separators; pieces of white space are none."""
        spans, start = [], 0
        for piece in text.split(self._separator):
            if piece.strip():
                spans.append((start, start + len(piece)))
            start += len(piece) + len(self._separator)
        return spans

    def _rendered(self, prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        if self._tokenizer.chat_template is None:
            raise InputError(f"{KEY}: {self._model_name!r} has no chat template for prompts that are conversations")
        return str(self._tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))

    def _reads(self, prompt: str, text: str, spans: Sequence[tuple[int, int]]) -> list[Read]:
        """The texts of a completion that are given to the model."""
        encode = lambda part: self._tokenizer(part, add_special_tokens=False)["input_ids"]  # noqa: E731
        ids = encode(prompt)
        if (first := self._tokenizer.bos_token_id) is not None and ids[:1] != [first]:
            ids = [first, *ids]
        if not self._of_tokens:
            return [Read(ids + encode(text[:end]), []) for _, end in spans]
        places, separator = [], encode(self._separator)
        for start, end in spans:
            ids = ids + encode(text[start:end]) + separator
            places.append(len(ids) - 1)
        return [Read(ids, places)] if spans else []

    @torch.no_grad()
    def _scores(self, reads: Sequence[Read]) -> list[float]:
        """The scores at the places of each text, one after the other."""
        model = self.load()
        found: list[float] = []
        model.config.get_text_config().pad_token_id = pad = self._padding  # what sequence heads know the last token by
        for first in range(0, len(reads), self._batch_size):
            batch = reads[first : first + self._batch_size]
            longest = max(len(read.ids) for read in batch)
            ids = torch.tensor([read.ids + [pad] * (longest - len(read.ids)) for read in batch])
            real = torch.tensor([[1] * len(read.ids) + [0] * (longest - len(read.ids)) for read in batch])
            logits = model(input_ids=ids.to(model.device), attention_mask=real.to(model.device)).logits.float()
            scores = logits[..., 0] if logits.shape[-1] == 1 else logits.softmax(-1)[..., 1]
            for read, row in zip(batch, scores, strict=True):
                found += row[read.places].tolist() if self._of_tokens else [row.item()]
        return found
