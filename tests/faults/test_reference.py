"""The reference of `sync_ref_model` moves, so it is part of a checkpoint."""

from __future__ import annotations

import pytest
import torch

from rlcredit.errors import InputError
from rlcredit.trainers.checkpoints import REFERENCE_FILE
from tests import runs

SYNCED = dict(beta=0.1, sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.5, max_steps=8)


@pytest.mark.thorough
def test_it_is_saved_and_resumed(tmp_path):
    settings = dict(SYNCED, save_strategy="steps", save_steps=4)
    runs.trained(tmp_path / "b", **{**settings, "max_steps": 4}, lr_scheduler_type="constant")
    straight = runs.trained(tmp_path / "a", **SYNCED, lr_scheduler_type="constant")
    second = runs.trainer(tmp_path / "b", **settings, lr_scheduler_type="constant")
    second.train(resume_from_checkpoint="latest")
    assert all(torch.equal(value, runs.parameters(second)[name]) for name, value in runs.parameters(straight).items())
    for one, two in zip(straight.ref_model.parameters(), second.ref_model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_without_it_is_refused(tmp_path):
    runs.trained(tmp_path, beta=0.1, max_steps=2, save_strategy="steps", save_steps=2)
    made = runs.trainer(tmp_path, **SYNCED)
    with pytest.raises(InputError, match=REFERENCE_FILE):
        made.train(resume_from_checkpoint="latest")
