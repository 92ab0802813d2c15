"""Tasks of questions: where rows come from, what is wrong with them, how they are worded, what is held out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet
import pytest

from rlcredit.errors import InputError
from rlcredit.tasks import EVALUATION_SETS, TASKS
from rlcredit.tasks import qa as qa_module
from rlcredit.tasks.checkers.choice import check_choice
from rlcredit.tasks.files import HubSet, hub_set, read_file
from rlcredit.tasks.gsm8k import GSM8K
from rlcredit.tasks.knights_knaves import KNIGHTS_KNAVES
from rlcredit.tasks.math import MATH
from rlcredit.tasks.overlap import normalized
from rlcredit.tasks.qa import QA, split_options
from tests.policies import save_rows

ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(6)]
CHOICE = {"question": "Which is a colour?", "choices": ["seven", "red", "Monday"], "answer": "B"}


def rows_file(folder: Path, rows=ROWS, name="rows.jsonl") -> str:
    return save_rows(folder / name, rows)


def refusal(task: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        TASKS[task](options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Where rows come from


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        rows_file(tmp_path)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif suffix == ".csv":
        path.write_text("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    task = TASKS["gsm8k"]({"train": str(path), "test": []})
    assert task.train["question"] == [row["question"] for row in ROWS]
    assert task.train["answer"] == [row["answer"] for row in ROWS]
    assert task.train["id"] == [f"row {n}" for n in range(1, 7)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"question": "q", "answer": "1"}\n{"question": \n', "row 2: is not JSON"),
        ("a.jsonl", "[1, 2]\n", "row 1: is a list"),
        ("a.json", '{"question": "q"}', "holds a dict; write a list of objects"),
        ("a.json", "nonsense", "is not JSON"),
        ("a.csv", "question,answer\na,1\nb,1,2\n", "row 2: has more or fewer fields"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.jsonl", "", "has no rows"),
        ("a.jsonl", "\udcff", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_row(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    message = refusal("gsm8k", train=str(tmp_path / name), test=[])
    assert str(tmp_path / name) in message and expected in message


def test_names_of_sets_on_the_hub():
    assert hub_set("openai/gsm8k", "train") == HubSet("openai/gsm8k", "train")
    assert hub_set("allenai/ai2_arc@ARC-Challenge:test", "train") == HubSet("allenai/ai2_arc", "test", "ARC-Challenge")
    assert hub_set("gsm8k_trian", "train") is None
    assert "is not a set of the task gsm8k; write one of gsm8k_train" in refusal("gsm8k", train="gsm8k_trian", test=[])
    assert "there is no such file" in refusal("gsm8k", train="no/such.jsonl", test=[])


def test_every_evaluation_set_belongs_to_a_task():
    assert set(EVALUATION_SETS.values()) == set(TASKS)
    assert {"math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva", "gsm8k", "arc"} <= set(EVALUATION_SETS)


# What is wrong with rows


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("gsm8k", {"question": "q", "answer": ""}, "row 7: answer is empty"),
        ("gsm8k", {"question": "q", "answer": float("nan")}, "row 7: answer is NaN"),
        ("math", {"question": "q", "answer": "NaN"}, "row 7: answer is NaN"),
        ("gsm8k", {"question": " ", "answer": "1"}, "row 7: question is empty"),
        ("gsm8k", {"question": ["q"], "answer": "1"}, "row 7: question is empty, or no text"),
        ("gsm8k", {"question": "q", "answer": True}, "row 7: answer is empty, or neither text nor number"),
        ("gsm8k", {"question": "q"}, "row 7: has no answer"),
        ("gsm8k", {"answer": "1"}, "row 7: has no question"),
        ("qa", {**CHOICE, "choices": ["one"]}, "row 7: choices is not a list of 2 to 26 texts"),
        ("qa", {**CHOICE, "answer": "D"}, "row 7: answer 'D' is not one of the letters A to C"),
        ("qa", {**CHOICE, "answer": "red"}, "row 7: answer 'red' is not one of the letters A to C"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it_and_can_be_left_out_but_not_in_silence(task, row, expected, tmp_path):
    good = ROWS if task == "gsm8k" else [CHOICE | {"question": f"{n}?"} for n in range(6)]
    path = rows_file(tmp_path, [*good, row])
    message = refusal(task, train=path, test=[])
    assert expected in message and "1 of 7 rows cannot be used" in message and "skip_bad_rows: true" in message
    made = TASKS[task]({"train": path, "test": [], "skip_bad_rows": True})
    assert len(made.train) == 6
    assert len(made.notes) == 1 and "1 of 7 rows left out" in made.notes[0] and expected in made.notes[0]


def test_a_missing_column_is_said_once_with_the_columns_that_are_there(tmp_path):
    message = refusal("gsm8k", train=rows_file(tmp_path, [{"problem": "q", "answer": "1"}] * 9), test=[])
    assert "row 1: has no question; the columns are problem, answer" in message


def test_many_bad_rows_are_counted_and_the_first_are_listed(tmp_path):
    path = rows_file(tmp_path, [*ROWS, *[{"question": "q", "answer": ""}] * 9])
    assert "9 of 15 rows cannot be used: row 7: " in (message := refusal("gsm8k", train=path, test=[]))
    assert message.count("answer is empty") == 5 and "and 4 more" in message


def test_an_evaluation_set_shorter_than_promised_is_an_error(tmp_path):
    train, test = rows_file(tmp_path), rows_file(tmp_path, ROWS[:3], "test.jsonl")
    message = refusal("math", train=train, test={"aime24": test})
    assert f"{test}: has 3 usable rows, but the evaluation set aime24 has 30" in message
    assert "num_test: 3" in message
    made = TASKS["math"]({"train": train, "test": {"aime24": test}, "num_test": 3})
    assert len(made.tests["aime24"]) == 3
    assert "has 3 usable rows, but the evaluation set test has 4" in refusal(
        "math", train=train, test=test, num_test=4
    )


OPTIONS = [
    (
        {"trian": "x"},
        "task_options.trian: 'x' was given, but the task gsm8k has no such option; did you mean task_options.train?",
    ),
    ({"prompt_style": "talk"}, "task_options.prompt_style: 'talk'"),
    ({"num_train": 0}, "task_options.num_train: 0"),
    ({"test": 3}, "task_options.test: 3"),
    ({"test": ["a.jsonl", "b/a.jsonl"]}, "two sets have the same name"),
    ({"skip_bad_rows": "yes"}, "task_options.skip_bad_rows: 'yes'"),
    ({"prompt_style": "plain", "system_prompt": "Hello"}, "task_options.system_prompt"),
    ({"hold_out": 6}, "task_options.hold_out: 6 of 6 questions leave none"),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_a_wrong_option_is_named(options, expected, tmp_path):
    assert expected in refusal("gsm8k", **{"train": rows_file(tmp_path), "test": [], **options})


# Prompts


def test_prompts_are_the_papers(tmp_path):
    path = rows_file(tmp_path)
    options = {"train": path, "test": [], "system_prompt": "You are good."}
    text = "What is 1 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}."
    system, user = TASKS["gsm8k"](options).train[1]["prompt"]
    assert system == {"role": "system", "content": "You are good."} and user == {"role": "user", "content": text}
    plain = TASKS["gsm8k"]({"train": path, "test": [], "prompt_style": "plain"}).train[1]["prompt"]
    assert plain == f"Question: {text}\nAnswer:"


def test_choices_are_lettered(tmp_path):
    row = TASKS["qa"]({"train": rows_file(tmp_path, [CHOICE]), "test": [], "prompt_style": "plain"}).train[0]
    assert "colour?\nA. seven\nB. red\nC. Monday\nPlease reason" in row["prompt"]
    assert check_choice(["\\boxed{B}", "\\boxed{A}"], [row, row]) == [(1.0, "B"), (0.0, "A")]


# Rewards


def test_the_reward_is_the_checker_on_texts_and_conversations(tmp_path):
    task = TASKS["gsm8k"]({"train": rows_file(tmp_path), "test": []})
    (reward,) = task.rewards
    said = ["so \\boxed{4}", [{"role": "assistant", "content": "\\boxed{6}"}], "\\boxed{5}"]
    assert reward(prompts=["p"] * 3, completions=said, answer=["4", "6", "4"], trainer_state=None) == [1.0, 1.0, 0.0]
    assert reward.__name__ == "accuracy"


# What is in both sets, and what is held out


def test_overlap_is_found_whatever_the_typesetting(tmp_path):
    assert normalized("What  is $2+2$?") == normalized("what is 2 + 2")
    test = rows_file(
        tmp_path, [{"question": "what is 1+1", "answer": "2"}, {"question": "new?", "answer": "1"}], "t.jsonl"
    )
    task = TASKS["gsm8k"]({"train": rows_file(tmp_path), "test": test})
    assert task.notes == ["overlap: 1 of 2 problems of t are also in the training set (row 1 = row 2)"]
    clean = TASKS["gsm8k"](
        {"train": rows_file(tmp_path), "test": rows_file(tmp_path, [ROWS[0] | {"question": "?!x"}], "c.jsonl")}
    )
    assert clean.notes == []


def test_what_is_held_out_depends_on_the_questions_alone(tmp_path):
    rows = [*ROWS, ROWS[0] | {"question": "WHAT is 0+0"}]  # a copy goes where its original goes
    first = TASKS["gsm8k"]({"train": rows_file(tmp_path, rows), "hold_out": 2})
    turned = TASKS["gsm8k"]({"train": rows_file(tmp_path, rows[::-1], "rows.jsonl"), "hold_out": 2})
    held_out = {normalized(q) for q in first.tests["rows"]["question"]}
    assert held_out == {normalized(q) for q in turned.tests["rows"]["question"]} and len(held_out) == 2
    assert not held_out & {normalized(q) for q in first.train["question"]}
    assert held_out | {normalized(q) for q in first.train["question"]} == {normalized(r["question"]) for r in rows}
    assert first.notes == []


# Rows as they stand on the hub


def test_rows_of_the_hub_become_questions_and_answers():
    assert GSM8K.test["gsm8k"].row({"question": "q", "answer": "so\n#### 1,234"}) == {
        "question": "q",
        "answer": "1234",
    }
    assert MATH.train["dapo_math_17k"].row({"prompt": "p", "solution": "34"}) == {"question": "p", "answer": "34"}
    assert MATH.test["math500"].row({"problem": "p", "answer": "x"}) == {"question": "p", "answer": "x"}
    row = {"question": "q", "final_answer": ["$\\frac{1}{2}$"], "context": "c"}
    assert MATH.test["olympiadbench"].row(row) == {"question": "c\nq", "answer": "\\frac{1}{2}"}
    row = {"question": "q", "final_answer": ["$1$ or $2$"], "context": None}
    assert MATH.test["olympiadbench"].row(row) == {"question": "q", "answer": "$1$ or $2$"}
    row = {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}
    assert QA.test["arc"].row(row) == {"question": "q", "choices": ["a", "b"], "answer": "B"}
    row = {"quiz": "q", "names": ["Zoey", "Ben"], "solution": [True, False]}
    expected = {"question": "q", "answer": "Zoey is a knight\nBen is a knave"}
    assert KNIGHTS_KNAVES.test["knights_knaves"].row(row) == expected


def test_crossthink_rows():
    row = QA.train["crossthink_qa"].row
    content = "Which?\n\nA: first\nB: second\nC: third"
    for prompt in (content, [{"role": "user", "content": content}]):
        found = row({"prompt": prompt, "reward_model": {"ground_truth": "B: second"}})
        assert found == {"question": "Which?", "choices": ["first", "second", "third"], "answer": "B"}
    assert row({"prompt": content, "reward_model": {"ground_truth": "(C)"}})["answer"] == "C"
    with pytest.raises(InputError, match="not the option of that letter"):
        row({"prompt": content, "reward_model": {"ground_truth": "B: third"}})
    assert split_options("A: is it?\nA. x\nB. y") == ("A: is it?", ["x", "y"])
    for text, expected in (
        ("no options", "does not end with options in lines lettered"),
        ("q\nA. x\nC. y", "does not end with options"),
        ("q\nA. x\nB. x", "repeated"),
    ):
        with pytest.raises(InputError, match=expected):
            split_options(text)
    assert qa_module.QA.answer_form


# A task of the user's own


def test_a_reward_of_ones_own_is_also_the_metric(tmp_path, monkeypatch):
    (tmp_path / "my_metric.py").write_text(
        "def score(prompts, completions, hint, **kwargs):\n"
        "    return [0.4 if h in str(c) else 0.0 for c, h in zip(completions, hint)]\n"
        "def full(completions, **kwargs):\n    return [1.5 for c in completions]\n"
        "def short(completions, **kwargs):\n    return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = rows_file(tmp_path, [{"prompt": "Say a", "hint": "a"}, {"prompt": "Say b", "hint": "b"}])
    task = TASKS["custom"]({"train": path, "test": path, "reward": "my_metric:score"})
    rows = task.tests["rows"].to_list()
    assert task.train["prompt"] == ["Say a", "Say b"] and task.train["hint"] == ["a", "b"]
    assert task.rewards[0](prompts=[], completions=["a", "x"], hint=["a", "b"]) == [0.4, 0.0]
    assert [verdict.correct for verdict in task.check(["a", "b"], rows)] == [0.0, 0.0]  # below 1: not right
    full = TASKS["custom"]({"train": path, "reward": "my_metric:full"})
    assert [verdict.correct for verdict in full.check(["a", "b"], rows)] == [1.0, 1.0]
    short = TASKS["custom"]({"train": path, "reward": "my_metric:short"})
    with pytest.raises(InputError, match="0 scores for 2 completions"):
        short.check(["a", "b"], rows)


def test_a_checker_serves_data_of_ones_own(tmp_path):
    task = TASKS["custom"]({"train": rows_file(tmp_path), "check": "math"})
    assert task.rewards[0](completions=["\\boxed{4}", "\\boxed{5}"], answer=["4", "4"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"check": "maths"}, "task_options.check: 'maths' is not possible; write one of math"),
        ({"reward": "nowhere:score"}, "cannot be imported"),
        ({"reward": "math:pi"}, "is not a function"),
        ({}, "task_options.reward: is missing"),
        ({"check": "math", "train": None}, "task_options.train: is missing"),
    ],
)
def test_what_a_custom_task_refuses(options, expected, tmp_path):
    assert expected in refusal("custom", **{"train": rows_file(tmp_path), **options})


# Public data


FILES = {
    "gsm8k_test": ("gsm8k", {"test": "gsm8k"}),
    "math500": ("math", {"test": "math500"}),
    "aime24": ("math", {"test": "aime24"}),
    "aime25": ("math", {"test": "aime25"}),
    "olympiadbench_math_en": ("math", {"test": "olympiadbench"}),
    "arc_challenge_test": ("qa", {"test": "arc"}),
    "gsm8k_train": ("gsm8k", {}),
    "math_train": ("math", {}),
    "dapo_math_5k": ("math", {}),
    "crossthink_qa": ("qa", {}),
    "arc_challenge_train": ("qa", {}),
    "kk_logic_train": ("knights_knaves", {}),
}


@pytest.mark.parametrize("name", FILES)
def test_public_files_are_read_whole(name):
    folder = os.environ.get("RLCREDIT_DATA")
    if not folder:
        pytest.skip("RLCREDIT_DATA is not set; it names a folder with public data sets")
    path = Path(folder) / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"RLCREDIT_DATA={folder} has no {path.name}")
    task, options = FILES[name]
    if options:
        made = TASKS[task]({"test": {options["test"]: str(path)}}, train=False).tests[options["test"]]
    else:
        made = TASKS[task]({"train": str(path), "test": []}).train
    rows = [row for _, row in read_file(path)]
    assert made["answer"] == [row["answer"] for row in rows] and made["id"] == [row["id"] for row in rows]
