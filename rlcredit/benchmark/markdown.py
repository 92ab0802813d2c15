"""results.md: the tables of a document, with what is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlcredit.benchmark.grid import BASELINE
from rlcredit.benchmark.results import COMPARED, TITLES
from rlcredit.stats.estimates import estimate_in
from rlcredit.stats.paired import EXACT_UP_TO

NOTHING = "-"  # in a table, where there is no value
_REACHED = {"final": "reached", "final_t": "reached_t"}


def markdown(results: Mapping[str, Any], title: str, figures: Sequence[str]) -> str:
    """results.md: the tables, with what is needed to read them."""
    parts = [f"# {title}", _opening(results), "## Held-out accuracy", _accuracy_table(results)]
    parts += ["## Differences, paired by seed", _reading(results), _paired_table(results)]
    if "oracle" in results:
        parts += [f"## Share of the gain of `{results['oracle']['variant']}` over uniform", _shares_table(results)]
    if "budget" in results:
        parts += ["## At the tokens that uniform generated", _budget_table(results)]
    parts += ["## Until the final accuracy of uniform"]
    parts += [_reached_table(results, key, reach) for key, reach in _REACHED.items() if key in results["targets"]]
    parts += ["## Cost, entropy, length", _cost_table(results)]
    if results["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results["notes"])]
    parts += [f"![{name.rpartition('/')[2].removesuffix('.png')}]({name})" for name in figures]
    parts += ["## Cells", _commands(results)]
    return "\n\n".join(parts) + "\n"


def _opening(results: Mapping[str, Any]) -> str:
    sets = results["sets"]
    chosen = f" Best is chosen on {sets['validation']}, never on the held-out set." if sets["validation"] else ""
    sampled = f" Sampled: {sets['second']}." if sets["second"] else ""
    packages = ", ".join(f"{name} {results['versions'][name]}" for name in ("torch", "transformers", "trl"))
    return (
        f"```\n{results['command']}\n```\n\n"
        f"{results['finished'][:10]}; {results['device']}; {packages}. {results['steps']} steps; "
        f"{results['problems']} held-out problems ({sets['main']}), the same for all.{sampled}{chosen} "
        f"Means over seeds {', '.join(map(str, results['seeds']))}, with 95 % intervals over seeds (Student's t)."
    )


def _reading(results: Mapping[str, Any]) -> str:
    tested = sum(pair["low"] is not None for pair in results["paired"])
    seeds = len(results["variants"][BASELINE]["measures"]["final"]["by_seed"])
    exact = "an exact" if seeds <= EXACT_UP_TO else "a"
    return (
        "Paired by seed: the same data in the same order and, where no note says otherwise, the same first rollouts. "
        f"The interval is Student's t over seeds. p is {exact} sign-flip test; with {seeds} seeds it cannot go below "
        f"{_fraction(results['lowest_p'])}, however large the difference. `higher` and `lower`: the interval leaves "
        "out 0; `open`: it cannot be told. Holm: p corrected for all comparisons of a measure. Of "
        f"{tested} intervals about {tested / 20:.1f} would leave out 0 if nothing differed at all."
    )


def _accuracy_table(results: Mapping[str, Any]) -> str:
    titles = {"before": "before, greedy", "final": "final", "best": "best on validation", "area": "area",
              "before_t": "before, sampled", "final_t": "final", "area_t": "area"}  # fmt: skip
    there = [key for key in titles if any(key in variant["measures"] for variant in results["variants"].values())]
    rows = [
        [
            f"`{name}`",
            str(len(variant["measures"]["final"]["by_seed"])),
            *(_shown(variant["measures"].get(k)) for k in there),
        ]
        for name, variant in results["variants"].items()
    ]
    return _table(["", "seeds", *(titles[key] for key in there)], rows)


def _paired_table(results: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{pair['variant']}`",
            f"`{pair['against']}`",
            TITLES[pair["measure"]],
            _shown(pair, "+.3f"),
            _fraction(pair["p"]),
            _fraction(pair.get("p_holm")),
            str(pair["seeds"]),
            pair["verdict"],
        ]
        for key in COMPARED
        for pair in results["paired"]
        if pair["measure"] == key
    ]
    return _table(["", "against", "measure", "difference", "p", "p, Holm", "seeds", ""], rows)


def _shares_table(results: Mapping[str, Any]) -> str:
    shares = results["oracle"]["shares"]
    measures = [key for key in COMPARED if key in shares]
    names = list(dict.fromkeys(name for key in measures for name in shares[key]))
    rows = [[f"`{name}`", *(_shown(shares[key].get(name), ".2f") for key in measures)] for name in names]
    text = "Paired by seed, with Fieller's 95 % intervals; none where the oracle's own gain cannot be told from 0."
    return f"{text}\n\n" + _table(["", *(TITLES[key] for key in measures)], rows)


def _reached_table(results: Mapping[str, Any], target: str, key: str) -> str:
    rows = []
    for name, variant in results["variants"].items():
        reach, count = variant[key], len(variant[key]["by_seed"])
        steps, completions = reach["median_step"], reach["median_completions"]
        rows.append(
            [
                f"`{name}`",
                f"{steps:.0f}" if steps is not None else f"> {results['steps']}",
                f"{completions:,.0f}" if completions is not None else "censored",
                NOTHING if reach["median_tokens"] is None else f"{reach['median_tokens']:,.0f}",
                f"{count - reach['never']} of {count}",
            ]
        )
    how = TITLES[target].removeprefix("final, ").capitalize()
    text = (
        f"{how}, {results['targets'][target]:.3f}. Median over seeds; a seed that never has it counts as later than "
        "all (censored), not as left out."
    )
    return f"{text}\n\n" + _table(["", "steps", "completions", "generated tokens", "seeds that reach it"], rows)


def _budget_table(results: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", *(_shown(by_key.get(key), "+.3f") for key in ("final", "final_t"))]
        for name, by_key in results["budget"].items()
    ]
    text = (
        "Continuations are generated too. Here a variant that draws them is stopped when it has generated as many "
        "tokens as `uniform` in its whole run, between evaluations on the line that joins them, and compared with "
        "`uniform`'s last accuracy."
    )
    return f"{text}\n\n" + _table(["", "greedy", "sampled"], rows)


def _cost_table(results: Mapping[str, Any]) -> str:
    shapes: dict[str, Callable[[float], str]] = {
        "seconds_a_step": "{:.2f}".format,
        "credit_share": "{:.1%}".format,
        "entropy": "{:.3f}".format,
        "length": "{:.1f}".format,
        "generated": "{:.2f}".format,
    }
    rows = []
    for name, variant in results["variants"].items():
        values = [variant["measures"].get(key, {}).get("value") for key in shapes]
        shown = [shape(v) if v is not None else NOTHING for shape, v in zip(shapes.values(), values, strict=True)]
        rows.append([f"`{name}`", *shown])
    text = "Seconds depend on what else the machine did; credit's share of a step's time much less."
    return f"{text}\n\n" + _table(
        ["", "s a step", "credit's share", "entropy at the end, nats", "length, tokens", "generated, M tokens"], rows
    )


def _commands(results: Mapping[str, Any]) -> str:
    lines = [variant["command"] for variant in results["variants"].values()]
    return "Any cell alone, with its `--seed` and `--credit_seed`:\n\n```\n" + "\n".join(lines) + "\n```"


def _shown(entry: Mapping[str, Any] | None, shape: str = ".3f") -> str:
    return NOTHING if entry is None or entry["value"] is None else f"{estimate_in(entry):{shape}}"


def _fraction(p: float | None) -> str:
    """A p-value, as a fraction of one where it is one: 1/16."""
    if p is None:
        return NOTHING
    return f"1/{round(1 / p)}" if p < 1 and math.isclose(1 / p, round(1 / p)) and 1 / p < 1000 else f"{p:.3g}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
