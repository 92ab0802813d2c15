"""The gold answers of whole files against the checkers: `RLCREDIT_DATA=FOLDER python -m tests.gold_answers`.

Each gold answer must be right against itself; the gold answer of the next row, and of the row before, must be wrong,
unless the two are equal. Prints a row for each file, and every pair that counts as equal.
"""

import json
import os
from pathlib import Path

from rlcredit.tasks.checkers.choice import LETTERS, check_choice
from rlcredit.tasks.checkers.knights import check_knights
from rlcredit.tasks.checkers.mathematics import check_math

MATH_FILES = [
    "gsm8k_train",
    "gsm8k_test",
    "math500",
    "math_train",
    "dapo_math_5k",
    "aime24",
    "aime25",
    "olympiadbench_math_en",
]
CHOICE_FILES = ["arc_challenge_train", "arc_challenge_test", "crossthink_qa"]


def rows_of(name):
    path = Path(os.environ["RLCREDIT_DATA"]) / f"{name}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def boxes(answers):
    return [rf"\boxed{{{answer}}}" for answer in answers]


def wrong_against_itself(golds):
    """The gold answers that are wrong against themselves."""
    verdicts = check_math(boxes(golds), [{"answer": gold} for gold in golds])
    return [gold for gold, verdict in zip(golds, verdicts, strict=True) if not verdict.correct]


def neighbours(golds, step=1):
    """Pairs of different strings: each gold answer with the one `step` rows below; the last rows with the first."""
    return [(gold, other) for gold, other in zip(golds, golds[step:] + golds[:step], strict=True) if gold != other]


def right_pairs(pairs):
    """Those (gold, answer) in which the answer is right."""
    verdicts = check_math(boxes(other for _, other in pairs), [{"answer": gold} for gold, _ in pairs])
    return [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]


def _mathematics(name):
    golds = [str(row["answer"]) for row in rows_of(name)]
    wrong = wrong_against_itself(golds)
    below, above = neighbours(golds, 1), neighbours(golds, -1)
    right_below, right_above = right_pairs(below), right_pairs(above)
    print(f"| {name} | {len(golds)} | {len(golds) - len(wrong)} ", end="")
    print(f"| {len(below)} | {len(right_below)} | {len(above)} | {len(right_above)} |", flush=True)
    for kind, answers in (("wrong", wrong), ("equal", sorted({*right_below, *right_above}))):
        for answer in answers:
            print(f"  {kind}: {answer}", flush=True)


def _choice(name):
    rows = rows_of(name)
    right = sum(v.correct for v in check_choice(boxes(row["answer"] for row in rows), rows))
    others = [LETTERS[(LETTERS.index(row["answer"]) + 1) % len(row["choices"])] for row in rows]
    wrong = sum(v.correct for v in check_choice(boxes(others), rows))
    print(f"| {name} | {len(rows)} | {right:.0f} | {len(rows)} | {wrong:.0f} | | |", flush=True)


def _knights():
    rows = rows_of("kk_logic_train")
    texts = boxes(row["answer"] for row in rows)
    counts = [sum(v.correct for v in check_knights(t, rows)) for t in (texts, texts[1:] + texts[:1])]
    print(f"| kk_logic_train | {len(rows)} | {counts[0]:.0f} | {len(rows)} | {counts[1]:.0f} | | |", flush=True)


def main():
    for name in MATH_FILES:
        _mathematics(name)
    for name in CHOICE_FILES:
        _choice(name)
    _knights()


if __name__ == "__main__":
    main()
