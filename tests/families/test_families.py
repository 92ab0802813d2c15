"""The families of transformers against their own eager maps; the quick tier has one for each trait."""

from __future__ import annotations

import re

import pytest

from tests.families.walk import DOCUMENT, TOLERANCE, check, every_family

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


def test_at_least_a_hundred_model_types_are_documented_as_exact():
    (count,) = re.findall(r"\*\*(\d+) model types are exact", DOCUMENT.read_text())
    assert int(count) >= 100
