"""Checkers: is the answer of a completion right? The same ones in training (rewards) and in evaluation."""

from __future__ import annotations

from rlcredit.tasks.checkers.choice import check_choice
from rlcredit.tasks.checkers.exact import check_exact
from rlcredit.tasks.checkers.knights import check_knights
from rlcredit.tasks.checkers.mathematics import check_math
from rlcredit.tasks.checkers.verdict import Checker, Verdict

CHECKERS: dict[str, Checker] = {
    "math": check_math,
    "choice": check_choice,
    "knights": check_knights,
    "exact": check_exact,
}

__all__ = ["CHECKERS", "Checker", "Verdict"]
