"""Multiple choice: CrossThink-QA (the paper's; Akter et al. 2025, arXiv 2504.13941) and ARC-Challenge.

Nemotron-CrossThink has no split of its own for evaluation, and the paper does not say which questions it held out:
`hold_out` takes some out of the training set, or `test` names a file [ours]. Its rows are not all sound (answers that
name no option, repeated options): `skip_bad_rows: true` leaves those out and lists them.
"""

from __future__ import annotations

import re

from rlcredit.errors import InputError
from rlcredit.tasks.checkers.choice import LETTERS, check_choice
from rlcredit.tasks.files import HubSet, Row
from rlcredit.tasks.questions import QuestionTask

_OPTION = re.compile(r"^\s*\(?([A-Z])[.:)]\s*(.+)$")


def _arc(row: Row) -> Row:
    """Options are labelled A to E, or 1 to 5 in some rows."""
    place = row["choices"]["label"].index(row["answerKey"])
    return {"question": row["question"], "choices": list(row["choices"]["text"]), "answer": LETTERS[place]}


def _crossthink(row: Row) -> Row:
    """The question and its options share one text; the answer is a letter, or an option as it stands there."""
    prompt = row["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    stem, choices = split_options(text)
    answer = str(row["reward_model"]["ground_truth"]).strip()
    labelled = _OPTION.match(answer)
    letter = labelled[1] if labelled else answer.strip("() .")
    if labelled and labelled[2].strip() != choices[LETTERS.index(letter)]:
        raise InputError(f"answer {answer[:40]!r} is not the option of that letter")
    return {"question": stem, "choices": choices, "answer": letter}


def split_options(text: str) -> tuple[str, list[str]]:
    """A question and the options at its end: lines lettered A, B, ... without a gap, `A: `, `A. `, `A) ` or `(A) `.

    Raises: InputError if there are fewer than two of them, or two are equal.
    """
    lines = text.rstrip().split("\n")
    start = next((n for n in reversed(range(len(lines))) if (m := _OPTION.match(lines[n])) and m[1] == "A"), None)
    options = [_OPTION.match(line) for line in lines[start:]] if start is not None else []
    choices = [match[2].strip() for match in options if match]
    letters = "".join(match[1] for match in options if match)
    if len(choices) < 2 or len(choices) != len(options) or letters != LETTERS[: len(choices)]:
        raise InputError("the question does not end with options in lines lettered A, B, ...")
    if len(set(choices)) != len(choices):
        raise InputError("an option is repeated")
    return "\n".join(lines[:start]).strip(), choices


QA = QuestionTask(
    name="qa",
    check=check_choice,
    train={
        "crossthink_qa": HubSet("nvidia/Nemotron-CrossThink", "train_qa", row=_crossthink),
        "arc_train": HubSet("allenai/ai2_arc", "train", "ARC-Challenge", rows=1119, row=_arc),
    },
    test={"arc": HubSet("allenai/ai2_arc", "test", "ARC-Challenge", rows=1172, row=_arc)},
    answer_form="The final answer is the letter of one option.",
)
