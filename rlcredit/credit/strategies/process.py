"""process: a token has the rewards of the steps that it can still change (process supervision of GRPO, DeepSeekMath,
arXiv 2402.03300, section 4.1.3).

Formula:  baseline: group         the rewards of all steps of the group are normalised, r' = (r - mean) / (std + 1e-4);
                                  A_t = the sum of r' over the steps that end at t or later.
          baseline: return_to_go  A_t = G_t - the mean of G at the same place over the responses of the group that
                                  reach it; G_t = the sum of r over the steps that end at t or later.
          In place of GRPO's advantage.
Reads:    rewards and their steps (docs/rewards.md), groups. A function that gives one number for a response rewards a
          step that ends with its last token.
Edges:    a group without steps: A = 0; with `group` also where the rewards of all steps are equal. A response without
          a score: A = 0, and it is in nobody's baseline.
Ours [not in the paper]: `return_to_go`, which compares responses with different numbers of steps by what was still to
          come, and whose A_t has the unit of the rewards; 1e-4, which is TRL's.
"""

import torch

from rlcredit.credit.groups import class_moments, class_sum, counted, to_go, to_places, to_positions
from rlcredit.credit.options import Options
from rlcredit.credit.types import Batch, Credit, Strategy

EPSILON = 1e-4
OPTIONS = Options(weights=False, baseline=("group", "return_to_go"))


def _assign(batch: Batch) -> Credit:
    rollout = batch.rollout
    assert rollout is not None and rollout.reward is not None and rollout.groups is not None
    assert rollout.step_rewards is not None and rollout.step_ends is not None
    response, groups = counted(batch.response, rollout.reward), rollout.groups
    rewards, ends = rollout.step_rewards.double(), rollout.step_ends & response
    if OPTIONS.of(batch.args)["baseline"] == "group":
        mean, std = class_moments(rewards, ends, groups)
        advantage = to_go(torch.where(ends, (rewards - mean) / (std + EPSILON), 0.0))
        return Credit.of(advantages=torch.where(response, advantage, 0.0).float())
    returns = to_places(to_go(rewards), response)
    reached = class_sum(to_places(response.double(), response), groups)
    baseline = class_sum(returns, groups) / reached.clamp(min=1)
    return Credit.of(advantages=to_positions(returns - baseline, response).float())


process = Strategy(_assign, needs=frozenset({"rewards", "groups"}), validate=OPTIONS.validate, gives_advantages=True)
