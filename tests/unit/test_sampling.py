"""Samples that depend on problem and seed alone, and the store that keeps them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import chisquare
from transformers import GenerationConfig

from rlcredit.evaluation.decoding import left_out, note_of
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.evaluation.samples import SampleBatch, batches, draw, sample_store, table
from rlcredit.evaluation.sampling import Sampling, complete
from rlcredit.evaluation.store import Store
from rlcredit.tasks.checkers.verdict import Verdict
from tests import tiny

PROMPTS = ["ab 1", "a", "what is 12 + 3", "b b b", "7"]


@pytest.fixture(scope="module")
def policy():
    model = tiny.model_of("llama", spread=0.15)
    model.generation_config.eos_token_id = 1
    return model


@pytest.fixture(scope="module")
def renderer():
    return PromptRenderer(tiny.tokenizer())


def encode(renderer, prompts):
    return {"input_ids": torch.tensor(renderer.ids(prompts))}


def streams(*problems, sample=0):
    return [(problem, sample) for problem in problems]


def test_a_sample_does_not_depend_on_what_else_is_in_the_batch(policy, renderer):
    sampling = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
    whole = complete(policy, renderer, PROMPTS, streams(*range(5)), sampling)
    for problem in range(5):
        assert complete(policy, renderer, [PROMPTS[problem]], streams(problem), sampling) == [whole[problem]]
    turned = complete(policy, renderer, PROMPTS[::-1], streams(*range(5))[::-1], sampling)
    assert turned == whole[::-1]


def test_samples_seeds_and_problems_differ(policy, renderer):
    sampling = Sampling(max_new_tokens=12, temperature=1.0)
    found = {
        complete(policy, renderer, ["a"], [stream], Sampling(12, 1.0, seed=seed))[0].text
        for seed in (0, 1)
        for stream in ((0, 0), (0, 1), (1, 0))
    }
    assert len(found) == 6
    assert complete(policy, renderer, ["a"], [(0, 1)], sampling)[0].text in found


def test_nothing_is_drawn_from_the_global_streams_and_the_mode_is_left_alone(policy, renderer):
    policy.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    complete(policy, renderer, PROMPTS, streams(*range(5)), Sampling(5, 1.0))
    assert torch.equal(before, torch.get_rng_state()) and policy.training
    policy.eval()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, None), ({"temperature": 0.5}, None), ({"top_k": 4}, 4), ({"top_p": 0.5}, "nucleus")],
    ids=str,
)
def test_tokens_come_with_the_models_probabilities(policy, renderer, settings, kept):
    draws = 4_000
    sampling = Sampling(1, **{"temperature": 1.0, **settings})
    found = complete(policy, renderer, ["ab 12"] * draws, [(0, sample) for sample in range(draws)], sampling)
    with torch.no_grad():
        logits = policy(**encode(renderer, ["ab 12"])).logits[0, -1] / sampling.temperature
    expected = logits.double().softmax(-1)
    order = expected.argsort(descending=True)
    if kept == "nucleus":
        kept = int((expected[order].cumsum(0) < 0.5).sum()) + 1
    if kept:
        expected[order[kept:]] = 0
        expected /= expected.sum()
    texts = [renderer.tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tiny.WORDS))]
    counts = np.zeros(len(tiny.WORDS))
    for completion in found:
        counts[texts.index(completion.text)] += 1
    expected = np.array([sum(expected[j].item() for j, t in enumerate(texts) if t == text) for text in texts])
    first = [texts.index(text) == place for place, text in enumerate(texts)]  # pad and eos both decode to nothing
    counts, expected = counts[first], expected[first] * draws
    assert counts[expected == 0].sum() == 0
    common = expected > 8
    assert common.sum() >= 3
    rest = [counts[~common].sum()], [expected[~common].sum()]
    enough = rest[1][0] > 8
    observed = np.concatenate([counts[common], rest[0] if enough else []])
    wanted = np.concatenate([expected[common], rest[1] if enough else []])
    assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_greedy_is_the_models_own(policy, renderer):
    found = complete(policy, renderer, PROMPTS, streams(*range(5)), Sampling(10))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        inputs = encode(renderer, [prompt])
        ids = policy.generate(**inputs, max_new_tokens=10, do_sample=False, eos_token_id=1, pad_token_id=0)
        answer = renderer.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == completion.text


def test_length_and_truncation(policy, renderer, monkeypatch):
    written = torch.tensor([[5, 6, 1, 0, 0], [5, 6, 7, 8, 1], [5, 6, 7, 8, 9]])
    monkeypatch.setattr(
        policy, "generate", lambda input_ids, **_: torch.cat([input_ids, written], dim=1), raising=True
    )
    found = complete(policy, renderer, ["a", "b", "c"], streams(0, 1, 2), Sampling(5))
    assert [(c.tokens, c.truncated) for c in found] == [(3, False), (5, False), (5, True)]
    assert [c.text for c in found] == [
        renderer.tokenizer.decode(ids) for ids in ([5, 6], [5, 6, 7, 8], [5, 6, 7, 8, 9])
    ]


# Batches and the store


def rows() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, "answer": ["1", "2", "3", "4", "5"]})


def check(texts, found):
    return [Verdict(float(len(text) % 2), text[:1] or None) for text in texts]


def test_batches_hold_every_sample_once(renderer):
    cut = batches(rows(), renderer, samples=3, batch_size=4)
    assert [len(batch.pairs) for batch in sorted(cut, key=lambda b: -len(b.pairs))] == [4, 4, 4, 3]
    assert sorted(pair for batch in cut for pair in batch.pairs) == [(p, s) for p in range(5) for s in range(3)]
    assert [batch.number for batch in cut] == [0, 1, 2, 3]
    assert cut == batches(rows(), renderer, samples=3, batch_size=4)


def test_a_stopped_evaluation_draws_what_is_missing_and_ends_the_same(policy, renderer, tmp_path):
    cut = batches(rows(), renderer, samples=3, batch_size=4)
    drawn = []

    def go(store: Store, stop_after: int | None = None) -> None:
        for batch in store.missing(cut)[:stop_after]:
            store.keep(batch, draw(policy, renderer, rows(), batch, Sampling(8, 1.0), check))
            drawn.append(batch.number)

    straight = sample_store(tmp_path / "a")
    go(straight)
    straight.close(cut)
    drawn.clear()
    go(sample_store(tmp_path / "b"), stop_after=2)
    assert not sample_store(tmp_path / "b").is_complete
    go(sample_store(tmp_path / "b"))
    sample_store(tmp_path / "b").close(cut)
    assert drawn == [0, 1, 2, 3]
    assert (tmp_path / "a/samples.parquet").read_bytes() == (tmp_path / "b/samples.parquet").read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["samples.parquet"]
    assert sample_store(tmp_path / "b").missing(cut) == []


def test_a_part_is_whole_or_not_there(tmp_path, monkeypatch):
    def dies(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlcredit.evaluation.store.os.replace", dies)
    store, batch = sample_store(tmp_path), SampleBatch(0, [(0, 0)])
    with pytest.raises(KeyboardInterrupt):
        store.keep(batch, [record(0, 0)])
    assert store.missing([batch]) == [batch]


def record(problem, sample, correct=1.0, answer="x"):
    return {
        "problem": problem,
        "sample": sample,
        "id": str(problem),
        "question": "q",
        "completion": "c",
        "answer": answer,
        "gold": "x",
        "correct": correct,
        "tokens": 10 * problem + sample,
        "truncated": bool(sample),
    }


def test_the_table_is_in_order():
    found = table([record(1, 1, 0.0, None), record(0, 1), record(1, 0), record(0, 0, 0.0, "y")])
    assert found.correct_PS.tolist() == [[0, 1], [1, 0]]
    assert found.answers_PS == [["y", "x"], ["x", None]]
    assert found.tokens_PS.tolist() == [[0, 1], [10, 11]] and found.truncated_PS.tolist() == [[False, True]] * 2


LEAKS = {
    "repetition_penalty": 1.9,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "min_new_tokens": 12,
    "guidance_scale": 3.0,
    "stop_strings": ["a", "1", "b"],
    "suppress_tokens": list(range(8, 20)),
    "forced_eos_token_id": 1,
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_of_the_models_generation_config_changes_a_sample(policy, renderer, name, temperature):
    sampling = Sampling(12, temperature)
    plain = complete(policy, renderer, PROMPTS, streams(*range(5)), sampling)
    before = policy.generation_config
    policy.generation_config = GenerationConfig(**{**before.to_diff_dict(), name: LEAKS[name]})
    try:
        assert complete(policy, renderer, PROMPTS, streams(*range(5)), sampling) == plain
        assert getattr(policy.generation_config, name) == LEAKS[name]  # what is saved with the model stays
        assert left_out(policy.generation_config) == {name: LEAKS[name]}
        (line,) = note_of(policy.generation_config, "evaluation")
        assert name in line and str(LEAKS[name])[:20] in line
    finally:
        policy.generation_config = before


def test_a_generation_config_that_changes_nothing_is_not_spoken_of(policy):
    neutral = GenerationConfig(temperature=1.0, top_p=1.0, num_beams=1, eos_token_id=1, repetition_penalty=1.0)
    assert note_of(neutral, "evaluation") == note_of(policy.generation_config, "evaluation") == []


TEMPLATE = "{% if enable_thinking is defined and enable_thinking is false %}1{% endif %}{{ messages[0].content }}"


def test_the_chat_template_gets_its_settings():
    conversations = [[{"role": "user", "content": "ab"}], [{"role": "user", "content": "c"}]]
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    plain, told = PromptRenderer(tokenizer), PromptRenderer(tokenizer, {"enable_thinking": False})
    assert (plain.texts(conversations), told.texts(conversations)) == (["ab", "c"], ["1ab", "1c"])
    assert (plain.lengths(conversations), told.lengths(conversations)) == ([2, 1], [3, 2])
