"""Do the metrics peak together? (arXiv 2510.13554, section 4.3, Tables 2, 10-12 and 20)

    observed = mean of a score over the peaks of one metric       expected = the same mean if the two were unrelated
    lift     = observed / expected - 1

    coupling                                     peaks of       score of token t                    expected
    entropy at WAAD peaks                        WAAD           entropy, nats                       mean over tokens
    receiver-FAI peaks on global-FAI peaks       receiver FAI   1 at a peak of FAI                  mean over tokens
    the same, heads apart [ours]                 receiver FAI   1 at a peak of the others' FAI      mean over tokens
    FAI peaks at or just after a WAAD peak       FAI            1 if WAAD peaks at t or t - 1       peaks shuffled
    Table 20: first peaks, second at an offset   the first      1 if the second peaks at t + offset peaks shuffled

Sums run over all responses (pooled), as the paper's shares do. A peak is one of its metric's whole curve (`peaks`);
then only the tokens enter at which both metrics are defined. A response with fewer than 3 of them is left out.

Uncertainty [ours]. Every interval of a mean is a 95 % percentile bootstrap over responses: the tokens of one response
resemble each other. The control puts the peaks of each response at random tokens of that response; p_value is the
share of 1,000 such shuffles that give the observed mean or more. A coupling `holds` if the lift's interval lies above
0 and the observed mean above the 95 % interval of the shuffles.

The paper's control ignores where in a response peaks lie: two metrics that both rise along it count as coupled. In a
second control, `nearby`, each peak moves only within its piece of 10 tokens. A third, `swapped`, keeps the places and
breaks everything else: it scores each response at the peaks of another one, at the same share of its length. A
coupling `stands` if it exceeds all three controls; its sentence names the control that it does not exceed.

None of the controls tells receiver heads from global heads: a head in both groups makes their peaks coincide, and so
do heads that share their keys. A row of ours therefore repeats that coupling with the global heads that share no keys
with receiver heads. (What random weights show: docs/analysis.md.)

What each control finds in noise, in a shared trend and at a shared place: tests/unit/test_couplings.py.

Axes: T token of a response.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlcredit.analysis.controls import Marked, pooled, shuffle, swap
from rlcredit.analysis.peaks import peaks
from rlcredit.stats.estimates import Estimate
from rlcredit.stats.resampling import TAIL

PIECE = 10  # tokens; WAAD looks as far back
FEWEST_TOKENS = 3
OFFSETS = (-1, 0, 1)


class Series(NamedTuple):
    """The metrics along one response: float [T], one value a position from its first token to its last.

    nan where a metric is undefined, and at positions that the model did not write (tool output): neighbours in the
    arrays must be neighbours in the sequence.
    """

    waad_T: np.ndarray
    """Tokens (eq. 9)."""
    fai_T: np.ndarray
    """Of the global heads (eq. 10)."""
    receiver_fai_T: np.ndarray
    """Of the receiver heads."""
    entropy_T: np.ndarray
    """Nats, of the distribution that produced the token."""
    apart_fai_T: np.ndarray | None = None
    """Of the global heads that share their keys with no receiver head; None where every one does."""


SHARED = "Receiver-FAI peaks on global-FAI peaks"
APART = "Receiver-FAI peaks on peaks of other global heads"  # [ours]
METRICS = ("waad", "fai", "receiver_fai", "entropy")


class Paper(NamedTuple):
    """What the paper prints in Table 2 (Qwen3-4B-Base, 70 GSM8K prompts).

    Its lift is not always observed / expected - 1: 0.3608 / 0.2386 is +51.21 %.
    """

    observed: float
    expected: float
    lift: float


class Coupling(NamedTuple):
    """One row of Table 2."""

    name: str
    claim: str
    """With {} for how many times."""
    unit: Literal["nats", "share"]
    """Of observed, expected and shuffled."""
    observed: Estimate
    expected: Estimate
    lift: Estimate
    shuffled: Estimate
    """Observed, with peaks shuffled within each response: the exact mean, and where 95 % of the shuffles lie."""
    p_value: float
    """Of the observed mean among these shuffles: one-sided, never 0; nan where nothing is known."""
    nearby: Estimate
    """As `shuffled`, with peaks shuffled within pieces of 10 tokens."""
    nearby_p_value: float
    swapped: Estimate
    """The mean score at the peaks of other responses, at the same share of the length."""
    swapped_p_value: float
    paper: Paper | None
    """None for the row that is ours."""
    samples: int
    """Responses that entered."""
    left_out: int
    """Responses with fewer than 3 tokens at which both metrics are defined."""
    tokens: int
    peaks: int
    """Peaks that the observed mean is over."""

    @property
    def holds(self) -> bool:
        """Is the lift's interval above 0, and the observed mean above 97.5 % of the shuffles?"""
        return self.lift.low > 0 and self.p_value <= TAIL

    @property
    def holds_nearby(self) -> bool:
        """Does it hold, and is the observed mean above 97.5 % of the shuffles within 10 tokens too?"""
        return self.holds and self.nearby_p_value <= TAIL

    @property
    def stands(self) -> bool:
        """Does it hold, nearby too, and is the observed mean above 97.5 % of those at other responses' peaks?"""
        return self.holds_nearby and self.swapped_p_value <= TAIL

    def sentence(self) -> str:
        """The finding in one plain sentence."""
        if math.isnan(self.lift.low + self.p_value):
            return f"{self.name}: cannot be judged from {self.samples} responses with {self.peaks} such peaks."
        return f"{self.measured()}{self._verdict()}"

    def measured(self) -> str:
        """How many times as often, or as much, as by chance; no verdict."""
        value, low, high = (1 + bound for bound in self.lift)
        return f"{self.claim.format(f'{value:.2f} times')} (95 % interval {low:.2f} to {high:.2f})"

    def _verdict(self) -> str:
        whose = "the paper's coupling" if self.paper else "the coupling"
        if self.stands:
            return f": {whose} holds here."
        if self.holds_nearby:
            place = f"no more than at the peaks of other responses (p = {self.swapped_p_value:.2g})"
            return f", but {place}: it may be a matter of place alone."
        if self.holds:
            trend = f"no more than with the peaks shuffled within {PIECE} tokens (p = {self.nearby_p_value:.2g})"
            return f", but {trend}: it may be a trend along the response alone."
        if self.lift.high < 0 and self.observed.value < self.shuffled.low:
            return f", which is below chance: the opposite of {whose}."
        if self.lift.low > 0:
            return f", but not above shuffled peaks (p = {self.p_value:.2g}): {whose} does not show here."
        return f", which is not above chance: {whose} does not show here."


class Offset(NamedTuple):
    """One entry of Table 20: the share of the first metric's peaks with a peak of the second `offset` tokens later."""

    first: str
    """One of METRICS, as is `second`."""
    second: str
    offset: int
    """-1: the second metric peaks just before the first."""
    observed: Estimate
    expected: Estimate
    """With the first metric's peaks shuffled within each response; its interval is over responses."""
    lift: Estimate
    samples: int
    left_out: int
    peaks: int


class _Row(NamedTuple):
    name: str
    unit: Literal["nats", "share"]
    claim: str
    mark: Callable[[Series], Marked]
    expects_shuffled: bool
    paper: Paper | None


def couplings(series: Sequence[Series], seed: int = 0) -> list[Coupling]:
    """The rows of Table 2, and one of ours, from the metrics of one model, or of one third of its layers (Table 10).

    Args:
        series: one entry a response.
        seed: of resamples and shuffles; nothing is drawn from the global generators.
    """
    _check(series)
    return [_coupling(row, series, seed) for row in _ROWS]


def offsets(series: Sequence[Series], seed: int = 0) -> list[Offset]:
    """Table 20 for every ordered pair of two metrics: 12 pairs in the order of METRICS, each with -1, 0 and +1.

    Arguments as for `couplings`. A last token has nothing at +1, and counts as one without a peak there.
    """
    _check(series)
    pairs = [(first, second) for first in METRICS for second in METRICS if first != second]
    return [_offset(series, *pair, offset, seed) for pair in pairs for offset in OFFSETS]


# ---- what is scored at whose peaks --------------------------------------------------------------------------------


def _entropy_at_waad_peaks(series: Series) -> Marked:
    return _where_both(series.waad_T, series.entropy_T, series.entropy_T)


def _receiver_on_global_peaks(series: Series) -> Marked:
    return _where_both(series.receiver_fai_T, series.fai_T, peaks(series.fai_T))


def _receiver_on_other_heads_peaks(series: Series) -> Marked:
    apart_T = np.full_like(series.fai_T, np.nan) if series.apart_fai_T is None else series.apart_fai_T
    return _where_both(series.receiver_fai_T, apart_T, peaks(apart_T))


def _fai_after_waad_peaks(series: Series) -> Marked:
    peak_T = peaks(series.waad_T)
    return _where_both(series.fai_T, series.waad_T, peak_T | _later(peak_T, -1))


def _where_both(first_T: np.ndarray, second_T: np.ndarray, score_T: np.ndarray) -> Marked:
    """Peaks of the first metric and the score, at the tokens where first and second are defined."""
    both_T = np.isfinite(first_T) & np.isfinite(second_T)
    return Marked(peaks(first_T)[both_T], np.asarray(score_T, dtype=float)[both_T])


def _later(peak_T: np.ndarray, offset: int) -> np.ndarray:
    """Is there a peak at t + offset? False where there is no such token."""
    places_T = np.arange(len(peak_T)) + offset
    return peak_T[places_T.clip(0, len(peak_T) - 1)] & (places_T >= 0) & (places_T < len(peak_T))


_ROWS = (
    _Row(
        "Entropy at WAAD peaks",
        "nats",
        "Entropy at WAAD peaks is {} that of all tokens",
        _entropy_at_waad_peaks,
        False,
        Paper(0.3608, 0.2386, 0.5197),
    ),
    _Row(
        SHARED,
        "share",
        "Receiver-FAI peaks coincide with global-FAI peaks {} as often as by chance",
        _receiver_on_global_peaks,
        False,
        Paper(0.6084, 0.2241, 1.71),
    ),
    _Row(
        "FAI peaks at or just after a WAAD peak",
        "share",
        "FAI peaks come at or just after a WAAD peak {} as often as by chance",
        _fai_after_waad_peaks,
        True,
        Paper(0.5253, 0.3687, 0.42),
    ),
    _Row(
        APART,
        "share",
        "Receiver-FAI peaks coincide with FAI peaks of the global heads that share no keys with receiver heads {} as "
        "often as by chance",
        _receiver_on_other_heads_peaks,
        False,
        None,
    ),
)


def _coupling(row: _Row, series: Sequence[Series], seed: int) -> Coupling:
    every = [row.mark(metrics) for metrics in series]
    marked = [response for response in every if len(response.peak_T) >= FEWEST_TOKENS]
    observed, expected, lift = pooled(marked, row.expects_shuffled, seed)
    shuffled, p_value = shuffle(marked, seed)
    nearby, nearby_p_value = shuffle([piece for response in marked for piece in response.pieces(PIECE)], seed)
    swapped, swapped_p_value = swap(marked, seed)
    return Coupling(
        name=row.name,
        claim=row.claim,
        unit=row.unit,
        observed=observed,
        expected=expected,
        lift=lift,
        shuffled=shuffled,
        p_value=p_value,
        nearby=nearby,
        nearby_p_value=nearby_p_value,
        swapped=swapped,
        swapped_p_value=swapped_p_value,
        paper=row.paper,
        samples=len(marked),
        left_out=len(every) - len(marked),
        tokens=sum(len(response.peak_T) for response in marked),
        peaks=sum(response.peaks for response in marked),
    )


def _offset(series: Sequence[Series], first: str, second: str, offset: int, seed: int) -> Offset:
    every = [_pair(metrics, first, second, offset) for metrics in series]
    marked = [response for response in every if len(response.peak_T) >= FEWEST_TOKENS]
    estimates = pooled(marked, True, seed)
    count = sum(response.peaks for response in marked)
    return Offset(first, second, offset, *estimates, len(marked), len(every) - len(marked), count)


def _pair(metrics: Series, first: str, second: str, offset: int) -> Marked:
    first_T, second_T = (getattr(metrics, f"{name}_T") for name in (first, second))
    return _where_both(first_T, second_T, _later(peaks(second_T), offset))


def _check(series: Sequence[Series]) -> None:
    for i, metrics in enumerate(series):
        if len({np.shape(values) for values in metrics if values is not None}) > 1 or np.ndim(metrics.waad_T) != 1:
            shapes = ", ".join(str(list(np.shape(values))) for values in metrics if values is not None)
            raise ValueError(f"series[{i}]: its metrics need one value a token each, not shapes {shapes}")
