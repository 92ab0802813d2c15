"""From signals to token weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.call import called
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

    Raises: ValueError of one line if the strategy needs a rollout and there is none, or for what `called` refuses.
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
    skipped = _not_finite(signals, rollout, response, strategy.needs)
    counts = response & ~skipped[:, None]
    keys = row_keys.reshape(response.shape[0], -1)
    credit = called(strategy, Batch(signals, response, keys, args, rollout), counts)
    weights = torch.where(response, credit.weights.float(), 1.0)
    advantages = None if credit.advantages is None else torch.where(counts, credit.advantages.float(), 0.0)
    return replace(credit, weights=weights, advantages=advantages).skipping(skipped)


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
