"""The weights that a run trains with, against those of the public analyzer."""

from __future__ import annotations

import torch

from rlcredit import CreditGRPOTrainer, analyze, assign_credit
from rlcredit.signals import group_heads
from rlcredit.trainers.rows import joined, response_mask


class Recorder(CreditGRPOTrainer):
    """Keeps what reaches TRL's loss, and the weights that the public analyzer gives for each rollout."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.wanted, self.heads = [], {}, None

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        masks = joined(batch, "ids"), joined(batch, "mask"), response_mask(batch)
        signals = analyze(self.model, *masks, self.args)
        if (grouping := self.args.credit_head_grouping) != "response":
            if grouping == "batch" or self.heads is None:
                self.heads = group_heads(signals.head_span.mean(0, keepdim=True), self.args.credit_head_fraction)
            signals = analyze(self.model, *masks, self.args, heads=self.heads)
        credit = assign_credit(signals, masks[2], self.args, row_keys=batch["credit_keys"])
        weights = credit.weights[:, -batch["completion_ids"].shape[1] :]
        self.wanted |= dict(zip(map(tuple, batch["credit_keys"].tolist()), weights, strict=True))
        return batch

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.seen.append({name: inputs[name] for name in ("credit_weights", "credit_keys", "advantages")})
        return loss

    def weights_by_row(self) -> dict[tuple[int, ...], torch.Tensor]:
        return {
            tuple(key): weights
            for batch in self.seen
            for key, weights in zip(batch["credit_keys"].tolist(), batch["credit_weights"], strict=True)
        }


def assert_as_analyzed(made: Recorder) -> None:
    """The weights that were trained with are the analyzer's. The analyzer reads the rows in other batches, which moves
    a signal by a rounding: of two tokens that tie, the other one may be chosen."""
    weights = made.weights_by_row()
    assert weights and weights.keys() <= made.wanted.keys()
    assert any((row != 1).any() for row in weights.values())
    differ = sum((row != made.wanted[key][: len(row)]).sum().item() for key, row in weights.items())
    assert differ <= 0.01 * sum(row.numel() for row in weights.values())
