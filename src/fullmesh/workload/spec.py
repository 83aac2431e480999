"""A model as training sees it: blocks of mixers and feed-forward layers, independent of how they are split."""

from __future__ import annotations

import dataclasses

from fullmesh.workload.layers import FeedForward, Mixer, MoE
from fullmesh.workload.layers.extra import Extra
from fullmesh.workload.layers.norm import Norm, norm_operator, norm_saved, norm_weights
from fullmesh.workload.layers.vocabulary import embedding, head, prediction_projection
from fullmesh.workload.ops import Block, Saved, Weight


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One residual layer; hybrid models have layers with a mixer or a feed-forward part alone.

    Parameters
    ----------
    mixer, ffn : mixer and feed-forward part, or None
    one_norm : bool
        Both parts read the output of one norm (parallel attention: GPT-J, Falcon, Cohere).
    extras : tuple of Extra
        Small tensors that no kind describes.
    """

    mixer: Mixer | None
    ffn: FeedForward | None
    one_norm: bool = False
    extras: tuple[Extra, ...] = ()

    @property
    def parts(self) -> tuple[Mixer | FeedForward, ...]:
        """Mixer and feed-forward part, as far as there are."""
        return tuple(p for p in (self.mixer, self.ffn) if p is not None)

    def weights(self, hidden: int, norm: Norm, *, sandwich: bool) -> tuple[Weight, ...]:
        """Trained tensors, norms included."""
        out: tuple[Weight, ...] = ()
        for i, part in enumerate(self.parts):
            if i == 0 or not self.one_norm:
                out += norm_weights(hidden, norm, sandwich=sandwich)
            out += part.weights(hidden)
        return out + tuple(extra.weight for extra in self.extras)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only language model.

    Parameters
    ----------
    id, name : str
    hidden, vocab : int
    layers : tuple of Layer
        In order, one entry a layer.
    tied_embeddings : bool
        The head shares the embedding's matrix.
    learned_positions : int
        Rows of a learned position table, 0 without one.
    mtp_layers : int
        Multi-token-prediction modules that are trained (each one more layer and one more head).
    mtp_block : tuple of Layer
        What stands inside such a module; empty: a copy of the last layer.
    norm : {"rmsnorm", "layernorm", "plain"}
        ``plain`` has no parameters; a layer norm without bias counts as ``rmsnorm``.
    sandwich_norm : bool
        A second norm after mixer and feed-forward (Gemma 2, Pangu Ultra).
    source : str
        Where the configuration was read.
    embedding_norm : bool
        A norm right after the embedding (Bloom).
    final_norm : bool
        A norm in front of the head.
    other_parameters : int
        Small tensors at the two ends of the model: biases of the head, tables of segments.
    notes : tuple of str
        What a reader has to know of the specification: parts that were left out, values that were assumed.
    """

    id: str
    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    learned_positions: int = 0
    mtp_layers: int = 0
    norm: Norm = "rmsnorm"
    sandwich_norm: bool = False
    source: str = ""
    mtp_block: tuple[Layer, ...] = ()
    embedding_norm: bool = False
    final_norm: bool = True
    other_parameters: int = 0
    notes: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Layers, without embedding, head and MTP modules."""
        return len(self.layers)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(isinstance(layer.ffn, MoE) for layer in self.layers)

    @property
    def kinds(self) -> tuple[Layer, ...]:
        """The distinct layers, in the order of their first use."""
        # most layers equal the one before, and to see that takes less than a hash
        turns = [b for a, b in zip((None, *self.layers), self.layers, strict=False) if a is not b and a != b]
        return tuple(dict.fromkeys(turns))

    @property
    def prediction_block(self) -> tuple[Layer, ...]:
        """Layers of one multi-token-prediction module: as given, else one more layer of the last kind."""
        return self.mtp_block or self.layers[-1:]

    def blocks(self, layer: Layer) -> tuple[Block, ...]:
        """Operators of one layer, in the order of the forward pass."""
        out: tuple[Block, ...] = ()
        norm = Block(operators=(norm_operator(self.hidden, sandwich=self.sandwich_norm),), hidden=self.hidden)
        if layer.mixer is not None:
            out += (norm, Block(operators=layer.mixer.operators(self.hidden), hidden=self.hidden, joined=()))
        sides = tuple(e.operator for e in layer.extras if e.operator is not None)
        if sides:
            out += (Block(operators=sides, hidden=self.hidden),)
        if layer.ffn is not None:
            out += layer.ffn.blocks(self.hidden) if layer.one_norm else (norm, *layer.ffn.blocks(self.hidden))
        return out

    def saved(self, layer: Layer) -> tuple[Saved, ...]:
        """Tensors that one layer keeps for its backward pass."""
        out: tuple[Saved, ...] = ()
        for part in layer.parts:
            out += norm_saved(self.hidden) + part.saved(self.hidden)
        return out

    @property
    def embedding_block(self) -> Block:
        """Look-up of the embedding."""
        return embedding(self.hidden)

    @property
    def head_block(self) -> Block:
        """Final norm, head and loss."""
        return head(self.hidden, self.vocab)

    def prediction_blocks(self) -> tuple[Block, ...]:
        """Operators of one multi-token-prediction module with its own pass through the head."""
        layers = tuple(block for layer in self.prediction_block for block in self.blocks(layer))
        return (prediction_projection(self.hidden), *layers, self.head_block)
