"""ktae: GRPO's advantage plus the value of the token, -1 to 1: how much its occurrence goes with right responses of
the group (KTAE, arXiv 2505.16826).

Formula:  for each token id of a group the table a, b: right, wrong responses with it; c, d: without it.
          F = exp(-2 p), p of Fisher's exact test (two-sided), 0 where p = 1; IG the information gain in bits;
          D = asin sqrt(a / (a+c)) - asin sqrt(b / (b+d)) + f+ / (f- + 1e-5) - f- / (f+ + 1e-5), f the frequency of
          the token among the tokens of right (+), wrong (-) responses, saturating as in BM25 (k1 = 2, b = 0.5);
          V = tanh(D (F + IG) / 4);  A_t = A + V of the token.
Reads:    token ids, rewards, groups, advantages. Right: a reward above right_above (0).
Source:   the authors' code (xiaolizh1/KTAE, May 2025), which sums the tail of Fisher's test.
Edges:    all right or all wrong, a group of one: V = 0, plain GRPO. A token of one side only has |D| of 1e4 and more:
          V saturates at -1 or 1 as soon as F + IG > 0, as in the authors' code. A response without a score is in no
          table; V = 0.
Ours [not in the paper]: exclude_id (the end of text, whose value the authors' code sets to 0 too; -1: none).
"""

import torch

from rlcredit.credit.options import Options
from rlcredit.credit.token_tables import values_of_tokens
from rlcredit.credit.types import Batch, Credit, Strategy

OPTIONS = Options(weights=False, right_above=(0.0, None, None), exclude_id=(-1, -1, None))


def _assign(batch: Batch) -> Credit:
    response, rollout, options = batch.response, batch.rollout, OPTIONS.of(batch.args)
    assert rollout is not None and rollout.input_ids is not None and rollout.advantages is not None
    assert rollout.reward is not None and rollout.groups is not None
    scored, right = ~rollout.reward.isnan(), rollout.reward > options["right_above"]
    value = torch.zeros(response.shape, dtype=torch.float64, device=response.device)
    value[scored] = values_of_tokens(
        rollout.input_ids[scored], response[scored], right[scored], rollout.groups[scored]
    )
    value = torch.where(rollout.input_ids == options["exclude_id"], 0.0, value)
    advantage = rollout.advantages.double()[:, None] + value
    return Credit.of(advantages=torch.where(response, advantage, 0.0).float())


ktae = Strategy(
    _assign,
    needs=frozenset({"ids", "rewards", "groups", "advantages"}),
    validate=OPTIONS.validate,
    gives_advantages=True,
)
