"""Names of keys: which mean the same, which may decide a shape, and which have no influence.

A key that may decide a shape and that no reader understood is an error, never ignored in silence.
"""

from __future__ import annotations

import re

from fullmesh.workload.readers.config import Config

# Keys of one meaning; where two of them stand together they have to agree.
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KV_HEADS = (
    "num_key_value_heads", "kv_n_heads", "num_kv_heads", "multi_query_group_num", "num_query_groups",
    "num_attention_groups",
)  # fmt: skip
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "dim_head")
FFN = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "dff", "dim_ff")
VOCAB = ("vocab_size", "padded_vocab_size")
TIED = ("tie_word_embeddings", "tie_embeddings")
EXPERTS = ("num_local_experts", "n_routed_experts", "num_routed_experts", "num_experts", "moe_num_experts")
TOPK = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "experts_per_token", "moe_k", "moe_top_k",
    "top_k_experts",
)  # fmt: skip
EXPERT_FFN = ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size")
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
SHARED_FFN = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
    "share_expert_dim", "share_expert_dims",
)  # fmt: skip
FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
STEP = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")

# Parts of names by which a key may decide a shape.
_SHAPE = re.compile(
    r"layer|freq|dense|expert|moe|head|rank|dim|size|width|inter|window|group|state|latent|shared|conv|kernel|expan"
    r"|hidden|kv|block|pattern|period|offset|depth|^n_|num_|mlp|ffn|ff_|vocab|embed|bias|lora|topk|top_k|channel|ratio"
    r"|sparse|chunk|mult|norm|tie|tied|attn|attention"
    r"|quer|parallel|architecture|decoder|pos_emb|config$|position|adapter|memory|mem_|ngram|recur|loop|cycle|stack|mtp"
)
# Whole names without influence on shapes, in any family.
_HARMLESS = frozenset(
    (
        "add_cross_attention", "afn", "architectures", "attention_chunk_size", "attention_dropout",
        "attention_probs_dropout_prob", "attention_softmax_in_fp32", "attention_value_scale", "attn_implementation",
        "attn_logit_softcapping", "attn_scale", "attn_temperature_tuning", "auto_map", "block_size",
        "chunk_size_feed_forward", "clip_qkv", "context_length", "dim_model_base", "emb_pdrop",
        "embedding_fraction", "enable_moe_fp32_combine", "expert_selection_fn", "final_logit_softcapping",
        "floor_scale", "full_attention_interval", "hidden_act", "hidden_activation", "hidden_dropout",
        "hidden_dropout_prob", "hidden_mamba_act", "id2label", "image_size", "init_device", "init_std",
        "initializer_cutoff_factor", "is_causal", "is_decoder", "keep_window_size", "keys_to_ignore_at_inference",
        "label2id", "lambda_std_dev", "layer_norm_elementwise_affine", "layer_rope_theta", "layerdrop", "logit_scale",
        "logits_scaling", "logits_soft_cap", "mamba_hidden_act", "mamba_ssm_cache_dtype", "mamba_ssm_dtype",
        "max_length", "max_position_embeddings", "max_seq_len", "max_sequence_length", "max_window_layers",
        "mlp_hidden_act", "model_max_length", "moe_aux_loss_coeff", "moe_apply_router_weight_on_input",
        "moe_layer_end_index", "moe_loss_weight", "moe_norm_min", "moe_normalize_expert_weights", "moe_renormalize",
        "moe_router_load_balancing_type", "moe_router_logit_softcapping", "moe_router_scaling_factor",
        "moe_router_use_sigmoid", "moe_routed_scaling_factor", "moe_shared_expert_overlap", "mup_enabled", "n_ctx",
        "n_group", "n_positions", "no_rope_layer_interval", "no_rope_layers", "norm_topk_prob", "norm_type",
        "num_expert_group", "num_labels", "num_logits_to_keep", "original_max_position_embeddings",
        "partial_rotary_factor", "prefix_lm", "pretraining_tp", "problem_type", "pruned_heads",
        "qk_layernorm_eps", "quantization_config", "query_pre_attn_scalar", "reorder_and_upcast_attn", "rescale_every",
        "rescale_prenorm_residual", "residual_in_fp32", "residual_multiplier", "rotary_dim", "rotary_emb_base",
        "rotary_emb_fraction", "rotary_pct", "route_scale", "routed_scaling_factor", "scale_attention_softmax_in_fp32",
        "scale_attn_by_inverse_layer_idx", "scale_attn_weights", "scale_depth", "scale_emb", "scale_embedding",
        "scoring_func", "seq_length", "shared_expert_combination_strategy", "slow_but_exact", "softmax_scale",
        "summary_proj_to_labels", "summary_type", "summary_use_proj", "summary_activation", "swiglu_alpha",
        "swiglu_limit", "swiglu_limits", "swiglu_limits_shared", "task_specific_params", "tokenizer_class",
        "topk_group",
        "topk_method", "torch_dtype", "transformers_version", "use_associative_scan", "use_bidirectional_attention",
        "use_cache", "use_cache_kernel", "use_cache_quantization", "use_dynamic_ntk", "use_flash_attn",
        "use_logn_attn", "use_mamba_kernels", "use_mambapy", "use_sliding_window", "sliding_window",
        "attention_multiplier", "embedding_multiplier", "num_nextn_predict_layers", "mtp_num_hidden_layers",
        "mtp_layers_block_type", "mtp_loss_scaling_factor", "mtp_layer_types", "mtp_mlp_layer_types",
        "num_mtp_layers", "output_hidden_states", "output_attentions", "attn_pdrop", "aux_loss_coef",
        "first_layer_fusion", "ep_size", "torchscript", "chunk_size", "sep_token_id", "z_loss_coefficient",
        "attn_impl", "attn_uses_sequence_id", "alibi_bias_max", "qk_head_dim", "model_type",
        "use_parallel_embedding", "_name_or_path", "position_embedding_type", "decoder_start_token_id",
        "apply_query_key_layer_scaling", "post_layer_norm", "rmsnorm", "offset_alibi", "skip_bias_add",
        "skip_bias_add_qkv", "masked_softmax_fusion", "bias_dropout_fusion", "flash_attn", "num_hash_layers",
        "training_seqlen", "base_seqlen", "seq_aux", "pre_seq_len", "quantization_bit", "initial_context_length",
        "cache_implementation", "gradient_checkpointing", "for_llm_compressor", "mtp_use_dedicated_embeddings",
        "compression_config", "generation_config", "fusion_config", "sliding_window_size",
    )
)  # fmt: skip
_HARMLESS_PATTERN = re.compile(
    r"^_|_token(_id|_ids|_index)?$|_eps(ilon)?$|dropout|_pdrop$|initializer|init_(range|method|floor|scheme|std|min|max)"
    r"|^rope_|rope_theta$|_coef(f|ficient)?$|loss_|_in_fp32$|_(scaling_)?multipliers?$|scaling_factor$|jitter_noise$"
    r"|^time_step|^linear_(dt|a_log)_|_alpha_factor$|_beta_factor$|init_(alpha|variance)|use_mem_|^bos_|^eos_|^pad_"
)


def check_unread(c: Config, *, harmless: frozenset[str] = frozenset()) -> None:
    """Raise where a key that may decide a shape was not understood.

    Parameters
    ----------
    c : Config
        After everything was read.
    harmless : set of str
        Names without influence in this family alone.

    Raises
    ------
    ModelError
        It names the first such key.
    """
    for key in unread(c):
        if key in harmless or not decides_shape(key):
            continue
        value = c.values[key]
        # false, 0 and empty switch something off that this program does not have either
        if value is None or value is False or value in (0, "", [], {}, "none"):
            continue
        raise c.error(
            key,
            f"the key {key[:200]!r} is not understood for the model type {c.text('model_type')!r}, and it may decide "
            "a shape",
            hint="remove it if it has no influence on the layers; `fullmesh catalog model FILE` lists what was read",
        )


def decides_shape(key: str) -> bool:
    """Whether a key of this name may decide a shape."""
    name = key.lower()
    if name in _HARMLESS or _HARMLESS_PATTERN.search(name):
        return False
    return _SHAPE.search(name) is not None


def unread(c: Config) -> list[str]:
    """Keys that no reader used, by name."""
    return sorted(k for k in c.values if k not in c.read)
