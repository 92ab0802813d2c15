"""A tiny random config for any causal language model of transformers: its own defaults, every size made small.

The models are meant for `eval()`: dropout stays as each config class has it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 6
VOCABULARY = 96
WINDOW = 8
SELECTED = 6

# Every name that the configs of transformers use for a size, and the small size for it.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim"), 32),
    **dict.fromkeys(("embedding_size", "embedding_dim", "word_embed_proj_dim", "hidden_size_global"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "lru_width"), 32),
    **dict.fromkeys(("vision_output_dim", "out_hidden_size", "adapter_in_dim", "adapter_out_dim"), 32),
    **dict.fromkeys(("adapter_input_size", "downsample_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_global_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "dim_head", "d_head"), 8),
    **dict.fromkeys(("swa_head_dim", "kv_channels", "index_head_dim", "attention_head_size", "d_kv"), 8),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("rotary_dim", "d_rel"), 4),
    **dict.fromkeys(("mamba_d_ssm",), 64),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 4),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("n_groups",), 1),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "dim_ff", "dff", "d_inner", "d_ff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim", "feed_forward_size", "mlp_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "intermediate_size_mlp", "dense_intermediate_size"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 16),
    **dict.fromkeys(("hidden_size_per_layer_input", "router_hidden_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("laurel_rank", "adapter_rank", "gated_norm_rank", "hc_lowrank"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("sliding_window", "attention_window_size", "sliding_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("attention_chunk_size", "block_size", "keep_window_size"), WINDOW),
    **dict.fromkeys(("index_topk",), SELECTED),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions"), 128),
    **dict.fromkeys(("image_size", "crop_size"), 28),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id", "eos_token_id"), 1),
    **dict.fromkeys(("is_decoder",), True),
    # With the usual 0.02 attention over such small layers is next to uniform, and a wrong scale would not show.
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    # A cap that really bends the scores.
    **dict.fromkeys(("attn_logit_softcapping",), 3.0),
}

# Layers 1 and 4 differ from the others, so that no index of theirs is also their rank.
HYBRID = ["linear_attention", "full_attention", "linear_attention"] * 2
CONVOLUTION = ["conv", "full_attention", "conv"] * 2
SHARED_BLOCK = ["linear_attention", "hybrid", "linear_attention"] * 2
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"] * 2
HYBRID_SLIDING = ["hybrid_sliding", "hybrid", "hybrid_sliding"] * 2
# A "shared" layer takes the selection of the "full" one before it.
INDEXERS = ["full", "shared", "full", "full", "shared", "shared"]
# The last two layers read the keys and values of the last ones of their kind before them.
SHARED_KEYS = {"layer_types": SLIDING, "num_kv_shared_layers": 2}

# What a family needs beside small sizes, by the config's own model type.
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": HYBRID},
    "bamba": {"attn_layer_indices": [1, 4]},
    "beam": {"layer_types": SLIDING},
    "big_bird": {"attention_type": "original_full"},  # the class itself falls back to it for a decoder
    "blt": {"encoder_hash_byte_group_size": [3, 4], "encoder_hash_byte_group_vocab": 32},
    "cohere_compass_text": {
        "layer_types": SLIDING,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]} for kind in set(SLIDING)
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},  # its defaults name neither, and it needs both
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "layer_types": [
            "heavily_compressed_attention",
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "sliding_attention",
        ],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 2,  # of the six compressed entries of 24 tokens
        "o_groups": 2,
    },
    "dots1": {
        "layer_types": SLIDING,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "dots3_note_text": {
        "layer_types": ["sliding_attention", "indexed_attention", "sliding_attention"] * 2,
        # The sliding layers have sizes of their own.
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_qk_rope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense"] * LAYERS, "per_layer_config": {}},
    "emu3_vqgan": {"base_channels": 32, "codebook_size": 16},
    "gemma3_text": {"layer_types": SLIDING},
    "gemma3n_text": SHARED_KEYS,
    "gemma4_text": {"global_head_dim": 16, **SHARED_KEYS},
    "gemma4_unified_text": {"global_head_dim": 16, **SHARED_KEYS},
    "glm_moe_dsa": {"indexer_types": INDEXERS},
    "got_ocr2_vision": {"output_channels": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "granitemoehybrid": {"layer_types": HYBRID},
    "hrm_text": {"num_layers_per_stack": 2},  # the two stacks run eight times in all
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hy_v4": {"indexer_types": INDEXERS, "learnable_sink_init": 0.5},
    "inkling_text": {"layer_types": HYBRID_SLIDING, "rel_extent": 16, "log_scaling_n_floor": 8},
    "inkling2_text": {"layer_types": HYBRID_SLIDING, "rel_extent": 16, "log_scaling_n_floor": 8},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": HYBRID},
    "kolibri1": {"layer_types": SLIDING},
    "laguna": {"layer_types": SLIDING, "num_attention_heads_per_layer": [4, 8, 4, 4, 8, 4]},
    "lfm2": {"layer_types": CONVOLUTION, "block_multiple_of": 16},
    "lfm2_moe": {"layer_types": CONVOLUTION},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention", "full_attention", "conv"]},
    "mamba2": {"head_dim": 16},  # hidden_size * expand // num_heads
    "mellum": {"layer_types": SLIDING},
    "minimax": {"layer_types": HYBRID},
    "minimax_m3_vl_text": {
        "layer_types": ["minimax_m3_sparse", "full_attention", "minimax_m3_sparse"] * 2,
        # Blocks of 4 keys: of the six of 24 tokens, the query's own and the best other one.
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "ministral": {"layer_types": SLIDING, "head_dim": 8},
    "mllama_text_model": {"cross_attention_layers": [1, 4]},  # without an image these layers are left out
    "musicgen_decoder": {"num_codebooks": 1},  # several would make one sequence of several rows
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe", "linear_attention", "full_attention", "mlp"]
    },
    "olmo_hybrid": {"layer_types": HYBRID},
    "phi4_multimodal_audio": {
        "nemo_conv_channels": 16,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
    },
    "qwen3_5_text": {"layer_types": HYBRID},
    "qwen3_5_moe_text": {"layer_types": HYBRID},
    "qwen3_next": {"layer_types": HYBRID},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention", "linear_attention"] * 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": SELECTED,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention", "recurrent"]},
    "reformer": {
        "axial_pos_embds": False,
        "local_attn_chunk_length": WINDOW,
        "lsh_attn_chunk_length": WINDOW,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 16,
        "shape_embed_dim": 8,
        "shape_vocab_size": 16,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": SHARED_BLOCK},
    "zamba2": {"layers_block_type": SHARED_BLOCK},
    "zaya": {"layer_types": HYBRID_SLIDING, "num_experts_per_tok": 1, "sliding_window": WINDOW},
}

# Further shapes of a family, which its config can switch on: the model type and what to set.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "num_kv_heads": 4}),
    "falcon-mha": ("falcon", {"multi_query": False, "num_kv_heads": 4}),
    "falcon-mqa": ("falcon", {"multi_query": True, "parallel_attn": False}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True}),
    "gpt2-upcast": ("gpt2", {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode-mha": ("gpt_bigcode", {"multi_query": False}),
    "mixtral-window": ("mixtral", {"sliding_window": WINDOW}),
    "mpt-positions": ("mpt", {"attn_config": {"alibi": False}}),
    "phi3-window": ("phi3", {"sliding_window": WINDOW}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3}),
    "zamba2-adapters": (
        "zamba2",
        {"num_mem_blocks": 2, "use_shared_attention_adapter": True, "num_key_value_heads": 4, "use_mem_rope": True},
    ),
}

# The classes that cannot be run on a text here, and why.
CANNOT_BUILD: dict[str, str] = {
    "gemma3n": "Its vision tower comes from the timm package; gemma3n_text is the same decoder without it.",
    "gemma4_assistant": "It drafts for a Gemma 4 model, and reads that model's hidden states, keys and values.",
    "gemma4_unified_assistant": "It drafts for a Gemma 4 model too, and reads that model's states, keys and values.",
}


def tiny_config(name: str, **more: Any) -> PretrainedConfig:
    """The config of a model type, or of a name of VARIANTS, with `more` on top, as the mapped class takes it."""
    model_type, own = VARIANTS.get(name, (name, {}))
    config = shrunk(CONFIG_MAPPING[model_type], own | more)
    wanted = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]).config_class
    # A few model types name a composite config, and map it to a class that takes the text part alone.
    parts = [getattr(config, part) for part in config.sub_configs]
    return next((part for part in parts if type(part) is wanted), config)


def shrunk(kind: type[PretrainedConfig], own: dict[str, Any]) -> PretrainedConfig:
    """The config class's defaults with every known size made small, then what the family itself needs."""
    own = deepcopy(OWN.get(kind.model_type, {}) | own)  # some config classes write into the lists they are given
    default = kind()
    fields = default.to_dict()
    small = {name: value for name, value in SMALL.items() if fields.get(name) is not None}
    if fields.get("kv_lora_rank") is not None:
        small["num_key_value_heads"] = small["num_attention_heads"]  # the latents become keys of every query head
    parts = {name: getattr(default, name) for name in kind.sub_configs}
    nested = {name: shrunk(type(part), own.get(name, {})) for name, part in parts.items() if part is not None}
    return kind(**small | own | nested)
