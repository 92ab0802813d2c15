"""Paths: graphs with one way to the goal, and a reward that cannot be talked round."""

import itertools

import pytest

from rlcredit.errors import InputError
from rlcredit.tasks import TASKS, paths
from rlcredit.tasks.paths import PathsOptions, generate, load, paths_reward

EDGES = ["bc", "ag", "ab", "ce", "gh", "hi"]


def reward(answer, **options):
    return paths_reward([answer], edges=[EDGES], start=["a"], goal=["e"], **options)[0]


def walks(edges, node, goal):
    """Every walk from the node to the goal, by trying them all."""
    found = [[node]] if node == goal else []
    return found + [[node, *rest] for edge in edges if edge[0] == node for rest in walks(edges, edge[1], goal)]


def test_every_instance_has_one_way_and_forks_that_look_alike():
    held_out, validation, train = generate(PathsOptions(num_train=300, num_test=100, num_validation=50))
    assert [len(held_out), len(validation), len(train)] == [100, 50, 300]
    for instance in [*held_out, *validation, *train]:
        assert walks(instance.edges, instance.start, instance.goal) == [list(instance.solution)]
        assert len(instance.solution) - 1 in (4, 5)
        ends = {edge[1] for edge in instance.edges} - {edge[0] for edge in instance.edges}
        assert len(ends) == 3 and instance.goal in ends  # the goal and two dead ends
        depths = {len(walks(instance.edges, instance.start, end)[0]) for end in ends}
        assert depths == {len(instance.solution)}  # all as deep as the goal
        targets = [edge[1] for edge in instance.edges]
        assert len(set(targets)) == len(targets)  # backwards there is never a choice


def test_sets_are_apart_and_repeat():
    options = PathsOptions(num_train=2_000, num_test=500, num_validation=300)
    sets = generate(options)
    keys = [{instance.identity for instance in part} for part in sets]
    assert [len(part) for part in keys] == [500, 300, 2_000]
    assert not any(one & other for one, other in itertools.combinations(keys, 2))
    assert generate(options) == sets
    assert generate(PathsOptions(num_train=10, num_test=500, num_validation=300))[:2] == sets[:2]
    assert generate(PathsOptions(num_train=10, num_test=500, seed=1))[0] != sets[0]


def test_the_order_of_edges_does_not_tell_the_way():
    _, _, train = generate(PathsOptions(num_train=2_000, num_test=0))
    first = sum(instance.edges[0][0] == instance.start for instance in train) / len(train)
    forks = sum(sum(edge[0] == one.start for edge in one.edges) / len(one.edges) for one in train) / len(train)
    assert abs(first - forks) < 0.03


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>abce</answer>", 1.0),
        ("<answer> a b c e </answer>", 1.0),
        ("<think>e: ce bc ab</think><answer>abce</answer>", 1.0),
        ("<answer>aghi</answer><answer>abce</answer>", 1.0),
        ("<answer>aghi</answer>", 0.1),  # a walk, but to another end
        ("<answer>ab</answer>", 0.1),
        ("<answer>abce</answer><answer>agh</answer>", 0.1),  # the last one counts
        ("<answer>ae</answer>", 0.0),  # no such edge
        ("<answer>abcee</answer>", 0.0),
        ("<answer>bce</answer>", 0.0),  # does not begin at the start
        ("<answer>a</answer>", 0.0),
        ("<answer>e</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("abce", 0.0),
        ("<answer>abce", 0.0),
        ("<answer>ecba</answer>", 0.0),  # the wrong way round
        ("<answer>a>b>c>e</answer>", 0.0),
    ],
)
def test_reward(text, expected):
    assert reward(text) == expected


def test_rows_rewards_and_checker_agree():
    task = load({"num_train": 20, "num_test": 10, "num_validation": 5})
    assert {name: len(rows) for name, rows in task.tests.items()} == {"paths": 10, "paths_validation": 5}
    rows = task.train.to_list()
    assert rows[0]["prompt"] == f"{' '.join(rows[0]['edges'])} {rows[0]['start']}>{rows[0]['goal']}\n"
    answers = [f"<answer>{row['solution']}</answer>" for row in rows]
    assert [verdict.correct for verdict in task.check(answers, rows)] == [1.0] * 20
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert task.rewards[0](completions=answers, **columns) == [1.0] * 20
    assert task.rewards[0].__name__ == "paths_reward"
    assert TASKS["paths"]({"num_train": 3, "num_test": 2, "num_validation": 2}, tests=["paths"]).tests.keys() == {
        "paths"
    }
    # a wrong format_reward of the options arrives in the reward
    task = load({"num_train": 1, "num_test": 0, "format_reward": 0.25})
    row = task.train.to_list()[0]
    step = next(edge for edge in row["edges"] if edge[0] == row["start"])
    assert task.rewards[0](completions=[f"<answer>{step}</answer>"], **{k: [v] for k, v in row.items()}) == [0.25]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lenght": [4]}, "task_options.length"),
        ({"length": []}, "task_options.length"),
        ({"length": [1]}, "task_options.length"),
        ({"dead_ends": 5}, "task_options.dead_ends"),
        ({"length": [8], "dead_ends": 3}, "may need 33 nodes"),
        ({"num_train": 0}, "task_options.num_train"),
        ({"num_train": 20_000, "length": [2], "dead_ends": 0}, "different instances"),
        ({"format_reward": 1}, "task_options.format_reward"),
    ],
)
def test_bad_options(options, expected):
    with pytest.raises(InputError, match=expected):
        load(options)


def test_the_response_of_the_module_s_own_example_is_right():
    assert "bc ag ab ce gh hi a>e" in paths.__doc__ and "<answer>abce</answer>" in paths.__doc__
    assert prompt_is(EDGES) == "bc ag ab ce gh hi a>e\n"


def prompt_is(edges):
    return paths.prompt_of(edges, "a", "e")
