r"""Numbers with their units, read exactly: `5 \text{ million}`, `62.5%`, `9.11\times10^{-31}`, `2\frac{1}{2}`.

Numbers are compared as fractions, so that no two tiny ones are equal. A decimal equals a number that agrees with it to
six decimal places and to five significant digits (0.333333 is 1/3; 0.33 is not; 0.000067 is not 0.0000672).
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_LENGTH = 1_000  # characters; a longer text is not read as a number
MAX_EXPONENT = 400  # of ten; a larger one is not read as a number

_PLACES, _DIGITS = Fraction(1, 2 * 10**6), Fraction(1, 10**5)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_UNITS = {
    spelling: spellings.split()[0]
    for spellings in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "gram grams",
        "kg kilogram kilograms",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "sec secs second seconds",
        "min mins minute minutes",
        "hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "yr yrs year years",
        "ml milliliter milliliters millilitre millilitres",
        "liter liters litre litres",
        "cent cents",
        "dollar dollars USD",
        "deg degree degrees",
        "mph",
        "celsius",
        "unit units",
    )
    for spelling in spellings.split()
}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_NO_UNITS = re.compile(
    "about|above|after|around|before|below|between|both|each|either|equals?|except|from|greater|half|less|least|maybe"
    "|minus|modulo|more|most|neither|only|other|over|perhaps|plus|quarters?|than|then|thirds?|through|times|twice|under"
    "|undefined|unless|until|where|while|with|without|hundred|thousand|million|billion|trillion|dozen|infinity"
)
_NAMED = re.compile(r"([A-Za-z\\][A-Za-z0-9_{}\\()' ]{0,30})=(?![=<>])(.+)", re.DOTALL)
_WITH_UNIT = re.compile(r"(.*(?:[0-9})%]|\\pi)|[A-Za-z]+(?= ))( ?)((?:[A-Za-z]{2,}\.? ){0,3}[A-Za-z]{2,})(\^[23])?")
_SCALED = re.compile(rf"(.+?) ?({'|'.join(_SCALES)})s?")
_PLAIN = re.compile(r"(-?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_POWER_OF_TEN = re.compile(
    r"(-?)(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:\\times|\\cdot|\*|x))?10\^(?:\{([+-]?[0-9]{1,4})\}|([+-]?[0-9]{1,4}))"
)
_RATIO = re.compile(
    r"(-?)(?:([0-9]+) ?)?(?:\\frac\{(-?[0-9]+)\}\{(-?[0-9]+)\}|(?<![0-9])(?:(?<= )|(?<=^)|(?<=-))([0-9]+)/([0-9]+))"
)
_RECURRING = re.compile(r"(-?)([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\{?([0-9]+)\}?")


class Quantity(NamedTuple):
    """A number as an answer gives it.

    Attributes:
        value: the number; of 9 per cent, 9.
        percent: whether a per cent sign follows it.
        decimal: whether it is written with a decimal point, and so perhaps rounded.
        name: what stands before an equals sign, or nothing.
        unit: one name for a unit that is known; otherwise nothing.
    """

    value: Fraction
    percent: bool
    decimal: bool
    name: str
    unit: str


def quantity(form: str) -> Quantity | None:
    """The number that a normal form is, if it is one number and nothing else."""
    if len(form) > MAX_LENGTH:
        return None
    name, form = split_name(form)
    if form.count("=") == 1:
        left, _, right = form.partition("=")
        return _of_both_sides(quantity(left), quantity(right))
    form, unit = split_unit(form)
    percent = form.endswith("%")
    form = form.removesuffix("%")
    scaled = _SCALED.fullmatch(form)
    number = _value(scaled[1] if scaled else form)
    if number is None:
        return None
    value = number * 10 ** _SCALES[scaled[2]] if scaled else number
    return Quantity(value, percent, "." in form and not _RECURRING.fullmatch(form), name, unit)


def _of_both_sides(left: Quantity | None, right: Quantity | None) -> Quantity | None:
    """The number of `0.56=56%`; none where the two sides differ."""
    return right if left and right and same_quantity(left, right) else None


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Equal in value; two names, or two known units, must be the same. 9% equals 9 and 0.09; 0.5% is not 0.5."""
    if (gold.name and answer.name and gold.name != answer.name) or (
        gold.unit and answer.unit and gold.unit != answer.unit
    ):
        return False
    decimal = gold.decimal or answer.decimal
    if gold.percent == answer.percent:
        return _close(gold.value, answer.value, decimal)
    percent, number = (gold.value, answer.value) if gold.percent else (answer.value, gold.value)
    return (abs(number) >= 1 and _close(percent, number, decimal)) or _close(percent / 100, number, decimal)


def split_name(form: str) -> tuple[str, str]:
    r"""The name and the rest of `x=5` and `f(x)=5`; no name where there is none."""
    named = _NAMED.fullmatch(form)
    return (named[1].strip(), named[2]) if named and "=" not in named[2] else ("", form)


def split_unit(form: str) -> tuple[str, str]:
    """The form without the unit at its end, and the unit's name if it is a known one.

    A word of four letters or more is a unit of some kind (`21 dogs`), unless it says something about the number
    ("more", "or"). Letters without a space before them are factors, unless they are a known unit (`10cm`).
    """
    match = _WITH_UNIT.fullmatch(form)
    if match is None:
        return form, ""
    rest, space, words, power = match[1], match[2], match[3].replace(".", "").split(), (match[4] or "").lstrip("^")
    while rest and words and words[0] in _SCALES:
        rest, space, words = f"{rest} {words[0]}", " ", words[1:]
    if not words:
        return rest, ""
    known = [word in _UNITS or word in _POWERS for word in words]
    if (not space and not known[0]) or not all(
        is_known or (len(word) >= 4 and word.islower() and not _NO_UNITS.fullmatch(word))
        for word, is_known in zip(words, known, strict=True)
    ):
        return form, ""
    if len(words) > 1 and words[0] in _POWERS:
        power, words = _POWERS[words[0]], words[1:]
    unit = _UNITS.get(words[0], "") if len(words) == 1 else ""
    return rest, unit + power if unit and unit != "unit" else ""


def _value(form: str) -> Fraction | None:
    if form.lower() in _SMALL:
        return Fraction(_SMALL.index(form.lower()))
    plain = _PLAIN.fullmatch(form)
    if plain:
        return _signed(plain[1], Fraction(plain[2].rstrip(".")))
    power = _POWER_OF_TEN.fullmatch(form)
    if power:
        exponent = int(power[3] or power[4])
        if abs(exponent) > MAX_EXPONENT:
            return None
        return _signed(power[1], Fraction((power[2] or "1").rstrip(".")) * Fraction(10) ** exponent)
    return _fraction(form) or _recurring(form)


def _fraction(form: str) -> Fraction | None:
    """3/4, a fraction of whole numbers, and a mixed number (`2 3/4`)."""
    match = _RATIO.fullmatch(form)
    if match is None:
        return None
    over, under = int(match[3] or match[5]), int(match[4] or match[6])
    if not under or (match[2] and Fraction(over, under) < 0):
        return None
    return _signed(match[1], int(match[2] or 0) + Fraction(over, under))


def _recurring(form: str) -> Fraction | None:
    r"""`0.1\overline{6}` is 1/6."""
    match = _RECURRING.fullmatch(form)
    if match is None:
        return None
    whole, start, period = match[2] or "0", match[3], match[4]
    value = Fraction(int(whole + start + period) - int(whole + start), (10 ** len(period) - 1) * 10 ** len(start))
    return _signed(match[1], value)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign else value


def _close(gold: Fraction, answer: Fraction, decimal: bool) -> bool:
    if not decimal:
        return gold == answer
    return abs(gold - answer) <= min(_PLACES, _DIGITS * abs(gold))
