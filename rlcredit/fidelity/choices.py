"""Which tokens of a response each strategy would choose, and the controls beside them.

A strategy chooses the tokens whose weight is above 1; one whose weights never are (`reweight`) the top
`credit_quantile` of its weights. Its score of a token is the weight. The controls:

    random   that share of tokens at random, the mean of many draws: chance
    place    the first of that share: what a strategy finds by the place in the response alone
    oracle   the largest changes of value by half of the continuations, measured by the other half, and the reverse:
             about the best that can be had at that share
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from rlcredit.attention import analyze
from rlcredit.credit import CreditArguments, assign_credit
from rlcredit.fidelity.values import Valued
from rlcredit.signals import AttentionSignals
from rlcredit.stats.fidelity import Changes, Choice

DRAWS = 200
CURVES = ("waad", "fai", "entropy")


class Chosen(NamedTuple):
    """What was read of one response.

    Attributes:
        curves: WAAD, FAI and entropy of each token; nan where undefined.
        choices: by strategy.
    """

    curves: dict[str, np.ndarray]
    choices: dict[str, Choice]


def read(
    model: PreTrainedModel, response: Valued, settings: Mapping[str, CreditArguments], temperature: float
) -> Chosen:
    """The signals of a response, and what each strategy chooses. Raises: ValueError if it cannot be read."""
    ids = torch.tensor([[*response.prompt_ids, *response.ids]], device=model.device)
    mask = torch.ones_like(ids)
    written = torch.zeros_like(ids, dtype=torch.bool)
    written[:, len(response.prompt_ids) :] = True
    signals: dict[tuple[tuple[str, str], ...], AttentionSignals] = {}
    choices, first = {}, None
    for name, args in settings.items():
        read_with = tuple((key, str(value)) for key, value in args.credit_settings().items() if key in READ_WITH)
        if read_with not in signals:
            signals[read_with] = analyze(model, ids, mask, written, args, entropy=True, temperature=temperature)
        first = first or signals[read_with]
        keys = torch.tensor([response.problem])
        credit = assign_credit(signals[read_with], written, args, row_keys=keys)
        choices[name] = choice_of(credit.weights[0, written[0]].cpu().numpy(), args.credit_quantile)
    assert first is not None
    curves = {name: vars(first)[name][0, written[0]].double().cpu().numpy() for name in CURVES}
    return Chosen(curves, choices)


READ_WITH = frozenset(
    {
        *("credit_layers", "credit_num_layers", "credit_head_fraction", "credit_heads"),
        *("credit_waad_window", "credit_fai_horizon", "credit_fai_rows"),
    }
)
"""The settings that signals depend on."""


def choice_of(weights_T: np.ndarray, quantile: float) -> Choice:
    """What the weights of a strategy choose."""
    if (weights_T > 1).any() or (weights_T == 1).all():
        return Choice(weights_T, weights_T > 1)
    return Choice(weights_T, top(weights_T, quantile))


def top(score_T: np.ndarray, quantile: float) -> np.ndarray:
    """The ceil(q T) largest scores, ties to the earlier token: bool [T]."""
    chosen_T = np.zeros(len(score_T), dtype=bool)
    chosen_T[np.argsort(-score_T, kind="stable")[: math.ceil(quantile * len(score_T) - 1e-9)]] = True
    return chosen_T


def controls(responses: Sequence[Valued], quantile: float, seed: int) -> dict[str, list[Choice]]:
    """The choices of `random` and `place` in each response."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Choice]] = {"random": [], "place": []}
    for response in responses:
        tokens = len(response.ids)
        draws = [top(rng.random(tokens), quantile) for _ in range(DRAWS)]
        found["random"].append(Choice(np.zeros(tokens), np.mean(draws, axis=0)))
        first = -np.arange(tokens, dtype=float)
        found["place"].append(Choice(first, top(first, quantile)))
    return found


def oracle(responses: Sequence[Valued], quantile: float) -> tuple[list[Changes], list[Choice]]:
    """The choices of `oracle`, and the changes that they are measured by: two of each response."""
    changes, choices = [], []
    for response in responses:
        half = response.rewards_PK.shape[1] // 2
        for chooses, measures in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            size_T = np.abs(response.changes_T(chooses))
            choices.append(Choice(size_T, top(size_T, quantile)))
            changes.append(Changes(response.problem, response.squared_T(measures)))
    return changes, choices
