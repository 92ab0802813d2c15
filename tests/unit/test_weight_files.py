"""Folders below a checkpoint, which engines that shard a run load as pickles: honest ones pass, and no code runs."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from dataclasses import dataclass
from enum import Enum, pickle_by_enum_name
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from rlcredit.errors import InputError
from rlcredit.models.weight_files import OF_DEEPSPEED, best_of, refuse_broken

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
FOLDER = "pytorch_model_fsdp_0"
MADE: dict[str, ModuleType] = {}  # modules with the names of DeepSpeed's


class Harm:
    """Unpickled, it makes its canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


class LossScaler:
    def __init__(self, scale: float) -> None:
        self.cur_scale = scale


class DynamicLossScaler(LossScaler):
    pass


class ZeroStageEnum(int, Enum):
    gradients = 2


@dataclass
class fragment_address:
    numel: int
    start: int


@pytest.fixture
def state(monkeypatch) -> dict:
    """What DeepSpeed saves of its optimizer, made of classes that have the names of DeepSpeed's."""
    for part in (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address):
        module = next(name for name in OF_DEEPSPEED if name.endswith(f".{part.__name__}")).rpartition(".")[0]
        for name in [module.rsplit(".", n)[0] for n in range(module.count(".") + 1)]:  # and the packages it is in
            monkeypatch.setitem(sys.modules, name, MADE.setdefault(name, ModuleType(name)))
        vars(MADE[module])[part.__name__] = part
        monkeypatch.setattr(part, "__module__", module)
    return {
        "loss_scaler": LossScaler(1.0),
        "dynamic": DynamicLossScaler(2.0),
        "zero_stage": ZeroStageEnum.gradients,
        "slices": {"a": fragment_address(numel=3, start=0)},
        "fp32": [torch.ones(3)],
    }


def deepspeed(top: Path, state: object, name: str = "global_step2") -> Path:
    (top / name).mkdir()
    (top / "latest").write_text(name)
    torch.save(state, top / name / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return top / name / "zero_pp_rank_0_mp_rank_00_optim_states.pt"


def distributed(top: Path) -> Path:
    """A checkpoint of torch's own, of a tensor and of a value that is none."""
    made = {"model": {"weight": torch.ones(3), "rate": 0.5}}
    dcp.save(made, storage_writer=dcp.FileSystemWriter(top / FOLDER), no_dist=True)
    return top / FOLDER / ".metadata"


def look(top: Path) -> None:
    refuse_broken(top, "resume_from_checkpoint", "write an earlier one", states=True)


def assert_refused(top: Path, path: Path, reason: str = "it holds more than tensors") -> None:
    with pytest.raises(InputError) as caught:
        look(top)
    line = str(caught.value)
    assert f"{path} cannot be loaded" in line and reason in line and "\n" not in line
    assert not (top / "canary").exists()


def pickled_as(enums: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their values, or as `getattr(enum, name)`, as Python 3.11.0 to 3.11.3 pickles members."""
    by_value = lambda self, protocol: (type(self), (self._value_,))  # noqa: E731
    for kind in (ZeroStageEnum, _MEM_FORMAT_ENCODING):
        monkeypatch.setattr(kind, "__reduce_ex__", pickle_by_enum_name if enums == "name" else by_value)


@pytest.mark.parametrize("enums", ["name", "value"])
def test_honest_files_of_deepspeed(tmp_path, state, monkeypatch, enums):
    pickled_as(enums, monkeypatch)
    deepspeed(tmp_path, state)
    monkeypatch.undo()  # no such module any more
    loaded = [name for name in sys.modules if name.startswith("deepspeed")]
    look(tmp_path)
    assert [name for name in sys.modules if name.startswith("deepspeed")] == loaded


def test_only_those_classes_of_deepspeed_and_only_in_its_files(tmp_path, state):
    path = deepspeed(tmp_path, state)
    torch.save(state, tmp_path / "optimizer.pt")  # torch itself would not load it
    assert_refused(tmp_path, tmp_path / "optimizer.pt")
    (tmp_path / "optimizer.pt").unlink()
    LossScaler.__name__ = LossScaler.__qualname__ = "Other"
    vars(sys.modules[LossScaler.__module__])["Other"] = LossScaler
    try:
        torch.save(LossScaler(1.0), path)
    finally:
        LossScaler.__name__ = LossScaler.__qualname__ = "LossScaler"
    assert_refused(tmp_path, path)


NAMES = ["global_step2/mp_rank_00_model_states.pt", "global_step2/zero/a/fp32.pt", "critic/pytorch_model.bin"]
NAMES += ["other/adapter_model.bin", "optimizer_0/.metadata", "optimizer_0/__0.metadata", ".metadata"]
NAMES += ["pytorch_model_fsdp.bin", "optimizer.bin", "optimizer_0/rng_state_0.pth"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_planted_files(tmp_path, name, zipped):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    harm = {"state": Harm(tmp_path / "canary")}
    if zipped and path.suffix in (".pt", ".bin", ".pth"):
        torch.save(harm, path)
    else:
        path.write_bytes(pickle.dumps(harm))
    assert_refused(tmp_path, path)


def test_harm_beside_classes_of_deepspeed(tmp_path, state):
    state["loss_scaler"].cur_scale = Harm(tmp_path / "canary")
    assert_refused(tmp_path, deepspeed(tmp_path, state))


@pytest.mark.parametrize("tag", ["", ".", "..", "../elsewhere", "/", "gone", "global_step2/", "global_step2/.."])
def test_a_tag_that_leads_elsewhere(tmp_path, tag):
    deepspeed(tmp_path, {})
    (tmp_path / "latest").write_text(tag)
    assert_refused(tmp_path, tmp_path / "latest", "is no folder beside it")


def test_links_are_followed_and_may_lead_back(tmp_path):
    top = tmp_path / "checkpoint"
    top.mkdir()
    (top / "global_step2").symlink_to(".")  # so that files at the top are loaded as DeepSpeed's
    look(top)
    torch.save(Harm(top / "canary"), top / "mp_rank_00_model_states.pt")
    assert_refused(top, top / "global_step2/mp_rank_00_model_states.pt")


def test_training_args_are_not_loaded(tmp_path):
    (tmp_path / "critic").mkdir()
    torch.save(Harm(tmp_path / "canary"), tmp_path / "critic/training_args.bin")
    look(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_folders_of_a_model_are_not_loaded(tmp_path):
    deepspeed(tmp_path, Harm(tmp_path / "canary"))
    refuse_broken(tmp_path, "model", "")


# ---- torch's distributed checkpoints --------------------------------------------------------------------------------


class Asks:
    """`getattr(thing, name)` in a pickle."""

    def __init__(self, thing: object, name: str) -> None:
        self.asked = thing, name

    def __reduce__(self):
        return getattr, self.asked


@pytest.mark.parametrize(
    ("thing", "name"),
    [(LossScaler, "backward"), (ZeroStageEnum, "__init__"), (Asks(ZeroStageEnum, "gradients"), "real")],
    ids=["another class", "a private name", "a member"],
)
def test_getattr_gives_members_of_enums_alone(tmp_path, state, thing, name):
    path = deepspeed(tmp_path, {**state, "asked": Asks(thing, name)})
    assert_refused(tmp_path, path)


def test_a_member_of_an_enum_cannot_be_called(tmp_path, state):
    path = deepspeed(tmp_path, state)
    enum = b"cdeepspeed.runtime.zero.config\nZeroStageEnum\n"
    call = b"\x80\x02c__builtin__\ngetattr\n" + enum + b"X\x03\x00\x00\x00mro\x86R)R."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", call)
        file.writestr("archive/version", "3\n")
    assert_refused(tmp_path, path)


@pytest.mark.parametrize("enums", ["name", "value"])
def test_honest_distributed_checkpoint(tmp_path, monkeypatch, enums):
    pickled_as(enums, monkeypatch)
    distributed(tmp_path)
    look(tmp_path)


def test_a_value_of_a_distributed_checkpoint(tmp_path):
    dcp.save({"a": Harm(tmp_path / "canary")}, storage_writer=dcp.FileSystemWriter(tmp_path / FOLDER), no_dist=True)
    assert_refused(tmp_path, tmp_path / FOLDER / ".metadata")
    with open(tmp_path / FOLDER / ".metadata", "rb") as file:  # what torch would do with it
        value = next(iter(pickle.load(file).storage_data.values()))
    with open(tmp_path / FOLDER / value.relative_path, "rb") as file:
        torch.load(file, weights_only=False)
    assert (tmp_path / "canary").exists()


def changed(path: Path, **values: object) -> None:
    metadata: Metadata = pickle.loads(path.read_bytes())
    for place in metadata.storage_data.values():
        vars(place).update(values)
    path.write_bytes(pickle.dumps(metadata))


PLACES = {
    "is no file beside it": {"relative_path": "../evil.distcp"},
    "is no number": {"offset": -1},
    "is packed": {"transform_descriptors": ["stream.zstd"]},
    "is cut short": {"length": 10**9},
}


@pytest.mark.parametrize("reason", PLACES)
def test_places_elsewhere(tmp_path, reason):
    path = distributed(tmp_path)
    changed(path, **PLACES[reason])
    assert_refused(tmp_path, path, reason)


def test_a_class_cannot_be_changed(tmp_path):
    (tmp_path / FOLDER).mkdir()
    path = tmp_path / FOLDER / ".metadata"
    where, name = b"torch.distributed.checkpoint.metadata", b"Metadata"
    # GLOBAL, then BUILD with (None, {"fqn": 3}): the pickle machine sets Metadata.fqn
    path.write_bytes(b"\x80\x04c" + where + b"\n" + name + b"\nN}\x8c\x03fqnK\x03s\x86b.")
    assert_refused(tmp_path, path)
    assert not hasattr(Metadata, "fqn")


# ---- the best checkpoint, files of the real engine ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "best"), [({"best_model_checkpoint": "a"}, "a"), ({"best_model_checkpoint": None}, None), ([], None)]
)
def test_the_best_checkpoint(tmp_path, state, best):
    assert best_of(tmp_path) is None
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert best_of(tmp_path) == best


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")
@pytest.mark.thorough
def test_objects_of_the_real_deepspeed(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.fp16 import loss_scaler
    from deepspeed.runtime.zero.config import ZeroStageEnum as Stage
    from deepspeed.utils.tensor_fragment import fragment_address as address

    scalers = [loss_scaler.LossScaler(1.0), loss_scaler.DynamicLossScaler(2.0, 1, 1, 1, False)]
    deepspeed(tmp_path, {"a": scalers, "b": Stage.weights, "c": {"d": address(1, 2)}})
    look(tmp_path)
