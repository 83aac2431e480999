"""Parameter counts, by part, from the shapes of the layers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

from fullmesh.errors import ModelError
from fullmesh.workload.spec import (
    MLP,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoE,
)

Norm = Literal["rmsnorm", "layernorm"]
# A hundred times the largest model that is planned: what lies beyond is a slip of the pen.
MAX_PARAMETERS = 10**15
MAX_LAYERS = 10_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerParameters:
    """Parameters of one layer by part.

    ``mixer`` is attention, Mamba or linear attention with its own biases and inner norms; ``mlp`` the dense
    feed-forward part; ``expert`` all routed experts together and ``active_expert`` those one token uses; ``latent``
    the projections into and out of the width in which tokens are dispatched; ``norms`` the layer's own norms.
    """

    mixer: int
    mlp: int
    expert: int
    active_expert: int
    shared_expert: int
    router: int
    latent: int
    norms: int

    @property
    def dense(self) -> int:
        """Everything that each token uses: all but the routed experts."""
        return self.mixer + self.mlp + self.shared_expert + self.router + self.latent + self.norms

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return self.dense + self.expert

    @property
    def active(self) -> int:
        """Parameters that one token uses."""
        return self.dense + self.active_expert


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters of a model.

    Parameters
    ----------
    embedding : int
        Token and position tables, with the norm behind them.
    head : int
        The output matrix; 0 where it is the embedding.
    final_norm : int
    layers : tuple of LayerParameters
        In the order of the model.
    mtp : int
        Multi-token-prediction modules as far as they are trained; they share embedding and head.
    mtp_active : int
    """

    embedding: int
    head: int
    final_norm: int
    layers: tuple[LayerParameters, ...]
    mtp: int
    mtp_active: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.head + self.final_norm + sum(p.total for p in self.layers) + self.mtp

    @property
    def active(self) -> int:
        """Parameters of which one token makes use, both vocabulary matrices included."""
        return (
            self.embedding
            + self.head
            + self.final_norm
            + sum(p.active for p in self.layers)
            + self.mtp_active
        )

    def by_part(self) -> dict[str, int]:
        """Totals by part; they add up to :attr:`total`."""
        fields = ("mixer", "mlp", "expert", "shared_expert", "router", "latent", "norms")
        parts = {f: sum(getattr(p, f) for p in self.layers) for f in fields}
        return parts | {
            "embedding": self.embedding, "head": self.head, "final_norm": self.final_norm, "mtp": self.mtp,
        }  # fmt: skip


@functools.lru_cache(maxsize=4096)
def layer_parameters(
    layer: Layer, hidden: int, *, norm: Norm = "rmsnorm", sandwich_norm: bool = False
) -> LayerParameters:
    """Parameters of one layer.

    Parameters
    ----------
    layer : Layer
    hidden : int
        Width of the residual stream.
    norm : {"rmsnorm", "layernorm"}
        A layer norm has a bias beside its scale.
    sandwich_norm : bool
        A second norm behind mixer and feed-forward part.
    """
    per_norm = hidden * (2 if norm == "layernorm" else 1)
    halves = (layer.mixer is not None) + (layer.ffn is not None)
    mlp = expert = active = shared = router = latent = 0
    ffn = layer.ffn
    if isinstance(ffn, MLP):
        mlp = _mlp(hidden, ffn.ffn, gated=ffn.gated, bias=ffn.bias)
    elif isinstance(ffn, MoE):
        width = ffn.latent or hidden
        one = _mlp(width, ffn.ffn, gated=ffn.gated, bias=ffn.bias)
        expert, active = ffn.num_experts * one, ffn.topk * one
        if ffn.shared_ffn:
            shared = _mlp(hidden, ffn.shared_ffn, gated=ffn.gated, bias=ffn.bias) + (
                hidden if ffn.shared_gate else 0
            )
        router = ffn.num_experts * (hidden + (1 if ffn.bias else 0))
        latent = 2 * hidden * ffn.latent if ffn.latent else 0
    return LayerParameters(
        mixer=mixer_parameters(layer.mixer, hidden) if layer.mixer is not None else 0,
        mlp=mlp,
        expert=expert,
        active_expert=active,
        shared_expert=shared,
        router=router,
        latent=latent,
        norms=halves * per_norm * (2 if sandwich_norm else 1),
    )


def check_size(model: ModelSpec, *, where: str) -> ModelSpec:
    """The model itself, unless it is larger than anyone could mean.

    Raises
    ------
    ModelError
        Too many layers or parameters; sums over them would no longer be exact.
    """
    depth = model.num_layers + model.mtp_layers
    if depth > MAX_LAYERS:
        raise ModelError(f"{depth:,} layers", where=where, expected=f"at most {MAX_LAYERS:,}")
    total = parameter_counts(model).total
    if total > MAX_PARAMETERS:
        raise ModelError(
            f"{total:.3g} parameters",
            where=where,
            expected=f"at most {MAX_PARAMETERS:.0e}",
            hint="check hidden size, widths, vocabulary and number of experts",
        )
    return model


def parameter_counts(model: ModelSpec) -> ParameterCounts:
    """Parameters of a model, by layer and part.

    Notes
    -----
    A multi-token-prediction module has the layers of its block, a projection of the concatenated hidden state and
    embedding (``2 hidden x hidden``) and three norms; embedding and head are the model's own (DeepSeek-V3, arXiv
    2412.19437, section 2.2).
    """
    per_norm = model.hidden * (2 if model.norm == "layernorm" else 1)
    layers = tuple(_of(model, layer) for layer in model.layers)
    block = [_of(model, layer) for layer in (model.mtp_block or model.layers[-1:])]
    module = 2 * model.hidden**2 + 3 * per_norm
    return ParameterCounts(
        embedding=(model.vocab + model.learned_positions) * model.hidden
        + (per_norm if model.embedding_norm else 0),
        head=0 if model.tied_embeddings else model.vocab * model.hidden,
        final_norm=per_norm,
        layers=layers,
        mtp=model.mtp_layers * (module + sum(p.total for p in block)),
        mtp_active=model.mtp_layers * (module + sum(p.active for p in block)),
    )


def _of(model: ModelSpec, layer: Layer) -> LayerParameters:
    return layer_parameters(layer, model.hidden, norm=model.norm, sandwich_norm=model.sandwich_norm)


def _mlp(hidden: int, ffn: int, *, gated: bool, bias: bool) -> int:
    up = 2 if gated else 1
    return (up + 1) * hidden * ffn + (up * ffn + hidden if bias else 0)


def mixer_parameters(mixer: Mixer, hidden: int) -> int:
    """Parameters of one mixer, with its biases and inner norms."""
    if isinstance(mixer, Attention):
        return _attention(mixer, hidden)
    if isinstance(mixer, LatentAttention):
        return _latent_attention(mixer, hidden)
    if isinstance(mixer, Mamba2):
        return _mamba(mixer, hidden)
    return _linear_attention(mixer, hidden)


def _attention(a: Attention, hidden: int) -> int:
    queries = a.num_heads * a.head_dim * (2 if a.gated_output else 1)
    keys = a.num_kv_heads * a.head_dim * (1 if a.shared_kv else 2)
    inner = a.num_heads * a.head_dim
    total = hidden * keys
    if a.q_lora_rank is None:
        total += hidden * queries
    else:
        total += hidden * a.q_lora_rank + a.q_lora_rank * queries + a.q_lora_rank
    if a.out_rank:
        # each group of heads has its own matrix to out_rank
        total += inner * a.out_rank + a.out_groups * a.out_rank * hidden
    else:
        total += inner * hidden
    total += (queries + keys) * a.bias + hidden * a.out_bias
    total += 2 * a.head_dim * a.qk_norm + a.num_heads * a.sinks
    return total


def _latent_attention(a: LatentAttention, hidden: int) -> int:
    qk = a.qk_nope_dim + a.qk_rope_dim
    if a.q_lora_rank is None:
        total = hidden * a.num_heads * qk
    else:
        total = hidden * a.q_lora_rank + a.q_lora_rank * a.num_heads * qk + a.q_lora_rank
    total += hidden * (a.kv_lora_rank + a.qk_rope_dim) + a.kv_lora_rank
    total += a.kv_lora_rank * a.num_heads * (a.qk_nope_dim + a.v_dim)
    return total + a.num_heads * a.v_dim * hidden


def _mamba(m: Mamba2, hidden: int) -> int:
    inner, states = m.num_heads * m.head_dim, m.num_groups * m.state_dim
    convolved = inner + 2 * states
    # decay, skip and time-step bias of each head; the gated norm before the output
    return (
        hidden * (inner + convolved + m.num_heads)
        + convolved * (m.conv_kernel + 1)
        + 3 * m.num_heads
        + inner * (1 + hidden)
    )


def _linear_attention(a: LinearAttention, hidden: int) -> int:
    keys, values = a.num_key_heads * a.key_dim, a.num_value_heads * a.value_dim
    convolved = 2 * keys + values
    projected = convolved + values + 2 * a.num_value_heads
    return (
        hidden * projected + convolved * a.conv_kernel + 2 * a.num_value_heads + a.value_dim + values * hidden
    )
