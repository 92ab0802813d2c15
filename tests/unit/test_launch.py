"""What a launch for an engine sets on a machine without an accelerator, before anything reads it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from rlcredit.trainers import launch

VARIABLES = ("ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION",
             "DS_ACCELERATOR")  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:  # setenv first: what is deleted then was noted, and comes back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(launch, "is_deepspeed_available", lambda: True)
    return monkeypatch


@pytest.mark.parametrize(("engine", "cpu", "flags"), [
    (None, "true", []),
    ("FSDP", "true", []),
    ("DEEPSPEED", "false", ["--ddp_backend", "gloo"]),  # accelerate leaves DeepSpeed out where it is "true"
])  # fmt: skip
def test_a_cpu_runs_the_engine_that_it_was_launched_for(environment, engine, cpu, flags):
    if engine:
        environment.setenv(f"ACCELERATE_USE_{engine}", "true")
    environment.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # of the user's launch file: the recipe decides
    assert launch.choose_device() == flags
    assert os.environ["ACCELERATE_USE_CPU"] == cpu and os.environ["ACCELERATE_MIXED_PRECISION"] == "no"
    assert ("DS_ACCELERATOR" in os.environ) == (engine == "DEEPSPEED")


def test_where_there_is_an_accelerator_nothing_but_the_precision_is_set(environment):
    environment.setattr(torch.accelerator, "is_available", lambda: True)
    environment.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert launch.choose_device() == []
    assert "ACCELERATE_USE_CPU" not in os.environ and "DS_ACCELERATOR" not in os.environ


def test_the_engine_in_words(environment):
    of = launch.engine_of
    assert of(SimpleNamespace(deepspeed_plugin=None, fsdp_plugin_args=None)) == "ddp"
    assert of(SimpleNamespace(deepspeed_plugin=None, fsdp_plugin_args={})) == "fsdp"
    assert of(SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3), fsdp_plugin_args=None)) == "zero3"
    environment.setenv("ACCELERATE_USE_FSDP", "true")
    assert of(SimpleNamespace(deepspeed_plugin=None, fsdp_plugin_args=None)) == "fsdp"
