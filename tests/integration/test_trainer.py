"""The trainer against TRL's own, and the ways of reading attention against each other."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, TrlParser

from rlcredit import (
    CREDIT_STRATEGIES,
    CreditGRPOConfig,
    CreditGRPOTrainer,
    CreditPPOConfig,
    CreditPPOTrainer,
    Strategy,
    SturdyGRPOTrainer,
)
from rlcredit.errors import InputError
from rlcredit.trainers.grpo import AwaitedPass
from tests import runs, tiny
from tests.analyzed import Recorder, assert_as_analyzed

LORA = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)


def thorough(*values):
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


SCHEDULES = [
    pytest.param(runs.ALIGNED, id="aligned", marks=pytest.mark.thorough),
    pytest.param(runs.MISALIGNED, id="misaligned"),
]


@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_uniform_is_trl_bit_for_bit(tmp_path, schedule):
    theirs = runs.trained(tmp_path / "a", GRPOTrainer, credit_strategy="uniform", **schedule)
    ours = runs.trained(tmp_path / "b", credit_strategy="uniform", trim_padding=False, **schedule)
    for name, value in runs.parameters(theirs).items():
        assert torch.equal(value, runs.parameters(ours)[name]), name
    own = ("reward/unscored", "bad_steps")
    assert runs.logged(theirs) == runs.logged(ours, *own)


@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_uniform_without_the_padding_is_trl_to_rounding(tmp_path, schedule):
    # Adam divides by the gradient's size: where that is near its epsilon of 1e-8, rounding would become a step
    small = dict(learning_rate=1e-4, adam_epsilon=1e-6)
    settings = dict(credit_strategy="uniform", max_completion_length=48, **small, **schedule)
    theirs = runs.trained(tmp_path / "a", GRPOTrainer, **settings)
    ours = runs.trained(tmp_path / "b", **settings)
    assert len({part["completion_ids"].shape for part in ours._buffered_inputs}) > 1  # padding was cut
    torch.testing.assert_close(runs.parameters(ours), runs.parameters(theirs), rtol=0, atol=1e-6)
    for mine, wanted in zip(runs.logged(ours), runs.logged(theirs), strict=True):
        assert {name: mine[name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_weights_of_one_are_uniform_bit_for_bit(tmp_path):
    """Amplification 1 goes through every seam, and must change nothing."""
    uniform = runs.trained(tmp_path / "a", credit_strategy="uniform")
    ones = runs.trained(tmp_path / "b", credit_amplification=1.0)
    for name, value in runs.parameters(uniform).items():
        assert torch.equal(value, runs.parameters(ones)[name]), name


@pytest.mark.parametrize("grouping", ["response", *thorough("batch", "frozen")])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weights_are_those_of_the_analyzer(tmp_path, schedule, grouping):
    """Whichever pass they are read from: the loss, the scored rollout, or one of their own."""
    made = runs.trained(tmp_path, Recorder, credit_head_grouping=grouping, **schedule)
    assert len(made.weights_by_row()) >= 16
    assert_as_analyzed(made)


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
    policy = tiny.model_of("llama", spread=0.15)
    assert_as_analyzed(runs.trained(tmp_path, Recorder, model=policy, peft_config=LORA, beta=0.1, **schedule))


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
    made = runs.trainer(tmp_path, model=tiny.model_of("llama", spread=0.15), peft_config=LORA, beta=0.1)
    found = []
    ids = torch.randint(2, 40, (2, 12))
    with made._awaiting(AwaitedPass(then=found.append)):
        with made.model.disable_adapter():
            made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
        assert not found
        made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
        made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), 8)
    assert len(found) == 1  # and only once


raises = Strategy(lambda batch: {}["waad"])  # tests/unit/test_misbehaving_strategies.py has the other ways


@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_a_strategy_that_misbehaves_ends_before_the_first_step(tmp_path, schedule):
    made = runs.trainer(tmp_path, credit_strategy=f"{__name__}:raises", **schedule)
    with pytest.raises(InputError, match=r"raised KeyError: 'waad' \(.*test_trainer.py, line \d+\)") as error:
        made.train()
    assert made.state.global_step == 0 and "\n" not in str(error.value)


def test_images_are_refused_at_construction_where_they_would_be_left_out(tmp_path):
    from datasets import Dataset

    rows = Dataset.from_dict({"prompt": ["ab", "cd"], "image": [[0], [0]]})
    with pytest.raises(InputError, match="the critic is not given images"):
        runs.trainer(tmp_path, CreditPPOTrainer, train_dataset=rows)
    for grouping in ("batch", "frozen"):
        with pytest.raises(InputError, match=f"credit_head_grouping: {grouping} .* not given images: write response"):
            runs.trainer(tmp_path, train_dataset=rows, credit_head_grouping=grouping)
    for key, value in (("credit_normalize", "batch"), ("credit_strategy", "gtpo"), ("credit_strategy", "otb")):
        with pytest.raises(InputError, match=f"{key}: {value} needs .* a pass of its own that is not given images"):
            runs.trainer(tmp_path, train_dataset=rows, **runs.ALIGNED, **{key: value})


@pytest.mark.parametrize("name", ["monte_carlo", "otb", "gtpo", "ktae", "process"])
def test_options_of_one_sign_a_response_are_refused_where_strategies_give_several(tmp_path, name):
    for key, value in (("loss_type", "vespo"), ("off_policy_mask_threshold", 0.1)):
        with pytest.raises(ValueError, match=rf"^{key}: .* the strategy '{name}' (gives one a token|changes)"):
            runs.arguments(tmp_path, CreditGRPOConfig, credit_strategy=name, **{key: value})


@pytest.mark.parametrize("kind", [CreditGRPOTrainer, CreditPPOTrainer])
def test_a_config_of_trl_is_refused_with_one_line(tmp_path, kind):
    args = GRPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False)
    with pytest.raises(
        InputError, match=rf"args: {kind.__name__} takes a {kind.config_class.__name__}, not a GRPOConfig"
    ):
        kind(tiny.model_of("llama"), tiny.count_digits, args=args, train_dataset=tiny.prompts())


def test_a_sturdy_run_needs_no_credit(tmp_path):
    """The lower storey alone: TRL's own parameters, and a run that resumes bit for bit."""
    settings = dict(credit_strategy="uniform", save_strategy="steps", save_steps=2, trim_padding=False)
    theirs = runs.trained(tmp_path / "a", GRPOTrainer, **{**settings, "save_strategy": "no"})
    runs.trained(tmp_path / "b", SturdyGRPOTrainer, **settings, max_steps=2, lr_scheduler_type="constant")
    straight = runs.trained(tmp_path / "c", SturdyGRPOTrainer, **settings)
    resumed = runs.trainer(tmp_path / "c", SturdyGRPOTrainer, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "c" / "checkpoint-2"))
    for name, value in runs.parameters(theirs).items():
        assert torch.equal(value, runs.parameters(straight)[name]), name
        assert torch.equal(value, runs.parameters(resumed)[name]), name


def test_trls_own_parser_reads_the_configs(tmp_path):
    """A recipe for `trl`-like scripts: a string, a list or nothing for the layers, flags over the file."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path}\ncredit_layers: [1, 3]\ncredit_quantile: 0.2\nuse_cpu: true\nbf16: false\n"
    )
    for config in (CreditGRPOConfig, CreditPPOConfig):
        (args,) = TrlParser((config,)).parse_args_and_config(["--config", str(recipe), "--credit_alpha", "0.3"])
        assert (args.credit_layers, args.credit_quantile, args.credit_alpha) == ([1, 3], 0.2, 0.3)
        words = ["--config", str(recipe), "--credit_layers", "top", "--credit_fai_horizon", "5", "-1"]
        (args,) = TrlParser((config,)).parse_args_and_config(words)
        assert (args.credit_layers, args.horizon) == ("top", (5, -1))
        assert args.strategy is CREDIT_STRATEGIES["coupled_rhythm"]


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


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_run_decodes_by_its_own_settings(tmp_path, caplog, lora):
    """What the model's generation_config.json asks for changes no token of a rollout, and is said once."""
    extra = {} if lora is None else {"peft_config": lora}
    plain = runs.trained(tmp_path / "a", credit_strategy="uniform", max_steps=2, **extra)
    assert "generation_config.json" not in caplog.text
    model = tiny.model_of("llama", spread=0.15)
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.min_new_tokens = 16
    told = runs.trained(tmp_path / "b", model=model, credit_strategy="uniform", max_steps=2, **extra)
    assert runs.logged(told) == runs.logged(plain)
    assert caplog.text.count("leaves out min_new_tokens 16, no_repeat_ngram_size 1") == 1
    assert told.accelerator.unwrap_model(told.model).generation_config.no_repeat_ngram_size == 1  # saved as it came


@pytest.mark.parametrize("strategy", ["global_anchor", "local_chunk"])
def test_responses_too_short_for_fai_are_counted_and_said_once(tmp_path, caplog, strategy):
    """Of up to four tokens, where FAI begins ten tokens on."""
    made = runs.trained(tmp_path, credit_strategy=strategy, credit_fai_horizon=[10, 100], max_completion_length=4)
    warned = [text for text in caplog.messages if "no anchors" in text]
    counts = [line.get("credit/rows_without_fai") for line in runs.logged(made)]
    if strategy == "local_chunk":  # reads no FAI
        assert warned == [] and counts == [None] * 4
        return
    assert warned == [
        "16 of 16 responses of this batch have at most 10 tokens, and so no anchors: their weights stay 1. For short "
        "answers write credit_fai_horizon: [2, 100], say; credit/rows_without_fai counts them"
    ]
    assert counts == [16.0] * 4 and made.credit_log.rows_without_fai == 16
