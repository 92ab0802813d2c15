r"""Answers to mathematical problems and the verdicts they must get.

For each gold answer: answers that are right, and answers that are wrong. A text with a box, a tag, "answer" or "it is"
is the whole completion; any other text is put into a box. The forms come from public bug reports of checkers. Gold
answers with "data" beside them stand in public files.
"""

import re
from pathlib import Path

import pytest

from rlcredit.tasks.checkers.mathematics import check_math

# gold answer: (right answers, wrong answers)
VERDICTS = {
    # tags
    "7": (
        ["<answer>7</answer>", "<think>8</think><answer>$7$</answer>", "<answer>The answer is 7.</answer>"],
        ["<think>5+2=7</think><answer>12</answer>", "<answer>7 or 12</answer>", "<answer></answer> 7"],
    ),
    "42": (
        ["<answer>42</answer>", "the answer is:42", "Answer:`42`", "<b>Answer: 42</b>", "The answer is **42**."],
        [
            r"<answer>42</answer> \boxed{41}",
            "The answer is not 42.",
            "The answer isn't 42.",
            "the answer is 4 2",
            "the answer is greater than 42",
            "The answer is 42:1.",
        ],
    ),
    "2": (
        ["it is 2.", "it is $x=2$", "it is 4 - 2", "it is 2 km"],
        ["it is 2x", "it is 2\\pi", "it is 2√3", "it is 2^2", "it is 2½", "it is (1,2)", "it is 2,5", "it is 2.5.2"],
    ),
    "1/2": (["it is 1/2", "the answer is 1/2."], ["it is 4 1/2", "it is 1/2x"]),
    # JSON's floats and e-notation
    "1e-05": (["0.00001", r"10^{-5}", "1E-5", r"1\times10^{-5}"], ["e-5", "1", r"10^{-4}", "1e-06", "0"]),
    "6.02e+23": ([r"6.02\times10^{23}", r"6.02 \cdot 10^{23}"], ["6.02", r"6.03\times10^{23}", r"6.02\times10^{22}"]),
    "2500000.0": (["2.5e6", "2,500,000", r"2.5\text{ million}", "2 500 000"], ["2.5", "2.5 billion", "2500"]),
    r"9.11\times10^{-31}": (["9.11e-31"], [r"1.67\times10^{-27}", "0", r"9.12\times10^{-31}", r"9.11\times10^{-30}"]),
    r"\frac{1}{2^{98}}": ([r"2^{-98}"], [r"\frac{1}{2^{97}}", "0"]),  # data: MATH
    ".0000672": (["0.0000672", r"6.72\times10^{-5}"], ["0.000067", "0", "0.000672"]),  # data: MATH-500
    # per cent
    "62.5%": ([r"62.5\%", "0.625", "62.5", "62.5 percent", r"\frac{5}{8}"], ["6.25", "625%", "0.625%"]),  # data
    r"125\%": (["125", "1.25", r"\frac54", "125 per cent"], ["12.5", "1.25%"]),  # data: MATH
    # neighbouring numbers and thousands
    "802": (["802"], ["1 234 567", "800 2", "8,02"]),
    "1234567": (["1 234 567", r"1\,234\,567", "1{,}234{,}567", "1,234,567"], ["1 234 568", "1,234", "1 2 3 4 5 6 7"]),
    r"11,\! 111,\! 111,\! 100": (["11111111100", "11,111,111,100"], ["11, 111, 111, 100", "1111111110"]),  # data
    # letters and words
    "ABC": ([r"\text{ABC}", r"\textbf{ABC}"], ["BCA", "abc", "AB"]),
    r"\text{CBAD}": (["CBAD"], ["ABCD", "DABC"]),  # data: MATH
    "xy": (["yx", r"x \cdot y"], ["XY", "x+y"]),  # data: MATH
    "x": ([], ["X", "y"]),
    r"\text{(B)}": (["B", "(B)", r"\textbf{(B)}"], ["b", "C", "AB"]),  # data: MATH-500
    r"\text{Evelyn}": (["Evelyn", "evelyn"], ["Evelyn, Carla", "Carla"]),  # data: MATH-500
    r"\text{Softball, Kickball, Picnic}": (["Softball, Kickball, Picnic"], ["Softball, Kickball"]),  # data: MATH
    # lists, sets, tuples, intervals
    "(1,2)": ([r"\left(1, 2\right)", "1, 2"], [r"\{1,2\}", "(2,1)", "2, 1", "[1,2]", "(1,2,2)"]),
    r"\{1,2\}": ([r"\{2,1\}", "2, 1", r"\{1,2,2\}"], ["(1,2)", "(2,1)", "[1,2]", "1"]),
    "-2,1": (["1 and -2", r"1 \text{ or } -2", "(-2,1)"], ["1,2", "-2", "-2,1,1", "-2+1"]),  # data: MATH-500
    r"75^\circ, 75^\circ": (["75, 75"], ["75"]),  # data: MATH
    r"(1,1), (3,2)": (["(3,2),(1,1)"], ["(1,1)", "(1,1),(2,3)", "(1,3),(1,2)"]),  # data: OlympiadBench
    "[2,5)": ([r"\left[2,5\right)", r"x \in [2,5)"], ["(2,5]", "[2,5]", "(2,5)", "2,5"]),  # data: MATH
    r"x \in [-2,7]": (["[-2,7]"], ["(-2,7)", "[-7,2]"]),  # data: MATH-500
    r"(-\infty, 2) \cup (3, \infty)": (["(-∞,2)\u222a(3,∞)"], [r"(-\infty, 2] \cup (3, \infty)", "(2,3)"]),  # data
    r"1 \pm \sqrt{19}": ([r"1+\sqrt{19}, 1-\sqrt{19}"], [r"1+\sqrt{19}", r"1 \pm \sqrt{17}"]),  # data: MATH-500
    r"\{1\pm\sqrt{5},-2\}": ([r"-2, 1-\sqrt5, 1+\sqrt5"], [r"1+\sqrt5,-2", r"\{1\pm\sqrt{5},2\}"]),  # data
    # units and scale words
    r"5\text{ million}": (["5000000", "5 million", r"5\times10^6", r"\$5 million"], ["5 billion", "5", "5000"]),
    "21": ([r"21\text{ dogs}", "21 dogs", "21 square cm"], [r"21\text{ or more}", "21 hundred", "21x", "21 or 22"]),
    "5": (["five meters", "5 apples", r"5\text{ m}"], ["5m", "five or six", r"5 \text{ maybe } 6"]),
    r"15\mbox{ cm}^2": (["15", "15 square centimeters", r"15\text{ cm}^2"], [r"15\text{ cm}", "15 m^2"]),  # data
    r"\frac{270}7\text{ degrees}": ([r"\frac{270}{7}^\circ", "270/7"], ["270", r"\frac{270}{8}"]),  # data: MATH-500
    r"164 \pi \mbox{ square feet}": ([r"164\pi"], ["164", r"164\pi^2"]),  # data: MATH
    "6m": (["6 m", "m*6"], ["6", "6M", r"6\text{ cm}"]),  # data: OlympiadBench
    # fractions, signs, roots, infinity, recurring decimals
    r"\frac{1}{2}": ([r"\dfrac12", "½", "1\u20442", "0.5", ".5", "+0.5"], ["12", "1 2", r"\frac{2}{1}", "½%"]),
    r"1\frac{4}{5}": ([r"\frac95", "1 4/5", "1.8", "1⅘"], [r"\frac45", "14/5", "1.4"]),  # data: MATH-500
    "-3": (["\u22123", "\u20133", "- 3"], ["3", "--3"]),
    r"2\sqrt{3}": (["2√3", r"2\sqrt3", "2√(3)", r"\sqrt{12}", "2 sqrt(3)"], ["√6", "2√13", r"\sqrt[3]{3}"]),
    r"10\pi": (["31.415927"], ["31.4", "31.41"]),
    r"-\infty": (["-∞", "-inf", "-infinity"], ["∞", r"\infty", "-1"]),
    r"\frac16": ([r"0.1\overline{6}", r"0.1\bar{6}", "0.166667"], [r"0.\overline{16}", "0.16", r"0.1\overline{7}"]),
    # bases, ratios, equations, not a number
    "204_5": (["204_{5}", "204"], ["204_6", "204_{10}", "205_5"]),  # data: MATH-500
    "204": (["204_{10}"], ["204_5"]),
    "3:1": (["3 : 1"], ["3", "1:3", "4"]),  # data: MATH
    "3": ([], ["3:1", r"x \equiv 3", "x - y = 3 + 1"]),
    "0": (["x = 0"], ["2x - y + 2z - 18 = 0"]),  # data: two golds of MATH
    "12": (["n = 12", r"3 \times 4 = 12"], ["7 = 12", "x + 3 = 12"]),
    r"\text{odd}": (["odd"], ["ddo", "even"]),
    r"\$\dfrac23 \approx \$0.67": ([r"\frac23 \approx 0.67"], [r"\$\dfrac23 \approx \$0.60"]),  # data: MATH
    r"2^{4181}": ([r"2 \cdot 2^{4180}"], ["2^{4180}"]),  # data: MATH
    r"0.56=56\%": ([r"56\%", "0.56", r"0.56 = 56\%"], [r"0.56 = 59\%", "0.59", "0.56 = 0.57 = 56"]),  # data: MATH
    "x=5": (["5", "x = 5.0"], ["y=5", "x=6"]),  # data: MATH-500
    "y = 2x + 3": (["2x+3", "y=3+2x"], ["y = 2x - 3", "y = 3x + 2"]),  # data: MATH-500
    "nan": ([], ["nan", "NaN", r"\text{nan}"]),
}


def completion(answer):
    return answer if re.search(r"answer|\\boxed|it is ", answer, re.IGNORECASE) else rf"\boxed{{{answer}}}"


@pytest.mark.parametrize("gold", VERDICTS)
def test_verdicts(gold):
    right, wrong = VERDICTS[gold]
    verdicts = check_math([completion(answer) for answer in right + wrong], [{"answer": gold}] * len(right + wrong))
    called_right = [answer for answer, verdict in zip(right + wrong, verdicts, strict=True) if verdict.correct]
    assert called_right == right


def documented():
    r"""The table "What is equal to what" of docs/tasks.md: (gold answer, answer, whether it is right)."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = text.partition("| gold answer | right | wrong |\n")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        gold, right, wrong = ([*re.findall("`([^`]+)`", cell)] for cell in line.strip("|").split("|")[:3])
        assert len(gold) == 1 and right and wrong, line
        yield from ((gold[0], answer, True) for answer in right)
        yield from ((gold[0], answer, False) for answer in wrong)


def test_the_documented_table_is_true():
    table = list(documented())
    verdicts = check_math([completion(answer) for _, answer, _ in table], [{"answer": gold} for gold, _, _ in table])
    differing = [row for row, verdict in zip(table, verdicts, strict=True) if bool(verdict.correct) != row[2]]
    assert differing == [] and len(table) > 60


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"21\text{ dogs}", "21 cats", True),
        (r"5.4 \text{ cents}", r"\$5.4", True),
        ("16", r"16\%", True),
        ("ab", "ba", True),
        ("10", "it is 9 or 10", True),
        (r"5\text{ km}", "5000 m", False),
        ("1:4", r"\frac{1}{4}", False),
        ("(1,3)", "1 < x < 3", False),
        (r"\begin{pmatrix} 1 \\\\ 2 \end{pmatrix}", "(1,2)", False),
        ("6", "6m", False),
        ("5", "about 5", False),
        (r"\text{Friday}", "Fri", False),
        (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}", False),
    ],
)
def test_the_known_rest_is_as_documented(gold, answer, right):
    assert check_math([completion(answer)], [{"answer": gold}])[0].correct == right
