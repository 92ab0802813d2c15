"""WAAD: windowed average attention distance (arXiv 2510.13554, eq. 9).

    WAAD_t = sum over s <= t of A[t, s] * min(t - s, W)          in tokens, 0 <= WAAD_t <= W

A row of A has the mass m_t (1, or less with attention sinks), so only the W nearest diagonals are needed:

    WAAD_t = W * m_t - sum over 0 <= j < W of (W - j) * A[t, t - j]

WAAD is linear in A: the mean of the heads' WAAD is the WAAD of their mean map.
"""

from torch import Tensor


def waad_of_rows(attention_BHRC: Tensor, delta_RC: Tensor, window: int, mass_BHR: Tensor) -> Tensor:
    """WAAD of a block of query rows.

    Args:
        attention_BHRC: attention of the rows to at least the `window` nearest columns; 0 where s > t.
        delta_RC: t - s for each entry of the block, in tokens.
        window: W, in tokens.
        mass_BHR: m_t, the sum of each row over all its columns, those outside the block included.

    Returns: [B, H, R], in tokens.
    """
    shortfall_RC = (window - delta_RC).clamp(min=0).to(attention_BHRC.dtype)
    return window * mass_BHR - (attention_BHRC * shortfall_RC).sum(-1)
