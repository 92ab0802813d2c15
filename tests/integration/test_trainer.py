"""The trainer against TRL's own, and the ways of reading attention against each other."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from rlcredit import CreditGRPOTrainer
from tests import runs, tiny

LORA = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)


def thorough(*values):
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


SCHEDULES = [
    pytest.param(runs.ALIGNED, id="aligned", marks=pytest.mark.thorough),
    pytest.param(runs.MISALIGNED, id="misaligned"),
]


class Recorder(CreditGRPOTrainer):
    """Keeps what reaches TRL's loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.seen.append({name: inputs[name] for name in ("credit_weights", "credit_keys", "advantages")})
        return loss

    def weights_by_row(self) -> dict[tuple[int, ...], torch.Tensor]:
        return {
            tuple(key): weights
            for batch in self.seen
            for key, weights in zip(batch["credit_keys"].tolist(), batch["credit_weights"], strict=True)
        }


@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_uniform_is_trl_bit_for_bit(tmp_path, schedule):
    theirs = runs.trained(tmp_path / "a", GRPOTrainer, credit_strategy="uniform", **schedule)
    ours = runs.trained(tmp_path / "b", credit_strategy="uniform", **schedule)
    for name, value in runs.parameters(theirs).items():
        assert torch.equal(value, runs.parameters(ours)[name]), name
    own = ("reward/unscored", "bad_steps")
    assert runs.logged(theirs) == runs.logged(ours, *own)


def test_weights_of_one_are_uniform_bit_for_bit(tmp_path):
    """Amplification 1 goes through every seam, and must change nothing."""
    uniform = runs.trained(tmp_path / "a", credit_strategy="uniform")
    ones = runs.trained(tmp_path / "b", credit_amplification=1.0)
    for name, value in runs.parameters(uniform).items():
        assert torch.equal(value, runs.parameters(ones)[name]), name


@pytest.mark.parametrize(
    "grouping",
    [
        "response",
        pytest.param("batch", marks=pytest.mark.thorough),
        pytest.param("frozen", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_auto_equals_auxiliary(tmp_path, schedule, grouping):
    """Also the parameters: weights that differ would move them apart."""
    auto, auxiliary = (
        runs.trained(tmp_path / mode, Recorder, credit_attention=mode, credit_head_grouping=grouping, **schedule)
        for mode in ("auto", "auxiliary")
    )
    one, two = auto.weights_by_row(), auxiliary.weights_by_row()
    assert one.keys() == two.keys() and len(one) >= 16
    assert any((weights != 1).any() for weights in one.values())
    for key, weights in one.items():
        assert torch.equal(weights, two[key]), key
    for name, value in runs.parameters(auto).items():
        assert torch.equal(value, runs.parameters(auxiliary)[name]), name


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("reentrant", [False, *thorough(True)])
def test_gradient_checkpointing_does_not_disturb(tmp_path, schedule, reentrant):
    plain = runs.trained(tmp_path / "a", Recorder, gradient_checkpointing=False, **schedule)
    checkpointed = runs.trained(
        tmp_path / "b",
        Recorder,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        **schedule,
    )
    for key, weights in plain.weights_by_row().items():
        assert torch.equal(weights, checkpointed.weights_by_row()[key])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lora_with_a_reference_pass_reads_the_policy(tmp_path, schedule):
    """The reference pass runs the same modules with the adapter off; its attention is another."""
    auto, auxiliary = (
        runs.trained(
            tmp_path / mode,
            Recorder,
            model=tiny.model_of("llama", spread=0.15),
            peft_config=LORA,
            beta=0.1,
            credit_attention=mode,
            **schedule,
        )
        for mode in ("auto", "auxiliary")
    )
    one, two = auto.weights_by_row(), auxiliary.weights_by_row()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_buffered_advantages_are_never_weighted_twice(tmp_path):
    made = runs.trained(tmp_path, Recorder, num_iterations=3, steps_per_generation=2)
    first, again = made.seen[0], made.seen[2]  # the same rollouts in the next iteration
    assert torch.equal(first["credit_keys"], again["credit_keys"])
    assert torch.equal(first["advantages"], again["advantages"]) and first["advantages"].dim() == 1


@pytest.mark.parametrize("loss", ["dapo", *thorough("grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")])
def test_every_loss_type_takes_credit(tmp_path, loss):
    weighted = runs.trained(tmp_path / "a", loss_type=loss, max_steps=1)
    uniform = runs.trained(tmp_path / "b", loss_type=loss, max_steps=1, credit_strategy="uniform")
    assert all(torch.isfinite(value).all() for value in runs.parameters(weighted).values())
    assert weighted.state.log_history[0]["reward"] == uniform.state.log_history[0]["reward"]
    assert any(
        not torch.equal(value, runs.parameters(uniform)[name]) for name, value in runs.parameters(weighted).items()
    )


@pytest.fixture(scope="module", params=SCHEDULES)
def uniform(request, tmp_path_factory):
    """A schedule, and what uniform writes in its first rollout."""
    made = runs.trained(tmp_path_factory.mktemp("uniform"), credit_strategy="uniform", max_steps=1, **request.param)
    return request.param, made._logs["completion"]


@pytest.mark.parametrize(
    "strategy", ["random", *thorough("entropy", "local_chunk", "global_anchor"), "coupled_rhythm"]
)
def test_strategies_see_the_same_first_rollouts(tmp_path, strategy, uniform):
    schedule, completions = uniform
    made = runs.trained(tmp_path, credit_strategy=strategy, max_steps=1, **schedule)
    assert made._logs["completion"] == completions
    logs = made.state.log_history[0]
    assert 1 < logs["credit/weight_mean"] < 1.5
    assert 0 < logs["credit/amplified_share"] < 1
    assert 0 <= logs["credit/time_share"] < 1


def test_evaluation_is_uniform(tmp_path):
    made = runs.trainer(tmp_path, eval_dataset=tiny.prompts(4), per_device_eval_batch_size=4)
    loss = made.evaluate()["eval_loss"]
    uniform = runs.trainer(
        tmp_path, eval_dataset=tiny.prompts(4), per_device_eval_batch_size=4, credit_strategy="uniform"
    )
    assert loss == uniform.evaluate()["eval_loss"]


def test_completions_table_shows_the_weights(tmp_path):
    import pandas as pd

    made = runs.trained(tmp_path, Recorder, log_completions=True, max_steps=1, num_completions_to_print=0)
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    expected = made._buffered_inputs
    for batch in expected:
        for key, weights, mask in zip(
            batch["credit_keys"].tolist(), batch["credit_weights"], batch["completion_mask"].bool(), strict=True
        ):
            assert table["credit_weight_mean"][key[1]] == pytest.approx(weights[mask].mean().item(), abs=1e-6)


def test_a_pass_with_the_adapter_off_is_never_read(tmp_path):
    from rlcredit.trainers.grpo import _Reading

    made = runs.trainer(tmp_path, model=tiny.model_of("llama", spread=0.15), peft_config=LORA, beta=0.1)
    found = []
    made._reading = _Reading(lambda width: None, found.append)
    ids = torch.randint(2, 40, (2, 12))
    with made.model.disable_adapter():
        made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
    assert not found
    made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
    made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
    assert len(found) == 1  # and only once


def test_the_order_of_prompts_is_trls_in_every_epoch():
    from trl.trainer.utils import RepeatSampler

    from rlcredit.trainers.sampler import EpochSampler

    def sampler():
        return RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=2, shuffle=True, seed=5)

    theirs, epoch = sampler(), [0]
    ours = EpochSampler.like(sampler(), epoch=lambda: epoch[0])
    for epoch[0] in range(3):
        order = list(theirs)
        assert list(ours) == order
        fresh = EpochSampler.like(sampler(), epoch=lambda: epoch[0])
        assert list(fresh) == order  # as a resumed run finds it
