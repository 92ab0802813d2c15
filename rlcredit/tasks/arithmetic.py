"""Exact value of an arithmetic expression written by a policy, which is hostile input: nothing is ever `eval`ed.

    sum     := product (("+" | "-") product)*
    product := operand (("*" | "/") operand)*
    operand := ("+" | "-") operand | "(" sum ")" | [0-9]+

Next to the ASCII operators the signs U+00D7 (times), U+00F7 (division) and U+2212 (minus) are understood. Between
tokens, spaces, tabs and line breaks are allowed; every other character is an error.

TinyZero, whose Countdown rewards are the model for ours, checks that only digits, `+ - * / ( ) .` and white space
occur and then calls `eval`. Kept from it: a sign before an operand (`-3+10`, `2*-3`). Departures:

* no decimal point: a literal is an integer, so that "each number once" has one reading (`1.5` is not 1 and 5);
* no `**` and no `//`, which its character set lets through;
* `007` is 7, where Python's grammar has a syntax error;
* values are exact fractions, so `1/3*3` is 1 and no tolerance is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 256
MAX_DIGITS = 9
MAX_DEPTH = 32

_ASCII_OPERATORS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})
_TOKEN = re.compile(r"[ \t\r\n]*(?:([0-9]+|[-+*/()])[ \t\r\n]*)")


class ExpressionError(ValueError):
    """The text is not an expression of the grammar above, is over a limit, or divides by zero."""


@dataclass(frozen=True)
class Expression:
    """An evaluated expression: its exact `value`, and the integer literals in it in the order written."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Expression:
    """Parse and evaluate `text` exactly.

    The work is bounded before it starts: at most `MAX_CHARACTERS` characters, `MAX_DIGITS` digits a literal and
    `MAX_DEPTH` nested brackets or signs.

    Raises:
        ExpressionError: for everything that is not such an expression with a finite value.
    """
    parser = _Parser(_tokens(text))
    value = parser.sum(depth=0)
    if parser.token:
        raise ExpressionError(f"expected an operator or the end, found {parser.token!r}")
    return Expression(value, tuple(parser.numbers))


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    text = text.translate(_ASCII_OPERATORS)
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"no arithmetic at character {position}: {text[position : position + 8]!r}")
        if len(match[1]) > MAX_DIGITS and match[1].isdigit():
            raise ExpressionError(f"a number of more than {MAX_DIGITS} digits")
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent that evaluates as it reads; `depth` bounds the recursion, so no input exhausts the stack."""

    def __init__(self, tokens: list[str]) -> None:
        self.numbers: list[int] = []
        self._tokens = iter(tokens)
        self.token = ""
        self._advance()

    def _advance(self) -> str:
        """Step to the next token (the empty string after the last one) and return the one left behind."""
        left, self.token = self.token, next(self._tokens, "")
        return left

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.token in ("+", "-"):
            sign = 1 if self._advance() == "+" else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._operand(depth)
        while self.token in ("*", "/"):
            operator, operand = self._advance(), self._operand(depth)
            if operator == "/" and operand == 0:
                raise ExpressionError("division by zero")
            value = value * operand if operator == "*" else value / operand
        return value

    def _operand(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"more than {MAX_DEPTH} nested brackets or signs")
        token = self._advance()
        if token in ("+", "-"):
            operand = self._operand(depth + 1)
            return operand if token == "+" else -operand
        if token == "(":
            value = self.sum(depth + 1)
            if self._advance() != ")":
                raise ExpressionError("a bracket is not closed")
            return value
        if not token.isdigit():
            raise ExpressionError(f"expected a number or a bracket, found {token or 'the end'!r}")
        self.numbers.append(int(token))
        return Fraction(self.numbers[-1])
