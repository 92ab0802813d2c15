"""The launch configs that are shipped are accelerate's: it knows every key, and starts what the file says."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from rlcredit.config import recipes_root

FILES = sorted((recipes_root() / "accelerate").glob("*.yaml"))
FLAGS = {action.dest for action in launch_command_parser()._actions}


def test_there_is_a_file_a_way_to_launch():
    assert [path.stem for path in FILES] == ["ddp", "fsdp2", "multi_node", "single", "zero2", "zero3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    config = load_config_from_file(str(path))  # refuses unknown keys, though not those inside a mapping
    inside = {**config.fsdp_config, **config.deepspeed_config}
    assert set(inside) <= FLAGS
    assert bool(config.fsdp_config) == (config.distributed_type == "FSDP")
    assert bool(config.deepspeed_config) == (config.distributed_type == "DEEPSPEED")
    # with less, every process would train alone; with several machines all of their processes are counted
    assert config.num_processes == (1 if path.stem == "single" else 2)
    assert config.num_machines == (2 if path.stem == "multi_node" else 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_how_it_is_used(path):
    assert f"--config_file recipes/accelerate/{path.name}" in path.read_text()
