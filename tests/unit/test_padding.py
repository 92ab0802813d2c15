"""Padding that is cut before the loss: by hand, and against the loss of the whole width, for every term of TRL's."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DogeConfig, GPT2Config, LlamaConfig

from rlcredit import CreditGRPOConfig, CreditPPOTrainer
from rlcredit.models.padding import COMPLETION, PROMPT, by_length, cut_padding, ignores_padding
from tests import runs, tiny

LOSSES = ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
LENGTHS = torch.tensor([[2], [5], [7], [3]])
SETTINGS = {
    "entropy quantile": dict(top_entropy_quantile=0.5),
    "entropy bonus": dict(entropy_coef=0.1),
    "sequence ratios": dict(importance_sampling_level="sequence"),
    "off-policy mask": dict(off_policy_mask_threshold=0.01),
    "truncated": dict(mask_truncated_completions=True),
}


def batch_by_hand():
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    return {
        "prompt_ids": torch.tensor([[9, 9, 1], [9, 2, 3]]),
        "prompt_mask": torch.tensor([[0, 0, 1], [0, 1, 1]]),
        "completion_ids": torch.arange(10).view(2, 5),
        "completion_mask": mask,
        "tool_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1]]),
        "importance_sampling_ratio": torch.ones(2, 1),
        "advantages": torch.ones(2),
        "credit_keys": torch.zeros(2, 5),
        "num_items_in_batch": torch.tensor(5),
    }


def test_by_hand():
    batch = batch_by_hand()
    cut_padding(batch)
    assert batch["prompt_ids"].tolist() == [[9, 1], [2, 3]] and batch["prompt_mask"].tolist() == [[0, 1], [1, 1]]
    assert batch["completion_ids"].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert batch["tool_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]  # what a tool wrote is attended to: kept
    shapes = [tuple(batch[name].shape) for name in ("importance_sampling_ratio", "advantages", "credit_keys")]
    assert shapes == [(2, 1), (2,), (2, 5)]


def test_rows_of_like_length_share_a_micro_batch_of_their_step():
    """Two steps of two micro-batches of two rows; a row is its number and its length."""
    lengths = [[1, 4], [3, 2], [2, 2], [1, 3]]
    parts = []
    for number, own in enumerate(lengths):
        mask = (torch.arange(4) < torch.tensor(own)[:, None]).int()
        rows = torch.arange(2) + 2 * number
        parts.append({"prompt_mask": torch.ones(2, 1).int(), "completion_mask": mask, "rows": rows, "items": own[0]})
    sorted_parts = by_length(parts, 2)
    assert [part["rows"].tolist() for part in sorted_parts] == [[1, 2], [3, 0], [7, 4], [5, 6]]
    assert [part["completion_mask"].sum(1).tolist() for part in sorted_parts] == [[4, 3], [2, 1], [3, 2], [2, 1]]
    assert [part["items"] for part in sorted_parts] == [1, 3, 2, 1]  # what is not of rows stays where it was
    assert by_length([part | {"pixel_values": None} for part in parts], 2)[1]["rows"].tolist() == [2, 3]


def test_multiples_images_and_rows_without_any_token():
    batch = batch_by_hand()
    cut_padding(batch, multiple=2)
    assert batch["prompt_ids"].shape == (2, 2) and batch["completion_ids"].shape == (2, 4)
    cut_padding(batch, multiple=8)
    assert batch["completion_ids"].shape == (2, 4)
    batch["completion_mask"] = torch.zeros(2, 4, dtype=torch.int64)
    cut_padding(batch)
    assert batch["completion_ids"].shape == (2, 1)
    images = batch_by_hand() | {"pixel_values": torch.zeros(2, 3)}
    cut_padding(images)
    assert images["prompt_ids"].shape == (2, 3) and images["completion_ids"].shape == (2, 5)


def test_models_that_see_padding_are_left_alone():
    assert ignores_padding(LlamaConfig()) and not ignores_padding(GPT2Config())
    assert not ignores_padding(DogeConfig())  # its keys are chosen with the padding among them
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    assert not ignores_padding(LlamaConfig(rope_parameters=dynamic))


def short_rows(batch):
    """The rows with short prompts and completions, so that there is padding; the rest of the row is masked."""
    batch["prompt_ids"], batch["prompt_mask"] = (
        torch.nn.functional.pad(batch[name], (3, 0), value=value) for name, value in zip(PROMPT, (5, 0), strict=True)
    )
    batch["completion_mask"] = (torch.arange(batch["completion_ids"].shape[1]) < LENGTHS).int()
    return batch


def losses_of(made, batch):
    """Losses and gradients with the padding, and cut."""
    results = []
    for cut in (False, True):
        part = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        if cut:
            cut_padding(part)
            assert part["prompt_ids"].shape[1] < batch["prompt_ids"].shape[1]
            assert part["completion_ids"].shape[1] == 7 < batch["completion_ids"].shape[1]
        made.model.zero_grad()
        made._metrics["train"].clear()
        loss = made._compute_loss(made.model, part)
        loss.backward()
        gradients = [p.grad.clone() for p in made.model.parameters() if p.grad is not None]
        results.append((loss.detach(), gradients, copy.deepcopy(made._metrics["train"])))
    return results


def compare(made, vllm=False, **more):
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made._trims = False
    torch.manual_seed(0)
    batch = short_rows(dict(made._prepare_inputs(next(iter(made.get_train_dataloader())))))
    shape = batch["completion_ids"].shape
    batch |= {name: make(shape) for name, make in more.items()}
    made.use_vllm = made.vllm_importance_sampling_correction = vllm
    (whole, whole_gradients, whole_metrics), (loss, gradients, metrics) = losses_of(made, batch)
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=1e-6)  # float32, another order of sums
    for cut, own in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(cut, own, rtol=1e-4, atol=5e-6)
    assert any(value.abs().max() > 0 for value in gradients)
    timed = ("credit/seconds", "credit/time_share")
    for name in metrics.keys() - timed:
        assert metrics[name] == pytest.approx(whole_metrics[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def near(shape):
    return 1 + 0.1 * torch.randn(shape)


def one_outside(make):
    """TRL's ratio is 1 where nothing was written, which vespo, whose sum is not masked, relies on."""
    return lambda shape: torch.where(torch.arange(shape[1]) < LENGTHS, make(shape), 1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_old_and_reference_log_probabilities_and_tools(tmp_path, loss):
    made = runs.trainer(tmp_path, credit_strategy="uniform", loss_type=loss, beta=0.1)
    old = lambda shape: -3 * near(shape)  # noqa: E731
    compare(made, tool_mask=lambda shape: (torch.rand(shape) < 0.8).int(), old_per_token_logps=old)


@pytest.mark.parametrize("loss", ["grpo", "vespo"])
@pytest.mark.parametrize("width", ["token", "sequence"])
def test_vllms_corrections(tmp_path, loss, width):
    made = runs.trainer(tmp_path, credit_strategy="uniform", loss_type=loss)
    ratios = {"token": one_outside(near), "sequence": lambda shape: near((shape[0], 1))}[width]
    compare(made, vllm=True, importance_sampling_ratio=ratios, sampling_per_token_logps=lambda shape: -3 * near(shape))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_other_term(tmp_path, name):
    compare(runs.trainer(tmp_path, credit_strategy="uniform", loss_type="grpo", **SETTINGS[name]))


@pytest.mark.parametrize("strategy", ["coupled_rhythm", "entropy"])
@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED], ids=["aligned", "misaligned"])
def test_a_run_with_credit_is_the_same_run(tmp_path, strategy, schedule):
    options = dict(credit_strategy=strategy, max_steps=2, num_iterations=2, reward=tiny.count_digits, **schedule)
    assert_same_run(tmp_path, **options)


def test_a_run_of_ppo_is_the_same_run(tmp_path):
    assert_same_run(tmp_path, CreditPPOTrainer, max_steps=2, value_clip=0.2)


def assert_same_run(folder, *args, **options):
    made = [runs.trained(folder / str(trim), *args, trim_padding=trim, **options) for trim in (False, True)]
    whole, cut = (runs.parameters(run) for run in made)
    for name, value in whole.items():  # Adam divides by the size of a gradient: a learning rate of 1e-3
        torch.testing.assert_close(cut[name], value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("strategy", ["coupled_rhythm", "otb"])
@pytest.mark.parametrize(
    "schedule",
    [
        dict(steps_per_generation=4, gradient_accumulation_steps=2, num_iterations=2),
        pytest.param(dict(steps_per_generation=2, gradient_accumulation_steps=4), marks=pytest.mark.thorough),
    ],
)
def test_a_run_whose_rows_are_sorted_is_the_same_run(tmp_path, strategy, schedule):
    # Adam divides by the gradient's size: where that is near its epsilon of 1e-8, rounding would become a step
    settings = dict(max_completion_length=40, learning_rate=1e-4, adam_epsilon=1e-6, max_steps=3, **schedule)
    plain, ordered = (
        runs.trained(tmp_path / str(sort), credit_strategy=strategy, sort_by_length=sort, **settings)
        for sort in (False, True)
    )
    widths = [part["completion_ids"].shape[1] for part in ordered._buffered_inputs]
    assert widths != [part["completion_ids"].shape[1] for part in plain._buffered_inputs]
    torch.testing.assert_close(runs.parameters(ordered), runs.parameters(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [dict(loss_type="bnpo"), dict(entropy_coef=0.1), dict(top_entropy_quantile=0.5)])
def test_sorting_is_refused_where_a_micro_batch_has_means_of_its_own(tmp_path, other):
    with pytest.raises(ValueError, match=rf"sort_by_length: {next(iter(other))}: .* leave one of them out"):
        runs.arguments(tmp_path, CreditGRPOConfig, sort_by_length=True, **other)
    with pytest.raises(ValueError, match="sort_by_length: saves nothing with trim_padding: false"):
        runs.arguments(tmp_path, CreditGRPOConfig, sort_by_length=True, trim_padding=False)


def test_all_that_a_run_holds_of_each_token_is_cut(tmp_path):
    for kind, options in (("grpo", dict(beta=0.1)), ("ppo", {})):
        made = runs.trained(tmp_path / kind, *[CreditPPOTrainer] * (kind == "ppo"), max_steps=1, **options)
        for part in made._buffered_inputs:
            shape = part["completion_ids"].shape
            of_tokens = {n for n, v in part.items() if isinstance(v, torch.Tensor) and v.shape == shape}
            assert of_tokens - {"credit_keys", *PROMPT} <= set(COMPLETION)
