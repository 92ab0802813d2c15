"""PPO: what enters TRL's loss, what the critic sees and learns, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForTokenClassification, LlamaConfig
from trl import GRPOTrainer

from rlcredit import CreditPPOConfig, CreditPPOTrainer
from rlcredit.credit.gae import gae
from rlcredit.errors import InputError
from rlcredit.models import value_model
from rlcredit.trainers.rows import joined, loss_mask
from tests import runs, tiny

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


class Recorder(CreditPPOTrainer):
    """Keeps every rollout, and every batch with its loss."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.rollouts = [*getattr(self, "rollouts", []), {k: v for k, v in output.items() if v is not None}]
        self.rollouts[-1]["scores"] = self._total_scores(len(output["completion_ids"]))
        return output

    def _compute_loss(self, model, inputs):
        logps = logps_of(self, inputs)
        loss = super()._compute_loss(model, inputs)
        self.losses = [*getattr(self, "losses", []), (dict(inputs), logps, loss.detach())]
        return loss


def at_last_token(scores, written):
    """Each score on the last token that the model wrote: [B, T]."""
    rewards = torch.zeros(written.shape)
    for row, (score, mask) in enumerate(zip(scores.tolist(), written, strict=True)):
        rewards[row, mask.nonzero()[-1]] = score
    return rewards


@torch.no_grad()
def logps_of(made, batch):
    """Log-probability of each completion token, from a plain forward."""
    ids = joined(batch, "ids")
    logits = made.model(input_ids=ids, attention_mask=joined(batch, "mask")).logits / made.temperature
    logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logps[:, -batch["completion_ids"].shape[1] :]


def clipped_surrogate(made, batch, logps, advantages):
    """Eq. 5 by hand: mean over each response, then over responses."""
    ratio = (logps - batch["old_per_token_logps"]).exp()
    worse = torch.minimum(ratio * advantages, ratio.clamp(1 - made.epsilon_low, 1 + made.epsilon_high) * advantages)
    mask = loss_mask(batch)
    return -((worse * mask).sum(1) / mask.sum(1)).mean()


def test_uniform_credit_is_the_clipped_surrogate(tmp_path):
    made = runs.trained(tmp_path, Recorder, credit_strategy="uniform", loss_type="grpo", learning_rate=3e-3)
    moved = 0.0
    for batch, logps, loss in made.losses:
        wanted = clipped_surrogate(made, batch, logps, batch["advantages"])
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
        moved = max(moved, (logps - batch["old_per_token_logps"]).abs().max().item())
    assert moved > 0.05  # the policy has left the one that generated
    line = made.state.log_history[0]
    assert line["advantage/size_after_credit"] == line["advantage/size_before_credit"] > 0


@pytest.mark.parametrize("schedule", [pytest.param(runs.ALIGNED, marks=pytest.mark.thorough), runs.MISALIGNED])
@pytest.mark.parametrize("sign", ["both", "positive"])
def test_credit_multiplies_the_whitened_advantage(tmp_path, monkeypatch, schedule, sign):
    entered = []
    original = GRPOTrainer._compute_loss

    def spy(self, model, inputs):
        loss = original(self, model, inputs)
        entered.append(inputs["advantages"])
        return loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", spy)
    made = runs.trained(tmp_path, Recorder, credit_sign=sign, **schedule)
    assert len(entered) == len(made.losses)
    for (batch, _, _), advantages in zip(made.losses, entered, strict=True):
        weights = batch["credit_weights"]
        assert (weights > 1).any()
        if sign == "positive":
            weights = torch.where(batch["advantages"] > 0, weights, 1.0)
        assert torch.equal(advantages, batch["advantages"] * weights)


def test_advantages_are_gae_of_the_critics_values_and_the_scores(tmp_path):
    made = runs.trained(tmp_path, Recorder, gamma=0.9, gae_lambda=0.5, critic_learning_rate=1e-2, max_steps=8)
    early, late = made.rollouts[0], made.rollouts[-1]
    assert (early["values"] == 0).all() and (late["values"] != 0).any()  # the head starts at zero
    for rollout in made.rollouts:
        written = loss_mask(rollout).bool()
        rewards = at_last_token(rollout["scores"], written)
        advantages, returns = gae(rewards, rollout["values"], written, 0.9, 0.5)
        assert torch.allclose(rollout["returns"], returns, atol=1e-6)
        chosen = advantages[written]
        wanted = (chosen - chosen.mean()) / (chosen.var(unbiased=False) + 1e-8).sqrt()
        assert torch.allclose(rollout["advantages"][written], wanted, atol=1e-5)
        assert (rollout["advantages"][~written] == 0).all()
    line = next(line for line in reversed(made.state.log_history) if "value/mean" in line)
    assert {"value/loss", "value/return", "value/explained_variance"} <= line.keys()
    assert line["value/mean"] == pytest.approx(late["values"].sum().item() / late["valued"].sum().item(), abs=1e-5)
    assert line["advantage/size_after_credit"] > line["advantage/size_before_credit"] > 0


def test_rewards_of_steps_land_where_they_are_earned(tmp_path):
    def digits(completions, completion_ids, **kwargs):
        return [[float(2 <= token < 12) for token in ids] for ids in completion_ids]

    def half(completions, **kwargs):
        return [0.5] * len(completions)

    made = runs.trained(tmp_path, Recorder, reward=[digits, half], reward_weights=[2.0, 1.0], max_steps=4)
    for rollout in made.rollouts:
        written, ids = loss_mask(rollout).bool(), rollout["completion_ids"]
        rewards = 2.0 * ((ids >= 2) & (ids < 12)) * written + at_last_token(torch.full((len(ids),), 0.5), written)
        torch.testing.assert_close(rollout["scores"], rewards.sum(1))
        assert (rewards != 0).sum() > len(ids)
        _, returns = gae(rewards, rollout["values"], written, made.args.gamma, made.args.gae_lambda)
        torch.testing.assert_close(rollout["returns"], returns)


def test_values_are_of_the_position_before_a_token(tmp_path):
    made = runs.trainer(tmp_path, CreditPPOTrainer)
    torch.nn.init.normal_(value_model.head_of(made.critic.model).weight)
    ids = torch.randint(2, 40, (3, 20))
    real = torch.ones_like(ids)
    real[0, :5] = 0
    values = made.critic.values(ids, real, 8, 2)
    for t in range(8):  # nothing from the token on has a say
        alone = made.critic.model(input_ids=ids[:, : 12 + t], attention_mask=real[:, : 12 + t]).logits[:, -1, 0]
        assert torch.allclose(values[:, t], alone, atol=1e-4)  # six layers of rounding leave 1e-5; seeing t makes 1


def test_unscored_completions_are_left_out(tmp_path):
    def sometimes(completions, **kwargs):
        return [None if i % 4 == 1 else float(i) for i, _ in enumerate(completions)]

    made = runs.trained(tmp_path, Recorder, reward=sometimes, max_steps=1)
    rollout = made.rollouts[0]
    out = rollout["scores"].isnan()
    assert out.sum() == len(out) / 4
    assert (rollout["advantages"][out] == 0).all() and (rollout["returns"][out] == 0).all()
    assert not rollout["valued"][out].any()
    chosen = rollout["advantages"][rollout["valued"]]
    assert chosen.mean().abs() < 1e-6 and chosen.var(unbiased=False) == pytest.approx(1, abs=1e-4)


def test_tool_output_is_stepped_over(tmp_path):
    def rollout(prompts, trainer):
        ids = [torch.randint(2, 40, (14,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(99)]
        return {
            "prompt_ids": [[5, 6, 7 + i % 3] for i in range(len(prompts))],
            "completion_ids": ids[: len(prompts)],
            "logprobs": None,
            "env_mask": [[1] * 5 + [0] * 3 + [1] * 4 + [0] * 2 for _ in prompts],
        }

    made = runs.trainer(tmp_path, Recorder, max_steps=1, gamma=0.5, gae_lambda=1.0)
    made.rollout_func = rollout
    made.train()
    (found,) = made.rollouts
    assert (found["advantages"][:, [5, 6, 7, 12, 13]] == 0).all() and not found["valued"][:, [5, 12]].any()
    wanted = found["scores"][:, None] * 0.5 ** torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0])  # the values are zero
    assert torch.allclose(found["returns"][:, [0, 1, 2, 3, 4, 8, 9, 10, 11]], wanted)


def fixed_rollout(prompts, trainer):
    """Completions of 1 to 12 tokens, the same for the same prompts."""
    ids = [tiny.tokenizer()(prompt)["input_ids"] for prompt in prompts]
    made = [torch.Generator().manual_seed(99 * sum(row) + i) for i, row in enumerate(ids)]
    lengths = [1 + (5 * i + sum(row)) % 12 for i, row in enumerate(ids)]
    completions = [torch.randint(2, 40, (n,), generator=g).tolist() for n, g in zip(lengths, made, strict=True)]
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}


def sometimes_scored(completions, **kwargs):
    return [None if len(text) % 5 == 2 else len(text) / 10 for text in completions]


def after_three_steps(folder, per_device, steps):
    """The critic's parameters, and the value losses that were logged."""
    made = runs.trainer(
        folder,
        CreditPPOTrainer,
        reward=sometimes_scored,
        max_steps=3,
        critic_learning_rate=1e-2,
        adam_epsilon=0.1,  # with 1e-8 a gradient of 0 that is rounded another way is a step of the whole learning rate
        credit_strategy="uniform",
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=steps,
        steps_per_generation=steps,
    )
    made.rollout_func = fixed_rollout
    made.train()
    losses = [line["value/loss"] for line in made.state.log_history if "value/loss" in line]
    return {k: v.detach() for k, v in made.critic.model.named_parameters()}, losses


def test_the_value_loss_is_the_same_however_a_step_is_cut(tmp_path):
    (whole, losses), (parts, again) = (after_three_steps(tmp_path, rows, 16 // rows) for rows in (8, 2))
    assert again == pytest.approx(losses, abs=1e-5) and losses[0] > losses[-1] > 0
    # gradients are sums of a hundred terms below 1, so off by 1e-6; three steps of 1e-2 * 1e-6 / 0.1 make it 3e-7
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-6, rtol=0), name


def test_a_value_loss_is_a_mean_over_the_steps_valued_tokens(tmp_path):
    class Seen(CreditPPOTrainer):
        def _compute_loss(self, model, inputs):
            self.seen = [*getattr(self, "seen", []), dict(inputs)]
            return super()._compute_loss(model, inputs)

    made = runs.trainer(tmp_path, Seen, reward=sometimes_scored, max_steps=1, **runs.ALIGNED)
    made.rollout_func = fixed_rollout
    made.train()
    assert 0 < sum(batch["valued"].sum() for batch in made.seen) < sum(loss_mask(batch).sum() for batch in made.seen)
    errors = torch.cat([(batch["returns"] - batch["values"])[batch["valued"]] for batch in made.seen])
    wanted = 0.5 * (errors**2).mean()
    assert made.state.log_history[0]["value/loss"] == pytest.approx(wanted.item(), abs=1e-6)


def test_a_warm_up_longer_than_the_epochs_is_refused(tmp_path):
    made = runs.trainer(tmp_path, CreditPPOTrainer, max_steps=-1, num_train_epochs=1, critic_warmup_steps=999)
    with pytest.raises(InputError, match="critic_warmup_steps: 999 leaves the policy no step"):
        made.train()


def test_one_completion_a_prompt(tmp_path):
    made = runs.trained(tmp_path, Recorder, num_generations=1)
    assert not any("frac_reward_zero_std" in line for line in made.state.log_history)
    assert made.args.num_generations == 1 and type(made.args.num_generations) is int
    assert (made.rollouts[0]["advantages"] != 0).any() and made.state.global_step == 4


def test_the_critic_alone_learns_during_warm_up(tmp_path):
    class Watched(CreditPPOTrainer):
        def log(self, logs, *args):
            values = {"critic": value_model.head_of(self.critic.model).weight, "policy": self.model.model.norm.weight}
            self.history = [*getattr(self, "history", []), {k: v.detach().clone() for k, v in values.items()}]
            super().log(logs, *args)

    made = runs.trainer(tmp_path, Watched, critic_warmup_steps=2, weight_decay=0.1, critic_learning_rate=1e-2)
    first = made.model.model.norm.weight.detach().clone()
    made.train()
    one, two, three = made.history[:3]
    assert torch.equal(one["policy"], first) and torch.equal(two["policy"], first)
    assert not torch.equal(three["policy"], first)
    assert not torch.equal(one["critic"], two["critic"]) and (one["critic"] != 0).any()


def test_a_value_that_is_not_finite_is_a_bad_step(tmp_path):
    class Broken(CreditPPOTrainer):
        def _compute_loss(self, model, inputs):
            if self.state.global_step == 1:
                inputs["returns"] = inputs["returns"] * math.nan
            return super()._compute_loss(model, inputs)

    made = runs.trained(tmp_path, Broken, steps_per_generation=1)
    assert [line["bad_steps"] for line in made.state.log_history if "bad_steps" in line] == [0, 1, 1, 1]
    assert all(p.isfinite().all() for p in made.critic.model.parameters())


@pytest.mark.thorough
@pytest.mark.parametrize("schedule", [runs.ALIGNED, runs.MISALIGNED])
def test_kl_in_the_reward_is_taken_off_each_token_and_not_off_the_loss(tmp_path, schedule):
    settings = dict(peft_config=LORA, beta=0.5, kl_in_reward=True, credit_strategy="uniform", loss_type="grpo")
    made = runs.trained(tmp_path, Recorder, learning_rate=3e-2, max_steps=6, **settings, **schedule)
    assert made.beta == 0.5
    for number, rollout in enumerate(made.rollouts):
        if "old_per_token_logps" not in rollout:
            continue
        written = loss_mask(rollout).bool()
        divergence = (rollout["old_per_token_logps"] - rollout["ref_per_token_logps"]) * written
        assert number == 0 or divergence.abs().max() > 1e-3
        rewards = at_last_token(rollout["scores"], written) - 0.5 * divergence
        _, returns = gae(rewards, rollout["values"], written, 1.0, 0.95)
        assert torch.allclose(rollout["returns"], returns, atol=1e-5)
    for batch, logps, loss in made.losses:
        old = batch.get("old_per_token_logps", logps)
        wanted = clipped_surrogate(made, {**batch, "old_per_token_logps": old}, logps, batch["advantages"])
        assert loss.item() * made.current_gradient_accumulation_steps == pytest.approx(wanted.item(), abs=1e-5)
    kl = [line["kl_in_reward"] for line in made.state.log_history if "kl_in_reward" in line]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] != 0


@pytest.mark.thorough
def test_a_critic_from_a_path_keeps_its_head(tmp_path):
    config = LlamaConfig(**{**tiny.SHAPE, "num_hidden_layers": 2, "hidden_size": 16, "num_labels": 1})
    small = AutoModelForTokenClassification.from_config(config)
    small.save_pretrained(tmp_path / "critic")
    tiny.tokenizer().save_pretrained(tmp_path / "critic")
    made = runs.trained(tmp_path / "run", CreditPPOTrainer, critic_model_name_or_path=str(tmp_path / "critic"))
    assert made.critic.model.config.num_hidden_layers == 2
    made.save_model(str(tmp_path / "out"))
    again = runs.trainer(tmp_path / "b", CreditPPOTrainer, critic_model_name_or_path=str(tmp_path / "out" / "critic"))
    assert torch.equal(again.critic.model.score.weight, made.critic.model.score.weight)
    assert (again.critic.model.score.weight != small.score.weight).any()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_a_critic_starts_from_the_policys_weights(family):
    policy = tiny.model_of(family)
    made = value_model.load(policy, None, 0)
    assert all(torch.equal(v, made.base_model.state_dict()[k]) for k, v in policy.base_model.state_dict().items())
    logits = made(input_ids=torch.tensor([[2, 3, 4]]), attention_mask=torch.ones(1, 3)).logits
    assert logits.shape == (1, 3, 1) and (logits == 0).all()
    assert all(m.p == 0 for m in made.modules() if isinstance(m, torch.nn.Dropout))


def test_a_family_without_a_class_for_values_keeps_its_head(tmp_path):
    policy = tiny.model_of("gemma3")
    made = value_model.load(policy, None, 0)
    assert isinstance(made, value_model.ValueModel)
    torch.nn.init.normal_(made.score.weight)
    made.save_pretrained(str(tmp_path))
    again = value_model.load(policy, str(tmp_path), 0)
    assert torch.equal(again.score.weight, made.score.weight)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in made.state_dict().items())


def test_a_launcher_that_carries_one_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    args = CreditPPOConfig.__new__(CreditPPOConfig)  # making one would start the launcher's own set-up
    with pytest.raises(InputError, match="Megatron-LM's engine holds one model"):
        CreditPPOTrainer("no/such/policy", tiny.count_digits, args=args)


def test_a_critic_that_reads_other_tokens_is_refused(tmp_path):
    policy, tokenizer = tiny.model_of("llama"), tiny.tokenizer()
    with pytest.raises(InputError, match=r"critic_model_name_or_path: .*nowhere"):
        value_model.check(str(tmp_path / "nowhere"), policy.config, tokenizer)
    LlamaConfig(**{**tiny.SHAPE, "vocab_size": 77}).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="a vocabulary of 77, the policy one of"):
        value_model.check(str(tmp_path / "other"), policy.config, tokenizer)
    policy.config.save_pretrained(tmp_path / "same")
    value_model.check(str(tmp_path / "same"), policy.config, tokenizer)
    renamed = tiny.tokenizer()
    renamed.add_tokens(["<more>"])
    renamed.save_pretrained(tmp_path / "same")
    with pytest.raises(InputError, match="is not the policy's"):
        value_model.check(str(tmp_path / "same"), policy.config, tokenizer)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(gamma=1.1), "gamma: 1.1 .*from 0 to 1"),
        (dict(gae_lambda=-0.1), "gae_lambda: -0.1"),
        (dict(critic_warmup_steps=4, max_steps=4), "critic_warmup_steps: 4 leaves the policy no step"),
        (dict(critic_warmup_steps=-1), "critic_warmup_steps"),
        (dict(critic_learning_rate=0.0), "critic_learning_rate"),
        (dict(value_clip=0.0), "value_clip"),
        (dict(kl_in_reward=True), "write beta"),
        (dict(multi_objective_aggregation="normalize_then_sum"), "multi_objective_aggregation"),
        (dict(loss_type="vespo"), "one advantage a response"),
        (dict(off_policy_mask_threshold=0.1), "off_policy_mask_threshold"),
        (dict(importance_sampling_level="sequence", credit_strategy="uniform"), "importance_sampling_level"),
    ],
)
def test_settings_that_cannot_work_are_one_clear_line(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words) as error:
        CreditPPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)
    assert "\n" not in str(error.value)
