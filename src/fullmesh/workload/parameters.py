"""Parameter counts, by part, from the shapes of the layers."""

from __future__ import annotations

import dataclasses
import functools
import itertools

from fullmesh.errors import ModelError
from fullmesh.workload.layers import MoE
from fullmesh.workload.layers.norm import NORM_VECTORS, Norm
from fullmesh.workload.spec import Layer, ModelSpec

_PARTS = ("mixer", "mlp", "expert", "shared_expert", "router", "latent", "norms")
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
        Token and position tables, with the norm behind them and other small tensors at the ends of the model.
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
        parts = {f: sum(getattr(p, f) for p in self.layers) for f in _PARTS}
        return parts | {
            "embedding": self.embedding, "head": self.head, "final_norm": self.final_norm, "mtp": self.mtp,
        }  # fmt: skip


def layer_parameters(model: ModelSpec, layer: Layer) -> LayerParameters:
    """Parameters of one layer of a model, from its weights."""
    return _counted(layer, model.hidden, model.norm, model.sandwich_norm)


@functools.lru_cache(maxsize=4096)
def _counted(layer: Layer, hidden: int, norm: Norm, sandwich: bool) -> LayerParameters:
    parts = dict.fromkeys(_PARTS, 0)
    for weight in layer.weights(hidden, norm, sandwich=sandwich):
        parts[weight.part] += weight.count
    active = 0
    if isinstance(layer.ffn, MoE):
        active = parts["expert"] // layer.ffn.num_experts * layer.ffn.topk
    return LayerParameters(**parts, active_expert=active)


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
    per_norm = model.hidden * NORM_VECTORS[model.norm]
    layers: tuple[LayerParameters, ...] = ()
    for layer, equal in itertools.groupby(model.layers):
        layers += (layer_parameters(model, layer),) * len(list(equal))
    block = [layer_parameters(model, layer) for layer in model.prediction_block]
    module = 2 * model.hidden**2 + 3 * per_norm
    return ParameterCounts(
        embedding=(model.vocab + model.learned_positions) * model.hidden
        + (per_norm if model.embedding_norm else 0)
        + model.other_parameters,
        head=0 if model.tied_embeddings else model.vocab * model.hidden,
        final_norm=per_norm if model.final_norm else 0,
        layers=layers,
        mtp=model.mtp_layers * (module + sum(p.total for p in block)),
        mtp_active=model.mtp_layers * (module + sum(p.active for p in block)),
    )
