"""Pool the grids of one task that start from several policies, into the table of docs/results.md.

    python scripts/pool_warm_starts.py benchmarks/relay_64_warm_starts

The folder has one of each policy, with `fidelity.json` of `rlcredit fidelity` before training and `cells/` of
`rlcredit benchmark`. The policy is the unit: the difference of a strategy to `uniform` is first averaged over the
seeds of a policy; the last row has the mean over policies, Student's interval and the p of exact sign flips.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlcredit.benchmark.results import measures
from rlcredit.stats.seeds import SeedComparison, paired

STRATEGIES = ("oracle_a4", "coupled_rhythm_a4", "global_anchor_a4", "random_a4")
BASELINE, MEASURE = "uniform", "final_t"


class WarmStart(NamedTuple):
    """A policy, and what came of training it: sampled accuracies, means over seeds."""

    name: str
    before: float
    lift: float
    final: dict[str, float]

    def gain(self, strategy: str) -> float:
        return self.final[strategy] - self.final[BASELINE]


def read(folder: Path) -> WarmStart:
    """One policy's grid. Raises: ValueError where strategies have other seeds than `uniform`."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        found.setdefault(cell["name"], {})[cell["seed"]] = measures(cell)
    for name in (BASELINE, *STRATEGIES):
        if found.get(name, {}).keys() != found[BASELINE].keys():
            raise ValueError(f"{folder}: {name} has not the seeds of {BASELINE}")
    before = float(np.mean([of["before_t"] for of in found[BASELINE].values()]))
    lift = json.loads((folder / "fidelity.json").read_text())["strategies"]["global_anchor"]["lift"]["value"]
    final = {name: float(np.mean([of[MEASURE] for of in found[name].values()])) for name in (BASELINE, *STRATEGIES)}
    return WarmStart(folder.name, before, lift, final)


def read_all(folder: Path) -> list[WarmStart]:
    return [read(place) for place in sorted(folder.iterdir()) if (place / "cells").is_dir()]


def pooled(starts: Sequence[WarmStart], strategy: str) -> SeedComparison:
    """The difference to `uniform`, over policies."""
    return paired([start.final[BASELINE] for start in starts], [start.final[strategy] for start in starts])


def table(starts: Sequence[WarmStart]) -> str:
    """In Markdown."""
    names = [strategy.removesuffix("_a4") for strategy in STRATEGIES]
    lines = [
        f"| warm start | before | lift | `uniform` | {' | '.join(f'`{name}`' for name in names)} |",
        f"|{'---|' * (4 + len(STRATEGIES))}",
    ]
    for start in starts:
        gains = " | ".join(f"{start.gain(strategy):+.3f}" for strategy in STRATEGIES)
        lines.append(
            f"| {start.name} | {start.before:.3f} | {start.lift:.2f} | {start.final[BASELINE]:.3f} | {gains} |"
        )
    found = [pooled(starts, strategy) for strategy in STRATEGIES]
    means = " | ".join(f"{each.difference:+.3f} (p = {each.p_value:.2g})" for each in found)
    lines.append(f"| mean | | | {np.mean([start.final[BASELINE] for start in starts]):.3f} | {means} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("pool_warm_starts.py takes the folder of the warm starts")
    print(table(read_all(Path(sys.argv[1]))))
