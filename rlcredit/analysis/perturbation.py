"""Does the rest of a response change more where FAI is high? (arXiv 2510.13554, section 4.2, eq. 11, Table 1)

    J = |C(a) & C(b)| / |C(a) | C(b)|      C: the set of content words of a text

At a position t of a greedy response another token than the one taken is forced, and the model goes on greedily. a is
the response after t, b the continuation after the forced token. A low J: the choice at t mattered.

The paper does not say how many positions, which candidates, what a content word or a trial is. Here [ours]:
    positions     the 5 of highest and the 5 of lowest FAI, of those with 20 tokens of the response or more after them
                  (its closing token counts) and FAI defined; equal FAI: the earlier one counts as the higher
    candidates    the 3 most likely tokens at t other than the one taken, of those that do not end the text
    continuation  until the model ends it, or as many tokens as the response has after t; with `longest`, of both the
                  first `longest` tokens alone
    content word  a run of letters and digits, lower-cased, that is not one of STOP_WORDS; case and order do not count
    overlap       of a position: the mean J of its candidates; of a sample: the mean over its high or its low positions
    trial         one response; it is lower at high FAI if its mean is lower there; equal means count half

Uncertainty [ours]: 95 % percentile bootstrap intervals over samples. The control deals the labels high and low of each
sample's positions at random: two random sets, of which the first is lower in half of the trials. p_value is the share
of 1,000 such deals with the observed share of trials or more. The control ignores places: where FAI is high early and
low late, the two sets also differ in how much text is left. `high_place` and `low_place` say where the sets lie.

Degenerate cases:
    fewer than 10 positions      half of them are high and half are low, the middle one of an odd number neither
    fewer than 2                 the sample is left out, and counted
    no content words in a and b  J = 1: nothing differs
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlcredit.evaluation.decoding import own_decoding
from rlcredit.evaluation.sampling import end_tokens
from rlcredit.models.modes import evaluating
from rlcredit.stats.estimates import Estimate
from rlcredit.stats.resampling import SHUFFLES, TAIL, interval, p_above, resamples

_FUNCTION_WORDS = """
    a about after again all also am an and any are as at be because been before being both but by can could d
    did do does doing don down during each either else every few for from further had has have having he her
    here hers him his how i if in into is it its itself just ll m may me might more most must my no nor not now
    of off on once only or other our ours out over own re s same shall she should so some such t than that the
    their theirs them then there these they this those through to too under until up upon us ve very was we were
    what when where which while who whom whose why will with would you your yours
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""134 English function words, with the parts that an apostrophe leaves (don't: don, t)."""


class Perturbed(NamedTuple):
    """One sample: positions are tokens of the response, from 0, ascending; overlaps are in [0, 1], one a position."""

    high_at: list[int]
    low_at: list[int]
    """As many as high_at."""
    high_overlaps: list[float]
    low_overlaps: list[float]
    tokens: int
    """Of the response."""

    @property
    def high(self) -> float:
        """Mean overlap at the positions of high FAI."""
        return float(np.mean(self.high_overlaps))

    @property
    def low(self) -> float:
        """Mean overlap at the positions of low FAI."""
        return float(np.mean(self.low_overlaps))


class PaperTable1(NamedTuple):
    """What the paper prints: Qwen3-4B-Base, 70 GSM8K prompts."""

    high: float
    low: float
    share: float


PAPER = PaperTable1(0.534, 0.631, 0.8714)


class Table1(NamedTuple):
    """Table 1 on a model; intervals are over samples."""

    high: Estimate
    """Mean overlap at high FAI."""
    low: Estimate
    difference: Estimate
    """low - high: above 0 where the paper's finding holds."""
    share: Estimate
    """Of trials whose overlap is lower at high FAI."""
    control: Estimate
    """The same share with the labels dealt at random: its mean, and the interval that 95 % of the deals lie in."""
    p_value: float
    """Of the share, one-sided, never 0; nan where nothing is known."""
    high_place: Estimate
    """Where the positions of high FAI lie, mean t / tokens: 0 is the first token."""
    low_place: Estimate
    samples: int
    left_out: int
    """Samples with fewer than 2 positions."""

    @property
    def holds(self) -> bool:
        """Is the overlap lower at high FAI on average, and in more than half of the trials, beyond chance?"""
        return self.difference.low > 0 and self.share.low > 0.5 and self.p_value <= TAIL

    def sentence(self) -> str:
        """The finding in one plain sentence."""
        if math.isnan(self.share.low + self.p_value):
            return f"The perturbation cannot be judged from {self.samples} samples."
        value, low, high = (100 * bound for bound in self.share)
        return (
            f"The text after a forced token overlaps {self.high.value:.3f} with the original at high FAI and "
            f"{self.low.value:.3f} at low, and is lower at high FAI in {value:.0f} % of trials "
            f"(95 % interval {low:.0f} to {high:.0f} %, by chance 50 %){self._verdict()}"
        )

    def _verdict(self) -> str:
        if self.holds:
            return ": the paper's finding holds here."
        if self.difference.high < 0 and self.share.high < 0.5:
            return ": the opposite of the paper's finding."
        return ", which is not beyond chance: the paper's finding does not show here."


@torch.no_grad()
def perturb(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    fai_T: np.ndarray,
    *,
    positions: int = 5,
    candidates: int = 3,
    after: int = 20,
    longest: int | None = None,
    batch_size: int = 32,
) -> Perturbed | None:
    """Overlaps of one sample; None if it has fewer than two positions. The model stays in the mode it is in.

    Args:
        model: any causal language model with `generate`, adapters included.
        tokenizer: its tokenizer; only decodes.
        prompt_ids: one token or more.
        response_ids: what the model wrote after it greedily, with the closing token if there is one.
        fai_T: FAI of each token of the response; nan where undefined.
        positions: of high FAI, and of low FAI.
        candidates: forced at each position.
        after: tokens of the response that must follow a position.
        longest: compare so many tokens after the forced one; None: all.
        batch_size: continuations generated together.
    """
    if len(fai_T) != len(response_ids) or not len(prompt_ids):
        sizes = len(fai_T), len(response_ids), len(prompt_ids)
        raise ValueError("fai_T, response_ids and prompt_ids: {} values, {} tokens and {} tokens".format(*sizes))
    high_at, low_at = choose_positions(fai_T, positions, after)
    if not high_at:
        return None
    sample = _Sample(model, tokenizer, list(prompt_ids), list(response_ids), end_tokens(model, tokenizer), longest)
    with evaluating(model):
        overlaps = _overlaps(sample, _likely_others(sample, [*high_at, *low_at], candidates), batch_size)
    high_overlaps, low_overlaps = ([overlaps[t] for t in places] for places in (high_at, low_at))
    return Perturbed(high_at, low_at, high_overlaps, low_overlaps, len(response_ids))


def table1(per_sample: Sequence[Perturbed | None], seed: int = 0) -> Table1:
    """Table 1 of these samples; None is one left out. Nothing is drawn from the global generators."""
    entered = [trial for trial in per_sample if trial is not None]
    low_R, high_R = np.array([trial.low for trial in entered]), np.array([trial.high for trial in entered])
    share_R = _lower(high_R, low_R)
    control, p_value = _control(entered, share_R, seed)
    return Table1(
        high=_mean(high_R, seed),
        low=_mean(low_R, seed),
        difference=_mean(low_R - high_R, seed),
        share=_mean(share_R, seed),
        control=control,
        p_value=p_value,
        high_place=_mean(np.array([np.mean(trial.high_at) / trial.tokens for trial in entered]), seed),
        low_place=_mean(np.array([np.mean(trial.low_at) / trial.tokens for trial in entered]), seed),
        samples=len(entered),
        left_out=len(per_sample) - len(entered),
    )


def choose_positions(fai_T: np.ndarray, positions: int, after: int) -> tuple[list[int], list[int]]:
    """(high, low): tokens of the highest and the lowest FAI, ascending, as many of each; none of either below two.

    Arguments as for `perturb`.
    """
    open_T = np.isfinite(fai_T) & (np.arange(len(fai_T)) < len(fai_T) - after)
    highest_first = sorted(np.flatnonzero(open_T).tolist(), key=lambda t: (-fai_T[t], t))
    count = min(positions, len(highest_first) // 2)
    return sorted(highest_first[:count]), sorted(highest_first[len(highest_first) - count :])


def content_words(text: str) -> frozenset[str]:
    """The content words of a text; a number is one, 3.5 is two."""
    return frozenset(re.findall(r"[^\W_]+", text.lower())) - STOP_WORDS


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Eq. 11, in [0, 1]; 1 where both are empty."""
    return len(a & b) / len(a | b) if a | b else 1.0


# ---- generation ---------------------------------------------------------------------------------------------------


class _Sample(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_ids: list[int]
    response_ids: list[int]
    ends: list[int]
    """The tokens that end a text."""
    longest: int | None

    def after(self, t: int) -> list[int]:
        """The response after position t, as much of it as is compared."""
        return self.response_ids[t + 1 :][: self.longest]


def _likely_others(sample: _Sample, places: list[int], candidates: int) -> list[tuple[int, int]]:
    """(position, token to force there): the most likely ones at each position, by the model's own distribution."""
    ids_1N = torch.tensor([sample.prompt_ids + sample.response_ids], device=sample.model.device)
    rows_P = torch.tensor(places, device=ids_1N.device) + len(sample.prompt_ids)
    scores_PV = sample.model(input_ids=ids_1N, use_cache=False).logits[0, rows_P - 1].float()
    scores_PV[:, sample.ends] = -torch.inf
    scores_PV.scatter_(1, ids_1N[0, rows_P, None], -torch.inf)  # the token taken
    tokens = scores_PV.topk(candidates).indices.tolist()
    return [(t, token) for t, row in zip(places, tokens, strict=True) for token in row]


def _overlaps(sample: _Sample, forced: list[tuple[int, int]], batch_size: int) -> dict[int, float]:
    """Mean overlap at each position."""
    overlaps: dict[int, list[float]] = {}
    forced = sorted(forced)  # the rows of a batch are then of nearly one length
    for batch in (forced[i : i + batch_size] for i in range(0, len(forced), batch_size)):
        for (t, _), changed in zip(batch, _continuations(sample, batch), strict=True):
            overlaps.setdefault(t, []).append(jaccard(_words(sample, sample.after(t)), _words(sample, changed)))
    return {t: float(np.mean(overlaps_at)) for t, overlaps_at in overlaps.items()}


def _continuations(sample: _Sample, forced: list[tuple[int, int]]) -> list[list[int]]:
    """What the model writes after each forced token: until an end, left out, or as long as the response goes on."""
    prefixes = [[*sample.prompt_ids, *sample.response_ids[:t], token] for t, token in forced]
    limits = [len(sample.after(t)) for t, _ in forced]
    width = max(map(len, prefixes))
    pad = sample.tokenizer.pad_token_id if sample.tokenizer.pad_token_id is not None else sample.ends[0]
    device = sample.model.device
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in prefixes]
    with own_decoding(sample.model):
        ids = sample.model.generate(
            input_ids=torch.tensor([[pad] * (width - len(row)) + row for row in prefixes], device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max(limits),
            do_sample=False,
            eos_token_id=sample.ends,
            pad_token_id=pad,
            use_cache=True,
        )[:, width:].tolist()
    return [_until_end(row[:limit], sample.ends) for row, limit in zip(ids, limits, strict=True)]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def _words(sample: _Sample, ids: list[int]) -> frozenset[str]:
    return content_words(sample.tokenizer.decode(ids, skip_special_tokens=True))


# ---- over samples -------------------------------------------------------------------------------------------------


def _lower(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """1 where high is lower than low, 1/2 where they are equal but for rounding, 0 elsewhere."""
    return np.where(abs(low - high) < 1e-9, 0.5, (high < low).astype(float))


def _mean(values_R: np.ndarray, seed: int) -> Estimate:
    """The mean over samples, with its bootstrap interval."""
    if not len(values_R):
        return Estimate(math.nan, math.nan, math.nan)
    means_B = resamples(len(values_R), seed) @ values_R / len(values_R)
    return Estimate(float(values_R.mean()), *interval(means_B))


def _control(entered: Sequence[Perturbed], share_R: np.ndarray, seed: int) -> tuple[Estimate, float]:
    """(share of trials lower in the first half of the positions dealt at random, p-value of the observed share)."""
    if not entered:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    generator = np.random.default_rng(seed)
    chance_S = np.mean([_dealt(trial, generator) for trial in entered], axis=0)
    return Estimate(float(chance_S.mean()), *interval(chance_S)), p_above(float(share_R.mean()), chance_S)


def _dealt(trial: Perturbed, generator: np.random.Generator) -> np.ndarray:
    """Is the overlap lower in the first half, with the positions of one sample in random order? [S]"""
    overlaps = [*trial.high_overlaps, *trial.low_overlaps]
    dealt_SP = generator.permuted(np.tile(overlaps, (SHUFFLES, 1)), axis=1)
    half = len(trial.high_overlaps)
    return _lower(dealt_SP[:, :half].mean(1), dealt_SP[:, half:].mean(1))
