"""Attention: reading the signals inside a running forward pass (arXiv 2510.13554, eq. 7-10)."""

from rlcredit.attention.analyze import (
    analyze,
    analyze_thirds,
    head_groups,
    open_capture,
    read_everything,
    signals_maker,
    thirds,
    with_entropy,
)
from rlcredit.attention.capture import Capture
from rlcredit.attention.layers import choose_layers, softmax_layers
from rlcredit.attention.maps import mean_maps

__all__ = [
    "Capture",
    "analyze",
    "analyze_thirds",
    "choose_layers",
    "head_groups",
    "mean_maps",
    "open_capture",
    "read_everything",
    "signals_maker",
    "softmax_layers",
    "thirds",
    "with_entropy",
]
