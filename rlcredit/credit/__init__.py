"""Credit: from signals to the weight of each token's advantage (arXiv 2510.13554, eq. 12-19)."""

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.assign import assign_credit, credit_weights
from rlcredit.credit.gamma import sums_of_gamma, weighted_advantage
from rlcredit.credit.rollout import Rollout
from rlcredit.credit.strategies import CREDIT_STRATEGIES, find_strategy, strategy_of
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.credit.values import Valuing

__all__ = [
    "CREDIT_STRATEGIES",
    "Batch",
    "Credit",
    "CreditArguments",
    "Rollout",
    "Strategy",
    "Valuing",
    "assign_credit",
    "credit_weights",
    "find_strategy",
    "strategy_of",
    "sums_of_gamma",
    "weighted_advantage",
]
