"""Variants of a model: other sizes under the same name, and models known by their sizes alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

from fullmesh.errors import ModelError
from fullmesh.workload import (
    MLP,
    Attention,
    FeedForward,
    LatentAttention,
    Layer,
    Mamba2,
    Mixer,
    ModelSpec,
    MoE,
)
from fullmesh.workload.readers.shipped import normalise

# Vocabulary of GPT-like models where none is given: GPT-2's 50,257 entries, padded as Megatron does.
GPT_VOCAB = 51200
# Vocabulary of all other models where none is given: Llama 3's.
LLAMA_VOCAB = 128256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes as a table gives them; None means that the table is silent.

    Parameters
    ----------
    latent : tuple of int, optional
        Dimensions of latent attention: query and key without position, with position, value.
    shared_experts, shared_ffn : int, optional
        Number of shared experts, and their width together.
    dense_layers : int, optional
        Leading layers without experts.
    seq : int, optional
        Tokens of a sequence, for learned positions.
    note : str
        Words on the architecture, read for hybrids and latent attention (``q_lora1536 kv_lora512``,
        ``hybrid pattern ...``, ``mamba heads 64x64 state128``, ``moe_latent 2048``).
    """

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    latent: tuple[int, int, int] | None = None
    ffn: int | None = None
    experts: int | None = None
    topk: int | None = None
    moe_ffn: int | None = None
    shared_experts: int | None = None
    shared_ffn: int | None = None
    dense_layers: int | None = None
    vocab: int | None = None
    mtp_layers: int | None = None
    seq: int | None = None
    note: str = ""


@functools.lru_cache(maxsize=1024)
def apply_shape(model: ModelSpec, shape: Shape) -> ModelSpec:
    """The same kind of model in other sizes.

    Raises
    ------
    ModelError
        The sizes contradict the model or each other.
    """
    hidden = shape.hidden or model.hidden
    layers = tuple(
        dataclasses.replace(
            layer,
            mixer=_resized_mixer(layer.mixer, model, hidden, shape),
            ffn=_resized_ffn(layer.ffn, model, shape),
        )
        for layer in model.layers
    )
    layers = _with_dense(layers, model, shape)
    layers = _of_length(layers, shape.layers)
    changed = dataclasses.replace(
        model,
        hidden=hidden,
        vocab=shape.vocab or model.vocab,
        layers=layers,
        mtp_layers=model.mtp_layers if shape.mtp_layers is None else shape.mtp_layers,
        learned_positions=(shape.seq or model.learned_positions) if model.learned_positions else 0,
    )
    return model if changed == model else changed


def _resized_mixer(mixer: Mixer | None, model: ModelSpec, hidden: int, shape: Shape) -> Mixer | None:
    if isinstance(mixer, Attention):
        heads = shape.heads or mixer.num_heads
        kv = shape.kv_heads or (mixer.num_kv_heads if shape.heads in (None, mixer.num_heads) else None)
        if kv is None:
            kv = heads if mixer.num_kv_heads == mixer.num_heads else mixer.num_kv_heads
        dim = shape.head_dim
        if dim is None:
            square = mixer.num_heads * mixer.head_dim == model.hidden
            dim = _divide(hidden, heads) if square else mixer.head_dim
        if heads % kv:
            raise ModelError(f"{kv} key-value heads do not divide {heads} heads")
        return dataclasses.replace(mixer, num_heads=heads, num_kv_heads=kv, head_dim=dim)
    if isinstance(mixer, LatentAttention):
        nope, rope, value = shape.latent or (mixer.qk_nope_dim, mixer.qk_rope_dim, mixer.v_dim)
        return dataclasses.replace(
            mixer, num_heads=shape.heads or mixer.num_heads, qk_nope_dim=nope, qk_rope_dim=rope, v_dim=value
        )
    return mixer


def _resized_ffn(ffn: FeedForward | None, model: ModelSpec, shape: Shape) -> FeedForward | None:
    if isinstance(ffn, MLP):
        return dataclasses.replace(ffn, ffn=shape.ffn or ffn.ffn)
    if isinstance(ffn, MoE):
        width = shape.moe_ffn or ffn.ffn
        if shape.experts and shape.ffn and not shape.moe_ffn and not ffn.shared_ffn and _all_sparse(model):
            # tables of Mixtral-like models give the experts' width as the feed-forward width
            width = shape.ffn
        shared = ffn.shared_ffn
        if shape.shared_experts == 0:
            shared = 0
        elif shape.shared_ffn:
            shared = shape.shared_ffn
        elif shape.shared_experts and (not shared or width != ffn.ffn):
            shared = shape.shared_experts * width
        experts, topk = shape.experts or ffn.num_experts, shape.topk or ffn.topk
        if topk > experts:
            raise ModelError(f"{topk} experts a token of {experts}")
        return dataclasses.replace(ffn, num_experts=experts, topk=topk, ffn=width, shared_ffn=shared)
    return None


def _all_sparse(model: ModelSpec) -> bool:
    return all(isinstance(layer.ffn, MoE) for layer in model.layers)


def _with_dense(layers: tuple[Layer, ...], model: ModelSpec, shape: Shape) -> tuple[Layer, ...]:
    """Another number of leading dense layers, where the model has no other order of its own."""
    if shape.dense_layers is None:
        return layers
    prefix = len(list(itertools.takewhile(lambda layer: isinstance(layer.ffn, MLP), layers)))
    body = layers[prefix:]
    if not body or any(not isinstance(layer.ffn, MoE) for layer in body) or prefix == shape.dense_layers:
        return layers
    dense = layers[0].ffn if prefix else None
    if dense is None and shape.dense_layers:
        expert = body[0].ffn
        assert isinstance(expert, MoE)
        width = shape.ffn or expert.topk * expert.ffn + expert.shared_ffn
        dense = MLP(ffn=width, gated=expert.gated, bias=expert.bias)
    sparse = body[0].ffn
    return tuple(
        dataclasses.replace(layer, ffn=dense if i < shape.dense_layers else sparse)
        for i, layer in enumerate(layers)
    )


def _of_length(layers: tuple[Layer, ...], num_layers: int | None) -> tuple[Layer, ...]:
    """The first layers, or more of them: the order behind the dense ones goes on from its start."""
    if num_layers is None or num_layers == len(layers):
        return layers
    if num_layers < len(layers):
        return layers[:num_layers]
    prefix = 0
    if any(isinstance(layer.ffn, MoE) for layer in layers) and all(
        layer.mixer and layer.ffn for layer in layers
    ):
        prefix = len(list(itertools.takewhile(lambda layer: isinstance(layer.ffn, MLP), layers)))
    more = itertools.islice(itertools.cycle(layers[prefix:]), num_layers - len(layers))
    return (*layers, *more)


def _divide(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ModelError(f"{heads} heads do not divide the hidden size {hidden}", hint="give head_dim")
    return hidden // heads


@functools.lru_cache(maxsize=1024)
def model_of_shape(shape: Shape, *, name: str) -> ModelSpec:
    """A model known by its sizes alone.

    A model without grouped keys whose feed-forward width is four times its hidden size is taken for GPT-like:
    ungated, with biases, layer norms, learned positions and tied embeddings. All others are taken for Llama-like.

    Raises
    ------
    ModelError
        Sizes are missing; the message names them.
    """
    hybrid = re.search(r"hybrid pattern ([ME*-]+)", shape.note)
    needed: list[tuple[str, object]] = [("hidden", shape.hidden), ("heads", shape.heads)]
    if not hybrid:
        needed.append(("layers", shape.layers))
    if shape.experts:
        needed += [("topk", shape.topk), ("moe_ffn or ffn", shape.moe_ffn or shape.ffn)]
    elif not hybrid or "-" in hybrid.group(1):
        needed.append(("ffn", shape.ffn))
    missing = [key for key, value in needed if not value]
    if missing:
        raise ModelError(
            f"the model {name!r} is not shipped, and its sizes are incomplete: {', '.join(missing)} missing",
            hint="fill these columns, or name a shipped model",
        )
    if shape.experts and (shape.topk or 0) > shape.experts:
        raise ModelError(f"{shape.topk} experts a token of {shape.experts}")
    hidden, heads = shape.hidden or 0, shape.heads or 0
    notes = []
    width = shape.ffn or 0
    gpt = not shape.experts or not shape.moe_ffn
    gpt = (
        gpt
        and shape.latent is None
        and width == 4 * hidden
        and shape.kv_heads in (None, heads)
        and not hybrid
    )
    vocab = shape.vocab
    if vocab is None:
        vocab = GPT_VOCAB if gpt else LLAMA_VOCAB
        notes.append(f"vocabulary {vocab} assumed")
    mixer = _mixer(shape, hidden, heads, gpt=gpt)
    gated = not gpt and not hybrid
    dense = MLP(ffn=width, gated=gated, bias=gpt) if width else None
    sparse = _experts(shape, hidden, gated=gated) if shape.experts else None
    if hybrid:
        layers = _hybrid(hybrid.group(1), shape, mixer, dense, sparse)
    else:
        first = shape.dense_layers or 0
        if first and sparse and dense is None:
            raise ModelError(f"{first} dense layers, but no width for them", hint="fill the column ffn")
        layers = tuple(
            Layer(mixer=mixer, ffn=sparse if sparse and i >= first else dense)
            for i in range(shape.layers or 0)
        )
    return ModelSpec(
        id=normalise(name),
        name=name,
        hidden=hidden,
        vocab=vocab,
        layers=_of_length(layers, shape.layers),
        tied_embeddings=gpt,
        learned_positions=(shape.seq or 0) if gpt else 0,
        mtp_layers=shape.mtp_layers or 0,
        norm="layernorm" if gpt else "rmsnorm",
        source="; ".join(["sizes of a published result", *notes]),
    )


def _mixer(shape: Shape, hidden: int, heads: int, *, gpt: bool) -> Mixer:
    if shape.latent:
        compressed = re.search(r"kv_lora(\d+)", shape.note)
        queries = re.search(r"q_lora(\d+)", shape.note)
        if compressed is None:
            raise ModelError(
                "latent attention without its compressed width",
                hint="say 'kv_lora512' in arch_note",
            )
        nope, rope, value = shape.latent
        return LatentAttention(
            num_heads=heads,
            q_lora_rank=int(queries.group(1)) if queries else None,
            kv_lora_rank=int(compressed.group(1)),
            qk_nope_dim=nope,
            qk_rope_dim=rope,
            v_dim=value,
        )
    kv = shape.kv_heads or heads
    if heads % kv:
        raise ModelError(f"{kv} key-value heads do not divide {heads} heads")
    return Attention(
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=shape.head_dim or _divide(hidden, heads),
        bias=gpt,
        out_bias=gpt,
        rotary=not gpt,
    )


def _experts(shape: Shape, hidden: int, *, gated: bool) -> MoE:
    width = shape.moe_ffn or shape.ffn or 0
    latent = re.search(r"moe_latent (\d+)", shape.note)
    return MoE(
        num_experts=shape.experts or 0,
        topk=shape.topk or 0,
        ffn=width,
        shared_ffn=shape.shared_ffn or (shape.shared_experts or 0) * width,
        gated=gated,
        latent=int(latent.group(1)) if latent else None,
    )


def _hybrid(
    pattern: str, shape: Shape, attention: Mixer, dense: MLP | None, sparse: MoE | None
) -> tuple[Layer, ...]:
    sizes = re.search(r"mamba(?: heads)? (\d+)x(\d+) state(\d+)", shape.note)
    if "M" in pattern and sizes is None:
        raise ModelError("Mamba layers without sizes", hint="say 'mamba heads 64x64 state128' in arch_note")
    if "E" in pattern and sparse is None:
        raise ModelError("expert layers without experts", hint="fill the column experts")
    by_letter = {
        "*": Layer(mixer=attention, ffn=None),
        "-": Layer(mixer=None, ffn=dense),
        "E": Layer(mixer=None, ffn=sparse),
    }
    if sizes:
        heads, dim, state = (int(v) for v in sizes.groups())
        # the published hybrids of this form all have eight groups
        mamba = Mamba2(num_heads=heads, head_dim=dim, state_dim=state, num_groups=8)
        by_letter["M"] = Layer(mixer=mamba, ffn=None)
    return tuple(by_letter[letter] for letter in pattern)
