"""Mean attention maps of the local and of the global heads, to look at.

One N x N map is held for each group of heads; those of single heads are given away layer by layer, where they are
asked for. Use it for short responses, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlcredit.attention import eager
from rlcredit.attention.capture import Capture, Masks, StopForward
from rlcredit.attention.seams import AttentionCall
from rlcredit.attention.stream import Block, Statistics, row_blocks, score_blocks
from rlcredit.models.modes import evaluating
from rlcredit.signals import AttentionSignals


@torch.no_grad()
def mean_maps(
    model: PreTrainedModel,
    input_ids: Tensor,
    response_mask: Tensor,
    signals: AttentionSignals,
    heads_LH: Tensor | None = None,
    see_head: Callable[[int, int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain mean of A over the local heads, and over the global heads, of one response (eq. 8).

    Args:
        model: any that `analyze` reads.
        input_ids, response_mask: [1, N], without padding.
        signals: of this response: its layers and head groups.
        heads_LH: the heads whose own maps `see_head` gets, bool.
        see_head: called with the place of a layer in the signals, a head, and its map [T, T], as soon as it is read.

    Returns: two maps fp32 [T, T], query rows and key columns of the T response tokens.
    """
    real = torch.ones_like(response_mask, dtype=torch.bool)
    none_LH = torch.zeros_like(signals.local_heads[0])
    capture = _MapCapture(model, signals, real, response_mask.bool(), none_LH if heads_LH is None else heads_LH)
    capture.see_head = see_head
    with evaluating(model), capture.reading(), suppress(StopForward):
        model(input_ids=input_ids, attention_mask=real.long(), use_cache=False)
    capture.results()
    where = response_mask[0].bool().nonzero().flatten().cpu()
    local, far = (kept[where][:, where] for kept in capture.sums)
    return local / signals.local_heads[0].sum().cpu(), far / signals.global_heads[0].sum().cpu()


class _MapCapture(Capture):
    """Sums A over each group's heads, layer by layer; maps of single heads are held for one layer at a time."""

    see_head: Callable[[int, int, Tensor], None] | None = None

    def __init__(
        self, model: PreTrainedModel, signals: AttentionSignals, real: Tensor, response: Tensor, heads_LH: Tensor
    ) -> None:
        super().__init__(model, signals.layers, real, response, window=1, horizon=(0, 1), stop_early=True)
        self._groups_LH = (signals.local_heads[0], signals.global_heads[0])
        self._heads_LH, self._where = heads_LH.cpu(), response[0].nonzero().flatten().cpu()
        self._at = 0
        N = real.shape[1]
        self.sums = (torch.zeros(N, N), torch.zeros(N, N))

    def _see(self, index: int, shown: Tensor, read: Callable[[Masks], Statistics]) -> None:
        self._at = self._layers.index(index)
        super()._see(index, shown, read)

    def _read_call(self, call: AttentionCall, masks: Masks) -> Statistics:
        layer, response = self._layer(call, masks.real, masks.response), masks.response
        return self._add(eager.blocks(layer, call, response) if call.eager else score_blocks(layer, response))

    def _read_map(self, attention: Tensor, masks: Masks) -> Statistics:
        response, N = masks.response, masks.response.shape[1]
        attention = attention.view(len(response), -1, N, N).float()
        rows = row_blocks(response, 4 * N * attention.shape[1])
        return self._add(Block(r, slice(0, r.stop), attention[:, :, r, : r.stop]) for r in rows)

    def _add(self, blocks: Iterable[Block]) -> Any:
        heads = self._heads_LH[self._at].nonzero().flatten().tolist()
        own = {head: torch.zeros(len(self._where), len(self._where)) for head in heads}
        for rows, cols, attention_BHRC in blocks:
            for group_LH, kept in zip(self._groups_LH, self.sums, strict=True):
                chosen_H = group_LH[self._at].to(attention_BHRC.device)
                kept[rows, cols] += attention_BHRC[0, chosen_H].sum(0).cpu()
            seen, shown = (self._inside(part) for part in (rows, cols))
            for head, kept in own.items():
                block_RC = attention_BHRC[0, head].cpu()[self._where[seen] - rows.start]
                kept[seen, shown] = block_RC[:, self._where[shown] - cols.start].float()
        for head, kept in own.items():
            assert self.see_head is not None
            self.see_head(self._at, head, kept)
        nothing = torch.zeros(1, 1)
        return Statistics(nothing, nothing[..., None], nothing[..., None])

    def _inside(self, part: slice) -> slice:
        """Which tokens of the response lie in this part of the sequence."""
        start, stop = torch.searchsorted(self._where, torch.tensor([part.start, part.stop])).tolist()
        return slice(start, stop)
