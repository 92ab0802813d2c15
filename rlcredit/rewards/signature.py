"""What a reward function takes, checked before a model loads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from rlcredit.errors import InputError
from rlcredit.tasks.base import TRL_ARGUMENTS


def columns_of(dataset: Any) -> list[str] | None:
    """The columns of a data set, of a streaming one by its first row; None where they cannot be told."""
    if dataset is None:
        return []
    if names := getattr(dataset, "column_names", None):
        return list(names)
    return list(next(iter(dataset), {})) or None


def check_signature(
    reward: Callable, columns: Iterable[str], *, environments: bool = False, extra_columns: bool = False
) -> None:
    """Raise an InputError unless the function takes what TRL passes: by name, the data set's columns among it."""
    passed = {name for name in (*TRL_ARGUMENTS, *columns) if name != "prompt"}
    if environments:
        passed.add("environments")
    signature = inspect.signature(reward)
    if extra_columns:  # what a rollout function returns is passed too: it may be anything
        passed |= {name for name, item in signature.parameters.items() if item.kind is not item.VAR_KEYWORD}
    try:
        signature.bind(**dict.fromkeys(passed))
    except TypeError as error:
        raise InputError(
            f"reward {name_of(reward)!r}: {error}; write def {name_of(reward)}(completions, **kwargs)"
        ) from error


def name_of(reward: Callable) -> str:
    """Its own name, or for a `functools.partial` that of the function inside."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return getattr(reward, "__name__", type(reward).__name__)
