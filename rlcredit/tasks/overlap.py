"""Problems that are both in a training set and in an evaluation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 3


def normalized(text: str) -> str:
    """Letters and digits only, in one case: what is left when two copies were only typeset differently."""
    return "".join(character for character in text.casefold() if character.isalnum())


def overlap(train: Sequence[Mapping[str, Any]], name: str, test: Sequence[Mapping[str, Any]]) -> str:
    """One line on the rows of `test` whose question, normalised, is also in `train`; empty if there are none."""
    known = {normalized(row["question"]): row["id"] for row in train}
    shared = [(row["id"], known[key]) for row in test if (key := normalized(row["question"])) in known]
    if not shared:
        return ""
    examples = ", ".join(f"{tested} = {trained}" for tested, trained in shared[:SHOWN])
    more = ", ..." if len(shared) > SHOWN else ""
    return f"overlap: {len(shared)} of {len(test)} problems of {name} are also in the training set ({examples}{more})"
