"""What the repository keeps of its grids: results that come from the cells beside them, and docs that quote them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pool_warm_starts
import pytest
import write_grid_table

from rlcredit.benchmark.grid import Variant
from rlcredit.benchmark.results import document
from rlcredit.cli import main
from rlcredit.runs.folder import Run, read_run
from rlcredit.runs.groups import grouped, standings
from rlcredit.stats.estimates import estimate_in
from tests.command import ROOT

RESULTS = sorted((ROOT / "benchmarks").glob("*/results*.json"))
ONE, *OTHERS = RESULTS


def test_there_are_grids_of_two_tasks():
    assert {path.parent.name for path in RESULTS} >= {"countdown_tiny", "paths_tiny"}


@pytest.mark.parametrize(
    "path",
    [ONE, *(pytest.param(path, marks=pytest.mark.thorough) for path in OTHERS)],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_results_come_from_the_cells(path, tmp_path, monkeypatch):
    shutil.copytree(path.parent / "cells", tmp_path / "cells")
    words = shlex.split(json.loads(path.read_text())["command"])[1:]
    monkeypatch.chdir(ROOT)
    assert main([*words, "--output", str(tmp_path), "--report_only", "true"]) == 0
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    made = (tmp_path / path.name).with_suffix(".md").read_text().split("\n", 1)[1]  # its title names the folder
    assert made == path.with_suffix(".md").read_text().split("\n", 1)[1]


def folder_of(cell: dict, folder: Path) -> Run:
    """The run that a stored cell was collected from, as far as its evaluations go."""
    folder.mkdir()
    shares = {
        int(step): {name: [int(digit) / cell["samples"] for digit in by_step[step]] for name, by_step in
                    cell["held_out"].items()}
        for step in cell["held_out"]["paths"]
    }  # fmt: skip
    logged = [
        {"step": step} | {f"eval/{name}/pass@1": float(np.mean(values)) for name, values in by_set.items()}
        for step, by_set in sorted(shares.items())
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    (folder / "accuracy.json").write_text(json.dumps({"before": shares[0], "after": shares[cell["steps"]]}))
    facts = {"credit_strategy": cell["settings"]["credit_strategy"], "seed": cell["seed"], "task": "paths"}
    (folder / "run.json").write_text(json.dumps(facts | {"eval_samples": cell["samples"]}))
    return read_run(folder)


@pytest.mark.parametrize("seeds", [range(5), range(3)], ids=str)
def test_benchmark_and_report_give_one_answer(tmp_path, seeds):
    """Of the same runs: the same difference to uniform, accuracy, and best on validation, each with its interval."""
    cells = {
        name: {seed: json.loads((ROOT / f"benchmarks/paths_tiny/cells/{name}-seed{seed}.json").read_text())
               for seed in seeds}
        for name in ("uniform", "global_anchor", "local_chunk")
    }  # fmt: skip
    variants = [Variant(name, {}) for name in cells]
    results = document(variants, list(seeds), cells, "")
    runs = [folder_of(cell, tmp_path / f"{name}-{seed}") for name, by_seed in cells.items()
            for seed, cell in by_seed.items()]  # fmt: skip
    groups = grouped(runs)
    assert [group.label for group in groups] == list(cells)
    for name, final, chosen in (("paths", "final", "best"), ("paths_t1", "final_t", None)):
        of_report = {standing.group: standing for standing in standings(groups, name)}
        for variant in cells:
            measures = results["variants"][variant]["measures"]
            assert of_report[variant].final == pytest.approx(estimate_in(measures[final]), abs=1e-7)
            if chosen is None:  # the second temperature has no validation set
                assert of_report[variant].best is None
            else:
                assert of_report[variant].best == pytest.approx(estimate_in(measures[chosen]), abs=1e-7)
        pairs = [pair for pair in results["paired"] if pair["measure"] == final]
        assert len(pairs) == 2
        for pair in pairs:
            assert of_report[pair["variant"]].difference == pytest.approx(estimate_in(pair), abs=1e-7)
    if len(seeds) == 5:
        assert f"{of_report['global_anchor'].difference:+.3f}" == "+0.017 [+0.002, +0.032]"


def documents() -> dict[str, dict[str, Any]]:
    """By task and set: `countdown controls`."""
    names = {path: path.stem.removeprefix("results-").replace("results", "strategies") for path in RESULTS}
    return {f"{path.parent.name.removesuffix('_tiny')} {name}": json.loads(path.read_text())
            for path, name in names.items()}  # fmt: skip


def part_of_docs() -> str:
    """What docs/results.md says of the grids, without line breaks."""
    return " ".join((ROOT / "docs/results.md").read_text().split("## Does credit help?", 1)[1].split())


def test_every_estimate_in_the_docs_is_one_of_the_grids():
    quoted = re.findall(r"(?<![\d.])[-+]?\d\.\d+ \[[^]]+\]", part_of_docs())
    pages = [*(path.with_suffix(".md") for path in RESULTS), ROOT / "benchmarks/relay_64_warm_starts/results.md"]
    known = "".join(page.read_text() for page in pages)
    assert len(quoted) > 20 and [estimate for estimate in quoted if f"| {estimate} |" not in known] == []


def test_the_table_of_grids_is_written_anew():
    text = (ROOT / "benchmarks/README.md").read_text()
    assert write_grid_table.page() == text
    controls = documents()["countdown controls"]["paired"]
    assert sum(pair["low"] is not None and (pair["low"] > 0 or pair["high"] < 0) for pair in controls) == 1
    assert "results-controls.md) | 5 | 30 | 1 | `coupled_rhythm` below `random` (area, sampled) |" in text


def test_the_page_of_pooled_warm_starts_is_that_of_its_cells():
    folder = ROOT / "benchmarks/relay_64_warm_starts"
    starts = pool_warm_starts.read_all(folder)
    assert (folder / "results.md").read_text() == pool_warm_starts.results(starts)
    gains = [start.gain("coupled_rhythm_a4") for start in starts]
    found = pool_warm_starts.pooled(starts, "coupled_rhythm_a4")
    assert f"{found.difference:+.3f} (p = {found.p_value:.2g}), ahead on five of" in part_of_docs()
    assert len(gains) == 6 and sum(gain > 0 for gain in gains) == 5
    assert f"(rank correlation {pool_warm_starts.correlation(starts):.2f}, of six points)" in part_of_docs()


def by_seed(results: dict[str, Any], variant: str, against: str, measure: str) -> np.ndarray:
    """The differences of the seeds, in order."""
    one, other = (results["variants"][name]["measures"][measure]["by_seed"] for name in (variant, against))
    return np.array([one[seed] - other[seed] for seed in one])


def test_what_the_docs_conclude_holds_in_the_grids():
    grids, said = documents(), part_of_docs()
    paths = grids["paths strategies"]
    final, area = (by_seed(paths, "global_anchor", "uniform", measure) for measure in ("final_t", "area_t"))
    assert (final > 0).all() and (area > 0).all()
    assert f"{final[3:].mean():+.3f} and {area[3:].mean():+.3f} on those two alone" in said
    assert {pair["p"] for pair in paths["paired"] if pair["verdict"] == "higher"} == {1 / 16}
    entropies = {name: variant["measures"]["entropy"]["value"] for name, variant in paths["variants"].items()}
    assert min(entropies, key=entropies.__getitem__) == "global_anchor"
    assert f"({entropies['global_anchor']:.3f} nats)" in said
    before = paths["variants"]["uniform"]["measures"]
    assert f"{before['before']['value']:.0%} of the answers".replace("%", " %") in said
    assert f"{before['before_t']['value']:.0%} when sampled".replace("%", " %") in said
    assert (by_seed(grids["paths controls"], "global_anchor", "random", "final_t") > 0).sum() == 4
    ends = [pair["value"] for pair in grids["countdown top_bottom"]["paired"]
            if pair["variant"] == f"{pair['against']}_bottom" and pair["measure"] in ("final", "final_t")]  # fmt: skip
    assert len(ends) == 6 and min(ends) > 0 and f"{max(ends):+.3f} [" in said
    shares = {
        name: variant["measures"]["final_t"]["value"] for name, variant in grids["countdown q"]["variants"].items()
    }
    assert min(shares, key=shares.__getitem__) == "coupled_rhythm" and len(shares) == 6  # with uniform
    rivals = [pair for pair in grids["countdown rivals"]["paired"] if pair["low"] is not None]
    to_uniform = [pair["verdict"] for pair in rivals if pair["against"] == "uniform"]
    assert f"{len(to_uniform) - to_uniform.count('open')} of {len(to_uniform)} intervals leave out 0" in said
    others = [pair["verdict"] for pair in rivals if pair["against"] == "coupled_rhythm"]
    assert f"{len(others) - others.count('open')} of {len(others)} intervals" in said


def test_what_the_docs_say_of_the_weights_holds_in_the_cells():
    def means(name: str, metric: str) -> list[float]:
        cells = [json.loads(path.read_text()) for path in (ROOT / "benchmarks").glob(f"*/cells/{name}-seed?.json")]
        assert len(cells) == 10
        return [float(np.mean(cell["curves"][f"credit/{metric}"]["value"])) for cell in cells]

    said = part_of_docs()
    for name, share, weight in (
        ("coupled_rhythm", "46 to 47 % of", "weight of 1.19"),
        ("random", "41 to 42 %", "of 1.21"),
    ):
        low, high = (int(word) for word in share.split()[:3:2])
        assert all(low - 0.5 <= 100 * value <= high + 0.5 for value in means(name, "amplified_share"))
        assert all(
            value == pytest.approx(float(weight.split()[-1]), abs=0.005) for value in means(name, "weight_mean")
        )
        assert share in said and weight in said
