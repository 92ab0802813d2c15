"""Countdown: instances that can be solved and do not leak, and a reward that cannot be talked round."""

import json
import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcredit.errors import InputError
from rlcredit.tasks import TASKS, TaskData, countdown
from rlcredit.tasks.arithmetic import evaluate
from rlcredit.tasks.checkers.answers import in_last_tag
from rlcredit.tasks.countdown import CountdownOptions, check, countdown_reward, generate, load

draw = countdown._draw

SMALL = {"num_train": 300, "num_test": 60}


def reward(answer, numbers=(3, 7, 12), target=81, **options):
    return countdown_reward([answer], numbers=[list(numbers)], target=[target], **options)[0]


# Instances


@pytest.fixture(scope="module")
def paper_size():
    """The data of the paper: four numbers, 20,000 training and 512 held-out instances; and how many were drawn."""
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(countdown, "_draw", lambda *given: drawn.append(1) or draw(*given))
        held_out, _, train = generate(CountdownOptions(numbers=[4]))
    return (train, held_out), len(drawn)


def test_sizes_and_draws(paper_size):
    (train, test), drawn = paper_size
    assert (len(train), len(test)) == (20_000, 512)
    assert drawn < 50 * 20_512  # 32 an instance: most expressions have no possible target


def test_no_instance_is_repeated_or_shared(paper_size):
    (train, test), _ = paper_size
    held_out = {(tuple(sorted(i.numbers)), i.target) for i in test}
    trained = {(tuple(sorted(i.numbers)), i.target) for i in train}
    assert len(held_out) == 512
    assert len(trained) == 20_000
    assert not held_out & trained


def test_every_instance_is_solved_by_its_solution(paper_size):
    (train, test), _ = paper_size
    for instance in [*train, *test]:
        solution = evaluate(instance.solution)
        assert solution.value == instance.target
        assert sorted(solution.numbers) == sorted(instance.numbers)
        assert len(instance.numbers) == 4
        assert 1 <= instance.target <= 100
        assert all(1 <= number <= 99 for number in instance.numbers)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 4), min_size=1, max_size=3),  # with six numbers few draws reach a small target
    st.integers(30, 60),
    st.integers(30, 200),
    st.integers(0, 2**63 - 1),
)
def test_options_are_kept_by_every_instance(counts, max_number, max_target, seed):
    options = CountdownOptions(
        num_train=20, num_test=5, numbers=counts, max_number=max_number, max_target=max_target, seed=seed
    )
    test, _, train = generate(options)
    assert (len(train), len(test)) == (20, 5)
    assert len({instance.identity for instance in train + test}) == 25
    for numbers, target, solution in train + test:
        assert len(numbers) in counts
        assert max(numbers) <= max_number and 1 <= target <= max_target
        assert evaluate(solution).value == target
        assert sorted(evaluate(solution).numbers) == sorted(numbers)


def test_the_seed_decides():
    first, again, other = (load({**SMALL, "seed": seed}) for seed in (3, 3, 4))
    assert first.train.to_list() == again.train.to_list()
    assert first.tests["countdown"].to_list() == again.tests["countdown"].to_list()
    assert first.train.to_list() != other.train.to_list()


def test_a_longer_training_set_leaves_the_held_out_set_alone():
    short, long = (load({**SMALL, "num_train": size}) for size in (10, 400))
    assert short.tests["countdown"].to_list() == long.tests["countdown"].to_list()
    assert short.train.to_list() == long.train.to_list()[:10]


def test_all_operations_occur():
    solutions = "".join(load(SMALL).train["solution"])
    assert all(operator in solutions for operator in "+-*/")


def test_too_few_instances_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"task_options\.num_train: 500 and num_test 0 .* about \d+ different"):
        load({"num_train": 500, "num_test": 0, "numbers": [2], "max_number": 5})


def test_instances_of_six_numbers_are_rare_but_found():
    _, _, train = generate(CountdownOptions(num_train=5, num_test=0, numbers=[6], max_number=158, max_target=30))
    assert all(evaluate(solution).value == target for _, target, solution in train)


# Task


def test_the_task_is_registered_with_its_columns():
    task = TASKS["countdown"](SMALL)
    assert isinstance(task, TaskData)
    test = task.tests["countdown"]
    assert task.train.column_names == test.column_names == ["prompt", "numbers", "target", "solution"]
    assert (len(task.train), len(test)) == (300, 60)
    assert load({**SMALL, "num_test": 0}).tests == {}
    assert load(SMALL, train=False).train is None
    assert load(SMALL, train=False).tests["countdown"].to_list() == test.to_list()


def test_text_prompt_states_the_instance_and_both_places():
    row = load(SMALL).train[0]
    assert str(row["numbers"]) in row["prompt"]
    assert f"equals {row['target']}." in row["prompt"]
    assert "<answer>" in row["prompt"] and "</answer>" in row["prompt"]
    assert row["prompt"].endswith("<think>")


def test_compact_prompt():
    row = load({**SMALL, "numbers": [3], "prompt_style": "compact"}).train[0]
    a, b, c = row["numbers"]
    assert row["prompt"] == f"{a} {b} {c} -> {row['target']}\n"


def test_reward_and_accuracy_of_the_task():
    task = load({**SMALL, "format_reward": 0.25})
    rows = task.tests["countdown"]
    texts = [f"so </think><answer>{solution}</answer>" for solution in rows["solution"]]
    texts[0] = "<answer>1</answer>"
    texts[1] = "no answer"
    (score,) = task.rewards
    columns = {name: rows[name] for name in rows.column_names if name != "prompt"}
    assert score(prompts=rows["prompt"], completions=texts, **columns) == [0.25, 0.0] + [1.0] * 58
    verdicts = task.check(texts, rows.to_list())
    assert [verdict.correct for verdict in verdicts] == [0.0, 0.0] + [1.0] * 58
    assert [verdict.answer for verdict in verdicts[:3]] == ["1", None, "".join(rows["solution"][2].split())]


def test_reward_has_a_name_and_travels_between_processes():
    (score,) = load(SMALL).rewards
    assert score.__name__ == "countdown_reward"
    copied = pickle.loads(pickle.dumps(score))
    assert copied(completions=["<answer>1</answer>"], numbers=[[1, 2]], target=[3]) == [0.1]


# Reward


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>7*12=84</think><answer>7*12-3</answer>", 1.0),
        ("<answer> (7 * 12) - 3\n</answer>", 1.0),
        ("<answer>-3+12*7</answer>", 1.0),
        ("<answer>7\u00d712\u22123</answer>", 1.0),
        ("<answer>7*12-3</answer> and that is it", 1.0),
        ("<answer>1</answer> no, <answer>7*12-3</answer>", 1.0),
        ("<answer>7*12-3</answer> and <answer>", 1.0),
        ("<answer>as <answer>7*12-3</answer>", 1.0),
        ("<answer>7*12-3</answer> no, <answer>1</answer>", 0.1),
        ("<answer>7*12+3</answer>", 0.1),
        ("<answer>81</answer>", 0.1),
        ("<answer>7*12-3+0</answer>", 0.1),
        ("<answer>7*12-3+7-7</answer>", 0.1),
        ("<answer>84-3</answer>", 0.1),
        ("<answer>(7+2)*9</answer>", 0.1),
        ("<answer>7*12-3=81</answer>", 0.0),
        ("<answer>7*12-3</answer><answer></answer>", 0.0),
        ("<answer>7*12/(3-3)</answer>", 0.0),
        ("<answer>**</answer>", 0.0),
        ("<answer>7*12-3", 0.0),
        ("7*12-3</answer>", 0.0),
        ("</answer>7*12-3<answer>", 0.0),
        ("<ANSWER>7*12-3</ANSWER>", 0.0),
        ("7*12-3", 0.0),
        ("", 0.0),
    ],
)
def test_reward_values(completion, value):
    assert reward(completion) == value
    assert check([completion], [{"numbers": [3, 7, 12], "target": 81}])[0].correct == float(value == 1.0)


def test_format_reward_is_an_option():
    assert reward("<answer>1</answer>", format_reward=0.3) == 0.3
    assert reward("<answer>7*12-3</answer>", format_reward=0.3) == 1.0


def test_each_number_counts_as_often_as_it_is_given():
    assert reward("<answer>5+5</answer>", numbers=[5, 5], target=10) == 1.0
    assert reward("<answer>5*2</answer>", numbers=[5, 5], target=10) == 0.1
    assert reward("<answer>5+5</answer>", numbers=[5, 5, 1], target=10) == 0.1


def test_exactness_has_no_tolerance():
    assert reward("<answer>1/3*81*3</answer>", numbers=[1, 3, 81, 3], target=81) == 1.0
    assert reward("<answer>999999999/999999998</answer>", numbers=[999999999, 999999998], target=1) == 0.1


@pytest.mark.parametrize(
    "conversation",
    [
        [{"role": "assistant", "content": "<answer>7*12-3</answer>"}],
        [{"role": "assistant", "content": "<ans"}, {"role": "assistant", "content": "wer>7*12-3</answer>"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "<answer>7*12-3</answer>"}]}],
        [
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": "<answer>1</answer>"},
            {"role": "assistant", "content": "<answer>7*12-3</answer>"},
            {"role": "tool", "content": "<answer>1</answer>"},
        ],
    ],
    ids=["one message", "two messages", "parts", "with a tool"],
)
def test_conversations_are_judged_by_what_the_assistant_wrote(conversation):
    assert reward(conversation) == 1.0


def test_a_megabyte_of_tags_is_judged_in_linear_time():
    start = time.process_time()
    assert reward("<answer>" * 200_000 + "1") == 0.0
    assert reward("<answer>" * 200_000 + "1</answer>") == 0.1
    assert reward("<answer>" + "(" * 1_000_000 + "</answer>") == 0.0
    assert time.process_time() - start < 20  # milliseconds; a search that begins anew at every tag takes hours


def test_columns_of_another_length_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        countdown_reward(["a", "b"], numbers=[[1, 2]], target=[3])


@given(st.text(max_size=60), st.text(alphabet="0123456789+-*/() ", max_size=40))
def test_any_completion_has_one_of_three_rewards(noise, expression):
    assert reward(f"{noise}<answer>{expression}</answer>") in (0.0, 0.1, 1.0)
    assert in_last_tag(f"{noise}<answer>{expression}</answer>") == expression


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_numbr": 30}, r"task_options\.max_numbr: 30 .*did you mean task_options\.max_number\?"),
        ({"colour": "red"}, r"task_options\.colour: 'red' .*write one of num_train, num_test, num_validation"),
        ({"seed": "0"}, r"task_options\.seed: '0' .*an integer from 0"),
        ({"seed": -1}, r"task_options\.seed: -1 "),
        ({"num_train": 0}, r"task_options\.num_train: 0 .*an integer from 1"),
        ({"num_test": True}, r"task_options\.num_test: True "),
        ({"num_train": 1e4}, r"task_options\.num_train: 10000\.0 "),
        ({"numbers": 3}, r"task_options\.numbers: 3 .*such as \[3, 4\]"),
        ({"numbers": []}, r"task_options\.numbers: \[\] "),
        ({"numbers": [3, 7]}, r"task_options\.numbers: \[3, 7\] .*from 2 to 6"),
        ({"numbers": "34"}, r"task_options\.numbers: '34' "),
        ({"max_target": 0}, r"task_options\.max_target: 0 "),
        ({"prompt_style": "chat"}, r"task_options\.prompt_style: 'chat' .*'text' or 'compact'"),
        ({"prompt_style": ["text"]}, r"task_options\.prompt_style: \['text'\] "),
        ({"format_reward": 1.0}, r"task_options\.format_reward: 1\.0 .*from 0 to below 1"),
        ({"format_reward": float("nan")}, r"task_options\.format_reward: nan "),
        ({"format_reward": None}, r"task_options\.format_reward: None "),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        load(options)


# Instances from files


def instances_file(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_instances_of_a_file_are_read_and_what_is_in_both_sets_is_said(tmp_path):
    rows = [{"numbers": [3, 7, 12], "target": 81}, {"numbers": [1, 2], "target": 3}]
    options = {"train": instances_file(tmp_path / "a.jsonl", *rows), "num_test": 1}
    task = load({**options, "test": instances_file(tmp_path / "b.jsonl", {"numbers": [2, 1], "target": 3})})
    assert task.train["numbers"] == [[3, 7, 12], [1, 2]] and task.tests["countdown"]["target"] == [3]
    assert task.notes == ["overlap: 1 instances are in the training and in the held-out set"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"numbers": [3, "7"], "target": 8}, "row 2: numbers is"),
        ({"numbers": [3], "target": 8}, "row 2: numbers is"),
        ({"numbers": [3, 7]}, "row 2: target is None"),
    ],
)
def test_a_row_that_is_no_instance_is_named(row, message, tmp_path):
    path = instances_file(tmp_path / "a.jsonl", {"numbers": [1, 2], "target": 3}, row)
    with pytest.raises(ValueError, match=message):
        load({"train": path, "num_train": 1, "num_test": 0})


def test_a_held_out_file_shorter_than_promised_is_an_error(tmp_path):
    path = instances_file(tmp_path / "a.jsonl", {"numbers": [1, 2], "target": 3})
    with pytest.raises(ValueError, match=r"has 1 instances; write task_options\.num_test: 1"):
        load({"test": path, "num_test": 2}, train=False)


# A public test set


def test_gold_solutions_of_a_public_test_set_score_one():
    folder = os.environ.get("RLCREDIT_DATA")
    if not folder:
        pytest.skip("RLCREDIT_DATA is not set; it names a folder with countdown_test.jsonl")
    path = Path(folder) / "countdown_test.jsonl"
    if not path.is_file():
        pytest.skip(f"RLCREDIT_DATA={folder} has no countdown_test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows
    columns = {name: [row[name] for row in rows] for name in ("numbers", "target")}
    gold = [f"<think>...</think> <answer> {row['solution']} </answer>" for row in rows]
    assert [verdict.correct for verdict in check(gold, rows)] == [1.0] * len(rows)
    read = load({"test": str(path), "num_test": 1024}, train=False).tests["countdown"]
    assert read["numbers"] == columns["numbers"] and read["target"] == columns["target"]
    off_by_one = {**columns, "target": [target + 1 for target in columns["target"]]}
    assert countdown_reward(gold, **off_by_one) == [0.1] * len(rows)


# A validation set


def test_the_validation_set_is_apart_and_the_held_out_one_stays():
    plain, more = load(SMALL), load({**SMALL, "num_train": 200, "num_validation": 100})
    assert {name: len(rows) for name, rows in more.tests.items()} == {"countdown": 60, "countdown_validation": 100}
    assert more.tests["countdown"].to_list() == plain.tests["countdown"].to_list()
    # together they are the instances that were all for training before
    drawn = [*more.tests["countdown_validation"].to_list(), *more.train.to_list()]
    assert drawn == plain.train.to_list()


def test_one_of_the_sets_alone():
    options = {**SMALL, "num_validation": 20}
    assert list(load(options, train=False, tests=["countdown"]).tests) == ["countdown"]
    assert list(load(options, train=False, tests=["countdown_validation"]).tests) == ["countdown_validation"]


def test_a_validation_set_beside_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"num_validation: 5"):
        load({"num_validation": 5, "test": str(tmp_path / "rows.jsonl")})
