"""The expression parser: exact values, the literals used, and hostile input turned away at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcredit.tasks.arithmetic import MAX_CHARACTERS, MAX_DEPTH, MAX_DIGITS, ExpressionError, evaluate


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("7*12-3", 81, (7, 12, 3)),
        ("7 * (12 - 3)", 63, (7, 12, 3)),
        ("2+3*4", 14, (2, 3, 4)),
        ("20-4-3", 13, (20, 4, 3)),
        ("64/4/2", 8, (64, 4, 2)),
        ("40 / (20 / 14)", 28, (40, 20, 14)),
        ("1/3*3", 1, (1, 3, 3)),
        ("1/3+1/3+1/3", 1, (1, 3, 1, 3, 1, 3)),
        ("1/10+2/10", Fraction(3, 10), (1, 10, 2, 10)),
        ("-3+10", 7, (3, 10)),
        ("2*-3", -6, (2, 3)),
        ("-(3-10)", 7, (3, 10)),
        ("--5", 5, (5,)),
        ("+5", 5, (5,)),
        ("007", 7, (7,)),
        ("((((8))))", 8, (8,)),
        ("\n 1\t+ 2\r\n", 3, (1, 2)),
        ("6\u00d72\u00f73\u22121", 3, (6, 2, 3, 1)),
        ("999999999*999999999", 999999998000000001, (999999999, 999999999)),
    ],
)
def test_value_and_literals(text, value, numbers):
    expression = evaluate(text)
    assert expression.value == value
    assert isinstance(expression.value, Fraction)
    assert expression.numbers == numbers


HOSTILE = {
    "nothing": "",
    "blank": "  \n",
    "brackets only": "()",
    "open bracket": "(1+2",
    "closed bracket": "1+2)",
    "no operator": "1 2",
    "implicit product": "2(3)",
    "no operand": "1+",
    "power": "2**3",
    "tower of powers": "9**9**9",
    "floor division": "7//2",
    "decimal point": "1.5",
    "exponent": "1e9",
    "underscore": "1_000",
    "equation": "1+2=3",
    "comma": "1,2",
    "division by zero": "1/0",
    "division by a sum that is zero": "5/(3-3)",
    "zero by zero": "0/0",
    "name": "x",
    "infinity": "inf",
    "import": "__import__('os')",
    "lambda": "(lambda: 1)()",
    "comparison": "1<2",
    "bitwise": "1|2",
    "Arabic digits": "\u0661+\u0662",
    "full-width digits": "\uff11+\uff12",
    "superscript": "2\u00b2",
    "Roman numeral": "\u2167",
    "null": "1\x00+2",
    "escape": "1\x1b[31m+2",
    "vertical tab": "1\x0b+2",
    "no-break space": "1\u00a0+2",
    "right-to-left override": "1\u202e+2",
    "lone surrogate": "1\ud800",
    "ten thousand brackets": "(" * 10_000 + "1" + ")" * 10_000,
    "ten thousand signs": "-" * 10_000 + "1",
    "brackets over the depth": "(" * 100 + "1" + ")" * 100,
    "signs over the depth": "-" * 200 + "1",
    "a megabyte of digits": "9" * 1_000_000,
    "a megabyte of blanks": " " * 1_000_000,
    "a megabyte of sums": "1+" * 500_000 + "1",
    "a long literal": "1" * (MAX_DIGITS + 1),
}


LINES_A_CHARACTER = 100  # the costliest text below takes 28, most of them in fractions.py


@contextmanager
def lines_run() -> Iterator[list[int]]:
    """The lines of Python that run inside: a measure of work that is the same on every machine."""
    lines, before = [], sys.gettrace()

    def trace(frame, event, argument):
        if event == "line":
            lines.append(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_is_turned_away_with_little_work(text):
    with pytest.raises(ExpressionError), lines_run() as lines:
        evaluate(text)
    assert len(lines) < (LINES_A_CHARACTER * MAX_CHARACTERS if len(text) <= MAX_CHARACTERS else 20)


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH,
        "/".join(["97"] * (MAX_CHARACTERS // 3)),
        "+".join(f"1/{n}" for n in range(2, 52)),
        "*".join(["9" * MAX_DIGITS] * (MAX_CHARACTERS // (MAX_DIGITS + 1))),
    ],
    ids=["deepest", "longest quotient", "denominators", "largest"],
)
def test_the_costliest_accepted_input_takes_little_work(text):
    with lines_run() as lines:
        evaluate(text)
    assert len(lines) < LINES_A_CHARACTER * MAX_CHARACTERS


def test_limits_are_where_they_are_said_to_be():
    assert evaluate("1" * MAX_DIGITS).value == int("1" * MAX_DIGITS)
    assert evaluate("1".rjust(MAX_CHARACTERS)).value == 1
    with pytest.raises(ExpressionError, match=f"{MAX_CHARACTERS} characters"):
        evaluate("1".rjust(MAX_CHARACTERS + 1))
    with pytest.raises(ExpressionError, match=f"{MAX_DIGITS} digits"):
        evaluate("1" * (MAX_DIGITS + 1))
    with pytest.raises(ExpressionError, match=f"{MAX_DEPTH} nested"):
        evaluate("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1))


@st.composite
def _trees(draw, depth=4):
    """A random expression: its text with all brackets, its value (None if it divides by zero), its literals."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99))
        return str(number), Fraction(number), (number,)
    left, left_value, left_numbers = draw(_trees(depth=depth - 1))
    right, right_value, right_numbers = draw(_trees(depth=depth - 1))
    operator = draw(st.sampled_from("+-*/"))
    value = None
    if left_value is not None and right_value is not None and not (operator == "/" and right_value == 0):
        value = {
            "+": lambda: left_value + right_value,
            "-": lambda: left_value - right_value,
            "*": lambda: left_value * right_value,
            "/": lambda: left_value / right_value,
        }[operator]()
    return f"({left}{operator}{right})", value, left_numbers + right_numbers


@given(_trees())
def test_agrees_with_the_tree_that_was_written(tree):
    text, value, numbers = tree
    if value is None:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(text)
    else:
        assert evaluate(text).value == value
        assert evaluate(text).numbers == numbers


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=12))
def test_precedence_is_pythons(terms):
    text = "1" + "".join(operator + str(number) for operator, number in terms)
    assert evaluate(text).value == eval(text)  # digits and + - * only, made by this test


@given(st.text(max_size=300) | st.text(alphabet="0123456789+-*/() ", max_size=300))
def test_any_text_has_a_value_or_the_one_error(text):
    try:
        assert isinstance(evaluate(text).value, Fraction)
    except ExpressionError as error:
        assert str(error)
