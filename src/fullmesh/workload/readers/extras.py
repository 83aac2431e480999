"""Small tensors that single families have beside their mixers and feed-forward parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fullmesh.workload.layers import MLP, Attention, MoE, ShortConv
from fullmesh.workload.layers.extra import Extra
from fullmesh.workload.readers.config import Config
from fullmesh.workload.spec import Layer

# What a layer of a family has more, by its number.
Maker = Callable[[Config, Layer, int, int], tuple[Extra, ...]]


def with_extras(c: Config, layers: tuple[Layer, ...], hidden: int) -> tuple[Layer, ...]:
    """The same layers with what their family adds to them."""
    maker = _MAKERS.get(c.text("model_type"))
    if maker is None:
        return layers
    made = ((layer, maker(c, layer, i, hidden)) for i, layer in enumerate(layers))
    return tuple(dataclasses.replace(layer, extras=extras) if extras else layer for layer, extras in made)


def other_parameters(c: Config, hidden: int, vocab: int, num_layers: int) -> int:
    """Small tensors at the two ends of a model."""
    model_type = c.text("model_type")
    if model_type == "modernbert-decoder":
        head = (
            hidden * hidden + hidden + (hidden if c.flag("classifier_bias", default=False, quiet=True) else 0)
        )
        # the first layer has no norm in front of its attention
        return head - hidden + (vocab if c.flag("decoder_bias", default=True) else 0)
    if model_type == "gpt_neox_japanese":
        # the last layer alone has a bias behind its attention
        return hidden
    if model_type == "moshi":
        return hidden
    return 0


def _scale(name: str, size: int) -> Extra:
    return Extra(name=name, shape=(size,))


def _router_bias(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    """Biases by which routing balances its experts, where the class counts them as parameters."""
    if not isinstance(layer.ffn, MoE):
        return ()
    return (Extra(name="router.bias", shape=(layer.ffn.num_experts,), part="router"),)


def _apertus(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    return (Extra(name="mlp.slopes", shape=(2,), part="mlp"),)


def _bitnet(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    assert isinstance(layer.mixer, Attention)
    assert isinstance(layer.ffn, MLP)
    return (_scale("attention.norm", hidden), _scale("mlp.norm", layer.ffn.ffn))


def _diffllama(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    assert isinstance(layer.mixer, Attention)
    return (Extra(name="attention.lambda", shape=(4 * layer.mixer.head_dim,), part="mixer"),)


def _doge(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    assert isinstance(layer.mixer, Attention)
    kv = layer.mixer.num_kv_heads
    return (
        _scale("residuals", 2 * hidden),
        Extra(name="attention.mask", shape=(kv,), part="mixer"),
        Extra(name="attention.step", shape=(kv * layer.mixer.head_dim, kv), part="mixer"),
    )


def _beam(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    assert isinstance(layer.mixer, Attention)
    return (Extra(name="attention.gate_bias", shape=(layer.mixer.num_heads,), part="mixer"),)


def _head_gate(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    """A gate for each head of attention."""
    if not isinstance(layer.mixer, Attention):
        return ()
    return (Extra(name="attention.gate", shape=(hidden, layer.mixer.num_heads), part="mixer"),)


def _laguna(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    gates = _head_gate(c, layer, i, hidden) if c.flag("gating", default=True) else ()
    return gates + _router_bias(c, layer, i, hidden)


def _lfm3(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    if isinstance(layer.mixer, ShortConv) or not c.flag("use_attention_gate", default=True):
        return ()
    return _head_gate(c, layer, i, hidden)


def _behind_experts(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    return (_scale("experts.norm", hidden),) if isinstance(layer.ffn, MoE) else ()


def _gemma4(c: Config, layer: Layer, i: int, hidden: int) -> tuple[Extra, ...]:
    """Experts beside a dense part: norms around each, scales of the router."""
    if not isinstance(layer.ffn, MoE):
        return ()
    scales = hidden + layer.ffn.num_experts
    return (_scale("experts.norms", 3 * hidden), Extra(name="router.scales", shape=(scales,), part="router"))


_MAKERS: dict[str, Maker] = {
    "afmoe": _router_bias,
    "ernie4_5_moe": _router_bias,
    "apertus": _apertus,
    "apertus1p5_text": _apertus,
    "bitnet": _bitnet,
    "diffllama": _diffllama,
    "doge": _doge,
    "beam": _beam,
    "laguna": _laguna,
    "lfm3": _lfm3,
    "axk1": _behind_experts,
    "gemma4": _gemma4,
    "gemma4_text": _gemma4,
    "gemma4_unified": _gemma4,
    "gemma4_unified_text": _gemma4,
    "step3p5": _head_gate,
    "step3p7": _head_gate,
}
