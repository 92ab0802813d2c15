"""docs/strategies.md: its table is the code's, and its examples run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from rlcredit import AttentionSignals, CreditArguments, Rollout, assign_credit
from rlcredit.credit import find_strategy
from rlcredit.credit.rollout import FIELDS
from rlcredit.credit.types import SIGNALS
from tests import runs

PAGE = (Path(__file__).parents[2] / "docs/strategies.md").read_text()
FILES = {name: text for text, name in re.findall(r"```python\n(# (\w+)\.py.*?)```", PAGE, re.S)}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of a user's own with the page's files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_table_is_what_a_strategy_may_ask_for():
    rows = re.findall(r"^\| `(\w+)` \| (`.*?`) \|", PAGE, re.M)
    found = {name: re.findall(r"`(\w+)\.(\w+)`", where) for name, where in rows}
    assert set(found) == SIGNALS | set(FIELDS)
    for name, fields in FIELDS.items():
        assert found[name] == [("rollout", field) for field in fields]
    told = {field for name in SIGNALS for _, field in found[name]}
    assert told == set(AttentionSignals.__dataclass_fields__) - {"layers"}


def given_by(name: str, response: torch.Tensor, rollout: Rollout, entropy: torch.Tensor | None = None):
    nothing = torch.full(response.shape, torch.nan)
    signals = AttentionSignals.without_attention(nothing if entropy is None else entropy)
    args = CreditArguments(credit_amplification=3)
    return assign_credit(signals, response, args, strategy=find_strategy(name), rollout=rollout)


def test_words_of_several_tokens_get_the_amplification():
    texts = [["", "may", "be", "?", " may", "be", " not"], ["Wait", ",", " is it", " not s", "ure", "?", ""]]
    response = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]]).bool()
    credit = given_by("my_lexicon:hedging", response, Rollout(text=texts))
    assert credit.weights.tolist() == [[1, 1, 1, 1, 3, 3, 1], [1, 1, 1, 3, 3, 1, 1]]


def test_the_critic_learns_the_reward_and_guesses_before_it_is_told():
    made = torch.Generator().manual_seed(0)
    response = torch.ones(64, 8, dtype=torch.bool)
    response[:, 0] = False
    guesses = []
    for _ in range(150):
        sure = torch.rand(64, 1, generator=made)  # the more certain the response, the better
        rollout = Rollout(
            logps=torch.where(response, sure - 1, torch.nan),
            reward=sure[:, 0],
            step_rewards=torch.nn.functional.pad(sure, (7, 0)),
            groups=torch.zeros(64, dtype=torch.int64),
        )
        entropy = torch.where(response, 1 - sure, torch.nan)
        guesses.append(given_by("my_critic:critic", response, rollout, entropy).advantages[response])
    assert guesses[-1].square().mean() < guesses[0].square().mean() / 20
    assert guesses[-1].abs().max() > 0


@pytest.mark.parametrize("name", ["my_lexicon:hedging", "my_turns:later", "my_critic:critic"])
def test_an_example_trains(tmp_path, name):
    made = runs.trained(tmp_path / "run", credit_strategy=name, max_steps=2)
    assert made.state.global_step == 2 and made.bad_steps.total == 0


def test_the_test_of_the_page_passes(tmp_path):
    namespace: dict = {}
    exec(FILES["test_my_turns"], namespace)
    namespace["test_a_turn_before_the_last_counts_less"]()
