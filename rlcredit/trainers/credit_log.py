"""What a run shows of its credit: metrics of each loss, and columns of TRL's table of completions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from rlcredit.credit import Credit
from rlcredit.signals import AttentionSignals

logger = logging.getLogger(__name__)

# weight_mean is of gamma as the strategy gives it, before credit_normalize and credit_sign.
MEANS = ("weight_mean", "amplified_share", "dominated_share", "waad_mean", "fai_mean")
COLUMNS = {"credit_weight_mean": 1.0, "credit_amplified_share": 0.0}  # and their values without credit


class CreditLog:
    """Notes credit where TRL keeps its own metrics and tables.

    Args:
        trainer: the trainer whose run it is.

    Attributes:
        rows_skipped: completions of the run, on this process, whose signals were not finite: gamma = 1.
        rows_without_fai: those of at most H_lo tokens, where the strategy chooses by FAI: nobody is an anchor.
    """

    of_one_process = True

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._table_is_rollout = True
        self.rows_skipped = self.rows_without_fai = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows_skipped": self.rows_skipped, "rows_without_fai": self.rows_without_fai}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows_skipped = state["rows_skipped"]
        self.rows_without_fai = state.get("rows_without_fai", 0)  # of rlcredit 0.1.0 there is none

    def begin_rollout(self, rows: int) -> None:
        """Make room in the table of completions: gamma = 1 until, and unless, weights are assigned."""
        self._table_is_rollout = self._trainer.model.training
        for column, value in COLUMNS.items():
            self._extra[column].extend([value] * (rows * self._trainer.accelerator.num_processes))

    def note_batch(self, batch: dict[str, Any], skipped: int) -> None:
        """Count the rows that carry no credit, and fill in the table of completions, for a batch whose weights are
        assigned; rows may come in any order, a part at a time."""
        if skipped and not self.rows_skipped:
            logger.warning(
                "signals that are not finite: %d completions of this batch keep weight 1 on every token; "
                "credit/rows_skipped counts them from here on",
                skipped,
            )
        self.rows_skipped += skipped
        if self._trainer.strategy.by_fai:
            self._note_without_fai(batch["credit_totals"])
        if not (self._trainer.log_completions and self._table_is_rollout):
            return
        means = batch["credit_totals"][:, :2, 0] / batch["credit_totals"][:, :2, 1].clamp(min=1)
        numbers = batch["credit_keys"][:, 1:].to(means.dtype)
        for number, *values in self._trainer.accelerator.gather(torch.cat([numbers, means], dim=1)).tolist():
            for column, value in zip(COLUMNS, values, strict=True):
                self._extra[column][int(number)] = value

    def _note_without_fai(self, totals_B52: Tensor) -> None:
        """Count the responses without any FAI, and say once what to set."""
        tokens_B, with_fai_B = totals_B52[:, 0, 1], totals_B52[:, MEANS.index("fai_mean"), 1]
        short = int(((tokens_B > 0) & (with_fai_B == 0)).sum())
        if short and not self.rows_without_fai:
            low, high = self._trainer.args.credit_fai_horizon
            logger.warning(
                "%d of %d responses of this batch have at most %d tokens, and so no anchors: their weights stay 1. "
                "For short answers write credit_fai_horizon: [%d, %d], say; credit/rows_without_fai counts them",
                *(short, len(totals_B52), low, min(2, low), high),
            )
        self.rows_without_fai += short

    def note_advantages(self, advantages_BT: Tensor, mask_BT: Tensor, keys_BK: Tensor) -> None:
        """The table's column of advantages: each completion's mean over its tokens, in place of the group's."""
        if not (self._trainer.log_completions and self._table_is_rollout):
            return
        means = (advantages_BT.double() * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
        pairs = torch.stack([keys_BK[:, 1].double(), means], dim=1)
        for number, mean in self._trainer.accelerator.gather(pairs).tolist():
            self._trainer._logs["advantages"][int(number)] = mean

    def note_loss(self, totals_B52: Tensor) -> None:
        """credit/* of one loss: means over the tokens of all processes, and the run's counts of rows without any."""
        counts = torch.tensor([float(self.rows_skipped), float(self.rows_without_fai)], device=totals_B52.device)
        totals, counts = self._trainer.accelerator.reduce([totals_B52.sum(0), counts], reduction="sum")
        for name, (top, below) in zip(MEANS, totals.tolist(), strict=True):
            if below > 0:  # a metric that nothing was counted for is left out
                self._metrics[f"credit/{name}"].append(top / below)
        self._metrics["credit/rows_skipped"].append(counts[0].item())
        if self._trainer.strategy.by_fai:
            self._metrics["credit/rows_without_fai"].append(counts[1].item())

    def note_seconds(self, seconds: float) -> None:
        """The time of an optimiser step that went into credit; TRL has noted the whole step's before."""
        self._metrics["credit/seconds"].append(seconds)
        self._metrics["credit/time_share"].append(seconds / self._metrics["step_time"][-1])

    @property
    def _metrics(self) -> dict[str, list[float]]:
        return self._trainer._metrics["train"]

    @property
    def _extra(self) -> dict[str, Any]:
        return self._trainer._logs["extra"]


def totals_of_rows(credit: Credit, signals: AttentionSignals | None, response_BN: Tensor) -> Tensor:
    """Sums over tokens whose ratios are the `MEANS`, per row, so that reused rollouts have them: fp32 [B, 5, 2], for
    each metric its numerator and its denominator."""
    pairs = [
        (credit.weights * response_BN, response_BN),
        ((credit.weights > 1) & response_BN, response_BN),
        (credit.dominated, credit.anchor),
        *((x_BN.nan_to_num(nan=0.0), ~x_BN.isnan()) for x_BN in ([signals.waad, signals.fai] if signals else [])),
    ]
    pairs += [(torch.zeros_like(response_BN), torch.zeros_like(response_BN))] * (len(MEANS) - len(pairs))
    return torch.stack([torch.stack([top.sum(1).float(), below.sum(1).float()], -1) for top, below in pairs], 1)
