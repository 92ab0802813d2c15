"""gtpo: the reward of a right response grows with a token's entropy, the penalty of a wrong one falls with it (GTPO,
Tan et al. 2025, arXiv 2508.04349, eq. 3, 5 and 6).

Formula:  at the k-th place, over the d right responses of the group that reach it:  r_k = 1 - b + b * d * H_k / sum H;
          over the h wrong ones:  r_k = -(1 - b + b * h * (1/H_k) / sum 1/H);  b = entropy_share (0.1).
          A = (r - mean) / std over the group's tokens, in place of GRPO's advantage.
Reads:    entropy in nats, rewards, groups. Right: a reward above right_above (0).
Source:   third-party ports that quote the equations; the authors' code and text were not at hand.
Edges:    one response alone on its side: its ratio is 1. No spread over the group's tokens: A = 0.
          A response without a score: A = 0, and it is on neither side.
Ours [not in the paper]: mean and std are over right and wrong tokens together (normalize: group), so that the outcome
          sets the sign; `normalize: apart` is eq. 6 as the ports have it, right and wrong tokens each by themselves,
          where the mean advantage of either side is 0. H is at least 1e-6.
"""

import torch

from rlcredit.credit.groups import class_moments, class_sum, counted, to_places, to_positions
from rlcredit.credit.options import Options
from rlcredit.credit.types import Batch, Credit, Strategy

FLOOR = 1e-6
OPTIONS = Options(
    weights=False, entropy_share=(0.1, 0.0, 1.0), right_above=(0.0, None, None), normalize=("group", "apart")
)


def _assign(batch: Batch) -> Credit:
    rollout, options = batch.rollout, OPTIONS.of(batch.args)
    assert rollout is not None and rollout.reward is not None and rollout.groups is not None
    assert batch.signals.entropy is not None
    response = counted(batch.response, rollout.reward, batch.signals.entropy)
    right, share = rollout.reward > options["right_above"], options["entropy_share"]
    side = rollout.groups * 2 + right.long()
    written = to_places(response.double(), response) > 0
    entropy = to_places(batch.signals.entropy.double(), response) + FLOOR
    level = torch.where(written, torch.where(right[:, None], entropy, 1 / entropy), 0.0)
    ratio = level / class_sum(level, side).clamp(min=FLOOR**2) * class_sum(written.double(), side)
    shaped = (1 - share + share * ratio) * torch.where(right, 1.0, -1.0)[:, None]
    mean, std = class_moments(shaped, written, side if options["normalize"] == "apart" else rollout.groups)
    advantage = torch.where(written & (std > FLOOR), (shaped - mean) / std, 0.0)
    return Credit.of(advantages=to_positions(advantage, response).float())


gtpo = Strategy(
    _assign, needs=frozenset({"entropy", "rewards", "groups"}), validate=OPTIONS.validate, gives_advantages=True
)
