"""From signals to token weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.rollout import Rollout
from rlcredit.credit.strategies import strategy_of
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.signals import AttentionSignals


@torch.no_grad()
def assign_credit(
    signals: AttentionSignals,
    response_mask: Tensor,
    args: CreditArguments,
    *,
    row_keys: Tensor | None = None,
    strategy: Strategy | None = None,
    rollout: Rollout | None = None,
) -> Credit:
    """Weights gamma_t of every token, and who was chosen (arXiv 2510.13554, eq. 13-19).

    Args:
        signals: what `analyze` returns; [B, N] each.
        response_mask: [B, N], true at the positions that carry credit.
        args: the strategy and its numbers.
        row_keys: [B] or [B, K] non-negative integers that identify the rows, for the strategy `random`; the row
            numbers if left out.
        strategy: the one that `args` names, where the caller has looked it up already.
        rollout: what the strategy needs beside signals, of the same rows.

    Returns: weights of 1 outside the response, and in rows whose signals are not finite (`skipped` says which).
        Computed without gradient.

    Raises: ValueError of one line if the strategy needs a rollout and there is none, gives no Credit, weights or
        advantages of another shape, a weight that is negative or not finite, or an advantage that is not finite.
    """
    response = response_mask.bool()
    if row_keys is None:
        row_keys = torch.arange(response.shape[0])
    strategy = strategy or strategy_of(args)
    if rollout is None and strategy.of_rollout:
        raise ValueError(
            f"credit_strategy: {args.credit_strategy!r} needs the rewards and the like of a rollout in training, "
            "which single responses do not have; write a strategy that reads attention or entropy"
        )
    batch = Batch(signals, response, row_keys.reshape(response.shape[0], -1), args, rollout)
    credit = _checked(strategy.assign(batch), response, args.credit_strategy, strategy.gives_advantages)
    skipped = _not_finite(signals, rollout, response, strategy.needs)
    counts = response & ~skipped[:, None]
    _refuse(
        credit.weights, counts & ~((credit.weights >= 0) & credit.weights.isfinite()), args, "weight", " of 0 or more"
    )
    advantages = credit.advantages
    if advantages is not None:
        _refuse(advantages, counts & ~advantages.isfinite(), args, "advantage")
        advantages = torch.where(counts, advantages.float(), 0.0)
    weights = torch.where(response, credit.weights.float(), 1.0)
    return replace(credit, weights=weights, advantages=advantages).skipping(skipped)


def _refuse(values_BN: Tensor, bad_BN: Tensor, args: CreditArguments, what: str, limit: str = "") -> None:
    """Raise a ValueError that names the first bad value that a strategy gave."""
    if bad_BN.any():
        row, column = bad_BN.nonzero()[0].tolist()
        article = "an" if what[0] in "aeiou" else "a"
        raise ValueError(
            f"credit_strategy: {args.credit_strategy!r} gave the {what} {values_BN[row, column]:g} (row {row}, "
            f"position {column}); {article} {what} is a finite number{limit}"
        )


def _checked(credit: Any, response_BN: Tensor, name: str, gives_advantages: bool) -> Credit:
    """What a strategy gave, if that is a Credit of the batch."""
    if not isinstance(credit, Credit):
        raise ValueError(
            f"credit_strategy: {name!r} gave a {type(credit).__name__}; return rlcredit.Credit.of(weights)"
        )
    if credit.advantages is not None and not gives_advantages:
        raise ValueError(
            f"credit_strategy: {name!r} gave advantages without saying so; write Strategy(..., gives_advantages=True)"
        )
    for what, given in (("weight", credit.weights), ("advantage", credit.advantages)):
        if given is not None and given.shape != response_BN.shape:
            raise ValueError(
                f"credit_strategy: {name!r} gave {what}s of shape {list(given.shape)} for a batch of "
                f"{list(response_BN.shape)}; return one {what} for each position"
            )
    return credit


def _not_finite(
    signals: AttentionSignals, rollout: Rollout | None, response_BN: Tensor, needs: frozenset[str]
) -> Tensor:
    """Rows with a response where something that was read of a pass is not finite: bool [B]."""
    bad_B = torch.zeros_like(response_BN[:, 0])
    if "attention" in needs:
        bad_B = bad_B | ~signals.head_span.isfinite().flatten(1).all(1)
    read = [signals.entropy] if "entropy" in needs else []
    read += [rollout.logps, rollout.log_sum_sq] if rollout is not None else []
    for x_BN in read:
        if x_BN is not None:
            bad_B = bad_B | (response_BN & ~x_BN.isfinite()).any(1)
    return bad_B & response_BN.any(1)


def credit_weights(
    signals: AttentionSignals, response_mask: Tensor, args: CreditArguments, *, row_keys: Tensor | None = None
) -> Tensor:
    """The weights of `assign_credit` alone: fp32 [B, N], 1 outside the response."""
    return assign_credit(signals, response_mask, args, row_keys=row_keys).weights
