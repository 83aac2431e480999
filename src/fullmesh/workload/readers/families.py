"""What each ``model_type`` means where its configuration is silent: biases, norms, gating, positions.

The defaults follow the public configuration classes of the families.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Habits of a family of models.

    Parameters
    ----------
    kind : {"softmax", "mla", "hybrid", "gated_delta", "compressed"}
        How the mixers are read.
    qkv_bias, out_bias, mlp_bias, gated, tied, qk_norm, sandwich : bool
        Defaults where the configuration has no key of its own.
    positions : {"rotary", "learned", "none"}
        ``none`` includes ALiBi, which needs neither parameters nor a pass over queries and keys.
    windows : str
        Sliding windows without ``layer_types``: "" none, "all", "even" (every second layer, the first included),
        "pattern" (all but every n-th), "upper" (from ``max_window_layers`` on, where ``use_sliding_window`` is set).
    head_dim : int
        Default, 0 where it is hidden size over heads.
    defaults : tuple of (str, int)
        Sizes of the configuration class that published files of the family leave out.
    """

    kind: Literal["softmax", "mla", "hybrid", "gated_delta", "compressed"] = "softmax"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    tied: bool = False
    qk_norm: bool = False
    sandwich: bool = False
    positions: Literal["rotary", "learned", "none"] = "rotary"
    windows: Literal["", "all", "even", "pattern", "upper"] = ""
    head_dim: int = 0
    defaults: tuple[tuple[str, int], ...] = ()


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, windows="upper")
_QWEN3 = Family(qk_norm=True, windows="upper")
_GPT = Family(
    qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm="layernorm", tied=True, positions="learned"
)
_MLA = Family(kind="mla")
_GEMMA = Family(tied=True, head_dim=256)
_GEMMA2 = dataclasses.replace(_GEMMA, sandwich=True, windows="even")
_GEMMA3 = dataclasses.replace(
    _GEMMA,
    sandwich=True,
    qk_norm=True,
    windows="pattern",
    defaults=(("num_attention_heads", 8), ("num_key_value_heads", 4), ("vocab_size", 262208)),
)
_GATED_DELTA = Family(kind="gated_delta", qk_norm=True, head_dim=256)
_HYBRID = Family(kind="hybrid", gated=False)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "yi": _LLAMA,
    "aquila": _LLAMA,
    "aquila2": _LLAMA,
    "aquilamodel": _LLAMA,
    "baichuan": _LLAMA,
    "internlm": Family(qkv_bias=True, out_bias=True),
    "internlm2": _LLAMA,
    "internlm3": _LLAMA,
    "minicpm": Family(tied=True),
    "deepseek": _LLAMA,
    "seed_oss": Family(qkv_bias=True),
    "granite": _LLAMA,
    "smollm3": Family(tied=True),
    "olmo": _LLAMA,
    "olmo2": Family(qk_norm=True),
    "telechat": Family(out_bias=True, mlp_bias=True),
    "telechat2": Family(out_bias=True, mlp_bias=True),
    "panguembedded": Family(qkv_bias=True, out_bias=True),
    "pangu_ultra": Family(sandwich=True),
    "mistral": Family(windows="all"),
    "ministral": Family(windows="all"),
    "mixtral": Family(windows="all"),
    "qwen": Family(qkv_bias=True),
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen2_vl": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "phi3": Family(windows="all"),
    "phimoe": Family(windows="all", norm="layernorm", qkv_bias=True, out_bias=True),
    "chatglm": Family(qkv_bias=True),
    "glm": Family(qkv_bias=True),
    "glm4": Family(qkv_bias=True, sandwich=True),
    "glm4_moe": _LLAMA,
    "llama4": _LLAMA,
    "llama4_text": _LLAMA,
    "gpt_oss": Family(qkv_bias=True, out_bias=True, windows="even", head_dim=64),
    "gpt2": _GPT,
    "megatron-gpt": _GPT,
    "opt": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": dataclasses.replace(_GPT, tied=False, positions="rotary"),
    "starcoder2": dataclasses.replace(_GPT, positions="rotary", windows="all"),
    "bloom": dataclasses.replace(_GPT, positions="none"),
    "mpt": dataclasses.replace(_GPT, positions="none"),
    "nemotron": Family(gated=False, norm="layernorm"),
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "kimi_k2": _MLA,
    "kimi_k25": _MLA,
    "glm4_moe_lite": _MLA,
    "minicpm3": Family(kind="mla", tied=True),
    "pangu_ultra_moe": Family(kind="mla", sandwich=True),
    "nemotron_h": _HYBRID,
    "qwen3_next": _GATED_DELTA,
    "qwen3_5": _GATED_DELTA,
    "qwen3_5_text": _GATED_DELTA,
    "qwen3_5_moe": _GATED_DELTA,
    "qwen3_5_moe_text": _GATED_DELTA,
    "deepseek_v4": Family(kind="compressed"),
}

# Keys that change the computation in a way no layer of ours describes, and why they are refused.
REFUSED = {
    "is_encoder_decoder": "only decoder-only models are",
    "add_cross_attention": "cross attention is not a layer of this program",
    "cross_attention_layers": "cross attention is not a layer of this program",
    "num_kv_shared_layers": "layers that share keys and values are not",
    "altup_num_inputs": "alternating updates are not",
    "attn_layer_period": "mixing attention and Mamba-1 layers by period is not",
    "use_mamba_kernels_v1": "Mamba-1 layers are not",
    "block_configs": "layers with their own widths are not",
    "zero_expert_num": "experts that compute nothing are not",
}
# Functions with two matrices where a gated layer has three; the choice among them does not change the work.
ACTIVATIONS = (
    "silu", "swish", "swiglu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "geglu", "relu",
    "relu2", "squared_relu", "relu_squared", "fast-swiglu", "fast_swiglu",
)  # fmt: skip
