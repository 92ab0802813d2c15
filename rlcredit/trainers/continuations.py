"""The values of a rollout's states, for a strategy that needs them: continuations by whatever generates in the run.

With transformers the continuations come from streams of their own (`rlcredit.evaluation.continuations`), and vLLM in
this process draws them from a fork of the global stream: the run's own samples are those of a run without values. A
vLLM server draws from its engine's stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from trl import is_conversational
from trl.chat_template_utils import parse_response

from rlcredit.credit import Rollout
from rlcredit.credit.values import Valuing
from rlcredit.errors import InputError
from rlcredit.evaluation.continuations import Continuations, Draw, Generate, Prefix, by_model
from rlcredit.evaluation.sampling import Sampling, end_tokens
from rlcredit.rewards.run_rewards import GuardedRewards
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.rows import total_of

NOT_COLUMNS = ("prompt", "completion", "completion_ids")


def refuse_other_than_text(args: CreditGRPOConfig, others: Sequence[str], *, has_images: bool) -> None:
    """Refuse values where a response is not what the policy alone writes after a prompt of text.

    Args:
        others: the keys of what takes part in rollouts beside the policy (tools and the like).
        has_images: whether prompts have images.
    """
    if "values" not in args.strategy.needs:
        return
    begins = f"credit_strategy: {args.credit_strategy!r} continues responses by the policy alone, and"
    if others:
        raise InputError(f"{begins} {others[0]} takes part in them; write another strategy, or leave {others[0]} out")
    if has_images:
        raise InputError(f"{begins} the prompts have images; write another strategy, or a set without them")
    own = {"min_p": args.min_p, "generation_kwargs": args.generation_kwargs or None}
    own["repetition_penalty"] = None if args.repetition_penalty == 1.0 else args.repetition_penalty
    for name, value in own.items():
        if value is not None and not args.use_vllm:  # TRL's vLLM has them applied to all that it generates
            raise InputError(
                f"{name}: {value} is not applied to the continuations of {args.credit_strategy}; leave it out"
            )


class RolloutValues:
    """Values the states of a rollout.

    Args:
        valuing: which states, and by how many continuations.
        args: the run's settings.
        accelerator: of the processes, each of which values its own rows.
        tokenizer: the policy's.
        rewards: the run's reward functions.
        generating: a context that gives the policy as it generates.
        in_step: whether the processes share the weights, and have to run as many passes as each other.
        vllm: TRL's generator, where vLLM samples.
    """

    def __init__(
        self,
        valuing: Valuing,
        args: CreditGRPOConfig,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        rewards: GuardedRewards,
        generating: Callable[[], AbstractContextManager[PreTrainedModel]],
        in_step: bool = False,
        vllm: Any = None,
    ) -> None:
        self._valuing, self._args, self._accelerator, self._tokenizer = valuing, args, accelerator, tokenizer
        self._rewards, self._generating, self._vllm = rewards, generating, vllm
        self._in_step = in_step

    def of(
        self,
        batch: dict[str, Any],
        inputs: Sequence[dict[str, Any]],
        weights_F: Tensor,
        state: TrainerState,
        response_BN: Tensor,
        rollout: Rollout,
    ) -> tuple[Tensor, dict[str, float]]:
        """V before the tokens that the strategy names, [B, N], nan elsewhere; and what that took, on all processes.

        Args:
            batch: TRL's, before it is shuffled; with the keys of its rows.
            inputs: the data set's rows.
            weights_F: of the reward functions.
            state: of the trainer, which reward functions are given.
            response_BN, rollout: as the strategy will be given them.
        """
        places_BN = self._valuing.places(response_BN, rollout, self._args) & response_BN
        prefixes = self._prefixes(batch, places_BN)
        row_of = {prefix.problem: row for row, prefix in prefixes}

        def score(problems: Sequence[int], responses: Sequence[list[int]]) -> list[float]:
            rows = [inputs[row_of[n]] for n in problems]
            return self._scored(rows, responses, weights_F, state, at_once=len(inputs))

        with self._generating() as policy:
            ends = end_tokens(policy, self._tokenizer)
            service = Continuations(
                self._by_vllm(ends[0], len(inputs)) if self._vllm else self._by_policy(policy, ends),
                score,
                samples=self._valuing.samples(self._args),
                ends=ends,
                batch_size=len(inputs),
                rounds=self._most,
            )
            rewards_PK = torch.from_numpy(service.rewards([prefix for _, prefix in prefixes]))
        self._rewards.agree()
        values_BN = torch.full(response_BN.shape, torch.nan, device=response_BN.device)
        values_BN[places_BN] = rewards_PK.nanmean(1).float().to(values_BN.device)
        counts = torch.tensor([*service.cost, int(rewards_PK.isnan().sum())], device=values_BN.device)
        continuations, tokens, unscored = self._accelerator.reduce(counts, reduction="sum").tolist()
        return values_BN, {
            "credit/continuations": float(continuations),
            "credit/continuation_tokens": float(tokens),
            "credit/continuations_unscored": float(unscored),
        }

    def _prefixes(self, batch: dict[str, Any], places_BN: Tensor) -> list[tuple[int, Prefix]]:
        """The states to be valued, row by row, each with its row."""
        first, generations = batch["prompt_ids"].shape[1], self._args.num_generations
        found = []
        for row, (before, number) in enumerate(batch["credit_keys"].tolist()):
            prompt = tuple(batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist())
            ids, group = batch["completion_ids"][row].tolist(), before + number // generations * generations
            for place in places_BN[row].nonzero()[:, 0].tolist():
                written = place - first
                left = self._args.max_completion_length - written
                found.append((row, Prefix(group, prompt, tuple(ids[:written]), left)))
        return found

    def _most(self, batches: int) -> int:
        """The most batches that a process has."""
        return int(self._accelerator.gather(torch.tensor([batches], device=self._accelerator.device)).max())

    def _by_policy(self, policy: PreTrainedModel, ends: list[int]) -> Generate:
        args = self._args
        sampling = Sampling(args.max_completion_length, args.temperature, args.top_p, args.top_k or 0, args.seed)
        return by_model(policy, sampling, ends, self._tokenizer.pad_token_id, read_once=not self._in_step)

    def _by_vllm(self, end: int, size: int) -> Generate:
        """Every batch has `size` prompts: a server's answer is cut into equal parts for the processes."""

        def generate(draws: Sequence[Draw]) -> list[list[int]]:
            prompts = [list(prefix.prompt + prefix.response) for prefix, _ in draws]
            prompts += [[end]] * (size - len(prompts))
            length = self._vllm.max_completion_length
            self._vllm.max_completion_length = self._most(max((prefix.left for prefix, _ in draws), default=1))
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(_seed_of(self._args.seed, draws))
                    drawn = self._vllm.generate(prompts=prompts, images=None, num_generations=1)[1]
            finally:
                self._vllm.max_completion_length = length
            return [list(ids) for ids in drawn[: len(draws)]]

        return generate

    def _scored(
        self,
        rows: Sequence[dict[str, Any]],
        responses: Sequence[list[int]],
        weights_F: Tensor,
        state: TrainerState,
        *,
        at_once: int,
    ) -> list[float]:
        """The weighted rewards of whole responses, as the run rewards its own: as many in a call."""
        if not rows:
            return []
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0] if name not in NOT_COLUMNS}
        prompts = [row["prompt"] for row in rows]
        completions = self._completions(prompts, responses)
        columns |= {"completion_ids": list(responses), "trainer_state": state, "log_metric": lambda *values: None}
        return total_of(self._rewards.of_others(prompts, completions, columns, at_once), weights_F).tolist()

    def _completions(self, prompts: Sequence[Any], responses: Sequence[list[int]]) -> list[Any]:
        """The responses as TRL gives them to reward functions."""
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        if not is_conversational({"prompt": prompts[0]}):
            return texts
        if any(
            getattr(self._tokenizer, name, None) for name in ("response_template", "response_schema")
        ):  # as TRL asks
            return [[parse_response(self._tokenizer, ids)] for ids in responses]
        return [[{"role": "assistant", "content": text}] for text in texts]


def _seed_of(seed: int, draws: Sequence[Draw]) -> int:
    """A seed that a batch of continuations alone decides."""
    return hash((seed, *(prefix.stream(sample) for prefix, sample in draws))) % 2**63
