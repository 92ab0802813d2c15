"""The critic starts from the policy's own weights, whatever adapters they are made of."""

from __future__ import annotations

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    OFTConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

from rlcredit import CreditPPOTrainer
from rlcredit.errors import InputError
from rlcredit.models import value_model
from tests import runs, tiny

QV = ["q_proj", "v_proj"]
ADAPTERS = {
    "lora": LoraConfig(r=4, target_modules=QV, init_lora_weights=False),
    "dora": LoraConfig(r=4, target_modules=QV, init_lora_weights=False, use_dora=True),
    "pissa": LoraConfig(r=4, target_modules=QV, init_lora_weights="pissa"),
    "modules_to_save": LoraConfig(r=4, target_modules=QV, init_lora_weights=False, modules_to_save=["down_proj"]),
    "target_parameters": LoraConfig(r=4, target_modules=[], target_parameters=["mlp.up_proj.weight"]),
    "ia3": IA3Config(target_modules=QV, feedforward_modules=[], init_ia3_weights=False),
    "vera": VeraConfig(r=4, target_modules=["q_proj", "o_proj"], init_weights=False),
    "oft": OFTConfig(r=4, oft_block_size=0, target_modules=QV, init_weights=False),
}


def hidden(model, ids):
    """What the body gives, before any head."""
    return model(input_ids=ids, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_starts_from_the_merged_weights(name):
    torch.manual_seed(0)
    policy = get_peft_model(tiny.model_of("llama", spread=0.15), ADAPTERS[name]).eval()
    if name in ("modules_to_save", "target_parameters"):  # which start at nothing
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    made = value_model.load(policy, None, 0).eval()
    ids = torch.randint(2, 40, (2, 12))
    with torch.no_grad():
        wanted, own = hidden(policy, ids), hidden(made, ids)
    # merging adds the adapters' product to a weight where the policy adds its output: two orders of fp32 sums of 32
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4)
    with policy.disable_adapter(), torch.no_grad():
        if name != "pissa":  # whose adapters change nothing at the start
            assert not torch.allclose(hidden(policy, ids), own, rtol=1e-2, atol=1e-2)
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


def test_what_cannot_be_merged_is_refused_by_name():
    prompts = get_peft_model(tiny.model_of("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(
        InputError, match=r"PEFT cannot merge adapters of the kind PROMPT_TUNING .*as critic_model_name"
    ):
        value_model.load(prompts, None, 0)
    quantised = get_peft_model(tiny.model_of("llama"), ADAPTERS["lora"])
    quantised.get_base_model().is_quantized = True
    with pytest.raises(InputError, match="the policy's weights are quantised and cannot be copied; write the folder"):
        value_model.load(quantised, None, 0)


def test_the_schedule_is_given_its_settings(tmp_path):
    settings = dict(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.5}, max_steps=4)
    made = runs.trained(tmp_path, CreditPPOTrainer, critic_learning_rate=1e-3, **settings)
    assert made.critic.scheduler.get_last_lr() == [pytest.approx(0.5e-3)]  # not 0
    assert isinstance(made.args.lr_scheduler_kwargs, dict)
