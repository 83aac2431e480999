"""Parameter counts of the reference library's own classes, built on a device without memory.

Run as a program it writes ``reference_library.jsonl`` beside it again: one line a configuration, as the library saves
it, with the number of parameters that its class has. The tests compare with that file where the library is not
installed.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fullmesh.errors import ModelError
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import model_from_config
from fullmesh.workload.readers.keys import decides_shape

TABLE = Path(__file__).with_suffix(".jsonl")

_HYBRID = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]


def _lfm2(num_layers: int, attention: tuple[int, ...]) -> list[str]:
    return ["full_attention" if i in attention else "conv" for i in range(num_layers)]


def _gpt(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {"n_layer": layers, "n_embd": hidden, "n_head": heads}


def _llama(
    layers: int, hidden: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": ffn, "vocab_size": vocab, **more,
    }  # fmt: skip


# Published sizes beside the defaults of the classes, by the class's own keys.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-medium": ("gpt2", _gpt(24, 1024, 16)),
    "gpt2-large": ("gpt2", _gpt(36, 1280, 20)),
    "gpt2-xl": ("gpt2", _gpt(48, 1600, 25)),
    "gpt-neo-2.7b": (
        "gpt_neo",
        {
            "num_layers": 32,
            "hidden_size": 2560,
            "num_heads": 20,
            "attention_types": [[["global", "local"], 16]],
        },
    ),
    "codegen-16b": ("codegen", {**_gpt(34, 6144, 24), "vocab_size": 51200}),
    "starcoder": (
        "gpt_bigcode",
        {**_gpt(40, 6144, 48), "n_inner": 24576, "vocab_size": 49152, "n_positions": 8192},
    ),
    "starcoder2-15b": ("starcoder2", _llama(40, 6144, 48, 4, 24576, 49152)),
    "starcoder2-7b": ("starcoder2", _llama(32, 4608, 36, 4, 18432, 49152)),
    "opt-1.3b": (
        "opt",
        {"hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192, "num_attention_heads": 32},
    ),
    "opt-13b": (
        "opt",
        {"hidden_size": 5120, "num_hidden_layers": 40, "ffn_dim": 20480, "num_attention_heads": 40},
    ),
    "opt-66b": (
        "opt",
        {"hidden_size": 9216, "num_hidden_layers": 64, "ffn_dim": 36864, "num_attention_heads": 72},
    ),
    "bloom-3b": ("bloom", {"hidden_size": 2560, "n_layer": 30, "n_head": 32}),
    "pythia-410m": ("gpt_neox", _llama(24, 1024, 16, 16, 4096, 50304)),
    "pythia-6.9b": ("gpt_neox", _llama(32, 4096, 32, 32, 16384, 50432)),
    "pythia-12b": ("gpt_neox", _llama(36, 5120, 40, 40, 20480, 50688)),
    "falcon-40b": (
        "falcon",
        {
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
    ),
    "falcon-180b": (
        "falcon",
        {
            "hidden_size": 14848,
            "num_hidden_layers": 80,
            "num_attention_heads": 232,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
    ),
    "falcon-rw-1b": (
        "falcon",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "alibi": True,
            "bias": True,
            "multi_query": False,
            "parallel_attn": False,
            "vocab_size": 50304,
        },
    ),
    "falcon-11b": (
        "falcon",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 60,
            "num_attention_heads": 32,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 16384,
        },
    ),
    "mpt-7b": ("mpt", {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432}),
    "phi-2": ("phi", _llama(32, 2560, 32, 32, 10240, 51200)),
    "phi-4": ("phi3", _llama(40, 5120, 40, 10, 17920, 100352)),
    "phi-3.5-moe": ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
    "stablelm-2-1.6b": ("stablelm", _llama(24, 2048, 32, 32, 5632, 100352, use_qkv_bias=True)),
    "stablelm-2-12b": (
        "stablelm",
        _llama(40, 5120, 32, 8, 13824, 100352, qk_layernorm=True, use_parallel_residual=True),
    ),
    "olmo-2-13b": ("olmo2", _llama(40, 5120, 40, 40, 13824, 100352)),
    "olmo-2-32b": ("olmo2", _llama(64, 5120, 40, 8, 27648, 100352)),
    "olmo-3-32b": ("olmo3", _llama(64, 5120, 40, 8, 27648, 100278)),
    "command-r-plus": ("cohere", _llama(64, 12288, 96, 8, 33792, 256000, use_qk_norm=True)),
    "command-r7b": ("cohere2", _llama(32, 4096, 32, 8, 14336, 256000)),
    "command-a": ("cohere2", _llama(64, 12288, 96, 8, 36864, 256000)),
    "granite-3-8b": ("granite", _llama(40, 4096, 32, 8, 12800, 49155, tie_word_embeddings=True)),
    "granite-3-3b-a800m": (
        "granitemoe",
        _llama(
            32, 1536, 24, 8, 512, 49155, num_local_experts=40, num_experts_per_tok=8, tie_word_embeddings=True
        ),
    ),
    "granite-4-h-small": (
        "granitemoehybrid",
        _llama(
            40,
            4096,
            32,
            8,
            768,
            100352,
            num_local_experts=72,
            num_experts_per_tok=10,
            shared_intermediate_size=1536,
            mamba_d_state=128,
            tie_word_embeddings=True,
            layer_types=["full_attention" if i in (5, 15, 25, 35) else "linear_attention" for i in range(40)],
        ),
    ),
    "granite-4-h-micro": (
        "granitemoehybrid",
        _llama(
            40,
            2048,
            32,
            8,
            8192,
            100352,
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=8192,
            mamba_d_state=128,
            mamba_n_heads=64,
            tie_word_embeddings=True,
            layer_types=["full_attention" if i in (5, 15, 25, 35) else "linear_attention" for i in range(40)],
        ),
    ),
    "smollm2-360m": ("llama", _llama(32, 960, 15, 5, 2560, 49152, tie_word_embeddings=True)),
    "mistral-nemo": ("mistral", _llama(40, 5120, 32, 8, 14336, 131072, head_dim=128)),
    "mistral-small-24b": ("mistral", _llama(40, 5120, 32, 8, 32768, 131072, head_dim=128)),
    "ministral-8b": ("ministral", _llama(36, 4096, 32, 8, 12288, 131072, head_dim=128)),
    "gemma-3-270m": ("gemma3_text", _llama(18, 640, 4, 1, 2048, 262144, head_dim=256)),
    "gemma-3-4b": ("gemma3_text", _llama(34, 2560, 8, 4, 10240, 262208, head_dim=256)),
    "gemma-4-26b-a4b": (
        "gemma4_text",
        _llama(
            30,
            2816,
            16,
            8,
            2112,
            262144,
            head_dim=256,
            global_head_dim=512,
            num_global_key_value_heads=2,
            attention_k_eq_v=True,
            enable_moe_block=True,
            num_experts=128,
            top_k_experts=8,
            moe_intermediate_size=704,
            hidden_size_per_layer_input=0,
            sliding_window=1024,
        ),
    ),
    "gemma-4-without-layer-embeddings": ("gemma4_text", {"hidden_size_per_layer_input": 0}),
    "exaone-4-32b": ("exaone4", _llama(64, 5120, 40, 8, 27392, 102400)),
    "glm-4-32b": ("glm4", _llama(61, 6144, 48, 2, 23040, 151552, attention_bias=False)),
    "seed-oss-36b": ("seed_oss", _llama(64, 5120, 80, 8, 27648, 155136)),
    "hunyuan-7b": ("hunyuan_v1_dense", _llama(32, 4096, 32, 8, 14336, 128167, head_dim=128)),
    "ernie-4.5-300b-a47b": (
        "ernie4_5_moe",
        _llama(
            54,
            8192,
            64,
            8,
            28672,
            103424,
            moe_intermediate_size=3584,
            moe_k=8,
            moe_num_shared_experts=0,
            moe_layer_start_index=3,
            tie_word_embeddings=False,
        ),
    ),
    "dots.llm1": (
        "dots1",
        _llama(
            62,
            4096,
            32,
            32,
            10944,
            152064,
            moe_intermediate_size=1408,
            n_routed_experts=128,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
        ),
    ),
    "deepseek-v2-sizes-of-the-class": ("deepseek_v2", {"num_experts_per_tok": 6}),
    "kimi-k2": (
        "deepseek_v3",
        {
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "n_routed_experts": 384,
            "first_k_dense_replace": 1,
            "vocab_size": 163840,
        },
    ),
    "lfm2-1.2b": (
        "lfm2",
        _llama(16, 2048, 32, 8, 12288, 65536, layer_types=_lfm2(16, (2, 5, 8, 10, 12, 14))),
    ),
    "lfm2-8b-a1b": (
        "lfm2_moe",
        _llama(24, 2048, 32, 8, 7168, 65536, layer_types=_lfm2(24, (2, 6, 10, 14, 18, 21))),
    ),
    "jamba-1.5-large": ("jamba", _llama(72, 8192, 64, 8, 24576, 65536)),
    "mamba-2.8b": (
        "mamba",
        {"hidden_size": 2560, "num_hidden_layers": 64, "intermediate_size": 5120, "time_step_rank": 160},
    ),
    "falcon-mamba-7b": (
        "falcon_mamba",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 64,
            "intermediate_size": 8192,
            "time_step_rank": 256,
            "vocab_size": 65024,
            "tie_word_embeddings": False,
        },
    ),
    "mamba2-2.7b": (
        "mamba2",
        {
            "hidden_size": 2560,
            "num_hidden_layers": 64,
            "num_heads": 80,
            "n_groups": 1,
            "vocab_size": 50288,
            "tie_word_embeddings": True,
        },
    ),
    "bamba-9b": ("bamba", {"attn_layer_indices": [9, 18, 27], "mamba_d_state": 128}),
    "arcee-afm-4.5b": ("arcee", _llama(36, 2560, 20, 4, 18432, 128004, head_dim=128)),
    "apertus-70b": ("apertus", _llama(80, 8192, 64, 8, 43008, 131072)),
    "xglm-7.5b": ("xglm", {"d_model": 4096, "ffn_dim": 16384, "num_layers": 32, "attention_heads": 32}),
    "biogpt-large": (
        "biogpt",
        {
            "hidden_size": 1600,
            "num_hidden_layers": 48,
            "num_attention_heads": 25,
            "intermediate_size": 6400,
            "vocab_size": 57717,
        },
    ),
    "dbrx": (
        "dbrx",
        {
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "vocab_size": 100352,
            "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
            "ffn_config": {
                "hidden_size": 6144,
                "ffn_hidden_size": 10752,
                "moe_num_experts": 16,
                "moe_top_k": 4,
            },
        },
    ),
    "qwen3-vl-less-30b": ("qwen3_moe", {"head_dim": 128, "num_hidden_layers": 48}),
    "nemotron-mini-4b": ("nemotron", _llama(32, 3072, 24, 8, 9216, 256000, head_dim=128)),
    "solar-open-without-shared": ("solar_open", {"n_shared_experts": 0}),
    "minimax-m2": ("minimax_m2", {}),
    "olmo-hybrid-short": ("olmo_hybrid", {"num_hidden_layers": 8, "layer_types": _HYBRID * 2}),
}


def available() -> str:
    """Version of the library, or an empty text where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch  # noqa: F401
            import transformers
    except ImportError:
        return ""
    return str(transformers.__version__)


def model_types() -> list[str]:
    """All types that have a causal language model in the library."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def shipped_cases(types: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Shipped models of a type that the library has, in its keys."""
    cases = {}
    for entry in shipped.all_models():
        values = {k: v for k, v in entry.values.items() if not k.startswith("_")}
        # the library takes a width of 0 for a width
        if not values.get("moe_latent_size", 1):
            del values["moe_latent_size"]
        # the library's MPT has neither biases nor learned positions, ours are those that were published
        if values["model_type"] in types and values["model_type"] not in ("mpt", "deepseek_v4"):
            cases[entry.id] = (str(values.pop("model_type")), values)
    return cases


def build(model_type: str, overrides: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A configuration as the library saves it, and the parameters of its class, tied ones once.

    Raises
    ------
    Exception
        Whatever the class raises: some cannot be built from their own defaults.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        config = AutoConfig.for_model(model_type, **overrides)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        towers = (
            "vision_tower",
            "vision_model",
            "audio_tower",
            "multi_modal_projector",
            "vision_embed_tokens",
        )
        count = sum(
            p.numel() for n, p in model.named_parameters() if not any(t in n.split(".") for t in towers)
        )
        return json.loads(config.to_json_string(use_diff=False)), count


def table() -> Iterator[dict[str, Any]]:
    """The lines of the checked-in table, the version of the library first."""
    for line in TABLE.read_text("utf-8").splitlines():
        yield json.loads(line)


def _compact(values: dict[str, Any]) -> dict[str, Any]:
    """What the reader uses, and what looks as if it decided a shape."""
    c = Config(values, "config.json")
    with contextlib.suppress(ModelError):
        model_from_config(c)
    used = {*c.read, "model_type", "q_lora_rank"}
    return {
        key: value
        for key, value in values.items()
        if key in used or (value is not None and (decides_shape(key) or key.endswith("_config")))
    }


def main() -> None:
    """Write the table again."""
    types = model_types()
    cases = {f"{t} by default": (t, {}) for t in types} | {**PUBLISHED, **shipped_cases(types)}
    lines = [{"library": "transformers", "version": available()}]
    for name, (model_type, overrides) in cases.items():
        try:
            config, count = build(model_type, overrides)
        except Exception as error:
            print(f"{name}: {type(error).__name__}")
            continue
        lines.append({"name": name, "parameters": count, "config": _compact(config)})
    TABLE.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
