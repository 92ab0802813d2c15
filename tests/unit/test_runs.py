"""The report of runs: folders read as they are left, groups, bands and tables by hand, text that stays text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcredit.errors import InputError
from rlcredit.pages.frame import clean
from rlcredit.runs.files import (
    append_line,
    read_accuracies,
    read_facts,
    read_held_out,
    write_accuracies,
    write_facts,
)
from rlcredit.runs.folder import Run, distinct, read_run
from rlcredit.runs.groups import Standing, baseline, changes, grouped, standings, summaries
from rlcredit.runs.page import charts, runs_page
from rlcredit.runs.report import describe, report
from rlcredit.runs.settings import differing
from rlcredit.stats.curves import Curve, band, smoothed
from tests.browser.document import HOSTILE, held_by
from tests.unit.test_report import Reader

DEFAULT: list[dict[str, Any]] = [{"step": step, "reward": step / 10, "loss": -step} for step in range(1, 13)]
COLUMNS = ("prompt", "completion", "countdown_reward", "credit_weight_mean", "advantage")


def write_run(
    folder: Path,
    log: list[dict[str, Any]] | str = DEFAULT,
    accuracies: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    completions: dict[int, list[tuple[Any, ...]]] | None = None,
) -> Path:
    """A run's folder with these files; a log that is text is written as it is."""
    folder.mkdir(parents=True)
    text = log if isinstance(log, str) else "".join(json.dumps(line) + "\n" for line in log)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    if accuracies is not None:
        (folder / "accuracy.json").write_text(json.dumps(accuracies))
    if facts is not None:
        (folder / "run.json").write_text(json.dumps(facts))
    for step, rows in (completions or {}).items():
        (folder / "completions").mkdir(exist_ok=True)
        table = [{"step": step, **dict(zip(COLUMNS, row, strict=True))} for row in rows]
        pq.write_table(pa.Table.from_pylist(table), folder / "completions" / f"completions_{step:05d}.parquet")
    return folder


def made_up_run(folder: Path, seed: int, strategy: str = "coupled_rhythm", steps: int = 200, **facts: Any) -> Path:
    """A run with the metrics of a real one, a rollout every other step, an evaluation every 40."""
    draw = np.random.default_rng([seed, len(strategy)])
    gain = 0.5 if strategy == "uniform" else 0.65
    log: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        level = 0.25 + gain * (1 - math.exp(-step / 70))
        line = {
            "step": step, "loss": draw.normal(0, 0.05), "grad_norm": draw.gamma(4, 0.08),
            "entropy": 0.4 * math.exp(-step / 90) + 0.1 * draw.random(), "step_time": draw.gamma(20, 0.1),
            "credit/weight_mean": 1.19 + draw.normal(0, 0.004), "credit/amplified_share": 0.46 + draw.normal(0, 0.01),
            "credit/waad_mean": 6.3 + draw.normal(0, 0.1), "credit/fai_mean": 0.026 + draw.normal(0, 0.001),
            "credit/time_share": 0.06 + 0.02 * draw.random(),
        }  # fmt: skip
        if step % 2:
            line |= {
                "reward": level + draw.normal(0, 0.05),
                "completions/mean_length": 27 + 20 * level + draw.normal(),
            }
        log.append(line)
        if step % 40 == 0:
            share = level + draw.normal(0, 0.02)
            name = "eval/countdown/pass@1"
            log.append({"step": step, name: share, f"{name}_low": share - 0.06, f"{name}_high": share + 0.06})
    outcome = {"before": {"countdown": (draw.random(64) < 0.3).astype(float).tolist()}}
    outcome["after"] = {"countdown": (draw.random(64) < 0.25 + gain).astype(float).tolist()}
    rows = [("4 12 9 -> 24\n", f"<think>{a}+12=16\n16-9=5</think><answer>(4+12)-9</answer>", a / 10, 1.2, a - 4.5)
            for a in range(10)]  # fmt: skip
    known = {
        "recipe": f"countdown_tiny/{strategy}", "algorithm": "grpo", "credit_strategy": strategy, "seed": seed,
        "model": "countdown-tiny", "task": "countdown", "eval_samples": 1,
        "command": f"rlcredit train --config countdown_tiny/{strategy} --seed {seed} --output_dir {folder.name}",
    }  # fmt: skip
    hostile = [(text, text, 0.0, 1.0, -1.0) for text in (HOSTILE[0], HOSTILE[3], clean("".join(HOSTILE)))]
    return write_run(folder, log, outcome, known | facts, {1: rows, 101: hostile, 199: rows})


def lines(*entries: tuple[Any, ...]) -> str:
    return "".join(json.dumps({"step": step, "reward": reward}) + "\n" for step, reward in entries)


def curve(*values: float, start: int = 1) -> Curve:
    return Curve(np.arange(start, start + len(values)), np.array(values, dtype=float))


def held(run: Run, key: str = "reward") -> list[tuple[int, float]]:
    return list(zip(run.curves[key].step_T.tolist(), run.curves[key].value_T.tolist(), strict=True))


def page_of(*folders: Path) -> str:
    return runs_page(distinct([read_run(folder) for folder in folders]), [], "rlcredit report", "now")


def data_of(html: str) -> dict[str, Any]:
    reader = Reader()
    reader.feed(html.replace("<wbr>", ""))
    assert not reader.open  # every element is closed
    return held_by(html)


# ---- a folder -----------------------------------------------------------------------------------------------------


def test_a_log_is_read_by_metric_and_an_evaluation_has_its_own_line(tmp_path):
    log = [
        {"step": 1, "reward": 0.5, "note": "text", "flag": True},
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval/math500/pass@1": 0.25, "eval/math500/pass@1_low": 0.1, "eval/math500/pass@1_high": 0.4},
    ]
    run = read_run(write_run(tmp_path / "a", log))
    assert held(run) == [(1, 0.5)]
    assert held(run, "loss") == [(2, 1.0)]
    assert held(run, "eval/math500/pass@1") == [(2, 0.25)]
    assert list(run.curves) == sorted(run.curves) and "note" not in run.curves and "flag" not in run.curves
    assert (run.last_step, run.evaluation_sets, run.notes) == (2, ["math500"], [])


@pytest.mark.parametrize("tail", ['{"step": 3, "rew', "\0\0\0", '{"step": 3, "reward": 0.3, "\u00ff', "\0\0\n"])
def test_a_torn_last_line_is_left_out(tmp_path, tail):
    run = read_run(write_run(tmp_path / "a", lines((1, 0.1), (2, 0.2)) + tail))
    assert held(run) == [(1, 0.1), (2, 0.2)]
    assert bool(run.notes) == (not tail.startswith("\0"))


def test_a_resumed_run_keeps_what_came_last(tmp_path):
    run = read_run(write_run(tmp_path / "a", lines((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35), (4, 0.4))))
    assert held(run) == [(1, 0.1), (2, 0.25), (3, 0.35), (4, 0.4)]
    assert run.notes == ["2 logged steps were repeated, as by a resumed run; the last ones count."]
    # resumed at 2 and cut at once: step 3 belongs to what is void
    assert held(read_run(write_run(tmp_path / "b", lines((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25))))) == [
        (1, 0.1),
        (2, 0.25),
    ]
    assert held(read_run(write_run(tmp_path / "c", lines((1, 0.1), (1, 0.15))))) == [(1, 0.15)]


def test_values_that_are_no_numbers_are_not_drawn_or_averaged(tmp_path):
    folder = write_run(tmp_path / "a", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 4.0}\n{"step": 3, "kl": NaN}\n')
    run = read_run(folder)
    found = {entry.key: entry for entry in summaries(run)}
    assert found["loss"][1:] == (1, 4.0, 4.0, 4.0)
    assert found["kl"].logged == 0 and math.isnan(found["kl"].first)
    (chart,) = charts([run], grouped([run]), [])
    assert (chart["lines"][0]["x"], chart["lines"][0]["raw"]) == ([2], [4.0])
    assert "nan" not in page_of(folder).split("<script")[0].lower()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it has no log.jsonl"),
        ({"log.jsonl": ""}, "is empty"),
        ({"log.jsonl": "\n"}, "is not JSON|is empty"),
        ({"log.jsonl": '{"step": 1, "rew'}, "is empty"),
        ({"log.jsonl": '{"step": 1}\n'}, "is empty"),
        ({"log.jsonl": '{"step": 1, "re\n{"step": 2, "reward": 1}\n'}, "line 1 is not JSON"),
        ({"log.jsonl": "[1]\n"}, "line 1 is not the log of a step"),
        ({"log.jsonl": '{"reward": 1}\n'}, "line 1 is not the log of a step"),
        ({"accuracy.json": '{"before": {"a": [0.5'}, "accuracy.json: is not a JSON object"),
        ({"accuracy.json": '{"before": 0.5}'}, "a list of values"),
        ({"accuracy.json": '{"before": {"a": [2]}}'}, "a list of values"),
        ({"run.json": "[]"}, "run.json: is not a JSON object"),
        ({"run.json": '{"eval_samples": "many"}'}, "eval_samples: 'many'"),
        ({"completions/completions_00001.parquet": "PAR1 broken"}, "is not a table of completions"),
    ],
)
def test_what_is_broken_is_one_line(tmp_path, files, said):
    folder = tmp_path / "run"
    for name, text in ({"log.jsonl": lines((1, 0.5))} if files and "log.jsonl" not in files else {} | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        report([str(folder)])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.tmp"))


def test_completions_are_taken_at_start_middle_and_end_of_what_was_logged(tmp_path):
    rows = [(f"p{i}", f"c{i}", i / 10, 1.5, i - 4.5) for i in range(10)]
    folder = write_run(tmp_path / "a", completions={1: rows, 5: rows[:1], 7: rows[:2], 12: rows[:1], 40: rows})
    samples = read_run(folder).completions
    assert [(sample.moment, sample.step) for sample in samples] == [
        *[("start", 1)] * 4, *[("middle", 7)] * 2, ("end", 12)
    ]  # fmt: skip
    assert [sample.prompt for sample in samples[:4]] == ["p0", "p3", "p6", "p9"]
    assert samples[1].numbers == {"countdown_reward": 0.3, "credit_weight_mean": 1.5, "advantage": -1.5}


def test_what_is_written_is_read(tmp_path):
    shares = {"countdown": [0.25, 1.0], "countdown_validation": [0.0]}
    assert (read_facts(tmp_path), read_accuracies(tmp_path), read_held_out(tmp_path)) == (({}, None), {}, {})
    write_facts(tmp_path, {"algorithm": "ppo", "seed": 3, "eval_samples": 4})
    assert read_facts(tmp_path) == ({"algorithm": "ppo", "seed": "3"}, 4)
    write_accuracies(tmp_path, before=shares)
    assert read_accuracies(tmp_path) == {"before": shares}
    write_accuracies(tmp_path, before=shares, after=shares)
    assert read_accuracies(tmp_path) == {"before": shares, "after": shares}
    for step in (20, 40):
        append_line(tmp_path / "held_out.jsonl", {"step": step, "right": shares})
    assert read_held_out(tmp_path) == {20: shares, 40: shares}
    for text in ('{"step": 60}\n', '{"step": 60, "right": {"countdown": [2]}}\n', '{"step": 60, "right": [1]}\n'):
        (tmp_path / "held_out.jsonl").write_text(text)
        with pytest.raises(InputError, match=r"held_out.jsonl: an evaluation is a list of values in \[0, 1\]"):
            read_held_out(tmp_path)
    (tmp_path / "accuracy.json").write_text('{"after": {}}')
    with pytest.raises(InputError, match=r"accuracy\.json: holds no accuracies before the run"):
        read_accuracies(tmp_path)


# ---- groups -------------------------------------------------------------------------------------------------------


def test_folders_that_differ_in_a_trailing_seed_are_one_group(tmp_path):
    names = [
        "uniform-seed1",
        "uniform_s2",
        "uniform/seed_3",
        "uniform",
        "results2",
        "rhythm.seed=7",
        "deep/uniform-s1",
    ]
    found = grouped([read_run(write_run(tmp_path / name)) for name in names if name != "uniform"])
    assert [(one.label, [run.facts.get("seed") for run in one.runs]) for one in found] == [
        (f"{tmp_path.name}/uniform", ["1", "2", "3"]),
        ("results2", [None]),
        ("rhythm", ["7"]),
        ("deep/uniform", ["1"]),
    ]
    assert baseline(found, found[1]) is found[0]
    assert baseline(found, found[0]) is None


def test_run_json_says_what_belongs_together(tmp_path):
    facts = {"algorithm": "grpo", "model": "m", "task": "t", "credit_strategy": "coupled_rhythm"}
    made = [
        facts | {"seed": 1, "command": "rlcredit train --config r --seed 1 --output_dir a"},
        facts | {"credit_strategy": "uniform", "seed": 1},
        facts | {"seed": 2, "command": "rlcredit train --config r --seed=2 --output_dir b --overwrite"},
        facts | {"algorithm": "ppo", "seed": 1},
        facts | {"model": "other", "seed": 1},
    ]
    runs = [read_run(write_run(tmp_path / f"x{at}", facts=one)) for at, one in enumerate(made)]
    found = grouped(runs)
    assert [one.label for one in found] == ["coupled_rhythm, m", "uniform", "coupled_rhythm (PPO)",
                                            "coupled_rhythm, other"]  # fmt: skip
    assert [run.name for run in found[0].runs] == ["x0", "x2"]
    assert found[0].notes == []
    assert [baseline(found, one) is found[1] for one in found] == [True, False, True, True]


def test_runs_whose_settings_differ_are_not_seeds_of_one_thing(tmp_path):
    facts = {"algorithm": "grpo", "model": "m", "task": "t", "credit_strategy": "uniform"}
    commands = ["--seed 1 --output_dir a", "--seed=2 --learning_rate 1", "--seed 3 --learning_rate=2 --beta 0.5"]
    old = [
        read_run(
            write_run(tmp_path / f"old{at}", facts=facts | {"seed": at + 1, "command": f"rlcredit train {words}"})
        )
        for at, words in enumerate(commands)
    ]
    labels = ["not set, beta not set", "1, beta not set", "2, beta 0.5"]
    assert [one.label for one in grouped(old)] == [f"uniform, learning_rate {label}" for label in labels]
    assert differing(old) == [("learning_rate", [None, "1", "2"]), ("beta", [None, None, "0.5"])]
    settings = [
        {"learning_rate": 1e-6, "task_options": {"numbers": [3]}, "bf16": True, "seed": 1, "horizon": [10, -1]},
        {"learning_rate": 1e-6, "task_options": {"numbers": [3]}, "bf16": True, "seed": 2, "horizon": [10, -1]},
        {"learning_rate": 1e-6, "task_options": {"numbers": [4]}, "bf16": False, "seed": 1, "horizon": [10, 100]},
    ]
    new = [
        read_run(write_run(tmp_path / f"new{at}", facts=facts | {"seed": one["seed"], "settings": one}))
        for at, one in enumerate(settings)
    ]
    assert [[run.name for run in one.runs] for one in grouped(new)] == [["new0", "new1"], ["new2"]]
    assert differing(new) == [
        ("task_options", ['{"numbers": [3]}', '{"numbers": [3]}', '{"numbers": [4]}']),
        ("bf16", ["true", "true", "false"]),
        ("horizon", ["10, -1", "10, -1", "10, 100"]),
    ]
    assert grouped(new)[1].label == 'uniform, task_options {"numbers": [4]}, bf16 false'
    # beside runs of an earlier version, which have their commands alone, commands are compared
    assert [one.label for one in grouped([old[1], new[0]])] == [
        "uniform, learning_rate 1",
        "uniform, learning_rate not set",
    ]
    page = page_of(*(tmp_path / f"new{at}" for at in range(3)))
    row = page.split('<table id="runs">')[1].split("</table>")[0].replace("<wbr>", "")
    assert row.count('<td class="setting">true</td>') == 2 and row.count('<td class="setting">false</td>') == 1
    assert "they differ in no setting but their seed" in page_of(tmp_path / "new0", tmp_path / "new1")


def test_the_same_seed_twice_is_one_seed(tmp_path):
    facts = FACTS | {"credit_strategy": "uniform"}
    for name, seed, values in (("short", 1, (0.2, 0.3)), ("long", 1, (0.2, 0.4, 0.6)), ("other", 2, (0.3, 0.5))):
        write_run(tmp_path / name, accuracy(*values), facts=facts | {"seed": seed})
    folders = [tmp_path / name for name in ("short", "long", "other")]
    (twice,) = grouped([read_run(folder) for folder in folders[:2]])
    assert [run.name for run in twice.counted] == ["long"]
    assert twice.notes == ["uniform: seed 1 is there 2 times; the longest run counts."]
    (found,) = standings([twice], "a")
    assert (found.seeds, found.final.value, found.interval) == (1, 0.6, "95 % over problems")
    (drawn,) = [chart for chart in data_of(page_of(*folders[:2]))["charts"] if chart["accuracy"]]
    assert drawn["bands"] == [] and len(drawn["lines"]) == 2
    (all_three,) = grouped([read_run(folder) for folder in folders])
    (found,) = standings([all_three], "a")
    assert found.seeds == 2 and found.final.value == pytest.approx((0.6 + 0.5) / 2)
    assert [(group["seeds"], group["runs"]) for group in data_of(page_of(*folders))["groups"]] == [(2, [0, 1, 2])]


# ---- curves -------------------------------------------------------------------------------------------------------


def test_smoothing_by_hand(tmp_path):
    # x = 1, 3, 0, 2 with alpha = 0.3: EMA 1, 1.6, 1.12, 1.384; of the peak 1, 1.6, 1.6, 1.72
    values = curve(1, 3, 0, 2)
    assert smoothed(values, "ema", 0.3).value_T.tolist() == pytest.approx([1, 1.6, 1.12, 1.384])
    assert smoothed(values, "peak", 0.3).value_T.tolist() == pytest.approx([1, 1.6, 1.6, 1.72])
    assert smoothed(values, "raw", 0.3) is values
    log = [{"step": step, "reward": x, "loss": x} for step, x in enumerate([1, 3, 0, 2], 1)]
    run = read_run(write_run(tmp_path / "a", log))
    reward, loss = charts([run], grouped([run]), [])
    (line,) = reward["lines"]
    assert (line["x"], line["raw"]) == ([1, 2, 3, 4], [1, 3, 0, 2])
    assert set(line["ema"]) == set(line["peak"]) == {"0.05", "0.1", "0.3"}
    assert line["ema"]["0.3"] == pytest.approx([1, 1.6, 1.12, 1.384])
    assert line["peak"]["0.3"] == pytest.approx([1, 1.6, 1.6, 1.72])
    assert line["peak"]["0.1"] == pytest.approx([1, 1.2, 1.2, 1.28])
    assert "peak" not in loss["lines"][0]  # of a loss, more is not better


def test_a_band_of_few_seeds_is_their_range_and_of_five_students_t():
    few = band([curve(1, 2, 3), curve(3, 4), Curve(np.array([2, 1]), np.array([6.0, 8.0]))])
    assert few.step_T.tolist() == [1, 2]  # at step 3 a single one is left
    assert few.mean_T.tolist() == [4.0, 4.0]
    assert (few.low_T.tolist(), few.high_T.tolist()) == ([1, 2], [8, 6])
    assert few.kind == "lowest to highest of 3 seeds"
    five = band([curve(x) for x in (1, 2, 3, 4, 5)])
    # sd = sqrt(2.5), t(4, 0.975) = 2.7764: half a width of 2.7764 * sqrt(2.5 / 5) = 1.9632
    assert (five.mean_T[0], five.low_T[0], five.high_T[0]) == pytest.approx((3, 3 - 1.9632, 3 + 1.9632), abs=1e-4)
    assert five.kind == "95 % over 5 seeds (Student's t)"


def test_each_run_is_smoothed_before_the_mean(tmp_path):
    folders = [
        write_run(tmp_path / f"a-seed{seed}", lines(*enumerate(values, 1)))
        for seed, values in enumerate([(1, 3, 0, 2), (2, 0, 4, 0)])
    ]
    runs = [read_run(folder) for folder in folders]
    (chart,) = charts(runs, grouped(runs), [])
    (found,) = chart["bands"]
    # of the peak at alpha = 0.3: 1, 1.6, 1.6, 1.72 and 2, 2, 2.6, 2.6
    assert found["peak"]["0.3"]["mean"] == pytest.approx([1.5, 1.8, 2.1, 2.16])
    assert found["peak"]["0.3"]["low"] == pytest.approx([1, 1.6, 1.6, 1.72])
    assert found["raw"]["mean"] == [1.5, 1.5, 2, 1]
    assert found["kind"] == "lowest to highest of 2 seeds"


def test_a_long_curve_is_thinned_and_its_average_is_over_all(tmp_path):
    values = np.random.default_rng(0).random(2_500)
    run = read_run(write_run(tmp_path / "a", lines(*enumerate(values.tolist()))))
    (chart,) = charts([run], grouped([run]), [])
    line = chart["lines"][0]
    assert len(line["x"]) == 1_000 and line["x"][0] == 0 and line["x"][-1] == 2_499
    last = values[0]
    for value in values[1:]:
        last = 0.05 * value + 0.95 * last
    assert line["ema"]["0.05"][-1] == pytest.approx(last, rel=1e-4)


def test_accuracy_begins_before_the_first_step_and_ends_after_the_last(tmp_path):
    log = [*DEFAULT, {"step": 6, "eval/a/pass@1": 0.6, "eval/a/pass@1_low": 0.5, "eval/a/pass@1_high": 0.7}]
    log.sort(key=lambda line: line["step"])
    run = read_run(write_run(tmp_path / "a", log, {"before": {"a": [0.0, 1.0]}, "after": {"a": [1.0, 1.0]}}))
    found = run.accuracies_by_step("a")
    assert list(found) == [0, 6, 12]
    # Wilson, 1 of 2: 0.0945 to 0.9055; 2 of 2: 0.3424 to 1
    assert found[0] == pytest.approx((0.5, 0.0945, 0.9055), abs=1e-4)
    assert found[6] == (0.6, 0.5, 0.7)
    assert found[12] == pytest.approx((1, 0.3424, 1), abs=1e-4)
    (_, chart) = charts([run], grouped([run]), ["a"])[:2]
    (line,) = chart["lines"]
    assert (line["x"], line["raw"]) == ([0, 6, 12], [0.5, 0.6, 1.0])
    assert line["interval"]["low"] == pytest.approx([0.0945, 0.5, 0.3424], abs=1e-4)


# ---- tables -------------------------------------------------------------------------------------------------------


def test_first_last_and_last_tenth(tmp_path):
    found = {entry.key: entry for entry in summaries(read_run(write_run(tmp_path / "a")))}
    # 12 values: the last tenth, rounded up, is two of them
    assert found["reward"] == ("reward", 12, 0.1, 1.2, pytest.approx(1.15))
    assert found["loss"] == ("loss", 12, -1, -12, -11.5)
    html = page_of(tmp_path / "a")
    row = html.split(">reward</th>")[1].split("</tr>")[0]
    assert [cell.split("<")[0] for cell in row.split('">')[1:]] == ["12", "0.1", "1.2", "1.15"]


def test_the_paired_difference_by_hand(tmp_path):
    before, after = [0.0] * 6 + [1.0] * 4, [1.0] * 5 + [0.0] * 2 + [1.0] * 3
    run = read_run(write_run(tmp_path / "a", accuracies={"before": {"a": before}, "after": {"a": after}}))
    (found,) = changes(run)
    assert found.problems == 10 and found.before.value == 0.4 and found.after.value == 0.8
    # 5 gained, 1 lost: D = 4 / 12, V = (6 + 2) / 12 - D^2 = 0.5556, half a width of 1.96 * sqrt(V / 12) = 0.4217
    assert found.paired.difference == pytest.approx((0.4, 1 / 3 - 0.4217, 1 / 3 + 0.4217), abs=1e-4)
    # sums of 6 signs that reach 4: 2 * (1 + 6) of 64
    assert found.paired.p_value == pytest.approx(14 / 64)
    assert (found.paired.gained, found.paired.lost) == ([0, 1, 2, 3, 4], [6])
    assert "+0.400 [\u22120.088, +0.755]" in page_of(tmp_path / "a")


def test_a_run_that_is_not_done_has_no_difference(tmp_path):
    (found,) = changes(read_run(write_run(tmp_path / "a", accuracies={"before": {"a": [0.5, 0.25]}})))
    assert (found.after, found.paired, found.before.value) == (None, None, 0.375)
    assert read_run(tmp_path / "a").samples_behind([0.5, 0.25]) == 4
    assert changes(read_run(write_run(tmp_path / "b"))) == []


def accuracy(*values: float, name: str = "a") -> list[dict[str, Any]]:
    return [{"step": step, f"eval/{name}/pass@1": value} for step, value in enumerate(values, 1)]


FACTS = {"algorithm": "grpo", "model": "m", "task": "t"}


def standings_of(folder: Path, accuracies: dict[str, dict[Any, tuple[float, ...]]]) -> list[Standing]:
    """On set `a`, of runs with these accuracies by strategy and seed (None: no seed is known)."""
    runs = []
    for name, by_seed in accuracies.items():
        for number, (seed, values) in enumerate(by_seed.items()):
            facts = FACTS | {"credit_strategy": name} | ({} if seed is None else {"seed": seed})
            runs.append(read_run(write_run(folder / f"{name}-{number}", accuracy(*values), facts=facts)))
    return standings(grouped(runs), "a")


def test_standings_over_seeds(tmp_path):
    made = {
        "coupled_rhythm": {0: (0.5, 0.8, 0.7), 1: (0.6, 0.9)},
        "uniform": {1: (0.3, 0.5), 0: (0.5, 0.4)},
        "alone": {7: (0.6,)},
    }
    first, uniform, alone = standings_of(tmp_path, made)
    # 0.7 and 0.9: mean 0.8, sd 0.1414, t(1, 0.975) = 12.7062: half a width of 12.7062 * 0.1414 / sqrt(2) = 1.2706
    assert first.final == pytest.approx((0.8, 0.8 - 1.2706, 0.8 + 1.2706), abs=1e-4)
    assert (first.seeds, first.interval, first.baseline) == (2, "95 % over 2 seeds (Student's t)", "uniform")
    # paired by seed, whatever the order: 0.7 - 0.4 and 0.9 - 0.5: mean 0.35, sd 0.0707, half a width of 0.6353
    assert first.difference == pytest.approx((0.35, 0.35 - 0.6353, 0.35 + 0.6353), abs=1e-4)
    assert first.difference_interval == "95 % over 2 seeds, paired (Student's t)"
    assert uniform.difference is None and uniform.baseline is None
    assert alone.difference.value == pytest.approx(0.15) and math.isnan(alone.difference.low)
    assert alone.difference_interval == "none: too few seeds"


def test_seeds_that_do_not_match_are_compared_by_welch(tmp_path):
    coupled, uniform = {0: (0.7,), 1: (0.9,)}, {2: (0.4,), 3: (0.5,)}
    first, _ = standings_of(tmp_path / "other", {"coupled_rhythm": coupled, "uniform": uniform})
    # 0.8 - 0.45; variances 0.02 and 0.005, of means 0.01 and 0.0025: error sqrt(0.0125) = 0.1118,
    # freedom 0.0125^2 / (0.01^2 + 0.0025^2) = 1.4706, t(1.4706, 0.975) = 6.1839
    assert first.difference == pytest.approx((0.35, 0.35 - 0.6914, 0.35 + 0.6914), abs=2e-3)
    assert first.difference_interval == "95 % over seeds (Welch's t)"
    # where one seed stands there twice, the last of its equally long runs does not count
    twice = grouped(
        [
            read_run(write_run(tmp_path / f"{name}{number}", accuracy(value), facts=FACTS | facts))
            for name, values in {"coupled_rhythm": (0.7, 0.9), "uniform": (0.4, 0.5)}.items()
            for number, value in enumerate(values)
            for facts in [{"credit_strategy": name, "seed": number if name == "uniform" else 1}]
        ]
    )
    (found, _) = standings(twice, "a")
    assert found.difference.value == pytest.approx(0.7 - 0.45) and found.difference_interval == "none: too few seeds"


def test_best_is_chosen_on_the_validation_set_or_not_told(tmp_path):
    facts = FACTS | {"credit_strategy": "uniform"}
    held_out, validation = accuracy(0.5, 0.9, 0.7), accuracy(0.2, 0.3, 0.4, name="a_validation")
    log = sorted([*held_out, *validation], key=lambda line: line["step"])
    plain = write_run(tmp_path / "plain", held_out, facts=facts | {"seed": 0})
    checked = write_run(tmp_path / "checked", log, facts=facts | {"seed": 1})
    (found,) = standings(grouped([read_run(checked)]), "a")
    assert found.best.value == 0.7  # step 3, and not the highest of the held-out curve
    (found,) = standings(grouped([read_run(plain), read_run(checked)]), "a")
    assert found.best is None  # one of its runs had no validation set
    other = write_run(tmp_path / "other", log, facts=FACTS | {"credit_strategy": "random", "seed": 1})
    assert "Best on validation</th>" in page_of(checked, other).split('id="standings-2"')[0]
    assert "Best" not in page_of(plain, checked).split("<noscript")[0]


def test_single_runs_are_compared_problem_by_problem(tmp_path):
    for name, after in (("uniform", [0.0] * 6 + [1.0] * 4), ("rhythm", [1.0] * 5 + [0.0] * 2 + [1.0] * 3)):
        write_run(tmp_path / name, accuracies={"before": {"a": [0.0] * 10}, "after": {"a": after}})
    found = standings(grouped([read_run(tmp_path / name) for name in ("rhythm", "uniform")]), "a")
    assert found[0].difference == pytest.approx((0.4, 1 / 3 - 0.4217, 1 / 3 + 0.4217), abs=1e-4)
    assert found[0].difference_interval == "95 % over problems (paired); seeds not counted"
    assert found[0].final.low < 0.8 < found[0].final.high


# ---- the page -----------------------------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path):
    mean = "".join(HOSTILE)  # with a lone surrogate, which JSON can hold and UTF-8 cannot
    rows = [(clean(text), clean(text), math.nan, 1.0, 0.0) for text in (mean, *HOSTILE[:3])]
    facts = dict.fromkeys(("algorithm", "credit_strategy", "model", "task", "recipe", "command"), mean)
    log = [{"step": 1, "reward": 1.0, mean: 2.0, f"rewards/{mean}/mean": 1.0, "rewards/b/mean": 2.0}]
    outcome = {"before": {mean: [1.0]}, "after": {mean: [0.0]}}
    folder = write_run(tmp_path / "<b>bold" / "{{7*7}}", log, outcome, facts, {1: rows})
    other = write_run(tmp_path / "other", log, outcome, facts)
    for folders in ([folder], [folder, other]):
        report([*map(str, folders), "--output", str(tmp_path / "page.html")])
        html = (tmp_path / "page.html").read_text(encoding="utf-8")
        (first, *_) = data_of(html)["runs"]
        assert [sample["completion"] for sample in first["samples"]] == [row[1] for row in rows]
        assert first["samples"][0]["numbers"]["countdown_reward"] is None
        head, rest = html.split("<style>")
        seen = head + rest.split("</style>")[1].split('<script type="text/plain"')[0]
        for forbidden in ("<script", "<img", "<svg/onload", "<b>", "<a href='", "<!--"):
            assert forbidden not in seen
        assert html.count("</script") == 3
        assert "{{7*7}}" in seen and ">49" not in seen


def test_report_writes_one_page_and_says_where(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = write_run(tmp_path / "a-s1"), write_run(tmp_path / "a-s2")
    broken = write_run(tmp_path / "c", completions={1: []})
    (broken / "completions" / "completions_00001.parquet").write_text("no")
    report([str(first)])
    assert capsys.readouterr().out == f"report: {first / 'report.html'}\n"
    assert data_of((first / "report.html").read_text())["single"] is True
    report([str(first), str(second), str(first), str(broken), str(tmp_path / "none")])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["left out", "left out", "report"]
    html = (tmp_path / "report.html").read_text()
    assert [run["name"] for run in data_of(html)["runs"]] == ["a-s1", "a-s2"]
    assert "Left out." in html and "it has no log.jsonl" in html and "is not a table of completions" in html
    report([str(first), f"--output={tmp_path / 'new' / 'x.html'}"])
    report([str(first), str(second), "--output", str(tmp_path / "folder")])
    assert (tmp_path / "new" / "x.html").is_file() and (tmp_path / "folder" / "report.html").is_file()
    assert not list(tmp_path.rglob("*.tmp"))
    assert "RUN_DIR" in describe()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "takes the output folder"),
        (["--out", "x"], "--out: is not a flag"),
        (["{a}", "--output"], "takes one file"),
        (["{a}", "--output", "x.html", "--output=y.html"], "takes one file"),
        (["{a}", "--output", "{a}/log.jsonl"], "ends in .html"),
        (["{a}", "--output", "{a}/log.jsonl/x.html"], "cannot be written"),
        (["{a}/none", "{a}/more"], "none of the 2 runs can be read"),
        (["{a}/.."], "write .*/\\*"),
    ],
)
def test_a_wrong_command_line_is_one_line(tmp_path, argv, said):
    folder = write_run(tmp_path / "a")
    with pytest.raises(InputError, match=said) as caught:
        report([word.format(a=folder) for word in argv])
    assert "\n" not in str(caught.value)
    assert (folder / "log.jsonl").read_text().startswith('{"step": 1')
