"""Lines of libraries that sound like trouble and are none."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

_MISSING = "There were missing keys in the checkpoint model loaded"


class _TiedWeights(logging.Filter):
    """Drops transformers' warning of missing keys where all of them are tied to weights that are there."""

    def __init__(self, tied: set[str]) -> None:
        super().__init__()
        self._tied = tied

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not text.startswith(_MISSING) or not set(re.findall(r"'([^']+)'", text)) <= self._tied


@contextmanager
def without_tied_keys(model: PreTrainedModel) -> Iterator[None]:
    """While a checkpoint is loaded: say nothing of weights that are saved once and used twice, such as lm_head's."""
    logger, tied = logging.getLogger("transformers.trainer"), _TiedWeights(set(model.all_tied_weights_keys))
    logger.addFilter(tied)
    try:
        yield
    finally:
        logger.removeFilter(tied)
