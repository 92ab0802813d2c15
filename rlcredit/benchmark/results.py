"""From finished cells to one document: every number that the tables and figures show, and those behind them.

before, final   held-out accuracy at step 0 and after the last step
best            held-out accuracy at the evaluation whose validation accuracy is highest (statistics.best)
area            mean height of the held-out curve over the steps
reached         steps until the curve has the final accuracy of `uniform`, the mean over its seeds
length          mean tokens of the held-out answers at the end; entropy: of the last tenth of the run, in nats
credit_share    of the seconds of all steps, those that credit took
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlcredit.benchmark.grid import BASELINE, Variant
from rlcredit.benchmark.statistics import (
    Paired,
    area,
    best,
    censored_median,
    completions_by,
    lowest_p,
    paired,
    reached,
)
from rlcredit.evaluation.estimates import Estimate, mean_interval
from rlcredit.evaluation.held_out import second_name

Cells = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""By variant and seed, what `cells.read_cell` gives."""
COMPARED = ("final", "final_t", "best", "area", "area_t", "reward_area")
NOTHING = "-"  # in a table, where there is no value
TITLES = {
    "final": "final, greedy",
    "final_t": "final, sampled",
    "best": "best on validation, greedy",
    "area": "area, greedy",
    "area_t": "area, sampled",
    "reward_area": "area of the training reward",
}


def accuracy_curve(cell: Mapping[str, Any], name: str) -> tuple[list[int], list[float]]:
    """Steps, and the accuracy of a set at each."""
    held_out = cell["held_out"][name]
    steps = sorted(map(int, held_out))
    return steps, [float(np.mean([int(digit) for digit in held_out[str(step)]])) / cell["samples"] for step in steps]


def sets_of(cell: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The main held-out set; its name at the second temperature and that of the validation set, where there are."""
    main, *others = cell["held_out"]
    temperature, validation = cell["second_temperature"], f"{main}_validation"
    second = None if temperature is None else second_name(main, temperature)
    return main, second, validation if validation in others else None


def measures(cell: Mapping[str, Any]) -> dict[str, float]:
    """What one cell comes to; what it did not measure is left out."""
    main, second, validation = sets_of(cell)
    steps, greedy = accuracy_curve(cell, main)
    found = {"before": greedy[0], "final": greedy[-1], "area": area(steps, greedy)}
    if second is not None:
        _, sampled = accuracy_curve(cell, second)
        found |= {"before_t": sampled[0], "final_t": sampled[-1], "area_t": area(steps, sampled)}
    if validation is not None:
        _, checked = accuracy_curve(cell, validation)
        chosen = best(checked)
        found |= {"best": greedy[chosen], "best_step": float(steps[chosen]), "validation": checked[chosen]}
    curves = cell["curves"]
    if len(curves.get("reward", {}).get("step", [])) > 1:
        found["reward_area"] = area(curves["reward"]["step"], curves["reward"]["value"])
    if lengths := curves.get(f"eval/{main}/length", {}).get("value"):
        found["length"] = lengths[-1]
    told = {"entropy": "last_entropy", "credit_share": "credit_share", "seconds_a_step": "seconds_a_step"}
    found |= {name: cell[key] for name, key in told.items() if cell[key] is not None}
    return found


def document(variants: Sequence[Variant], seeds: Sequence[int], cells: Cells, command: str) -> dict[str, Any]:
    """All results of the cells that are there. Raises: ValueError without a cell of the baseline."""
    if not cells.get(BASELINE):
        raise ValueError(f"no cell of {BASELINE} is finished")
    there = [variant for variant in variants if cells.get(variant.name)]
    one = next(iter(cells[BASELINE].values()))
    values = {v.name: {seed: measures(cell) for seed, cell in cells[v.name].items()} for v in there}
    target = float(np.mean([found["final"] for found in values[BASELINE].values()]))
    main, second, validation = sets_of(one)
    return {
        "command": command,
        "finished": max(cell["finished"] for of_variant in cells.values() for cell in of_variant.values()),
        "device": one["device"],
        "versions": one["versions"],
        "recipe": one["recipe"],
        "sets": {"main": main, "second": second, "validation": validation},
        "problems": len(one["held_out"][main]["0"]),
        "steps": one["steps"],
        "seeds": list(seeds),
        "lowest_p": lowest_p(len(cells[BASELINE])),
        "variants": {
            variant.name: {
                "settings": next(iter(cells[variant.name].values()))["settings"],
                "against": list(variant.against),
                "command": next(iter(cells[variant.name].values()))["command"],
                "measures": _summaries(values[variant.name]),
                "reached": _reached(cells[variant.name], main, target),
            }
            for variant in there
        },
        "target": target,
        "paired": _pairs(there, values),
        "notes": _notes(variants, seeds, cells),
    }


def _summaries(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Each measure's mean over seeds, with its 95 % interval and the seeds' own values."""
    keys = [key for key in next(iter(by_seed.values())) if all(key in found for found in by_seed.values())]
    return {
        key: {
            **_estimate(mean_interval([found[key] for found in by_seed.values()])),
            "by_seed": {str(seed): _short(found[key]) for seed, found in by_seed.items()},
        }
        for key in keys
    }


def _reached(cells: Mapping[int, Mapping[str, Any]], main: str, target: float) -> dict[str, Any]:
    found = {}
    for seed, cell in cells.items():
        step = reached(*accuracy_curve(cell, main), target)
        completions = (
            None if step is None else completions_by(step, cell["completions_a_rollout"], cell["steps_a_rollout"])
        )
        found[str(seed)] = {"step": None if step is None else _short(step), "completions": completions}
    steps = [one["step"] for one in found.values()]
    return {
        "by_seed": found,
        "never": sum(step is None for step in steps),
        "median_step": censored_median(steps),
        "median_completions": censored_median([one["completions"] for one in found.values()]),
    }


def _pairs(
    variants: Sequence[Variant], values: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Every variant against what it is compared with, over the seeds that both have."""
    made = []
    for variant in variants:
        for other in variant.against:
            if variant.name in (other, BASELINE) or other not in values:
                continue
            shared = [seed for seed in values[variant.name] if seed in values[other]]
            for key in COMPARED if shared else ():
                if not all(key in values[name][seed] for name in (other, variant.name) for seed in shared):
                    continue
                found = paired(*([values[name][seed][key] for seed in shared] for name in (other, variant.name)))
                made.append({"variant": variant.name, "against": other, "measure": key, **_pair(found)})
    return made


def _pair(found: Paired) -> dict[str, Any]:
    return {
        **_estimate(found.difference),
        "p": found.p_value,
        "lowest_p": found.lowest_p,
        "seeds": found.seeds,
        "verdict": found.verdict,
    }


def _notes(variants: Sequence[Variant], seeds: Sequence[int], cells: Cells) -> list[str]:
    """What a reader has to know of the grid."""
    said = []
    missing = [f"{v.name} at seed {seed}" for v in variants for seed in seeds if seed not in cells.get(v.name, {})]
    if missing:
        said.append(f"{len(missing)} cells are not finished and left out: {_listed(missing)}.")
    others = [
        f"{variant.name} at seed {seed}"
        for variant in variants
        for seed, cell in cells.get(variant.name, {}).items()
        if (base := cells[BASELINE].get(seed)) is not None and _first_reward(cell) != _first_reward(base)
    ]
    if others:
        said.append(
            f"The first rollouts differ from those of {BASELINE} at the same seed (another number of rollouts, say): "
            f"{_listed(others)}. There pairing by seed only shares the data."
        )
    codes = sorted({cell["code"] for of_variant in cells.values() for cell in of_variant.values()})
    if len(codes) > 1:
        said.append(f"The cells were run with {len(codes)} states of rlcredit's code ({', '.join(codes)}).")
    return said


def _first_reward(cell: Mapping[str, Any]) -> float | None:
    return next(iter(cell["curves"].get("reward", {}).get("value", [])), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else _short(value)
        for name, value in zip(("value", "low", "high"), estimate, strict=True)
    }


def _short(value: float) -> float:
    return float(f"{value:.8g}")


# ---- markdown -----------------------------------------------------------------------------------------------------


def markdown(found: Mapping[str, Any], title: str, figures: Sequence[str]) -> str:
    """results.md: the tables, with what is needed to read them."""
    parts = [f"# {title}", _opening(found), "## Held-out accuracy", _accuracy_table(found)]
    parts += ["## Differences, paired by seed", _reading(found), _paired_table(found)]
    parts += [f"## Until the final accuracy of uniform ({found['target']:.3f}, greedy)", _reached_table(found)]
    parts += ["## Cost, entropy, length", _cost_table(found)]
    if found["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in found["notes"])]
    parts += [f"![{name.rpartition('/')[2].removesuffix('.png')}]({name})" for name in figures]
    parts += ["## Cells", _commands(found)]
    return "\n\n".join(parts) + "\n"


def _opening(found: Mapping[str, Any]) -> str:
    sets = found["sets"]
    chosen = f" Best is chosen on {sets['validation']}, never on the held-out set." if sets["validation"] else ""
    sampled = f" Sampled: {sets['second']}." if sets["second"] else ""
    packages = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers", "trl"))
    return (
        f"```\n{found['command']}\n```\n\n"
        f"{found['finished'][:10]}; {found['device']}; {packages}. {found['steps']} steps; "
        f"{found['problems']} held-out problems ({sets['main']}), the same for all.{sampled}{chosen} "
        f"Means over seeds {', '.join(map(str, found['seeds']))}, with 95 % intervals over seeds (Student's t)."
    )


def _reading(found: Mapping[str, Any]) -> str:
    tested = sum(pair["low"] is not None for pair in found["paired"])
    seeds = len(found["variants"][BASELINE]["measures"]["final"]["by_seed"])
    return (
        "Paired by seed: the same data in the same order and, where no note says otherwise, the same first rollouts. "
        f"The interval is Student's t over seeds. p is an exact sign-flip test; with {seeds} seeds it cannot go below "
        f"{_fraction(found['lowest_p'])}, however large the difference. `higher` and `lower`: the interval leaves out "
        f"0; `open`: it cannot be told. Of {tested} intervals about {tested / 20:.1f} would leave out 0 if nothing "
        "differed at all."
    )


def _accuracy_table(found: Mapping[str, Any]) -> str:
    keys = ["before", "final", "best", "area", "before_t", "final_t", "area_t"]
    titles = ["before, greedy", "final", "best on validation", "area", "before, sampled", "final", "area"]
    there = [key for key in keys if any(key in one["measures"] for one in found["variants"].values())]
    rows = [
        [f"`{name}`", str(len(one["measures"]["final"]["by_seed"])), *(_shown(one["measures"].get(k)) for k in there)]
        for name, one in found["variants"].items()
    ]
    return _table(["", "seeds", *(titles[keys.index(key)] for key in there)], rows)


def _paired_table(found: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{pair['variant']}`",
            f"`{pair['against']}`",
            TITLES[pair["measure"]],
            _shown(pair, "+.3f"),
            _fraction(pair["p"]),
            str(pair["seeds"]),
            pair["verdict"],
        ]
        for key in COMPARED
        for pair in found["paired"]
        if pair["measure"] == key
    ]
    return _table(["", "against", "measure", "difference", "p", "seeds", ""], rows)


def _reached_table(found: Mapping[str, Any]) -> str:
    rows = []
    for name, one in found["variants"].items():
        reach, count = one["reached"], len(one["reached"]["by_seed"])
        steps, completions = reach["median_step"], reach["median_completions"]
        rows.append(
            [
                f"`{name}`",
                f"{steps:.0f}" if steps is not None else f"> {found['steps']}",
                f"{completions:,.0f}" if completions is not None else "censored",
                f"{count - reach['never']} of {count}",
            ]
        )
    text = "Median over seeds; a seed that never has it counts as later than all (censored), not as left out."
    return f"{text}\n\n" + _table(["", "steps", "completions", "seeds that reach it"], rows)


def _cost_table(found: Mapping[str, Any]) -> str:
    shapes: dict[str, Callable[[float], str]] = {
        "seconds_a_step": "{:.2f}".format,
        "credit_share": "{:.1%}".format,
        "entropy": "{:.3f}".format,
        "length": "{:.1f}".format,
    }
    rows = []
    for name, one in found["variants"].items():
        values = [one["measures"].get(key, {}).get("value") for key in shapes]
        shown = [shape(v) if v is not None else NOTHING for shape, v in zip(shapes.values(), values, strict=True)]
        rows.append([f"`{name}`", *shown])
    text = "Seconds depend on what else the machine did; credit's share of a step's time much less."
    return f"{text}\n\n" + _table(
        ["", "s a step", "credit's share", "entropy at the end, nats", "length, tokens"], rows
    )


def _commands(found: Mapping[str, Any]) -> str:
    lines = [one["command"] for one in found["variants"].values()]
    return "Any cell alone, with its `--seed` and `--credit_seed`:\n\n```\n" + "\n".join(lines) + "\n```"


def _shown(estimate: Mapping[str, Any] | None, shape: str = ".3f") -> str:
    if estimate is None or estimate["value"] is None:
        return NOTHING
    if estimate["low"] is None:
        return f"{estimate['value']:{shape}}"
    return f"{estimate['value']:{shape}} [{estimate['low']:{shape}}, {estimate['high']:{shape}}]"


def _fraction(p: float) -> str:
    """A p-value, as a fraction of one where it is one: 1/16."""
    return f"1/{round(1 / p)}" if p < 1 and math.isclose(1 / p, round(1 / p)) and 1 / p < 1000 else f"{p:.3g}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
