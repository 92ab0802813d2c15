"""monte_carlo where vLLM samples: values by its continuations, counted, and rewarded as whole responses."""

from __future__ import annotations

import pytest
import torch

from rlcredit import CreditGRPOTrainer
from tests.vllm import watch

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engine")]
OPTIONS = {"samples": 4, "where": "every", "scale": "none"}


class Kept(CreditGRPOTrainer):
    """Keeps the values that the strategy was given."""

    def _valued(self, batch, inputs, response_BN, rollout):
        values = super()._valued(batch, inputs, response_BN, rollout)
        self.valued = [*getattr(self, "valued", []), (values, response_BN, rollout.reward)]
        return values


def test_values_are_means_of_rewards_of_whole_responses(policy, tmp_path):
    made = watch.trainer(
        tmp_path, policy, Kept, credit_strategy="monte_carlo", credit_options=OPTIONS, logging_steps=1
    )
    before = made.vllm_generation.max_completion_length
    made.train()
    assert made.vllm_generation.max_completion_length == before
    assert len(made.valued) == made.state.global_step == 5
    for line, (values, response, reward) in zip(made.state.log_history, made.valued, strict=False):
        assert torch.equal(values.isfinite(), response)
        assert values[response].min() >= 0 and values[response].std() > 0
        assert 0 < line["credit/continuations"] <= 4 * int(response.sum())
        assert line["credit/continuations"] <= line["credit/continuation_tokens"]
        # before the last token of a response that was cut off, one token is to come, worth 0.05 and 0.001 at most
        last = (response.long().cumsum(1) == 16) & response
        assert (values[last] - reward[response.sum(1) == 16]).abs().max() <= 0.06
