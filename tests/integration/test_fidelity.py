"""`rlcredit fidelity` by the command: files, going on after a kill, other strategies on the same values."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlcredit.cli import main
from rlcredit.config import recipes_root
from rlcredit.evaluation.continuations import Continuations
from rlcredit.runs.files import write_facts
from rlcredit.stats.fidelity import squared_changes

OPTIONS = {"numbers": [3], "max_number": 12, "max_target": 60, "num_train": 10, "prompt_style": "compact"}
WORDS = ["--model", str(recipes_root() / "countdown_tiny/policy"), "--task", "countdown", "--dtype", "float32"]
WORDS += ["--task_options", json.dumps(OPTIONS), "--samples=6", "--continuations=8", "--max_new_tokens=40"]
WORDS += ["--responses_at_once=2"]


def measured(folder, *words):
    assert main(["fidelity", *WORDS, "--output", str(folder), *words]) == 0
    document = json.loads((folder / "fidelity.json").read_text())
    return document, pq.read_table(folder / "tokens.parquet").to_pydict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fidelity") / "whole"
    return folder, *measured(folder)


def test_the_files_agree(whole, capsys):
    folder, document, tokens = whole
    assert document["responses"] == 6 and document["tokens"] == len(tokens["token"])
    assert set(document["strategies"]) == {
        *("local_chunk", "global_anchor", "coupled_rhythm", "entropy"), *("random", "place", "oracle")
    }  # fmt: skip
    for entry in document["strategies"].values():
        for measure in ("lift", "capture", "chosen", "auc"):
            assert set(entry[measure]) == {"value", "low", "high"}
    assert document["squared_change"] == pytest.approx(sum(tokens["squared_change"]))
    stored = pq.read_table(folder / "responses.parquet").to_pylist()
    assert document["places"] == sum(tokens["value_taken"]) == sum(len(row["places"]) for row in stored)
    assert document["cost"]["continuations"] == sum(row["continuations"] for row in stored) > 0
    for number, row in enumerate(stored):
        at = [place for place, response in enumerate(tokens["response"]) if response == number]
        probabilities = np.exp([tokens["logp"][place] for place in at])
        assert [tokens["value_taken"][place] for place in at] == (probabilities < 0.95).tolist()
        squared = squared_changes(np.array(row["rewards"]), row["places"], row["reward"], len(row["ids"]))
        assert [tokens["squared_change"][place] for place in at] == pytest.approx(squared.tolist())
    chosen = np.array(tokens["chosen_entropy"], float)
    squared = np.array(tokens["squared_change"])
    capture = document["strategies"]["entropy"]["capture"]["value"]
    assert capture == pytest.approx(chosen @ squared / squared.sum())
    page = (folder / "fidelity.html").read_text()
    assert "Where the outcome is decided" in page and document["strategies"]["entropy"]["sentence"] in page


def test_a_run_that_was_killed_goes_on(whole, tmp_path, monkeypatch, capsys):
    calls, rewards = [], Continuations.rewards

    def dies(self, prefixes):
        calls.append(len(prefixes))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rewards(self, prefixes)

    monkeypatch.setattr(Continuations, "rewards", dies)
    assert main(["fidelity", *WORDS, "--output", str(tmp_path / "run")]) == 130
    assert "the same command continues where it was" in capsys.readouterr().err
    document, tokens = measured(tmp_path / "run")
    assert len(calls) == 4  # three batches, one of them twice
    assert repr(tokens) == repr(whole[2])  # nan is nan
    assert document["strategies"] == whole[1]["strategies"]


def test_other_strategies_are_scored_on_the_same_values(whole, monkeypatch):
    monkeypatch.setattr(Continuations, "rewards", None)  # nothing is drawn
    folder, before, tokens = whole
    document, now = measured(folder, "--strategies", "entropy", "global_anchor", "--credit_heads=receiver")
    assert list(document["strategies"]) == ["entropy", "global_anchor", "random", "place", "oracle"]
    assert now["squared_change"] == tokens["squared_change"] and "chosen_local_chunk" not in now
    assert document["strategies"]["entropy"] == before["strategies"]["entropy"]


def test_another_seed_is_refused_where_values_are(whole, capsys):
    folder, *_ = whole
    assert main(["fidelity", *WORDS, "--output", str(folder), "--seed=1"]) == 2
    assert "holds values with seed 0 instead of 1" in capsys.readouterr().err


def test_the_plan_and_a_run_in_front(tmp_path, capsys):
    write_facts(tmp_path, {"analyze": {"task": "countdown", "task_options": OPTIONS, "max_new_tokens": 40}})
    for file in (recipes_root() / "countdown_tiny/policy").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert main(["fidelity", str(tmp_path), "--samples=4", "--continuations=8", "--dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "at most 1,280, of 2.56e+04 tokens" in said and "nothing was drawn" in said
    assert main(["fidelity", *WORDS, "--strategies", "ktae", "--dry_run=true"]) == 2
    assert "strategies: 'ktae' reads the rollout of a training run" in capsys.readouterr().err
