r"""One spelling for what LaTeX, Unicode and JSON spell in several: `\dfrac12` and `½` are `\frac{1}{2}`.

A normal form is a string. Equal normal forms are equal answers; what different ones mean is read by `quantity`
(numbers) and `equality` (lists, sets, words).
"""

from __future__ import annotations

import re
import unicodedata

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2004\u2005\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " ")
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_SYMBOLS = {
    ord(symbol): latex
    for symbol, latex in {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63", "-"),  # minus sign, hyphens, en dash
        **dict.fromkeys("\u00b7\u22c5\u2219", r"\cdot "),
        "\u00d7": r"\times ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u2215": "/",
        "\u221e": r"\infty ",
        "\u03c0": r"\pi ",
        "\u00b1": r"\pm ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2208": r"\in ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u00b0": "",
    }.items()
}
_TRANSLATED = {**_SPACES, **_FULL_WIDTH, **_SYMBOLS}
_FRACTION = re.compile(r"[\u00bc-\u00be\u2150-\u215e\u2189]")
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_ROOT = re.compile(r"([\u221a\u221b])\s?(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+(?:\.[0-9]+)?|[A-Za-z]))")

_LONG_UNITS = {"m": "meters", "g": "grams", "s": "seconds", "h": "hours", "l": "liters", "c": "celsius"}
_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf)\s*"
_LETTER_AS_UNIT = re.compile(rf"(?<=[0-9)}}\s]){_TEXT}\{{\s*([mgshlLcC])\s*\}}(?=(?:\^\{{?[23]\}}?)?[.\s$]*$)")
_E_NOTATION = re.compile(r"(?<![A-Za-z0-9.])([0-9]+\.?[0-9]*|\.[0-9]+)[eE]([+-]?[0-9]{1,9})(?![A-Za-z0-9.])")
_THOUSANDS = re.compile(r"([^0-9(\[{]*)([1-9][0-9]{0,2}(?:,[0-9]{3})+)((?:\.[0-9]+)?(?![0-9])[^0-9,]*)")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,])(?<![0-9.,] )[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])(?! [0-9])")
_DECIMAL = re.compile(r"(-?)0*([0-9]*)(?:\.([0-9]*?)0*)?", re.ASCII)

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[0-9])(?:\{,\}|,\\!|\\[!,]) {0,3}(?=[0-9]{3}(?![0-9]))", ""),  # 10{,}000 and 10,\!000 and 10\,000
        (_TEXT + r"\{([^{}]*)\}", r"\1"),
        (r"(?<!\\)\\(?:[!,;: ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\?\$|[\u20ac\u00a3\u00a5]|(?<!\\)\\[()\[\]]", ""),
        (r"(?<=[0-9A-Za-z)}]) ?\*\* ?([0-9]+|[A-Za-z])(?![0-9A-Za-z*])", r"^{\1}"),
        (r"\*\*", ""),
        (r"\^([0-9]{2,})", r"^{\1}"),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", ""),
        (r"\s*(?<![A-Za-z])(?:per ?cent|percentage|pct)(?![A-Za-z])|\\%", "%"),
        (r"(?<![\\A-Za-z])inf(?:inity|ty)?(?![A-Za-z])", r"\\infty "),
        (r"\\(le|ge)(?:q|qslant)(?![A-Za-z])", r"\\\1 "),
        (r"(?<![\\A-Za-z])sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt ?([0-9])(?![0-9])", r"\\sqrt{\1}"),
        (r"(?:(?<=^)|(?<=[(\[{,=])) *\+ *(?=[0-9.\\])", ""),
        (r"\s+", " "),
    )
]
_SPACING = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![A-Za-z0-9.]) | (?![A-Za-z0-9.])", ""),  # a space is kept where it parts words or numbers
        (r"\\frac ?([0-9]|\{[^{}]*\}) ?([0-9]|\{[^{}]*\})", r"\\frac{\1}{\2}"),
        (r"\\frac\{\{([^{}]*)\}\}", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\{\{([^{}]*)\}\}", r"\1{\2}"),
        (r"([\^_])\{([A-Za-z0-9])\}", r"\1\2"),
        (r"\.$", ""),
    )
]


def normal_form(answer: str) -> str:
    r"""The answer with one spelling for what can be spelled in several; different answers keep different forms.

    White space, dollar signs, `\left`, `\text{}`, `\dfrac`, signs of degree and a final full stop do not count; nor do
    the commas of thousands in a number (only where each has three digits after it), zeros around a decimal number, and
    the choice between Unicode and LaTeX. `1e-05` becomes `1\times10^{-5}`.
    """
    answer = _latex(answer)
    answer = _LETTER_AS_UNIT.sub(lambda unit: " " + _LONG_UNITS[unit[1].lower()], answer)
    answer = _E_NOTATION.sub(lambda number: rf"{number[1]}\times10^{{{int(number[2])}}}", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    thousands = _THOUSANDS.fullmatch(answer)
    if thousands:
        answer = thousands[1] + thousands[2].replace(",", "") + thousands[3]
    answer = _SPACED_THOUSANDS.sub(lambda number: number[0].replace(" ", ""), answer)
    for pattern, replacement in _SPACING:
        answer = pattern.sub(replacement, answer)
    return _number(answer.strip())


def _latex(answer: str) -> str:
    """Unicode's fractions, roots, superscripts and signs in LaTeX."""
    if answer.isascii():
        return answer
    answer = _FRACTION.sub(_latex_fraction, answer)
    answer = _SUPERSCRIPT.sub(lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", answer)
    answer = _ROOT.sub(_latex_root, answer)
    return answer.translate(_TRANSLATED)


def _latex_fraction(character: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", character[0]).partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}" if under else character[0]


def _latex_root(root: re.Match[str]) -> str:
    degree = "[3]" if root[1] == "\u221b" else ""
    return rf"\sqrt{degree}{{{next(part for part in root.groups()[1:] if part is not None)}}}"


def _number(answer: str) -> str:
    """007 and 7.0 and 7 are 7, and .50 is 0.5; other answers stay as they are."""
    match = _DECIMAL.fullmatch(answer)
    if match is None or not any(map(str.isdigit, answer)):
        return answer
    sign, whole, decimals = match[1], match[2] or "0", match[3]
    value = f"{whole}.{decimals}" if decimals else whole
    return value if value == "0" else sign + value
