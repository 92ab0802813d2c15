"""The page of `rlcredit report`: one run, or several side by side, as one file that asks the network for nothing.

Facts and tables are written here (Jinja2, everything escaped); curves and completions are drawn in the browser, from
JSON with no character that ends a script element, under the same content security policy as the page of `analyze`.
Every number on the page is worked out here, in Python: the script only chooses among the curves.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from rlcredit.pages.frame import cell, clean, exact, render
from rlcredit.runs.folder import LoggedCompletion, Run
from rlcredit.runs.groups import Group, changes, grouped, standings, summaries
from rlcredit.runs.settings import differing, in_words
from rlcredit.stats.curves import Curve, Smoothing, band, curve_of, smoothed
from rlcredit.stats.estimates import rounded

ALPHAS = (0.05, 0.1, 0.3)
DIGITS = 5
MOST_POINTS, ALL_POINTS, FEWEST_POINTS = 1_000, 8_000, 200  # of one curve; of all runs' curves of one metric
LABELS = {
    "algorithm": "Algorithm",
    "credit_strategy": "Credit strategy",
    "model": "Model",
    "task": "Task",
    "seed": "Seed",
}


class RunProgress(NamedTuple):
    """How far a run is that may go on."""

    name: str
    step: int
    of: int | None
    """Steps in all, where it is known."""
    logged: str
    """When its log last grew."""
    finished: bool


class Live(NamedTuple):
    """What a page says that its server keeps up to date."""

    stamp: str
    """A word that changes with the runs' files."""
    seconds: int
    """Between two questions whether there is a newer page."""
    runs: list[RunProgress]
    waiting: list[str]
    """Folders of runs that have not begun."""

    @property
    def going_on(self) -> bool:
        return bool(self.waiting) or not all(state.finished for state in self.runs)


class Chart(NamedTuple):
    """One metric that is drawn."""

    key: str
    title: str
    unit: str
    section: str
    accuracy: bool = False
    peak: bool = False
    """Is more better? Then the EMA of the peak is drawn too."""


RESULTS, POLICY, CREDIT, VALUE, TIME = "Reward and accuracy", "Policy", "Credit", "Value model", "Time"
CHARTS = (
    Chart("reward", "Reward", "mean of the batch", RESULTS, peak=True),
    Chart("eval/reward", "Reward on held-out prompts", "mean", RESULTS, peak=True),
    Chart("entropy", "Entropy", "nats a token", POLICY),
    Chart("completions/mean_length", "Completion length", "tokens, mean", POLICY),
    Chart("completions/clipped_ratio", "Completions cut short", "share", POLICY),
    Chart("dynamic_sampling/replaced_share", "Groups replaced by dynamic sampling", "share", POLICY),
    Chart("loss", "Loss", "", POLICY),
    Chart("kl", "KL divergence to the reference", "nats a token", POLICY),
    Chart("grad_norm", "Gradient norm", "", POLICY),
    Chart("credit/weight_mean", "Credit weight", "mean factor on the advantage", CREDIT),
    Chart("credit/amplified_share", "Amplified tokens", "share", CREDIT),
    Chart("credit/dominated_share", "Dominated anchors", "share of the anchors", CREDIT),
    Chart("credit/waad_mean", "WAAD", "tokens, mean", CREDIT),
    Chart("credit/fai_mean", "FAI", "attention, mean", CREDIT),
    Chart("value/explained_variance", "Explained variance", "share of the returns' variance", VALUE),
    Chart("value/loss", "Value loss", "", VALUE),
    Chart("step_time", "Time of a step", "seconds", TIME),
    Chart("credit/time_share", "Share of the time that credit takes", "share", TIME),
)


def runs_page(
    runs: Sequence[Run], left_out: Sequence[str], command: str, created: str, live: Live | None = None
) -> str:
    """The whole page as text.

    Args:
        runs: one or more.
        left_out: of each folder that could not be read, why.
        command: that made the page.
        created: when.
        live: of a page that its server keeps up to date.
    """
    groups = grouped(runs)
    sets = list(dict.fromkeys(name for run in runs for name in run.evaluation_sets))
    drawn = [{"number": number, **chart} for number, chart in enumerate(charts(runs, groups, sets))]
    by_set = [(name, standings(groups, name)) for name in sets]
    data = _data(runs, groups, drawn, live)
    context = dict(
        single=len(runs) == 1,
        heading=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        subject=_subject(groups),
        facts=[(label, _breakable(value)) for label, value in _facts(runs[0])],
        rows=[(_place(run, runs), run, group.label) for group in groups for run in group.runs],
        differences=differing(runs),
        settings=[(key, in_words(value)) for key, value in runs[0].settings.items()],
        notes=[
            *(note for group in groups for note in group.notes),
            *(note if len(runs) == 1 else f"{run.name}: {note}" for run in runs for note in run.notes),
        ],
        left_out=left_out,
        live=live,
        sections=dict.fromkeys(chart["section"] for chart in drawn),
        charts=drawn,
        alphas=data["alphas"],
        groups=groups,
        grouped=any(len(group.counted) > 1 for group in groups),
        has_samples=any(run.completions for run in runs),
        most_points=_thinned_to(runs),
        changes=changes(runs[0]),
        summaries=summaries(runs[0]),
        standings=[(name, rows, any(row.best for row in rows)) for name, rows in by_set],
        tails=_tails(groups),
        command=runs[0].facts.get("command") if len(runs) == 1 else None,
        made_by=command,
        created=created,
        version=version("rlcredit"),
    )
    text = render(
        Path(__file__).with_name("runs.html.j2"),
        data,
        context,
        styles=("runs.css",),
        scripts=("runs.js", "live.js") if live else ("runs.js",),
        filters={"cell": cell, "exact": exact, "breakable": _breakable},
        own_server=live is not None,
    )
    return clean(text)


def moment(seconds: float) -> str:
    """A time since the epoch as a page says it: ISO 8601, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def _data(
    runs: Sequence[Run], groups: Sequence[Group], drawn: Sequence[Mapping[str, Any]], live: Live | None
) -> dict[str, Any]:
    """What the scripts of the page draw from."""
    return {
        "single": len(runs) == 1,
        "alphas": [f"{alpha:g}" for alpha in ALPHAS],
        "groups": [_told(group, runs) for group in groups],
        "runs": [{"name": run.name, "samples": [_sample(row) for row in run.completions]} for run in runs],
        "charts": drawn,
        **({"live": live.stamp, "seconds": live.seconds} if live else {}),
    }


def _told(group: Group, runs: Sequence[Run]) -> dict[str, Any]:
    return {"label": group.label, "runs": [_place(run, runs) for run in group.runs], "seeds": len(group.counted)}


def _sample(row: LoggedCompletion) -> dict[str, Any]:
    numbers = {key: value if math.isfinite(value) else None for key, value in row.numbers.items()}
    return {**row._asdict(), "numbers": numbers}


def _thinned_to(runs: Sequence[Run]) -> int | None:
    """How many points a curve was thinned to, if one was."""
    most = _most_points(len(runs))
    return most if any(len(curve.step_T) > most for run in runs for curve in run.curves.values()) else None


def _place(run: Run, runs: Sequence[Run]) -> int:
    return next(at for at, other in enumerate(runs) if other is run)


# ---- curves -------------------------------------------------------------------------------------------------------


def charts(runs: Sequence[Run], groups: Sequence[Group], sets: Sequence[str]) -> list[dict[str, Any]]:
    """The charts in the order of the page, each with the curves of all runs and the bands of all groups."""
    accuracy = [Chart(name, f"Accuracy on {name}", "pass@1", RESULTS, accuracy=True, peak=True) for name in sets]
    every = [*CHARTS[:1], *_reward_functions(runs), *accuracy, *CHARTS[1:]]
    return [drawn for chart in every if (drawn := _chart(chart, runs, groups))]


def _reward_functions(runs: Sequence[Run]) -> list[Chart]:
    """The mean of each reward function, where there are several."""
    keys = sorted({key for run in runs for key in run.curves if key.startswith("rewards/") and key.endswith("/mean")})
    if len(keys) < 2:
        return []
    return [Chart(key, f"Reward of {key.split('/', 1)[1][:-5]}", "mean", RESULTS, peak=True) for key in keys]


def _chart(chart: Chart, runs: Sequence[Run], groups: Sequence[Group]) -> dict[str, Any] | None:
    bounds: dict[int, tuple[np.ndarray, ...]] = {}
    curves: dict[int, Curve] = {}
    for at, run in enumerate(runs):
        if chart.accuracy:
            accuracies = run.accuracies_by_step(chart.key)
            curve = curve_of({step: accuracy.value for step, accuracy in accuracies.items()})
            bounds[at] = tuple(np.array([accuracy[place] for accuracy in accuracies.values()]) for place in (1, 2))
        else:
            logged = run.curves.get(chart.key, curve_of({}))
            finite_T = np.isfinite(logged.value_T)
            curve = Curve(logged.step_T[finite_T], logged.value_T[finite_T])
        if len(curve.step_T):
            curves[at] = curve
    if not curves:
        return None
    most = _most_points(len(runs))
    return {
        **{key: value for key, value in chart._asdict().items() if key != "key"},
        "metric": f"eval/{chart.key}/pass@1" if chart.accuracy else chart.key,
        "lines": [_line(chart, at, curve, bounds.get(at), most) for at, curve in curves.items()],
        "bands": _bands(chart, curves, runs, groups, most),
    }


def _most_points(runs: int) -> int:
    return max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // runs))


def _kept(size: int, most: int) -> np.ndarray:
    """Which points are drawn: all, or evenly spaced ones with the first and the last."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))


def _line(chart: Chart, at: int, curve: Curve, bounds: tuple[np.ndarray, ...] | None, most: int) -> dict[str, Any]:
    kept = _kept(len(curve.step_T), most)

    def drawn(how: Smoothing, alpha: float) -> list[float | None]:
        return _plain(smoothed(curve, how, alpha).value_T[kept])

    return {
        "run": at,
        "x": curve.step_T[kept].tolist(),
        **_by_smoothing(chart, drawn),
        "interval": None if bounds is None else {"low": _plain(bounds[0][kept]), "high": _plain(bounds[1][kept])},
    }


def _by_smoothing(chart: Chart, drawn: Callable[[Smoothing, float], Any]) -> dict[str, Any]:
    """What is drawn of the chart as logged, and at each smoothing that the page offers for it."""
    ways: tuple[Smoothing, ...] = ("ema", "peak") if chart.peak else ("ema",)
    return {"raw": drawn("raw", 1), **{how: {f"{alpha:g}": drawn(how, alpha) for alpha in ALPHAS} for how in ways}}


def _bands(
    chart: Chart, curves: Mapping[int, Curve], runs: Sequence[Run], groups: Sequence[Group], most: int
) -> list[dict[str, Any]]:
    bands = []
    for number, group in enumerate(groups):
        members = [curves[at] for at in (_place(run, runs) for run in group.counted) if at in curves]
        raw = band(members) if len(members) > 1 else None
        if raw is None or not len(raw.step_T):
            continue
        kept = _kept(len(raw.step_T), most)

        def drawn(
            how: Smoothing, alpha: float, members: Sequence[Curve] = members, kept: np.ndarray = kept
        ) -> dict[str, Any]:
            _, mean_T, low_T, high_T, _ = band([smoothed(curve, how, alpha) for curve in members])
            return {"mean": _plain(mean_T[kept]), "low": _plain(low_T[kept]), "high": _plain(high_T[kept])}

        x = raw.step_T[kept].tolist()
        bands.append({"group": number, "kind": raw.kind, "x": x, **_by_smoothing(chart, drawn)})
    return bands


def _plain(value_T: np.ndarray) -> list[float | None]:
    return [rounded(value, DIGITS) if math.isfinite(value) else None for value in value_T.tolist()]


# ---- words --------------------------------------------------------------------------------------------------------


def _subject(groups: Sequence[Group]) -> list[str]:
    """What all runs share, in words."""
    values = ({run.facts.get(key) for group in groups for run in group.runs} for key in ("model", "task"))
    return [value for values_of_key in values if len(values_of_key) == 1 for value in values_of_key if value]


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [(label, run.facts[key]) for key, label in LABELS.items() if key in run.facts]
    facts.append(("Last step", f"{run.last_step:,}"))
    if "step_time" in run.curves:
        facts.append(("Time of the steps", _time(float(np.nansum(run.curves["step_time"].value_T)))))
    if "num_tokens" in run.curves:
        facts.append(("Tokens", f"{np.nanmax(run.curves['num_tokens'].value_T):,.0f}"))
    facts.append(("Folder", str(run.folder)))
    return facts


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _tails(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Mean over the runs of a group of each metric's mean of the last tenth."""
    by_group = [
        [{entry.key: entry.tail for entry in summaries(run) if entry.logged} for run in group.counted]
        for group in groups
    ]
    keys = sorted({key for group in groups for run in group.runs for key in run.curves})
    tails = {key: [[of_run[key] for of_run in members if key in of_run] for members in by_group] for key in keys}
    return [{"key": key, "values": [np.mean(of_group).item() if of_group else None for of_group in of_groups]}
            for key, of_groups in tails.items()]  # fmt: skip


def _breakable(key: str) -> Markup:
    """A name or a path that may go on in a new line after a slash or an underscore."""
    return Markup("<wbr>").join(re.split("(?<=[/_])", key))
