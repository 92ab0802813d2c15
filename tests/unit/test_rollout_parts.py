"""Parts of a rollout that are made of tokens: their texts, the turns, and where the answer is."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from rlcredit import CreditGRPOConfig
from rlcredit.analysis.token_texts import tokens_within
from rlcredit.credit import Rollout
from rlcredit.credit.rollout import turns_of
from rlcredit.errors import InputError
from rlcredit.tasks.checkers.answers import answer_span, tag_span
from rlcredit.trainers.rollouts import RolloutMaker, refuse_unknown_answer
from tests import runs
from tests.unit.test_token_texts import byte_level, tokens_of


def rollout_of(completions: list[list[int]], needs: set[str], tool_mask: list[list[int]] | None = None) -> Rollout:
    """The parts of these completions to the prompt "é", whose first is padded on the left."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"eos_token": "<eos>"})
    pad = torch.nn.utils.rnn.pad_sequence
    prompt = torch.tensor(tokens_of(tokenizer, "é")).expand(len(completions), -1)
    batch = {
        "prompt_ids": torch.nn.functional.pad(prompt, (1, 0)),
        "prompt_mask": torch.nn.functional.pad(torch.ones_like(prompt), (1, 0)),
        "completion_ids": pad([torch.tensor(ids) for ids in completions], batch_first=True),
        "completion_mask": pad([torch.ones(len(ids)) for ids in completions], batch_first=True).long(),
        "credit_keys": torch.arange(len(completions))[:, None],
    }
    if tool_mask is not None:
        batch["tool_mask"] = pad([torch.tensor(mask) for mask in tool_mask], batch_first=True, padding_value=1)
    maker = RolloutMaker(frozenset(needs), Accelerator(cpu=True), tokenizer, tag_span)
    made = maker.rows_of(
        batch,
        None,
        logps_BT=None,
        log_sum_sq_BT=None,
        scores_BF=torch.ones(len(completions), 1),
        weights_F=torch.ones(1),
        steps_BT=None,
        inputs=[{}] * len(completions),
        generations=1,
    )
    return made.rollout


def test_texts_of_every_position():
    tokenizer = byte_level()
    rollout = rollout_of([tokens_of(tokenizer, "aé"), tokens_of(tokenizer, "b")], {"text"})
    assert rollout.text == [["", "", "é", "a", "", "é"], ["", "", "é", "b", "", ""]]


def test_the_answer_is_marked_to_the_byte():
    tokenizer = byte_level()
    end = len(tokenizer)  # <eos>, which the text of a completion does not have
    before, answer, after = "x<answer>", "é2", "</answer>"
    first = [*tokens_of(tokenizer, before), *tokens_of(tokenizer, answer), *tokens_of(tokenizer, after), end]
    rollout = rollout_of([first, tokens_of(tokenizer, "<answer>3")], {"answer"})
    marked = rollout.answer[0].nonzero()[:, 0].tolist()
    assert marked == [3 + len(before) + byte for byte in range(3)]  # é is two bytes
    assert not rollout.answer[1].any()  # no answer, since its tag is not closed


def test_an_answer_that_a_tool_wrote_is_none_of_the_models():
    tokenizer = byte_level()
    ids = tokens_of(tokenizer, "<answer>12</answer>")
    mask = [int(place != 9) for place in range(len(ids))]  # the 2 came from a tool
    rollout = rollout_of([ids, ids], {"answer", "turns"}, [mask, [1] * len(ids)])
    assert rollout.answer[0].nonzero()[:, 0].tolist() == [3 + 8]
    assert rollout.turns[0].tolist() == [-1] * 3 + [0] * 9 + [-1] + [1] * 9
    assert rollout.turns[1].tolist() == [-1] * 3 + [0] * 19


def test_turns_by_hand():
    response = torch.tensor([[0, 0, 1, 1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1], [0] * 9]).bool()
    assert turns_of(response).tolist() == [[-1, -1, 0, 0, -1, 1, -1, -1, 2], [-1, *[0] * 8], [-1] * 9]


@pytest.mark.parametrize(
    ("span", "within"),
    [
        ((0, 1), [1, 0, 0, 0, 0]),
        ((1, 3), [1, 1, 1, 0, 0]),  # "b" of the first, the character of the second and third
        ((2, 3), [0, 1, 1, 0, 0]),
        ((3, 3), [0, 0, 0, 0, 0]),
        ((3, 5), [0, 0, 0, 1, 0]),
    ],
)
def test_tokens_within_a_span(span, within):
    assert tokens_within(["ab", "", "é", "cd", ""], *span) == [bool(here) for here in within]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{ 12 } <answer>3</answer>", "12"),
        (r"\boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        ("<answer>1</answer> <answer> 2 </answer>", "2"),
        ("The answer is 7, I think.\n", "7, I think."),
        (r"\boxed{4", None),
        ("nothing", None),
    ],
)
def test_where_an_answer_stands(text, answer):
    span = answer_span(text)
    assert (None if span is None else text[slice(*span)]) == answer


ANSWER_ROWS = {"credit_fai_rows": "answer", "credit_fai_horizon": [0, -1], "credit_heads": "all"}


def test_a_task_that_does_not_know_is_refused(tmp_path):
    rows = runs.arguments(tmp_path, CreditGRPOConfig, **ANSWER_ROWS)
    strategy = runs.arguments(tmp_path, CreditGRPOConfig, credit_strategy="answer_attention", **ANSWER_ROWS)
    neither = runs.arguments(tmp_path, CreditGRPOConfig, credit_strategy="uniform", credit_fai_rows="answer")
    refuse_unknown_answer(rows, tag_span)
    refuse_unknown_answer(strategy, tag_span)
    refuse_unknown_answer(neither, None)
    for args, setting in ((rows, "credit_fai_rows: 'answer'"), (strategy, "credit_strategy: 'answer_attention'")):
        with pytest.raises(InputError, match=f"^{setting} needs the place of the answer, which the task does"):
            refuse_unknown_answer(args, None)
