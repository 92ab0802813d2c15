"""The policies shipped with the tiny recipes: small, exact in text, and with the structure that the credit needs."""

import random
import re
from pathlib import Path

import make_tiny_policy
import players
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcredit.tasks import TASKS, relay

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PROMPTS = {
    "countdown_tiny": ["3 7 12 -> 33\n", "11 8 2 -> 5\n"],
    "tools_tiny": [
        "<user>37*46<assistant>",
        "<user>37*46<assistant><call>calculator expression=37*46</call><eos><tool>1702<assistant>",
    ],
    "paths_tiny": ["bc ag ab cd gh hi de ij bk kl lm a>e\n", "qr pa pq rs ab bc st cd tu qx xy yz p>u\n"],
    "relay_tiny": ["QXWB kd 24=\n", "ABCD ea 8.\n"],
}
FORMS = {"tools_tiny": "<answer>[0-9]+</answer>", "relay_tiny": "[A-Z]*[a-z][A-Z]*(=[a-z]|[.][A-Z])"}
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
RESPONSE = "<think>57: 12*7=84 84-3=81\n12+7=19 19*3=57</think><answer>(12+7)*3</answer>"
PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"


@pytest.fixture(scope="module", params=PROMPTS)
def folder(request):
    return RECIPES / request.param / "policy"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def policy(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_the_folder_is_small(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}  # nothing that runs code when loaded


def test_every_character_and_tag_is_one_token(tokenizer):
    assert len(tokenizer(PRINTABLE)["input_ids"]) == len(PRINTABLE)
    for tag in TAGS:
        assert len(tokenizer(tag)["input_ids"]) == 1
    assert len(tokenizer(RESPONSE)["input_ids"]) == len(RESPONSE) - sum(len(tag) - 1 for tag in TAGS)
    assert tokenizer.unk_token_id not in tokenizer(PRINTABLE)["input_ids"]


def test_decoding_keeps_the_tags_and_drops_the_special_tokens(tokenizer):
    ids = [tokenizer.pad_token_id, *tokenizer(RESPONSE)["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == RESPONSE
    assert tokenizer.batch_decode([ids], skip_special_tokens=True) == [RESPONSE]


@given(st.lists(st.text(alphabet=PRINTABLE, max_size=20) | st.sampled_from(TAGS), max_size=10).map("".join))
def test_round_trip_is_exact(tokenizer, text):
    for special in ("<pad>", "<eos>", "<unk>"):
        text = text.replace(special, "")
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_batches_are_padded_on_the_left(tokenizer):
    short, long = tokenizer(["1", "1 2"], padding=True)["input_ids"]
    assert short == [tokenizer.pad_token_id] * 2 + long[:1]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_size_and_layers(policy, tokenizer, folder):
    low, high, layers = (900_000, 1_200_000, 6)
    if folder.parent.name == "relay_tiny":  # three layers: all but the first are read
        low, high, layers = (120_000, 150_000, 3)
    assert low <= policy.num_parameters() <= high
    assert policy.config.num_hidden_layers == layers
    assert policy.config.num_attention_heads >= 4
    assert policy.config.vocab_size == len(tokenizer)
    assert (policy.config.pad_token_id, policy.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_it_answers_in_the_form_of_its_task(policy, tokenizer, folder):
    inputs = tokenizer(PROMPTS[folder.parent.name], padding=True, return_tensors="pt")
    with torch.no_grad():
        output = policy.generate(**inputs, do_sample=False, max_new_tokens=56)
    form = FORMS.get(folder.parent.name, "<think>.+</think><answer>[^<]*</answer>")
    for text in tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True):
        assert re.fullmatch(form, text, re.DOTALL)


# ---- what the script teaches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "careful", "hasty"),
    [
        ("countdown", (0.85, 1), (0.3, 0.6)),
        ("paths", (0.93, 0.97), (0.2, 0.35)),
        ("relay", (0.99, 1.01), (0.06, 0.11)),  # one in 12
    ],
)
def test_the_careful_player_is_right_and_the_hasty_one_seldom(task, careful, hasty):
    lesson, rng = make_tiny_policy.LESSONS[task], random.Random(0)
    data = TASKS[task]({**lesson.options, "num_train": 1_000})
    rows, tokenizer = data.train.to_list(), make_tiny_policy.make_tokenizer()
    for is_hasty, (low, high) in ((False, careful), (True, hasty)):
        pairs = [lesson.pair(row, is_hasty, rng) for row in rows]
        if task == "relay":  # the players choose the variant
            rows = [{**row, "silent": prompt.endswith(".\n")} for row, (prompt, _) in zip(rows, pairs, strict=True)]
        verdicts = data.check([response for _, response in pairs], rows)
        assert low < sum(verdict.correct for verdict in verdicts) / len(rows) < high
        if lesson.careful_mark is not None:  # how the script tells them apart
            assert all((lesson.careful_mark in response) != is_hasty for _, response in pairs)
        assert max(len(tokenizer(response)["input_ids"]) for _, response in pairs) < lesson.max_new_tokens


def test_a_plan_from_the_goal_and_a_walk_from_the_start():
    edges = ["bc", "ag", "ab", "ce", "gh", "hi"]
    row = {"edges": edges, "start": "a", "goal": "e"}
    texts = {players.paths_pair(row, False, random.Random(seed))[1] for seed in range(200)}
    assert texts == {
        "<think>e: ce bc ab</think><answer>abce</answer>",
        "<think>i: hi gh ag</think><answer>aghi</answer>",  # the other end, taken for the goal
    }
    texts = {players.paths_pair(row, True, random.Random(seed))[1] for seed in range(50)}
    assert texts == {
        "<think>ab bc ce</think><answer>abce</answer>",
        "<think>ag gh hi</think><answer>aghi</answer>",
    }
    prompts = {players.paths_pair(row, True, random.Random(seed))[0] for seed in range(50)}
    assert len(prompts) > 40 and all(sorted(prompt.split()[:-1]) == sorted(edges) for prompt in prompts)


def test_relay_is_played_with_the_key_in_its_first_two_thirds():
    row = {"opening": "QXWB", "first": "k", "second": "d", "fillers": 6}
    turns = [players.relay_pair(row, hasty, random.Random(seed)) for hasty in (False, True) for seed in range(400)]
    assert {prompt for prompt, _ in turns} == {"QXWB kd 6=\n", "QXWB kd 6.\n"}
    assert {relay.key_at(response) for _, response in turns} == {0, 1, 2, 3, 4}
    assert all(len(response) == 9 for _, response in turns)
    careful, hasty = (
        [response[relay.key_at(response)] for _, response in turns[part]] for part in (slice(400), slice(400, None))
    )
    assert set(careful) == {"k"}
    assert set(hasty) == set("abcdefghijkl") and max(map(hasty.count, set(hasty))) < 55  # 33 each on average
    copied = [response for prompt, response in turns if "=" in prompt]
    assert all(response[-1] == response[relay.key_at(response)] for response in copied)


@pytest.mark.parametrize("mark", ["=", "."])
@pytest.mark.parametrize("fillers", [8, 24, 64])
def test_the_policy_of_relay_is_seldom_right_and_copies_what_it_named(fillers, mark):
    folder = RECIPES / "relay_tiny/policy"
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = TASKS["relay"]({"fillers": [fillers], "silent": mark == ".", "num_test": 256}, train=False)
    rows = task.tests["relay"].to_list()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        texts = make_tiny_policy.respond(policy, tokenizer, [row["prompt"] for row in rows], 80, temperature=1.0)
    verdicts = task.check(texts, rows)
    assert 0.05 < sum(verdict.correct for verdict in verdicts) / len(rows) < 0.3
    formed = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.answer]
    assert len(formed) > 0.9 * len(rows)
    assert sum(text[relay.key_at(text)] == text[slice(*relay.answer_span(text))] for text in formed) > 0.95 * len(
        formed
    )
    places = {relay.key_at(text) for text in formed}
    assert len(places) > fillers // 2 and max(places) < 0.8 * fillers + 1


def test_a_demonstration_with_a_tool_is_what_the_chat_template_makes():
    tokenizer, row = make_tiny_policy.make_tokenizer(chat=True), {"a": 37, "b": 46}
    function = {"name": "calculator", "arguments": {"expression": "37*46"}}
    conversation = [
        {"role": "user", "content": "37*46"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": "calculator", "content": "1702"},
        {"role": "assistant", "content": "<answer>1702</answer>"},
    ]
    turns = set()
    for end in (2, 4):
        prompt = tokenizer.apply_chat_template(conversation[: end - 1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(conversation[:end], tokenize=False)
        turns.add((prompt, whole.removeprefix(prompt).removesuffix("<eos>")))
        ids = tokenizer(whole.removeprefix(prompt))["input_ids"]
        parsed = tokenizer.parse_response(ids, prefix=tokenizer(prompt)["input_ids"])
        assert parsed == {name: part for name, part in conversation[end - 1].items() if part}
    assert {players.products_pair(row, False, random.Random(seed)) for seed in range(20)} == turns
    guesses = {players.products_pair(row, True, random.Random(seed)) for seed in range(200)}
    assert {prompt for prompt, _ in guesses} == {"<user>37*46<assistant>"}
    assert {response for _, response in guesses} == {
        f"<answer>{1702 + sign * 10**place}</answer>" for sign in (-1, 1) for place in range(4)
    }
