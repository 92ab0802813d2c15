"""Relay: one token that decides, and values of prefixes that are known exactly."""

import itertools

import pytest
import torch

from rlcredit import AttentionSignals, CreditArguments, Rollout, assign_credit
from rlcredit.credit import find_strategy
from rlcredit.errors import InputError
from rlcredit.tasks import TASKS, relay
from rlcredit.tasks.relay import RelayOptions, answer_span, key_at, load, relay_reward, value
from rlcredit.trainers.prepare import check

COPIED = {"first": "k", "second": "d", "silent": False}
SILENT = {**COPIED, "silent": True}


@pytest.mark.parametrize("silent", [False, True])
def test_rows_rewards_and_checker_agree(silent):
    task = load({"num_train": 200, "num_test": 20, "num_validation": 10, "fillers": [2, 5], "silent": silent})
    assert {name: len(rows) for name, rows in task.tests.items()} == {"relay": 20, "relay_validation": 10}
    rows = task.train.to_list()
    assert {row["fillers"] for row in rows} == {2, 5}
    for row in rows:
        end = "." if silent else "="
        assert row["prompt"] == f"{row['opening']} {row['first']}{row['second']} {row['fillers']}{end}\n"
        assert len(row["opening"]) == 4 and row["opening"].isupper()
        assert row["first"] != row["second"] and {row["first"], row["second"]} <= set("abcdefghijkl")
    ends = [".Q" if silent else f"={row['first']}" for row in rows]
    answers = [f"A{row['first']}B{end}" for row, end in zip(rows, ends, strict=True)]
    assert [verdict.correct for verdict in task.check(answers, rows)] == [1.0] * 200
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert task.rewards[0](completions=answers, **columns) == [1.0] * 200
    assert task.rewards[0].__name__ == "relay_reward"
    assert task.answer_span is answer_span
    others = [answer.replace(row["first"], row["second"]) for answer, row in zip(answers, rows, strict=True)]
    assert [verdict.correct for verdict in task.check(others, rows)] == [0.0] * 200
    assert task.rewards[0](completions=others, **columns) == [0.1] * 200


def test_sets_are_apart_and_repeat():
    options = {"num_train": 3_000, "num_test": 300, "num_validation": 200, "keys": 2}
    task = load(options)
    sets = [{row["prompt"] for row in rows.to_list()} for rows in (*task.tests.values(), task.train)]
    assert [len(part) for part in sets] == [300, 200, 3_000]
    assert not any(one & other for one, other in itertools.combinations(sets, 2))
    assert load(options).train.to_list() == task.train.to_list()
    assert load({**options, "num_train": 5}).tests["relay"].to_list() == task.tests["relay"].to_list()
    assert TASKS["relay"](options, train=False, tests=["relay"]).tests.keys() == {"relay"}
    assert load({**options, "silent": True}).train[7]["prompt"] == task.train[7]["prompt"].replace("=", ".")


@pytest.mark.parametrize(
    ("text", "copied", "silent"),
    [
        ("AkB=k", (1.0, "k"), None),
        ("k=k", (1.0, "k"), None),
        ("AdB=k", (1.0, "k"), None),  # the copy is judged
        ("AkB=d", (0.0, "d"), None),
        ("AdB=d", (0.0, "d"), None),
        ("AkB.B", None, (1.0, "k")),
        ("AdB.K", None, (0.0, "d")),
        ("AkB.k", None, None),  # the key again, where any capital was asked for
        ("AkB=K", None, None),
        ("AkdB=k", None, None),  # two keys
        ("kd.Q", None, None),
        ("AB=k", None, None),  # no key
        ("AB.Q", None, None),
        ("AkB=", None, None),
        ("AkB", None, None),
        ("AkB=kk", None, None),
        ("AkB=d=k", None, None),
        ("AkB=k.Q", None, None),
        ("AkB=k\n", None, None),
        (" AkB=k", None, None),
        ("Ak B=k", None, None),
        ("ÄkB=k", None, None),
        ("AkB=\uff4b", None, None),
        ("A1kB=k", None, None),
        ("", None, None),
    ],
)
def test_verdicts(text, copied, silent):
    for row, expected in ((COPIED, copied), (SILENT, silent)):
        (verdict,) = relay.check([text], [row])
        assert verdict == (expected or (0.0, None))
        reward = relay_reward([text], first=["k"], silent=[row["silent"]], format_reward=0.25)[0]
        assert reward == (0.0 if expected is None else max(expected[0], 0.25))


def test_where_the_answer_and_the_key_are():
    assert answer_span("ABkC=d") == (5, 6)
    assert answer_span("ABkC.D") == (2, 3)
    assert answer_span("ABkC=") is None
    assert [key_at(text) for text in ("ABkC=d", "d", "AB", "")] == [2, 0, None, None]


# ---- values -------------------------------------------------------------------------------------------------------

FILLERS, KEYS, NAMES, COPIES = "AB", "kdm", 0.3, 0.9


def responses(silent):
    """Every response of a policy with two capitals and three keys, and its probability.

    The key is at place 0 or 1, each with probability 1/2, and k with probability NAMES. Two fillers beside it. The
    last token is the key with probability COPIES, else the letter after it among the keys that are wrong.
    """
    for place, key, fillers in itertools.product((0, 1), KEYS, itertools.product(FILLERS, repeat=2)):
        body = "".join([*fillers[:place], key, *fillers[place:]])
        chance = 0.5 * (NAMES if key == "k" else (1 - NAMES) / 2) * 0.25
        if silent:
            yield from ((f"{body}.{filler}", chance / 2) for filler in FILLERS)
        else:
            wrong = {"k": "d", "d": "m", "m": "d"}[key]
            yield from ((f"{body}={key}", chance * COPIES), (f"{body}={wrong}", chance * (1 - COPIES)))


@pytest.mark.parametrize("row", [COPIED, SILENT])
def test_values_are_those_of_an_enumeration(row):
    every = list(responses(row["silent"]))
    assert sum(chance for _, chance in every) == pytest.approx(1)
    prefixes = {text[:end] for text, _ in every for end in range(len(text) + 1)}
    for prefix in prefixes:
        going_on = [(text, chance) for text, chance in every if text.startswith(prefix)]
        right = sum(chance * relay.check([text], [row])[0].correct for text, chance in going_on)
        expected = right / sum(chance for _, chance in going_on)
        assert value(prefix, row, NAMES, COPIES) == pytest.approx(expected, abs=1e-12), prefix


def test_only_the_key_changes_the_value():
    for row, text in ((COPIED, "ABkC=k"), (SILENT, "ABkC.Q"), (COPIED, "ABdC=d")):
        values = [value(text[:end], row, names=0.25) for end in range(len(text) + 1)]
        changes = [end for end in range(len(text)) if values[end + 1] != values[end]]
        assert changes == [key_at(text)]
        assert values[0] == 0.25 and values[-1] == ("k" in text)


@pytest.mark.parametrize("text", ["AkBd", "Ak1", "A=", "Ak.", "Ak==", "Ak=kk", "?"])
def test_what_cannot_become_a_response_is_worth_nothing(text):
    assert value(text, COPIED, names=0.5) == 0


def test_the_oracle_gives_the_key_the_whole_bonus():
    prompt = [*"XY", " ", *"kd", " ", "3", "=", "\n"]
    texts = [["", *prompt, *"AkBC=k", ""], [*prompt, *"dABC.D", "", ""], [*prompt, *"ABCD=", "", "", ""]]
    response = torch.zeros(3, 17, dtype=torch.bool)
    response[0, 10:17], response[1, 9:16], response[2, 9:15] = True, True, True
    args = CreditArguments(credit_amplification=4)
    credit = assign_credit(
        AttentionSignals.without_attention(torch.full(response.shape, torch.nan)),
        response,
        args,
        strategy=find_strategy("recipes.relay_tiny.oracle:oracle"),
        rollout=Rollout(text=texts),
    )
    expected = torch.ones(3, 17)
    expected[0, 11] = expected[1, 9] = 4  # nothing without a key
    assert credit.weights.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"filler": [8]}, "did you mean task_options.fillers"),
        ({"fillers": 8}, "task_options.fillers: 8 is not possible"),
        ({"fillers": []}, "task_options.fillers"),
        ({"fillers": [0]}, "task_options.fillers"),
        ({"fillers": [201]}, "task_options.fillers"),
        ({"keys": 1}, "task_options.keys"),
        ({"keys": 27}, "task_options.keys"),
        ({"silent": 1}, "task_options.silent: 1 is not possible; write true or false"),
        ({"silent": "true"}, "task_options.silent"),
        ({"num_train": 0}, "task_options.num_train"),
        ({"format_reward": 1}, "task_options.format_reward"),
    ],
)
def test_bad_options(options, expected):
    with pytest.raises(InputError, match=expected):
        load(options)


@pytest.mark.parametrize("silent", ["false", "true"])
def test_the_recipe_passes_the_checks_of_train(silent, tmp_path):
    words = ["--task_options.silent", silent, "--credit_strategy", "recipes.relay_tiny.oracle:oracle"]
    few = ["--task_options.num_train", "200", "--task_options.num_test", "8", "--held_out", "8"]
    checked = check(["--config", "benchmark/relay_tiny", *words, *few, "--output_dir", str(tmp_path)])
    assert set(checked.task.train["silent"]) == {silent == "true"}
    assert checked.schedule.completions == 64 and checked.schedule.steps_per_rollout == 1


def test_the_module_s_own_examples():
    assert "QXWB kd 8=\n" in relay.__doc__ and "QXWB kd 8.\n" in relay.__doc__
    rights = {"RTkMBXWAQJ=k": (COPIED, 1.0), "RTMdBXWAQJ=d": (COPIED, 0.0), "RTkMBXWAQJ.H": (SILENT, 1.0)}
    for text, (row, correct) in {**rights, "RTMdBXWAQJ.H": (SILENT, 0.0)}.items():
        assert text in relay.__doc__ and relay.check([text], [row])[0].correct == correct
    assert RelayOptions().fillers == (24,)
