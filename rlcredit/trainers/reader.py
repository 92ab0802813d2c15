"""CreditReader: from a running pass to the weights of a batch, over all processes of a run.

The trainer decides which pass is read; the reader knows layers, head groups and the strategy. It holds the frozen head
groups, how many rows carried no credit, and the seconds spent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlcredit.attention import Capture, open_capture, signals_maker, with_entropy
from rlcredit.credit import Credit, CreditArguments, assign_credit, find_strategy
from rlcredit.signals import (
    AttentionSignals,
    HeadGroups,
    HeadStatistics,
    group_heads,
    receiver_kurtosis,
    signals_of_groups,
    sum_over_responses,
)

logger = logging.getLogger(__name__)


class CreditReader:
    """Reads signals and assigns credit for the trainer.

    Args:
        args: the credit settings.
        accelerator: reduces `batch` and `frozen` head groups over processes; nothing else is exchanged.

    Attributes:
        frozen: the head groups of a run with `credit_head_grouping: frozen`, once calibrated.
        rows_skipped: completions of the run, on this process, whose signals were not finite: gamma = 1.
    """

    def __init__(self, args: CreditArguments, accelerator: Accelerator) -> None:
        self._args, self._accelerator = args, accelerator
        needs = find_strategy(args.credit_strategy).needs
        self.needs_attention, self.needs_entropy = "attention" in needs, "entropy" in needs
        self.frozen: HeadGroups | None = None
        self.rows_skipped = 0
        self.seconds = 0.0

    @property
    def needs_a_pass(self) -> bool:
        return self.needs_attention or self.needs_entropy

    @property
    def needs_whole_batch(self) -> bool:
        """Whether head groups come from the whole generation batch, before its first loss forward."""
        return self.needs_attention and self._shared_groups and self.frozen is None

    @property
    def _shared_groups(self) -> bool:
        return self._args.credit_head_grouping != "response" and self._args.credit_heads != "all"

    def open(self, model: nn.Module, real_mask: Tensor, response_mask: Tensor, *, stop_early: bool = False) -> Capture:
        """A capture for the rows of one batch; [B, N] masks."""
        options: dict[str, Any] = {"stop_early": stop_early}
        if not self.needs_whole_batch:  # per-head values are reduced chunk by chunk
            options["finish"] = signals_maker(self._args, self.frozen if self._shared_groups else None)
        return open_capture(model, self._args, real_mask, response_mask, **options)

    def signals(self, capture: Capture | None, entropy: Tensor | None, response_mask: Tensor) -> AttentionSignals:
        """The signals of a finished pass.

        Args:
            capture: the capture that was open, or None where attention was not needed.
            entropy: [B, T] of the last T positions, or None where it was not needed.
            response_mask: [B, N].
        """
        if entropy is not None:
            before = response_mask.shape[1] - entropy.shape[1]
            entropy = nn.functional.pad(entropy.detach().float(), (before, 0), value=torch.nan)
            entropy = torch.where(response_mask, entropy, torch.nan)
        if capture is None:
            assert entropy is not None
            return AttentionSignals.without_attention(entropy)
        self.seconds += capture.seconds
        with self.clocked():
            chunks = capture.results()
            if isinstance(chunks[0], HeadStatistics):
                signals = self._share_groups(HeadStatistics.cat(chunks))
            else:
                signals = AttentionSignals.cat(chunks)
            return signals if entropy is None else with_entropy(signals, entropy)

    def credit(self, signals: AttentionSignals | None, response_mask: Tensor, row_keys: Tensor) -> Credit:
        """The weights of a batch; [B, N]. `signals` is None for strategies that read nothing."""
        with self.clocked():
            if signals is None:
                signals = AttentionSignals.without_attention(torch.full(response_mask.shape, torch.nan))
            credit = assign_credit(signals, response_mask, self._args, row_keys=row_keys)
            if skipped := int(credit.skipped.sum()):
                if not self.rows_skipped:
                    logger.warning(
                        "signals that are not finite: %d completions of this batch keep weight 1 on every token; "
                        "credit/rows_skipped counts them from here on",
                        skipped,
                    )
                self.rows_skipped += skipped
            return credit

    def _share_groups(self, statistics: HeadStatistics) -> AttentionSignals:
        """One split for all rows of all processes, from the mean of each head's score over responses."""
        receiver = self._args.credit_heads == "receiver"
        groups = group_heads(
            self._mean(statistics.span_BLH),
            self._args.credit_head_fraction,
            kurtosis_BLH=self._mean(receiver_kurtosis(statistics.fai_BLHN)) if receiver else None,
        )
        if self._args.credit_head_grouping == "frozen" and groups.local_BLH.any():
            self.frozen = groups
        return signals_of_groups(statistics, groups)

    def _mean(self, score_BLH: Tensor) -> Tensor:
        """Mean over the responses of all processes, each counting once: [1, L, H]; nan where none has the score."""
        total_LH, count_LH = self._accelerator.reduce(list(sum_over_responses(score_BLH)), reduction="sum")
        return (total_LH / count_LH)[None]

    @contextmanager
    def clocked(self) -> Iterator[None]:
        """Count the time spent inside as credit's (on a GPU: the time to launch the work)."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def take_seconds(self) -> float:
        """Seconds spent on credit since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass(frozen=True)
class CreditTotals:
    """Sums over tokens whose ratios are a step's credit metrics; kept per row, so that reused rollouts have them."""

    NAMES = ("weight_mean", "amplified_share", "dominated_share", "waad_mean", "fai_mean")

    @staticmethod
    def of_rows(credit: Credit, signals: AttentionSignals | None, response: Tensor) -> Tensor:
        """[B, 5, 2]: for each metric its numerator and denominator, per row."""
        chosen = (credit.weights != 1) & response
        pairs = [
            (credit.weights * response, response),
            (chosen, response),
            (credit.dominated, credit.anchor),
            *((_known(x), ~x.isnan()) for x in ([signals.waad, signals.fai] if signals else [])),
        ]
        pairs += [(torch.zeros_like(response), torch.zeros_like(response))] * (len(CreditTotals.NAMES) - len(pairs))
        return torch.stack([torch.stack([top.sum(1).float(), below.sum(1).float()], -1) for top, below in pairs], 1)

    @staticmethod
    def means(totals: Tensor) -> dict[str, float]:
        """Means of [5, 2] totals; a metric that nothing was counted for is left out."""
        values = dict(zip(CreditTotals.NAMES, totals.tolist(), strict=True))
        return {name: top / below for name, (top, below) in values.items() if below > 0}


def _known(x: Tensor) -> Tensor:
    return x.nan_to_num(nan=0.0)
