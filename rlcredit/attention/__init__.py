"""Attention: reading the signals inside a running forward pass (arXiv 2510.13554, eq. 7-10)."""

from rlcredit.attention.analyze import analyze, analyze_thirds, open_capture, signals_maker, with_entropy
from rlcredit.attention.capture import Capture
from rlcredit.attention.layers import choose_layers, softmax_layers

__all__ = [
    "Capture",
    "analyze",
    "analyze_thirds",
    "choose_layers",
    "open_capture",
    "signals_maker",
    "softmax_layers",
    "with_entropy",
]
