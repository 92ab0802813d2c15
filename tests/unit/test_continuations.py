"""Continuations of a policy: what is drawn, what is rewarded, and how close the estimates come to exact values."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import FalconH1Config, FalconH1ForCausalLM

from rlcredit.evaluation.continuations import Continuations, Cost, Prefix, by_model
from rlcredit.evaluation.sampling import Sampling, continue_ids
from tests import tiny

END = 1
PROMPT = (13, 14, 5)


@pytest.fixture(scope="module")
def policy():
    return tiny.model_of("llama", spread=0.15)


class Counting:
    """A generator that writes the continuation's number until `left` is used up, and keeps what it was asked."""

    def __init__(self):
        self.batches = []

    def __call__(self, draws):
        self.batches.append(list(draws))
        return [[sample + 2] * 9 for _, sample in draws]


def total(problems, responses):
    return [10 * problem + sum(response) for problem, response in zip(problems, responses, strict=True)]


def test_by_hand():
    """Two continuations a prefix, of responses of up to three tokens; the reward is the sum of the tokens."""
    generate = Counting()
    made = Continuations(generate, total, samples=2, ends=[END], batch_size=3)
    start, later, ended = Prefix(4, (7,), (), 3), Prefix(4, (7,), (5, 5), 1), Prefix(4, (7,), (5, END), 1)
    full, other = Prefix(4, (7,), (5, 5, 5), 0), Prefix(6, (8,), (5, 5), 1)
    found = made.rewards([start, later, start, ended, full, other])
    assert found.tolist() == [
        [40 + 3 * 2, 40 + 3 * 3],
        [40 + 10 + 2, 40 + 10 + 3],
        [40 + 3 * 2, 40 + 3 * 3],
        [46, 46],  # nothing is drawn: the response has ended
        [55, 55],  # nor here: it is as long as it may be
        [60 + 10 + 2, 60 + 10 + 3],
    ]
    assert made.cost == Cost(6, 2 * 3 + 2 * 1 + 2 * 1)
    assert [len(batch) for batch in generate.batches] == [3, 3]
    assert sorted(draw for batch in generate.batches for draw in batch) == sorted(
        (prefix, sample) for prefix in (start, later, other) for sample in range(2)
    )
    made.rewards([later])
    assert made.cost == Cost(8, 12)
    assert made.rewards([]).shape == (0, 2)


def test_processes_draw_as_many_batches_as_each_other():
    generate = Counting()
    made = Continuations(generate, total, samples=2, ends=[END], batch_size=2, rounds=lambda batches: 3)
    made.rewards([Prefix(0, (7,), (), 2)])
    assert [len(batch) for batch in generate.batches] == [2, 0, 0]
    assert made.cost == Cost(2, 4)


def test_a_sample_depends_on_seed_problem_tokens_and_number_alone(policy):
    def responses(prefixes, batch_size=7, seed=3):
        kept = {}

        def score(problems, texts):
            kept.update(zip(range(len(texts)), texts, strict=True))
            return [0.0] * len(texts)

        sampling = Sampling(0, temperature=1.0, seed=seed)
        Continuations(
            by_model(policy, sampling, [END], 0), score, samples=3, ends=[END], batch_size=batch_size
        ).rewards(prefixes)
        return [[kept[3 * row + sample] for sample in range(3)] for row in range(len(prefixes))]

    prefixes = [Prefix(n % 3, PROMPT[: n + 1], (3,) * n, 12 - n) for n in range(3)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = responses(prefixes)
    assert torch.equal(before, torch.get_rng_state())
    assert responses(prefixes[::-1], batch_size=2) == whole[::-1]
    assert [responses([prefix])[0] for prefix in prefixes] == whole
    others = responses([prefixes[1]._replace(problem=8)]), responses([prefixes[1]], seed=4)
    assert len({str(found) for found in (whole[1], others[0][0], others[1][0])}) == 3
    assert len(set(map(str, whole[0]))) == 3
    for prefix, row in zip(prefixes, whole, strict=True):
        for response in row:
            assert tuple(response[: len(prefix.response)]) == prefix.response
            assert len(response) == 12 or response.index(END) == len(response) - 1


def test_no_batch_but_a_pass_where_others_have_more_to_draw(policy):
    assert by_model(policy, Sampling(0, 1.0), [END], 0)([]) == []


def exact_value(policy, ids, left, kept, reward):
    """The expected reward of a policy that draws among its `kept` most likely tokens: all its responses, summed up."""
    if left == 0 or ids[-1] == END:
        return reward(ids)
    with torch.no_grad():
        logits = policy(torch.tensor([ids])).logits[0, -1].double()
    top = logits.topk(kept)
    chances = top.values.softmax(-1).tolist()
    return sum(
        p * exact_value(policy, [*ids, token], left - 1, kept, reward)
        for p, token in zip(chances, top.indices.tolist(), strict=True)
    )


def test_estimates_meet_exact_values(policy):
    """Responses of up to three tokens among four: 64 at most, summed up. A reward of 0 or 1 has, over K continuations,
    the standard deviation sqrt(V (1 - V) / K); five of them leave a chance of less than one in a million a value."""
    kept, most, samples = 4, 3, 3_000

    def reward(ids):
        return float(sum(ids[len(PROMPT) :]) % 3 == 0)

    def score(problems, responses):
        return [reward([*PROMPT, *response]) for response in responses]

    generate = by_model(policy, Sampling(0, temperature=1.0, top_k=kept), [END], 0)
    with torch.no_grad():
        first, second = policy(torch.tensor([PROMPT])).logits[0, -1].topk(2).indices.tolist()
    responses = [(), (first,), (second,), (first, second)]
    made = Continuations(generate, score, samples=samples, ends=[END], batch_size=1_000)
    found = made.rewards([Prefix(0, PROMPT, response, most - len(response)) for response in responses]).mean(1)
    exact = [exact_value(policy, [*PROMPT, *response], most - len(response), kept, reward) for response in responses]
    assert len({round(value, 3) for value in exact}) == len(exact)
    for estimate, value in zip(found, exact, strict=True):
        assert 0 < value < 1
        assert abs(estimate - value) < 5 * math.sqrt(value * (1 - value) / samples)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "qwen3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_that_are_read_once_are_continued_alike(family, temperature):
    """Equal texts share one pass over their tokens; mistral's and gemma 2's windows are shorter than the texts."""
    policy = tiny.model_of(family, spread=0.15)
    read = []
    hook = policy.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    texts = [(13, 14, 5), (7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 19, 20), (13, 14, 5), (13, 14, 5), (4, 5)] * 3
    sampling = Sampling(12, temperature, seed=3)
    streams = [(0, 0, sample) for sample in range(len(texts))]
    drawn = {}
    for once in (False, True):
        read.clear()
        drawn[once] = continue_ids(policy, texts, streams, sampling, [END], 0, read_once=once), sum(read)
    hook.remove()
    assert drawn[True][0] == drawn[False][0]
    assert len({tuple(ids) for ids in drawn[True][0]}) > (2 if temperature == 0 else 8)
    # Of 15 rows of 12, 11 tokens are read three times in place of 15.
    assert drawn[False][1] - drawn[True][1] == 15 * 11 - 3 * 11


def test_models_whose_memory_is_not_rows_of_keys_read_every_text():
    config = FalconH1Config(**tiny.SHAPE, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4)
    torch.manual_seed(0)
    policy = FalconH1ForCausalLM(config).eval()
    texts, streams = [(13, 14, 5)] * 4, [(0, 0, sample) for sample in range(4)]
    both = [continue_ids(policy, texts, streams, Sampling(6, 1.0), [END], 0, read_once=once) for once in (False, True)]
    assert both[0] == both[1]
