"""Flags of TRL's GRPOTrainer that have another word here, or none: what to write instead.

A flag that has the same name in both means the same in both.
"""

# TRL's name -> what to write here.
TRL_NAMES = {
    # The shape of a group
    "num_generations": "write --branching N --depth 1 for flat groups of N, or e.g. --branching "
    "8 4 2 for a tree",
    "max_completion_length": "write --step_tokens L; a path has at most depth times L new tokens",
    "generation_batch_size": "write --prompts_per_update P; --max_rows bounds one generate call",
    "steps_per_generation": "write --num_minibatches M: optimizer steps per batch of trees",
    "per_device_train_batch_size": "write --prompts_per_update P, over all processes; "
    "--max_pack_tokens bounds what is trained at once",
    "gradient_accumulation_steps": "leave it out: the gradients of an update's packs are added "
    "up; --max_pack_tokens bounds one pack",
    "mask_truncated_completions": "leave it out: a path that does not finish is scored as it is",
    "importance_sampling_level": "leave it out: ratios are per token",
    # The length of a run
    "num_train_epochs": "write --max_steps N, in updates",
    "shuffle_dataset": "leave it out: every epoch is shuffled anew, by --seed",
    "data_seed": "write --seed N, of everything random",
    "warmup_ratio": "write --warmup_steps N",
    "do_eval": "write --eval_steps N",
    "eval_strategy": "write --eval_steps N; 0 is none",
    "eval_on_start": "leave it out: with --eval_steps the first evaluation is before the first "
    "update",
    "save_strategy": "write --save_steps N; 0 is none",
    "logging_strategy": "write --logging_steps N; 0 is none",
    "num_generations_eval": "write --num_samples N",
    "per_device_eval_batch_size": "write --max_rows N",
    # Rewards
    "reward_model_name_or_path": "write --reward_funcs FILE.py:function, a function that asks the "
    "model",
    "log_completions": "leave it out: trees.jsonl keeps a tree every --logging_steps, and "
    "trees.html shows it",
    "num_completions_to_print": "leave it out: trees.html shows every completion of a tree",
    # The model
    "dtype": "write --bf16 true or false",
    "torch_dtype": "write --bf16 true or false",
    "fp16": "write --bf16 true",
    "model_revision": "download that revision, and give its folder as --model_name_or_path",
    "load_in_4bit": "leave it out: models are not quantised here",
    "load_in_8bit": "leave it out: models are not quantised here",
    "activation_checkpointing": "write --gradient_checkpointing true",
    "optim": "leave it out: the optimizer is AdamW",
    "adam_beta1": "leave it out: it is 0.9",
    "adam_beta2": "leave it out: it is 0.999",
    "adam_epsilon": "leave it out: it is 1e-6",
    # Machines
    "use_vllm": "leave it out: paths are sampled by generate of transformers over a forked cache",
    "use_transformers_paged": "leave it out: paths are sampled over a forked cache",
    "use_transformers_continuous_batching": "leave it out: paths are sampled over a forked cache",
    "deepspeed": "start with accelerate launch --config_file recipes/accelerate/fsdp.yaml",
    "fsdp": "start with accelerate launch --config_file recipes/accelerate/fsdp.yaml",
    "fsdp_config": "start with accelerate launch --config_file recipes/accelerate/fsdp.yaml",
    "use_cpu": "leave it out: without a GPU it runs on the CPU",
    "run_name": "write --output_dir results/NAME",
}

# Flags of TRL that have no counterpart here.
TRL_WITHOUT_COUNTERPART = """
    accelerator_config activation_checkpointing_kwargs auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16_full_eval bnb_4bit_quant_storage
    bnb_4bit_quant_type cache_implementation cast_lm_head_to_fp32 chat_template_kwargs
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor dataset_streaming ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug delta
    disable_dropout disable_tqdm do_predict do_train ds3_gather_for_generation
    enable_jit_checkpoint entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target
    eval_accumulation_steps eval_delay eval_do_concat_batches eval_use_gather_object
    fp16_full_eval full_determinism generation_kwargs gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token ignore_bias_buffers ignore_data_skip include_for_metrics
    include_num_input_tokens_seen label_names label_smoothing_factor length_column_name
    liger_kernel_config load_best_model_at_end local_rank log_completions_hub_repo log_level
    log_level_replica log_multimodal log_on_each_node log_unique_prompts logging_first_step
    logging_nan_inf_filter lora_modules_to_save lora_target_parameters lora_task_type
    lr_scheduler_kwargs max_tool_calling_iterations metric_for_best_model min_p
    model_init_kwargs multi_objective_aggregation neftune_noise_alpha off_policy_mask_threshold
    optim_args optim_target_modules pad_to_multiple_of parallelism_config prediction_loss_only
    project push_to_hub ref_model_mixup_alpha ref_model_sync_steps remove_unused_columns
    repetition_penalty restore_callback_states_from_checkpoint router_aux_loss_coef
    sapo_temperature_neg sapo_temperature_pos save_on_each_node save_only_model
    skip_memory_metrics sync_ref_model tf32 top_entropy_quantile torch_compile
    torch_compile_backend torch_compile_mode torch_empty_cache_steps trackio_bucket_id
    trackio_space_id trackio_static_space_id train_sampling_strategy
    transformers_continuous_batching_config use_adaptive_entropy use_bias_correction_kl
    use_bnb_nested_quant use_cache use_dora use_liger_kernel use_rslora vespo_k_neg vespo_k_pos
    vespo_lambda_neg vespo_lambda_pos vllm_enable_sleep_mode vllm_gpu_memory_utilization
    vllm_group_port vllm_importance_sampling_cap vllm_importance_sampling_clip_max
    vllm_importance_sampling_clip_min vllm_importance_sampling_correction
    vllm_importance_sampling_mode vllm_max_model_length vllm_mode vllm_model_impl
    vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout
    vllm_structured_outputs_regex vllm_tensor_parallel_size
"""


def trl_advice(name: str) -> str | None:
    """What someone who writes TRL's flag `name` should write here; None where TRL has no such flag.

    >>> trl_advice("num_train_epochs")
    'write --max_steps N, in updates'
    >>> trl_advice("vllm_mode")
    'TRL has it, and there is no counterpart here; leave it out'
    """
    if advice := TRL_NAMES.get(name):
        return advice
    if name in TRL_WITHOUT_COUNTERPART.split():
        return "TRL has it, and there is no counterpart here; leave it out"
    return None
