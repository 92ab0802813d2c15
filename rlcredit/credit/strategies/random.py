"""random: the control that amplifies as many tokens, but any (as in the comparisons of arXiv 2510.13554).

Formula:  gamma_t = 1 + (a - 1) * 1{t in TopQ(u, q)},  u_t uniform; the same q as the others [not in the paper].
Reads:    nothing. u comes from credit_seed and the row's key alone, so runs repeat whatever else draws numbers.
"""

import numpy as np
import torch

from rlcredit.credit.gamma import amplify
from rlcredit.credit.types import Batch, Credit, Strategy
from rlcredit.signals import select


def _assign(batch: Batch) -> Credit:
    args = batch.args
    response = batch.response.cpu()
    scores = torch.zeros(response.shape)
    for row, key in enumerate(batch.row_keys.tolist()):
        draws = np.random.default_rng([args.credit_seed, *key]).random(int(response[row].sum()), dtype=np.float32)
        scores[row, response[row]] = torch.from_numpy(draws)
    chosen = select(scores.to(batch.response.device), batch.response, args.credit_quantile)
    return Credit.of(amplify(chosen, args.credit_amplification))


random = Strategy(_assign, needs=frozenset())
