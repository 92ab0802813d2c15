"""The analysis: what one pass shows, planted rhythms, maps against eager attention, what is left out and refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rlcredit.analysis import build as building
from rlcredit.analysis.build import sample_of
from rlcredit.analysis.couplings import APART, SHARED, Series, couplings
from rlcredit.analysis.reading import MapRoom, Reading, apart_heads, opening_first, read
from rlcredit.analysis.report.packing import unpack
from rlcredit.analysis.responses import Question, Response, read_completions, read_prompts, usable, written
from rlcredit.analysis.tables import findings
from rlcredit.analysis.token_texts import token_texts
from rlcredit.attention import analyze, analyze_thirds, mean_maps, read_everything
from rlcredit.attention.stream import Block, statistics_of_blocks
from rlcredit.cli import main
from rlcredit.config import recipes_root
from rlcredit.credit import CreditArguments, assign_credit
from rlcredit.errors import InputError
from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.runs.folder import read_run
from rlcredit.runs.settings import differing
from rlcredit.signals import HeadStatistics, group_heads, signals_of_groups
from rlcredit.stats.estimates import Estimate
from tests import tiny
from tests.policies import save_rows

POLICY = str(recipes_root() / "countdown_tiny/policy")
ARGS = CreditArguments(credit_fai_horizon=[0, -1])
PROMPT, LENGTH = 9, 25


def response() -> Response:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 30, (PROMPT + LENGTH,), generator=generator).tolist()
    return Response("r", "p", ids[:PROMPT], ids[PROMPT:])


def batch_of(entry: Response) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[*entry.prompt_ids, *entry.ids]])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, len(entry.prompt_ids) :] = True
    return ids, mask


# One pass


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_maps_are_the_means_of_eager_attention(family):
    entry = response()
    ids, mask = batch_of(entry)
    signals = analyze(tiny.model_of(family), ids, torch.ones_like(ids), mask, ARGS)
    wanted_LH = ~signals.local_heads[0]
    seen: dict[tuple[int, int], torch.Tensor] = {}
    maps = mean_maps(
        tiny.model_of(family),
        ids,
        mask,
        signals,
        wanted_LH,
        lambda row, head, map_TT: seen.update({(row, head): map_TT}),
    )
    attentions = tiny.model_of(family, "eager")(ids, output_attentions=True).attentions
    maps_LHNN = torch.stack([attentions[layer][0] for layer in signals.layers])
    for heads, shown in zip((signals.local_heads, signals.global_heads), maps, strict=True):
        expected = maps_LHNN[heads[0]].mean(0)[PROMPT:, PROMPT:]
        assert torch.allclose(shown, expected, rtol=tiny.SCORE_ERROR)
        assert shown.triu(1).abs().max() == 0 and shown.max() > 0.01
    assert list(map(list, seen)) == wanted_LH.nonzero().tolist()
    for (row, head), shown in seen.items():
        assert torch.allclose(shown, maps_LHNN[row, head, PROMPT:, PROMPT:], rtol=tiny.SCORE_ERROR, atol=1e-6)


def test_a_reading_keeps_the_maps_of_single_heads_packed():
    model, entry = tiny.model_of("llama"), response()
    reading = read(model, entry, ARGS, temperature=1.0, room=MapRoom())
    attentions = tiny.model_of("llama", "eager")(batch_of(entry)[0], output_attentions=True).attentions
    assert reading.head_maps is not None
    for layer, row in zip(reading.signals.layers, reading.head_maps, strict=True):
        for head, packed in enumerate(row):
            expected = attentions[layer][0, head, PROMPT:, PROMPT:].detach().numpy()
            assert packed is not None and np.allclose(unpack(packed), expected, atol=0.017 * packed["most"])
    assert read(model, entry, ARGS, temperature=1.0).head_maps is None


def test_the_response_that_a_page_opens_with_is_read_first():
    responses = [replace(response(), correct=correct, finished=True) for correct in (False, True, True)]
    assert opening_first(responses) == [1, 0, 2]
    assert opening_first([]) == []


def test_one_pass_gives_what_the_separate_ones_do():
    model, entry = tiny.model_of("llama"), response()
    ids, mask = batch_of(entry)
    reading = read(model, entry, ARGS, temperature=1.0)
    signals = analyze(model, ids, torch.ones_like(ids), mask, ARGS, entropy=True)
    assert np.allclose(reading.series.waad_T, signals.waad[0, PROMPT:], equal_nan=True)
    assert np.allclose(reading.series.fai_T, signals.fai[0, PROMPT:], equal_nan=True)
    assert np.allclose(reading.series.entropy_T, signals.entropy[0, PROMPT:])
    receiver = analyze(
        model, ids, torch.ones_like(ids), mask, CreditArguments(**{**vars(ARGS), "credit_heads": "receiver"})
    )
    assert np.allclose(reading.series.receiver_fai_T, receiver.fai[0, PROMPT:], equal_nan=True)
    for name, part in analyze_thirds(model, ids, torch.ones_like(ids), mask, ARGS).items():
        assert np.allclose(reading.parts[name].waad_T, part.waad[0, PROMPT:], equal_nan=True)
    assert torch.equal(reading.credit.weights, assign_credit(signals, mask, ARGS).weights)
    assert reading.maps is not None and read(model, entry, ARGS, 1.0, maps=False).maps is None


def test_global_heads_that_are_no_receiver_heads():
    model, entry = tiny.model_of("llama"), response()
    reading = read(model, entry, ARGS, 1.0)
    ids, mask = batch_of(entry)
    every = analyze_thirds(model, ids, torch.ones_like(ids), mask, ARGS)["all"]
    receiver = analyze_thirds(
        model, ids, torch.ones_like(ids), mask, CreditArguments(**{**vars(ARGS), "credit_heads": "receiver"})
    )["all"]
    apart = apart_heads(every.global_heads[0], receiver.global_heads[0], sharing=2)  # four query heads on two
    assert 0 < apart.sum() < every.global_heads[0].sum()
    statistics, _ = read_everything(model, ids, torch.ones_like(ids), mask, ARGS)
    expected = statistics.fai_BLHN[0][apart].mean(0)[PROMPT:]
    assert np.allclose(reading.parts["all"].apart_fai_T, expected, equal_nan=True)


def test_heads_that_share_keys_with_a_receiver_head_are_not_apart():
    everywhere = torch.ones(1, 6, dtype=torch.bool)
    receiver = torch.tensor([[True, False, False, False, False, False]])
    assert apart_heads(everywhere, receiver, 1).tolist() == [[False, True, True, True, True, True]]
    assert apart_heads(everywhere, receiver, 2).tolist() == [[False, False, True, True, True, True]]
    assert apart_heads(everywhere, receiver, 3).tolist() == [[False, False, False, True, True, True]]


# A planted rhythm


ONSETS, ANCHORS, SPAN = (12, 24, 36, 48), (13, 25, 37, 49), 60


def planted() -> Reading:
    """Attention with known chunks and anchors: local heads look one token back, at an onset eight; global heads look
    at the last two anchors, and far back to the first token."""
    local, far, plain = (torch.zeros(SPAN, SPAN) for _ in range(3))
    for t in range(SPAN):
        local[t, max(0, t - (8 if t in ONSETS else 1))] = 1
        seen = [anchor for anchor in ANCHORS if anchor < t][-2:]
        far[t, 0] += 1 if not seen else 0.2
        for anchor in seen:
            far[t, anchor] = 0.8 / len(seen)
        plain[t, max(0, t - 4)] = 1
    maps = torch.stack([local] * 3 + [plain] * 4 + [far] * 3)[None]
    mask = torch.ones(1, SPAN, dtype=torch.bool)
    mask[:, 0] = False
    rows = slice(0, SPAN)
    span, waad, fai = statistics_of_blocks([Block(rows, rows, maps)], 10, mask, 10, (0, SPAN))
    statistics = HeadStatistics([0], span[:, None], waad[:, None], fai[:, None])
    signals = signals_of_groups(statistics, group_heads(statistics.span_BLH, 0.3))
    args = CreditArguments(credit_quantile=8 / 59, credit_fai_horizon=[0, -1])
    credit = assign_credit(signals, mask, args)
    nothing = np.zeros(SPAN - 1)
    return Reading(
        Response("planted", "p", [5], list(range(6, 5 + SPAN))),
        signals,
        credit,
        Series(signals.waad[0, 1:].numpy(), signals.fai[0, 1:].numpy(), nothing, nothing),
        {},
        None,
    )


def test_a_planted_rhythm_is_found_and_the_arrows_are_where_they_belong():
    reading = planted()
    assert reading.signals.local_heads[0, 0].tolist() == [True] * 3 + [False] * 7
    assert reading.signals.global_heads[0, 0].tolist() == [False] * 7 + [True] * 3
    assert set(ONSETS) <= set(reading.credit.preplan[0].nonzero().flatten().tolist())
    anchors = set(reading.credit.anchor[0].nonzero().flatten().tolist())
    assert set(ANCHORS) <= anchors and len(anchors) == 8
    sample = sample_of(reading, tiny.tokenizer())
    tokens = sample["tokens"]
    for onset, anchor in zip(ONSETS, ANCHORS, strict=True):
        assert tokens["dominated"][anchor - 1] and tokens["intro"][anchor - 1] == onset - 1  # the prompt is one token
        assert tokens["gamma"][onset - 1] > 1 and tokens["preplan"][onset - 1]
    assert [t for t, intro in enumerate(tokens["intro"]) if intro is not None] == [anchor - 1 for anchor in ANCHORS]
    assert tokens["waad"][ONSETS[1] - 1] == 8 and tokens["waad"][ONSETS[1]] == 1


# Words for what holds


def row(name: str, low: float, p: float, nearby: float):
    usual = couplings([])[3 if name == APART else 1]
    value = Estimate(low + 0.2, low, low + 0.4)
    return usual._replace(
        lift=value,
        p_value=p,
        nearby_p_value=nearby,
        swapped_p_value=nearby,
        shuffled=Estimate(0.2, 0.1, 0.3),
        observed=value,
    )


def test_a_coupling_that_shared_heads_explain_does_not_hold():
    shared, apart = row(SHARED, 0.5, 0.001, 0.001), row(APART, -0.1, 0.4, 0.4)
    (finding,) = findings([shared, apart], None)
    assert finding["holds"] is False and "or share their keys, explain it" in finding["sentence"]
    assert "holds" not in finding["sentence"]  # a verdict says one thing
    (finding,) = findings([shared, row(APART, 0.3, 0.001, 0.001)], None)
    assert finding["holds"] is True
    (finding,) = findings([row(SHARED, 0.5, 0.001, 0.3), row(APART, 0.3, 0.001, 0.3)], None)
    assert finding["holds"] is False and "a trend along the response alone" in finding["sentence"]
    (finding,) = findings([shared, row(APART, math.nan, math.nan, math.nan)], None)
    assert finding["holds"] is None and "says nothing" in finding["sentence"]


# Text and files


def test_token_texts_join_to_the_text():
    tokenizer = tiny.tokenizer()
    ids = tokenizer("ab 12+3")["input_ids"]
    assert "".join(token_texts(tokenizer, [5], ids)) == tokenizer.decode([5, *ids])[len(tokenizer.decode([5])) :]
    assert len(token_texts(tokenizer, [], ids)) == len(ids)


def test_rows_that_cannot_be_used_are_listed(tmp_path):
    tokenizer = tiny.tokenizer()
    questions = [Question("a", "ab"), Question("b", ""), Question("c", "a" * 50)]
    kept, skipped = usable(questions, PromptRenderer(tokenizer), context=40, room=8)
    assert [question.id for question, _ in kept] == ["a"]
    assert [entry.id for entry in skipped] == ["b", "c"]
    assert "50 tokens and 8 of response do not fit the context of 40" in skipped[1].reason
    path = save_rows(tmp_path / "c.jsonl", [{"prompt": "ab", "completion": "12"}, {"prompt": "a", "completion": ""}])
    kept, _ = usable(read_completions(Path(path)), PromptRenderer(tokenizer), None, 1)
    responses, skipped = written(kept, tokenizer, None)
    assert [entry.ids for entry in responses] == [tokenizer("12")["input_ids"]]
    assert skipped == [("row 2", "the completion has no tokens")]


def test_completions_of_a_run_and_of_an_evaluation(tmp_path):
    conversation = [{"role": "user", "content": "2+2"}]
    said = [{"role": "assistant", "content": "4"}]
    pq.write_table(
        pa.Table.from_pylist([{"step": 1, "prompt": conversation, "completion": said}]), tmp_path / "a.parquet"
    )
    (entry,) = read_completions(tmp_path / "a.parquet")
    assert entry.prompt == conversation and entry.completion == "4"
    samples = [{"id": "x", "sample": 3, "question": "2+2", "completion": "4"}]
    pq.write_table(pa.Table.from_pylist(samples), tmp_path / "b.parquet")
    assert read_completions(tmp_path / "b.parquet") == [Question("x (3)", "2+2", "4")]
    with pytest.raises(InputError, match=r"row 1: has no completion; the columns are prompt"):
        read_completions(Path(save_rows(tmp_path / "c.jsonl", [{"prompt": "a"}])))
    with pytest.raises(InputError, match=r"row 1: has no prompt"):
        read_prompts(Path(save_rows(tmp_path / "d.jsonl", [{"text": "a"}])))


# The command


WORDS = ["analyze", "--model", POLICY, "--samples", "3", "--max_new_tokens", "40", "--perturbed", "0"]
SOURCE = ["--task", "countdown", "--task_options.prompt_style", "compact", "--task_options.numbers", "[3]"]
SOURCE += ["--task_options.max_number", "12", "--task_options.num_test", "3"]


def test_the_command_writes_everything(tmp_path, capsys):
    assert main([*WORDS, *SOURCE, "--output", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["figures", "report.html", "report.json", "signals.parquet"]
    document = json.loads((tmp_path / "out/report.json").read_text())
    assert len(document["samples"]) == 3 and document["settings"]["fai_horizon"] == [0, None]
    rows = pq.read_table(tmp_path / "out/signals.parquet").to_pylist()
    for sample in document["samples"]:
        mine = [entry for entry in rows if entry["id"] == sample["id"]]
        assert [entry["waad"] for entry in mine] == sample["tokens"]["waad"]
    assert [table["id"] for table in document["tables"]] == ["table2", "table10", "table20"]
    said = capsys.readouterr().out
    assert "report:" in said and "Entropy at WAAD peaks" in said
    assert main([*WORDS, *SOURCE, "--output", str(tmp_path / "out")]) == 2
    assert "holds a report; write another --output, or --overwrite true" in capsys.readouterr().err


@pytest.mark.thorough
def test_layers_and_horizon_can_be_chosen(tmp_path):
    words = [*WORDS, *SOURCE, "--layers", "all", "--credit_fai_horizon", "2", "9", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    settings = json.loads((tmp_path / "out/report.json").read_text())["settings"]
    assert settings["fai_horizon"] == [2, 9] and settings["layers"] == [0, 1, 3, 4, 5]
    recipe = tmp_path / "analysis.yaml"
    recipe.write_text(f"model: {POLICY}\nsamples: 3\ncredit_fai_horizon: [3, 7]\n")
    words = ["analyze", "--config", str(recipe), *WORDS[5:], *SOURCE, "--output", str(tmp_path / "file")]
    assert main(words) == 0
    settings = json.loads((tmp_path / "file/report.json").read_text())["settings"]
    assert settings["fai_horizon"] == [3, 7]


BAD = [
    ([], "none of them given; write exactly one"),
    (["--task", "countdown", "--prompts", "x.jsonl"], "task and prompts given"),
    (["--task", "gsm9k"], "task: 'gsm9k' is no evaluation set"),
    (["--prompts", "no.jsonl"], "no.jsonl: there is no such file"),
    (["--prompts", "EMPTY"], "has no rows"),
    (["--completions", "BROKEN"], "cannot be read"),
    (["--prompts", "BLANK"], "none of the 1 prompts can be used; the first: the prompt is empty"),
    ([*SOURCE, "--samples", "0"], "samples: 0"),
    ([*SOURCE, "--model", "no/model"], "no/model"),
    ([*SOURCE, "--layers", "40"], "credit_layers: [40]"),
    ([*SOURCE, "--max_new_tokens", "4000"], "none of the 3 prompts can be used"),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words)[:40] for words, _ in BAD])
def test_bad_input_is_one_line(words, expected, tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.parquet").write_text("no parquet")
    save_rows(tmp_path / "blank.jsonl", [{"prompt": ""}])
    files = {"EMPTY": "empty.jsonl", "BROKEN": "broken.parquet", "BLANK": "blank.jsonl"}
    words = [str(tmp_path / files[word]) if word in files else word for word in words]
    given = dict(zip(WORDS[1::2], WORDS[2::2], strict=True))
    given |= dict(zip(words[::2], words[1::2], strict=True))
    flat = [part for pair in given.items() for part in pair]
    assert main(["analyze", *flat, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rlcredit: ") and expected in error
    assert not (tmp_path / "out").exists()


def test_nothing_half_written(tmp_path, monkeypatch):
    def fails(document, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write_figures", fails)
    assert main([*WORDS, *SOURCE, "--output", str(tmp_path / "out")]) == 130
    assert list((tmp_path / "out").iterdir()) == []


# During training


@pytest.mark.thorough
def test_reports_during_training_leave_training_alone(tmp_path):
    words = [
        "train",
        "--config",
        "countdown_tiny/coupled_rhythm",
        "--max_steps=4",
        "--num_generations=4",
        "--held_out=0",
    ]
    words += ["--per_device_train_batch_size=8", "--disable_tqdm=true", "--save_strategy=no"]
    assert main([*words, "--output_dir", str(tmp_path / "a")]) == 0
    assert main([*words, "--credit_report_steps=2", "--output_dir", str(tmp_path / "b")]) == 0

    def steps(run):
        lines = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if "time" not in k and "seconds" not in k} for line in lines]

    assert steps("a") == steps("b")
    folders = sorted(path.name for path in (tmp_path / "b/reports").iterdir())
    assert folders == ["step-000002", "step-000004"]
    first, last = (json.loads((tmp_path / "b/reports" / name / "report.json").read_text()) for name in folders)
    assert [entry["prompt"] for entry in first["samples"]] == [entry["prompt"] for entry in last["samples"]]
    assert len(first["samples"]) == 4 and (tmp_path / "b/reports/step-000002/report.html").is_file()
    facts = json.loads((tmp_path / "b/run.json").read_text())
    assert facts["credit_strategy"] == "coupled_rhythm" and facts["seed"] == 42 and facts["algorithm"] == "grpo"
    assert facts["settings"]["credit_report_steps"] == 2 and facts["settings"]["save_strategy"] == "no"
    assert differing([read_run(tmp_path / name) for name in ("a", "b")]) == [("credit_report_steps", [None, "2"])]
