"""From finished cells to one document with every number of the tables and figures, and the numbers behind them.

before, final   held-out accuracy at step 0 and after the last step
best            held-out accuracy at the evaluation whose validation accuracy is highest (`stats.curves.best`)
area            mean height of the held-out curve over the steps
reached         steps, completions and generated tokens until the curve has the final accuracy of `uniform`,
                the mean over its seeds
length          mean tokens of the held-out answers at the end; entropy: of the last tenth of the run, in nats
credit_share    of the seconds of all steps, those that credit took
generated       tokens of all completions and continuations of the training, in millions; groups replaced included
budget          where a variant draws more than rollouts: its accuracy at `uniform`'s tokens, less that of `uniform`
share           of the gain of the oracle over `uniform`, the part that a variant has (`stats.shares`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcredit.benchmark.budget import at_budget, draws_beside, rollouts_of, tokens_after
from rlcredit.benchmark.grid import BASELINE, Variant
from rlcredit.evaluation.held_out import second_name
from rlcredit.runs.files import validation_name
from rlcredit.stats.curves import Curve, area, best, curve_of, reached
from rlcredit.stats.estimates import Estimate, mean_interval, rounded
from rlcredit.stats.seeds import SeedComparison, censored_median, compare_runs, completions_by, lowest_p
from rlcredit.stats.shares import holm, share_of_gain

DIGITS = 8
Cells = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""By variant and seed, what `cells.read_cell` gives."""
COMPARED = ("final", "final_t", "best", "area", "area_t", "reward_area")
TITLES = {
    "final": "final, greedy",
    "final_t": "final, sampled",
    "best": "best on validation, greedy",
    "area": "area, greedy",
    "area_t": "area, sampled",
    "reward_area": "area of the training reward",
}


def accuracy_curve(cell: Mapping[str, Any], name: str) -> Curve:
    """The accuracy of a set over the steps of its evaluations."""
    right = {int(step): [int(digit) for digit in digits] for step, digits in cell["held_out"][name].items()}
    return curve_of({step: float(np.mean(counts)) / cell["samples"] for step, counts in right.items()})


def sets_of(cell: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The main held-out set; its name at the second temperature and that of the validation set, where there are."""
    main, *others = cell["held_out"]
    temperature, validation = cell["second_temperature"], validation_name(main)
    second = None if temperature is None else second_name(main, temperature)
    return main, second, validation if validation in others else None


def measures(cell: Mapping[str, Any]) -> dict[str, float]:
    """The measures of one cell; those that the cell does not have are left out."""
    main, second, validation = sets_of(cell)
    steps, greedy = accuracy_curve(cell, main)
    values = {"before": greedy[0], "final": greedy[-1], "area": area(steps, greedy)}
    if second is not None:
        _, sampled = accuracy_curve(cell, second)
        values |= {"before_t": sampled[0], "final_t": sampled[-1], "area_t": area(steps, sampled)}
    if validation is not None:
        _, checked = accuracy_curve(cell, validation)
        chosen = best(checked)
        values |= {"best": greedy[chosen], "best_step": steps[chosen], "validation": checked[chosen]}
    curves = cell["curves"]
    if len(curves.get("reward", {}).get("step", [])) > 1:
        values["reward_area"] = area(curves["reward"]["step"], curves["reward"]["value"])
    if lengths := curves.get(f"eval/{main}/length", {}).get("value"):
        values["length"] = lengths[-1]
    told = {"entropy": "last_entropy", "credit_share": "credit_share", "seconds_a_step": "seconds_a_step"}
    values |= {name: cell[key] for name, key in told.items() if cell[key] is not None}
    if cell.get("generated_tokens"):  # cells of before have none
        values["generated"] = cell["generated_tokens"] / 1e6
    return {name: float(value) for name, value in values.items()}


def document(
    variants: Sequence[Variant], seeds: Sequence[int], cells: Cells, command: str, oracle: str | None = None
) -> dict[str, Any]:
    """All results of the cells that are there.

    Args:
        oracle: the variant whose gain over the baseline is the whole.

    Raises: ValueError without a cell of the baseline.
    """
    if not cells.get(BASELINE):
        raise ValueError(f"no cell of {BASELINE} is finished")
    there = [variant for variant in variants if cells.get(variant.name)]
    example = next(iter(cells[BASELINE].values()))
    values = {v.name: {seed: measures(cell) for seed, cell in cells[v.name].items()} for v in there}
    targets = {
        key: float(np.mean([of_cell[key] for of_cell in values[BASELINE].values()]))
        for key in ("final", "final_t")
        if all(key in of_cell for of_cell in values[BASELINE].values())
    }
    main, second, validation = sets_of(example)
    return {
        "command": command,
        "finished": max(cell["finished"] for of_variant in cells.values() for cell in of_variant.values()),
        "device": example["device"],
        "versions": example["versions"],
        "recipe": example["recipe"],
        "sets": {"main": main, "second": second, "validation": validation},
        "problems": len(example["held_out"][main]["0"]),
        "steps": example["steps"],
        "seeds": list(seeds),
        "lowest_p": lowest_p(len(cells[BASELINE])),
        "variants": {
            variant.name: {
                "settings": next(iter(cells[variant.name].values()))["settings"],
                "against": list(variant.against),
                "command": next(iter(cells[variant.name].values()))["command"],
                "measures": _summaries(values[variant.name]),
                "reached": _reached(cells[variant.name], main, targets["final"]),
                **(
                    {"reached_t": _reached(cells[variant.name], second, targets["final_t"])}
                    if second is not None and "final_t" in targets
                    else {}
                ),
            }
            for variant in there
        },
        "targets": targets,
        "paired": _corrected(_pairs(there, values)),
        **({"budget": budget} if (budget := _budget(cells, {"final": main, "final_t": second})) else {}),
        **({} if oracle is None else {"oracle": {"variant": oracle, "shares": _shares(values, oracle)}}),
        "notes": _notes(variants, seeds, cells),
    }


def _summaries(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Each measure's mean over seeds, with its 95 % interval and the seeds' own values."""
    keys = [key for key in next(iter(by_seed.values())) if all(key in values for values in by_seed.values())]
    return {
        key: {
            **_entry(mean_interval([values[key] for values in by_seed.values()])),
            "by_seed": {str(seed): rounded(values[key], DIGITS) for seed, values in by_seed.items()},
        }
        for key in keys
    }


def _reached(cells: Mapping[int, Mapping[str, Any]], main: str, target: float) -> dict[str, Any]:
    by_seed: dict[str, dict[str, float | None]] = {}
    for seed, cell in cells.items():
        step = reached(*accuracy_curve(cell, main), target)
        entry: dict[str, float | None] = {"step": None, "completions": None, "tokens": None}
        if step is not None:
            completions = completions_by(step, cell["completions_a_rollout"], cell["steps_a_rollout"])
            tokens = tokens_after(cell, completions / cell["completions_a_rollout"])
            entry = {"step": rounded(step, DIGITS), "completions": completions, "tokens": _whole(tokens)}
        by_seed[str(seed)] = entry
    steps, completions_S, tokens_S = (
        [entry[key] for entry in by_seed.values()] for key in ("step", "completions", "tokens")
    )
    told = all(entry["tokens"] is not None or entry["step"] is None for entry in by_seed.values())
    return {
        "by_seed": by_seed,
        "never": sum(step is None for step in steps),
        "median_step": censored_median(steps),
        "median_completions": censored_median(completions_S),
        "median_tokens": censored_median(tokens_S) if told else None,
    }


def _budget(cells: Cells, sets: Mapping[str, str | None]) -> dict[str, Any]:
    """By variant that draws more than rollouts, and measure: the paired difference to the baseline at its tokens."""
    found: dict[str, Any] = {}
    for name, by_seed in cells.items():
        if not all(draws_beside(cell) for cell in by_seed.values()):
            continue
        for key, held_out in sets.items():
            if held_out is None:
                continue
            differences = []
            for seed, cell in by_seed.items():
                other = cells[BASELINE].get(seed)
                tokens = other and tokens_after(other, rollouts_of(other))
                value = at_budget(cell, accuracy_curve(cell, held_out), tokens) if tokens else None
                if other is not None and value is not None:
                    differences.append(value - accuracy_curve(other, held_out).value_T[-1])
            if differences:
                found.setdefault(name, {})[key] = {**_entry(mean_interval(differences)), "seeds": len(differences)}
    return found


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _pairs(
    variants: Sequence[Variant], values: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Every variant against what it is compared with."""
    pairs = []
    for variant in variants:
        for other in variant.against:
            if variant.name in (other, BASELINE) or other not in values:
                continue
            for key in COMPARED:
                groups = [
                    [(seed, measured[key]) for seed, measured in values[name].items() if key in measured]
                    for name in (other, variant.name)
                ]
                if not all(groups):
                    continue
                pairs.append(
                    {"variant": variant.name, "against": other, "measure": key, **_pair(compare_runs(*groups))}
                )
    return pairs


def _corrected(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with their p-values corrected for the number of comparisons in one measure."""
    for key in COMPARED:
        tested = [pair for pair in pairs if pair["measure"] == key and pair["p"] is not None]
        for pair, p in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
            pair["p_holm"] = rounded(p, DIGITS)
    return pairs


def _shares(values: Mapping[str, Mapping[int, Mapping[str, float]]], oracle: str) -> dict[str, Any]:
    """By measure and variant, the share of the oracle's gain."""
    found: dict[str, Any] = {}
    for key in COMPARED:
        gains = {
            name: {
                seed: measured[key] - values[BASELINE][seed][key]
                for seed, measured in by_seed.items()
                if key in measured and key in values[BASELINE].get(seed, {})
            }
            for name, by_seed in values.items()
            if name != BASELINE
        }
        whole = gains.get(oracle, {})
        for name, gain in gains.items():
            shared = [seed for seed in gain if seed in whole]
            if shared and name != oracle:
                share = share_of_gain([gain[seed] for seed in shared], [whole[seed] for seed in shared])
                found.setdefault(key, {})[name] = {**_entry(share), "seeds": len(shared)}
    return found


def _pair(comparison: SeedComparison) -> dict[str, Any]:
    return {
        **_entry(comparison.difference),
        "p": comparison.p_value,
        "lowest_p": lowest_p(comparison.seeds) if comparison.seeds else None,
        "seeds": comparison.seeds,
        "verdict": comparison.verdict,
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


def _entry(estimate: Estimate) -> dict[str, float | None]:
    return {name: value and rounded(value, DIGITS) for name, value in estimate.entry().items()}
