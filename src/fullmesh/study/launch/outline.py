"""A model as training frameworks describe one: the same attention in every layer, dense and expert layers in an order.

Writers take an outline apart into options, readers put one together; both ends of every format meet here.
"""

from __future__ import annotations

import dataclasses
import functools

from fullmesh.errors import ExportError
from fullmesh.workload import MLP, Attention, LatentAttention, Layer, ModelSpec, MoE
from fullmesh.workload.layers.norm import Norm
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What options say of a model.

    Parameters
    ----------
    mixer : Attention or LatentAttention
        Of every layer; its window is that of the layers which ``windowed`` marks.
    dense, experts : feed-forward parts, None where no layer has one
    sparse : tuple of bool
        Which layers have experts.
    windowed : tuple of bool
        Which layers see a sliding window alone.
    """

    hidden: int
    vocab: int
    mixer: Attention | LatentAttention
    dense: MLP | None
    experts: MoE | None
    sparse: tuple[bool, ...]
    windowed: tuple[bool, ...]
    norm: Norm
    tied: bool
    learned_positions: int
    mtp_layers: int

    @property
    def num_layers(self) -> int:
        """Layers without embedding, head and prediction modules."""
        return len(self.sparse)

    @property
    def num_dense_first(self) -> int | None:
        """Leading layers without experts; None where dense ones stand behind them too."""
        first = self.sparse.index(True) if True in self.sparse else self.num_layers
        return first if all(self.sparse[first:]) else None


def outline(model: ModelSpec) -> Outline:
    """Take a model apart.

    Raises
    ------
    ExportError
        The model has a part that no option of these frameworks describes; the message names it.
    """
    odd = _odd(model)
    if odd:
        raise ExportError(
            f"{model.name} has {odd}, which the options of these frameworks do not describe",
            where="--export",
            expected="layers of attention and of dense or expert feed-forward parts",
            hint="`fullmesh catalog model` lists the parts of a model",
        )
    mixers = [layer.mixer for layer in model.layers]
    windows = [m.window if isinstance(m, Attention) else None for m in mixers]
    wide = next((w for w in windows if w is not None), None)
    mixer = mixers[0]
    assert isinstance(mixer, Attention | LatentAttention)
    if isinstance(mixer, Attention):
        mixer = dataclasses.replace(mixer, window=wide)
    ffns = [layer.ffn for layer in model.layers]
    return Outline(
        hidden=model.hidden,
        vocab=model.vocab,
        mixer=mixer,
        dense=next((f for f in ffns if isinstance(f, MLP)), None),
        experts=next((f for f in ffns if isinstance(f, MoE)), None),
        sparse=tuple(isinstance(f, MoE) for f in ffns),
        windowed=tuple(w is not None for w in windows),
        norm=model.norm,
        tied=model.tied_embeddings,
        learned_positions=model.learned_positions,
        mtp_layers=model.mtp_layers,
    )


def _odd(model: ModelSpec) -> str:
    """The first part of a model that an outline has no place for, empty where there is none."""
    plain = {
        dataclasses.replace(layer.mixer, window=None) if isinstance(layer.mixer, Attention) else layer.mixer
        for layer in model.layers
    }
    windows = {layer.mixer.window for layer in model.layers if isinstance(layer.mixer, Attention)} - {None}
    for found, words in (
        (any(layer.mixer is None or layer.ffn is None for layer in model.layers), "layers of one part alone"),
        (not all(isinstance(m, Attention | LatentAttention) for m in plain), "layers without attention"),
        (len(plain) > 1 or len(windows) > 1, "several kinds of attention"),
        (len({x.ffn for x in model.layers if isinstance(x.ffn, MLP)}) > 1, "dense layers of several widths"),
        (len({x.ffn for x in model.layers if isinstance(x.ffn, MoE)}) > 1, "expert layers of several shapes"),
        (any(layer.one_norm for layer in model.layers), "attention beside its feed-forward part"),
        (any(layer.extras for layer in model.layers), "small tensors of its own"),
        (model.sandwich_norm, "a second norm behind every part"),
        (model.embedding_norm, "a norm behind the embedding"),
        (not model.final_norm, "no norm in front of the head"),
        (model.norm == "plain", "norms without parameters"),
        (model.mtp_block not in ((), model.layers[-1:]), "prediction modules of their own shape"),
    ):
        if found:
            return words
    return ""


def model_of(found: Outline, *, name: str = "") -> ModelSpec:
    """Put a model together; one that is shipped, in every size, gets its name and notes back."""
    layers = []
    for sparse, windowed in zip(found.sparse, found.windowed, strict=True):
        mixer = found.mixer
        if isinstance(mixer, Attention) and not windowed:
            mixer = dataclasses.replace(mixer, window=None)
        layers.append(Layer(mixer=mixer, ffn=found.experts if sparse else found.dense))
    model = ModelSpec(
        id=shipped.normalise(name) or "imported",
        name=name or "imported model",
        hidden=found.hidden,
        vocab=found.vocab,
        layers=tuple(layers),
        tied_embeddings=found.tied,
        learned_positions=found.learned_positions,
        mtp_layers=found.mtp_layers,
        norm=found.norm,
        source="options of a training framework",
    )
    return named(model)


def named(model: ModelSpec) -> ModelSpec:
    """The shipped model of exactly these sizes, or the model as it is."""
    for known in _sizes().get((model.num_layers, model.hidden, model.vocab), ()):
        other = load_model(known, mtp_layers=model.mtp_layers)
        if other.learned_positions:
            other = dataclasses.replace(other, learned_positions=model.learned_positions)
        if same_model(model, other):
            return other
    return model


@functools.cache
def _sizes() -> dict[tuple[int, int, int], tuple[str, ...]]:
    """Shipped models by layers, hidden size and vocabulary."""
    out: dict[tuple[int, int, int], tuple[str, ...]] = {}
    for name in shipped.names():
        model = load_model(name)
        key = model.num_layers, model.hidden, model.vocab
        out[key] = (*out.get(key, ()), name)
    return out


# what says where a model comes from, and nothing of what it computes
_ABOUT = ("id", "name", "source", "notes")


def differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """Parts of two models that differ, by the names of their fields."""
    out = [
        f.name
        for f in dataclasses.fields(ModelSpec)
        if f.name not in (*_ABOUT, "mtp_block") and getattr(a, f.name) != getattr(b, f.name)
    ]
    if a.mtp_layers and b.mtp_layers and a.prediction_block != b.prediction_block:
        out.append("mtp_block")
    return out


def same_model(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether two models compute the same."""
    return not differences(a, b)
