"""The same answer however a batch is cut: over processes, over accumulation, over micro-batches."""

from __future__ import annotations

import json

import pytest

from tests import command, fixed_rollouts

STEPS = 10
CUTS = {  # processes, and how each cuts its share of 16 completions a step
    "two processes": (2, dict(per_device_train_batch_size=8, gradient_accumulation_steps=1)),
    "2 x 8": (1, dict(per_device_train_batch_size=2, gradient_accumulation_steps=8)),
    "8 x 2": (1, dict(per_device_train_batch_size=8, gradient_accumulation_steps=2)),
    "2 x 4, two processes": (2, dict(per_device_train_batch_size=2, gradient_accumulation_steps=4)),
}


def result(folder, cut, **settings) -> fixed_rollouts.Result:
    processes, how = CUTS[cut]
    # Adam divides by the gradient's size: where that is near its epsilon of 1e-8, rounding would become a step
    settings = {**how, "max_steps": STEPS, "learning_rate": 1e-4, "adam_epsilon": 1e-6, **settings}
    if processes == 1:
        fixed_rollouts.run(folder, **settings)
    else:
        done = command.run_module("tests.fixed_rollouts", folder, json.dumps(settings), processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
    return fixed_rollouts.read(folder, processes)


SLOW = pytest.mark.slow
GROUPS = dict(num_generations=16)  # one group a step: its rows lie on both processes
SIDES = dict(credit_options={"right_above": 0.15}, **GROUPS)  # every reward is above 0: else all would be right
SETTINGS = [
    pytest.param({}, id="coupled_rhythm"),
    pytest.param(dict(dynamic_sampling=True, num_generations=8), id="dynamic", marks=SLOW),
    pytest.param(dict(dynamic_sampling=True, credit_strategy="otb", **GROUPS), id="dynamic-otb", marks=SLOW),
    pytest.param(dict(sort_by_length=True), id="sorted", marks=SLOW),
    pytest.param(dict(loss_type="grpo", credit_strategy="local_chunk"), id="grpo-local_chunk", marks=SLOW),
    pytest.param(dict(credit_strategy="random"), id="random", marks=SLOW),
    pytest.param(dict(credit_strategy="entropy"), id="entropy", marks=SLOW),
    pytest.param(dict(credit_head_grouping="frozen", credit_strategy="global_anchor"), id="frozen-heads", marks=SLOW),
    pytest.param(dict(credit_head_grouping="batch"), id="batch-heads", marks=SLOW),
    pytest.param(dict(algorithm="ppo", critic_learning_rate=1e-4, value_clip=0.2), id="ppo", marks=SLOW),
    pytest.param(dict(credit_strategy="otb", **GROUPS), id="otb", marks=SLOW),
    pytest.param(dict(credit_strategy="ktae", **SIDES), id="ktae", marks=SLOW),
    pytest.param(dict(credit_strategy="gtpo", **SIDES), id="gtpo", marks=SLOW),
    pytest.param(dict(credit_normalize="batch", credit_sign="positive"), id="normalize-batch", marks=SLOW),
    pytest.param(dict(credit_normalize="batch", algorithm="ppo"), id="normalize-batch-ppo", marks=SLOW),
]


@pytest.mark.thorough
@pytest.mark.parametrize("settings", SETTINGS)
def test_micro_batches(tmp_path, settings):
    one, two = (result(tmp_path / cut, cut, **settings) for cut in ("2 x 8", "8 x 2"))
    assert len(one.losses) == STEPS and len(one.weights) == 16 * STEPS
    fixed_rollouts.assert_same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_processes(tmp_path, settings):
    one = result(tmp_path / "one", "8 x 2", **settings)
    for cut in ("two processes", "2 x 4, two processes"):
        fixed_rollouts.assert_same(one, result(tmp_path / cut, cut, **settings))
