"""One call of a strategy: what it is given, and all that can be wrong with what it does and gives, a line each."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcredit.config.named import raised
from rlcredit.credit.rollout import PART_OF, Rollout
from rlcredit.credit.types import NO_INTRO, Batch, Credit, Strategy

MASKS = ("preplan", "anchor", "dominated")


@dataclass(frozen=True)
class AskedRollout(Rollout):
    """A rollout whose parts can be read if a strategy's needs name them; the others raise an AttributeError."""

    needs: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        part = PART_OF.get(name)
        if part is not None and part not in super().__getattribute__("needs"):
            raise AttributeError(name=name, obj=None)  # as that of a batch without a rollout
        return super().__getattribute__(name)


def called(strategy: Strategy, batch: Batch, counts_BN: Tensor) -> Credit:
    """What a strategy gives for a batch.

    Args:
        counts_BN: bool, where its numbers have to be finite.

    Raises: ValueError of one line if the strategy raises, draws from a global random generator, changes what it is
        given, or gives no Credit whose tensors are as `Credit` says. Advantages have to be announced
        (`gives_advantages`), and so do weights below 0 (`signed`).
    """
    begins = f"credit_strategy: {batch.args.credit_strategy!r}"
    given = batch
    if batch.rollout is not None:
        given = replace(batch, rollout=AskedRollout(**vars(batch.rollout), needs=strategy.needs))
    before, drawn = _contents(batch), _random_states()
    try:
        credit = strategy.assign(given)
    except Exception as error:
        raise ValueError(f"{begins} {_told(error, strategy.needs)}") from error
    changed = [name for name, value in _contents(batch).items() if value != before[name]]
    moved = [name for name, state in _random_states().items() if state != drawn[name]]
    fault = (
        (f"changes {changed[0]} in place; work on a copy, {changed[0]}.clone() for a tensor" if changed else None)
        or (_drew(moved[0]) if moved else None)
        or _fault(credit, batch.response, strategy)
        or _bad_number(credit.weights, counts_BN, "weight", least=None if strategy.signed else 0)
        or (credit.advantages is not None and _bad_number(credit.advantages, counts_BN, "advantage"))
    )
    if fault:
        raise ValueError(f"{begins} {fault}")
    return credit


def _told(error: Exception, needs: frozenset[str]) -> str:
    """What a strategy raised, and what to write instead where that is known."""
    name = error.name or "" if isinstance(error, AttributeError) and error.obj is None else ""
    if name in PART_OF and PART_OF[name] not in needs:
        _, where, place = raised(error).rpartition(" (")
        return f'reads rollout.{name} without asking for it; name "{PART_OF[name]}" in needs{where}{place}'
    told = raised(error)
    if "does not require grad" in str(error):
        told += "; credit is computed without gradient: write `with torch.enable_grad():` around what you train"
    return told


def _contents(batch: Batch) -> dict[str, Any]:
    """What shows that a strategy has changed its batch: how often each tensor was written to, and the settings."""
    parts = {"signals": batch.signals, "rollout": batch.rollout, "": batch}
    tensors = {
        f"batch.{part}.{name}".replace("..", "."): value._version
        for part, of in parts.items()
        if of is not None
        for name, value in vars(of).items()
        if isinstance(value, Tensor) and not value.is_inference()
    }
    return {**tensors, "batch.args": copy.deepcopy(batch.args.credit_settings())}


def _random_states() -> dict[str, Any]:
    """The states of the global random generators."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states


def _drew(generator: str) -> str:
    return (
        f"draws from the global random generator of {generator}, which would change the run's samples; write "
        "torch.Generator().manual_seed(...) with batch.row_keys, or torch.random.fork_rng() around new modules"
    )


def _fault(credit: Any, response_BN: Tensor, strategy: Strategy) -> str | None:
    """What is wrong with the kind, shape, type or place of what a strategy gave."""
    if not isinstance(credit, Credit):
        return f"gave a {type(credit).__name__}; return rlcredit.Credit.of(weights)"
    if credit.advantages is not None and not strategy.gives_advantages:
        return "gave advantages without saying so; write Strategy(..., gives_advantages=True)"
    numbers = ("weights",) if credit.advantages is None else ("weights", "advantages")
    for name in (*numbers, *MASKS, "intro"):
        x_BN = vars(credit)[name]
        if not isinstance(x_BN, Tensor):
            return f"gave {name} as a {type(x_BN).__name__}; give a tensor"
        if x_BN.shape != response_BN.shape:
            return (
                f"gave {name} of shape {list(x_BN.shape)} for a batch of {list(response_BN.shape)}; return one for "
                "each position"
            )
        if x_BN.device != response_BN.device:
            return f"gave {name} on {x_BN.device}; write .to(batch.response.device), which is {response_BN.device}"
        if name in numbers:
            if not x_BN.is_floating_point():
                return f"gave {name} of {x_BN.dtype}; give real numbers of floating point, as .float() makes them"
            if x_BN.requires_grad:
                return f"gave {name} that require a gradient; write .detach()"
        elif x_BN.dtype != (wanted := torch.int64 if name == "intro" else torch.bool):
            return f"gave {name} of {x_BN.dtype}; give {wanted}"
        elif ((x_BN != NO_INTRO if name == "intro" else x_BN) & ~response_BN).any():
            return f"gave {name} outside the response; write it & batch.response"
    return None


def _bad_number(x_BN: Tensor, counts_BN: Tensor, what: str, least: float | None = None) -> str | None:
    """What is wrong with the first bad number that counts."""
    good_BN = x_BN.isfinite() if least is None else x_BN.isfinite() & (x_BN >= least)
    if not (counts_BN & ~good_BN).any():
        return None
    row, column = (counts_BN & ~good_BN).nonzero()[0].tolist()
    article = "an" if what[0] in "aeiou" else "a"
    said = f"gave the {what} {x_BN[row, column]:g} (row {row}, position {column}); {article} {what} is a finite number"
    if least is None:
        return said
    said += f" of {least} or more"
    return f"{said}; or write Strategy(..., signed=True)" if x_BN[row, column] < least else said
