"""Strategies of users' that misbehave: one line, from the first call, for each way to go wrong."""

from __future__ import annotations

import random
import re
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch

from rlcredit import AttentionSignals, Batch, Credit, CreditArguments, Strategy, assign_credit
from rlcredit.credit import Rollout, find_strategy
from rlcredit.credit.rollout import FIELDS
from tests import command

RESPONSE = torch.tensor([[False, True, True, True]] * 2)
ONES = torch.ones(2, 4)


def rollout() -> Rollout:
    return Rollout(
        input_ids=torch.zeros(2, 4, dtype=torch.int64), reward=torch.tensor([0.0, 1.0]), text=[[""] * 4] * 2
    )


def given_by(strategy: Strategy) -> Credit:
    """What it gives for two responses of three tokens, of a rollout where it asks for one."""
    signals = AttentionSignals.without_attention(torch.zeros(2, 4))
    args = CreditArguments(credit_strategy="mine:it", credit_options={"words": ["maybe"]})
    return assign_credit(
        signals, RESPONSE, args, strategy=strategy, rollout=rollout() if strategy.of_rollout else None
    )


def deep(batch: Batch) -> Credit:
    return torch.ones(2, 3) @ torch.ones(2, 3)  # raises in torch


class Adding:
    """A strategy that is an object with a state."""

    def __call__(self, batch: Batch) -> Credit:
        return self.helped(batch.signals.entropy)

    def helped(self, entropy: torch.Tensor) -> Credit:
        raise KeyError("entropie\nof two lines")


def changing(batch: Batch) -> Credit:
    batch.signals.entropy.clamp_(min=1)
    return Credit.of(ONES)


def changing_rewards(batch: Batch) -> Credit:
    batch.rollout.reward[0] = 1
    return Credit.of(ONES)


def changing_options(batch: Batch) -> Credit:
    batch.args.credit_options.pop("words")
    return Credit.of(ONES)


def drawing(draw) -> partial:
    return partial(lambda batch, draw: (draw(), Credit.of(ONES))[1], draw=draw)


def training(batch: Batch) -> Credit:
    critic = torch.ones(4, requires_grad=True)
    (critic * batch.signals.entropy).sum().backward()
    return Credit.of(ONES)


def with_gradient(batch: Batch) -> Credit:
    with torch.enable_grad():
        return Credit.of(ONES * torch.ones(4, requires_grad=True))


def of(**changes) -> partial:
    """A strategy that gives ones, but for some fields of its credit."""
    return partial(lambda batch, changes: replace(Credit.of(ONES), **changes), changes=changes)


NEEDS = frozenset({"ids"})
HERE = re.escape(__file__)
CASES = {
    "raises_in_torch": (deep, {}, rf"raised RuntimeError: .*\({HERE}, line {deep.__code__.co_firstlineno + 1}\)$"),
    "raises_in_a_helper": (
        Adding(),
        {},
        rf"raised KeyError: 'entropie\\nof two lines' \({HERE}, line {Adding.helped.__code__.co_firstlineno + 1}\)$",
    ),
    "gives_nothing": (lambda batch: None, {}, r"gave a NoneType; return rlcredit.Credit.of\(weights\)"),
    "gives_a_tensor": (lambda batch: ONES, {}, r"gave a Tensor; return rlcredit.Credit.of\(weights\)"),
    "weights_no_tensor": (of(weights=[[1.0] * 4] * 2), {}, "gave weights as a list; give a tensor"),
    "shape": (of(weights=ONES[:, 1:]), {}, r"gave weights of shape \[2, 3\] for a batch of \[2, 4\]; return one for"),
    "shape_of_a_row": (of(weights=ONES[:, 0]), {}, r"gave weights of shape \[2\] for a batch of \[2, 4\]"),
    "nan": (of(weights=ONES * torch.nan), {}, r"gave the weight nan \(row 0, position 1\); a weight is a finite"),
    "infinite": (of(weights=ONES / 0), {}, "gave the weight inf .* is a finite number of 0 or more$"),
    "below_0": (of(weights=-ONES), {}, r"gave the weight -1 .*of 0 or more; or write Strategy\(..., signed=True\)$"),
    "signed_nan": (of(weights=ONES * torch.nan), {"signed": True}, "gave the weight nan .*; a weight is a finite num"),
    "whole_numbers": (of(weights=ONES.long()), {}, r"gave weights of torch.int64; give real .*\.float\(\)"),
    "truth_values": (of(weights=ONES.bool()), {}, "gave weights of torch.bool; give real numbers"),
    "complex": (of(weights=ONES * 1j), {}, "gave weights of torch.complex64; give real numbers"),
    "elsewhere": (of(weights=ONES.to("meta")), {}, r"gave weights on meta; write .to\(batch.response.device\), which"),
    "unsaid_advantages": (of(advantages=ONES), {}, r"without saying so; write Strategy\(..., gives_advantages=True\)"),
    "advantages_nan": (of(advantages=ONES * torch.nan), {"gives_advantages": True}, "the advantage nan .*; an advant"),
    "advantages_shape": (of(advantages=ONES[:1]), {"gives_advantages": True}, r"gave advantages of shape \[1, 4\]"),
    "changes_signals": (changing, {}, "changes batch.signals.entropy in place; work on a copy, batch.s"),
    "changes_rewards": (changing_rewards, {"needs": {"rewards"}}, "changes batch.rollout.reward in place"),
    "changes_options": (changing_options, {}, "changes batch.args in place"),
    "draws_of_torch": (drawing(lambda: torch.rand(1)), {}, "draws from the global random generator of torch, which"),
    "draws_a_module": (drawing(lambda: torch.nn.Linear(2, 1)), {}, r"torch.random.fork_rng\(\) around new modules$"),
    "draws_of_python": (drawing(random.random), {}, "draws from the global random generator of random"),
    "draws_of_numpy": (drawing(np.random.rand), {}, "draws from the global random generator of numpy"),
    "trains_without_gradient": (training, {}, r"line \d+\); credit is computed without gradient: write `with torch.e"),
    "keeps_a_graph": (with_gradient, {}, r"gave weights that require a gradient; write .detach\(\)"),
    "preplan_shape": (of(preplan=RESPONSE[:, 1:]), {}, r"gave preplan of shape \[2, 3\]"),
    "anchor_type": (of(anchor=ONES), {}, "gave anchor of torch.float32; give torch.bool"),
    "dominated_type": (of(dominated=ONES.long()), {}, "gave dominated of torch.int64; give torch.bool"),
    "intro_type": (of(intro=ONES), {}, "gave intro of torch.float32; give torch.int64"),
    "anchor_outside": (of(anchor=ONES.bool()), {}, "gave anchor outside the response; write it & batch.response"),
    "intro_outside": (of(intro=ONES.long()), {}, "gave intro outside the response"),
    "unasked_part": (
        lambda batch: Credit.of(batch.rollout.reward[:, None] * ONES),
        {"needs": NEEDS},
        rf'reads rollout.reward without asking for it; name "rewards" in needs \({HERE}, line \d+\)$',
    ),
    "no_rollout": (lambda batch: Credit.of(batch.rollout.text), {}, 'reads rollout.text .*; name "text" in needs'),
    "none_of_its_own": (lambda batch: None.text, {"needs": {"text"}}, "raised AttributeError: 'NoneType' object has"),
    "no_such_field": (lambda batch: batch.rollout.rewards, {"needs": NEEDS}, "raised AttributeError: .*'rewards'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong(case):
    assign, settings, said = CASES[case]
    with pytest.raises(ValueError, match=r"^credit_strategy: 'mine:it' " + ".*" + said) as error:
        given_by(Strategy(assign, **{"needs": frozenset(), **settings}))
    assert "\n" not in str(error.value)


def test_a_strategy_may_be_signed_train_and_draw_from_a_generator_of_its_own():
    def assign(batch: Batch) -> Credit:
        made = torch.Generator().manual_seed(int(batch.row_keys.sum()))
        with torch.random.fork_rng():
            critic = torch.nn.Linear(1, 1)
        with torch.enable_grad():
            critic(batch.signals.entropy[..., None]).sum().backward()
        return Credit.of(-torch.rand(2, 4, generator=made, dtype=torch.float64))

    credit = given_by(Strategy(assign, needs=frozenset(), signed=True))
    assert (credit.weights[RESPONSE] < 0).all() and (credit.weights[~RESPONSE] == 1).all()
    assert credit.weights.dtype == torch.float32


def test_a_strategy_of_the_older_batch_still_works():
    """`Batch` had four fields, and a strategy was given nothing else."""

    def assign(batch: Batch) -> Credit:
        assert batch.rollout is None
        entropy = torch.nan_to_num(batch.signals.entropy)
        return Credit.of(torch.where(batch.response, 1 + entropy, 1.0), anchor=batch.response & (entropy > 2))

    older = Strategy(assign, frozenset({"entropy"}))
    signals = AttentionSignals.without_attention(torch.tensor([[torch.nan, 1, 2, 3]]))
    batch = Batch(signals, RESPONSE[:1], torch.zeros(1, 1, dtype=torch.int64), CreditArguments())
    assert older.assign(batch).weights.tolist() == [[1, 2, 3, 4]]
    credit = assign_credit(signals, RESPONSE[:1], CreditArguments(), strategy=older)
    assert credit.weights.tolist() == [[1, 2, 3, 4]] and credit.anchor.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"assign": Credit}, None),
        ({"assign": None}, "Strategy.assign: a NoneType is no function; write batch -> Credit"),
        ({"assign": deep, "needs": "text"}, r"Strategy.needs: 'text' is a text; write frozenset\(\{\"text\"\}\)"),
        ({"assign": deep, "needs": {"reward", 7}}, "Strategy.needs: 7, reward is not known; there are advantages, "),
        ({"assign": deep, "needs": ["text"]}, None),
    ],
)
def test_what_a_strategy_says_of_itself_is_checked(settings, said):
    if said is None:
        assert isinstance(Strategy(**settings).needs, frozenset)
        return
    with pytest.raises(ValueError, match=said):
        Strategy(**settings)


def test_every_field_of_a_rollout_is_of_a_part():
    assert [name for names in FIELDS.values() for name in names] == [item.name for item in fields(Rollout)]


# ---- names ----------------------------------------------------------------------------------------------------------

MODULES = {
    "fine.py": "from rlcredit import Credit, Strategy\nhedging = Strategy(lambda batch: Credit.of(batch.response))\n",
    "broken.py": "import torch\n\nx = 1 / 0\n",
    "untyped.py": "x = (\n",
    "lacking.py": "import nowhere_at_all\n",
    "unknown.py": "from rlcredit import Strategy\nit = Strategy(lambda batch: None, needs={'reward'})\n",
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:it", "there is no module nowhere; write package.module:strategy, importable from here"),
        ("fine.inner:it", "there is no module fine.inner; write package.module:strategy"),
        ("fine:hedgin", "fine has no hedgin; did you mean hedging"),
        ("fine:", "'fine:' names no object; write package.module:strategy"),
        (":it", "':it' names no object"),
        (".fine:it", "'.fine:it' names no object"),
        ("broken:it", r"it raised ZeroDivisionError: division by zero \(.*broken.py, line 3\)"),
        ("untyped:it", r"it raised SyntaxError: '\(' was never closed \(untyped.py, line 1\)"),
        ("lacking:it", r"it raised ModuleNotFoundError: No module named 'nowhere_at_all' \(.*lacking.py, line 1\)"),
        ("unknown:it", r"it raised ValueError: Strategy.needs: reward is not known.*unknown.py, line 2"),
    ],
)
def test_a_name_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, name, said):
    for file, text in MODULES.items():
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"credit_strategy: .*{said}") as error:
        find_strategy(name)
    assert "\n" not in str(error.value)


def test_the_command_ends_with_one_line_before_the_second_step(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rlcredit import Credit, Strategy\n"
        "calls = []\n"
        "def assign(batch):\n"
        "    calls.append(1)\n"
        "    return Credit.of(batch.rollout.rewards_BF[:, 1])\n"
        "it = Strategy(assign, needs={'rewards'})\n"
    )
    done = command.run(
        command.TINY,
        *command.SHORT,
        "--credit_strategy=mine:it",
        f"--output_dir={tmp_path / 'run'}",
        PYTHONPATH=f"{tmp_path}:{command.ROOT}",
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "credit_strategy: 'mine:it' raised IndexError: " in line and f"({tmp_path / 'mine.py'}, line 5)" in line
    assert "Traceback" not in done.stderr
    assert command.last_step(tmp_path / "run") == 0
