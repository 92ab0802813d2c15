"""One pass over a response: everything that the report shows of it.

Every layer with softmax attention is read once. The text is coloured by the signals of the layers that credit would
read; the couplings are those of all layers and of each third of them, heads grouped within each part (Tables 2 and 10;
the paper does not say which layers its Table 2 is of).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlcredit.analysis.couplings import Series
from rlcredit.analysis.responses import Response
from rlcredit.attention import choose_layers, mean_maps, read_everything, signals_maker, thirds
from rlcredit.credit import Credit, CreditArguments, assign_credit
from rlcredit.signals import AttentionSignals, HeadStatistics

LONGEST_MAP = 512  # tokens of a response whose attention maps are shown
PARTS = ("all", "bottom", "middle", "top")


class Reading(NamedTuple):
    """What one pass showed; arrays are over the T tokens of the response.

    Attributes:
        response: what was read.
        signals: of the layers that credit reads, [1, N].
        credit: what `assign_credit` makes of them, [1, N].
        series: the metrics of those layers.
        parts: the metrics of all layers, and of each third of them, by name.
        maps: mean local and global attention [T, T]; None for a response longer than LONGEST_MAP.
    """

    response: Response
    signals: AttentionSignals
    credit: Credit
    series: Series
    parts: dict[str, Series]
    maps: tuple[np.ndarray, np.ndarray] | None


def read(
    model: PreTrainedModel, response: Response, args: CreditArguments, temperature: float, *, maps: bool = True
) -> Reading:
    """One pass over a response (and a second, shorter one for its maps).

    Args:
        args: layers, heads, window, horizon and strategy.
        temperature: sampling temperature, for the entropy.
        maps: whether the attention maps are wanted.

    Raises: ValueError for a model or a response that cannot be read.
    """
    ids = torch.tensor([[*response.prompt_ids, *response.ids]], device=model.device)
    mask = torch.ones_like(ids)
    written = torch.zeros_like(ids, dtype=torch.bool)
    written[:, len(response.prompt_ids) :] = True
    statistics, entropy = read_everything(model, ids, mask, written, args, temperature)
    start = len(response.prompt_ids)
    chosen = statistics.of_layers(choose_layers(model.config, args.credit_layers, args.credit_num_layers))
    signals = replace(signals_maker(args)(chosen), entropy=entropy.float())
    sharing = _sharing(model, statistics.span_BLH.shape[2])
    small = maps and len(response.ids) <= LONGEST_MAP
    return Reading(
        response=response,
        signals=signals,
        credit=assign_credit(signals, written, args),
        series=_series(chosen, entropy, args, start, sharing),
        parts={n: _series(part, entropy, args, start, sharing) for n, part in thirds(model, statistics).items()},
        maps=tuple(m.numpy() for m in mean_maps(model, ids, written, signals)) if small else None,  # type: ignore[arg-type]
    )


def _series(statistics: HeadStatistics, entropy: Tensor, args: CreditArguments, start: int, sharing: int) -> Series:
    grouped = signals_maker(args)(statistics)
    receiver = signals_maker(replace(args, credit_heads="receiver"))(statistics)
    apart_LH = apart_heads(grouped.global_heads[0], receiver.global_heads[0], sharing)
    apart = statistics.fai_BLHN[0][apart_LH].mean(0) if apart_LH.any() else None
    values = (grouped.waad[0], grouped.fai[0], receiver.fai[0], entropy[0])
    waad, fai, receiver_fai, entropies = (value[start:].double().cpu().numpy() for value in values)
    return Series(waad, fai, receiver_fai, entropies, None if apart is None else apart[start:].double().cpu().numpy())


def apart_heads(global_LH: Tensor, receiver_LH: Tensor, sharing: int) -> Tensor:
    """The global heads that share their keys with no receiver head: bool [L, H].

    Args:
        sharing: query heads to a key-value head; the same keys draw the same attention.
    """
    taken = receiver_LH.unflatten(1, (-1, sharing)).any(-1, keepdim=True).expand(-1, -1, sharing).flatten(1)
    return global_LH & ~taken


def _sharing(model: PreTrainedModel, heads: int) -> int:
    """Query heads to a key-value head; 1 where the configuration does not say, or says something else."""
    kv_heads = getattr(model.config.get_text_config(), "num_key_value_heads", None) or heads
    return heads // kv_heads if heads % kv_heads == 0 else 1
