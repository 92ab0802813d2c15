"""The credit strategies: one short file each, and the one dict that names them all.

To add one, write a file like its neighbours and a line here; or keep it in a package of your own and name it in the
recipe as `credit_strategy: package.module:strategy`.
"""

from __future__ import annotations

import difflib

from rlcredit.config.named import import_named
from rlcredit.credit.arguments import CreditArguments
from rlcredit.credit.strategies.answer_attention import answer_attention
from rlcredit.credit.strategies.coupled_rhythm import coupled_rhythm
from rlcredit.credit.strategies.entropy import entropy
from rlcredit.credit.strategies.global_anchor import global_anchor
from rlcredit.credit.strategies.gtpo import gtpo
from rlcredit.credit.strategies.ktae import ktae
from rlcredit.credit.strategies.local_chunk import local_chunk
from rlcredit.credit.strategies.monte_carlo import monte_carlo
from rlcredit.credit.strategies.otb import otb
from rlcredit.credit.strategies.process import process
from rlcredit.credit.strategies.random import random
from rlcredit.credit.strategies.reweight import reweight
from rlcredit.credit.strategies.uniform import uniform
from rlcredit.credit.types import Strategy

CREDIT_STRATEGIES: dict[str, Strategy] = {
    "uniform": uniform,
    "random": random,
    "entropy": entropy,
    "local_chunk": local_chunk,
    "global_anchor": global_anchor,
    "coupled_rhythm": coupled_rhythm,
    "answer_attention": answer_attention,
    "gtpo": gtpo,
    "ktae": ktae,
    "monte_carlo": monte_carlo,
    "otb": otb,
    "process": process,
    "reweight": reweight,
}


def strategy_of(args: CreditArguments) -> Strategy:
    """The strategy that the settings name. Raises: ValueError if there is none, or it does not take their options."""
    strategy = find_strategy(args.credit_strategy)
    strategy.validate(args)
    return strategy


def find_strategy(name: str) -> Strategy:
    """The strategy of that name, or the object that `package.module:object` names."""
    if name in CREDIT_STRATEGIES:
        return CREDIT_STRATEGIES[name]
    if ":" in str(name):
        return _import_strategy(name)
    near = difflib.get_close_matches(str(name), CREDIT_STRATEGIES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"credit_strategy: {name!r} is unknown; {hint}There are {', '.join(CREDIT_STRATEGIES)}, and "
        "package.module:strategy for one of your own"
    )


def _import_strategy(name: str) -> Strategy:
    strategy = import_named("credit_strategy", name, "strategy")
    if not isinstance(strategy, Strategy):
        raise ValueError(f"credit_strategy: {name!r} is a {type(strategy).__name__}; write a rlcredit.Strategy")
    return strategy
