"""Which states of a rollout are valued, for a strategy that needs `values`: estimates from the policy's continuations.

V(s_t) is the reward that the policy is expected to earn when it goes on from s_t, the prompt and the tokens before t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.rollout import Rollout

Places = Callable[[Tensor, Rollout, CreditArguments], Tensor]


@dataclass(frozen=True)
class Valuing:
    """What a strategy says of the values that it needs.

    Attributes:
        places: (response [B, N], rollout without values, settings) -> bool [B, N], the tokens t of the response before
            which the state is valued.
        samples: the settings -> how many continuations a state is valued by.
        stride: the settings -> the fewest tokens from one place to the next, for the plan of a run.
    """

    places: Places
    samples: Callable[[CreditArguments], int]
    stride: Callable[[CreditArguments], int] = lambda args: 1

    def most(self, args: CreditArguments, length: int) -> tuple[int, int]:
        """The most continuations of a response of `length` tokens, and the most tokens of those."""
        left, samples = range(length, 0, -self.stride(args)), self.samples(args)
        return len(left) * samples, sum(left) * samples
