"""The mixers of a configuration: which kind of attention or state-space layer stands where."""

from __future__ import annotations

import dataclasses
import math

from fullmesh.workload.layers import Attention, LinearAttention, Mamba1, Mamba2, Mixer, ShortConv
from fullmesh.workload.parameters import MAX_LAYERS
from fullmesh.workload.readers.attention import (
    FULL,
    SLIDING,
    by_type,
    heads_of,
    latent_layers,
    layer_types,
    overridden,
    softmax,
)
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.families import Family
from fullmesh.workload.readers.keys import LAYERS

# A layer's mixer, and its letter in the pattern of a hybrid ("" elsewhere).
Kind = tuple[Mixer | None, str]
LINEAR = "linear_attention"
_LETTERS = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "mlp": "-",
    "moe": "E",
}


def mixers(c: Config, family: Family, hidden: int) -> list[Kind]:
    """One entry a layer.

    Raises
    ------
    ModelError
        An unknown kind of layer, a count that does not match, heads that do not divide.
    """
    if family.kind == "nemotron_h":
        return _nemotron_h(c, hidden)
    num_layers = _num_layers(c)
    out: list[Mixer]
    match family.kind:
        case "latent":
            out = list(latent_layers(c, family, num_layers))
        case "delta":
            out = _gated_delta(c, family, num_layers, hidden)
        case "compressed":
            out = _compressed(c, num_layers)
        case "mamba":
            out = [_mamba1(c, hidden)] * num_layers
        case "mamba2":
            out = [_mamba2(c, hidden)] * num_layers
        case "mamba_hybrid" | "jamba":
            out = _with_mamba(c, family, num_layers, hidden)
        case "short_conv":
            out = _short_conv(c, family, num_layers, hidden)
        case _:
            out = _softmax(c, family, num_layers, hidden)
    return [(m, "") for m in out]


def _num_layers(c: Config) -> int:
    num_layers = c.size(*LAYERS)
    if num_layers > MAX_LAYERS:
        raise c.error(c.find(*LAYERS) or "", f"{num_layers:,} layers", expected=f"at most {MAX_LAYERS:,}")
    return num_layers


def _softmax(c: Config, family: Family, num_layers: int, hidden: int) -> list[Mixer]:
    types = layer_types(c, family, num_layers)
    gated = c.text("model_type") in ("afmoe", "beam")
    full = softmax(c, family, hidden, gated=gated)
    kinds: dict[str, Attention] = {t: by_type(c, family, full, t) for t in dict.fromkeys(types)}
    out = [kinds[t] for t in types]
    own = c.numbers("num_attention_heads_per_layer")
    if own is not None:
        if len(own) != num_layers or not all(own):
            raise c.error(
                "num_attention_heads_per_layer", f"{len(own)} entries", expected=f"{num_layers}, one a layer"
            )
        for n in own:
            if n % full.num_kv_heads:
                raise c.error(
                    "num_attention_heads_per_layer", f"{full.num_kv_heads} key-value heads do not divide {n}"
                )
        out = [dataclasses.replace(a, num_heads=n) for a, n in zip(out, own, strict=True)]
    return [*_per_layer(c, out)]


def _per_layer(c: Config, out: list[Attention]) -> list[Attention]:
    """Sizes of single layers, by their number."""
    table = c.values.get("per_layer_config")
    if table is None:
        return out
    c.read.add("per_layer_config")
    if not isinstance(table, dict):
        raise c.error("per_layer_config", "an object by number of layer was expected")
    for number, values in table.items():
        if not str(number).isascii() or not str(number).isdigit() or int(str(number)[:9]) >= len(out):
            raise c.error("per_layer_config", f"there is no layer {str(number)[:60]!r}")
        if not isinstance(values, dict):
            raise c.error("per_layer_config", f"layer {number}: an object was expected")
        out[int(number)] = overridden(c, out[int(number)], values)
    return out


def _gated_delta(c: Config, family: Family, num_layers: int, hidden: int) -> list[Mixer]:
    """Qwen3-Next and later: gated delta-rule layers with a gated softmax layer every few."""
    types = c.layer_list("layer_types", num_layers)
    if types is None:
        every = c.size("full_attention_interval", default=4)
        types = [FULL if (i + 1) % every == 0 else LINEAR for i in range(num_layers)]
        if FULL not in types:
            raise c.error("full_attention_interval", f"no layer of {num_layers} has softmax attention")
    else:
        c.find("full_attention_interval")
    qwen = c.text("model_type").startswith("qwen")
    gated = c.flag("attn_output_gate", default=qwen, quiet=not qwen)
    full = softmax(c, family, hidden, gated=gated)
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
    allowed = (FULL, LINEAR) if qwen or family.qk_norm == "wide" else (FULL, LINEAR, SLIDING)
    for t in types:
        if t not in allowed:
            raise c.error(
                "layer_types", f"the layer kind {t[:60]!r} is not supported", expected=" or ".join(allowed)
            )
    return [delta if t == LINEAR else by_type(c, family, full, t) for t in types]


def _compressed(c: Config, num_layers: int) -> list[Mixer]:
    """DeepSeek-V4: one wide key-value head, low-rank queries and outputs, attention over compressed tokens.

    An approximation. A layer attends to a sliding window and, where its compression ratio is not 0, to compressed
    tokens: the best ``index_topk`` of them where there is an indexer (ratios below the window), all of them
    otherwise. They are counted as a window of that many tokens more; indexer, compressor and the mixing of residual
    streams are left out.
    """
    if c.has("layer_types", "compress_rates", "mlp_layer_types"):
        raise c.error(
            next(k for k in ("layer_types", "compress_rates", "mlp_layer_types") if c.has(k)),
            "configurations of the reference library's class are not read, its compressors are not described here",
            hint="the model's own config.json, with compress_ratios, is read",
        )
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
    for key in ("index_n_heads", "index_head_dim", "hc_mult", "qk_rope_head_dim"):
        c.find(key)
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


def _mamba1(c: Config, hidden: int) -> Mamba1:
    inner = c.size("expand", default=2) * hidden
    if c.find("intermediate_size") and c.size("intermediate_size") != inner:
        raise c.error(
            "intermediate_size", f"{c.size('intermediate_size')}", expected=f"{inner}, expand x hidden size"
        )
    _only(c, "use_bias", False)
    _only(c, "use_conv_bias", True)
    return Mamba1(
        inner=inner,
        state_dim=c.size("state_size"),
        step_rank=_step_rank(c, "time_step_rank", hidden),
        conv_kernel=c.size("conv_kernel", default=4),
    )


def _step_rank(c: Config, key: str, hidden: int) -> int:
    """The width of a time step's projection, a sixteenth of the hidden size where it is ``auto``."""
    c.find(key)
    value = c.values.get(key)
    if value is None or value == "auto":
        c.assumed[key] = math.ceil(hidden / 16)
        return math.ceil(hidden / 16)
    return c.size(key)


def _only(c: Config, key: str, supported: bool) -> None:
    if c.flag(key, default=supported, quiet=True) is not supported:
        raise c.error(key, f"{key} = {str(not supported).lower()} is not supported")


def _mamba2(c: Config, hidden: int) -> Mamba2:
    heads, dim = c.size("num_heads"), c.size("head_dim")
    if c.find("expand") and c.size("expand") * hidden != heads * dim:
        raise c.error("expand", f"{c.size('expand')} x {hidden} channels", expected=f"{heads} heads x {dim}")
    _only(c, "use_bias", False)
    _only(c, "use_conv_bias", True)
    return Mamba2(
        num_heads=heads,
        head_dim=dim,
        state_dim=c.size("state_size"),
        num_groups=_groups(c, "n_groups", heads),
        conv_kernel=c.size("conv_kernel", default=4),
        chunk=c.size("chunk_size", default=256),
    )


def _groups(c: Config, key: str, heads: int) -> int:
    groups = c.size(key)
    if heads % groups:
        raise c.error(key, f"{groups} groups do not divide {heads} Mamba heads")
    return groups


def _with_mamba(c: Config, family: Family, num_layers: int, hidden: int) -> list[Mixer]:
    """Mamba layers with softmax attention every few: Bamba, Granite 4, Jamba."""
    _only(c, "mamba_proj_bias", False)
    _only(c, "mamba_conv_bias", True)
    mixer: Mamba1 | Mamba2
    if family.kind == "jamba":
        period, offset = c.size("attn_layer_period"), c.count("attn_layer_offset")
        if offset >= min(period, num_layers):
            raise c.error(
                "attn_layer_offset", f"no layer of {num_layers} is attention", expected=f"below {period}"
            )
        at = {i for i in range(num_layers) if i % period == offset}
        mixer = Mamba1(
            inner=c.size("mamba_expand", default=2) * hidden,
            state_dim=c.size("mamba_d_state"),
            step_rank=_step_rank(c, "mamba_dt_rank", hidden),
            conv_kernel=c.size("mamba_d_conv", default=4),
            inner_norms=True,
        )
    else:
        at = _attention_layers(c, num_layers)
        heads = c.size("mamba_n_heads")
        inner = c.size("mamba_expand", default=2) * hidden
        auto = c.values.get("mamba_d_head") in (None, "auto")
        c.find("mamba_d_head")
        if inner % heads:
            raise c.error("mamba_n_heads", f"{heads} heads do not divide {inner} channels")
        dim = inner // heads if auto else c.size("mamba_d_head")
        if heads * dim != inner:
            raise c.error(
                "mamba_d_head", f"{heads} heads x {dim}", expected=f"{inner} channels, expand x hidden size"
            )
        mixer = Mamba2(
            num_heads=heads,
            head_dim=dim,
            state_dim=c.size("mamba_d_state"),
            num_groups=_groups(c, "mamba_n_groups", heads),
            conv_kernel=c.size("mamba_d_conv", default=4),
            chunk=c.size("mamba_chunk_size", default=256),
        )
    # read even where no layer has it: the sizes have to be right all the same
    full = softmax(c, family, hidden)
    if c.text("position_embedding_type") in ("", "nope") and c.text("model_type") == "granitemoehybrid":
        full = dataclasses.replace(full, rotary=False)
    return [full if i in at else mixer for i in range(num_layers)]


def _attention_layers(c: Config, num_layers: int) -> set[int]:
    listed = c.indices("attn_layer_indices", num_layers)
    if listed is not None:
        return set(listed)
    for key in ("layer_types", "layers_block_type"):
        types = c.layer_list(key, num_layers)
        if types is None:
            continue
        for t in types:
            if t not in ("mamba", LINEAR, "attention", FULL):
                raise c.error(
                    key, f"the layer kind {t[:60]!r} is not supported", expected=f"{LINEAR} or {FULL}"
                )
        return {i for i, t in enumerate(types) if t in ("attention", FULL)}
    c.assumed["layer_types"] = "no attention"
    return set()


def _short_conv(c: Config, family: Family, num_layers: int, hidden: int) -> list[Mixer]:
    """LFM2: short convolutions, with softmax attention every few layers."""
    types = c.layer_list("layer_types", num_layers)
    listed = c.indices("full_attn_idxs", num_layers)
    if types is None:
        if listed is None:
            raise c.error(
                "layer_types", "the key 'layer_types' is missing", expected="conv or full_attention a layer"
            )
        types = [FULL if i in listed else "conv" for i in range(num_layers)]
    elif listed is not None and set(listed) != {i for i, t in enumerate(types) if t == FULL}:
        raise c.error("full_attn_idxs", "other layers than in layer_types")
    gated = c.flag("use_attention_gate", default=False, quiet=True)
    if not gated and c.text("model_type") == "lfm3" and "use_attention_gate" not in c.values:
        raise c.error(
            "use_attention_gate", "the key 'use_attention_gate' is missing", expected="true or false"
        )
    full = softmax(c, family, hidden)
    conv = ShortConv(kernel=c.size("conv_L_cache"), bias=c.flag("conv_bias", default=False))
    return [conv if t == "conv" else by_type(c, family, full, t) for t in types]


def _nemotron_h(c: Config, hidden: int) -> list[Kind]:
    """Nemotron-H: one mixer or one feed-forward part a layer, by pattern."""
    blocks = c.texts("layers_block_type")
    pattern = c.text("hybrid_override_pattern")
    if blocks is not None:
        for block in blocks:
            if block not in _LETTERS:
                raise c.error(
                    "layers_block_type",
                    f"the layer kind {block[:60]!r} is not supported",
                    expected=", ".join(_LETTERS),
                )
        spelled = "".join(_LETTERS[b] for b in blocks)
        if pattern and pattern != spelled:
            raise c.error("layers_block_type", "other layers than in hybrid_override_pattern")
        pattern = spelled
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
        # the reference library counts the letters, and published files carry other numbers beside them
        c.remarks.append(
            f"num_hidden_layers says {c.size('num_hidden_layers')}, the pattern has {len(pattern)} layers: "
            "the pattern counts"
        )
    if len(pattern) > MAX_LAYERS:
        raise c.error(
            "hybrid_override_pattern", f"{len(pattern):,} layers", expected=f"at most {MAX_LAYERS:,}"
        )
    by_letter: dict[str, Mixer | None] = {"-": None, "E": None}
    _only(c, "mamba_proj_bias", False)
    _only(c, "use_bias", False)
    _only(c, "use_conv_bias", True)
    # these keys repeat the product of heads and their width
    c.find("expand")
    mamba = ("mamba_num_heads", "n_groups", "mamba_head_dim", "ssm_state_size", "conv_kernel", "chunk_size")
    if "M" in pattern:
        heads = c.size("mamba_num_heads")
        by_letter["M"] = Mamba2(
            num_heads=heads,
            head_dim=c.size("mamba_head_dim"),
            state_dim=c.size("ssm_state_size"),
            num_groups=_groups(c, "n_groups", heads),
            conv_kernel=c.size("conv_kernel", default=4),
            chunk=c.size("chunk_size", default=128),
        )
    else:
        c.read.update(k for k in mamba if k in c.values)
    if "*" in pattern:
        heads, kv, dim = heads_of(c, Family(), hidden)
        bias = c.flag("attention_bias", default=False, quiet=True)
        # these models use no positions at all in attention
        by_letter["*"] = Attention(
            num_heads=heads, num_kv_heads=kv, head_dim=dim, bias=bias, out_bias=bias, rotary=False
        )
    else:
        c.read.update(
            k
            for k in ("num_attention_heads", "num_key_value_heads", "head_dim", "attention_head_dim")
            if k in c.values
        )
    return [(by_letter[letter], letter) for letter in pattern]
