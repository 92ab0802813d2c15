"""Pool the grids of one task that start from several policies: results.md in their folder.

    python scripts/pool_warm_starts.py benchmarks/relay_64_warm_starts

The folder has one of each policy, with `fidelity.json` of `rlcredit fidelity` before training and `cells/` of
`rlcredit benchmark`. The policy is the unit: the difference of a strategy to `uniform` is first averaged over the
seeds of a policy; the last rows have the mean over policies with Student's interval, and the p of exact sign flips.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from rlcredit.benchmark.results import measures
from rlcredit.files import write_whole
from rlcredit.stats.seeds import SeedComparison, paired

STRATEGIES = ("oracle_a4", "coupled_rhythm_a4", "global_anchor_a4", "random_a4")
BASELINE, MEASURE = "uniform", "final_t"
COMMAND = (
    "rlcredit benchmark --config recipes/benchmark/relay_tiny.yaml --model_name_or_path outputs/warm_starts/N "
    f"--task_options.fillers '[64]' --strategies uniform {' '.join(reversed(STRATEGIES))} --seeds 0 1"
)


class WarmStart(NamedTuple):
    """A policy, and what came of training it: sampled accuracies, means over seeds."""

    folder: Path
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
    return WarmStart(folder, before, lift, final)


def read_all(folder: Path) -> list[WarmStart]:
    return [read(place) for place in sorted(folder.iterdir()) if (place / "cells").is_dir()]


def pooled(starts: Sequence[WarmStart], strategy: str) -> SeedComparison:
    """The difference to `uniform`, over policies."""
    return paired([start.final[BASELINE] for start in starts], [start.final[strategy] for start in starts])


def correlation(starts: Sequence[WarmStart]) -> float:
    """Spearman's, of the lift of global_anchor with its gain."""
    return float(spearmanr([(start.lift, start.gain("global_anchor_a4")) for start in starts]).statistic)


def results(starts: Sequence[WarmStart]) -> str:
    """The page, in Markdown."""
    names = " | ".join(f"`{strategy}`" for strategy in STRATEGIES)
    lines = [
        "# Relay with 64 letters in between, on warm starts that nobody chose",
        "",
        "Grid M of [PLAN.md](../PLAN.md). For each number N, in this order:",
        "",
        "```",
        "python scripts/make_tiny_policy.py --task relay --seed N --output outputs/warm_starts/N",
        json.loads((starts[0].folder / "fidelity.json").read_text())["command"].replace(
            f"/{starts[0].folder.name} ", "/N "
        ),
        COMMAND,
        "```",
        "",
        "Before: sampled accuracy at the start. Lift: of `global_anchor` before training (1 is chance). Then the",
        "final sampled accuracy of `uniform`, and how far the others end from it, means over two seeds.",
        "",
        f"| warm start | before | lift | `uniform` | {names} |",
        f"|{'---|' * (4 + len(STRATEGIES))}",
    ]
    for start in starts:
        given = f"{start.before:.3f} | {start.lift:.2f} | {start.final[BASELINE]:.3f}"
        lines.append(
            f"| {start.folder.name} | {given} | {' | '.join(f'{start.gain(name):+.3f}' for name in STRATEGIES)} |"
        )
    found = [pooled(starts, strategy) for strategy in STRATEGIES]
    mean = np.mean([start.final[BASELINE] for start in starts])
    lines.append(f"| mean | | | {mean:.3f} | {' | '.join(f'{each.difference:+.3f}' for each in found)} |")
    lines.append(f"| p | | | | {' | '.join(f'{each.p_value:.2g}' for each in found)} |")
    lines += ["", f"Rank correlation of lift and gain of `global_anchor`: {correlation(starts):.2f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("pool_warm_starts.py takes the folder of the warm starts")
    place = Path(sys.argv[1])
    write_whole(place / "results.md", results(read_all(place)))
