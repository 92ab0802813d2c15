"""Trainers that keep what vLLM returned, what was trained on and gamma read anew; and what must hold between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import GRPOTrainer

from rlcredit import CreditGRPOConfig, CreditGRPOTrainer, CreditPPOConfig, CreditPPOTrainer, analyze, credit_weights
from rlcredit.signals import AttentionSignals
from tests import runs, tiny

STRATEGIES = ["uniform", "random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm"]
Row = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[float, ...]]
"""(prompt ids, completion ids, vLLM's log-probabilities, weights) of a completion, without padding."""


class Returned(NamedTuple):
    """What `VLLMGeneration.generate` returned."""

    prompts: list[list[int]]
    completions: list[list[int]]
    logps: list[list[list[float]]]
    logp_ids: list[list[list[int]]]


@dataclass
class Seen:
    """Attributes:
    returned: what vLLM gave, a rollout each.
    rollouts: the scored batch made of it.
    read_anew: gamma of each of its rows, [1, T] from a pass over that row alone.
    trained: the rows that reached the loss.
    losses: the loss; TRL's own on advantages multiplied beforehand; the same with half the importance ratio.
    texts: what the tokenizer was given to encode.
    """

    returned: list[Returned] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    read_anew: list[list[Tensor]] = field(default_factory=list)
    trained: list[Row] = field(default_factory=list)
    losses: list[tuple[float, float, float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Listening(PreTrainedTokenizerFast):
    """Keeps every text that it encodes."""

    def _encode_plus(self, text, *args, **kwargs):
        self.heard.extend([text] if isinstance(text, str) else text)
        return super()._encode_plus(text, *args, **kwargs)


class _Watched(CreditGRPOTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = Seen(texts=self.processing_class.heard)
        generate = self.vllm_generation.generate

        def kept(*args, **kwargs):
            found = generate(*args, **kwargs)
            self.seen.returned.append(Returned(*copy.deepcopy(found)))
            return found

        self.vllm_generation.generate = kept

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self.seen.rollouts.append(dict(output))
            self.seen.read_anew.append(list(self._read_anew(self.seen.returned[-1], output)))
        else:
            self.seen.returned.pop()
        return output

    def _read_anew(self, returned: Returned, output: dict[str, Any]) -> Iterator[Tensor]:
        if self.args.credit_strategy == "uniform":
            return
        for prompt, completion, key in zip(returned.prompts, returned.completions, output["credit_keys"], strict=True):
            ids = torch.tensor([[*prompt, *completion]])
            response = torch.arange(ids.shape[1])[None] >= len(prompt)
            signals = AttentionSignals.without_attention(torch.full(ids.shape, torch.nan))
            if self.args.strategy.needs:
                signals = analyze(
                    self.model, ids, torch.ones_like(ids), response, self.args, temperature=self.temperature
                )
            yield credit_weights(signals, response, self.args, row_keys=key[None])[:, len(prompt) :]

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            self.seen.trained += rows_of(inputs)
        if self.model.training and "importance_sampling_ratio" in inputs:
            advantages = inputs["advantages"].reshape(len(inputs["completion_ids"]), -1)
            ready = {**inputs, "advantages": advantages * inputs.get("credit_weights", torch.ones(()))}
            halved = {**ready, "importance_sampling_ratio": inputs["importance_sampling_ratio"] / 2}
            with torch.no_grad():
                theirs = [GRPOTrainer._compute_loss(self, model, batch).item() for batch in (ready, halved)]
            self.seen.losses.append((loss.item(), *theirs))
        return loss


class WatchedGRPO(_Watched):
    pass


class WatchedPPO(_Watched, CreditPPOTrainer):
    pass


def trainer(folder: Path, policy: Path, kind: type[GRPOTrainer] = WatchedGRPO, **changes: Any) -> GRPOTrainer:
    """Five optimiser steps, each on a rollout of its own, sampled by vLLM from the policy as saved."""
    extra = {name: changes.pop(name) for name in ("peft_config", "eval_dataset") if name in changes}
    settings: dict[str, Any] = dict(
        use_vllm=True, max_steps=5, model_init_kwargs={"dtype": "float32"}, **runs.ALIGNED, **changes
    )
    args = runs.arguments(
        folder, CreditPPOConfig if issubclass(kind, CreditPPOTrainer) else CreditGRPOConfig, **settings
    )
    tokenizer = Listening.from_pretrained(policy)
    tokenizer.heard = []
    return kind(
        str(policy), tiny.count_digits, args=args, processing_class=tokenizer, train_dataset=tiny.prompts(), **extra
    )


def rows_of(batch: dict[str, Any]) -> list[Row]:
    """The rows of a batch, the padding left out."""
    weights = batch.get("credit_weights", torch.ones_like(batch["sampling_per_token_logps"]))
    return [
        (
            tuple(batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()),
            *(
                tuple(values[row][batch["completion_mask"][row].bool()].tolist())
                for values in (batch["completion_ids"], batch["sampling_per_token_logps"], weights)
            ),
        )
        for row in range(len(batch["completion_ids"]))
    ]


def check(made: GRPOTrainer) -> dict[str, float]:
    """Assert what must hold of a run; give its figures."""
    seen, args = made.seen, made.args
    assert made.state.global_step == args.max_steps == len(seen.rollouts) == len(seen.returned)
    for returned, batch in zip(seen.returned, seen.rollouts, strict=True):
        _check_ids(returned, batch)
        _check_ratio(batch, args)
    assert sorted(seen.trained) == sorted(row for batch in seen.rollouts for row in rows_of(batch))
    assert set(seen.texts) <= set(made.train_dataset["prompt"])  # no completion is ever encoded
    for loss, theirs, halved in seen.losses:
        torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(halved, theirs / 2, rtol=1e-5, atol=1e-7)
    assert any(abs(loss) > 1e-3 for loss, _, _ in seen.losses)
    return {"logp_difference": max(differences(made)), "gamma_equal": _check_gamma(seen, args)}


def differences(made: GRPOTrainer) -> list[float]:
    """Mean |log p of the trainer's weights - log p that vLLM reported| over the tokens of each rollout."""
    return [
        (batch["old_per_token_logps"] - batch["sampling_per_token_logps"])[batch["completion_mask"].bool()]
        .abs()
        .mean()
        .item()
        for batch in made.seen.rollouts
    ]


def _check_ids(returned: Returned, batch: dict[str, Any]) -> None:
    rows = rows_of(batch)
    assert [list(prompt) for prompt, *_ in rows] == [list(ids) for ids in returned.prompts]
    assert [list(ids) for _, ids, *_ in rows] == [list(ids) for ids in returned.completions]
    sampled = [torch.tensor([best[0] for best in row]) for row in returned.logps]
    for (_, ids, logps, _), row, logp_ids in zip(rows, sampled, returned.logp_ids, strict=True):
        assert torch.equal(torch.tensor(logps), row) and row.isfinite().all() and (row <= 0).all()
        assert [one[0] for one in logp_ids] == list(ids)
    lengths = batch["completion_mask"].sum(1).tolist()
    for ids, mask, length in zip(
        batch["completion_ids"].tolist(), batch["completion_mask"].tolist(), lengths, strict=True
    ):
        assert mask == [1] * length + [0] * (len(mask) - length)  # one run, from the first token
        assert 1 not in ids[: length - 1]  # the end of sequence is the last token, if it is there


def _check_ratio(batch: dict[str, Any], args: CreditGRPOConfig) -> None:
    """TRL's default, `sequence_mask`: one ratio a sequence, 0 above its limit."""
    assert args.vllm_importance_sampling_mode == "sequence_mask"
    gap = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]) * batch["completion_mask"]
    ratio = gap.sum(1, keepdim=True).exp()
    ratio = torch.where(ratio > args.vllm_importance_sampling_clip_max, 0.0, ratio)
    assert torch.equal(batch["importance_sampling_ratio"], ratio)


def _check_gamma(seen: Seen, args: CreditGRPOConfig) -> float:
    """Gamma of every row is that of a pass over the row alone; gives the share of tokens where it is the very same."""
    if args.credit_strategy == "uniform":
        assert not any("credit_weights" in batch for batch in seen.rollouts)
        return 1.0
    same = total = chosen = 0
    for batch, rows in zip(seen.rollouts, seen.read_anew, strict=True):
        weights, written = batch["credit_weights"], batch["completion_mask"].bool()
        assert weights.shape == written.shape and (weights[~written] == 1).all()
        for weight, anew in zip(weights, rows, strict=True):
            equal = weight[: anew.shape[1]] == anew[0]
            same, total = same + equal.sum().item(), total + equal.numel()
            chosen += (anew != 1).sum().item()
    assert 0.2 < chosen / total < 0.8
    assert same / total > 0.99  # a padded batch rounds otherwise than a row alone: ties may fall either way
    return same / total
