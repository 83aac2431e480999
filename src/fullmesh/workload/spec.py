"""A model as training sees it: blocks of mixers and feed-forward layers, independent of how they are split."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention with grouped keys and values (MHA, GQA, MQA).

    Parameters
    ----------
    bias, out_bias : bool
        Biases of the query, key and value projections, and of the output projection.
    window : int, optional
        The sliding window in tokens, None for full causal attention.
    sinks : bool
        One learned logit a head that takes part in the softmax (GPT-OSS).
    q_lora_rank : int, optional
        Queries pass through this width first (DeepSeek-V4); None: one matrix.
    out_rank, out_groups : int
        The output passes through ``out_groups`` blocks of width ``out_rank`` first (DeepSeek-V4); 0: one matrix.
    shared_kv : bool
        One projection serves as key and as value (DeepSeek-V4).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    rotary: bool = True
    gated_output: bool = False
    out_bias: bool = False
    sinks: bool = False
    q_lora_rank: int | None = None
    out_rank: int = 0
    out_groups: int = 1
    shared_kv: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA). ``q_lora_rank`` is None where queries are not compressed."""

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """A selective state-space mixer with scalar decay per head (SSD)."""

    num_heads: int
    head_dim: int
    state_dim: int
    num_groups: int
    conv_kernel: int = 4
    chunk: int = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Gated delta-rule linear attention."""

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    chunk: int = 64


Mixer = Attention | LatentAttention | Mamba2 | LinearAttention


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """A feed-forward layer; ``gated`` has three matrices (SwiGLU, GeGLU), otherwise two."""

    ffn: int
    gated: bool = True
    bias: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """Routed experts, with the width of all shared experts together.

    ``latent`` is the width that tokens are projected to before they are dispatched (None: the hidden size).
    """

    num_experts: int
    topk: int
    ffn: int
    shared_ffn: int = 0
    gated: bool = True
    latent: int | None = None
    shared_gate: bool = False
    bias: bool = False


FeedForward = MLP | MoE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One residual layer; hybrid models have layers with a mixer or a feed-forward part alone."""

    mixer: Mixer | None
    ffn: FeedForward | None


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
    norm : {"rmsnorm", "layernorm"}
    sandwich_norm : bool
        A second norm after mixer and feed-forward (Gemma 2, Pangu Ultra).
    source : str
        Where the configuration was read.
    embedding_norm : bool
        A norm right after the embedding (Bloom).
    """

    id: str
    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    learned_positions: int = 0
    mtp_layers: int = 0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    sandwich_norm: bool = False
    source: str = ""
    mtp_block: tuple[Layer, ...] = ()
    embedding_norm: bool = False

    @property
    def num_layers(self) -> int:
        """Layers, without embedding, head and MTP modules."""
        return len(self.layers)

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(isinstance(layer.ffn, MoE) for layer in self.layers)

    def truncated(self, num_layers: int) -> ModelSpec:
        """The first ``num_layers`` layers under the same name (benchmarks do this)."""
        return dataclasses.replace(self, layers=self.layers[:num_layers])
