"""What each ``model_type`` means where its configuration is silent: biases, norms, gating, positions.

The defaults follow the public configuration classes of the families.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace as _but
from typing import Literal

from fullmesh.workload.layers.norm import Norm

Kind = Literal[
    "softmax",
    "latent",
    "nemotron_h",
    "delta",
    "compressed",
    "mamba",
    "mamba2",
    "mamba_hybrid",
    "jamba",
    "short_conv",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Habits of a family of models.

    Parameters
    ----------
    kind : str
        How the mixers are read.
    moe : bool
        Every model of the family has experts: one without any is a mistake in the file.
    expert_ffn : {"own", "dense"}
        Experts have a width key of their own, or that of a dense layer.
    qkv_bias, out_bias, mlp_bias, gated, tied, sandwich : bool
        Defaults where the configuration has no key of its own.
    bias_of : {"all", "qkv"}
        What ``attention_bias`` stands for.
    qk_norm : {"", "head", "wide", "each", "bias"}
        Norms of queries and keys: none, one scale of a head's width each, a scale over all heads, a scale for each head
        apart (where ``qk_layernorm`` or ``use_qk_norm`` says so), scale and bias of a head's width.
    norm, norms, final_norm
        Kind of norms; how many a layer has where it is not one (two with ``sandwich``) a part.
    positions : {"rotary", "learned", "none"}
        ``none`` includes ALiBi and fixed sines, which need neither parameters nor a pass over queries and keys.
    windows : str
        Sliding windows without ``layer_types``: "" none, "all", "even" (every second layer, the first included),
        "pattern" (all but every n-th), "upper" (from ``max_window_layers`` on, where ``use_sliding_window`` is set).
    sinks : {"", "all", "sliding"}
        Layers with one learned logit a head in the softmax.
    head_dim : int
        Default, 0 where it is hidden size over heads.
    first_dense : tuple of (str, int)
        Dense layers before the first one with experts where no key says which have some, and the key that would.
    defaults : tuple of (str, value)
        Values of the configuration class that published files of the family leave out.
    harmless : set of str
        Keys that look as if they decided shapes and do not in this family.
    without : set of str
        Keys that the family's configurations never have: nothing is worth saying where they are absent.
    """

    kind: Kind = "softmax"
    moe: bool = False
    expert_ffn: Literal["own", "dense"] = "own"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    bias_of: Literal["all", "qkv"] = "all"
    gated: bool = True
    norm: Norm = "rmsnorm"
    one_norm: bool = False
    final_norm: bool = True
    tied: bool = False
    qk_norm: Literal["", "head", "wide", "each", "bias"] = ""
    sandwich: bool = False
    positions: Literal["rotary", "learned", "none"] = "rotary"
    position_offset: int = 0
    windows: Literal["", "all", "even", "pattern", "upper"] = ""
    sinks: Literal["", "all", "sliding"] = ""
    head_dim: int = 0
    head_bias: bool = False
    first_dense: tuple[str, int] = ("first_k_dense_replace", 0)
    defaults: tuple[tuple[str, object], ...] = ()
    harmless: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


_BIAS = frozenset(("attention_bias",))
_SHARED_KEY = frozenset(("n_shared_experts",))
_HEAD_DIM_KEY = frozenset(("head_dim",))
_PLAIN = frozenset(("attention_bias", "num_key_value_heads", "head_dim"))
_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, bias_of="qkv", windows="upper", without=_BIAS | _HEAD_DIM_KEY)
_QWEN3 = Family(qk_norm="head", windows="upper")
_GPT = Family(
    qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm="layernorm", tied=True, positions="learned",
    without=_PLAIN,
)  # fmt: skip
_MLA_MOE = Family(kind="latent", moe=True)
_ONE_DENSE = ("first_k_dense_replace", 1)
_THREE_DENSE = ("first_k_dense_replace", 3)
_MLA_THREE_DENSE = _but(_MLA_MOE, first_dense=_THREE_DENSE)
_MLA_ONE_DENSE = _but(_MLA_MOE, first_dense=_ONE_DENSE)
_GEMMA = Family(tied=True, head_dim=256)
_GEMMA2 = _but(_GEMMA, sandwich=True, windows="even")
_GEMMA3 = _but(
    _GEMMA,
    sandwich=True,
    qk_norm="head",
    windows="pattern",
    defaults=(("num_attention_heads", 8), ("num_key_value_heads", 4), ("vocab_size", 262208)),
)
_GEMMA4 = _but(
    _GEMMA3,
    defaults=(("vocab_size", 262144),),
    harmless=frozenset(("use_double_wide_mlp", "vocab_size_per_layer_input")),
)
_DELTA = Family(kind="delta", qk_norm="head", head_dim=256)
_DELTA_MOE = _but(_DELTA, moe=True)
_WIDE = Family(qk_norm="wide")
_COHERE = Family(tied=True, one_norm=True, qk_norm="each")
_PARALLEL = Family(
    gated=False, norm="layernorm", one_norm=True, mlp_bias=True, head_bias=True, without=_PLAIN
)
_GLM_MOE = Family(moe=True, bias_of="qkv", qk_norm="head", first_dense=_ONE_DENSE)
_GRANITE_MOE = Family(moe=True, expert_ffn="dense", without=_SHARED_KEY)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "yi": _but(_LLAMA, without=_BIAS),
    "aquila": _but(_LLAMA, without=_BIAS),
    "aquila2": _but(_LLAMA, without=_BIAS),
    "aquilamodel": _but(_LLAMA, without=_BIAS),
    "baichuan": _but(_LLAMA, without=_BIAS),
    "internlm": Family(qkv_bias=True, out_bias=True, without=_BIAS),
    "internlm2": _but(_LLAMA, without=_BIAS),
    "internlm3": _but(_LLAMA, defaults=(("head_dim", 128),), tied=False),
    "minicpm": Family(tied=True, expert_ffn="dense", without=_SHARED_KEY),
    "deepseek": _LLAMA,
    "exaone": _LLAMA,
    "iquestcoder": _LLAMA,
    "cwm": Family(windows="pattern", head_dim=128, without=_BIAS),
    "helium": Family(head_dim=128),
    "emu3": _LLAMA,
    "emu3_text_model": _LLAMA,
    "seed_oss": Family(qkv_bias=True, bias_of="qkv", head_dim=128),
    "granite": _LLAMA,
    "granite_swa": Family(sinks="all"),
    "hyperclovax": Family(sandwich=True),
    "smollm3": Family(tied=True, windows="upper"),
    "arcee": Family(gated=False),
    "apertus": Family(gated=False, qk_norm="head"),
    "apertus1p5_text": Family(gated=False, qk_norm="head"),
    "bitnet": _LLAMA,
    "nanochat": Family(gated=False, norm="plain"),
    "diffllama": _LLAMA,
    "ernie4_5": Family(tied=True, head_dim=128, without=_BIAS),
    "olmo": Family(norm="plain"),
    "olmo2": _WIDE,
    "olmo3": _but(_WIDE, windows="pattern", defaults=()),
    "telechat": Family(out_bias=True, mlp_bias=True, without=_BIAS),
    "telechat2": Family(out_bias=True, mlp_bias=True, without=_BIAS),
    "panguembedded": Family(qkv_bias=True, out_bias=True),
    "pangu_ultra": Family(sandwich=True),
    "mistral": Family(windows="all", without=_BIAS),
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "ministral": Family(windows="all", without=_BIAS),
    "ministral3": Family(windows="all", head_dim=128, without=_BIAS),
    "mixtral": Family(windows="all", moe=True, expert_ffn="dense", without=_BIAS | _SHARED_KEY),
    "qwen": Family(qkv_bias=True, without=_BIAS),
    "qwen2": _QWEN2,
    "qwen2_moe": _but(_QWEN2, moe=True),
    "qwen3": _but(_QWEN3, head_dim=128),
    "qwen3_moe": _but(_QWEN3, moe=True, without=_SHARED_KEY),
    "qwen2_vl": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl": _but(_QWEN3, head_dim=128),
    "qwen3_vl_text": _but(_QWEN3, head_dim=128),
    "qwen3_vl_moe": _but(_QWEN3, moe=True, without=_SHARED_KEY),
    "qwen3_vl_moe_text": _but(_QWEN3, moe=True, without=_SHARED_KEY),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "gemma4_unified": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "vaultgemma": _but(_GEMMA, windows="even"),
    "phi": _but(_PARALLEL, qkv_bias=True, out_bias=True, qk_norm="bias"),
    "phi3": Family(windows="all", without=_BIAS),
    "phimoe": Family(windows="all", norm="layernorm", moe=True, expert_ffn="dense", without=_SHARED_KEY),
    "chatglm": Family(qkv_bias=True, bias_of="qkv", without=_BIAS),
    "glm": Family(qkv_bias=True, bias_of="qkv", head_dim=128),
    "glm4": Family(qkv_bias=True, bias_of="qkv", sandwich=True, head_dim=128),
    "glm4_moe": _GLM_MOE,
    "sarvam_moe": _but(_GLM_MOE, head_dim=64),
    "exaone4": _but(_LLAMA, qk_norm="head", windows="pattern", without=_BIAS),
    "exaone_moe": Family(moe=True, qk_norm="head", windows="pattern", first_dense=_ONE_DENSE, without=_BIAS),
    "hy_v3": Family(moe=True, qk_norm="head", head_dim=128, first_dense=_ONE_DENSE),
    "solar_open": Family(moe=True, head_dim=128),
    "dots1": Family(moe=True, qk_norm="head", windows="upper"),
    "afmoe": Family(
        moe=True,
        qk_norm="head",
        sandwich=True,
        windows="pattern",
        head_dim=128,
        first_dense=("num_dense_layers", 1),
    ),
    "beam": Family(
        moe=True, qk_norm="head", sandwich=True, head_dim=128, first_dense=_THREE_DENSE, without=_SHARED_KEY
    ),
    "aria_text": Family(moe=True, expert_ffn="dense"),
    "ernie4_5_moe": Family(moe=True, tied=True, first_dense=("moe_layer_start_index", 1), without=_BIAS),
    "flint": Family(moe=True, qk_norm="head", sinks="all", head_dim=128, without=_BIAS),
    "kolibri1": Family(moe=True, qk_norm="head", sandwich=True, head_dim=128, without=_BIAS),
    "laguna": Family(moe=True, qk_norm="head", head_dim=128, first_dense=_ONE_DENSE),
    "mellum": Family(moe=True, qk_norm="head", head_dim=128, without=_SHARED_KEY),
    "mimo_v2_flash": Family(moe=True, sinks="sliding", first_dense=_ONE_DENSE, without=_SHARED_KEY),
    "minimax_m2": Family(
        moe=True, expert_ffn="dense", qk_norm="wide", head_dim=128, without=_BIAS | _SHARED_KEY
    ),
    "minimax_m3_vl_text": Family(
        moe=True,
        expert_ffn="dense",
        qk_norm="head",
        head_dim=128,
        harmless=frozenset(
            (
                "index_block_size",
                "index_head_dim",
                "index_local_blocks",
                "index_n_heads",
                "index_topk_blocks",
            )
        ),
    ),
    "olmoe": Family(moe=True, expert_ffn="dense", qk_norm="wide", without=_SHARED_KEY),
    "flex_olmo": Family(moe=True, expert_ffn="dense", qk_norm="wide", without=_SHARED_KEY),
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": _GRANITE_MOE,
    "granitemoe_swa": _but(_GRANITE_MOE, sinks="all"),
    "step3p5": Family(moe=True, qk_norm="head", head_dim=128),
    "step3p7": Family(moe=True, qk_norm="head", head_dim=128),
    "llama4": Family(moe=True, expert_ffn="dense", head_dim=128),
    "llama4_text": Family(moe=True, expert_ffn="dense", head_dim=128),
    "gpt_oss": Family(
        moe=True,
        expert_ffn="dense",
        qkv_bias=True,
        out_bias=True,
        windows="even",
        head_dim=64,
        sinks="all",
        without=_SHARED_KEY,
    ),
    "cohere": _COHERE,
    "cohere2": _but(_COHERE, windows="pattern"),
    "cohere2_moe": _but(
        _COHERE,
        moe=True,
        expert_ffn="dense",
        windows="pattern",
        harmless=frozenset(("prefix_dense_sliding_window_pattern",)),
    ),
    "cohere_compass_text": _but(_COHERE, windows="pattern"),
    "dbrx": Family(moe=True, expert_ffn="dense", without=_SHARED_KEY),
    "gpt2": _GPT,
    "gpt-sw3": _GPT,
    "megatron-gpt": _GPT,
    "openai-gpt": _but(_GPT, final_norm=False),
    "opt": _but(_GPT, position_offset=2),
    "biogpt": _but(_GPT, position_offset=2),
    "xglm": _but(_GPT, positions="none"),
    "ctrl": _but(_GPT, positions="none", head_bias=True),
    "gpt_bigcode": _GPT,
    "gpt_neo": _but(_GPT, qkv_bias=False),
    "gpt_neox": _but(_GPT, tied=False, positions="rotary"),
    "gpt_neox_japanese": _but(_GPT, positions="rotary", qkv_bias=False, out_bias=False, mlp_bias=False),
    "gptj": _PARALLEL,
    "codegen": _PARALLEL,
    "falcon": Family(gated=False, norm="layernorm", tied=True, without=_BIAS),
    "starcoder2": _but(_GPT, positions="rotary", windows="all", without=_BIAS | _HEAD_DIM_KEY),
    "stablelm": Family(norm="layernorm", qk_norm="each", without=_BIAS),
    "persimmon": _but(_GPT, tied=False, positions="rotary", qk_norm="bias"),
    "fuyu": _but(_GPT, tied=False, positions="rotary", qk_norm="bias"),
    "jais2": _but(_GPT, tied=False, positions="rotary", head_dim=128),
    "bloom": _but(_GPT, positions="none"),
    "mpt": _but(_GPT, positions="none", defaults=(("no_bias", True),)),
    "nemotron": Family(gated=False, norm="layernorm"),
    "moshi": Family(windows="all", harmless=frozenset(("num_codebooks",)), without=_BIAS),
    "modernbert-decoder": Family(
        tied=True,
        windows="all",
        harmless=frozenset(("local_attention", "classifier_activation", "classifier_pooling")),
    ),
    "doge": _but(_LLAMA, qk_norm="head"),
    "deepseek_v2": _MLA_MOE,
    "deepseek_v3": _MLA_THREE_DENSE,
    "deepseek_v32": _MLA_THREE_DENSE,
    "glm_moe_dsa": _MLA_THREE_DENSE,
    "kimi_k2": _MLA_THREE_DENSE,
    "kimi_k25": _MLA_THREE_DENSE,
    "glm4_moe_lite": _MLA_ONE_DENSE,
    "sarvam_mla": _MLA_ONE_DENSE,
    "axk1": _MLA_ONE_DENSE,
    "minicpm3": Family(kind="latent", tied=True),
    "youtu": Family(kind="latent", tied=True),
    "pangu_ultra_moe": Family(kind="latent", sandwich=True, moe=True),
    "nemotron_h": Family(kind="nemotron_h", gated=False),
    "qwen3_next": _DELTA_MOE,
    "qwen3_5": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe": _DELTA_MOE,
    "qwen3_5_moe_text": _DELTA_MOE,
    "lara_mini": _but(_DELTA_MOE, head_dim=128, tied=True),
    "olmo_hybrid": Family(kind="delta", qk_norm="wide"),
    "deepseek_v4": Family(kind="compressed", moe=True),
    "mamba": Family(kind="mamba", tied=True),
    "falcon_mamba": Family(kind="mamba", tied=True),
    "mamba2": Family(kind="mamba2"),
    "bamba": Family(kind="mamba_hybrid"),
    "granitemoehybrid": _but(_GRANITE_MOE, kind="mamba_hybrid", moe=False),
    "jamba": Family(kind="jamba", expert_ffn="dense", without=_BIAS | _SHARED_KEY),
    "lfm2": Family(kind="short_conv", tied=True, qk_norm="head", without=_BIAS),
    "lfm2_moe": Family(
        kind="short_conv",
        tied=True,
        qk_norm="head",
        moe=True,
        first_dense=("num_dense_layers", 2),
        harmless=frozenset(("use_expert_bias",)),
        without=_BIAS | _SHARED_KEY,
    ),
    "lfm3": Family(kind="short_conv", tied=True, qk_norm="head", sandwich=True, without=_BIAS),
}

# Types of the reference library that have no meaning here, with what is missing.
_ENCODER = "an encoder's layers are not described here, only decoders that see earlier tokens"
_BOTH = "an encoder with a decoder that attends to it is not described here, only decoder-only models"
_VISION = "its language layers attend to images, which is no layer of this program"
_TWO = "attention and a state-space mixer side by side in one layer are not described here"
_LOOP = "layers that run several times with the same weights are not described here"
_RECURRENT = "its recurrence is no layer of this program"
_SHARED = "one attention block shared by several layers is not described here"
_STREAMS = "several residual streams that are mixed at each layer are not described here"
UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(
        (
            "bert",
            "bert-generation",
            "big_bird",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "megatron-bert",
            "rembert",
            "roberta",
            "roberta-prelayernorm",
            "roc_bert",
            "roformer",
            "xlm",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xlnet",
            "xmod",
            "modernbert",
            "distilbert",
            "albert",
            "deberta",
            "deberta-v2",
            "mpnet",
            "nomic_bert",
            "reformer",
            "cpmant",
        ),
        _ENCODER,
    ),
    **dict.fromkeys(
        (
            "bart",
            "bigbird_pegasus",
            "blenderbot",
            "blenderbot-small",
            "marian",
            "mbart",
            "mvp",
            "pegasus",
            "plbart",
            "prophetnet",
            "trocr",
            "whisper",
            "musicgen",
            "musicgen_melody",
            "t5",
            "mt5",
            "umt5",
            "longt5",
            "led",
            "fsmt",
            "m2m_100",
            "switch_transformers",
            "t5gemma",
            "t5gemma2",
            "nllb-moe",
            "pegasus_x",
        ),
        _BOTH,
    ),
    **dict.fromkeys(("git", "mllama", "mllama_text_model", "idefics"), _VISION),
    **dict.fromkeys(("falcon_h1", "zaya"), _TWO),
    **dict.fromkeys(("hrm_text", "dory", "inkling2_loop_text"), _LOOP),
    **dict.fromkeys(
        ("rwkv", "xlstm", "recurrent_gemma", "minimax", "kimi_linear", "bailing_hybrid"), _RECURRENT
    ),
    **dict.fromkeys(("zamba", "zamba2"), _SHARED),
    **dict.fromkeys(("gemma3n", "gemma3n_text", "hy_v4", "qwen4_exp", "qwen4_exp_text"), _STREAMS),
    "blt": "byte patches with their own local models are not described here",
    "jetmoe": "experts inside attention are not described here",
    "longcat_flash": "two attention blocks a layer and experts that compute nothing are not described here",
    "axk2": "norms with low-rank gates are not described here",
    "dots3_note": "layers with their own widths of latent attention are not described here",
    "dots3_note_text": "layers with their own widths of latent attention are not described here",
    "inkling_text": "its mixers are no layers of this program",
    "inkling2_text": "its mixers are no layers of this program",
    "gemma4_assistant": "a drafting model that reads another model's keys and values is not described here",
    "gemma4_unified_assistant": "a drafting model that reads another model's keys and values is not described here",
    "phi4_multimodal": "its low-rank adapters for images and speech are not described here",
    "hunyuan_v1_moe": "experts whose number differs from layer to layer are not described here",
}

# Keys that change the computation in a way no layer of ours describes, and why they are refused.
REFUSED = {
    "is_encoder_decoder": "only decoder-only models are",
    "add_cross_attention": "cross attention is not a layer of this program",
    "cross_attention_layers": "cross attention is not a layer of this program",
    "num_kv_shared_layers": "layers that share keys and values are not",
    "hidden_size_per_layer_input": "embeddings of each layer are not",
    "altup_num_inputs": "alternating updates are not",
    "use_mamba_kernels_v1": "Mamba-1 layers are not",
    "block_configs": "layers with their own widths are not",
    "zero_expert_num": "experts that compute nothing are not",
}
# Functions with two matrices where a gated layer has three; the choice among them does not change the work.
ACTIVATIONS = (
    "silu", "swish", "swiglu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "geglu", "relu",
    "relu2", "squared_relu", "relu_squared", "fast-swiglu", "fast_swiglu", "xielu", "gelu_10", "quick_gelu",
    "gelu_python",
)  # fmt: skip
