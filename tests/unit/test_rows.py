"""Rows of users' files: columns, ids, ready prompts and types that a run would trip over later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcredit.analysis.responses import read_prompts
from rlcredit.errors import InputError
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.rewards.signature import TRL_ARGUMENTS
from rlcredit.tasks import TASKS
from tests import tiny
from tests.policies import save_rows

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2"}]
LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load rows, or the text of a file of this name, as the custom task's training set."""
    (tmp_path / "rows_reward.py").write_text(
        "def score(completions, **kwargs):\n    return [0.0 for _ in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load(rows, name="rows.jsonl", **options):
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return TASKS["custom"]({"train": str(path), "reward": "rows_reward:score", **options}).train

    return load


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Columns and ids


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_hides_no_column_and_0_is_an_id(load, tmp_path, mark):
    rows = [{"id": 0, "question": "a"}, {"id": "", "question": "b"}, {"id": "c", "question": "c"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, text in (
        ("a.csv", "id, question\n0,a\n,b\nc,c\n"),
        ("a.jsonl", lines),
        ("a.json", json.dumps(rows)),
    ):
        assert load(mark + text, name)["id"] == ["0", "row 2", "c"], name
        assert [question.id for question in read_prompts(tmp_path / name)] == ["0", "row 2", "c"]


def test_a_column_named_twice_is_refused(load):
    assert "a.csv: the first line names the column 'id' twice" in refusal(load, "id,id,question\n1,2,q\n", "a.csv")


@pytest.mark.parametrize("name", [*TRL_ARGUMENTS, "completion", "images"])
def test_a_column_with_a_name_of_trls_is_refused_when_rows_are_read(load, name):
    message = refusal(load, [{"question": "a"}, {"question": "b", name: "x"}])
    assert f"rows.jsonl: row 2: the column {name} " in message and f"rename it, for instance to my_{name}" in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, 3, 2.5, "hard", 1], "row 4: level is 'hard' (a text), and 3 (a number) in row 2"),
        ([True, 1], "row 2: level is 1 (a number), and True (true or false) in row 1"),
        (
            [{"a": 1}, {"b": 1}, {"a": "x"}],
            "row 3: level is {'a': 'x'} (a mapping), and {'a': 1} (a mapping) in row 1",
        ),
        (["a", [1]], "row 2: level is [1] (a list), and 'a' (a text) in row 1"),
        ([[1], [1, "a"]], "row 2: level is [1, 'a'], which cannot be stored"),
        (["a", "\ud800"], "row 2: level is '\\ud800', which cannot be stored"),
        ([1, 2**70], "row 2: level is 11805916"),
    ],
)
def test_mixed_types_are_named_with_file_row_and_column(load, values, expected):
    message = refusal(load, [{"question": "q", "level": value} for value in values])
    assert f"rows.jsonl: {expected}" in message and "; write " in message


def test_numbers_of_both_kinds_stand_in_one_column(load):
    assert load([{"question": "q", "level": level} for level in (1, None, 2.5)])["level"] == [1.0, None, 2.5]


def test_an_answer_that_is_no_number_is_refused(tmp_path):
    path = save_rows(tmp_path / "nan.jsonl", [{"question": "q", "answer": float("nan")}])
    assert "row 1: answer is NaN" in refusal(TASKS["math"], {"train": path, "test": []})


def test_files_are_found_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_rows(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}])
    task = TASKS["math"]({"train": "~/a.jsonl", "test": {"a": "~/a.jsonl"}})
    assert len(task.train) == len(task.tests["a"]) == 1


def test_unknown_options_are_listed_at_once(load):
    message = refusal(load, [{"question": "q"}], trian=1, promt_style="plain")
    assert "did you mean task_options.train?; task_options.promt_style: 'plain' was given" in message


# Ready prompts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (5, "prompt is a number (5)"),
        ({"role": "user"}, "prompt is a mapping ({'role': 'user'})"),
        (["What?"], "prompt is a list whose entry 1 is no message ('What?')"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "entry 2 is no message ({'content': 'b'})"),
        ([{"role": "user", "content": None}], "entry 1 is no message"),
        ([], "prompt is empty"),
        (" ", "prompt is empty"),
    ],
)
def test_a_prompt_that_is_none_is_named(load, prompt, expected):
    message = refusal(load, [{"prompt": "a"}, {"prompt": prompt}])
    assert "row 2: prompt is " in message and expected in message and "write a text, or a list of mess" in message


def test_prompts_to_analyse_are_checked_too(tmp_path):
    path = Path(save_rows(tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": {"role": "user"}}]))
    assert "a.jsonl: row 2: prompt is a mapping" in refusal(read_prompts, path)
    path = Path(save_rows(tmp_path / "b.jsonl", [{"prompt": ""}, {"prompt": "a"}, {"prompt": SYSTEM}]))
    assert "b.jsonl: row 3: prompt is a list, and a text in row 2" in refusal(read_prompts, path)
    path.write_text(json.dumps({"prompt": ""}) + "\n")
    assert [question.prompt for question in read_prompts(path)] == [""]  # listed as skipped


def test_ready_prompts_of_two_kinds_are_refused(load):
    message = refusal(load, [{"prompt": "a"}, {"prompt": SYSTEM}])
    assert "rows.jsonl: row 2: prompt is [{'role'" in message and "'a' (a text) in row 1" in message
    assert "row 2: prompt is [{'role'" in refusal(load, [{"prompt": "a"}, {"question": "b"}])
    rows = load([{"prompt": "a"}, {"question": "b", "prompt": None}], prompt_style="plain")
    assert rows["prompt"][0] == "a" and rows["prompt"][1].startswith("Question: b\n")


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        ("a", {"system_prompt": "Be kind."}, "row 1: has a ready prompt, which task_options.system_prompt does not"),
        (SYSTEM, {"system_prompt": "Be kind."}, "row 1: has a ready prompt"),
        ("a", {"prompt_style": "chat"}, "the ready prompt is a text, and task_options.prompt_style is 'chat'"),
        (SYSTEM, {"prompt_style": "plain"}, "a conversation, and task_options.prompt_style is 'plain'"),
    ],
)
def test_options_that_a_ready_prompt_leaves_unused_are_refused(load, prompt, options, expected):
    assert expected in refusal(load, [{"prompt": prompt}], **options)


def test_a_style_that_a_ready_prompt_has_is_taken(load):
    assert load([{"prompt": "a"}], prompt_style="plain")["prompt"] == ["a"]
    assert load([{"prompt": SYSTEM}], prompt_style="chat")["prompt"] == [SYSTEM]
    assert load([{"prompt": "a", "question": "q"}])[0] == {"prompt": "a", "question": "q", "id": "row 1"}


# Chat templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ raise_exception('System role not supported') }}", "(System role not supported)"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "(it leaves the system message out)",
        ),
    ],
)
def test_a_template_without_a_system_role_is_said(template, expected):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    message = refusal(PromptRenderer(tokenizer).lengths, [SYSTEM[1:], SYSTEM])
    assert expected in message and "leave task_options.system_prompt and system messages out" in message
    tokenizer.chat_template = "{{ raise_exception('must alternate') }}"
    assert "(must alternate); write messages of the roles" in refusal(PromptRenderer(tokenizer).lengths, [SYSTEM[1:]])


def test_conversations_are_rendered_by_the_template():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = LOOP
    ids = tokenizer.apply_chat_template(SYSTEM, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert PromptRenderer(tokenizer).lengths([SYSTEM, SYSTEM]) == [len(ids)] * 2
