"""GSM8K: grade-school mathematics in words (Cobbe et al. 2021, arXiv 2110.14168); answers are integers."""

from __future__ import annotations

from rlcredit.tasks.checkers.mathematics import check_math
from rlcredit.tasks.files import HubSet, Row
from rlcredit.tasks.questions import QuestionTask


def _row(row: Row) -> Row:
    """The answer stands after `####`, with commas in the thousands."""
    return {"question": row["question"], "answer": row["answer"].rpartition("####")[2].strip().replace(",", "")}


GSM8K = QuestionTask(
    name="gsm8k",
    check=check_math,
    train={"gsm8k_train": HubSet("openai/gsm8k", "train", "main", rows=7473, row=_row)},
    test={"gsm8k": HubSet("openai/gsm8k", "test", "main", rows=1319, row=_row)},
)
