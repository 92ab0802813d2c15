"""The Triton kernels are trusted once they have agreed with blocks of rows, on the first layer of each kind.

A kind is what a kernel is compiled for: device, dtype, head dimension, soft-cap, window, sinks. Where the two differ,
the kernels are left alone for that kind, and the run is told. One layer is then read twice, once a process and kind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from torch import Tensor

from rlcredit.attention.scores import AttentionInputs

logger = logging.getLogger(__name__)

# Both sum in fp32, over the same products: they differ by rounding, a part in ten thousand at most. A wrong mask, tile
# or stride is off by far more than this share of the whole.
TOLERANCE = 2e-3

_trusted: dict[tuple[Hashable, ...], bool] = {}


def kind_of(inputs: AttentionInputs) -> tuple[Hashable, ...]:
    q_BHND, options = inputs.q_BHND, (inputs.softcap, inputs.sliding_window is None, inputs.sinks_H is None)
    return str(q_BHND.device), q_BHND.dtype, q_BHND.shape[-1], *options


def trusted(
    inputs: AttentionInputs, by_kernel: Callable[[], tuple[Tensor, ...]], by_blocks: Callable[[], tuple[Tensor, ...]]
) -> bool:
    """Whether the kernels agree with the reference on layers of this kind; computed for the first layer alone.

    Args:
        by_kernel, by_blocks: the statistics of the layer, in either way; nan where undefined.
    """
    kind = kind_of(inputs)
    if kind not in _trusted:
        fault = _fault(by_kernel, by_blocks)
        _trusted[kind] = fault is None
        if fault is not None:
            device, dtype, dim, *_ = kind
            logger.warning(
                "attention is read by blocks on %s (%s, heads of %d): %s; credit is right, and slower. Please report "
                "it",
                *(device, dtype, dim, fault),
            )
    return _trusted[kind]


def _fault(by_kernel: Callable[[], tuple[Tensor, ...]], by_blocks: Callable[[], tuple[Tensor, ...]]) -> str | None:
    """What is wrong with the kernels, if anything; one that cannot be compiled here is no reason to stop."""
    try:
        found = by_kernel()
    except Exception as error:  # of Triton's compiler or of the device, of many types
        return f"the Triton kernels fail ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    apart = max(_apart(one, other) for one, other in zip(found, by_blocks(), strict=True))
    if apart > TOLERANCE:
        return f"the Triton kernels differ from blocks by {apart:.2g} of the whole, which is not rounding"
    return None


def _apart(found: Tensor, wanted: Tensor) -> float:
    """The sum of the differences as a share of the sum of the values; infinite where other places are undefined."""
    if not found.isnan().equal(wanted.isnan()):
        return float("inf")
    found, wanted = found.nan_to_num(), wanted.nan_to_num()
    return float((found - wanted).abs().sum() / wanted.abs().sum().clamp(min=1e-12))
