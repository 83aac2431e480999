"""The mixers of a configuration: which kind of attention or state-space layer stands where."""

from __future__ import annotations

from fullmesh.workload import Attention, LatentAttention, LinearAttention, Mamba2, Mixer
from fullmesh.workload.parameters import MAX_LAYERS
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.families import Family

# A layer's mixer, and its letter in the pattern of a hybrid ("" elsewhere).
Kind = tuple[Mixer | None, str]
_LETTERS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def mixers(c: Config, family: Family, hidden: int) -> list[Kind]:
    """One entry a layer.

    Raises
    ------
    ModelError
        An unknown kind of layer, a count that does not match, heads that do not divide.
    """
    if family.kind == "hybrid":
        return _hybrid(c, hidden)
    num_layers = c.size("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if num_layers > MAX_LAYERS:
        key = c.find("num_hidden_layers", "n_layer", "n_layers", "num_layers") or ""
        raise c.error(key, f"{num_layers:,} layers", expected=f"at most {MAX_LAYERS:,}")
    if family.kind == "mla":
        latent = _latent(c)
        types = c.texts("layer_types")
        if types and set(types) != {"full_attention"}:
            odd = next(t for t in types if t != "full_attention")
            raise c.error("layer_types", f"the layer kind {odd!r} is not supported with latent attention")
        c.refuse("index_topk", "latent attention over selected tokens is not")
        return [(latent, "")] * num_layers
    if family.kind == "gated_delta":
        return [(m, "") for m in _gated_delta(c, family, num_layers, hidden)]
    if family.kind == "compressed":
        return [(m, "") for m in _compressed(c, num_layers)]
    windows = _windows(c, family, num_layers)
    by_window = {w: _attention(c, family, hidden, window=w) for w in set(windows)}
    return [(by_window[w], "") for w in windows]


def _heads(c: Config, family: Family, hidden: int) -> tuple[int, int, int]:
    """Heads, key-value heads and head dimension."""
    heads = c.size("num_attention_heads", "n_head", "n_heads")
    if c.flag("multi_query_attention", default=False):
        kv = c.size("multi_query_group_num", default=1)
    elif c.flag("multi_query", default=False):
        kv = 1
    else:
        kv = c.size("num_key_value_heads", "kv_n_heads", "num_query_groups", default=heads)
    if heads % kv:
        raise c.error(
            c.find("num_key_value_heads", "kv_n_heads", "multi_query_group_num") or "num_attention_heads",
            f"{kv} key-value heads do not divide {heads} heads",
        )
    key = c.find("head_dim", "attention_head_dim", "kv_channels")
    if key:
        return heads, kv, c.size(key)
    if family.head_dim:
        return heads, kv, family.head_dim
    if hidden % heads:
        raise c.error(
            c.find("num_attention_heads", "n_head", "n_heads") or "",
            f"{heads} heads do not divide the hidden size {hidden}",
            hint="give head_dim where the heads are not hidden size / heads wide",
        )
    return heads, kv, hidden // heads


def _attention(c: Config, family: Family, hidden: int, *, window: int | None = None) -> Attention:
    heads, kv, dim = _heads(c, family, hidden)
    gpt_oss = c.text("model_type") == "gpt_oss"
    shared_key = (
        "bias" if c.text("model_type") in ("internlm", "internlm2", "internlm3") else "attention_bias"
    )
    qkv_bias = c.flag("add_qkv_bias", "qkv_bias", shared_key, "use_bias", default=family.qkv_bias)
    if c.flag("no_bias", default=False):
        qkv_bias = False
    # where one key stands for all projections it decides over the output's bias too
    out_default = family.out_bias
    if family.qkv_bias == family.out_bias and c.find(shared_key, "use_bias", "no_bias"):
        out_default = qkv_bias
    return Attention(
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        bias=qkv_bias,
        out_bias=out_default,
        qk_norm=c.flag("use_qk_norm", "qk_layernorm", default=family.qk_norm),
        window=window,
        rotary=family.positions == "rotary",
        sinks=gpt_oss,
    )


def _windows(c: Config, family: Family, num_layers: int) -> list[int | None]:
    """The sliding window of each layer, None for full attention."""
    types = c.texts("layer_types")
    if types is not None:
        if len(types) != num_layers:
            raise c.error("layer_types", f"{len(types)} entries", expected=f"{num_layers}, one a layer")
        return [_window_of(c, t) for t in types]
    if c.find("attention_chunk_size") and c.text("model_type").startswith("llama4"):
        # a chunk behaves like a window for sequences up to its length; longer ones are overestimated
        chunk = c.size("attention_chunk_size")
        every = c.size("no_rope_layer_interval", default=4)
        listed = c.numbers("no_rope_layers")
        full = [not v for v in listed] if listed else [(i + 1) % every == 0 for i in range(num_layers)]
        if len(full) != num_layers:
            raise c.error("no_rope_layers", f"{len(full)} entries", expected=f"{num_layers}, one a layer")
        return [None if f else chunk for f in full]
    if not family.windows or not c.find("sliding_window"):
        return [None] * num_layers
    if not c.flag("use_sliding_window", default=family.windows != "upper"):
        return [None] * num_layers
    window = c.size("sliding_window")
    if family.windows == "all":
        return [window] * num_layers
    if family.windows == "even":
        return [window if i % 2 == 0 else None for i in range(num_layers)]
    if family.windows == "pattern":
        every = c.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
        return [None if (i + 1) % every == 0 else window for i in range(num_layers)]
    start = c.count("max_window_layers", default=num_layers)
    return [window if i >= start else None for i in range(num_layers)]


def _window_of(c: Config, layer_type: str) -> int | None:
    if layer_type == "full_attention":
        return None
    if layer_type == "sliding_attention":
        return c.size("sliding_window")
    if layer_type == "chunked_attention":
        return c.size("attention_chunk_size")
    raise c.error(
        "layer_types",
        f"the layer kind {layer_type!r} is not supported",
        expected="full_attention, sliding_attention or chunked_attention",
    )


def _latent(c: Config) -> LatentAttention:
    key = c.find("q_lora_rank", "attention_q_lora_dim")
    return LatentAttention(
        num_heads=c.size("num_attention_heads"),
        q_lora_rank=c.size(key) if key else None,
        kv_lora_rank=c.size("kv_lora_rank", "attention_kv_lora_dim"),
        qk_nope_dim=c.size("qk_nope_head_dim", "attention_qk_dim"),
        qk_rope_dim=c.size("qk_rope_head_dim", "attention_qk_rope_dim"),
        v_dim=c.size("v_head_dim", "attention_v_dim"),
    )


def _gated_delta(c: Config, family: Family, num_layers: int, hidden: int) -> list[Mixer]:
    """Qwen3-Next and later: gated delta-rule layers with a gated softmax layer every few."""
    types = c.texts("layer_types")
    if types is None:
        every = c.size("full_attention_interval", default=4)
        types = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(num_layers)]
    if len(types) != num_layers:
        raise c.error("layer_types", f"{len(types)} entries", expected=f"{num_layers}, one a layer")
    heads, kv, dim = _heads(c, family, hidden)
    softmax = Attention(
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        bias=c.flag("attention_bias", default=False),
        out_bias=c.flag("attention_bias", default=False),
        qk_norm=True,
        gated_output=c.flag("attn_output_gate", default=True),
    )
    keys, values = c.size("linear_num_key_heads"), c.size("linear_num_value_heads")
    if values % keys:
        raise c.error("linear_num_value_heads", f"{keys} key heads do not divide {values} value heads")
    delta = LinearAttention(
        num_key_heads=keys,
        num_value_heads=values,
        key_dim=c.size("linear_key_head_dim"),
        value_dim=c.size("linear_value_head_dim"),
        conv_kernel=c.size("linear_conv_kernel_dim", default=4),
    )
    by_type: dict[str, Mixer] = {"full_attention": softmax, "linear_attention": delta}
    for t in types:
        if t not in by_type:
            raise c.error(
                "layer_types", f"the layer kind {t!r} is not supported", expected=" or ".join(by_type)
            )
    return [by_type[t] for t in types]


def _compressed(c: Config, num_layers: int) -> list[Mixer]:
    """DeepSeek-V4: one wide key-value head, low-rank queries and outputs, attention over compressed tokens.

    An approximation. A layer attends to a sliding window and, where its compression ratio is not 0, to compressed
    tokens: the best ``index_topk`` of them where there is an indexer (ratios below the window), all of them
    otherwise. They are counted as a window of that many tokens more; indexer, compressor and the mixing of residual
    streams are left out.
    """
    num_heads = c.size("num_attention_heads")
    ratios = c.numbers("compress_ratios") or [0] * num_layers
    if len(ratios) < num_layers:
        raise c.error(
            "compress_ratios", f"{len(ratios)} entries", expected=f"at least {num_layers}, one a layer"
        )
    groups = c.size("o_groups", default=1)
    if num_heads % groups:
        raise c.error("o_groups", f"{groups} groups do not divide {num_heads} heads")
    near = c.size("sliding_window")
    selected = c.count("index_topk", default=0)
    return [
        Attention(
            num_heads=num_heads,
            num_kv_heads=c.size("num_key_value_heads"),
            head_dim=c.size("head_dim"),
            window=near + selected if 0 < ratio < near else near,
            sinks=True,
            q_lora_rank=c.size("q_lora_rank"),
            out_rank=c.size("o_lora_rank"),
            out_groups=groups,
            shared_kv=True,
        )
        for ratio in ratios[:num_layers]
    ]


def _hybrid(c: Config, hidden: int) -> list[Kind]:
    """Nemotron-H: one mixer or one feed-forward part a layer, by pattern."""
    blocks = c.texts("layers_block_type")
    pattern = c.text("hybrid_override_pattern")
    if blocks is not None:
        for block in blocks:
            if block not in _LETTERS:
                raise c.error(
                    "layers_block_type",
                    f"the layer kind {block!r} is not supported",
                    expected=", ".join(_LETTERS),
                )
        pattern = "".join(_LETTERS[b] for b in blocks)
    if not pattern:
        raise c.error("hybrid_override_pattern", "the key 'hybrid_override_pattern' is missing")
    for letter in pattern:
        if letter not in _LETTERS.values():
            raise c.error(
                "hybrid_override_pattern",
                f"the layer kind {letter!r} is not supported",
                expected="M (Mamba-2), * (attention), - (MLP) or E (experts)",
            )
    if c.find("num_hidden_layers") and c.size("num_hidden_layers") != len(pattern):
        raise c.error(
            "num_hidden_layers",
            f"{c.size('num_hidden_layers')} layers",
            expected=f"{len(pattern)}, as the pattern has",
        )
    by_letter: dict[str, Mixer | None] = {"-": None, "E": None}
    if "M" in pattern:
        heads, groups = c.size("mamba_num_heads"), c.size("n_groups")
        if heads % groups:
            raise c.error("n_groups", f"{groups} groups do not divide {heads} Mamba heads")
        by_letter["M"] = Mamba2(
            num_heads=heads,
            head_dim=c.size("mamba_head_dim"),
            state_dim=c.size("ssm_state_size"),
            num_groups=groups,
            conv_kernel=c.size("conv_kernel", default=4),
            chunk=c.size("chunk_size", default=128),
        )
    if "*" in pattern:
        heads, kv, dim = _heads(c, Family(), hidden)
        bias = c.flag("attention_bias", default=False)
        # these models use no positions at all in attention
        by_letter["*"] = Attention(
            num_heads=heads, num_kv_heads=kv, head_dim=dim, bias=bias, out_bias=bias, rotary=False
        )
    return [(by_letter[letter], letter) for letter in pattern]
