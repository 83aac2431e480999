"""What is computed, independent of how it is split."""

from fullmesh.workload.spec import (
    MLP,
    Attention,
    FeedForward,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoE,
)

__all__ = [
    "MLP",
    "Attention",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "LinearAttention",
    "Mamba2",
    "Mixer",
    "MoE",
    "ModelSpec",
]
