"""The responses that are analysed: generated, or read from a file. Rows that cannot be used are listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlcredit.errors import InputError
from rlcredit.evaluation.prompts import Prompt, PromptRenderer
from rlcredit.evaluation.sampling import Sampling, complete
from rlcredit.tasks.checkers import Checker
from rlcredit.tasks.checkers.answers import completion_text
from rlcredit.tasks.files import id_of, read_file
from rlcredit.tasks.options import kind_of
from rlcredit.tasks.prompts import checked_prompt

COMPLETION_COLUMNS = ("completion", "response")


@dataclass(frozen=True)
class Response:
    """A prompt and what the model wrote.

    Attributes:
        id: how the report names it.
        prompt: as a text, rendered.
        prompt_ids, ids: tokens of the prompt and of the response.
        correct: whether a checker found it right, where there is one.
        finished: whether the model ended it, before the length limit; None for one that was read from a file.
    """

    id: str
    prompt: str
    prompt_ids: list[int]
    ids: list[int]
    correct: bool | None = None
    finished: bool | None = None


class Skipped(NamedTuple):
    """A row that was left out, and why."""

    id: str
    reason: str


class Question(NamedTuple):
    """A prompt to answer, or one whose answer was read from a file."""

    id: str
    prompt: Prompt
    completion: str | None = None
    row: Mapping[str, Any] | None = None
    """The row of its evaluation set, for the checker."""


def read_prompts(path: Path) -> list[Question]:
    """The prompts of a file: a column `prompt` or `question`. Raises: InputError."""
    placed_questions = [(place, _question(path, place, row)) for place, row in read_file(path)]
    prompts = [(place, question.prompt) for place, question in placed_questions if question.prompt]
    for place, prompt in prompts:
        first_place, first = prompts[0]
        if type(prompt) is not type(first):
            said = f"{path}: {place}: prompt is {kind_of(prompt)}, and {kind_of(first)} in {first_place}"
            raise InputError(f"{said}; write prompts of one kind")
    return [question for _, question in placed_questions]


def read_completions(path: Path) -> list[Question]:
    """Prompts with completions: a run's `completions_*.parquet`, the `samples.parquet` of an evaluation, or a file of
    yours with `prompt` and `completion`. Raises: InputError."""
    questions = []
    for place, row in read_file(path):
        question = _question(path, place, row)
        completion = next((row[name] for name in COMPLETION_COLUMNS if name in row), None)
        if completion is None:
            raise InputError(f"{path}: {place}: has no completion; the columns are {', '.join(map(str, row))}")
        questions.append(question._replace(completion=completion_text(completion or "")))
    return questions


def _question(path: Path, place: str, row: dict[str, Any]) -> Question:
    prompt = row.get("prompt", row.get("question"))
    if prompt is None:
        raise InputError(f"{path}: {place}: has no prompt; the columns are {', '.join(map(str, row))}")
    try:
        prompt = checked_prompt(prompt) if prompt or isinstance(prompt, int | float) else ""
    except InputError as error:
        raise InputError(f"{path}: {place}: {error}") from None
    name = id_of(row, place)
    return Question(f"{name} ({row['sample']})" if "sample" in row else name, prompt)


def usable(
    questions: Iterable[Question], renderer: PromptRenderer, context: int | None, room: int
) -> tuple[list[tuple[Question, list[int]]], list[Skipped]]:
    """Questions with their prompts' tokens, and those that are empty or leave no room in the context."""
    kept, skipped = [], []
    for question in questions:
        if not question.prompt:
            skipped.append(Skipped(question.id, "the prompt is empty"))
            continue
        ids = renderer.ids([question.prompt])[0]
        if context and len(ids) + room > context:
            reason = f"a prompt of {len(ids)} tokens and {room} of response do not fit the context of {context}"
            skipped.append(Skipped(question.id, reason))
        elif not ids:
            skipped.append(Skipped(question.id, "the prompt has no tokens"))
        else:
            kept.append((question, ids))
    return kept, skipped


def written(
    kept: Sequence[tuple[Question, list[int]]], tokenizer: PreTrainedTokenizerBase, context: int | None
) -> tuple[list[Response], list[Skipped]]:
    """Responses whose completions were read from a file. The file does not hold the tokens that were drawn: the text
    is split again, perhaps otherwise."""
    responses, skipped = [], []
    for question, prompt_ids in kept:
        ids = tokenizer(question.completion or "", add_special_tokens=False)["input_ids"]
        if not ids:
            skipped.append(Skipped(question.id, "the completion has no tokens"))
        elif context and len(prompt_ids) + len(ids) > context:
            skipped.append(
                Skipped(question.id, f"{len(prompt_ids) + len(ids)} tokens exceed the context of {context}")
            )
        else:
            responses.append(Response(question.id, tokenizer.decode(prompt_ids), prompt_ids, ids))
    return responses, skipped


def generated(
    kept: Sequence[tuple[Question, list[int]]],
    model: PreTrainedModel,
    renderer: PromptRenderer,
    sampling: Sampling,
    batch_size: int,
) -> list[Response]:
    """The model's own responses, their tokens as drawn, the closing one included (as in training)."""
    responses = []
    for start in range(0, len(kept), batch_size):
        part = kept[start : start + batch_size]
        streams = [(start + offset, 0) for offset in range(len(part))]
        completions = complete(model, renderer, [question.prompt for question, _ in part], streams, sampling)
        for (question, prompt_ids), completion in zip(part, completions, strict=True):
            prompt = renderer.tokenizer.decode(prompt_ids)
            finished = not completion.truncated
            responses.append(Response(question.id, prompt, prompt_ids, completion.ids, finished=finished))
    return responses


def checked(
    responses: Sequence[Response], rows: Sequence[Mapping[str, Any]], texts: Sequence[str], check: Checker
) -> list[Response]:
    """The responses, each with the verdict of the checker."""
    verdicts = check(texts, rows)
    return [
        replace(response, correct=verdict.correct == 1) for response, verdict in zip(responses, verdicts, strict=True)
    ]
