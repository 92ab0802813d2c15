"""The families of transformers against their own eager maps; the quick tier has one for each trait."""

from __future__ import annotations

import re

import pytest
import torch

from rlcredit import AttentionSignals, CreditArguments, analyze
from rlcredit.attention import open_capture, signals_maker
from rlcredit.models.padding import ignores_padding
from tests.families.tiny_config import CANNOT_BUILD, VOCABULARY, tiny_config
from tests.families.walk import DOCUMENT, PROMPT, TOLERANCE, N, check, every_family, model_of

# trait: grouped heads, window, chunks, soft-cap, sinks, MLA, hybrid, ALiBi (shown by softmax, by sdpa), routed heads,
# an indexer's mask, a formula of its own, layers without an index, a decoder half
QUICK = [
    "llama",
    "mistral",
    "llama4_text",
    "gemma2",
    "gpt_oss",
    "deepseek_v3",
    "jamba",
    "bloom",
    "falcon-alibi",
    "jetmoe",
    "deepseek_v32",
    "inkling2_text",
    "zamba2",
    "bart",
    "gpt2",
]
SLOW = [name for name in every_family() if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_reads_what_its_own_maps_say_or_refuses_as_documented(name):
    result = check(name)
    row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    assert row, f"{name} is not in docs/families.md; python -m tests.families.walk --write"
    if result.verdict == "exact":
        assert all(result.errors[what] <= limit for what, limit in TOLERANCE.items())
        assert ", ".join(result.traits) in row[1]
    else:
        assert result.verdict in ("refused", "not built") and result.note in row[1]


@pytest.mark.parametrize("name", ["llama", "xglm", "bloom"])
def test_a_batch_may_run_in_chunks(name):
    model = model_of(name, "eager")
    ids = torch.randint(2, VOCABULARY, (3, N), generator=torch.Generator().manual_seed(1))
    real, response = torch.ones_like(ids), torch.arange(N).expand(3, N) > PROMPT
    args = CreditArguments(credit_fai_horizon=[3, 12])
    whole = analyze(model, ids, real, response, args)
    capture = open_capture(model, args, real, response, finish=signals_maker(args))
    with torch.no_grad(), capture.reading():
        for rows in (slice(0, 1), slice(1, 3)):
            model(input_ids=ids[rows], attention_mask=real[rows], use_cache=False)
    found = AttentionSignals.cat(capture.results())
    assert torch.allclose(found.head_span, whole.head_span, atol=1e-4)
    assert torch.allclose(found.waad, whole.waad, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_padding_is_cut_only_where_logits_ignore_it(name):
    if name in CANNOT_BUILD or not ignores_padding(tiny_config(name)):
        return
    model, real = model_of(name, "eager"), torch.zeros(3, 20, dtype=torch.long)
    for row, (start, stop) in zip(real, ((6, 15), (3, 12), (4, 16)), strict=True):
        row[start:stop] = 1
    ids = torch.randint(2, VOCABULARY, real.shape, generator=torch.Generator().manual_seed(1))
    kept = slice(3, 16)
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, kept]
        cut = model(input_ids=ids[:, kept], attention_mask=real[:, kept], use_cache=False).logits
    there = real[:, kept].bool()
    size = whole[there].abs().max()
    torch.testing.assert_close(cut[there] / size, whole[there] / size, rtol=0, atol=1e-4)  # float32


def test_at_least_a_hundred_model_types_are_documented_as_exact():
    (count,) = re.findall(r"\*\*(\d+) model types are exact", DOCUMENT.read_text())
    assert int(count) >= 100
