"""Credit and the critic on modules that torch's `fully_shard` has cut over two processes, on the CPU over gloo.

accelerate shards on accelerators only: here the modules are cut by hand, and the accelerator is a real one of two CPU
processes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForTokenClassification

from rlcredit import CreditArguments, CreditGRPOTrainer, CreditPPOConfig, analyze
from rlcredit.attention.capture import StopForward
from rlcredit.credit import strategy_of
from rlcredit.models import value_model
from rlcredit.trainers import critic, shards
from rlcredit.trainers.bad_steps import BadSteps
from rlcredit.trainers.policy_step import PolicyStep
from rlcredit.trainers.reader import CreditReader
from tests import runs, tiny
from tests.integration.test_wrappers import ARGS, assert_same, batch, read_in_training

pytestmark = pytest.mark.slow
GROUPINGS = ("response", "batch", "frozen")
STATE = SimpleNamespace(max_steps=3, global_step=0)


def sharded(model: nn.Module) -> nn.Module:
    for layer in model.base_model.layers:
        fully_shard(layer)
    return fully_shard(model)


def join_group(rank: int, folder: Path, seconds: int = 300) -> None:
    """Make this process one of two."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", ACCELERATE_USE_CPU="true"
    )
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=seconds))


# ---- credit ---------------------------------------------------------------------------------------------------------


def rows_of(rank: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four rows a process, longer ones on the second; all eight, padded on the left, for None."""
    if rank is not None:
        length = (32, 40)[rank]
        ids = torch.randint(2, len(tiny.WORDS), (4, length), generator=torch.Generator().manual_seed(rank))
        real = torch.ones_like(ids)
        real[1, :4] = 0
        response = real.bool() & (torch.arange(length) >= 9 + 2 * rank)
        return ids, real, response, torch.stack([torch.zeros(4, dtype=torch.long), torch.arange(4) + 4 * rank], 1)
    parts = [rows_of(rank) for rank in range(2)]
    padded = [[nn.functional.pad(x, (40 - x.shape[1], 0)) for x in part[:3]] + [part[3]] for part in parts]
    return tuple(torch.cat(both) for both in zip(*padded, strict=True))


def credit_of(model: nn.Module, accelerator: Accelerator, rank: int | None) -> dict[str, list[torch.Tensor]]:
    """Weights, spans and head groups of a process's rows, by grouping, read two rows at a time in training."""
    found = {}
    for grouping in GROUPINGS:
        args = CreditArguments(**{**vars(ARGS), "credit_head_grouping": grouping})
        reader = CreditReader(args, strategy_of(args), accelerator)
        ids, real, response, keys = rows_of(rank)

        def passes(ids=ids, real=real):
            for two in range(0, len(ids), 2):
                rows = slice(two, two + 2)
                logits = model(input_ids=ids[rows], attention_mask=real[rows], use_cache=False).logits
                logits.float().logsumexp(-1).mean().backward()

        _, signals = reader.read(model, real, response, None, passes)
        weights = reader.credit(signals, response, keys).weights
        found[grouping] = [weights, signals.head_span, signals.local_heads, signals.global_heads]
        if grouping == "frozen":
            found["frozen groups"] = [reader.frozen.local_BLH, reader.frozen.global_BLH]
    return found


# ---- the critic -----------------------------------------------------------------------------------------------------


def model_of_values(seed: int = 1) -> nn.Module:
    model = value_model.load(tiny.model_of("llama", seed=seed, spread=0.15), None, 0)
    nn.init.normal_(model.score.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    return model


def made_critic(model: nn.Module, folder: Path, engine: DistributedType | None = None) -> critic.Critic:
    """A critic beside a policy that the engine holds; None: the one that the processes were started with."""
    args = runs.arguments(folder, CreditPPOConfig, critic_learning_rate=1e-3, max_grad_norm=0.1)
    accelerator = Accelerator(cpu=True)  # the arguments reset accelerate's state
    step, state = PolicyStep(accelerator), accelerator.state
    started_with, state.distributed_type = state.distributed_type, engine or state.distributed_type
    made = critic.Critic(model, args, accelerator, BadSteps(accelerator, step, 3, lambda total: None), step)
    state.distributed_type = started_with
    return made


def begin(made: critic.Critic) -> None:
    made.on_train_begin(made._args, STATE, None)


def micro_batches(step: int, rank: int | None) -> list[dict[str, torch.Tensor]]:
    """Two of two rows a process, whose numbers of valued tokens differ; both processes' rows together for None."""
    if rank is None:
        pairs = zip(micro_batches(step, 0), micro_batches(step, 1), strict=True)
        return [{name: torch.cat([one[name], two[name]]) for name in one} for one, two in pairs]
    found = []
    for part in range(2):
        made = torch.Generator().manual_seed(100 * step + 10 * part + rank)
        ids = torch.randint(2, len(tiny.WORDS), (2, 20), generator=made)
        valued = torch.arange(12) < torch.randint(1, 13, (2, 1), generator=made)
        found.append({"ids": ids, "returns": torch.randn(2, 12, generator=made), "valued": valued})
    return found


def tokens_of(step: int, processes: int) -> torch.Tensor:
    return sum(part["valued"].sum() for part in micro_batches(step, None)) / processes


def learn(made: critic.Critic, step: int, rank: int | None) -> float:
    """The gradient of a step, as the trainer's loop adds it up; gives this process's loss."""
    accelerator, loss = made._accelerator, 0.0
    for number, part in enumerate(micro_batches(step, rank)):
        accelerator.gradient_state._set_sync_gradients(number == 1)
        ids = part["ids"]
        loss += made.learn(ids, torch.ones_like(ids), part, tokens_of(step, accelerator.num_processes)).item()
    return loss


def steps(made: critic.Critic, numbers: range, rank: int | None) -> list[dict[str, Any]]:
    """Values, loss and gradients' norm of each step, and the parameters after it."""
    found, norms, clip = [], [], nn.utils.clip_grad_norm_

    def noting(*args, **kwargs):
        norm = clip(*args, **kwargs)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        return norm

    nn.utils.clip_grad_norm_ = noting
    for step in numbers:
        ids = torch.cat([part["ids"] for part in micro_batches(step, rank)])
        values = made.values(ids, torch.ones_like(ids), 12, 2)
        loss = learn(made, step, rank)
        made.on_pre_optimizer_step(made._args, STATE, None, model=nn.Linear(1, 1))
        state = shards.whole(made._accelerator.unwrap_model(made.model).state_dict(), True)
        found.append(
            {"values": values, "loss": loss, "norm": norms[-1], "state": {k: v.clone() for k, v in state.items()}}
        )
    nn.utils.clip_grad_norm_ = clip
    return found


def resumed(model: nn.Module, folder: Path, rank: int | None) -> dict[str, Any]:
    """The third step of a critic that was saved after two."""
    made = made_critic(model, folder, None if rank is None else DistributedType.FSDP)
    made.load(folder)
    begin(made)
    return steps(made, range(2, 3), rank)[0]


def gradients(made: critic.Critic) -> list[torch.Tensor]:
    found = [shards.whole(p.grad, True).clone() for p in made._parameters]
    made.optimizer.zero_grad()
    return found


# ---- two processes --------------------------------------------------------------------------------------------------


def _everything(rank: int, folder: Path) -> None:
    join_group(rank, folder)
    found: dict[str, Any] = {}

    policy = sharded(tiny.model_of("llama"))
    found["credit"] = credit_of(policy.train(), Accelerator(cpu=True), rank)
    for reentrant in (True, False):
        checkpointed = sharded(tiny.model_of("llama"))
        checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
        checkpointed.enable_input_require_grads()
        found[f"reentrant {reentrant}"] = [
            read_in_training(checkpointed.train(), batch()),
            analyze(checkpointed, *batch(), ARGS),
        ]

    for name, engine in (("ddp", None), ("sharded", DistributedType.FSDP)):
        made = made_critic(model_of_values(), folder / name, engine)
        begin(made)
        found[name] = steps(made, range(2), rank)
        (folder / name).mkdir(exist_ok=True)  # by both processes
        made.save(folder / name)
        found[name] += steps(made, range(2, 3), rank)
        made.save_pretrained(str(folder / name / "model"))
    for source in ("one", "ddp", "sharded"):  # `one` was written by one process
        found[f"resumed from {source}"] = resumed(model_of_values(seed=2), folder / source, rank)

    learn(made, 0, rank)
    once = gradients(made)
    for synchronised in (False, True):  # what accelerate's no_sync does to a sharded module
        made.model.set_requires_gradient_sync(synchronised)
        part = micro_batches(0, rank)[int(synchronised)]
        made.learn(part["ids"], torch.ones_like(part["ids"]), part, tokens_of(0, 2))
    found["no sync"] = max((a - b).abs().max().item() for a, b in zip(once, gradients(made), strict=True))

    torch.save(found, folder / f"found{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What two processes found, and what one process finds with the rows of both."""
    folder = tmp_path_factory.mktemp("sharded")
    made = made_critic(model_of_values(), folder / "one")
    begin(made)
    one = {"critic": steps(made, range(2), None)}
    (folder / "one").mkdir()
    made.save(folder / "one")
    one["critic"] += steps(made, range(2, 3), None)
    one["credit"] = credit_of(tiny.model_of("llama").train(), Accelerator(cpu=True), None)
    mp.spawn(_everything, (folder,), nprocs=2)
    return folder, one, [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same_step(found, wanted, tolerance=1e-5):
    """A step of both processes is that of the one with all rows."""
    assert sum(one["loss"] for one in found) / 2 == pytest.approx(wanted["loss"], abs=tolerance)
    for one in found:
        assert one["norm"].item() == pytest.approx(wanted["norm"].item(), rel=tolerance)
        for name, value in wanted["state"].items():
            assert torch.allclose(one["state"][name], value, atol=tolerance, rtol=0), name


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_credit_of_a_sharded_policy(ran, grouping):
    _, one, found = ran
    weights, span, local, far = one["credit"][grouping]
    for rank in range(2):
        rows, length = slice(4 * rank, 4 * rank + 4), (32, 40)[rank]
        got = found[rank]["credit"][grouping]
        assert torch.equal(got[0], weights[rows, 40 - length :]) and (got[0] > 1).any()
        assert torch.allclose(got[1], span[rows], atol=1e-4)
        groups = slice(None) if len(local) == 1 else rows
        assert torch.equal(got[2], local[groups]) and torch.equal(got[3], far[groups])


def test_frozen_groups_are_those_of_all_processes(ran):
    _, one, found = ran
    for got in found:
        assert all(map(torch.equal, got["credit"]["frozen groups"], one["credit"]["frozen groups"]))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_and_shards(ran, reentrant):
    plain = analyze(tiny.model_of("llama"), *batch(), ARGS)
    for got in ran[2]:
        for signals in got[f"reentrant {reentrant}"]:
            assert_same(signals, plain)


@pytest.mark.parametrize("kind", ["sharded", "ddp"])
def test_the_critic_of_two_processes_is_that_of_one(ran, kind):
    _, one, found = ran
    for step, wanted in enumerate(one["critic"]):
        got = [process[kind][step] for process in found]
        assert wanted["norm"] > 0.2  # the clip at 0.1 has something to do
        assert_same_step(got, wanted)
        values = torch.cat([process["values"].view(2, 2, 12) for process in got], dim=1).flatten(0, 1)
        assert torch.allclose(values, wanted["values"], atol=1e-5)


@pytest.mark.parametrize("source", ["one", "ddp", "sharded"])
def test_a_critic_resumes_on_one_process_and_on_two(ran, source):
    folder, one, found = ran
    assert_same_step([process[f"resumed from {source}"] for process in found], one["critic"][2])
    alone = resumed(model_of_values(seed=2), folder / source, None)
    assert_same_step([alone, alone], one["critic"][2])


def test_files_are_the_same_sharded_or_not(ran):
    folder, one, _ = ran
    states = [torch.load(folder / name / critic.STATE_FILE, weights_only=True) for name in ("one", "sharded")]
    whole, gathered = states
    assert whole.keys() == gathered.keys() and whole["scheduler"] == gathered["scheduler"]
    assert all(torch.allclose(v, gathered["model"][k], atol=1e-5) for k, v in whole["model"].items())
    assert whole["optimizer"]["param_groups"] == gathered["optimizer"]["param_groups"]
    for index, moments in whole["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.allclose(value, gathered["optimizer"]["state"][index][name], atol=1e-5)
    saved = AutoModelForTokenClassification.from_pretrained(folder / "sharded/model")
    assert saved.config.architectures == ["LlamaForTokenClassification"]
    state = saved.state_dict()
    assert all(torch.allclose(state[k], v, atol=1e-5) for k, v in one["critic"][2]["state"].items())


def test_gradients_that_are_synchronised_late_are_the_same(ran):
    assert all(got["no sync"] < 1e-6 for got in ran[2])


# ---- a forward that is cut short ------------------------------------------------------------------------------------


def rollout(rank: int) -> dict[str, torch.Tensor]:
    ids, real, _, keys = rows_of(rank)
    parts = {"prompt_ids": ids[:, :12], "completion_ids": ids[:, 12:]}
    return {**parts, "prompt_mask": real[:, :12], "completion_mask": real[:, 12:], "credit_keys": keys}


def left_whole(model: nn.Module) -> list[int]:
    """The layers whose weights are still gathered."""
    return [i for i, layer in enumerate(model.model.layers) if not isinstance(next(layer.parameters()), DTensor)]


def _cut_short(rank: int, folder: Path) -> None:
    join_group(rank, folder, seconds=10)

    class Trainer(CreditGRPOTrainer):
        is_sharded = True

    made = runs.trainer(folder / f"run{rank}", Trainer, model=tiny.model_of("llama"))
    sharded(made.model)
    signals = made._read_in_own_pass(rollout(rank)).signals
    assert left_whole(made.model) == []
    torch.save(signals, folder / f"signals{rank}.pt")
    Trainer.is_sharded = False
    made._read_in_own_pass(rollout(rank))
    last = made.reader._open(made.model, *rows_of(rank)[1:3], None)._layers[-1]
    assert left_whole(made.model) == [last]  # nobody has given them back
    ids, real, response, _ = rows_of(0)
    capture = made.reader._open(made.model, real, response, None, stop_early=rank == 0)
    with torch.no_grad(), capture.reading():
        if rank == 0:
            with suppress(StopForward):
                made.model(input_ids=ids, attention_mask=real)
        else:  # the layers that the other process leaves out
            with pytest.raises(RuntimeError, match=r"Timed out|closed|reset"):
                made.model(input_ids=ids, attention_mask=real)
                dist.barrier()
    (folder / f"waited{rank}").touch()


def test_a_forward_of_shards_runs_whole(tmp_path):
    mp.spawn(_cut_short, (tmp_path,), nprocs=2)
    assert {path.name for path in tmp_path.glob("waited*")} == {"waited0", "waited1"}
    for rank in range(2):
        whole = runs.trainer(tmp_path / "one", model=tiny.model_of("llama"))
        wanted = whole._read_in_own_pass(rollout(rank)).signals
        assert_same(torch.load(tmp_path / f"signals{rank}.pt", weights_only=False), wanted)
