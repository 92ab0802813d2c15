"""What a strategy is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.rollout import PARTS, Rollout
from rlcredit.credit.values import Valuing
from rlcredit.signals import AttentionSignals

NO_INTRO = -1
SIGNALS = frozenset({"attention", "entropy"})


@dataclass(frozen=True)
class Credit:
    """Token weights of a batch of responses, advantages of its own where a strategy has them, and who was chosen.

    Attributes:
        weights: [B, N] fp32, the factor gamma_t of each token's advantage (eq. 12); 1 outside the response.
        preplan: [B, N] bool, T_loc: where the local heads suddenly look elsewhere (eq. 14).
        anchor: [B, N] bool, T_glob: tokens that later ones keep looking back at (eq. 16).
        dominated: [B, N] bool, the anchors whose credit is shared with their introductory token (eq. 18).
        intro: [B, N] int64, for each dominated anchor the index of its introductory token; -1 elsewhere.
        skipped: [B] bool, rows that carry no credit because their signals were not finite; set by `assign_credit`.
        advantages: [B, N] fp32, in place of the trainer's advantages and with their sign; None: the trainer's stay.
    """

    weights: Tensor
    preplan: Tensor
    anchor: Tensor
    dominated: Tensor
    intro: Tensor
    skipped: Tensor
    advantages: Tensor | None = None

    @staticmethod
    def of(
        weights: Tensor | None = None,
        *,
        advantages: Tensor | None = None,
        preplan: Tensor | None = None,
        anchor: Tensor | None = None,
        dominated: Tensor | None = None,
        intro: Tensor | None = None,
    ) -> Credit:
        """A credit in which nobody is chosen but those named: of weights, of advantages (weights of 1), or of both."""
        if weights is None:
            if advantages is None:
                raise ValueError("Credit.of: give weights, advantages, or both")
            weights = torch.ones_like(advantages)
        nobody = torch.zeros_like(weights, dtype=torch.bool)
        return Credit(
            weights,
            nobody if preplan is None else preplan,
            nobody if anchor is None else anchor,
            nobody if dominated is None else dominated,
            torch.full_like(weights, NO_INTRO, dtype=torch.int64) if intro is None else intro,
            torch.zeros(weights.shape[0], dtype=torch.bool, device=weights.device),
            advantages,
        )

    def rows(self, rows: slice, columns: slice) -> Credit:
        """The credit of some rows and positions."""
        cut: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            cut[item.name] = value if value is None else value[rows] if value.dim() == 1 else value[rows, columns]
        return Credit(**cut)

    def skipping(self, rows_B: Tensor) -> Credit:
        """The same credit with nobody chosen in some rows."""
        gone = rows_B[:, None]
        return Credit(
            self.weights.masked_fill(gone, 1.0),
            self.preplan & ~gone,
            self.anchor & ~gone,
            self.dominated & ~gone,
            self.intro.masked_fill(gone, NO_INTRO),
            rows_B,
            self.advantages,
        )


@dataclass(frozen=True)
class Batch:
    """What a strategy is given.

    Attributes:
        signals: what was read of the pass; fields that the strategy does not need may be nan or empty.
        response: [B, N] bool, R: the positions that carry credit.
        row_keys: [B, K] int64, the identity of each row, non-negative; the only source of randomness.
        args: the credit settings.
        rollout: what the strategy asks for beside signals; None where it asks for nothing else, and where `analyze`
            assigns credit to responses that are of no rollout.
    """

    signals: AttentionSignals
    response: Tensor
    row_keys: Tensor
    args: CreditArguments
    rollout: Rollout | None = None


def _nothing_to_check(args: CreditArguments) -> None:
    """Refuse options that would be ignored."""
    if args.credit_options:
        keys = ", ".join(map(str, args.credit_options))
        raise ValueError(
            f"credit_options: {keys}: the strategy {args.credit_strategy!r} takes no options; remove them"
        )


@dataclass(frozen=True)
class Strategy:
    """A credit strategy: one formula, and what it has to be given.

    Attributes:
        assign: batch -> Credit. Pure; draws nothing from the global random streams.
        needs: what it reads: "attention" (WAAD and FAI) and "entropy" of the signals, and parts of the rollout, which
            `rlcredit.credit.rollout` lists; what is not named is not computed. Empty for nothing.
        validate: raises a ValueError of one line if `args.credit_options` are not what it takes.
        neutral: whether gamma is 1 everywhere, so that a trainer leaves TRL's advantages as they are.
        gives_advantages: whether it gives advantages in place of the group's; PPO has a critic for them.
        signed: whether gamma may be below 0.
        by_fai: whether tokens are chosen by FAI, which a response of at most H_lo tokens does not have.
        values: which states are valued, where it needs `values`.
    """

    assign: Callable[[Batch], Credit]
    needs: frozenset[str] = frozenset({"attention"})
    validate: Callable[[CreditArguments], None] = _nothing_to_check
    neutral: bool = False
    gives_advantages: bool = False
    signed: bool = False
    by_fai: bool = False
    values: Valuing | None = None

    def __post_init__(self) -> None:
        if not callable(self.assign):
            raise ValueError(f"Strategy.assign: a {type(self.assign).__name__} is no function; write batch -> Credit")
        if isinstance(self.needs, str):
            raise ValueError(f'Strategy.needs: {self.needs!r} is a text; write frozenset({{"{self.needs}"}})')
        object.__setattr__(self, "needs", frozenset(self.needs))
        if unknown := self.needs - PARTS - SIGNALS:
            names = ", ".join(sorted(SIGNALS | PARTS))
            raise ValueError(f"Strategy.needs: {', '.join(sorted(map(str, unknown)))} is not known; there are {names}")
        if ("values" in self.needs) != (self.values is not None):
            raise ValueError(
                "Strategy.values: says which states are valued; write it together with 'values' among the needs"
            )

    @property
    def of_rollout(self) -> bool:
        """Whether it is given a rollout as a whole."""
        return not self.needs.isdisjoint(PARTS)
