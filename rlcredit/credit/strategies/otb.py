"""otb: the reward to come, minus the baseline that makes the gradient's variance least (optimal token baseline,
arXiv 2602.07078).

Formula:  W_t = sum over j <= t of (1 - 2 pi(y_j) + sum_v pi(v)^2), the energy of the response so far;
          B_t = sum_i G_t^i W_t^i / (sum_i W_t^i + eps) over the group's responses that reach place t, G_t the reward
          to come;  A_t = G_t - B_t, in place of GRPO's advantage. eps = 1e-8.
Reads:    rewards, groups, the log-probability of each token, and log sum_v pi(v)^2, which TRL's fused head gives.
Source:   the authors' own port, verl's core_algos.py of January 2026; the paper's text was not at hand.
Edges:    where one response is left, B = G and A = 0; a group of one likewise. All right: A = 0, but where every token
          so far was certain (W = 0). A response without a score: A = 0, and it is in nobody's baseline.
Ours [not in the paper]: the energy is at least 0, against rounding. `scale: none` is verl's; `scale: group` divides by
          the deviation of the group's rewards + 1e-4, so that steps are of GRPO's size.
"""

from rlcredit.credit.groups import class_moments, class_sum, counted, to_go, to_places, to_positions
from rlcredit.credit.options import Options
from rlcredit.credit.types import Batch, Credit, Strategy

EPSILON, SCALE_EPSILON = 1e-8, 1e-4
OPTIONS = Options(weights=False, scale=("none", "group"))


def _assign(batch: Batch) -> Credit:
    rollout = batch.rollout
    assert rollout is not None
    logps, squares, reward, groups = rollout.logps, rollout.log_sum_sq, rollout.reward, rollout.groups
    assert logps is not None and squares is not None and reward is not None and groups is not None
    assert rollout.step_rewards is not None
    response, total = counted(batch.response, reward, logps, squares), reward.double().nan_to_num(nan=0.0)
    returns = to_places(to_go(rollout.step_rewards.double()), response)
    energy = (1 - 2 * logps.double().exp() + squares.double().exp()).clamp(min=0)
    weight = to_places(to_places(energy, response).cumsum(1), to_places(response.double(), response) > 0)
    baseline = class_sum(returns * weight, groups) / (class_sum(weight, groups) + EPSILON)
    advantage = to_positions(returns - baseline, response)
    if OPTIONS.of(batch.args)["scale"] == "group":
        advantage = advantage / (class_moments(total[:, None], ~reward.isnan()[:, None], groups)[1] + SCALE_EPSILON)
    return Credit.of(advantages=advantage.float())


otb = Strategy(
    _assign,
    needs=frozenset({"rewards", "groups", "logps", "sum_sq"}),
    validate=OPTIONS.validate,
    gives_advantages=True,
)
