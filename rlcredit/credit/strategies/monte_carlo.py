"""monte_carlo: what a token changes in the reward that the policy is expected to earn (VinePPO, arXiv 2410.01679;
segments as in SPO, arXiv 2505.23564).

Formula:  V(s_t) = the mean reward of K continuations (`samples`) that the policy itself draws from s_t, the prompt and
          the tokens before t; A_t = V(s_{t+1}) - V(s_t), with V = R, the response's reward, after its last token.
          `where: every` values the state before every token. `where: decisive` values those before tokens with
          pi(y_t) < p_max: between two of them V stands still, so that
              A_t = V(before the next decisive token) - V(s_t)  at a decisive token, 0 at the others.
          Either way sum_t A_t = R - V(first place).
          `where: segments` values the state before every `segment`-th decisive token: the decisive tokens of a segment
          have the difference over the segment each, the others 0 (SPO-chain, whose masked loss it is).
          In place of GRPO's advantage; `scale: rollout` divides it by the standard deviation of the rollout's rewards.
Reads:    values, the log-probability of each token, rewards; groups, for the rewards of all processes.
Units:    reward, or with `scale: rollout` standard deviations of reward.
Source:   the papers' equations.
Edges:    a response without a score: A = 0. A state none of whose continuations has a score is left out: the one
          before it stands for it, too. No decisive token: A = 0. All rewards of a rollout alike: not scaled.
          The noise of A, for rewards of 0 and 1, has a standard deviation of up to sqrt(2 V (1 - V) / K).
Ours [not in the paper]: `decisive`, and p_max (0.95) without any other sign of a cut point; `scale: rollout`, so that
          steps are of GRPO's size (the group's deviation is 0 where V still moves); equal prefixes of a prompt's
          responses share one estimate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.options import Options
from rlcredit.credit.rollout import Rollout
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.credit.values import Valuing

FLOOR = 1e-6
OPTIONS = Options(
    weights=False,
    where=("decisive", "every", "segments"),
    p_max=(0.95, 0.0, 1.0),
    samples=(8, 1, None),
    segment=(5, 1, None),
    scale=("rollout", "none"),
)


def _decisive(response: Tensor, rollout: Rollout, args: CreditArguments) -> Tensor:
    """The tokens that may change V: bool [B, N]."""
    options = OPTIONS.of(args)
    if options["where"] == "every":
        return response
    assert rollout.logps is not None
    return response & (rollout.logps.exp() < options["p_max"])


def _stride(args: CreditArguments) -> int:
    """Decisive tokens from one place to the next."""
    options = OPTIONS.of(args)
    return int(options["segment"]) if options["where"] == "segments" else 1


def _places(response: Tensor, rollout: Rollout, args: CreditArguments) -> Tensor:
    decisive = _decisive(response, rollout, args)
    return decisive & ((decisive.cumsum(1) - 1) % _stride(args) == 0)


def _assign(batch: Batch) -> Credit:
    rollout, args = batch.rollout, batch.args
    assert rollout is not None and rollout.values is not None and rollout.reward is not None
    values, reward = rollout.values.double(), rollout.reward.double()
    N, taken = values.shape[1], batch.response & rollout.values.isfinite()
    at = torch.arange(N, device=values.device).expand_as(values)
    before = torch.where(taken, at, -1).cummax(1).values  # the place that a token belongs to
    next_one = torch.where(taken, at, N).flip(1).cummin(1).values.flip(1)  # at the token, or after it
    after = torch.nn.functional.pad(next_one[:, 1:], (0, 1), value=N)
    here = values.gather(1, before.clamp(min=0))
    there = torch.where(after < N, values.gather(1, after.clamp(max=N - 1)), reward[:, None])
    carries = taken if _stride(args) == 1 else _decisive(batch.response, rollout, args) & (before >= 0)
    advantage = torch.where(carries & ~reward.isnan()[:, None], there - here, 0.0)
    scored = reward[~reward.isnan()]
    if OPTIONS.of(args)["scale"] == "rollout" and len(scored) > 1 and (spread := scored.std()) > FLOOR:
        advantage = advantage / spread
    return Credit.of(advantages=advantage.float())


monte_carlo = Strategy(
    _assign,
    needs=frozenset({"values", "logps", "rewards", "groups"}),
    validate=OPTIONS.validate,
    gives_advantages=True,
    values=Valuing(_places, samples=lambda args: int(OPTIONS.of(args)["samples"]), stride=_stride),
)
