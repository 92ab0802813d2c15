"""The rollout as a strategy is given it: made of TRL's batch, and of all processes where groups have to be whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rlcredit.analysis.token_texts import plain_texts, token_texts, tokens_within
from rlcredit.credit import Credit, Rollout
from rlcredit.credit.rollout import turns_of
from rlcredit.errors import InputError
from rlcredit.signals import AttentionSignals
from rlcredit.tasks.base import AnswerSpan
from rlcredit.trainers.grpo_config import CreditGRPOConfig
from rlcredit.trainers.rows import joined, response_mask, total_of


def refuse_unknown_answer(args: CreditGRPOConfig, answer_span: AnswerSpan | None) -> None:
    """Refuse settings that need the answer's place with a task that does not know it."""
    if answer_span is not None:
        return
    settings = {
        f"credit_strategy: {args.credit_strategy!r}": "answer" in args.strategy.needs,
        f"credit_fai_rows: {args.credit_fai_rows!r}": args.reads_answer_rows,
    }
    for setting, asks in settings.items():
        if asks:
            raise InputError(
                f"{setting} needs the place of the answer, which the task does not know; write a task with a checker, "
                "or CreditGRPOTrainer(..., answer_span=...)"
            )


@dataclass
class Rows:
    """What credit is assigned to: the rows of this process, or of all of them.

    Attributes:
        signals: [B, N] each; None where the strategy reads none.
        response: [B, N] bool.
        keys: [B, K].
        rollout: what the strategy asked for.
        own: the rows of this process among them, and their positions.
    """

    signals: AttentionSignals | None
    response: Tensor
    keys: Tensor
    rollout: Rollout
    own: tuple[slice, slice] = (slice(None), slice(None))

    def own_part(self, credit: Credit) -> Credit:
        return credit.rows(*self.own)


class RolloutMaker:
    """Makes the rollout that a strategy asks for.

    Args:
        needs: the parts that it names.
        accelerator: gathers them where groups are needed.
        tokenizer: gives the text of tokens.
        answer_span: where the answer of a text is.
    """

    def __init__(
        self,
        needs: frozenset[str],
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        answer_span: AnswerSpan | None = None,
    ) -> None:
        self._needs, self._accelerator, self._tokenizer = needs, accelerator, tokenizer
        self._answer_span = answer_span

    def rows_of(
        self,
        batch: dict[str, Any],
        signals: AttentionSignals | None,
        *,
        logps_BT: Tensor | None,
        log_sum_sq_BT: Tensor | None,
        scores_BF: Tensor,
        steps_BT: tuple[Tensor, Tensor] | None,
        weights_F: Tensor,
        inputs: list[dict[str, Any]],
        generations: int,
        valued: Callable[[Tensor, Rollout], Tensor] | None = None,
    ) -> Rows:
        """The rows of TRL's batch, before it is shuffled.

        Args:
            logps_BT, log_sum_sq_BT: of the tokens of the completions, where asked for.
            scores_BF: what each function gave the rows of all processes.
            steps_BT: the rewards of steps and where steps end, where asked for.
            weights_F: of the functions.
            inputs: the data set's rows.
            generations: completions of a prompt.
            valued: gives the values of states, of the response mask and the rollout, where asked for.
        """
        needs, response = self._needs, response_mask(batch)
        rows, length = len(response), batch["completion_ids"].shape[1]
        first = self._accelerator.process_index * rows
        prompt, ids, real = response.shape[1] - length, joined(batch, "ids"), joined(batch, "mask").bool()

        def placed(x_BT: Tensor | None) -> Tensor | None:
            if x_BT is None:
                return None
            x_BN = pad(x_BT.detach().float(), (prompt, 0), value=torch.nan)
            return torch.where(response, x_BN, torch.nan)

        step_rewards, step_ends = (None, None) if steps_BT is None else (pad(x, (prompt, 0)) for x in steps_BT)
        scores = scores_BF[first : first + rows]
        numbers = torch.arange(first, first + rows, device=response.device)
        rollout = Rollout(
            input_ids=ids if "ids" in needs else None,
            real=real if "ids" in needs else None,
            logps=placed(logps_BT) if "logps" in needs else None,
            log_sum_sq=placed(log_sum_sq_BT) if "sum_sq" in needs else None,
            reward=total_of(scores, weights_F) if "rewards" in needs else None,
            rewards_BF=scores if "rewards" in needs else None,
            step_rewards=step_rewards,
            step_ends=step_ends,
            advantages=batch["advantages"] if "advantages" in needs else None,
            groups=numbers // generations if "groups" in needs else None,
            columns=[dict(row) for row in inputs] if "columns" in needs else None,
            text=self._texts(ids, real, length) if "text" in needs else None,
            turns=turns_of(response) if "turns" in needs else None,
            answer=response & self.answers(ids, real, length) if "answer" in needs else None,
        )
        if "values" in needs:
            assert valued is not None
            rollout = replace(rollout, values=valued(response, rollout))
        made = Rows(signals, response, batch["credit_keys"], rollout)
        return self._together(made, prompt) if "groups" in needs else made

    def _texts(self, ids_BN: Tensor, real_BN: Tensor, after: int) -> list[list[str]]:
        """The text of each position; "" for padding. The last `after` positions are the completion's."""
        before, rows = ids_BN.shape[1] - after, []
        for prompt, completion in _written(ids_BN, real_BN, after):
            texts = [*token_texts(self._tokenizer, [], prompt), *token_texts(self._tokenizer, prompt, completion)]
            rows.append([*[""] * (before - len(prompt)), *texts, *[""] * (after - len(completion))])
        return rows

    def answers(self, ids_BN: Tensor, real_BN: Tensor, length: int) -> Tensor:
        """The tokens of each completion's answer, bool [B, N]; a completion is the last `length` positions."""
        assert self._answer_span is not None
        answer = torch.zeros_like(real_BN, dtype=torch.bool)
        for row_N, (prompt, completion) in zip(answer, _written(ids_BN, real_BN, length), strict=True):
            texts = plain_texts(self._tokenizer, prompt, completion)
            if (span := self._answer_span("".join(texts))) is not None:
                first = len(row_N) - length
                row_N[first : first + len(texts)] = torch.tensor(tokens_within(texts, *span), device=row_N.device)
        return answer

    def _together(self, mine: Rows, prompt: int) -> Rows:
        """The rows of all processes in their order, padded on both sides to the longest."""
        accelerator, (rows, length) = self._accelerator, mine.response.shape
        sizes = accelerator.gather(torch.tensor([[prompt, length - prompt]], device=mine.response.device))
        before, after = sizes.amax(0).tolist()
        pads = before - prompt, after - (length - prompt)

        def gathered(x: Any, fill: float = 0) -> Any:
            if x is None:
                return None
            if not isinstance(x, Tensor):
                return gather_object(list(x))
            if x.dim() == 2 and x.shape[1] == length:
                x = pad(x, pads, value=fill)
            there = accelerator.gather((x.byte() if x.dtype == torch.bool else x).contiguous())
            return there.to(x.dtype)

        nan = torch.nan
        signals, rollout = mine.signals, mine.rollout
        if signals is not None:
            signals = replace(
                signals,
                **{name: gathered(getattr(signals, name)) for name in ("head_span", "local_heads", "global_heads")},
                **{name: gathered(getattr(signals, name), nan) for name in ("waad", "fai", "entropy")},
            )
        fills = {"logps": nan, "log_sum_sq": nan, "values": nan, "turns": -1}
        if rollout.text is not None:
            blank = [""] * pads[0], [""] * pads[1]
            rollout = replace(rollout, text=[[*blank[0], *row, *blank[1]] for row in rollout.text])
        parts = {name: gathered(value, fills.get(name, 0)) for name, value in vars(rollout).items()}
        first = accelerator.process_index * rows
        own = slice(first, first + rows), slice(pads[0], pads[0] + length)
        return Rows(
            signals, gathered(mine.response), accelerator.gather(mine.keys.contiguous()), Rollout(**parts), own
        )


def _written(ids_BN: Tensor, real_BN: Tensor, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """The ids of each row's prompt and completion, without padding."""
    for ids, real in zip(ids_BN, real_BN.bool(), strict=True):
        yield ids[:-length][real[:-length]].tolist(), ids[-length:][real[-length:]].tolist()
