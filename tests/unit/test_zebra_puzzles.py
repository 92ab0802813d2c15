"""Zebra puzzles: the same for a seed, none twice, and each with one answer, as a search over all houses says."""

import itertools
import json
import os
import random
import subprocess
import sys

import pytest

from rlcredit.errors import InputError, RunStopped
from rlcredit.tasks import zebra_puzzles
from rlcredit.tasks.zebra import load
from rlcredit.tasks.zebra_puzzles import answers, generate, read

reasoning_gym = pytest.importorskip("reasoning_gym")
library = pytest.importorskip("reasoning_gym.logic.contrib.logic_puzzle.generate")

SMALL = dict(people=3, characteristics=3)

# Written by hand. Green is in house 2 (clue 2), so Alice is in 1 or 3; Bob is left of the cat, so not in 3.
# Alice in 1: Bob in 2, the cat in 3 and the dog in 1. Alice in 3: the dog in 3, Bob in 1 and the cat in 2.
OPEN = """\
This is a logic puzzle.
 - Each person has a unique name: bob, alice, arnold
 - The people keep different animals: cat, dog, bird
 - Each person has a favorite color: green, red, blue

1. The person whose favorite color is green and Alice are next to each other.
2. The person whose favorite color is green is in the second house.
3. Bob is directly left of the cat lover.
4. The dog owner is Alice.

What is Name of the person who lives in House 1?? Provide only the name of the person as your final answer."""
CLOSED = OPEN.replace("\n\nWhat", "\n5. Arnold is in the third house.\n\nWhat")


@pytest.fixture(scope="module")
def rows():
    return generate(40, seed=3, **SMALL)


def test_a_row_has_an_id_a_question_and_an_answer(rows):
    assert all(list(row) == ["id", "question", "answer"] for row in rows)
    assert [row["id"] for row in rows] == [f"zebra-3x3-3-{i}" for i in range(40)]
    for row in rows:
        assert row["question"].startswith("This is a logic puzzle. There are 3 houses")
        assert row["question"].endswith("Provide only the name of the person as your final answer.")
        names = row["question"].splitlines()[1].removeprefix(" - Each person has a unique name: ").split(", ")
        assert len(names) == 3
        assert row["answer"] in names


def test_the_answers_differ(rows):
    assert {row["answer"] for row in rows} == {"alice", "arnold", "bob"}


def test_no_puzzle_is_repeated(rows):
    assert len({read(row["question"]).identity for row in rows}) == 40
    assert len({row["question"] for row in rows}) == 40


def test_a_seed_gives_the_same_puzzles_and_more_of_them_the_same_first(rows):
    assert generate(12, seed=3, **SMALL) == rows[:12]


def test_neighbouring_seeds_share_no_puzzle(rows):
    """The library seeds puzzle i with seed + i: its own seeds 3 and 4 share nearly all."""
    mine = {row["question"] for row in rows}
    assert not mine & {row["question"] for row in generate(12, seed=4, **SMALL)}


def test_the_global_generators_are_left_alone():
    before = random.getstate()
    generate(2, seed=0, **SMALL)
    assert random.getstate() == before


@pytest.mark.thorough
def test_the_order_of_hashes_does_not_matter(rows):
    code = (
        "import json\nfrom rlcredit.tasks.zebra_puzzles import generate\n"
        "print(json.dumps(generate(6, seed=3, people=3, characteristics=3)))"
    )
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == rows[:6]


# The check of the answers


def brute_force(puzzle, clues):
    """The names that can live in house 1: all ways to fill the houses, against the clues as the library has them."""
    found = set()
    orders = [itertools.permutations(puzzle.houses) for _ in puzzle.element_classes]
    for order in itertools.product(*orders):
        at = {}
        for kind, houses in zip(puzzle.element_classes, order, strict=True):
            literals = [literal for literal in puzzle.literals if isinstance(literal, kind)]
            at.update(zip(literals, houses, strict=True))
        if all(holds(clue, at) for clue in clues):
            found |= {literal.name for literal, house in at.items() if house == 1 and type(literal).__name__ == "Name"}
    return found


def holds(clue, at):
    name = type(clue).__name__
    if name == "found_at":
        return at[clue.value] == clue.house
    distance = at[clue.value2] - at[clue.value1]
    return {"same_house": distance == 0, "consecutive": distance == 1, "beside": abs(distance) == 1}[name]


def question_of(puzzle):
    return f"{puzzle}\nWhat is Name of the person who lives in House 1?? Provide only the name."


@pytest.mark.parametrize(
    "people,characteristics,count", [(2, 2, 15), (2, 4, 15), (3, 3, 20), (3, 4, 8), (4, 3, 4), (4, 2, 10)]
)
def test_the_answer_is_the_only_one_of_all_ways_to_fill_the_houses(people, characteristics, count):
    for seed in range(count):
        made, puzzle = library.generate_puzzle(random.Random(seed), people, characteristics)
        gold = made["questions"][0]["answer"]
        assert made["questions"][0]["question"] == "What is Name of the person who lives in House 1?"
        assert brute_force(puzzle, puzzle.clues) == {gold}
        assert answers(question_of(puzzle)) == {gold}


@pytest.mark.parametrize("seed", range(8))
def test_with_a_clue_left_out_as_many_answers_are_found_as_there_are(seed):
    _, puzzle = library.generate_puzzle(random.Random(seed), 3, 3)
    sizes = set()
    for clue in sorted(puzzle.clues):
        puzzle.remove_clue(clue)
        possible = brute_force(puzzle, puzzle.clues)
        assert answers(question_of(puzzle)) == possible
        sizes.add(len(possible))
        puzzle.add_clue(clue)
    assert max(sizes) > 1  # the check can say no


@pytest.mark.parametrize("people,characteristics", [(4, 4), (5, 4), (4, 5)])
def test_larger_puzzles_pass_the_check(people, characteristics):
    for row in generate(2, seed=5, people=people, characteristics=characteristics):
        assert answers(row["question"]) == {row["answer"]}


def test_a_puzzle_worked_by_hand():
    assert answers(OPEN) == {"alice", "bob"}
    assert answers(CLOSED) == {"alice"}
    assert answers(CLOSED.replace("House 1??", "House 2??")) == {"bob"}
    assert answers(CLOSED.replace("third house", "first house")) == set()  # no way is left


def test_the_order_of_a_text_does_not_make_another_puzzle():
    same = CLOSED.replace("bob, alice, arnold", "arnold, bob, alice").replace(
        "The dog owner is Alice", "Alice is the dog owner"
    )
    assert same != CLOSED
    assert read(same).identity == read(CLOSED).identity
    other = CLOSED.replace("Bob is directly left of the cat lover", "The cat lover is directly left of Bob")
    assert read(other).identity != read(CLOSED).identity


def test_no_clue_can_be_read_in_two_ways():
    for groups in itertools.combinations(zebra_puzzles._vocabulary().values(), 2):
        items = [item for group in groups for item in group.values()]
        said = zebra_puzzles._sentences(dict(enumerate(groups)))
        assert len(said) == 7 * len(items) + 3 * len(items) * (len(items) - 1)


def test_a_wrong_answer_and_an_open_puzzle_are_refused():
    zebra_puzzles._verify({"question": CLOSED, "answer": "alice"})
    with pytest.raises(RunStopped, match="has the answer 'bob', but its clues allow alice"):
        zebra_puzzles._verify({"question": CLOSED, "answer": "bob"})
    with pytest.raises(RunStopped, match="its clues allow alice, bob"):
        zebra_puzzles._verify({"question": OPEN, "answer": "bob"})


@pytest.mark.parametrize(
    "text",
    [
        CLOSED.replace("dog owner", "dog person"),
        CLOSED.replace("a unique name", "a name"),
        CLOSED.replace("cat, dog", "cat, doge"),
        CLOSED.partition("\n\nWhat")[0],
        "",
    ],
)
def test_a_text_of_another_kind_is_not_guessed_at(text):
    with pytest.raises(RunStopped, match=r"cannot be read .*pip install reasoning-gym==0\.1\.25"):
        answers(text)


# Errors


@pytest.mark.parametrize(
    "change,said",
    [
        (dict(num_train=-1), "num_train: -1"),
        (dict(num_test=True), "num_test: True"),
        (dict(seed=-1), "seed: -1 is not possible; write an integer from 0 to"),
        (dict(seed="0"), "seed: '0'"),
        (dict(people=1), "people: 1 is not possible; write an integer from 2 to 7"),
        (dict(people=8), "people: 8"),
        (dict(characteristics=1), "characteristics: 1 is not possible; write an integer from 2 to 7"),
        (dict(characteristics=2.0), r"characteristics: 2\.0"),
    ],
)
def test_an_impossible_number_is_one_line_before_a_puzzle_is_drawn(change, said, monkeypatch):
    monkeypatch.setattr(zebra_puzzles, "_library_puzzles", lambda *_: pytest.fail("a puzzle was drawn"))
    with pytest.raises(InputError, match=f"task_options.{said}") as caught:
        load(change)
    assert "\n" not in str(caught.value)


def test_the_held_out_puzzles_do_not_depend_on_the_training_set_and_share_none_with_it(rows):
    settings = dict(seed=3, num_test=10, **SMALL)
    task = load({**settings, "num_train": 20})
    drawn = [*task.tests["zebra"]["question"], *task.train["question"]]
    assert drawn == [row["question"] for row in rows[:30]]
    assert load({**settings, "num_train": 3}).tests["zebra"].to_list() == task.tests["zebra"].to_list()


def test_more_puzzles_than_there_are_end_with_their_number(monkeypatch):
    kinds = [{"question": text, "answer": "alice"} for text in (CLOSED, CLOSED.replace("1. ", "7. "))]
    kinds.append({"question": CLOSED.replace("House 1??", "House 2??"), "answer": "bob"})

    class Few:
        def __getitem__(self, index):
            return kinds[index % 3]

    monkeypatch.setattr(zebra_puzzles, "_library_puzzles", lambda *_: Few())
    assert [row["answer"] for row in generate(2, seed=0)] == ["alice", "bob"]
    with pytest.raises(
        InputError, match="3 of 4 people and 4 characteristics are more than the about 2 different ones"
    ):
        generate(3, seed=0)


def test_without_the_library_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        InputError, match=r"reasoning-gym, which cannot be imported .*write pip install reasoning-gym$"
    ):
        generate(1, seed=0)
