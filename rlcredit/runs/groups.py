"""Runs side by side: those that differ in their seed alone as a group, and the accuracy of each group.

    group      runs of one algorithm, credit strategy, model, task and settings (run.json), or of one name without its
               seed; where a seed is there twice, the longest of its runs counts
    final      accuracy after training, or else the last evaluation
    best       accuracy at the evaluation that is best on the validation set, where one was measured
    mean       over the runs of a group, with Student's t interval over seeds; of one run, its interval over problems
    difference of the final accuracy: `rlcredit.stats.seeds`; of two single runs, paired over problems
               (`rlcredit.stats.paired`)

Axes: P problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlcredit.runs.files import validation_name
from rlcredit.runs.folder import Run
from rlcredit.runs.settings import differing, settings_of
from rlcredit.stats.curves import best, last_tenth
from rlcredit.stats.estimates import Estimate, mean_interval
from rlcredit.stats.paired import Comparison, compare
from rlcredit.stats.seeds import compare_runs

SHARED = ("algorithm", "credit_strategy", "model", "task")
MOST_IN_LABEL = 2  # settings


class Group(NamedTuple):
    """Runs that differ in their seed alone, in the order given."""

    label: str
    runs: list[Run]
    notes: list[str]

    @property
    def counted(self) -> list[Run]:
        """One run a seed, the longest; a run whose seed is not known counts."""
        longest: dict[str, Run] = {}
        for number, run in enumerate(self.runs):
            seed = run.facts.get("seed", f"run {number}")
            longest[seed] = max(longest.get(seed, run), run, key=lambda one: one.last_step)
        return list(longest.values())


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
    best: Estimate | None
    """Chosen on the validation set; None where a run of the group was not measured on one."""
    interval: str
    """What the intervals of final and best are."""
    difference: Estimate | None
    """Final, to the group `baseline`."""
    difference_interval: str
    baseline: str | None


# ---- groups -------------------------------------------------------------------------------------------------------


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by what they share, in the order of their first runs; labels differ."""
    members: dict[tuple[Any, ...], list[Run]] = {}
    for run, settings in zip(runs, settings_of(runs), strict=True):
        members.setdefault((*_key(run), *sorted(settings.items())), []).append(run)
    labels = [_label(alike[0]) for alike in members.values()]
    groups: list[Group] = []
    for label, alike in zip(labels, members.values(), strict=True):
        if labels.count(label) > 1:
            namesakes = [other[0] for other, name in zip(members.values(), labels, strict=True) if name == label]
            label = _longer(alike[0], label, namesakes)
        if taken := sum(other.label.split(" #")[0] == label for other in groups):
            label = f"{label} #{taken + 1}"
        groups.append(Group(label, alike, _doubts(label, alike)))
    return groups


def _key(run: Run) -> tuple[str | None, ...]:
    if "credit_strategy" in run.facts:
        return ("facts", *(run.facts.get(key) for key in SHARED))
    return ("name", str(run.kin))


def _label(run: Run) -> str:
    strategy, is_ppo = run.facts.get("credit_strategy"), run.facts.get("algorithm", "").lower() == "ppo"
    return run.kin.name if strategy is None else f"{strategy} (PPO)" if is_ppo else strategy


def _longer(run: Run, label: str, namesakes: Sequence[Run]) -> str:
    """The label with what tells this run's group from others of its name: model, task, or a few settings."""
    facts = [key for key in ("model", "task") if len({other.facts.get(key) for other in namesakes}) > 1]
    more = [run.facts[key] for key in facts if key in run.facts]
    alike = [other for other in namesakes if all(other.facts.get(key) == run.facts.get(key) for key in facts)]
    place = next(place for place, other in enumerate(alike) if other is run)
    for key, values in [entry for entry in differing(alike) if entry[0] not in SHARED][:MOST_IN_LABEL]:
        more.append(f"{key} not set" if values[place] is None else f"{key} {values[place]}")
    return ", ".join([label, *more]) if more else f"{run.kin.parent.name}/{label}"


def _doubts(label: str, runs: Sequence[Run]) -> list[str]:
    """What is odd about these runs as seeds of one thing."""
    seeds = [run.facts["seed"] for run in runs if "seed" in run.facts]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return [f"{label}: seed {seed} is there {seeds.count(seed)} times; the longest run counts." for seed in twice]


def baseline(groups: Sequence[Group], group: Group) -> Group | None:
    """What a group is compared with: uniform credit, preferably of the same model, task and algorithm, or else the
    first group. None if that is the group itself."""
    facts = group.runs[0].facts

    def kinship(other: Group) -> list[bool]:
        return [other.runs[0].facts.get(key) == facts.get(key) for key in ("model", "task", "algorithm")]

    nearest = max([other for other in groups if _is_uniform(other)] or groups[:1], key=kinship)
    return None if nearest is group else nearest


def _is_uniform(group: Group) -> bool:
    strategy = group.runs[0].facts.get("credit_strategy")
    return "uniform" in re.split("[^a-z]+", group.label.lower()) if strategy is None else strategy == "uniform"


# ---- tables -------------------------------------------------------------------------------------------------------


def summaries(run: Run) -> list[Summary]:
    """First, last and the mean of the last tenth of every metric; values that are no numbers are left out."""
    return [_summary(key, curve.value_T[np.isfinite(curve.value_T)]) for key, curve in run.curves.items()]


def _summary(key: str, value_T: np.ndarray) -> Summary:
    if not len(value_T):
        return Summary(key, 0, math.nan, math.nan, math.nan)
    return Summary(key, len(value_T), float(value_T[0]), float(value_T[-1]), last_tenth(value_T))


def changes(run: Run) -> list[Change]:
    """Accuracy before and after, by evaluation set; the difference where both measured as many problems."""
    return [
        _change(run, name) for name in run.evaluation_sets if any(name in shares for shares in run.accuracies.values())
    ]


def _change(run: Run, name: str) -> Change:
    measured = (run.accuracies.get(part, {}).get(name) for part in ("after", "before"))
    problems = next(len(values_P) for values_P in measured if values_P)
    before, after = run.accuracy("before", name), run.accuracy("after", name)
    return Change(name, problems, before, after, _over_problems((run, "before"), (run, "after"), name))


def _over_problems(first: tuple[Run, str], second: tuple[Run, str], name: str) -> Comparison | None:
    """The second accuracy against the first, (run, "before" or "after") each; None without the same problems."""
    (a_run, a_P), (b_run, b_P) = ((run, run.accuracies.get(part, {}).get(name)) for run, part in (first, second))
    if not a_P or not b_P or len(a_P) != len(b_P):
        return None
    return compare(a_P, b_P, a_run.samples_behind(a_P), b_run.samples_behind(b_P))


def standings(groups: Sequence[Group], name: str) -> list[Standing]:
    """The groups on one evaluation set; those without an evaluation on it are left out."""
    measured = {group.label: [run for run in group.counted if run.accuracies_by_step(name)] for group in groups}
    return [_standing(group, measured, name, baseline(groups, group)) for group in groups if measured[group.label]]


def _standing(group: Group, measured: Mapping[str, list[Run]], name: str, other: Group | None) -> Standing:
    runs, others = measured[group.label], measured[other.label] if other else []
    bests = [accuracy for run in runs if (accuracy := _best(run, name))]
    difference, kind = _difference(runs, others, name) if others else (None, "")
    return Standing(
        group=group.label,
        seeds=len(runs),
        final=_mean([_final(run, name) for run in runs]),
        best=_mean(bests) if len(bests) == len(runs) else None,
        interval="95 % over problems" if len(runs) == 1 else f"95 % over {len(runs)} seeds (Student's t)",
        difference=difference,
        difference_interval=kind,
        baseline=other.label if other and others else None,
    )


def _final(run: Run, name: str) -> Estimate:
    return run.accuracy("after", name) or list(run.accuracies_by_step(name).values())[-1]


def _best(run: Run, name: str) -> Estimate | None:
    """The accuracy at the evaluation that is best on the validation set; None without one."""
    accuracies, validation = run.accuracies_by_step(name), run.accuracies_by_step(validation_name(name))
    steps = [step for step in accuracies if step in validation]
    return accuracies[steps[best([validation[step].value for step in steps])]] if steps else None


def _mean(accuracies: Sequence[Estimate]) -> Estimate:
    return accuracies[0] if len(accuracies) == 1 else mean_interval([accuracy.value for accuracy in accuracies])


def _difference(runs: Sequence[Run], others: Sequence[Run], name: str) -> tuple[Estimate, str]:
    """runs - others in their final accuracy, and what its interval is."""
    if len(runs) == len(others) == 1 and (single := _over_problems((others[0], "after"), (runs[0], "after"), name)):
        return single.difference, "95 % over problems (paired); seeds not counted"
    finals = ([(run.facts.get("seed"), _final(run, name).value) for run in part] for part in (others, runs))
    comparison = compare_runs(*finals)
    return comparison.difference, comparison.interval
