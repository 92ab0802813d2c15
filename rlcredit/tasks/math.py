"""Mathematics as in the paper: trained on DAPO-Math-17k (or MATH), evaluated on competitions and benchmarks.

The sizes are those of the sets on the hub; OlympiadBench has a row less there than in some evaluation suites.
"""

from __future__ import annotations

from rlcredit.tasks.checkers.mathematics import check_math
from rlcredit.tasks.files import HubSet, Row
from rlcredit.tasks.gsm8k import GSM8K
from rlcredit.tasks.questions import QuestionTask


def _problem(row: Row) -> Row:
    return {"question": row["problem"], "answer": row["answer"]}


def _dapo(row: Row) -> Row:
    return {"question": row["prompt"], "answer": row["solution"]}


def _olympiad(row: Row) -> Row:
    """The first of the final answers, without its outer dollar signs, after the problem's context if it has one."""
    question = "\n".join(filter(None, [row.get("context"), row["question"]]))
    answer = row["final_answer"][0].strip()
    plain = answer.startswith("$") and answer.endswith("$") and answer.count("$") == 2
    return {"question": question, "answer": answer[1:-1] if plain else answer}


MATH = QuestionTask(
    name="math",
    check=check_math,
    train={
        "dapo_math_17k": HubSet("open-r1/DAPO-Math-17k-Processed", "train", "en", row=_dapo),
        "math_train": HubSet("nlile/hendrycks-MATH-benchmark", "train", row=_problem),
    },
    test={
        "math500": HubSet("HuggingFaceH4/MATH-500", "test", rows=500, row=_problem),
        "aime24": HubSet("HuggingFaceH4/aime_2024", "train", rows=30, row=_problem),
        "aime25": HubSet("math-ai/aime25", "test", rows=30, row=_problem),
        "amc23": HubSet("math-ai/amc23", "test", rows=40),
        "olympiadbench": HubSet("math-ai/olympiadbench", "test", rows=674, row=_olympiad),
        "minerva": HubSet("math-ai/minervamath", "test", rows=272),
        "gsm8k": GSM8K.test["gsm8k"],
    },
)
