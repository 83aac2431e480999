"""Kinds of layers, one file each: parameters, operators and saved tensors.

A kind is a frozen class with the members of :class:`~fullmesh.workload.layers.base.MixerKind` or
:class:`~fullmesh.workload.layers.base.FeedForwardKind`. Its entry in the union here registers it; everything else
(parameter counts, operations, memory, cost, feasibility) follows from its members.
"""

from fullmesh.workload.layers.attention import Attention
from fullmesh.workload.layers.base import FeedForwardKind, MixerKind
from fullmesh.workload.layers.delta_rule import LinearAttention
from fullmesh.workload.layers.experts import MoE
from fullmesh.workload.layers.latent_attention import LatentAttention
from fullmesh.workload.layers.mamba1 import Mamba1
from fullmesh.workload.layers.mamba2 import Mamba2
from fullmesh.workload.layers.mlp import MLP
from fullmesh.workload.layers.short_conv import ShortConv
from fullmesh.workload.layers.sparse_attention import SparseLatentAttention

Mixer = Attention | LatentAttention | SparseLatentAttention | Mamba1 | Mamba2 | LinearAttention | ShortConv
FeedForward = MLP | MoE

__all__ = [
    "MLP",
    "Attention",
    "FeedForward",
    "FeedForwardKind",
    "LatentAttention",
    "LinearAttention",
    "Mamba1",
    "Mamba2",
    "Mixer",
    "MixerKind",
    "MoE",
    "ShortConv",
    "SparseLatentAttention",
]
