"""Small faults of larger kinds: panels that never arrive, advice about something else, settings that are lost."""

from __future__ import annotations

from rlcredit.cli import main
from rlcredit.trainers import policy
from rlcredit.trainers.checkpoints import Failure
from rlcredit.trainers.reports import _to_wandb
from tests import runs, tiny


def test_the_report_reaches_wandb_after_its_own_step_has_gone_on(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "report.html").write_text("<p>a report</p>")
    run = wandb.init(mode="offline", dir=str(tmp_path))
    try:
        wandb.log({"reward": 1.0}, step=10)
        _to_wandb(tmp_path / "report.html", 5)
        assert "credit/report" in run.summary.keys() and run.summary["train/global_step"] == 5  # noqa: SIM118
    finally:
        wandb.finish()


def test_a_hub_that_refuses_is_not_told_to_make_room():
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    answer = httpx.Response(401, request=httpx.Request("PUT", "https://hub.invalid/model"))
    failure = Failure.of(HfHubHTTPError("401 Client Error: Unauthorized", response=answer))
    assert failure.reason.startswith("the hub: 401") and "make room" not in failure.advice
    assert Failure.of(OSError(28, "No space left on device")).advice == "make room"


def test_the_revision_whose_layers_are_checked_is_the_one_that_loads(tmp_path, monkeypatch):
    asked = []

    def from_pretrained(name, **options):
        asked.append(options["revision"])
        return tiny.FAMILIES["llama"]

    monkeypatch.setattr(policy.AutoConfig, "from_pretrained", from_pretrained)
    args = runs.trainer(tmp_path).args
    args.model_init_kwargs = {"revision": "v2"}
    policy.refuse_unreadable("some/model", args)
    assert asked == ["v2"]


def test_a_folder_that_holds_an_adapter_is_called_one(tmp_path, capsys):
    from tests.integration.test_trainer import LORA

    made = runs.trainer(tmp_path / "run", model=tiny.model_of("llama", spread=0.15), peft_config=LORA)
    made.save_model(str(tmp_path / "adapter"))
    words = ["train", "--config", "countdown_tiny/uniform", "--model_name_or_path", str(tmp_path / "adapter")]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "holds an adapter, not a model; merge it into its base model first" in capsys.readouterr().err
