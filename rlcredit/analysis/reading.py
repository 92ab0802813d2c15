"""One pass over a response: everything that the report shows of it.

Every layer with softmax attention is read once. The text is coloured by the signals of the layers that credit would
read; the couplings are those of all layers and of each third of them, heads grouped within each part (Tables 2 and 10;
the paper does not say which layers its Table 2 is of).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlcredit.analysis.couplings import Series
from rlcredit.analysis.report.document import rank
from rlcredit.analysis.report.packing import HEAD, PackedMap, pack, triangle
from rlcredit.analysis.responses import Response
from rlcredit.attention import choose_layers, mean_maps, read_everything, signals_maker, thirds
from rlcredit.credit import Credit, CreditArguments, assign_credit
from rlcredit.signals import AttentionSignals, HeadStatistics

LONGEST_MAP = 512  # tokens of a response whose attention maps are shown
MAP_BYTES, ALL_MAP_BYTES = 2_000_000, 4_000_000  # of the maps of single heads: a response's, and a report's
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
        head_maps: [L, H], packed; None where there is no room for a head's.
    """

    response: Response
    signals: AttentionSignals
    credit: Credit
    series: Series
    parts: dict[str, Series]
    maps: tuple[np.ndarray, np.ndarray] | None
    head_maps: list[list[PackedMap | None]] | None = None


class MapRoom:
    """How many maps of single heads a report keeps.

    The first response that asks gets what fits into MAP_BYTES: where that is not all of its heads, those that look
    nearest and those that look furthest. Later ones get all of theirs while ALL_MAP_BYTES last, or none.
    """

    def __init__(self) -> None:
        self._left, self._is_first = ALL_MAP_BYTES, True

    def heads(self, span_LH: Tensor, tokens: int) -> Tensor:
        """Which heads' maps are kept: bool, shaped as their spans."""
        each, every = triangle(tokens), span_LH.numel()
        count = min(every, (MAP_BYTES if self._is_first else self._left) // each)
        count = count if self._is_first or count == every else 0
        self._is_first, self._left = False, self._left - count * each
        nearest_first = span_LH.flatten().argsort(stable=True)
        chosen = torch.zeros(every, dtype=torch.bool, device=span_LH.device)
        chosen[nearest_first[: (count + 1) // 2]] = True
        chosen[nearest_first[every - count // 2 :]] = True
        return chosen.view_as(span_LH)


def opening_first(responses: Sequence[Response]) -> list[int]:
    """The places of the responses, that of the one a report opens with first."""
    ranks = [rank(len(response.ids), response.correct, response.finished) for response in responses]
    first = max(range(len(ranks)), key=ranks.__getitem__, default=0)
    return sorted(range(len(ranks)), key=lambda place: place != first)


def read(
    model: PreTrainedModel,
    response: Response,
    args: CreditArguments,
    temperature: float,
    *,
    maps: bool = True,
    room: MapRoom | None = None,
) -> Reading:
    """One pass over a response (and a second, shorter one for its maps).

    Args:
        args: layers, heads, window, horizon and strategy.
        temperature: sampling temperature, for the entropy.
        maps: whether the attention maps are wanted.
        room: for maps of single heads; None: none are wanted.

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
    means, head_maps = _maps(model, ids, written, signals, room) if small else (None, None)
    return Reading(
        response=response,
        signals=signals,
        credit=assign_credit(signals, written, args),
        series=_series(chosen, entropy, args, start, sharing),
        parts={n: _series(part, entropy, args, start, sharing) for n, part in thirds(model, statistics).items()},
        maps=means,
        head_maps=head_maps,
    )


def _maps(
    model: PreTrainedModel, ids: Tensor, written: Tensor, signals: AttentionSignals, room: MapRoom | None
) -> tuple[tuple[np.ndarray, np.ndarray], list[list[PackedMap | None]] | None]:
    span_LH = signals.head_span[0]
    heads_LH = room.heads(span_LH, int(written.sum())) if room else torch.zeros_like(span_LH, dtype=torch.bool)
    kept: list[list[PackedMap | None]] = [[None] * span_LH.shape[1] for _ in span_LH]

    def see_head(layer: int, head: int, map_TT: Tensor) -> None:
        kept[layer][head] = pack(map_TT.numpy(), HEAD)

    local, far = mean_maps(model, ids, written, signals, heads_LH, see_head)
    return (local.numpy(), far.numpy()), kept if heads_LH.any() else None


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
