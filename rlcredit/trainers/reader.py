"""CreditReader: from a running pass to the weights of a batch, over all processes of a run.

The trainer runs the passes; the reader says which of them gives the weights (`Source`), and knows layers, head groups
and the strategy. It holds the frozen head groups and the seconds spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlcredit.attention import Capture, head_groups, open_capture, signals_maker, with_entropy
from rlcredit.attention.capture import StopForward
from rlcredit.credit import Credit, CreditArguments, Rollout, Strategy, assign_credit
from rlcredit.errors import InputError
from rlcredit.models.modes import evaluating
from rlcredit.signals import AttentionSignals, HeadGroups, HeadStatistics, signals_of_groups, sum_over_responses

# Settings that frozen head groups depend on: where one has changed, the groups are calibrated anew.
HEAD_SETTINGS = (
    "credit_head_grouping",
    "credit_layers",
    "credit_num_layers",
    "credit_head_fraction",
    "credit_heads",
    "credit_fai_horizon",  # receiver heads are ranked by FAI
    "credit_fai_rows",
)


class Source(Enum):
    """Which pass a rollout's weights come from. But for LOSS, they are known as soon as the rollout is there."""

    NONE = auto()
    """No pass: the strategy reads nothing that a pass gives."""
    ROLLOUT = auto()
    """The pass in which TRL scores the rollout it has generated."""
    OWN = auto()
    """A pass of its own, since the whole rollout is needed at once (by the strategy, its head groups or a mean over a
    step) and TRL does not score it."""
    LOSS = auto()
    """The loss pass of each batch: the weights are known when TRL's forward has ended, before it takes advantages."""


class CreditReader:
    """Reads signals and assigns credit for the trainer.

    Args:
        args: the credit settings.
        strategy: the one that they name.
        accelerator: reduces `batch` and `frozen` head groups over processes; nothing else is exchanged.

    Attributes:
        frozen: the head groups of a run with `credit_head_grouping: frozen`, once calibrated.
    """

    of_one_process = False  # frozen head groups are those of all processes

    def __init__(self, args: CreditArguments, strategy: Strategy, accelerator: Accelerator) -> None:
        self._args, self._strategy, self._accelerator = args, strategy, accelerator
        self.needs_attention, self.needs_entropy = "attention" in strategy.needs, "entropy" in strategy.needs
        self.needs_scores = not strategy.needs.isdisjoint({"logps", "sum_sq"})
        self.frozen: HeadGroups | None = None
        self._seconds = 0.0

    def source(self, *, scored: bool) -> Source:
        """Where the weights of the rollout at hand come from; `scored`: whether TRL scores it after generating it."""
        if not (self.needs_attention or self.needs_entropy or self.needs_scores):
            return Source.NONE
        if scored:
            return Source.ROLLOUT
        at_once = self._needs_whole_rollout or self._strategy.of_rollout or self._args.credit_normalize == "batch"
        return Source.OWN if at_once else Source.LOSS

    # ---- passes ---------------------------------------------------------------------------------------------------

    def read(
        self,
        model: nn.Module,
        real_BN: Tensor,
        response_BN: Tensor,
        fai_rows_BN: Tensor | None,
        score: Callable[..., Any],
    ) -> tuple[Any, AttentionSignals]:
        """Run a log-probability pass of TRL's, and read it on the way: (what it gives, its signals).

        Args:
            model: the policy, wrapped or not.
            real_BN, response_BN: tokens, and those among them that carry credit.
            fai_rows_BN: those that FAI is a mean over; None: all of the response.
            score: runs the pass; its second result is the entropy [B, T] if `compute_entropy` is asked for.
        """
        if self.needs_entropy:
            score = partial(score, compute_entropy=True)
        capture = self._open(model, real_BN, response_BN, fai_rows_BN) if self.needs_attention else None
        with capture.reading() if capture else nullcontext():
            result = score()
        with torch.no_grad(), torch.autocast(real_BN.device.type, enabled=False):
            return result, self._signals(capture, result[1] if self.needs_entropy else None, response_BN)

    @torch.no_grad()
    def read_in_own_pass(
        self,
        model: nn.Module,
        ids_BN: Tensor,
        real_BN: Tensor,
        response_BN: Tensor,
        fai_rows_BN: Tensor | None,
        *,
        rows_at_once: int,
        score: Callable[..., Any] | None,
    ) -> AttentionSignals:
        """Signals from a forward of its own, in evaluation mode.

        Args:
            score: as for `read`, where the pass has to run whole: the entropy needs logits, and where weights are
                sharded a process that stops early would leave others waiting. None: it may be cut short after the
                last layer that is read.
        """
        started, before = time.perf_counter(), self._seconds
        with evaluating(model):
            if score is not None:
                _, signals = self.read(model, real_BN, response_BN, fai_rows_BN, score)
            else:
                capture = self._open(model, real_BN, response_BN, fai_rows_BN, stop_early=True)
                with capture.reading():
                    for ids, real in zip(ids_BN.split(rows_at_once), real_BN.split(rows_at_once), strict=True):
                        with suppress(StopForward), self._accelerator.autocast():
                            model(input_ids=ids, attention_mask=real, use_cache=False)
                signals = self._signals(capture, None, response_BN)
        self._seconds = before + time.perf_counter() - started  # all of it, reading included
        return signals

    def _open(
        self,
        model: nn.Module,
        real_BN: Tensor,
        response_BN: Tensor,
        fai_rows_BN: Tensor | None,
        *,
        stop_early: bool = False,
    ) -> Capture:
        options: dict[str, Any] = {"stop_early": stop_early, "fai_rows": fai_rows_BN}
        if not self._needs_whole_rollout:  # per-head values are reduced chunk by chunk
            options["finish"] = signals_maker(self._args, self.frozen if self.shares_groups else None)
        return open_capture(model, self._args, real_BN, response_BN, **options)

    def _signals(self, capture: Capture | None, entropy_BT: Tensor | None, response_BN: Tensor) -> AttentionSignals:
        """The signals of a finished pass."""
        entropy_BN = None
        if entropy_BT is not None:
            before = response_BN.shape[1] - entropy_BT.shape[1]
            entropy_BN = nn.functional.pad(entropy_BT.detach().float(), (before, 0), value=torch.nan)
            entropy_BN = torch.where(response_BN, entropy_BN, torch.nan)
        if capture is None:
            nothing = torch.full(response_BN.shape, torch.nan, device=response_BN.device)
            return AttentionSignals.without_attention(nothing if entropy_BN is None else entropy_BN)
        self._seconds += capture.seconds
        with self.clocked():
            chunks = capture.results()
            if isinstance(chunks[0], HeadStatistics):
                signals = self._share_groups(HeadStatistics.cat(chunks))
            else:
                signals = AttentionSignals.cat(chunks)
            return signals if entropy_BN is None else with_entropy(signals, entropy_BN)

    # ---- head groups that rows share ------------------------------------------------------------------------------

    @property
    def shares_groups(self) -> bool:
        """Whether the rows of a rollout share one split of the heads."""
        return (
            self.needs_attention and self._args.credit_head_grouping != "response" and self._args.credit_heads != "all"
        )

    @property
    def _needs_whole_rollout(self) -> bool:
        """Whether head groups come from the whole rollout, before its first loss."""
        return self.shares_groups and self.frozen is None

    def _share_groups(self, statistics: HeadStatistics) -> AttentionSignals:
        """One split for all rows of all processes, from the mean of each head's score over responses."""
        groups = head_groups(statistics, self._args, self._mean_over_responses)
        if self._args.credit_head_grouping == "frozen" and groups.local_BLH.any():
            self.frozen = groups
        return signals_of_groups(statistics, groups)

    def _mean_over_responses(self, score_BLH: Tensor) -> Tensor:
        """Mean over the responses of all processes, each counting once: [1, L, H]; nan where none has the score."""
        total_LH, count_LH = self._accelerator.reduce(list(sum_over_responses(score_BLH)), reduction="sum")
        return (total_LH / count_LH)[None]

    def state_dict(self) -> dict[str, Any]:
        frozen = None if self.frozen is None else [self.frozen.local_BLH, self.frozen.global_BLH]
        return {"frozen": frozen, "made_with": self._head_settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["frozen"] is not None and state["made_with"] == self._head_settings():
            self.frozen = HeadGroups(*state["frozen"])

    def _head_settings(self) -> dict[str, Any]:
        return {name: getattr(self._args, name) for name in HEAD_SETTINGS}

    # ---- weights and time -----------------------------------------------------------------------------------------

    def credit(
        self,
        signals: AttentionSignals | None,
        response_BN: Tensor,
        row_keys_BK: Tensor,
        rollout: Rollout | None = None,
    ) -> Credit:
        """The credit of a batch: [B, N]. `signals` is None for strategies that read none."""
        with self.clocked():
            if signals is None:
                nothing = torch.full(response_BN.shape, torch.nan, device=response_BN.device)
                signals = AttentionSignals.without_attention(nothing)
            try:
                return assign_credit(
                    signals,
                    response_BN,
                    self._args,
                    row_keys=row_keys_BK,
                    strategy=self._strategy,
                    rollout=rollout,
                )
            except ValueError as error:
                raise InputError(str(error)) from error

    @contextmanager
    def clocked(self) -> Iterator[None]:
        """Count the time spent inside as credit's (on a GPU: the time to launch the work)."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - started

    def take_seconds(self) -> float:
        """Seconds spent on credit since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
