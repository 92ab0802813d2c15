"""CreditArguments: every credit_* setting, typed once and checked before any model loads."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from rlcredit.config.ranges import Range, check_ranges

LAYER_CHOICES = ("middle", "all", "top", "bottom")
_WHOLE = ("credit_lookback", "credit_waad_window", "credit_num_layers", "credit_seed")
_RANGES: tuple[Range, ...] = (
    ("credit_quantile", lambda q: 0 < q <= 1, "a number above 0 and at most 1"),
    ("credit_amplification", lambda a: 0 <= a < math.inf, "0 or more, 1.5 for instance"),
    ("credit_alpha", lambda share: 0 <= share <= 1, "a number between 0 and 1"),
    ("credit_tau_waad", lambda share: 0 <= share <= 1, "a number between 0 and 1"),
    ("credit_tau_delta", lambda share: 0 < share <= 1, "a number above 0 and at most 1, or null"),
    ("credit_head_fraction", lambda f: 0 < f <= 0.5, "a number above 0 and at most 0.5 (the groups must not overlap)"),
    ("credit_lookback", lambda n: n >= 1, "1 or more"),
    ("credit_waad_window", lambda n: n >= 1, "1 or more"),
    ("credit_num_layers", lambda n: n >= 1, "1 or more"),
    ("credit_seed", lambda n: n >= 0, "0 or more"),
)


@dataclass
class CreditArguments:
    """How credit is read from attention and given to tokens (arXiv 2510.13554; defaults as in the paper unless noted).

    Numbers out of range raise a `ValueError` of one line that names the key, the value and what to write instead. The
    strategy is looked up beside the strategies: `strategy_of(args)` refuses a name or options that do not exist.
    """

    credit_strategy: str = field(
        default="coupled_rhythm",
        metadata={
            "help": "Who gets more of the advantage: uniform, random, entropy, local_chunk, global_anchor, "
            "coupled_rhythm, answer_attention, gtpo, ktae, monte_carlo, otb, process, reweight, or "
            "package.module:strategy for one of your own."
        },
    )
    credit_quantile: float = field(
        default=0.4, metadata={"help": "q: share of a response's tokens that is selected, in (0, 1]."}
    )
    credit_amplification: float = field(
        default=1.5, metadata={"help": "a: weight of a selected token, >= 0; 1 changes nothing."}
    )
    credit_select: str = field(
        default="top",
        metadata={"help": "Select the 'top' or the 'bottom' of the signal (Table 5).", "choices": ["top", "bottom"]},
    )
    credit_sign: str = field(
        default="both",
        metadata={
            "help": "Sign of the advantages that are weighted: both, positive or negative (Table 7a).",
            "choices": ["both", "positive", "negative"],
        },
    )
    credit_normalize: str = field(
        default="none",
        metadata={
            "help": "Divide gamma by its mean over the 'response' or over the optimiser step's 'batch', so that "
            "strategies differ in where credit goes and not in the size of the step; 'none': as in the paper [ours].",
            "choices": ["none", "response", "batch"],
        },
    )
    credit_lookback: int = field(
        default=3, metadata={"help": "k: tokens before an anchor in which its introductory token is sought."}
    )
    credit_alpha: float = field(
        default=0.5,
        metadata={"help": "alpha: share of a dominated anchor's bonus that goes to its introductory token [ours]."},
    )
    credit_tau_waad: float = field(
        default=0.5,
        metadata={
            "help": "tau_waad: an anchor is dominated up to this quantile of the response's WAAD; 0.5: the lower "
            "median [ours]."
        },
    )
    credit_tau_delta: float | None = field(
        default=None,
        metadata={
            "help": "tau_Delta: the least of this share of the response's largest changes of WAAD, in (0, 1]; null: "
            "of credit_quantile [ours]."
        },
    )
    credit_waad_window: int = field(
        default=10, metadata={"help": "W: distances count up to W tokens in WAAD (eq. 9)."}
    )
    credit_fai_horizon: list[int] = field(
        default_factory=lambda: [10, 100],
        metadata={"help": "[H_lo, H_hi] in tokens (eq. 10); -1 as the second means: to the end."},
    )
    credit_fai_rows: str = field(
        default="response",
        metadata={
            "help": "FAI is a mean over the rows of the 'response' (eq. 10), or of the 'answer' alone, where the task "
            "says where that is [ours].",
            "choices": ["response", "answer"],
        },
    )
    # None first: transformers' argument parser, which TrlParser is, takes a string and lists in this spelling alone.
    credit_layers: None | str | list[int] = field(  # noqa: RUF036
        default="middle",
        metadata={"help": "Layers to read: middle, all, top, bottom (Table 9), or a list of layer indices."},
    )
    credit_num_layers: int = field(default=5, metadata={"help": "How many evenly spaced layers of that range."})
    credit_head_fraction: float = field(
        default=0.3, metadata={"help": "Share of heads in the local and in the global group, in (0, 0.5]."}
    )
    credit_heads: str = field(
        default="grouped",
        metadata={
            "help": "'grouped' by span, 'receiver' heads for FAI (section 4.2), or 'all' heads for both (Table 14).",
            "choices": ["grouped", "receiver", "all"],
        },
    )
    credit_head_grouping: str = field(
        default="response",
        metadata={
            "help": "Split heads per 'response', once per generation 'batch', or once per run ('frozen').",
            "choices": ["response", "batch", "frozen"],
        },
    )
    credit_seed: int = field(default=0, metadata={"help": "Seed of the 'random' strategy, >= 0."})
    credit_options: dict | str | None = field(
        default=None,
        metadata={"help": "Mapping of a strategy's own options, which it checks (docs/strategies-of-the-field.md)."},
    )

    def __post_init__(self) -> None:
        self.credit_layers = _layers(self.credit_layers)
        self.credit_fai_horizon = [_whole("credit_fai_horizon", h) for h in _listed(self.credit_fai_horizon)]
        if isinstance(self.credit_options, str):
            self.credit_options = _mapping("credit_options", self.credit_options)
        self._check_numbers()
        for item in fields(CreditArguments):
            if choices := item.metadata.get("choices"):
                _require_choice(item.name, getattr(self, item.name), choices)

    def _check_numbers(self) -> None:
        for name in _WHOLE:
            setattr(self, name, _whole(name, getattr(self, name)))
        check_ranges(self, _RANGES)
        if len(self.credit_fai_horizon) != 2:
            raise ValueError(
                f"credit_fai_horizon: {self.credit_fai_horizon} needs two numbers; write [10, 100], "
                "or [10, -1] for every later token"
            )
        lo, hi = self.credit_fai_horizon
        if lo < 0 or (hi != -1 and hi < max(lo, 1)):
            raise ValueError(
                f"credit_fai_horizon: [{lo}, {hi}] is no range of distances; write [10, 100], or "
                f"[{max(lo, 0)}, -1] for every later token"
            )

    @property
    def horizon(self) -> tuple[int, int]:
        """(H_lo, H_hi) in tokens."""
        return self.credit_fai_horizon[0], self.credit_fai_horizon[1]

    def credit_settings(self) -> dict[str, Any]:
        """The credit_* fields alone: what is saved with a checkpoint and compared when a run resumes."""
        return {item.name: getattr(self, item.name) for item in fields(CreditArguments)}


def _layers(value: Any) -> str | list[int]:
    """`middle` (also for None), `[3, 5]`, `"3,5"` or `["3", "5"]` as a name or a list of indices."""
    parts = _listed("middle" if value is None else value)
    if len(parts) == 1 and parts[0] in LAYER_CHOICES:
        return parts[0]
    indices = [int(p) for p in parts if isinstance(p, int) or str(p).isdecimal()]
    if not parts or len(indices) != len(parts) or any(isinstance(p, bool) for p in parts):
        raise ValueError(
            f"credit_layers: {value!r} is neither a list of layer indices, such as [3, 5, 7], nor "
            f"one of {', '.join(LAYER_CHOICES)}{_nearest(parts, LAYER_CHOICES)}"
        )
    if len(set(indices)) != len(indices):
        raise ValueError(f"credit_layers: {value!r} names a layer twice; write each index once")
    return sorted(indices)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.strip("[] ").replace(",", " ").split()
    return list(value) if isinstance(value, Iterable) else [value]


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        if isinstance(mapping := json.loads(text), dict):
            return mapping
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"{name}: {text!r:.80} is no mapping in JSON; write '{{\"key\": 1}}'")


def _whole(name: str, value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError(f"{name}: {value!r} is not a whole number")
    return int(number)


def _require_choice(name: str, value: Any, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(choices)}{_nearest([value], choices)}")


def _nearest(values: list[Any], choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(values[0]), list(choices), 1) if values else []
    return f"; did you mean {near[0]}?" if near else ""
