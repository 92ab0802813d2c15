"""The credit that relay deserves: the whole bonus on the key, the one token that decides.

Used from the folder above `recipes` as  --credit_strategy recipes.relay_tiny.oracle:oracle
"""

import torch

from rlcredit import Batch, Credit, Strategy
from rlcredit.tasks.relay import key_at


def _assign(batch: Batch) -> Credit:
    """gamma = credit_amplification for the first key of a response, 1 elsewhere; key tokens are one character."""
    weights = torch.ones(batch.response.shape, device=batch.response.device)
    for row, texts in enumerate(batch.rollout.text):
        places = batch.response[row].nonzero()[:, 0].tolist()
        key = next((place for place in places if key_at(texts[place]) == 0), None)
        if key is not None:
            weights[row, key] = batch.args.credit_amplification
    return Credit.of(weights)


oracle = Strategy(_assign, needs=frozenset({"text"}))
