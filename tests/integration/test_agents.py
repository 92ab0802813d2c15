"""Runs with tools, environments and rollout functions: what they wrote carries no credit and no loss."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcredit import Credit, CreditGRPOConfig, CreditGRPOTrainer, CreditPPOConfig, CreditPPOTrainer, Strategy
from rlcredit.config import recipes_root
from rlcredit.tasks import TASKS
from rlcredit.tasks.arithmetic import evaluate
from rlcredit.tasks.products import calculator, check
from rlcredit.trainers.rows import loss_mask, response_mask
from tests import command, runs

POLICY = recipes_root() / "tools_tiny/policy"
GIVEN = []


def _assign(batch):
    GIVEN.append(batch)
    marks = torch.arange(batch.response.numel(), dtype=torch.float32).view(batch.response.shape)
    return Credit.of(2 + marks)  # outside the response too


spy = Strategy(_assign, needs={"attention", "entropy", "ids", "turns", "text", "answer"})


class Keeping:
    """Keeps each rollout."""

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        self.rollouts = [*getattr(self, "rollouts", []), dict(batch)]
        return batch


class Seen(Keeping, CreditGRPOTrainer):
    pass


class SeenPPO(Keeping, CreditPPOTrainer):
    pass


class Desk:
    """An environment with the calculator, which owns a reward."""

    def reset(self, **columns):
        self.asked = 0

    def calculator(self, expression: str) -> str:
        """Work out an arithmetic expression.

        Args:
            expression: Whole numbers with + - * / and brackets.

        Returns:
            Its exact value.
        """
        self.asked += 1
        return str(evaluate(expression).value)

    def get_reward(self) -> float:
        return 0.1 * self.asked


def by_hand(prompts, trainer):
    """A call and its value, written by a rollout function: the environment's tokens are masked by it."""
    tokenizer, device = trainer.processing_class, trainer.accelerator.device
    rows = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": [], "seen": []}
    for number, prompt in enumerate(prompts):
        before = tokenizer(f"<user>{prompt[0]['content']}<assistant>")["input_ids"]
        call = tokenizer(f"<call>calculator expression={prompt[0]['content']}</call><eos>")["input_ids"]
        value = tokenizer(f"<tool>{calculator(prompt[0]['content'])}<assistant>")["input_ids"]
        answer = tokenizer(f"<answer>{calculator(prompt[0]['content']) if number % 2 else 7}</answer><eos>")[
            "input_ids"
        ]
        ids, mask = [*call, *value, *answer], [1] * len(call) + [0] * len(value) + [1] * len(answer)
        logps = torch.zeros(len(ids), device=device).tolist()
        for name, value in zip(rows, (before, ids, logps, mask, True), strict=True):
            rows[name].append(value)
    return rows


def trained(folder, kind=Seen, schedule=runs.MISALIGNED, **parts):
    GIVEN.clear()
    task = TASKS["products"]({"num_train": 64, "num_test": 8})
    settings = dict(max_completion_length=40, credit_strategy=f"{__name__}:spy", max_steps=2, learning_rate=1e-4)
    settings |= dict(per_device_train_batch_size=16)
    config = CreditPPOConfig if issubclass(kind, CreditPPOTrainer) else CreditGRPOConfig
    made = kind(
        AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32),
        task.rewards,
        args=runs.arguments(folder, config, **{**settings, **schedule, **parts.pop("changes", {})}),
        train_dataset=task.train,
        eval_dataset=parts.pop("eval_dataset", None),
        processing_class=AutoTokenizer.from_pretrained(POLICY),
        answer_span=task.answer_span,
        **parts,
    )
    made.train()
    return made


@pytest.mark.parametrize("schedule", [runs.MISALIGNED, runs.ALIGNED], ids=["misaligned", "aligned"])
@pytest.mark.parametrize(
    "parts",
    [{"tools": [calculator]}, {"environment_factory": Desk}, {"rollout_func": by_hand}],
    ids=["tools", "environment", "rollout_func"],
)
def test_credit_never_lands_on_what_a_tool_wrote(tmp_path, schedule, parts):
    made = trained(tmp_path, schedule=schedule, **parts)
    calls = [calls_in(made, batch, given) for batch, given in zip(made.rollouts, GIVEN, strict=True)]
    assert sum(calls) > 2
    if "environment_factory" in parts:
        assert "rewards/Desk/mean" in made.state.log_history[0]


def calls_in(made, batch, given) -> int:
    """How often a tool was called in a rollout, whose credit is where the policy wrote and nowhere else."""
    length, tokenizer = batch["completion_ids"].shape[1], made.processing_class
    tool, assistant = (tokenizer(f"<{role}>")["input_ids"][0] for role in ("tool", "assistant"))
    assert torch.equal(given.response, response_mask(batch))
    calls = 0
    for row, ids in enumerate(batch["completion_ids"].tolist()):
        written, turns, turn, by_tool = [], [], 0, False
        for token, real in zip(ids, batch["completion_mask"][row].tolist(), strict=True):
            by_tool = by_tool or token == tool  # which writes up to <assistant>
            written.append(bool(real) and not by_tool)
            turns.append(turn if written[-1] else -1)
            if by_tool and token == assistant:
                by_tool, turn = False, turn + 1
        calls += turn
        mine, weights = torch.tensor(written), batch["credit_weights"][row]
        assert torch.equal(loss_mask(batch)[row].bool(), mine)
        assert torch.equal(given.response[row, -length:], mine)
        assert given.rollout.turns[row, -length:].tolist() == turns
        assert (weights[~mine] == 1).all() and (weights[mine] >= 2).all()
        for x_BN in (given.signals.waad, given.signals.entropy):
            assert torch.equal(x_BN[row, -length:].isfinite(), mine)
        assert not given.rollout.answer[row, -length:][~mine].any()
        if turn:
            text = "".join(given.rollout.text[row])
            question = text.removeprefix("<user>").partition("<")[0]
            assert (
                f"</call><eos><tool>{calculator(question)}<assistant>" in text or "expression=" + question not in text
            )
    return calls


def test_tokens_of_a_tool_have_no_part_in_the_gradient(tmp_path):
    """Whatever weight they would have: the loss of a rollout is the same."""
    made = trained(tmp_path, tools=[calculator], changes={"max_steps": 1})
    batch = next(part for part in made.rollouts if (loss_mask(part) < part["completion_mask"]).any())
    losses = []
    for weight in (1.0, 100.0):
        changed = {**batch, "credit_weights": batch["credit_weights"].where(loss_mask(batch).bool(), weight)}
        made.model.zero_grad()
        loss = made._compute_loss(made.model, changed)
        loss.backward()
        losses.append([loss.detach(), *(p.grad.norm() for p in made.model.parameters())])
    assert losses[0] == losses[1] and losses[0][1] > 0


def test_ppo_values_what_the_policy_wrote(tmp_path):
    made = trained(tmp_path, SeenPPO, tools=[calculator])
    batch = made.rollouts[0]
    assert (loss_mask(batch) < batch["completion_mask"]).any()
    assert (batch["advantages"][loss_mask(batch) == 0] == 0).all()
    assert made.state.global_step == 2 and made.bad_steps.total == 0


def test_evaluation_calls_tools_too(tmp_path):
    task = TASKS["products"]({"num_train": 64, "num_test": 8})
    evaluation = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "num_generations_eval": 2,
        "per_device_eval_batch_size": 8,
    }
    made = trained(
        tmp_path, tools=[calculator], eval_dataset=task.tests["products"], changes={**evaluation, "max_steps": 1}
    )
    (line,) = [line for line in made.state.log_history if "eval_reward" in line]
    assert "eval_tools/call_frequency" in line and 0 <= line["eval_reward"] <= 1


def test_a_checker_of_products():
    rows = [{"a": 37, "b": 46}] * 5
    texts = ["<answer>1702</answer>", "<answer>01702</answer>", "<answer>1703</answer>", "1702", "<answer>-1</answer>"]
    assert [verdict.correct for verdict in check(texts, rows)] == [1, 1, 0, 0, 0]
    assert [verdict.answer for verdict in check(texts, rows)] == ["1702", "1702", "1703", None, None]


@pytest.mark.slow
def test_the_recipe_learns_to_call_the_tool(tmp_path):
    done = command.run("--config=tools_tiny/coupled_rhythm", f"--output_dir={tmp_path}", "--disable_tqdm=true")
    assert done.returncode == 0, done.stderr
    rewards = [line["reward"] for line in command.lines_of(tmp_path) if "reward" in line]
    assert sum(rewards[:2]) / 2 < 0.5 and sum(rewards[-5:]) / 5 > 0.85
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["evaluate"].startswith("the policy was trained with tools, and evaluate answers without")


@pytest.mark.thorough
def test_an_evaluation_on_start_alone_has_its_set(tmp_path):
    words = ("--eval_strategy=no", "--max_steps=1", f"--output_dir={tmp_path}", "--disable_tqdm=true")
    done = command.run("--config=tools_tiny/coupled_rhythm", *words)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in command.lines_of(tmp_path) if "eval/reward" in line] == [0]
