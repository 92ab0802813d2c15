"""Responses of a policy, and the value of their prefixes: what is drawn, and how it is stored.

A value is taken before each token whose probability was below `p_max`, by continuations of the policy itself
(`rlcredit.evaluation.continuations`). Between two such places it is taken to stand still [not in a paper; p_max: 1
takes it everywhere]. The reward is the checker's verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from rlcredit.evaluation.continuations import Continuations, Cost, Prefix, by_model
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.sampling import Sampling, complete, end_tokens
from rlcredit.evaluation.store import Record, Store
from rlcredit.models.modes import evaluating
from rlcredit.stats.fidelity import squared_changes, value_changes
from rlcredit.tasks.checkers.verdict import Checker

RESPONSES_FILE = "responses.parquet"
SCHEMA = pa.schema(
    [
        ("problem", pa.int64()),  # its place in the evaluation set
        ("sample", pa.int64()),
        ("id", pa.string()),
        ("prompt_ids", pa.list_(pa.int64())),
        ("ids", pa.list_(pa.int64())),  # of the response, the closing token included
        ("logps", pa.list_(pa.float32())),  # nats, at the sampling temperature
        ("reward", pa.float64()),
        ("places", pa.list_(pa.int64())),  # tokens of the response before which a value was taken
        ("rewards", pa.list_(pa.list_(pa.float64()))),  # of the continuations at each of them
        ("continuations", pa.int64()),  # drawn for the batch that the response was in, shared by its responses
        ("tokens", pa.int64()),
    ]
)


class ResponseBatch(NamedTuple):
    """Responses that are drawn and stored together: the batch's number, and (problem, sample) of each."""

    number: int
    pairs: list[tuple[int, int]]


@dataclass(frozen=True)
class Valued:
    """A response with its values.

    Attributes:
        problem, id: what it answers.
        prompt_ids, ids: its tokens.
        logps_T: nats.
        reward: in [0, 1].
        places: before which of its tokens a value was taken.
        rewards_PK: of the continuations there.
    """

    problem: int
    id: str
    prompt_ids: list[int]
    ids: list[int]
    logps_T: np.ndarray
    reward: float
    places: list[int]
    rewards_PK: np.ndarray

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Valued:
        places, rewards = record["places"], record["rewards"]
        return cls(
            record["problem"],
            record["id"],
            record["prompt_ids"],
            record["ids"],
            np.array(record["logps"]),
            record["reward"],
            places,
            np.array(rewards, dtype=float).reshape(len(places), -1) if places else np.zeros((0, 4)),
        )

    def squared_T(self, part: slice = slice(None)) -> np.ndarray:
        """D of each token, from these continuations of each place."""
        return squared_changes(self.rewards_PK[:, part], self.places, self.reward, len(self.ids))

    def changes_T(self, part: slice = slice(None)) -> np.ndarray:
        """The estimated change of value at each token."""
        return value_changes(self.rewards_PK[:, part].mean(1), self.places, self.reward, len(self.ids))

    def values_T(self) -> list[float]:
        """The value before each token: that of the last place, and before the first one that of the first."""
        means = self.rewards_PK.mean(1)
        at = np.searchsorted(self.places, np.arange(len(self.ids)), side="right") - 1
        return [float(means[max(place, 0)]) for place in at] if self.places else [self.reward] * len(self.ids)


def response_store(folder: Path) -> Store:
    return Store(folder, RESPONSES_FILE, SCHEMA, ("sample", "problem"))


def batches(problems: int, samples: int, at_once: int) -> list[ResponseBatch]:
    """The responses, one of each problem first, cut into batches. Those of one problem share no batch as a rule."""
    pairs = [(number % problems, number // problems) for number in range(samples)]
    cut = [pairs[start : start + at_once] for start in range(0, samples, at_once)]
    return [ResponseBatch(number, part) for number, part in enumerate(cut)]


def draw(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    rows: Dataset,
    batch: ResponseBatch,
    sampling: Sampling,
    check: Checker,
    *,
    continuations: int,
    p_max: float,
    batch_size: int,
) -> list[Record]:
    """The responses of a batch with their values."""
    problems = rows.select([problem for problem, _ in batch.pairs]).to_list()
    prompts = [row["prompt"] for row in problems]
    completions = complete(model, renderer, prompts, batch.pairs, sampling)
    row_of = {problem: row for (problem, _), row in zip(batch.pairs, problems, strict=True)}

    def score(numbers: Sequence[int], responses: Sequence[list[int]]) -> list[float]:
        texts = [renderer.tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
        return [float(verdict.correct) for verdict in check(texts, [row_of[number] for number in numbers])]

    ends, pad = end_tokens(model, renderer.tokenizer), renderer.tokenizer.pad_token_id
    service = Continuations(
        by_model(model, sampling, ends, pad), score, samples=continuations, ends=ends, batch_size=batch_size
    )
    prompt_ids = renderer.ids(prompts)
    logps = [logps_of(model, *ids, sampling.temperature) for ids in zip(prompt_ids, _ids(completions), strict=True)]
    places = [np.flatnonzero(np.exp(row) < p_max).tolist() if p_max < 1 else list(range(len(row))) for row in logps]
    prefixes = [
        Prefix(problem, tuple(prompt), tuple(ids[:place]), sampling.max_new_tokens - place)
        for (problem, _), prompt, ids, taken in zip(batch.pairs, prompt_ids, _ids(completions), places, strict=True)
        for place in taken
    ]
    rewards = iter(service.rewards(prefixes))
    scores = score([problem for problem, _ in batch.pairs], _ids(completions))
    share = [Cost(service.cost.continuations, service.cost.tokens), *[Cost()] * (len(batch.pairs) - 1)]
    return [
        {
            "problem": problem,
            "sample": sample,
            "id": str(row.get("id", problem)),
            "prompt_ids": prompt,
            "ids": ids,
            "logps": row_logps.tolist(),
            "reward": reward,
            "places": taken,
            "rewards": [next(rewards).tolist() for _ in taken],
            **cost._asdict(),
        }
        for (problem, sample), row, prompt, ids, row_logps, reward, taken, cost in zip(
            batch.pairs, problems, prompt_ids, _ids(completions), logps, scores, places, share, strict=True
        )
    ]


def _ids(completions: Sequence[Any]) -> list[list[int]]:
    return [completion.ids for completion in completions]


@torch.no_grad()
def logps_of(model: PreTrainedModel, prompt_ids: Sequence[int], ids: Sequence[int], temperature: float) -> np.ndarray:
    """The log-probability of each token of a response, in nats: [T]."""
    every = torch.tensor([[*prompt_ids, *ids]], device=model.device)
    with evaluating(model):
        logits_TV = model(input_ids=every).logits[0, len(prompt_ids) - 1 : -1].float() / temperature
    chosen = torch.tensor(ids, device=model.device)[:, None]
    return logits_TV.log_softmax(-1).gather(1, chosen)[:, 0].cpu().numpy()
