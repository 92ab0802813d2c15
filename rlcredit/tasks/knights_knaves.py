"""Knights and knaves (Xie et al. 2024, arXiv 2410.23123): who always tells the truth, and who always lies?

Puzzles of three to seven people, as Logic-RL trains on (arXiv 2502.14768).
"""

from __future__ import annotations

from rlcredit.tasks.checkers.knights import check_knights
from rlcredit.tasks.files import HubSet, Row
from rlcredit.tasks.questions import QuestionTask

_SPLITS = "3ppl+4ppl+5ppl+6ppl+7ppl"


def _row(row: Row) -> Row:
    people = zip(row["names"], row["solution"], strict=True)
    return {
        "question": row["quiz"],
        "answer": "\n".join(f"{name} is a {'knight' if truthful else 'knave'}" for name, truthful in people),
    }


KNIGHTS_KNAVES = QuestionTask(
    name="knights_knaves",
    check=check_knights,
    train={"knights_knaves_train": HubSet("K-and-K/knights-and-knaves", _SPLITS, "train", row=_row)},
    test={"knights_knaves": HubSet("K-and-K/knights-and-knaves", _SPLITS, "test", rows=500, row=_row)},
    answer_form="Name everyone in it: Alice is a knight, Bob is a knave.",
)
