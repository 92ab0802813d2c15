"""The private seams of TRL and transformers that rlcredit stands on: this file is their table.

`SIGNATURES` lists every method of TRL's trainer that ours override, `ATTRIBUTES` every private attribute of it that
they use. If a test here fails after an upgrade, the seam named in its message has moved: read the new source before
you change rlcredit/trainers or rlcredit/attention/capture.py.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import transformers
import trl
from transformers import AttentionInterface, Trainer
from trl import GRPOTrainer
from trl.trainer import grpo_trainer
from trl.trainer.utils import RepeatSampler

import rlcredit.trainers
from rlcredit import CreditGRPOTrainer, CreditPPOTrainer, SturdyGRPOTrainer
from rlcredit.trainers.run_state import TRL_ATTRIBUTES
from rlcredit.trainers.sturdy_config import WORDS


def moved(seam: str) -> str:
    return f"{seam} has moved in trl {trl.__version__} / transformers {transformers.__version__}"


SIGNATURES = {
    "_generate": ["self", "prompts"],
    "_generate_single_turn": ["self", "prompt_ids", ...],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_get_train_sampler": ["self", "dataset"],
    "_get_per_token_logps_and_entropies": [
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
        *("batch_size", "compute_entropy", ...),  # the model's other inputs pass through
    ],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "train": ["self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_finalize_training": ["self", "trial", "num_train_samples", "start_time"],
    "_run_epoch": [
        "self",
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_overridden_methods(name):
    names, wanted = list(inspect.signature(getattr(GRPOTrainer, name)).parameters), SIGNATURES[name]
    if wanted[-1] is ...:
        names[len(wanted) - 1 :] = [...]
    assert names == wanted, moved(name)


def test_the_table_has_every_overridden_method():
    ours = {name for kind in (SturdyGRPOTrainer, CreditGRPOTrainer, CreditPPOTrainer) for name in vars(kind)}
    overridden = {name for name in ours if callable(getattr(GRPOTrainer, name, None)) and not name.startswith("__")}
    assert overridden == SIGNATURES.keys()


# What ours use of the private attributes of TRL's and transformers' trainer, and how the source sets each.
ATTRIBUTES = {
    "_step": "self._step = 0",
    "_buffered_inputs": "self._buffered_inputs = None",
    "_entropy_window_stats": "self._entropy_window_stats = None",
    "_current_train_step_time": "self._current_train_step_time = 0.0",
    "_metrics": 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}',
    "_logs": "self._logs = {",
    "_tr_loss": "self._tr_loss = torch.tensor(0.0",
    "_globalstep_last_logged": "self._globalstep_last_logged = self.state.global_step",
    "_pending_extra_logs": "self._pending_extra_logs = defaultdict(list)",
    "_remove_unused_columns": "def _remove_unused_columns(",
    "_get_output_dir": "def _get_output_dir(self, trial",
}


def test_private_attributes():
    source = inspect.getsource(grpo_trainer) + inspect.getsource(Trainer)
    for name, line in ATTRIBUTES.items():
        assert line in source, moved(name)
    of_trl = set(re.findall(r"self\.(_[a-z]\w*) = ", source)) | set(re.findall(r"def (_[a-z]\w*)\(self", source))
    ours = "".join(path.read_text() for path in Path(rlcredit.trainers.__path__[0]).glob("*.py"))
    used = set(re.findall(r"(?:self|trainer|_trainer)\.(_[a-z]\w*)", ours)) & of_trl
    of_callbacks = {"_args", "_tokenizer"}  # names that callbacks of ours have for their own
    assert used - SIGNATURES.keys() - of_callbacks <= ATTRIBUTES.keys()


def test_metrics_and_tables_of_completions():
    source = inspect.getsource(GRPOTrainer)
    for line in (
        '"extra": defaultdict(lambda: deque(maxlen=args.generation_batch_size))',
        '"advantages": deque(maxlen=args.generation_batch_size)',
        'self._logs["advantages"].extend(all_process_advantages.tolist())',
        'self._metrics["train"]["step_time"].append(self._current_train_step_time)',
        "self._metrics[mode].clear()",
    ):
        assert line in source, moved(line)


# What TRL's trainer writes to after its construction, beside what our checkpoints hold.
NO_STATE = {
    "_async_tool_dicts": "made anew for each rollout",
    "_batch_environments": "made anew for each rollout",
    "_last_loaded_step": "weights are sent to vLLM again after a resume",
    "_last_world_entropy": "TRL saves it itself",
    "_pending_extra_logs": "empty between rollouts",
    "_pending_metrics": "empty between rollouts",
    "_signature_columns": "follows from the arguments",
    "_sync_tool_dicts": "made anew for each rollout",
    "entropy_coef": "TRL saves it itself",
    "environments": "reset for each rollout",
}


def written_attributes(source: str) -> set[str]:
    """`x` of every `self.x` that a method other than __init__ assigns to, or changes in place."""
    changing = {"append", "extend", "update", "clear", "add", "pop", "popleft", "setdefault", "insert", "remove"}
    (kind,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    methods = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
    targets: list[ast.expr] = []
    for node in (inner for method in methods for inner in ast.walk(method)):
        if isinstance(node, ast.Assign):
            targets += [part for target in node.targets for part in getattr(target, "elts", [target])]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets.append(node.target)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changing:
            targets.append(node.func.value)
    names = set()
    for target in targets:
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            names.add(target.attr)
    return names


def test_trl_keeps_no_state_that_checkpoints_do_not_know():
    written = written_attributes(inspect.getsource(GRPOTrainer))
    assert written == {*TRL_ATTRIBUTES, "_metrics", "_logs", *NO_STATE}, moved("what TRL keeps in memory")


def test_words_that_trl_refuses_too_late():
    source = inspect.getsource(GRPOTrainer)
    losses = re.findall(r"loss_type (?:==|in) (\[.*?\]|\".*?\")", source)
    assert set(re.findall(r'"(\w+)"', "".join(losses))) == set(WORDS["loss_type"]), moved("loss_type")
    scales = re.findall(r"self\.scale_rewards (?:==|in) (\[.*?\]|\".*?\")", source)
    assert set(re.findall(r'"(\w+)"', "".join(scales))) == set(WORDS["scale_rewards"]), moved("scale_rewards")
    levels = set(re.findall(r'self\.importance_sampling_level == "(\w+)"', source))
    assert levels == set(WORDS["importance_sampling_level"]), moved("importance_sampling_level")


def test_the_loss_takes_the_advantages_after_its_forward():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    forward, taken = source.find("self._get_per_token_logps_and_entropies("), source.find('inputs["advantages"]')
    assert 0 < forward < taken, moved("the order of forward and advantages in _compute_loss")
    assert source.count('inputs["advantages"]') == 1, moved("the use of the advantages")
    assert "if advantages.dim() == 1:" in source, moved("advantages of shape (B, T)")


def test_when_the_rollout_is_scored():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    condition = re.search(r"generate_every = (.*?)  #.*?\n\s*if (.*?):\n\s*old_per_token_logps, _, _ = ", source, re.S)
    assert condition, moved("the pass over the rollout")
    assert condition[1] == "self.args.steps_per_generation * self.num_iterations"
    assert " ".join(condition[2].split()) == (
        "self.args.gradient_accumulation_steps % generate_every != 0 or ( "
        "self.use_vllm and self.vllm_importance_sampling_correction )"
    ), moved("the condition of the pass over the rollout")
    policy, reference = source.find("old_per_token_logps, _, _ ="), source.find("ref_per_token_logps, _, _ =")
    assert policy < reference < source.find("self._calculate_rewards("), moved("the order of passes and rewards")


def test_the_rollout_buffer():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "shuffle_sequence_dict(generation_batch)" in source, moved("shuffling of the rollout")
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source, moved("the rollout buffer")
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step), moved("the micro-step count")


def test_the_tool_mask_is_the_third_of_what_generate_returns():
    source = inspect.getsource(GRPOTrainer._generate)
    assert re.search(r"return prompt_ids, completion_ids, tool_mask,", source), moved("what _generate returns")


def test_state_is_put_back_after_transformers_has_set_its_own():
    loop = inspect.getsource(Trainer)
    begin, restored = loop.find("self._tr_loss = torch.tensor(0.0"), loop.find("on_train_begin(args")
    assert 0 < begin < restored, moved("on_train_begin, after the loss is set to zero")


def test_the_trainer_state_is_written_last():
    source = inspect.getsource(Trainer._save_checkpoint)
    state = source.find("self.state.save_to_json")
    for earlier in ("self.save_model(", "self._save_optimizer_and_scheduler(", "self._save_rng_state("):
        assert 0 < source.find(earlier) < state, moved("the order of files in a checkpoint")


def test_gradients_can_be_dropped_before_the_optimiser_step():
    source = inspect.getsource(Trainer._run_epoch)
    places = [
        source.find(text) for text in ("self._clip_grad_norm(", "on_pre_optimizer_step(", "self.optimizer.step()")
    ]
    assert -1 not in places and places == sorted(places), moved("on_pre_optimizer_step")


def test_the_sampler_shuffles_from_a_generator_of_its_own():
    source = inspect.getsource(RepeatSampler.__iter__)
    assert "torch.randperm(self.num_samples, generator=self.generator)" in source, moved("RepeatSampler")


def test_attention_functions_come_from_get_interface():
    assert list(inspect.signature(AttentionInterface.get_interface).parameters) == [
        "self",
        "attn_implementation",
        "default",
    ], moved("AttentionInterface.get_interface")
