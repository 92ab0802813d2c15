"""Keys that earlier releases and other programs have, and what `rlcredit train` takes in their place.

Collected from the arguments that TRL 0.14 to 1.16 and transformers 4.28 to 5.23 removed, from open-r1, and from the
GRPO settings of Axolotl, OpenRLHF (flags with underscores and with dots), verl, Unsloth, ms-swift and LLaMA-Factory. A
key that rlcredit has is not in here, whatever it means elsewhere (`tests/unit/test_elsewhere.py`).
"""

from __future__ import annotations

_RENAMED = {
    # TRL and transformers, earlier releases
    "torch_dtype": "dtype",
    "vllm_max_model_len": "vllm_max_model_length",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "use_liger_loss": "use_liger_kernel",
    "wandb_log_unique_prompts": "log_unique_prompts",
    "dataset_configs": "dataset_config",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "torchdynamo": "torch_compile_backend",
    # open-r1
    "hub_model_revision": "hub_revision",
    # Axolotl
    "base_model": "model_name_or_path",
    "base_model_config": "model_name_or_path",
    "revision_of_model": "model_revision",
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "rl_beta": "beta",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "wandb_name": "run_name",
    "default_system_message": "system_prompt",
    "auto_resume_from_checkpoints": "resume_from_checkpoint: auto",
    # OpenRLHF
    "pretrain": "model_name_or_path",
    "actor_model_name_or_path": "model_name_or_path",
    "reward_pretrain": "reward_model_name_or_path",
    "critic_pretrain": "critic_model_name_or_path (a key of algorithm: ppo)",
    "prompt_data": "dataset_name",
    "data_prompt_dataset": "dataset_name",
    "prompt_split": "dataset_train_split",
    "data_prompt_split": "dataset_train_split",
    "eval_split": "dataset_test_split",
    "input_key": "dataset_prompt_column",
    "data_input_key": "dataset_prompt_column",
    "n_samples_per_prompt": "num_generations",
    "rollout_n_samples_per_prompt": "num_generations",
    "generate_max_len": "max_completion_length",
    "rollout_max_new_tokens": "max_completion_length",
    "rollout_temperature": "temperature",
    "rollout_top_p": "top_p",
    "micro_train_batch_size": "per_device_train_batch_size",
    "train_micro_batch_size": "per_device_train_batch_size",
    "actor_learning_rate": "learning_rate",
    "lr_warmup_ratio": "warmup_steps (a share below 1 is one of all steps)",
    "init_kl_coef": "beta",
    "algo_kl_init_coef": "beta",
    "eps_clip": "epsilon",
    "actor_eps_clip": "epsilon",
    "max_norm": "max_grad_norm",
    "entropy_loss_coef": "entropy_coef",
    "actor_entropy_coef": "entropy_coef",
    "lambd": "gae_lambda (a key of algorithm: ppo)",
    "algo_advantage_lambd": "gae_lambda (a key of algorithm: ppo)",
    "algo_advantage_gamma": "gamma (a key of algorithm: ppo)",
    "num_episodes": "num_train_epochs",
    "train_num_episodes": "num_train_epochs",
    "train_seed": "seed",
    "save_path": "output_dir",
    "ckpt_path": "output_dir",
    "ckpt_output_dir": "output_dir",
    "max_ckpt_num": "save_total_limit",
    "ckpt_max_num": "save_total_limit",
    "ckpt_save_steps": "save_steps",
    "logger_logging_steps": "logging_steps",
    "load_checkpoint": "resume_from_checkpoint: auto",
    "ckpt_load_enable": "resume_from_checkpoint: auto",
    "lora_rank": "lora_r (with use_peft: true)",
    "ds_lora_rank": "lora_r (with use_peft: true)",
    "ds_lora_alpha": "lora_alpha",
    "ds_lora_dropout": "lora_dropout",
    "ds_lora_target_modules": "lora_target_modules",
    "ds_load_in_4bit": "load_in_4bit",
    "ds_attn_implementation": "attn_implementation",
    "flash_attn": "attn_implementation: flash_attention_2",
    "use_wandb": "report_to: wandb",
    "use_tensorboard": "report_to: tensorboard",
    "wandb_run_name": "run_name",
    "logger_wandb_run_name": "run_name",
    "vllm_enable_sleep": "vllm_enable_sleep_mode",
    # Unsloth, ms-swift, LLaMA-Factory
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "fast_inference": "use_vllm",
    "random_state": "seed",
    "r": "lora_r",
    "target_modules": "lora_target_modules",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "dataset": "dataset_name, or datasets for a list",
    "system": "system_prompt",
}

_OTHERWISE = {
    # TRL and transformers, earlier releases
    "max_prompt_length": "prompts are no longer cut: leave it out, and leave longer prompts out of the data",
    "vllm_device": "write vllm_mode: colocate, or server for a vLLM server on other devices",
    "vllm_dtype": "leave it out: vLLM has the precision of the policy (dtype)",
    "vllm_enable_prefix_caching": "leave it out: it is vLLM's own default",
    "token_entropy_percentile_threshold": "write top_entropy_quantile, which is 1 minus its value",
    "gradient_checkpointing_use_reentrant": "write gradient_checkpointing_kwargs: {use_reentrant: false}",
    "warmup_ratio": "write warmup_steps: a value below 1, such as 0.1, is that share of all steps",
    "overwrite_output_dir": "write overwrite: true to delete the checkpoints of an earlier run in output_dir, or "
    "resume_from_checkpoint: auto to go on from them",
    "logging_dir": "leave it out: the log is log.jsonl in output_dir, and TensorBoard takes TENSORBOARD_LOGGING_DIR",
    "group_by_length": "write sort_by_length: true, which sorts the rows of an optimiser step into its micro-batches",
    "adafactor": "write optim: adafactor",
    "half_precision_backend": "leave it out: bf16 and fp16 use torch's own",
    "fp16_backend": "leave it out: bf16 and fp16 use torch's own",
    "fp16_opt_level": "leave it out: bf16 and fp16 use torch's own",
    "fsdp_min_num_params": "write fsdp_config, or launch with recipes/accelerate/fsdp2.yaml",
    "fsdp_transformer_layer_cls_to_wrap": "write fsdp_config, or launch with recipes/accelerate/fsdp2.yaml",
    "include_inputs_for_metrics": "leave it out: GRPO has no such metrics",
    "dispatch_batches": "write accelerator_config: {dispatch_batches: VALUE}",
    "split_batches": "write accelerator_config: {split_batches: VALUE}",
    "push_to_hub_organization": "write hub_model_id: ORGANIZATION/NAME",
    "save_safetensors": "leave it out: weights are always saved as safetensors",
    # TRL's command line
    "env": "set variables before the command: NAME=value rlcredit train ...",
    # open-r1
    "callbacks": "leave it out; push_to_hub and hub_strategy push, and rlcredit evaluate RUN evaluates",
    "benchmarks": "leave it out, and run rlcredit evaluate RUN --task math500 afterwards",
    "chat_template": "leave it out, and save the policy with the template: tokenizer.chat_template = ...; "
    "tokenizer.save_pretrained(FOLDER)",
    "push_to_hub_revision": "write push_to_hub: true and hub_revision",
    "overwrite_hub_revision": "leave it out: a push replaces what hub_revision holds",
    "wandb_entity": "set WANDB_ENTITY before the command",
    "wandb_project": "set WANDB_PROJECT before the command",
    "wandb_run_group": "set WANDB_RUN_GROUP before the command",
    "dataset_mixture": "write datasets: a list of {path, name, split, columns, fraction}, as TRL has it",
    "max_completion_len": "bind it in a function of your own: trl.rewards.get_soft_overlong_punishment(...)",
    "soft_punish_cache": "bind it in a function of your own: trl.rewards.get_soft_overlong_punishment(...)",
    # Axolotl
    "rl": "leave it out: algorithm says grpo (the default) or ppo",
    "trl": "write its keys at the top level: num_generations, max_completion_length, reward_funcs, beta, ...",
    "vllm": "write vllm_gpu_memory_utilization, vllm_server_host, vllm_tensor_parallel_size, ... at the top level",
    "adapter": "write use_peft: true (and load_in_4bit: true for qlora)",
    "lora_target_linear": "write lora_target_modules: all-linear",
    "lora_model_dir": "merge the adapter into the policy first (PEFT's merge_and_unload), and write that folder as "
    "model_name_or_path",
    "sequence_len": "leave it out: max_completion_length bounds the completions, and prompts are not cut",
    "flash_attention": "write attn_implementation: flash_attention_2",
    "sdp_attention": "write attn_implementation: sdpa",
    "eager_attention": "write attn_implementation: eager",
    "xformers_attention": "write attn_implementation: sdpa",
    "flex_attention": "write attn_implementation: sdpa; attention cannot be read from flex_attention",
    "val_set_size": "write dataset_test_split for a split of dataset_name, or test_split_size beside datasets",
    "test_datasets": "write dataset_test_split for a split of dataset_name, or test_split_size beside datasets",
    "batch_size": "write per_device_train_batch_size and gradient_accumulation_steps",
    "saves_per_epoch": "write save_steps: a value below 1, such as 0.1, is that share of all steps",
    "evals_per_epoch": "write eval_steps: a value below 1, such as 0.1, is that share of all steps",
    "special_tokens": "leave it out, and save the tokenizer with them beside the policy",
    "tokens": "leave it out, and save the tokenizer with them beside the policy",
    "gptq": "leave it out: load_in_8bit and load_in_4bit quantise the policy as it is loaded",
    "wandb_mode": "set WANDB_MODE before the command",
    "wandb_watch": "set WANDB_WATCH before the command",
    "wandb_log_model": "set WANDB_LOG_MODEL before the command",
    "wandb_run_id": "leave it out: a run that resumes goes on in its own wandb run",
    "bfloat16": "write bf16: true, or dtype: bfloat16 for weights in 16 bits",
    "float16": "write fp16: true, or dtype: float16 for weights in 16 bits",
    "float32": "write dtype: float32",
    # OpenRLHF
    "advantage_estimator": "write algorithm: grpo, or ppo for GAE with a critic",
    "algo_advantage_estimator": "write algorithm: grpo, or ppo for GAE with a critic",
    "apply_chat_template": "write dataset_prompt_column: texts of that column become conversations",
    "data_apply_chat_template": "write dataset_prompt_column: texts of that column become conversations",
    "label_key": "leave it out: every column of the data reaches the reward functions by its name",
    "data_label_key": "leave it out: every column of the data reaches the reward functions by its name",
    "input_template": "leave it out, and save the policy with a chat template",
    "remote_rm_url": "write a function that asks the server, and reward_funcs: [my_rewards.ask]",
    "reward_remote_url": "write a function that asks the server, and reward_funcs: [my_rewards.ask]",
    "agent_func_path": "write rollout_func: package.module:function, or environment_factory",
    "train_agent_func_path": "write rollout_func: package.module:function, or environment_factory",
    "rollout_batch_size": "write per_device_train_batch_size and steps_per_generation, or generation_batch_size",
    "train_batch_size": "write per_device_train_batch_size and gradient_accumulation_steps",
    "micro_rollout_batch_size": "write per_device_train_batch_size and steps_per_generation, or generation_batch_size",
    "max_epochs": "write num_iterations for passes over a rollout, num_train_epochs for passes over the data",
    "train_max_epochs": "write num_iterations for passes over a rollout, num_train_epochs for passes over the data",
    "prompt_max_len": "prompts are no longer cut: leave it out, and leave longer prompts out of the data",
    "max_len": "leave it out: max_completion_length bounds the completions, and prompts are not cut",
    "zero_stage": "launch with recipes/accelerate/zero2.yaml or zero3.yaml",
    "ds_zero_stage": "launch with recipes/accelerate/zero2.yaml or zero3.yaml",
    "max_samples": "write max_steps, or give fewer rows",
    "eval_dataset": "write dataset_test_split, or task: custom with task_options.test",
    "skip_zero_advantage_batches": "write dynamic_sampling: true",
    "dynamic_filtering": "write dynamic_sampling: true",
    # verl
    "actor_rollout_ref": "write its settings at the top level: model_name_or_path, learning_rate, epsilon, "
    "num_generations (rollout.n), use_vllm, ...",
    "data": "write dataset_name or datasets; max_response_length is max_completion_length here",
    "trainer": "write max_steps, num_train_epochs, save_steps, eval_steps, output_dir, report_to at the top level",
    "critic": "write algorithm: ppo, with critic_model_name_or_path and critic_learning_rate",
    "reward_model": "write reward_model_name_or_path, or process_reward_model for rewards of steps",
    "reward": "write reward_funcs, or reward_model_name_or_path",
    "custom_reward_function": "write reward_funcs: [package.module.function]",
    # Unsloth, ms-swift, LLaMA-Factory
    "max_seq_length": "leave it out: max_completion_length bounds the completions, and prompts are not cut",
    "max_length": "leave it out: max_completion_length bounds the completions, and prompts are not cut",
    "cutoff_len": "leave it out: max_completion_length bounds the completions, and prompts are not cut",
    "vllm_sampling_params": "write temperature, top_p, top_k, min_p, or generation_kwargs",
    "full_finetuning": "write use_peft: false, the default",
    "rlhf_type": "leave it out: algorithm says grpo (the default) or ppo",
    "train_type": "write use_peft: true for LoRA; without it all weights are trained",
    "tuner_type": "write use_peft: true for LoRA; without it all weights are trained",
    "finetuning_type": "write use_peft: true for LoRA; without it all weights are trained",
    "external_plugins": "leave it out, and write reward_funcs: [package.module.function]",
    "template": "leave it out, and save the policy with a chat template",
    "val_dataset": "write dataset_test_split, or task: custom with task_options.test",
}

# Settings without a counterpart, by the program that has them.
_UNKNOWN = {
    "transformers": "use_mps_device jit_mode_eval use_ipex xpu_backend tpu_num_cores tpu_metrics_debug past_index "
    "sharded_ddp use_legacy_prediction_loop mp_parameters ray_scope",
    "open-r1": "cosine_min_value_wrong cosine_max_value_wrong cosine_min_value_correct cosine_max_value_correct "
    "cosine_max_len repetition_n_grams repetition_max_penalty code_language code_eval_test_batch_size "
    "code_eval_scoring_mode parallel_code_exec_per_proc e2b_router_url morph_router_url code_provider ioi_provider",
    "Axolotl": "model_type type_of_model tokenizer_type tokenizer_config tokenizer_use_fast tokenizer_legacy "
    "is_llama_derived_model is_mistral_derived_model is_qwen_derived_model is_falcon_derived_model strict "
    "dataset_prepared_path skip_prepare_dataset dataset_processes dataset_exact_deduplication "
    "shuffle_merged_datasets sample_packing eval_sample_packing pad_to_sequence_len train_on_inputs plugins "
    "lora_on_cpu lora_fan_in_fan_out lora_mlp_kernel lora_qkv_kernel lora_o_kernel loraplus_lr_ratio "
    "peft_init_lora_weights peft_layers_to_transform relora qat use_data_producer async_prefetch prefetch_depth "
    "vllm_sync_interval vllm_lora_sync reward_num_workers replay_buffer_size streaming_partial_batch "
    "early_stopping_patience loss_watchdog_threshold loss_watchdog_patience "
    "embedding_lr lr_groups cosine_min_lr_ratio s2_attention noisy_embedding_alpha sequence_parallel_degree "
    "context_parallel_size tensor_parallel_size dp_shard_size dp_replicate_size fsdp_version group_size "
    "use_tensorboard_dir eval_table_size eval_max_new_tokens fix_untrained_tokens resize_token_embeddings_to_32x",
    "OpenRLHF": "vllm_num_engines vllm_sync_backend vllm_enforce_eager enforce_eager colocate_all_models "
    "colocate_actor_ref colocate_critic_reward ref_num_nodes ref_num_gpus_per_node reward_num_nodes "
    "reward_num_gpus_per_node actor_num_nodes actor_num_gpus_per_node critic_num_nodes critic_num_gpus_per_node "
    "enable_prefix_caching async_train enable_ema adam_offload packing_samples normalize_reward "
    "reward_normalize_enable reward_clip_range ref_reward_offload freezing_actor_steps kl_estimator "
    "algo_kl_estimator kl_target kl_horizon prompt_data_probs save_value_network save_hf_ckpt disable_ds_ckpt zpg",
    "verl": "ray_kwargs ray_init global_profiler transfer_queue actor_rollout hybrid_engine",
    "Unsloth": "max_lora_rank use_exact_model_name unsloth_num_chunks unsloth_grpo_mini_batch "
    "finetune_vision_layers finetune_language_layers finetune_attention_modules finetune_mlp_modules",
    "ms-swift": "stage model_author overwrite_cache num_infer_workers split_dataset_ratio",
}
_LAUNCHER = (
    "num_processes num_machines machine_rank main_process_ip main_process_port mixed_precision config_file "
    "accelerate_config gpu_ids multi_gpu num_cpu_threads_per_process use_deepspeed use_fsdp deepspeed_config_file "
    "fsdp_auto_wrap_policy fsdp_sharding_strategy fsdp_offload_params zero3_init_flag zero3_save_16bit_model "
    "dynamo_backend"
)

ADVICE: dict[str, str] = {
    **{name: f"write {new}" for name, new in _RENAMED.items()},
    **_OTHERWISE,
    **{
        name: f"leave it out: this key of {program} has no counterpart"
        for program, names in _UNKNOWN.items()
        for name in names.split()
    },
    **dict.fromkeys(
        _LAUNCHER.split(), "accelerate takes it: accelerate launch --config_file recipes/accelerate/ddp.yaml ..."
    ),
    "credit_attention": "leave it out: the pass that is read follows from the schedule; where the policy has dropout, "
    "write disable_dropout: true",  # of rlcredit 0.1.0
}
"""What to write in place of a key that `rlcredit train` does not have, by the key: the end of a sentence."""
