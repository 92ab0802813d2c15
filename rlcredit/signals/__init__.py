"""Attention signals: tensors in, tensors out (arXiv 2510.13554, eq. 7-10)."""

from rlcredit.signals.fai import TO_THE_END, fai_counts, fai_of_columns
from rlcredit.signals.heads import group_heads, receiver_kurtosis, signals_of_groups, sum_over_responses
from rlcredit.signals.selection import change_to_next, lower_quantile, select
from rlcredit.signals.types import AttentionSignals, HeadGroups, HeadStatistics
from rlcredit.signals.waad import waad_of_rows

__all__ = [
    "TO_THE_END",
    "AttentionSignals",
    "HeadGroups",
    "HeadStatistics",
    "change_to_next",
    "fai_counts",
    "fai_of_columns",
    "group_heads",
    "lower_quantile",
    "receiver_kurtosis",
    "select",
    "signals_of_groups",
    "sum_over_responses",
    "waad_of_rows",
]
