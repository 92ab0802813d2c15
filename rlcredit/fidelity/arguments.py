"""What `rlcredit fidelity` measures, on what, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rlcredit.config.ranges import Range, at_least, check_ranges
from rlcredit.credit import CreditArguments, strategy_of
from rlcredit.evaluation.arguments import SetArguments
from rlcredit.evaluation.sampling import Sampling
from rlcredit.signals import TO_THE_END

CONTROLS = ("random", "place", "oracle")
STRATEGIES = ("local_chunk", "global_anchor", "coupled_rhythm", "entropy")
_RANGES: tuple[Range, ...] = (
    *at_least(1, "samples", "max_new_tokens", "batch_size", "responses_at_once"),
    *at_least(0, "seed"),
    ("temperature", lambda x: x > 0, "above 0: at 0 all continuations are the same"),
    ("continuations", lambda k: k >= 4 and k % 4 == 0, "a multiple of 4, since they are halved twice"),
    ("p_max", lambda p: 0 < p <= 1, "above 0, up to 1"),
)


@dataclass(kw_only=True)
class FidelityArguments(SetArguments):
    """What is measured; the strategies' settings are the credit_* keys."""

    samples: int = field(
        default=64, metadata={"help": "Responses: one a problem, from the first on; then a second of each, and so on."}
    )
    continuations: int = field(default=32, metadata={"help": "Continuations at each place; a multiple of 4."})
    p_max: float = field(
        default=0.95,
        metadata={
            "help": "Values are taken where the next token had a probability below this; between two such places they "
            "are taken to stand still. 1: before every token."
        },
    )
    strategies: list[str] = field(
        default_factory=lambda: list(STRATEGIES),
        metadata={"help": f"What is scored, beside {', '.join(CONTROLS)}: strategies that read attention or entropy."},
    )
    temperature: float = field(default=1.0, metadata={"help": "Of responses and continuations, as in training."})
    max_new_tokens: int = field(default=512, metadata={"help": "Tokens a response may have."})
    seed: int = field(default=0, metadata={"help": "Of responses, continuations and resamples."})
    batch_size: int = field(default=128, metadata={"help": "Continuations generated at once by each process."})
    responses_at_once: int = field(
        default=8, metadata={"help": "Responses whose continuations are drawn and stored together."}
    )
    output: str | None = field(default=None, metadata={"help": "A folder; default: outputs/fidelity/MODEL/TASK."})
    overwrite: bool = field(default=False, metadata={"help": "Delete earlier values in the output folder."})
    dry_run: bool = field(default=False, metadata={"help": "Check all that needs no weights, and say what it costs."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, _RANGES)
        if repeated := [name for name in self.strategies if self.strategies.count(name) > 1 or name in CONTROLS]:
            raise ValueError(f"strategies: {repeated[0]!r} is there already; write each once")

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, seed=self.seed)

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else self.folder_under("outputs/fidelity") / self.task

    def settings_of(self, credit: CreditArguments) -> dict[str, CreditArguments]:
        """By strategy, the settings that it is scored with: those given, and its own options alone.

        Raises: ValueError for a strategy that does not exist, or sees the rollout.
        """
        found = {}
        for name in self.strategies:
            own = name == credit.credit_strategy
            found[name] = replace(credit, credit_strategy=name, credit_options=credit.credit_options if own else None)
            strategy = strategy_of(found[name])
            if strategy.of_rollout or strategy.neutral or credit.credit_fai_rows == "answer":
                reads = "chooses no tokens" if strategy.neutral else "reads the rollout of a training run"
                raise ValueError(f"strategies: {name!r} {reads}; write strategies of attention or entropy")
        if credit.horizon[1] != TO_THE_END and credit.horizon[0] >= self.max_new_tokens:
            raise ValueError(
                f"credit_fai_horizon: begins {credit.horizon[0]} tokens ahead, and responses have at most "
                f"{self.max_new_tokens}; write a nearer one"
            )
        return found
