"""gtpo: credit grows with a token's entropy (GTPO, Tan et al. 2025, arXiv 2508.04349: entropy-weighted rewards).

Formula:  gamma_t = (1 - b) + b * H_t / mean of H over the response,  b = credit_options.entropy_share (0.5).
          In the paper the ratio is H[i,t] over the sum of H[k,t] of the group's responses at the same position t.
Reads:    entropy, in nats, at the sampling temperature.
Edges:    the mean of gamma over a response is 1, so credit is moved, not added. All of H 0: gamma = 1.
Ours [not in the paper]: the ratio is to the response's own mean, since a strategy sees rows and not groups; b = 0.5.
          The paper shapes the rewards of right and wrong responses apart (wrong ones by 1/H) and normalises again; a
          strategy does not see which is which, so write `credit_sign: positive`, which leaves wrong ones uniform.
          q, a and top or bottom play no part.
"""

from __future__ import annotations

import torch

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.types import Batch, Credit, Strategy

SHARE = 0.5


def _share(args: CreditArguments) -> float:
    options = args.credit_options or {}
    assert not isinstance(options, str)  # decoded in __post_init__
    return options.get("entropy_share", SHARE)


def _validate(args: CreditArguments) -> None:
    share = _share(args)
    is_number = type(share) in (int, float)
    if set(args.credit_options or {}) - {"entropy_share"} or not is_number or not 0 <= share <= 1:
        raise ValueError(
            f"credit_options: {args.credit_options} is not for gtpo; write {{entropy_share: 0.5}}, from 0 to 1"
        )


def _assign(batch: Batch) -> Credit:
    entropy, share = batch.signals.entropy, _share(batch.args)
    if entropy is None:
        raise ValueError("signals.entropy is None: the strategy 'gtpo' needs analyze(..., entropy=True)")
    mean = torch.where(batch.response, entropy, torch.nan).nanmean(dim=1, keepdim=True)
    ratio = torch.where(mean > 0, entropy / mean, 1.0)
    return Credit.of(1 - share + share * ratio)


gtpo = Strategy(_assign, needs=frozenset({"entropy"}), validate=_validate)
