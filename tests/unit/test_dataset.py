"""The task `dataset`: rows as TRL and open-r1 take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from trl.scripts.utils import DatasetMixtureConfig, get_dataset

from rlcredit.config import parse
from rlcredit.errors import InputError
from rlcredit.tasks import load_set
from rlcredit.tasks.dataset import DatasetArguments, DatasetOptions, load
from tests.policies import save_rows

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a folder, with both splits; the cache of `datasets` in another."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "set"
    home.mkdir()
    rows = [{"prompt": f"{i}+{i}", "question": f"What is {i}?", "answer": str(i), "completion": "x"} for i in range(9)]
    save_rows(home / "train.jsonl", rows)
    save_rows(home / "test.jsonl", rows[:2])
    return home


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as refused:
        load(options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_prompts_are_used_as_they_are_and_columns_reach_the_rewards(folder):
    task = load({"dataset_name": str(folder)})
    assert task.train["prompt"] == [f"{i}+{i}" for i in range(9)] and task.train["answer"][3] == "3"
    assert "completion" not in task.train.column_names  # which TRL keeps from the rewards
    assert list(task.tests) == ["test"] and len(task.tests["test"]) == 2
    assert task.rewards == [] and task.check is None


def test_a_column_becomes_a_conversation_as_in_open_r1(folder):
    name = str(folder)
    first = {"role": "user", "content": "What is 0?"}
    task = load({"dataset_name": name, "dataset_prompt_column": "question", "system_prompt": "Be brief."})
    assert task.train[0]["prompt"] == [SYSTEM, first] == task.tests["test"][0]["prompt"]
    assert task.train[0]["question"] == "What is 0?"
    assert load({"dataset_name": name, "dataset_prompt_column": "question"}).train[0]["prompt"] == [first]
    only_system = load({"dataset_name": name, "system_prompt": "Be brief."}).train[0]["prompt"]
    assert only_system == [SYSTEM, {"role": "user", "content": "0+0"}]


def test_a_system_prompt_stands_in_front_of_conversations(folder):
    user = {"role": "user", "content": "a"}
    (folder / "test.jsonl").unlink()
    save_rows(folder / "train.jsonl", [{"prompt": [user], "messages": [user]}])
    task = load({"dataset_name": str(folder), "system_prompt": "Be brief."}, tests=[])
    assert task.train[0] == {"prompt": [SYSTEM, user]}  # open-r1 drops `messages`
    save_rows(folder / "train.jsonl", [{"prompt": [SYSTEM, user]}, {"prompt": [user]}])
    assert "1 of 2 rows cannot be used: row 1: prompt begins with a system message" in refusal(
        dataset_name=str(folder), system_prompt="Be brief."
    )


def test_a_mixture_is_trls(folder):
    entries = [
        {"path": "json", "data_files": str(folder / "train.jsonl"), "columns": ["prompt", "answer"], "fraction": 0.75},
        {"path": str(folder), "split": "test", "columns": ["prompt", "answer"], "fraction": 0.25},
    ]
    given = json.loads(json.dumps(entries))
    rows = load({"datasets": entries}).train
    assert entries == given  # what run.json keeps
    trls = get_dataset(DatasetMixtureConfig(given))["train"]
    assert rows.to_list() == trls.to_list() and len(rows) == 8


def test_the_split_of_a_mixture_is_the_seeds(folder):
    mixture = {"datasets": [{"path": str(folder)}], "test_split_size": 0.4}
    parts = [load({**mixture, "seed": seed}) for seed in (1, 1, 2)]
    assert [len(part.train) for part in parts] == [5, 5, 5]
    answers = [part.tests["test"]["answer"] for part in parts]
    assert answers[0] == answers[1] != answers[2]


def test_a_stream_is_read_up_to_the_rows_of_a_run(folder):
    stream = {"dataset_name": str(folder), "dataset_streaming": True, "rows": 4}
    in_order, shuffled = load(stream), load({**stream, "shuffle": True, "seed": 3})
    assert in_order.train["answer"] == list("0123") and len(shuffled.train) == 4
    whole = datasets.load_dataset(str(folder), streaming=True)["train"].shuffle(seed=3)
    assert shuffled.train["answer"] == [row["answer"] for row in whole.take(4)]
    assert len(in_order.tests["test"]) == 2


def test_a_report_asks_for_the_test_rows_or_those_of_training(folder):
    rows, _ = load_set("dataset", None, {"dataset_name": str(folder), "seed": 1}, None)
    assert len(rows) == 2
    (folder / "test.jsonl").unlink()
    rows, _ = load_set("dataset", None, {"dataset_name": str(folder)}, 5)
    assert len(rows) == 9
    with pytest.raises(InputError, match="task: dataset has no checker, which says what is right"):
        load_set("dataset", str(folder), None, None, judged=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset_train_split": "trian"}, "dataset_train_split: SET has no split 'trian'; write one of train, test"),
        ({"dataset_test_split": "dev"}, "dataset_test_split: SET has no split 'dev'"),
        ({"dataset_prompt_column": "problem"}, "SET:train has no column 'problem'; write one of prompt, question"),
        ({"dataset_name": "SET/train.jsonl"}, "datasets: [{path: json, data_files: FILE}]"),
        ({"dataset_name": "no/such", "dataset_config": "x"}, "dataset_name: no/such cannot be loaded"),
        ({"dataset_name": None}, "dataset_name: is missing"),
        ({"datasets": [{"path": "x"}]}, "dataset_name: datasets is given too"),
        ({"test_split_size": 0.1}, "test_split_size: has no effect without datasets"),
        ({"streaming": True}, "streaming: has no effect without datasets"),
        ({"ignore_bias_buffers": True}, "ignore_bias_buffers: is not read"),
        ({"system_prompt": " "}, "system_prompt: is empty"),
        ({"dataset_nam": "x"}, "did you mean task_options.dataset_name?"),
    ],
)
def test_refusals(folder, options, said):
    given = {"dataset_name": "SET", **options}
    given = {
        key: value.replace("SET", str(folder)) if isinstance(value, str) else value for key, value in given.items()
    }
    assert said.replace("SET", str(folder)) in refusal(**given)


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        ({"datasets": [{"name": "x"}]}, "datasets: entry 1 has no path"),
        ({"datasets": [{"path": "SET"}], "dataset_config": "x"}, "dataset_config: has no effect without dataset_name"),
        ({"datasets": [{"path": "SET"}], "streaming": True, "test_split_size": 0.5}, "a stream cannot be split"),
        ({"datasets": [{"path": "SET", "fraction": 0.5}, {"path": "SET"}]}, "`fraction` must be set for either all"),
    ],
)
def test_refusals_of_mixtures(folder, mixture, said):
    entries = [{**entry, **({"path": str(folder)} if "path" in entry else {})} for entry in mixture["datasets"]]
    assert said in refusal(**{**mixture, "datasets": entries})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a"}], "has no column 'prompt'; write one of question"),
        ([{"prompt": "a"}, {"prompt": " "}, {"prompt": None}], "2 of 3 rows cannot be used: row 2: prompt is empty"),
        ([{"prompt": "a", "images": [1]}], "has the column images, and text alone is trained on"),
        ([{"prompt": "a", "trainer_state": 1}], "has the column trainer_state, and TRL uses that name itself"),
    ],
)
def test_rows_that_cannot_be_used(folder, rows, said):
    (folder / "test.jsonl").unlink()
    save_rows(folder / "train.jsonl", rows)
    assert said in refusal(dataset_name=str(folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets:\n- path: a\n  type: x\n", "an entry has the unknown key 'type'; the keys are path, name"),
        ("datasets:\n- path: a\n  type: x\n  colums: y\n", "an entry has the unknown keys 'type', 'colums'; the keys"),
        ("datasets:\n- path: a\n  columns: [1]\n", "an entry has columns [1]; write list of str or null"),
        ("datasets: [a]\n", "expected list of mapping, got ['a']"),
        ("datasets: {path: a}\n", "expected list of mapping, got {'path': 'a'}"),
    ],
)
def test_entries_are_checked_by_the_reader(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        parse(["--config", str(tmp_path / "r.yaml")], (DatasetArguments,))
    assert said in str(refused.value) and str(refused.value).startswith(f"{tmp_path}/r.yaml:1: datasets: ")


def test_the_keys_that_were_given_are_the_tasks_options(tmp_path):
    (tmp_path / "r.yaml").write_text("datasets:\n- path: a\n  columns: [b]\n  fraction: 1\ntest_split_size: 0.5\n")
    (read,) = parse(["--config", str(tmp_path / "r.yaml")], (DatasetArguments,))
    given = read.given()
    entry = {"path": "a", "split": "train", "columns": ["b"], "fraction": 1.0}
    assert given == {"datasets": [entry], "test_split_size": 0.5}
    assert DatasetOptions(**given).source == "a"
