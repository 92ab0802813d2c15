"""answer_attention: a token gets as much as the answer attends to it (ATPO: the answer's attention as credit).

Formula:  x_s = log(mean over the answer's rows t and the heads of A[t, s] + 1e-10), over the tokens s of the response
          before the answer;  z = (x - mean) / std;  gamma_s = floor + (1 - floor) * sigmoid(z / temperature).
          The answer's own tokens keep gamma = 1.
Reads:    FAI over the answer's rows: credit_fai_rows: answer, credit_fai_horizon: [0, -1], credit_heads: all. The
          authors read the last layer alone: credit_layers: [its index].
Source:   descriptions by others; the authors, who have dropped it since, were not at hand. floor 0.5, temperature 1.
Edges:    no answer found, or nothing before it: gamma = 1. All equal: sigmoid(0).
Ours [not in the paper]: tokens after the answer have gamma = 1.
"""

import torch

from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.options import Options
from rlcredit.credit.types import Batch, Credit, Strategy

EPSILON, NO_SPREAD = 1e-10, 1e-6
OPTIONS = Options(floor=(0.5, 0.0, 1.0), temperature=(1.0, 1e-3, None))
READS = {"credit_fai_rows": "answer", "credit_fai_horizon": [0, -1], "credit_heads": "all"}


def _validate(args: CreditArguments) -> None:
    given = args.credit_settings()
    for name, value in READS.items():
        if given[name] != value:
            raise ValueError(f"{name}: {given[name]} is not what answer_attention reads; write {value}")
    OPTIONS.validate(args)


def _assign(batch: Batch) -> Credit:
    assert batch.rollout is not None and batch.rollout.answer is not None
    options, answer = OPTIONS.of(batch.args), batch.rollout.answer
    before = batch.response & (answer.flip(1).cumsum(1).flip(1) > 0) & ~(answer.cumsum(1) > 0)
    x = torch.where(before, (batch.signals.fai.double() + EPSILON).log(), 0.0)
    count = before.sum(1, keepdim=True).clamp(min=1)
    mean = x.sum(1, keepdim=True) / count
    std = (torch.where(before, x - mean, 0.0).square().sum(1, keepdim=True) / count).sqrt()
    z = torch.where(std > NO_SPREAD, (x - mean) / std, 0.0)
    factor = options["floor"] + (1 - options["floor"]) * torch.sigmoid(z / options["temperature"])
    return Credit.of(torch.where(before, factor, 1.0).float())


answer_attention = Strategy(_assign, needs=frozenset({"attention", "answer"}), validate=_validate)
