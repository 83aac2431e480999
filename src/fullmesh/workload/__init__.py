"""What is computed, independent of how it is split.

In: a configuration, or a name. Out: a :class:`ModelSpec`, whose layers say what they hold, compute and save.
"""

from fullmesh.workload.layers import (
    MLP,
    Attention,
    FeedForward,
    LatentAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    Mixer,
    MoE,
    ShortConv,
)
from fullmesh.workload.spec import Layer, ModelSpec

__all__ = [
    "MLP",
    "Attention",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "LinearAttention",
    "Mamba1",
    "Mamba2",
    "Mixer",
    "MoE",
    "ModelSpec",
    "ShortConv",
]
