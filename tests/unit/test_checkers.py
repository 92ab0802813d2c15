"""Checkers: right answers however they are written, no credit for wrong, ambiguous or hostile ones."""

import os
import re
import time
from pathlib import Path

import pytest

from rlcredit.tasks.checkers import math_worker
from rlcredit.tasks.checkers.answers import boxed, completion_text, final_answer, phrase, plain, shown, tagged
from rlcredit.tasks.checkers.choice import LETTERS, check_choice
from rlcredit.tasks.checkers.equality import for_library, is_understood
from rlcredit.tasks.checkers.exact import check_exact
from rlcredit.tasks.checkers.knights import check_knights
from rlcredit.tasks.checkers.mathematics import check_math
from rlcredit.tasks.checkers.normal_form import normal_form
from rlcredit.tasks.checkers.verdict import NO_ANSWER, Verdict
from tests.gold_answers import CHOICE_FILES, MATH_FILES, neighbours, right_pairs, rows_of, wrong_against_itself


def math(gold, text):
    return check_math([text], [{"answer": gold}])[0]


def in_box(gold, answer):
    return math(gold, rf"\boxed{{{answer}}}").correct


def choice(text, letter="B", choices=("wet palms", "dry palms", "a good conductor")):
    return check_choice([text], [{"answer": letter, "choices": list(choices)}])[0]


def knights(text, gold="(1) Michael is a knight\n(2) Zoey is a knave"):
    return check_knights([text], [{"answer": gold}])[0]


def exact(text, gold="Arnold"):
    return check_exact([text], [{"answer": gold}])[0]


def file_rows(name):
    folder = os.environ.get("RLCREDIT_DATA")
    if not folder:
        pytest.skip("RLCREDIT_DATA is not set; it names a folder with the data sets")
    if not (Path(folder) / f"{name}.jsonl").is_file():
        pytest.skip(f"RLCREDIT_DATA={folder} has no {name}.jsonl")
    return rows_of(name)


# Where the answer stands


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} and then \fbox{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ {a}{b} }", "{a}{b}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}", r"\begin{pmatrix}1\\{2}\end{pmatrix}"),
        (r"\boxed{3} no, \boxed{4", "3"),
        (r"\boxed{3 and \boxed{4}", "4"),
        (r"\boxed{a \boxed{7}}", "7"),
        (r"} } \boxed{5} }", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed 12", "12"),
        (r"\boxed x", "x"),
        (r"\boxed  {8}", "8"),
        (r"\boxed{8} as in \boxed form", "8"),
        (r"\boxed{}", ""),
        (r"\boxed{5", None),
        (r"\boxedly{5}", None),
        ("no box", None),
        ("", None),
        (r"\boxed{" + "1" * 1_000 + "}", "1" * 1_000),
        (r"\boxed{5} \boxed{" + "1" * 1_001 + "}", None),
    ],
)
def test_last_box(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "1" * 1_000_000,
        "\\boxed{" + "{" * 1_000_000,
        "\\boxed{" + "\\" * 1_000_000,
        "\\boxed" + " " * 1_000_000,
        "\\boxed" * 150_000,
        "answer is " * 100_000,
        "answer" + " " * 1_000_000,
        "<answer>" * 120_000,
    ],
)
def test_reading_takes_linear_time(text):
    start = time.process_time()
    boxed(text), tagged(text), phrase(text)
    assert time.process_time() - start < 20  # a tenth of a second; a time that grows with the square is minutes


def test_final_answer_prefers_box_then_tag_then_phrase():
    assert final_answer(r"answer is 1 <answer>2</answer> \boxed{3} <answer>4</answer>") == "3"
    assert final_answer("<answer>1</answer> <answer> 2 </answer> the answer is 3") == "2"
    assert final_answer("answer is 1.\nThe **answer**: **2**\nDone") == "2**"
    assert final_answer(r"the answer is 3 \boxed{4") is None  # cut off while it answered
    assert final_answer("nothing") is None


def test_plain_and_shown():
    assert plain(r"$\textbf{(\text{B})}$\, \$5") == "(B) 5"
    assert plain(r"\text{H_{2}O is  wet}") == "H_{2}O is wet"
    assert shown("a\ud800b" + "c" * 300) == "a?b" + "c" * 197


def test_conversations_are_read_as_what_the_assistant_wrote():
    parts = [{"type": "text", "text": "2"}]
    conversation = [{"role": "user", "content": "0"}, {"role": "assistant", "content": "1"}, {"content": parts}]
    assert completion_text(conversation) == "12"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text("text") == "text"


# Mathematics


@pytest.mark.parametrize(
    ("form", "writings"),
    [
        ("204", ["204", " 204. ", "0204", "204.0", "$204$", r"\text{204}", r"204^\circ", r"\$204", r"\(204\)"]),
        ("1000", ["1,000", r"1,\!000", "1{,}000", r"1\,000", "1000.00"]),
        (r"\frac{1}{2}", [r"\dfrac{1}{2}", r"\tfrac12", r"\frac 12", r"\frac{1}2", r"\frac { 1 } { 2 }"]),
        (r"(3,\frac{\pi}{2})", [r"\left( 3, \frac{\pi}{2} \right)", r"(3,\!\frac{\pi}{2})"]),
        ("50%", [r"50\%", r"50 \%"]),
        ("-2", ["\u22122", "- 2", "-2.0"]),
        ("0.5", [".5", "0.50", "00.5"]),
        ("0", ["-0", "0.0", "000"]),
    ],
)
def test_one_form_for_many_spellings(form, writings):
    assert {normal_form(writing) for writing in writings} == {form}


def test_different_answers_keep_different_forms():
    answers = [
        "12",
        "1,2",
        "1 2",
        "-12",
        "1.2",
        "12%",
        "(1,2)",
        "(2,1)",
        "[1,2)",
        r"\frac{1}{2}",
        r"\frac{12}{}",
        "x",
        "X",
    ]
    answers += [
        "1,200",
        r"1,\ 2000",
        r"(1,\,200)",
        "(1200)",
        "1{,}20",
        r"2\frac{1}{2}",
        r"\frac{21}{2}",
        "x y z",
        "1001",
    ]
    assert len({normal_form(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("204", "204"),
        ("204", "204.0"),
        ("204", "0204"),
        ("204", "n = 204"),
        ("16", "016"),
        (r"\frac12", "0.5"),
        (r"\frac{1}{2}", "1/2"),
        (r"\frac{1}{3}", "0.333333"),
        ("x+1", "1 + x"),
        ("5", r"x = \frac{10}{2}"),
        ("10", r"10\text{ cm}"),
        ("9", r"9\%"),
        ("0.09", r"9\%"),
        (r"\{1,2\}", r"2, 1"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        (r"\text{Evelyn}", "Evelyn"),
        ("(1,2)", r"\left(1, \frac{4}{2}\right)"),
    ],
)
def test_right_answers(gold, answer):
    verdict = math(gold, rf"\boxed{{{answer}}}")
    assert verdict == Verdict(1.0, normal_form(gold))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{3}", "0.33"),
        ("2", "3"),
        ("2", "-2"),
        ("(1,2)", "(2,1)"),
        ("[0,1)", "(0,1)"),
        ("[0,1)", "[0,1]"),
        ("12", "1,2"),
        ("1,2", "12"),
        ("1,2", "1,2,3"),
        ("204", "204.01"),
        ("204", "203, 204"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        (r"2\sqrt{2}", r"2\sqrt{3}"),
        ("x+1", "x-1"),
        (r"\text{Evelyn}", "Angela"),
        ("3", r"\text{I guess} @ 3"),
        ("3", "?"),
        ("3", ""),
        ("3", r"\text{...}"),
        ("5", r"5 \text{ or maybe } \frac{1}{6}"),
        ("5", r"5 \text{ or } \text{6}"),
        ("5", r"5 \text{ or } 6"),
    ],
)
def test_wrong_answers(gold, answer):
    verdict = math(gold, rf"\boxed{{{answer}}}")
    assert verdict.correct == 0.0
    assert verdict.answer != normal_form(gold)


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("We find n = 204", 1.0),
        ("The answer is $204$.", 1.0),
        ("First 7, then 204.", 1.0),
        ("First 204, then 7.", 0.0),
        ("x" * 2_000 + " so it is 204", 1.0),
        ("it is 204 " + "x" * 600, 0.0),  # not in the last 500 characters
        (r"it is 204: \boxed{204", 0.0),  # a box that is cut off
        (r"it is \boxed{7}, not 204", 0.0),
        ("", 0.0),
    ],
)
def test_answers_without_a_box(text, correct):
    assert math("204", text).correct == correct


def test_equal_answers_vote_together_and_wrong_ones_apart():
    texts = [rf"\boxed{{{answer}}}" for answer in ("0.5", r"\frac12", "1/2", "x = 0.5", r"\frac{2}{4}")]
    for gold, correct in (("1/2", 1.0), ("3", 0.0), (r"\sqrt{2}", 0.0)):
        verdicts = check_math(texts, [{"answer": gold}] * len(texts))
        assert len({verdict.answer for verdict in verdicts}) == 1
        assert [verdict.correct for verdict in verdicts] == [correct] * len(texts)
    assert math("3", r"\boxed{4}").answer == math("3", r"\boxed{x=4}").answer == math("3", "it is 4").answer == "4"


def test_a_batch_keeps_its_order_and_repeats():
    golds = ["1", "2", r"\frac12", "x", "2"] * 20
    answers = ["1", "3", "0.5", "y", "2"] * 20
    verdicts = check_math([rf"\boxed{{{a}}}" for a in answers], [{"answer": gold} for gold in golds])
    assert [verdict.correct for verdict in verdicts] == [1.0, 0.0, 1.0, 0.0, 1.0] * 20
    assert check_math([], []) == []


def golds_of(name):
    return [row["answer"] for row in file_rows(name)]


@pytest.mark.parametrize("name", MATH_FILES)
def test_every_gold_answer_equals_itself(name):
    assert wrong_against_itself(golds_of(name)) == []


# The same value, read one by one: units, signs of degree and per cent, and names of variables do not count.
ALIKE = {
    ("120", r"120^\circ"),
    (r"18 \text{ degrees}", "18"),
    (r"21\text{ dogs}", "21"),
    (r"25\%", "25"),
    ("8", "K=8"),
    ("5", "x=5"),
}
ALIKE |= {(other, gold) for gold, other in ALIKE}


@pytest.mark.parametrize("name", MATH_FILES)
def test_the_next_gold_answer_is_wrong(name):
    stride = {"math_train": 60, "math500": 6, "olympiadbench_math_en": 8}.get(name, 1)
    assert set(right_pairs(neighbours(golds_of(name))[::stride])) <= ALIKE


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("name", MATH_FILES)
def test_every_neighbouring_gold_answer_is_wrong(name, step):
    assert set(right_pairs(neighbours(golds_of(name), step))) <= ALIKE


@pytest.mark.slow
@pytest.mark.parametrize("name", MATH_FILES)
def test_every_gold_answer_differs_from_itself_with_another_number(name):
    golds = [gold for gold in golds_of(name) if re.search(r"[0-9]", gold)]
    pairs = [(gold, re.sub(r"[0-9](?!.*[0-9])", lambda digit: str((int(digit[0]) + 3) % 10), gold)) for gold in golds]
    assert right_pairs(pairs) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MATH_FILES)
def test_the_library_alone_verifies_the_gold_answers_that_it_reads(name):
    forms = {normal_form(gold) for gold in golds_of(name)}
    readable = [form for form in forms if is_understood(form)]
    differing = [form for form in readable if not math_worker.pool.compare(*for_library(form, form))[0]]
    assert differing == []


# Choice


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{B}",
        r"\boxed{b}",
        r"\boxed{(B)}",
        r"\boxed{B.}",
        r"\boxed{B)}",
        r"\boxed{\text{B}}",
        r"\boxed{\textbf{(B)}}",
        r"\boxed{B: dry palms}",
        r"\boxed{\text{(B) Dry palms.}}",
        r"\boxed{Dry  Palms}",
        r"\boxed{A} no, \boxed{B}",
        "<answer>B</answer>",
        "The answer is B.",
        "The correct answer is **B**, because they are dry.",
        "**Answer:** (B) dry palms",
        "Answer: A\nAnswer: B",
        "The answer is dry palms. That is clear.",
        "Answer: B, not C",
        "Answer: B rather than C.",
        r"\boxed{B, not A}",
        r"\boxed{B. the bus stops}",
        r"\boxed{\text{(B) their hands are dry}}",
        "Answer: B) the bus stops",
        r"\boxed{Option B}",
        r"\boxed{\text{option (B)}}",
        "The answer is option B.",
        "So the correct option is B.",
        "<answer>choice B</answer>",
        "B",
        " (B) dry palms ",
        "dry palms",
    ],
)
def test_right_choices(text):
    assert choice(text) == Verdict(1.0, "B")


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{B: wet palms}",
        r"\boxed{(B) wet palms}",
        "The answer is B) wet palms",
        r"\boxed{B, C}",
        r"\boxed{Z}",
        r"\boxed{D}",
        r"\boxed{B or C}",
        r"\boxed{B. or C.}",
        r"\boxed{B) is wrong}",
        "Answer: B) is not right.",
        r"\boxed{B: it isn't this}",
        r"\boxed{B. not the wet palms}",
        r"\boxed{B. C}",
        r"\boxed{not B}",
        r"\boxed{option B or C}",
        r"\boxed{D. the bus stops}",
        "Answer: B or C, not A",
        "The options B and C remain.",
        r"\boxed{palms}",
        r"\boxed{B",
        r"The answer is B. \boxed{}",
        "I like B and C.",
        "",
    ],
)
def test_no_choice(text):
    assert choice(text) == NO_ANSWER


def test_a_wrong_choice_is_shown():
    assert choice(r"\boxed{A}") == Verdict(0.0, "A")
    assert choice(r"\boxed{A good conductor}") == Verdict(0.0, "C")  # an article, no letter


def test_letters_come_before_texts_and_case_parts_options():
    assert choice(r"\boxed{B}", "B", ["C", "A", "B"]) == Verdict(1.0, "B")
    assert choice(r"\boxed{K}", "B", ["Ne", "K"]) == Verdict(1.0, "B")  # there is no eleventh option
    assert choice(r"\boxed{WW}", "B", ["ww", "WW"]) == Verdict(1.0, "B")
    assert choice(r"\boxed{yes}", "B", ["Yes", "YES"]) == NO_ANSWER
    assert choice(r"\boxed{B: -1}", "B", ["1", "-1"]) == Verdict(1.0, "B")
    assert choice(r"\boxed{B: 1}", "B", ["1", "-1"]) == NO_ANSWER


@pytest.mark.parametrize("name", CHOICE_FILES)
def test_every_letter_and_its_text_are_right(name):
    rows = file_rows(name)
    texts = [row["choices"][LETTERS.index(row["answer"])] for row in rows]
    for form in (r"\boxed{%s}", r"\boxed{\textbf{(%s)}}", "The answer is **%s**."):
        assert all(v.correct for v in check_choice([form % row["answer"] for row in rows], rows))
    assert all(v.correct for v in check_choice([rf"\boxed{{{text}}}" for text in texts], rows))
    others = [LETTERS[(LETTERS.index(row["answer"]) + 1) % len(row["choices"])] for row in rows]
    assert not any(v.correct for v in check_choice([rf"\boxed{{{letter}}}" for letter in others], rows))
    mixed = [
        rf"\boxed{{{row['answer']}) {row['choices'][LETTERS.index(o)]}}}" for row, o in zip(rows, others, strict=True)
    ]
    assert not any(v.correct for v in check_choice(mixed, rows))


# Knights


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{(1) Michael is a knight\n(2) Zoey is a knave}",
        r"\boxed{\text{Zoey is a knave, Michael is a knight}}",
        r"\boxed{\text{Zoey is a knave} \\ \text{Michael is a knight}}",
        r"\boxed{michael is a Knight; and zoey is a knave.}",
        "<answer>(1) Michael is a knight (2) Zoey is a knave</answer>",
        "If Zoey is a knight, then no.\n\nSo, Michael is a knight and Zoey is a knave.",
        "Suppose:\nZoey is a knight\n\nTherefore:\n1. **Michael is a knight**\n\n2. **Zoey is a knave**",
        "Zoey is a knight\nMichael is a knight\nZoey is a knave",  # the last block begins where a name returns
    ],
)
def test_right_knights(text):
    assert knights(text) == Verdict(1.0, "michael is a knight, zoey is a knave")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{Michael is a knight}", "michael is a knight"),
        (r"\boxed{Michael is a knave, Zoey is a knave}", "michael is a knave, zoey is a knave"),
        (
            r"\boxed{Michael is a knight, Zoey is a knave, Eve is a knave}",
            "eve is a knave, michael is a knight, zoey is a knave",
        ),
        (r"\boxed{Michael is a knight, Zoey is a knave, Zoey is a knight}", None),
        (r"\boxed{Michael is a knight, Zoey is a knave, Zoey is a knave}", None),
        (r"\boxed{Michael is a knight or Zoey is a knave}", None),
        (r"\boxed{Michael is a knight, Zoey is not a knight}", None),
        (r"Michael is a knight, Zoey is a knave \boxed{", None),
        ("Who is a knight and who is a knave?", None),
        ("", None),
    ],
)
def test_wrong_knights(text, answer):
    assert knights(text) == Verdict(0.0, answer)


def test_every_assignment_equals_itself_and_no_other():
    rows = file_rows("kk_logic_train")
    texts = [rf"\boxed{{\text{{{row['answer']}}}}}".replace("\n", ", ") for row in rows]
    assert all(v.correct for v in check_knights(texts, rows))
    assert all(v.correct for v in check_knights([f"Conclusion:\n{row['answer']}" for row in rows], rows))
    flipped = [f"<answer>{row['answer'].replace('knight', 'knave', 1)}</answer>" for row in rows]
    assert not any(
        v.correct for v, row in zip(check_knights(flipped, rows), rows, strict=True) if "knight" in row["answer"]
    )
    assert not any(v.correct for v in check_knights(texts[1:] + texts[:1], rows))


# Exact


@pytest.mark.parametrize(
    "text",
    [r"\boxed{Arnold}", r"\boxed{\text{arnold}.}", "<answer> ARNOLD </answer>", "The answer is **Arnold**. Clear."],
)
def test_right_words(text):
    assert exact(text) == Verdict(1.0, "arnold")


def test_wrong_words():
    assert exact(r"\boxed{Eric}") == Verdict(0.0, "eric")
    assert exact(r"\boxed{Arnold or Eric}").correct == 0.0
    assert exact("Arnold") == exact(r"\boxed{}") == exact(r"\boxed{...}") == exact("") == NO_ANSWER
    assert exact(r"\boxed{-5}", "5").correct == exact(r"\boxed{1.5}", "15").correct == 0.0
    assert exact(r"\boxed{Mount  Everest}", "mount everest").correct == 1.0


# Hostile texts for the checkers that read words (those of mathematics are in test_math_worker.py)


@pytest.mark.parametrize("check", [choice, knights, exact])
@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "1" * 1_000_000,
        "A is a knight, " * 70_000,
        "is a knight " * 80_000,
        "\n" * 1_000_000,
        "\\boxed{" * 100_000,
        "answer is " * 100_000,
        "\\text{" * 100_000,
        "\\boxed{" + "\\text{" * 160 + "}" * 161,
        "(" * 1_000_000,
        "\\boxed{\ud800\x00\u202e}",
        "answer is \ud800\x00\u202e",
    ],
)
def test_hostile_texts_get_nothing_and_take_no_time(check, text):
    start = time.process_time()
    verdict = check(text)
    assert time.process_time() - start < 20
    assert verdict.correct == 0.0
    assert verdict.answer is None or len(verdict.answer.encode()) <= 800
