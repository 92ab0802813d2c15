"""Attention signals: tensors in, tensors out (arXiv 2510.13554, eq. 7-10)."""

from rlcredit.signals.fai import TO_THE_END, fai_counts, fai_of_columns
from rlcredit.signals.heads import group_heads, mean_span, signals_of_groups
from rlcredit.signals.selection import change_to_next, lower_median, select
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
    "lower_median",
    "mean_span",
    "select",
    "signals_of_groups",
    "waad_of_rows",
]
