"""Attention of a configuration: softmax with its windows, and latent attention."""

from __future__ import annotations

import dataclasses
from typing import Any

from fullmesh.workload.layers import Attention, LatentAttention, SparseLatentAttention
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.families import Family
from fullmesh.workload.readers.keys import HEAD_DIM, HEADS, KV_HEADS

FULL = "full_attention"
SLIDING = "sliding_attention"
CHUNKED = "chunked_attention"
# attention to tokens that an indexer chooses
INDEXED = "indexed_attention"


def heads_of(c: Config, family: Family, hidden: int) -> tuple[int, int, int]:
    """Heads, key-value heads and head dimension."""
    heads = c.size(*HEADS)
    if c.text("model_type") == "falcon":
        kv = _falcon_kv_heads(c, heads)
    elif c.flag("multi_query", default=False, quiet=True):
        kv = 1
        c.find(*KV_HEADS)
    else:
        if not c.flag("multi_query_attention", default=True, quiet=True):
            c.refuse("multi_query_group_num", "it stands beside multi_query_attention = false")
        kv = c.size(*KV_HEADS, default=heads)
    if heads % kv:
        raise c.error(
            c.find(*KV_HEADS) or "num_attention_heads", f"{kv} key-value heads do not divide {heads} heads"
        )
    key = c.find(*HEAD_DIM)
    if key:
        return heads, kv, c.size(key)
    if family.head_dim:
        c.assumed["head_dim"] = family.head_dim
        return heads, kv, family.head_dim
    if hidden % heads:
        raise c.error(
            c.find(*HEADS) or "",
            f"{heads} heads do not divide the hidden size {hidden}",
            hint="give head_dim where the heads are not hidden size / heads wide",
        )
    c.assumed["head_dim"] = hidden // heads
    return heads, kv, hidden // heads


def _falcon_kv_heads(c: Config, heads: int) -> int:
    kv = c.size("num_kv_heads", default=heads)
    new, one = c.flag("new_decoder_architecture", default=False), c.flag("multi_query", default=True)
    if new:
        return kv
    return 1 if one else heads


def softmax(c: Config, family: Family, hidden: int, *, gated: bool = False) -> Attention:
    """Softmax attention over all earlier tokens; layers differ from it by their type."""
    heads, kv, dim = heads_of(c, family, hidden)
    qkv_bias, out_bias = _biases(c, family)
    qk_norm, size = _qk_norm(c, family, heads, kv, dim)
    # one family has values of another width, and says it
    v_dim = c.size("v_head_dim") if c.find("v_head_dim") or c.text("model_type") == "mimo_v2_flash" else dim
    return Attention(
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        qk_norm_size=size,
        rotary=family.positions == "rotary" and not c.flag("alibi", default=False, quiet=True),
        gated_output=gated,
        sinks=family.sinks == "all",
        v_dim=v_dim if v_dim != dim else None,
    )


def _biases(c: Config, family: Family) -> tuple[bool, bool]:
    """Biases of the query, key and value projections, and of the output projection."""
    model_type = c.text("model_type")
    # the first Qwen means all biases but those of queries, keys and values
    no_bias = c.flag("no_bias", default=False, quiet=True) and model_type != "qwen"
    if no_bias or not c.flag("enable_bias", default=True, quiet=True):
        return False, False
    key = c.find("add_qkv_bias") or c.find("qkv_bias") or c.find("use_qkv_bias") or c.find("attention_bias")
    if key is None and model_type in ("internlm", "internlm2", "internlm3", "falcon"):
        key = c.find("bias")
    if key is None:
        key = c.find("use_bias")
    qkv = family.qkv_bias
    if key:
        qkv = c.flag(key, default=qkv)
    else:
        c.assumed["use_qkv_bias" if model_type == "stablelm" else "attention_bias"] = qkv
    own = c.find("attention_out_bias")
    if own:
        return qkv, c.flag(own, default=False)
    one_for_all = family.bias_of == "all" and family.qkv_bias == family.out_bias
    return qkv, qkv if key and one_for_all and key not in (
        "add_qkv_bias",
        "qkv_bias",
        "use_qkv_bias",
    ) else family.out_bias


def _qk_norm(c: Config, family: Family, heads: int, kv: int, dim: int) -> tuple[bool, int | None]:
    """Whether queries and keys are normed, and by how many parameters where it is not a scale of each head's width."""
    if c.text("model_type").startswith("llama4"):
        # a norm without parameters
        return c.flag("use_qk_norm", default=True, quiet=True), 0
    optional = family.qk_norm in ("each", "bias") or c.text("model_type") in ("glm4_moe", "sarvam_moe")
    default = (
        c.text("model_type") in ("persimmon", "fuyu", "sarvam_moe") if optional else bool(family.qk_norm)
    )
    names = ("use_qk_norm", "qk_layernorm")
    if c.text("model_type") in ("stablelm", "phi", "persimmon", "fuyu"):
        names = ("qk_layernorm", "use_qk_norm")
    on = c.flag(*names, default=default, quiet=not optional)
    if c.text("attn_type") not in ("", "multihead_attention", "grouped_query_attention"):
        raise c.error(
            "attn_type", f"{c.text('attn_type')[:60]!r} is not supported", expected="multihead_attention"
        )
    c.refuse("qk_ln", "norms of queries and keys over all heads are not read for this type")
    if not on:
        return False, None
    size = {"wide": (heads + kv) * dim, "each": (heads + kv) * dim, "bias": 4 * dim}.get(family.qk_norm)
    return True, size


def by_type(c: Config, family: Family, full: Attention, layer_type: str) -> Attention:
    """Softmax attention of a layer of one type."""
    model_type = c.text("model_type")
    if layer_type == FULL:
        if model_type.startswith("gemma4"):
            return _gemma4_full(c, full)
        return full
    if layer_type == SLIDING:
        window = c.size("sliding_window") if c.find("sliding_window") else c.size("sliding_window_size")
        if model_type == "mimo_v2_flash":
            # layers with a window have twice the key-value heads
            full = dataclasses.replace(full, num_kv_heads=2 * full.num_kv_heads)
            swa = c.find("swa_num_key_value_heads")
            if swa and c.size(swa) != full.num_kv_heads:
                raise c.error(
                    swa, f"{c.size(swa)} key-value heads", expected=f"{full.num_kv_heads}, twice the others"
                )
        heads = _sliding_heads(c)
        if heads:
            full = dataclasses.replace(full, num_heads=heads)
        return dataclasses.replace(full, window=window, sinks=bool(family.sinks))
    if layer_type == CHUNKED:
        # a chunk behaves like a window for sequences up to its length; longer ones are overestimated
        return dataclasses.replace(full, window=c.size("attention_chunk_size"))
    raise c.error(
        "layer_types",
        f"the layer kind {layer_type[:60]!r} is not supported",
        expected=f"{FULL}, {SLIDING} or {CHUNKED}",
    )


def _sliding_heads(c: Config) -> int:
    """Heads of layers with a window, where they have their own number (Step-3)."""
    if c.find("num_sliding_attention_heads"):
        return c.size("num_sliding_attention_heads")
    other = c.values.get("attention_other_setting")
    if other is None:
        return 0
    c.read.add("attention_other_setting")
    if not isinstance(other, dict) or not isinstance(other.get("num_attention_heads"), int):
        raise c.error("attention_other_setting", "an object with num_attention_heads was expected")
    return int(other["num_attention_heads"])


def _gemma4_full(c: Config, full: Attention) -> Attention:
    """Layers without a window have wider heads, and may use keys as values."""
    one = c.flag("attention_k_eq_v", default=False)
    own_kv = c.find("num_global_key_value_heads") if one else None
    if "per_layer_config" not in c.values:
        full = dataclasses.replace(full, head_dim=c.size("global_head_dim", default=512))
    if own_kv:
        full = dataclasses.replace(full, num_kv_heads=c.size(own_kv))
    return dataclasses.replace(full, shared_kv=one)


def overridden(c: Config, attention: Attention, values: dict[str, Any]) -> Attention:
    """Attention of a layer with sizes of its own (``per_layer_config``)."""
    names = {
        "head_dim": "head_dim",
        "num_key_value_heads": "num_kv_heads",
        "num_attention_heads": "num_heads",
    }
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise c.error("per_layer_config", f"{key[:60]!r} of a single layer is not supported")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise c.error("per_layer_config", f"{key} of a layer", expected="a whole number from 1")
        changes[names[key]] = value
    out = dataclasses.replace(attention, **changes)
    if out.num_heads % out.num_kv_heads:
        raise c.error(
            "per_layer_config", f"{out.num_kv_heads} key-value heads do not divide {out.num_heads} heads"
        )
    return out


def layer_types(c: Config, family: Family, num_layers: int) -> list[str]:
    """The type of each layer of softmax attention: as listed, or as the family's older keys say."""
    types = c.layer_list("layer_types", num_layers)
    for key in (
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "global_attn_every_n_layers",
        "window_size",
    ):
        if types is not None and key in c.values:
            c.read.add(key)
    if types is not None:
        if c.text("model_type").startswith("gemma4"):
            types = [*types[:-1], FULL]
        if SLIDING in types and not c.has("sliding_window", "sliding_window_size"):
            raise c.error(
                "sliding_window", "the key 'sliding_window' is missing", expected="the window in tokens"
            )
        return types
    model_type = c.text("model_type")
    if model_type == "gpt_neo":
        return _gpt_neo(c, num_layers)
    if model_type.startswith("llama4"):
        return _chunks(c, num_layers)
    if family.sinks == "sliding":
        raise c.error(
            "layer_types", "the key 'layer_types' is missing", expected=f"{FULL} or {SLIDING} a layer"
        )
    if not family.windows or not c.has("sliding_window"):
        return [FULL] * num_layers
    if not c.flag("use_sliding_window", default=family.windows != "upper", quiet=True):
        return [FULL] * num_layers
    if family.windows == "all":
        return [SLIDING] * num_layers
    if family.windows == "even":
        return [SLIDING if i % 2 == 0 else FULL for i in range(num_layers)]
    if family.windows == "pattern":
        return _pattern(c, num_layers)
    start = c.count("max_window_layers", default=num_layers)
    return [SLIDING if i >= start else FULL for i in range(num_layers)]


def _pattern(c: Config, num_layers: int) -> list[str]:
    model_type = c.text("model_type")
    if model_type == "cwm":
        return [FULL if i % 4 == 0 else SLIDING for i in range(num_layers)]
    usual = 6 if model_type.startswith("gemma") else 4
    key = c.find("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    if key and isinstance(c.values[key], str):
        # one letter a layer, again and again: L has a window, G has none
        letters = c.text(key)
        if not letters or set(letters) - {"L", "G"}:
            raise c.error(key, f"{letters[:60]!r} is no pattern", expected="letters L and G, or a number")
        return [SLIDING if letters[i % len(letters)] == "L" else FULL for i in range(num_layers)]
    every = c.size(key) if key else usual
    types = [FULL if (i + 1) % every == 0 else SLIDING for i in range(num_layers)]
    return [*types[:-1], FULL] if model_type.startswith("gemma4") else types


def _chunks(c: Config, num_layers: int) -> list[str]:
    if not c.find("attention_chunk_size"):
        return [FULL] * num_layers
    every = c.size("no_rope_layer_interval") if c.find("no_rope_layer_interval") else 4
    listed = c.numbers("no_rope_layers")
    full = [not v for v in listed] if listed else [(i + 1) % every == 0 for i in range(num_layers)]
    if len(full) != num_layers:
        raise c.error("no_rope_layers", f"{len(full)} entries", expected=f"{num_layers}, one a layer")
    return [FULL if f else CHUNKED for f in full]


def _gpt_neo(c: Config, num_layers: int) -> list[str]:
    """Local attention (a window) and global attention in turn."""
    for key in ("attention_layers", "attention_types", "window_size"):
        if key in c.values:
            c.read.add(key)
    listed = c.values.get("attention_layers")
    if listed is None:
        listed = [("global", "local")[i % 2] for i in range(num_layers)]
    if (
        not isinstance(listed, list)
        or len(listed) != num_layers
        or set(map(str, listed)) - {"global", "local"}
    ):
        raise c.error("attention_layers", "one of 'global' and 'local' a layer was expected")
    if "local" in listed:
        c.default("sliding_window", c.size("window_size", default=256))
    return [SLIDING if v == "local" else FULL for v in listed]


def latent(c: Config, family: Family) -> LatentAttention:
    """Latent attention without an indexer."""
    if c.flag("attention_bias", default=False, quiet=True):
        raise c.error("attention_bias", "biases of latent attention are not supported")
    # derived sizes, and one key that latent attention has no use for
    c.find("head_dim")
    c.find("num_key_value_heads")
    nope = c.size("qk_nope_head_dim", "attention_qk_dim")
    rope = c.size("qk_rope_head_dim", "attention_qk_rope_dim")
    if c.find("qk_head_dim") and c.size("qk_head_dim") != nope + rope:
        raise c.error(
            "qk_head_dim", f"{c.size('qk_head_dim')}", expected=f"{nope + rope}, the sum of both parts"
        )
    key = c.find("q_lora_rank", "attention_q_lora_dim")
    if not key and not ("q_lora_rank" in c.values or c.text("model_type") == "sarvam_mla"):
        # the class has compressed queries; null switches them off, absence does not
        raise c.error("q_lora_rank", "the key 'q_lora_rank' is missing", expected="a whole number, or null")
    if not key:
        c.read.add("q_lora_rank")
        c.remarks.append("q_lora_rank is null: queries are not compressed")
    return LatentAttention(
        num_heads=c.size(*HEADS),
        q_lora_rank=c.size(key) if key else None,
        kv_lora_rank=c.size("kv_lora_rank", "attention_kv_lora_dim"),
        qk_nope_dim=nope,
        qk_rope_dim=rope,
        v_dim=c.size("v_head_dim", "attention_v_dim"),
    )


def latent_layers(c: Config, family: Family, num_layers: int) -> list[LatentAttention]:
    """One mixer a layer; with an indexer where the family has one."""
    plain = latent(c, family)
    types = c.layer_list("layer_types", num_layers)
    indexed = c.text("model_type") in ("deepseek_v32", "glm_moe_dsa")
    odd = next((t for t in types or () if t not in (FULL, INDEXED)), None)
    if odd or (not indexed and INDEXED in (types or ())):
        raise c.error(
            "layer_types", f"the layer kind {odd or INDEXED!r} is not supported with latent attention"
        )
    if not indexed:
        c.refuse("index_topk", "latent attention over selected tokens is not read for this type")
        return [plain] * num_layers
    reuse = SparseLatentAttention(topk=c.size("index_topk"), **dataclasses.asdict(plain))
    own = dataclasses.replace(reuse, index_heads=c.size("index_n_heads"), index_dim=c.size("index_head_dim"))
    which = c.layer_list("indexer_types", num_layers) or ["full"] * num_layers
    for kind in which:
        if kind not in ("full", "shared"):
            raise c.error(
                "indexer_types", f"the kind {kind[:60]!r} is not supported", expected="full or shared"
            )
    if types is None:
        types = [INDEXED] * num_layers
    return [plain if t == FULL else own if w == "full" else reuse for t, w in zip(types, which, strict=True)]
