"""Head groups that all rows share."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from rlcredit import CreditArguments
from rlcredit.credit import strategy_of
from rlcredit.signals import HeadStatistics
from rlcredit.trainers.reader import CreditReader
from tests.reference import loop


@pytest.mark.parametrize("grouping", ["batch", "frozen"])
@pytest.mark.parametrize("heads", ["grouped", "receiver"])
def test_shared_groups_come_from_the_mean_score_over_responses(grouping, heads):
    made = torch.Generator().manual_seed(0)
    span, fai = torch.rand(3, 2, 5, generator=made), torch.rand(3, 2, 5, 12, generator=made)
    fai[..., 9:] = torch.nan
    fai[1, 0, 2, :9] = 0.5  # all equal: this response has no kurtosis for this head
    fai[:, 1, 4, :9] = 0.5  # nor has any response for this one
    args = CreditArguments(credit_head_grouping=grouping, credit_heads=heads)
    reader = CreditReader(args, strategy_of(args), Accelerator(cpu=True))
    signals = reader._share_groups(HeadStatistics([3, 4], span, torch.rand(3, 2, 5, 12), fai))
    names = [(layer, head) for layer in range(2) for head in range(5)]
    far = {name: [span[row][name].item() for row in range(3)] for name in names}
    if heads == "receiver":
        rows = {name: [fai[row][name][:9].tolist() for row in range(3)] for name in names}
        far = {name: [loop.kurtosis(v) for v in values if len(set(v)) > 1] for name, values in rows.items()}
        assert len(far[0, 2]) == 2 and not far[1, 4]
    mean = {name: sum(values) / len(values) if values else -1 for name, values in far.items()}
    wanted = sorted(sorted(names, key=lambda name: mean[name])[-3:])
    for row in range(3):
        assert [tuple(pair) for pair in signals.global_heads[row].nonzero().tolist()] == wanted
    assert (reader.frozen is not None) == (grouping == "frozen")
