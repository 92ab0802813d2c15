"""Rewards within a response: what a reward function may return, where it lands, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlcredit import CreditGRPOConfig
from rlcredit.errors import InputError
from rlcredit.rewards.guards import GuardedReward
from rlcredit.rewards.parts import landings, placed
from rlcredit.rewards.rehearsal import rehearse
from rlcredit.rewards.run_rewards import GuardedRewards
from rlcredit.tasks.countdown import calculations_reward, load
from tests import runs


@functools.cache
def of_bytes() -> PreTrainedTokenizerFast:
    """One token a byte, so that a character may be several tokens; `<end>` is special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({"<end>": 0} | {letter: i + 1 for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")


def ids_of(text: str) -> list[int]:
    return of_bytes()(text + "<end>")["input_ids"]


def test_numbers_a_token():
    assert landings([0.5, None, 0, -2], "abcd", [7, 7, 7, 7], None) == [(0, 0.5), (2, 0.0), (3, -2.0)]
    assert landings([None] * 2, "ab", [7, 7], None) == []


def test_spans_land_at_the_token_that_completes_their_last_character():
    text = "né 🙂 ok"  # bytes: n, 2 of é, space, 4 of the face, space, o, k
    wanted = [(0, 1.0), (2, 2.0), (7, 3.0), (10, 4.0)]
    spans = [(0, 1, 1.0), (1, 2, 2.0), (2, 4, 3.0), (4, 7, 4.0)]
    assert landings(spans, text, ids_of(text), of_bytes()) == wanted
    assert landings(spans, [{"role": "assistant", "content": text}], ids_of(text), of_bytes()) == wanted


def test_spans_of_random_texts_end_where_their_text_is_written():
    draw = random.Random(0)
    for _ in range(100):
        text = "".join(draw.choice("ab é🙂\n=") for _ in range(draw.randint(1, 20)))
        ids, end = ids_of(text), draw.randint(1, len(text))
        ((place, _),) = landings([(0, end, 1)], text, ids, of_bytes())
        assert of_bytes().decode(ids[: place + 1], skip_special_tokens=True) == text[:end]


def test_a_text_behind_thinking_that_the_template_took_out():
    ids = ids_of("ab|ab")
    assert landings([(0, 1, 1.0)], [{"role": "assistant", "content": "ab"}], ids, of_bytes()) == [(3, 1.0)]


@pytest.mark.parametrize(
    ("parts", "completion", "said"),
    [
        ([1.0, 2.0], "abc", "2 numbers for a completion of 4 tokens; return one for each token of completion_ids"),
        ([1.0, "x", 1.0, 1.0], "abc", "'x' as the reward of a step; return numbers"),
        ([(0, 1)], "abc", r"\(0, 1\) as the reward of a step; return \(start, end, reward\)"),
        ([(0, 1, None)], "abc", "None as the reward of a step; return numbers"),
        ([(2, 4, 1.0)], "abc", r"the span \(2, 4\) of a text of 3 characters; return 0 <= start < end"),
        ([(1, 1, 1.0)], "abc", "return 0 <= start < end"),
        ([(0, 1, 1.0)], "other", "spans of a completion whose text is not that of its tokens; return one number for"),
        ([(0, 1, 1.0)], [{"content": "ab"}, {"content": "c"}], "is not one message with a text; return one number"),
    ],
)
def test_what_is_no_reward_of_steps(parts, completion, said):
    guard = GuardedReward(lambda **kwargs: [parts], tokenizer=of_bytes())
    guard(prompts=["p"], completions=[completion], completion_ids=[ids_of("abc")])
    assert isinstance(guard.error, InputError)
    with pytest.raises(InputError, match=rf"^reward '<lambda>' returned .*{said}"):
        raise guard.error


def score(completions, **kwargs):
    """A number, numbers a token, spans, an array, nothing, and steps of which one is no number."""
    return [
        2.0,
        [1.0, None, 0.5],
        [(0, 1, 1.0), (1, 3, -3.0)],
        np.array([0.25, 0.25, 0.25]),
        None,
        [1.0, float("nan")],
    ]


async def score_in_turn(completions, **kwargs):
    await asyncio.sleep(0)
    return score(completions)


@pytest.mark.parametrize("reward", [score, score_in_turn])
def test_the_sum_is_the_reward_and_the_steps_are_kept(tmp_path, reward):
    args = runs.arguments(tmp_path, CreditGRPOConfig)
    rewards = GuardedRewards([reward], None, args, environments=False, extra_columns=False)
    rewards.use(of_bytes())
    (guard,) = rewards.functions
    ids = [ids_of(text)[:3] for text in ("abc", "abc", "abc", "abc", "abc")] + [ids_of("a")]
    found = guard(prompts=["p"] * 6, completions=["abc"] * 5 + ["a"], completion_ids=ids)
    found = asyncio.run(found) if reward is score_in_turn else found
    assert found[:5] == [2.0, 1.5, -2.0, 0.75, None] and np.isnan(found[5]) and guard.failed == {5}
    scores = torch.tensor([[torch.nan if x is None else x] for x in found])
    landed = rewards.landings(scores, torch.tensor([0.5]), [3, 3, 3, 3, 3, 2])
    assert landed == [
        [(2, 1.0)],
        [(0, 0.5), (2, 0.25)],
        [(0, 0.5), (2, -1.5)],
        [(0, 0.125), (1, 0.125), (2, 0.125)],
        [],
        [],
    ]


def test_steps_end_at_tokens_that_the_model_wrote():
    written = torch.tensor([[0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    landed = [[(0, 1.0), (3, 2.0), (4, 4.0), (5, 0.0)], [(2, 1.0)], [(1, 1.0), (5, 2.0)]]
    rewards, ends = placed(landed, written)
    assert rewards.tolist() == [[0, 1, 6, 0, 0, 0], [0] * 6, [0, 1, 2, 0, 0, 0]]
    assert ends.int().tolist() == [[0, 1, 1, 0, 0, 1], [0] * 6, [0, 1, 1, 0, 0, 0]]


def test_the_rehearsal_calls_with_tokens_of_the_text():
    def by_token(completions, completion_ids, **kwargs):
        assert of_bytes().batch_decode(completion_ids) == completions
        return [[0.0] * len(ids) for ids in completion_ids]

    def too_few(completions, completion_ids, **kwargs):
        return [[0.0] * (len(ids) - 1) for ids in completion_ids]

    row = {"prompt": "1+1="}
    assert rehearse([by_token], row, of_bytes()) == []
    with pytest.raises(InputError, match="return one for each token of completion_ids"):
        rehearse([too_few], row, of_bytes())


def test_calculations_of_countdown():
    text = "<think>57: 7*12=84 84-3=80\n(3+7)*2 = 20 5=5 1/0=1</think><answer>1+1=3</answer>"
    (steps,) = calculations_reward([text], penalty=0.2)
    assert [(text[start:end], reward) for start, end, reward in steps] == [
        ("7*12=84", 0.0),
        ("84-3=80", -0.2),
        ("(3+7)*2 = 20", 0.0),
        ("1/0=1", -0.2),
    ]
    small = {"num_train": 2, "num_test": 0}
    assert len(load(small).rewards) == 1
    task = load(small | {"step_penalty": 0.2})
    assert [reward.__name__ for reward in task.rewards] == ["countdown_reward", "calculations_reward"]
    assert task.rewards[1](completions=[text], numbers=[[1]], target=[2])[0] == steps
    with pytest.raises(InputError, match=r"step_penalty: -1 is not possible; write a number of 0 or more"):
        load(small | {"step_penalty": -1})
