"""From signals to token weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
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
) -> Credit:
    """Weights gamma_t of every token, and who was chosen (arXiv 2510.13554, eq. 13-19).

    Args:
        signals: what `analyze` returns; [B, N] each.
        response_mask: [B, N], true at the positions that carry credit.
        args: the strategy and its numbers.
        row_keys: [B] or [B, K] non-negative integers that identify the rows, for the strategy `random`; the row
            numbers if left out.
        strategy: the one that `args` names, where the caller has looked it up already.

    Returns: weights of 1 outside the response, and in rows whose signals are not finite (`skipped` says which).
        Computed without gradient.
    """
    response = response_mask.bool()
    if row_keys is None:
        row_keys = torch.arange(response.shape[0])
    batch = Batch(signals, response, row_keys.reshape(response.shape[0], -1), args)
    strategy = strategy or strategy_of(args)
    credit = strategy.assign(batch)
    if credit.weights.shape != response.shape:
        raise ValueError(
            f"credit_strategy: {args.credit_strategy!r} gave weights of shape "
            f"{list(credit.weights.shape)} for a batch of {list(response.shape)}"
        )
    credit = replace(credit, weights=torch.where(response, credit.weights.float(), 1.0))
    return credit.skipping(_not_finite(signals, response, strategy.needs))


def _not_finite(signals: AttentionSignals, response_BN: Tensor, needs: frozenset[str]) -> Tensor:
    """Rows with a response whose needed signals hold a value that is not finite: bool [B]."""
    bad_B = torch.zeros_like(response_BN[:, 0])
    if "attention" in needs:
        bad_B = bad_B | ~signals.head_span.isfinite().flatten(1).all(1)
    if "entropy" in needs and signals.entropy is not None:
        bad_B = bad_B | (response_BN & ~signals.entropy.isfinite()).any(1)
    return bad_B & response_BN.any(1)


def credit_weights(
    signals: AttentionSignals, response_mask: Tensor, args: CreditArguments, *, row_keys: Tensor | None = None
) -> Tensor:
    """The weights of `assign_credit` alone: fp32 [B, N], 1 outside the response."""
    return assign_credit(signals, response_mask, args, row_keys=row_keys).weights
