"""Feed-forward parts of a configuration: which layers are dense, which route tokens to experts."""

from __future__ import annotations

import math
import re

from fullmesh.workload.layers import MLP, FeedForward, MoE
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.families import Family
from fullmesh.workload.readers.keys import (
    EXPERT_FFN,
    EXPERTS,
    FFN,
    FIRST_DENSE,
    SHARED_EXPERTS,
    SHARED_FFN,
    STEP,
    TOPK,
)
from fullmesh.workload.readers.mixers import Kind

_EXPERT_WORDS = re.compile(r"expert|moe")
# keys with such words that say nothing of the layers, or that switch experts off
_OF_ROUTING = re.compile(
    r"^_|aux|coef|loss|router|routed_scaling|renormali|norm_min|group|bias|overlap|is_moe|enable_moe|layer_end|fp32"
    r"|scal(e|ing)|selection|combination|load_balanc|_k$|dropout|capacity"
)
# types whose shared experts have a width of their own
_SHARED_WIDTH = frozenset(
    (
        "qwen2_moe", "flint", "kolibri1", "laguna", "granitemoeshared", "granitemoehybrid", "minimax_m3_vl_text",
        "step3p5", "step3p7",
    )
)  # fmt: skip
_WORDS_FOR_SPARSE = {"dense": False, "sparse": True, "moe": True, "hash_moe": True}


def feed_forwards(c: Config, family: Family, kinds: list[Kind], hidden: int) -> list[FeedForward | None]:
    """One entry a layer.

    Raises
    ------
    ModelError
        Keys contradict each other, or nothing is left of the experts that the configuration speaks of.
    """
    if family.kind == "nemotron_h":
        return _nemotron_h(c, kinds)
    if family.kind in ("mamba", "mamba2"):
        return [None] * len(kinds)
    num_layers = len(kinds)
    key = _experts_key(c, family)
    num_experts = c.count(key) if key else 0
    if num_experts == 1:
        raise c.error(key or "", "one expert is no mixture", expected="0, or 2 and more")
    sparse = _sparse_layers(c, family, num_layers) if num_experts else [False] * num_layers
    if not any(sparse):
        _nothing_left(c, family, num_layers)
    bias = (
        c.flag("mlp_bias", "use_bias", default=family.mlp_bias, quiet=True)
        if c.text("model_type") not in ("falcon", "telechat", "telechat2")
        else c.flag("bias", default=family.mlp_bias, quiet=c.text("model_type") != "falcon")
    )
    if c.flag("no_bias", default=False, quiet=True) or not c.flag("enable_bias", default=True, quiet=True):
        bias = False
    beside = c.text("model_type").startswith("gemma4")
    out: list[FeedForward | None] = []
    dense = routed = None
    if not all(sparse) or beside:
        dense = MLP(ffn=_dense_width(c, family, hidden), gated=family.gated, bias=bias)
    else:
        # widths that no layer uses: every layer has experts
        for unused in ("intermediate_size_mlp", "dense_intermediate_size"):
            c.find(unused)
    if any(sparse):
        routed = _experts(c, family, num_experts, shared=dense.ffn if beside and dense else 0)
    for is_sparse in sparse:
        out.append(routed if is_sparse else dense)
    return out


def _experts_key(c: Config, family: Family) -> str | None:
    if c.text("model_type").startswith("gemma4") and not c.flag(
        "enable_moe_block", default=False, quiet=True
    ):
        return None
    if c.values.get("is_moe") is False:
        c.read.add("is_moe")
        c.find("num_experts")
        c.find("num_experts_per_tok")
        return None
    return c.find(*EXPERTS)


def _dense_width(c: Config, family: Family, hidden: int) -> int:
    model_type = c.text("model_type")
    if model_type == "qwen":
        # the first generation gives the width of both halves together
        return c.size("intermediate_size") // 2
    if model_type == "moshi":
        width = c.size("ffn_dim")
        if width % 2:
            raise c.error("ffn_dim", f"{width} is the width of both halves, and odd")
        return width // 2
    if c.find("expansion_ratio"):
        return c.size("expansion_ratio") * hidden
    if c.find("intermediate_multiple_size"):
        return c.size("intermediate_multiple_size") * hidden
    if model_type.startswith("llama4"):
        return c.size("intermediate_size_mlp")
    if c.find("dense_intermediate_size"):
        return c.size("dense_intermediate_size")
    if model_type == "granitemoehybrid":
        # without experts the part that is shared among them is all there is
        c.find(*FFN)
        return c.size("shared_intermediate_size")
    if model_type == "lfm2":
        return _lfm2_width(c)
    if model_type in (
        "gpt2", "gpt-sw3", "openai-gpt", "bloom", "megatron-gpt", "gpt_bigcode", "gptj", "codegen", "gpt_neo", "falcon",
    ):  # fmt: skip
        return c.size(*FFN, default=4 * hidden)
    return c.size(*FFN)


def _lfm2_width(c: Config) -> int:
    width = c.size("intermediate_size", "block_ff_dim")
    if not c.flag("block_auto_adjust_ff_dim", default=True):
        c.find("block_ffn_dim_multiplier")
        c.find("block_multiple_of")
        return width
    factor = c.values.get("block_ffn_dim_multiplier", 1.0)
    c.read.add("block_ffn_dim_multiplier")
    width = 2 * width // 3
    if factor is None:
        return width
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise c.error("block_ffn_dim_multiplier", "a number above 0 was expected")
    step = c.size("block_multiple_of", default=256)
    return step * math.ceil(int(factor * width) / step)


def _sparse_layers(c: Config, family: Family, num_layers: int) -> list[bool]:
    """Which layers route tokens to experts; each family has its own key, and all that are there have to agree."""
    said: dict[str, list[bool]] = {}
    types = c.layer_list("mlp_layer_types", num_layers)
    if types is not None:
        for t in types:
            if t not in _WORDS_FOR_SPARSE:
                raise c.error(
                    "mlp_layer_types",
                    f"the layer kind {t[:60]!r} is not supported",
                    expected="dense or sparse",
                )
        said["mlp_layer_types"] = [_WORDS_FOR_SPARSE[t] for t in types]
    if isinstance(c.values.get("moe_layer_freq"), list):
        freq = c.numbers("moe_layer_freq")
        assert freq is not None
        if len(freq) != num_layers:
            raise c.error("moe_layer_freq", f"{len(freq)} entries", expected=f"{num_layers}, one a layer")
        said["moe_layer_freq"] = [bool(v) for v in freq]
    listed = c.indices("moe_layers", num_layers)
    if listed is not None:
        said["moe_layers"] = [i in listed for i in range(num_layers)]
    enum = _enum(c, num_layers)
    if enum is not None:
        said["moe_layers_enum"] = [i in enum for i in range(num_layers)]
    said |= _by_rule(c, family, num_layers, told=bool(said))
    (first, sparse), *others = said.items()
    for key, other in others:
        if other != sparse:
            raise c.error(
                key, f"other layers have experts than {first!r} says", expected="one order of layers"
            )
    return sparse


def _enum(c: Config, num_layers: int) -> list[int] | None:
    """Numbers of layers as a text with commas (Step-3)."""
    value = c.values.get("moe_layers_enum")
    if not isinstance(value, str):
        return c.indices("moe_layers_enum", num_layers)
    c.read.add("moe_layers_enum")
    out = []
    for part in value.split(","):
        text = part.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) < num_layers):
            raise c.error(
                "moe_layers_enum",
                f"{text[:60]!r} is no layer",
                expected=f"numbers from 0 to {num_layers - 1}",
            )
        out.append(int(text))
    return out


def _by_rule(c: Config, family: Family, num_layers: int, *, told: bool) -> dict[str, list[bool]]:
    """Layers with experts by first layer, step and exceptions."""
    keys = [*FIRST_DENSE, *STEP, "moe_layer_freq", "mlp_only_layers", "expert_layer_period"]
    if told and not any(
        c.has(k) and not isinstance(c.values[k], list) for k in keys if k != "mlp_only_layers"
    ):
        c.find("mlp_only_layers")
        return {}
    key = c.find(*FIRST_DENSE)
    first = c.count(key) if key else 0
    model_type = c.text("model_type")
    by_exception = model_type == "flint" or (model_type.startswith("qwen") and "qwen3_5" not in model_type)
    never_dense = family.kind == "compressed" or model_type.startswith(
        ("gemma4", "qwen3_5", "lara", "kolibri")
    )
    if not key and not told and family.expert_ffn == "own" and not never_dense:
        # the configuration does not say which layers have experts: those of the family's own class
        if by_exception and "mlp_only_layers" not in c.values:
            c.assumed["mlp_only_layers"] = []
        elif not by_exception:
            name, usual = family.first_dense
            c.assumed[name] = first = min(usual, num_layers)
            if not first and not c.has("moe_layer_freq"):
                c.assumed["mlp_layer_types"] = "all sparse"
    if first > num_layers:
        raise c.error(
            key or "", f"{first} dense layers", expected=f"at most the {num_layers} layers of the model"
        )
    every = 1 if isinstance(c.values.get("moe_layer_freq"), list) else c.size("moe_layer_freq", default=1)
    if "moe_layer_freq" not in c.values:
        c.assumed.pop("moe_layer_freq", None)
    step_key = c.find(*STEP)
    step = c.size(step_key) if step_key else 1
    if c.text("model_type").startswith("llama4") and not step_key and not told:
        raise c.error("interleave_moe_layer_step", "the key 'interleave_moe_layer_step' is missing")
    dense_only = c.indices("mlp_only_layers", num_layers) or []
    last = num_layers - 1
    if c.find("moe_layer_end_index") and c.values["moe_layer_end_index"] != -1:
        last = c.count("moe_layer_end_index")
    period, offset = 1, 0
    if c.find("expert_layer_period"):
        period, offset = c.size("expert_layer_period"), c.count("expert_layer_offset")
        if offset >= period:
            raise c.error("expert_layer_offset", f"{offset}", expected=f"below the period of {period}")
    rule = [
        first <= i <= last
        and i % every == 0
        and (i + 1) % step == 0
        and i not in dense_only
        and i % period == offset
        for i in range(num_layers)
    ]
    name = key or step_key or "moe_layer_freq"
    return {name: rule}


def _nothing_left(c: Config, family: Family, num_layers: int) -> None:
    """Raise where the name or the keys speak of experts and no layer has any."""
    if c.text("model_type").startswith("gemma4") and not c.has("num_experts"):
        c.refuse("enable_moe_block", "the key 'num_experts' is missing")
        for key in ("top_k_experts", "moe_intermediate_size"):
            c.find(key)
        return
    if c.values.get("is_moe") is False:
        return
    name = next((k for k in EXPERTS if c.values.get(k)), None)
    if name:
        reason = next(
            (
                k
                for k in (
                    *FIRST_DENSE,
                    *STEP,
                    "moe_layers",
                    "mlp_layer_types",
                    "moe_layer_freq",
                    "mlp_only_layers",
                )
                if c.has(k)
            ),
            name,
        )
        raise c.error(
            reason, f"no layer of {num_layers} is left with experts, but there are {c.values[name]} of them"
        )
    zero = next((k for k in EXPERTS if c.has(k)), None)
    speaks = next(
        (
            k
            for k in sorted(c.values)
            if _EXPERT_WORDS.search(k) and not _OF_ROUTING.search(k) and c.values[k]
        ),
        None,
    )
    if family.moe:
        raise c.error(
            zero or "num_experts",
            f"a model of type {c.text('model_type')!r} without experts",
            expected="one of " + ", ".join(EXPERTS),
            hint="the number of routed experts is missing or 0",
        )
    if speaks and speaks not in EXPERTS:
        if c.text("model_type") == "granitemoehybrid" and zero:
            for key in TOPK:
                c.find(key)
            return
        raise c.error(
            speaks,
            "it speaks of experts, but there are none",
            expected="one of " + ", ".join(EXPERTS),
            hint="the number of routed experts is missing or 0",
        )


def _experts(c: Config, family: Family, num_experts: int, *, shared: int) -> MoE:
    model_type = c.text("model_type")
    key = c.find(*EXPERT_FFN)
    if key:
        ffn = c.size(key)
        c.find(*FFN)
    elif family.expert_ffn == "dense" or (family.expert_ffn == "own" and not family.moe):
        ffn = c.size(*FFN)
        if family.expert_ffn == "own":
            c.assumed[EXPERT_FFN[0]] = ffn
    else:
        raise c.error(
            EXPERT_FFN[0], f"the key {EXPERT_FFN[0]!r} is missing", expected="the width of an expert"
        )
    if model_type == "doge":
        raise c.error("is_moe", "product-key experts are not supported")
    topk = c.size(*TOPK)
    if topk > num_experts:
        raise c.error(c.find(*TOPK) or "", f"{topk} experts a token of {num_experts}")
    shared_gate = False
    if not shared:
        shared, shared_gate = _shared(c, family, ffn)
    return MoE(
        num_experts=num_experts,
        topk=topk,
        ffn=ffn,
        shared_ffn=shared,
        gated=family.gated,
        shared_gate=shared_gate,
        bias=model_type == "gpt_oss",
    )


def _shared(c: Config, family: Family, ffn: int) -> tuple[int, bool]:
    """Width of all shared experts together, and whether a gate of their own weighs them."""
    model_type = c.text("model_type")
    if model_type.startswith("llama4"):
        return ffn, False
    key = c.find(*SHARED_FFN)
    if key:
        if c.has(*SHARED_EXPERTS) and family.kind != "nemotron_h" and c.size(*SHARED_EXPERTS, default=1) > 1:
            raise c.error(
                key, "a width of all shared experts beside a number of them", expected="one of the two"
            )
        return c.count(key), c.count(key) > 0 and model_type.startswith("qwen")
    if model_type in _SHARED_WIDTH or (family.kind == "delta" and family.moe):
        raise c.error(
            SHARED_FFN[0], f"the key {SHARED_FFN[0]!r} is missing", expected="a whole number from 0"
        )
    return ffn * c.count(*SHARED_EXPERTS, default=0), False


def _nemotron_h(c: Config, kinds: list[Kind]) -> list[FeedForward | None]:
    """Feed-forward parts of a hybrid, which stand in layers of their own: ``-`` dense, ``E`` experts."""
    letters = {letter for _, letter in kinds}
    bias = c.flag("mlp_bias", default=False, quiet=True)
    dense = MLP(ffn=c.size("intermediate_size"), gated=False, bias=bias) if "-" in letters else None
    c.find("intermediate_size")
    routed = _latent_experts(c) if "E" in letters else None
    if routed is None:
        # the class writes these of every model; the pattern alone decides
        c.read.update(k for k in c.values if _EXPERT_WORDS.search(k))
    return [{"-": dense, "E": routed}.get(letter) for _, letter in kinds]


def _latent_experts(c: Config) -> MoE:
    num_experts, topk = c.size(*EXPERTS), c.size(*TOPK)
    if num_experts == 1:
        raise c.error(c.find(*EXPERTS) or "", "one expert is no mixture", expected="2 and more")
    if topk > num_experts:
        raise c.error("num_experts_per_tok", f"{topk} experts a token of {num_experts}")
    shared = 0
    if c.count("n_shared_experts"):
        shared = c.size("moe_shared_expert_intermediate_size")
    c.find("moe_shared_expert_intermediate_size")
    latent = c.count("moe_latent_size", default=0)
    return MoE(
        num_experts=num_experts,
        topk=topk,
        ffn=c.size("moe_intermediate_size"),
        shared_ffn=shared,
        gated=False,
        latent=latent or None,
    )
