"""From a Hugging Face ``config.json`` to a :class:`~fullmesh.workload.ModelSpec`."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from fullmesh.errors import ModelError, did_you_mean
from fullmesh.workload import MLP, FeedForward, Layer, Mixer, ModelSpec, MoE
from fullmesh.workload.parameters import check_size
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config, read_json
from fullmesh.workload.readers.families import ACTIVATIONS, FAMILIES, REFUSED, Family
from fullmesh.workload.readers.mixers import mixers


def load_model(name_or_path: str | Path, *, mtp_layers: int | None = None) -> ModelSpec:
    """Read a model.

    Parameters
    ----------
    name_or_path : str or Path
        A shipped name or alias (case, dots, dashes and an organisation in front do not matter), a ``config.json``,
        or a folder that holds one.
    mtp_layers : int, optional
        Multi-token-prediction modules to train. Configurations name modules that a release carries
        (``num_nextn_predict_layers``), not what a run trains, and most published runs leave them out: without this
        argument there are none.

    Raises
    ------
    ModelError
        The name is unknown, or a key is missing, wrong or not supported.
    """
    text = str(name_or_path).strip()
    path = _config_path(text)
    if path is not None:
        model = model_from_config(Config(read_json(path), str(path)), fallback=path.parent.resolve().name)
        check_size(model, where=str(path))
    else:
        entry = shipped.find(text)
        if entry is None:
            raise ModelError(
                f"the model {text!r} is unknown",
                expected="a shipped name, a config.json or a folder that holds one",
                hint=did_you_mean(text, shipped.names()),
            )
        model = _shipped(entry.id)
    if mtp_layers is not None:
        if isinstance(mtp_layers, bool) or mtp_layers < 0:
            raise ModelError(f"{mtp_layers} multi-token-prediction modules", expected="a whole number from 0")
        if mtp_layers != model.mtp_layers:
            model = dataclasses.replace(model, mtp_layers=mtp_layers)
    return model


def _config_path(text: str) -> Path | None:
    """The file that ``text`` means, or None where it is a name."""
    try:
        path = Path(text).expanduser()
        is_folder, is_file = bool(text) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:
        # too long a name, a folder one may not enter, the home of nobody
        raise ModelError(f"cannot look for such a file: {error}", where=text[:80]) from None
    if is_file:
        return path
    if is_folder:
        if (path / "config.json").is_file():
            return path / "config.json"
        if shipped.find(text) is None:
            raise ModelError("the folder holds no config.json", where=text)
        return None
    if path.suffix == ".json" or text.startswith((".", "/", "~")):
        raise ModelError(
            "the file does not exist", where=text, expected="a config.json, a folder or a shipped name"
        )
    return None


@functools.cache
def _shipped(model_id: str) -> ModelSpec:
    entry = shipped.find(model_id)
    assert entry is not None
    model = model_from_config(Config(dict(entry.values), entry.where), fallback=entry.id)
    return dataclasses.replace(model, id=entry.id)


def model_from_config(c: Config, *, fallback: str = "model") -> ModelSpec:
    """Build the specification of one configuration.

    Parameters
    ----------
    c : Config
    fallback : str
        Name where the configuration has none.

    Raises
    ------
    ModelError
    """
    family, model_type = _family(c)
    for name, size in family.defaults:
        if c.find(name) is None:
            c.values = {**c.values, name: size}
    for refused, why in REFUSED.items():
        c.refuse(refused, why)
    key = c.find("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation")
    if key is not None and c.text(key).lower() not in ACTIVATIONS:
        raise c.error(
            key, f"the activation {c.text(key)!r} is unknown", expected="one of " + ", ".join(ACTIVATIONS)
        )
    hidden = c.size("hidden_size", "n_embd", "n_embed", "d_model")
    if (
        c.find("word_embed_proj_dim", "embedding_size")
        and c.size("word_embed_proj_dim", "embedding_size") != hidden
    ):
        raise c.error("word_embed_proj_dim", "an embedding narrower than the model is not supported")
    kinds = mixers(c, family, hidden)
    feed_forwards = (
        _hybrid_feed_forwards(c, kinds)
        if family.kind == "hybrid"
        else _feed_forwards(c, family, len(kinds), hidden)
    )
    layers = tuple(Layer(mixer=m, ffn=f) for (m, _), f in zip(kinds, feed_forwards, strict=True))
    name = c.text("_name") or c.text("_name_or_path") or fallback
    learned = _positions(c, family)
    return ModelSpec(
        id=shipped.normalise(name),
        name=name.rsplit("/", 1)[-1],
        hidden=hidden,
        vocab=c.size("vocab_size", "padded_vocab_size"),
        layers=layers,
        tied_embeddings=c.flag("tie_word_embeddings", "tie_embeddings", default=family.tied),
        learned_positions=learned,
        norm=family.norm,
        sandwich_norm=c.flag("sandwich_norm", default=family.sandwich),
        source=c.text("_source", default=f"model_type {model_type}"),
        mtp_block=_mtp_block(c, layers, kinds),
        embedding_norm=model_type == "bloom",
    )


def _family(c: Config) -> tuple[Family, str]:
    model_type = c.text("model_type").lower()
    if not model_type:
        raise c.error(
            "model_type", "the key 'model_type' is missing", expected="one of " + ", ".join(FAMILIES)
        )
    family = FAMILIES.get(model_type)
    if family is None:
        raise c.error(
            "model_type",
            f"the model type {model_type!r} is not supported",
            hint=did_you_mean(model_type, list(FAMILIES)),
        )
    if family.kind == "softmax" and c.find("kv_lora_rank", "attention_kv_lora_dim"):
        raise c.error("kv_lora_rank", f"latent attention in a model of type {model_type!r} is not supported")
    return family, model_type


def _positions(c: Config, family: Family) -> int:
    """Rows of a learned position table."""
    if family.positions == "learned":
        return c.size("n_positions", "max_position_embeddings", "n_ctx")
    if (
        c.text("model_type") == "mpt"
        and c.flag("learned_pos_emb", default=True)
        and not c.flag("alibi", default=False)
    ):
        return c.size("max_seq_len")
    return 0


def _feed_forwards(c: Config, family: Family, num_layers: int, hidden: int) -> list[FeedForward]:
    experts_key = c.find("num_local_experts", "n_routed_experts", "num_routed_experts", "num_experts")
    num_experts = c.count(experts_key) if experts_key else 0
    if num_experts == 1:
        raise c.error(experts_key or "", "one expert is no mixture", expected="0, or 2 and more")
    sparse = _sparse_layers(c, num_layers) if num_experts else [False] * num_layers
    bias = c.flag("mlp_bias", "use_bias", default=family.mlp_bias) and not c.flag("no_bias", default=False)
    dense = MLP(ffn=_dense_width(c, hidden), gated=family.gated, bias=bias) if not all(sparse) else None
    routed = _experts(c, family, num_experts) if any(sparse) else None
    out: list[FeedForward] = []
    for is_sparse in sparse:
        ffn = routed if is_sparse else dense
        assert ffn is not None
        out.append(ffn)
    return out


def _dense_width(c: Config, hidden: int) -> int:
    if c.text("model_type") == "qwen":
        # the first generation gives the width of both halves together
        return c.size("intermediate_size") // 2
    if c.find("expansion_ratio"):
        return c.size("expansion_ratio") * hidden
    if c.text("model_type").startswith("llama4"):
        return c.size("intermediate_size_mlp", "intermediate_size")
    keys = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
    if c.text("model_type") in ("gpt2", "bloom", "megatron-gpt", "gpt_bigcode"):
        return c.size(*keys, default=4 * hidden)
    return c.size(*keys)


def _sparse_layers(c: Config, num_layers: int) -> list[bool]:
    """Which layers route tokens to experts; each family has its own key."""
    listed = c.values.get("moe_layer_freq")
    if isinstance(listed, list):
        freq = c.numbers("moe_layer_freq")
        assert freq is not None
        if len(freq) != num_layers:
            raise c.error("moe_layer_freq", f"{len(freq)} entries", expected=f"{num_layers}, one a layer")
        return [bool(v) for v in freq]
    explicit = c.numbers("moe_layers")
    if explicit:
        return [i in explicit for i in range(num_layers)]
    first = c.count("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0)
    every = c.size("moe_layer_freq", default=1)
    step = c.size("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    dense_only = c.numbers("mlp_only_layers") or []
    return [
        i >= first and i % every == 0 and (i + 1) % step == 0 and i not in dense_only
        for i in range(num_layers)
    ]


def _experts(c: Config, family: Family, num_experts: int) -> MoE:
    ffn = c.size("moe_intermediate_size", "moe_ffn_hidden_size", "intermediate_size")
    topk = c.size("num_experts_per_tok", "num_experts_per_token", "moe_topk", "experts_per_token")
    if topk > num_experts:
        raise c.error("num_experts_per_tok", f"{topk} experts a token of {num_experts}")
    shared = c.count("shared_expert_intermediate_size", default=0)
    shared_gate = shared > 0 and c.text("model_type").startswith("qwen")
    if not shared:
        shared = ffn * c.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0)
    if c.text("model_type").startswith("llama4"):
        shared = ffn
    return MoE(
        num_experts=num_experts,
        topk=topk,
        ffn=ffn,
        shared_ffn=shared,
        gated=family.gated,
        shared_gate=shared_gate,
        bias=c.text("model_type") == "gpt_oss",
    )


def _hybrid_feed_forwards(c: Config, kinds: list[tuple[Mixer | None, str]]) -> list[FeedForward | None]:
    """Feed-forward parts of a hybrid, which stand in layers of their own: ``-`` dense, ``E`` experts."""
    letters = {letter for _, letter in kinds}
    bias = c.flag("mlp_bias", default=False)
    dense = MLP(ffn=c.size("intermediate_size"), gated=False, bias=bias) if "-" in letters else None
    routed = _latent_experts(c) if "E" in letters else None
    return [{"-": dense, "E": routed}.get(letter) for _, letter in kinds]


def _latent_experts(c: Config) -> MoE:
    num_experts = c.size("n_routed_experts")
    topk = c.size("num_experts_per_tok")
    if topk > num_experts:
        raise c.error("num_experts_per_tok", f"{topk} experts a token of {num_experts}")
    shared = 0
    if c.count("n_shared_experts", default=0):
        shared = c.size("moe_shared_expert_intermediate_size")
    latent = c.count("moe_latent_size", default=0)
    return MoE(
        num_experts=num_experts,
        topk=topk,
        ffn=c.size("moe_intermediate_size"),
        shared_ffn=shared,
        gated=False,
        latent=latent or None,
    )


def _mtp_block(
    c: Config, layers: tuple[Layer, ...], kinds: list[tuple[Mixer | None, str]]
) -> tuple[Layer, ...]:
    """Layers of one multi-token-prediction module of a hybrid; other models copy their last layer."""
    pattern = c.text("mtp_hybrid_override_pattern")
    if not pattern:
        return ()
    by_letter = {letter: layer for layer, (_, letter) in zip(layers, kinds, strict=True)}
    unknown = re.sub("|".join(map(re.escape, by_letter)), "", pattern)
    if unknown:
        raise c.error(
            "mtp_hybrid_override_pattern", f"the layer kind {unknown[0]!r} is not one of the model's own"
        )
    return tuple(by_letter[letter] for letter in pattern)
