"""Runs side by side: seeds of one thing as a group, curves with bands over seeds, and what they come to.

    group      runs of one algorithm, credit strategy, model and task (run.json), or one name but for the seed
    smoothing  each run's own curve first, then mean and band over the runs of a group
    band       2 to 4 seeds: lowest to highest; 5 and more: 95 % interval of the mean, Student's t over seeds
    final      accuracy after training, or else the last evaluation; best is the highest of all evaluations
    difference at least 2 seeds each: Welch's t; one each: paired over problems (`rlcredit.stats.paired`)
    last tenth the last tenth of the logged values of a metric, rounded up

Mean and band are at the steps at which every run of the group has a value: a mean does not jump where a run ends.

Axes: T logged step, R run of a group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from rlcredit.runs.folder import Curve, Run
from rlcredit.stats.curves import ema, ema_of_peaks
from rlcredit.stats.estimates import Estimate, mean_interval, mean_with_interval
from rlcredit.stats.paired import Comparison, compare

ALPHAS = (0.05, 0.1, 0.3)
MOST_FOR_RANGE = 4  # seeds; of more, an interval
SHARED = ("algorithm", "credit_strategy", "model", "task")
OF_ONE_RUN = ("seed", "output_dir", "run_name", "overwrite", "resume_from_checkpoint", "disable_tqdm")

Smoothing = Literal["raw", "ema", "peak"]


class Group(NamedTuple):
    """Runs that differ in their seed alone, in the order given."""

    label: str
    runs: list[Run]
    strategy: str | None
    notes: list[str]


class Band(NamedTuple):
    """A metric over the runs of a group, at the steps at which all of them have it."""

    step_T: np.ndarray
    mean_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    runs: int

    @property
    def kind(self) -> str:
        return over_seeds(self.runs)


class Summary(NamedTuple):
    """One row of the table of metrics."""

    key: str
    logged: int
    first: float
    last: float
    tail: float
    """Mean of the last tenth."""


class Change(NamedTuple):
    """A run's accuracy on one evaluation set before and after; what was not measured is None."""

    name: str
    problems: int
    before: Estimate | None
    after: Estimate | None
    paired: Comparison | None


class Standing(NamedTuple):
    """A group on one evaluation set."""

    group: str
    seeds: int
    final: Estimate
    best: Estimate
    interval: str
    """What the intervals of final and best are."""
    difference: Estimate | None
    """Final, to the group `baseline`."""
    difference_interval: str
    baseline: str | None


# ---- groups -------------------------------------------------------------------------------------------------------


def group(runs: Sequence[Run]) -> list[Group]:
    """The runs by what they share, in the order of their first runs; labels differ."""
    found: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(_key(run), []).append(run)
    labels = [_label(members[0]) for members in found.values()]
    made: list[Group] = []
    for label, members in zip(labels, found.values(), strict=True):
        if labels.count(label) > 1:
            label = _longer(members[0], label)
        if taken := sum(other.label.split(" #")[0] == label for other in made):
            label = f"{label} #{taken + 1}"
        made.append(Group(label, members, members[0].facts.get("credit_strategy"), _doubts(label, members)))
    return made


def _key(run: Run) -> tuple[str | None, ...]:
    if "credit_strategy" in run.facts:
        return ("facts", *(run.facts.get(key) for key in SHARED))
    return ("name", str(run.kin))


def _label(run: Run) -> str:
    strategy = run.facts.get("credit_strategy")
    return run.kin.name if strategy is None else f"{strategy} (PPO)" if _is_ppo(run) else strategy


def _is_ppo(run: Run) -> bool:
    return run.facts.get("algorithm", "").lower() == "ppo"


def _longer(run: Run, label: str) -> str:
    """The label with what tells groups of one strategy apart."""
    more = [run.facts[key] for key in ("model", "task") if key in run.facts]
    return ", ".join([label, *more]) if more else f"{run.kin.parent.name}/{label}"


def _doubts(label: str, runs: Sequence[Run]) -> list[str]:
    """What speaks against calling these runs seeds of one thing."""
    seeds = [run.facts["seed"] for run in runs if "seed" in run.facts]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    notes = [f"{label}: seed {seed} is there {seeds.count(seed)} times." for seed in twice]
    if len({_essence(run.facts["command"]) for run in runs if "command" in run.facts}) > 1:
        notes.append(f"{label}: its runs are taken as seeds of one thing, but their commands differ in more.")
    return notes


def _essence(command: str) -> str:
    """A command without what one run has to itself."""
    return re.sub(rf"\s--(?:{'|'.join(OF_ONE_RUN)})(?:=\S+|(?:\s+(?!--)\S+)?)(?=\s|$)", "", command)


def baseline(groups: Sequence[Group], one: Group) -> Group | None:
    """What a group is compared with: uniform credit, best of the same model, task and algorithm; or the first group.

    None if that is the group itself.
    """
    facts = one.runs[0].facts

    def kinship(other: Group) -> list[bool]:
        return [other.runs[0].facts.get(key) == facts.get(key) for key in ("model", "task", "algorithm")]

    found = max([other for other in groups if _is_uniform(other)] or groups[:1], key=kinship)
    return None if found is one else found


def _is_uniform(one: Group) -> bool:
    if one.strategy is not None:
        return one.strategy == "uniform"
    return "uniform" in re.split("[^a-z]+", one.label.lower())


# ---- curves -------------------------------------------------------------------------------------------------------


def smoothed(curve: Curve, how: Smoothing, alpha: float) -> Curve:
    """The curve itself, its exponential moving average, or that of its peaks (A.2)."""
    if how == "raw":
        return curve
    return Curve(curve.step_T, (ema if how == "ema" else ema_of_peaks)(curve.value_T, alpha))


def accuracy_curve(run: Run, name: str) -> tuple[Curve, np.ndarray, np.ndarray]:
    """pass@1 over the steps of the evaluations, with its bounds: logged ones, and before and after the training."""
    keys = (f"eval/{name}/pass@1", f"eval/{name}/pass@1_low", f"eval/{name}/pass@1_high")
    logged = [
        dict(zip(*map(np.ndarray.tolist, run.curves[key]), strict=True)) if key in run.curves else {} for key in keys
    ]
    points = {
        step: Estimate(value, *(bound.get(step, math.nan) for bound in logged[1:]))
        for step, value in logged[0].items()
    }
    for part, step in (("before", 0), ("after", run.last_step)):
        if (values_P := run.accuracies.get(part, {}).get(name)) and step not in points:
            points[step] = mean_with_interval(values_P, run.samples_behind(values_P))
    steps = sorted(points)
    value_T, low_T, high_T = np.array([points[step] for step in steps], dtype=float).reshape(-1, 3).T
    return Curve(np.array(steps, dtype=int), value_T), low_T, high_T


def band(curves: Sequence[Curve]) -> Band:
    """Mean and band over the curves of the runs of one group."""
    steps = sorted(set.intersection(*(set(curve.step_T.tolist()) for curve in curves)))
    by_step = [dict(zip(curve.step_T.tolist(), curve.value_T.tolist(), strict=True)) for curve in curves]
    value_RT = np.array([[one[step] for step in steps] for one in by_step], dtype=float).reshape(len(curves), -1)
    mean_T, runs = value_RT.mean(0), len(curves)
    if runs <= MOST_FOR_RANGE:
        low_T, high_T = value_RT.min(0), value_RT.max(0)
    else:
        half_T = stdtrit(runs - 1, 0.975) * value_RT.std(0, ddof=1) / math.sqrt(runs)
        low_T, high_T = mean_T - half_T, mean_T + half_T
    return Band(np.array(steps, dtype=int), mean_T, low_T, high_T, runs)


def over_seeds(seeds: int) -> str:
    """What the interval of a mean over so many seeds is."""
    if seeds > MOST_FOR_RANGE:
        return f"95 % over {seeds} seeds (Student's t)"
    return f"lowest to highest of {seeds} seeds"


# ---- tables -------------------------------------------------------------------------------------------------------


def summaries(run: Run) -> list[Summary]:
    """First, last and the mean of the last tenth of every metric; values that are no numbers are left out."""
    return [_summary(key, curve.value_T[np.isfinite(curve.value_T)]) for key, curve in run.curves.items()]


def _summary(key: str, value_T: np.ndarray) -> Summary:
    if not len(value_T):
        return Summary(key, 0, math.nan, math.nan, math.nan)
    tail_T = value_T[-math.ceil(len(value_T) / 10) :]
    return Summary(key, len(value_T), float(value_T[0]), float(value_T[-1]), float(tail_T.mean()))


def changes(run: Run) -> list[Change]:
    """Accuracy before and after, by evaluation set; the difference where both measured as many problems."""
    return [
        _change(run, name) for name in run.evaluation_sets if any(name in part for part in run.accuracies.values())
    ]


def _change(run: Run, name: str) -> Change:
    before_P, after_P = (run.accuracies.get(part, {}).get(name) for part in ("before", "after"))
    paired = None
    if before_P and after_P and len(before_P) == len(after_P):
        paired = _paired(run, before_P, run, after_P)
    return Change(name, len(after_P or before_P or []), _mean(run, before_P), _mean(run, after_P), paired)


def _mean(run: Run, values_P: list[float] | None) -> Estimate | None:
    return mean_with_interval(values_P, run.samples_behind(values_P)) if values_P else None


def _paired(first: Run, a_P: list[float], second: Run, b_P: list[float]) -> Comparison:
    return compare(a_P, b_P, first.samples_behind(a_P), second.samples_behind(b_P))


def standings(groups: Sequence[Group], name: str) -> list[Standing]:
    """The groups on one evaluation set; those without an evaluation on it are left out."""
    measured = {one.label: [run for run in one.runs if len(accuracy_curve(run, name)[0].step_T)] for one in groups}
    return [_standing(one, measured, name, baseline(groups, one)) for one in groups if measured[one.label]]


def _standing(one: Group, measured: Mapping[str, list[Run]], name: str, other: Group | None) -> Standing:
    runs, others = measured[one.label], measured[other.label] if other else []
    finals, bests = [_final(run, name) for run in runs], [_best(run, name) for run in runs]
    if len(runs) == 1:
        final, best, interval = finals[0], bests[0], "95 % over problems"
    else:
        final, best = (_over_seeds([entry.value for entry in each]) for each in (finals, bests))
        interval = over_seeds(len(runs))
    difference, kind = _difference(runs, others, name) if others else (None, "")
    label = other.label if other and others else None
    return Standing(one.label, len(runs), final, best, interval, difference, kind, label)


def _final(run: Run, name: str) -> Estimate:
    if after := _mean(run, run.accuracies.get("after", {}).get(name)):
        return after
    curve, low_T, high_T = accuracy_curve(run, name)
    return Estimate(float(curve.value_T[-1]), float(low_T[-1]), float(high_T[-1]))


def _best(run: Run, name: str) -> Estimate:
    curve, low_T, high_T = accuracy_curve(run, name)
    best = max(range(len(curve.value_T)), key=curve.value_T.tolist().__getitem__)
    found, final = Estimate(*(float(values[best]) for values in (curve.value_T, low_T, high_T))), _final(run, name)
    return max(found, final, key=lambda estimate: estimate.value)


def _over_seeds(values_R: list[float]) -> Estimate:
    if len(values_R) > MOST_FOR_RANGE:
        return mean_interval(values_R)
    return Estimate(float(np.mean(values_R)), min(values_R), max(values_R))


def _difference(runs: list[Run], others: list[Run], name: str) -> tuple[Estimate, str]:
    """runs - others in their final accuracy, and what its interval is."""
    a_R, b_R = ([_final(run, name).value for run in each] for each in (others, runs))
    if min(len(a_R), len(b_R)) > 1:
        found = welch(a_R, b_R)
        return found, "none: the seeds are all alike" if math.isnan(found.low) else "95 % over seeds (Welch's t)"
    value = float(np.mean(b_R) - np.mean(a_R))
    if len(a_R) == len(b_R) == 1:
        a_P, b_P = (each[0].accuracies.get("after", {}).get(name) for each in (others, runs))
        if a_P and b_P and len(a_P) == len(b_P):
            return _paired(others[0], a_P, runs[0], b_P).difference, "95 % over problems (paired); seeds not counted"
    return Estimate(value, math.nan, math.nan), "none: too few seeds"


def welch(a_R: Sequence[float], b_R: Sequence[float]) -> Estimate:
    """mean(b) - mean(a) of at least two values each, with Welch's 95 % interval; nan where all are alike."""
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (a_R, b_R)]
    value, error = float(np.mean(b_R) - np.mean(a_R)), math.sqrt(sum(parts))
    if not error:
        return Estimate(value, math.nan, math.nan)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (a_R, b_R), strict=True)
    )
    half = float(stdtrit(freedom, 0.975)) * error
    return Estimate(value, value - half, value + half)
