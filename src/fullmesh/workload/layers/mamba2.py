"""Selective state-space mixers with a scalar decay a head (Mamba-2, SSD: Dao and Gu, arXiv 2405.21060)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.layers.recurrent import around_scan, saved_by_scan
from fullmesh.workload.ops import Module, Operator, Saved, Scan, Weight, shared, split


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """A selective state-space mixer with scalar decay per head (SSD)."""

    title: ClassVar[str] = "Mamba-2"

    num_heads: int
    head_dim: int
    state_dim: int
    num_groups: int
    conv_kernel: int = 4
    chunk: int = 128

    @property
    def family(self) -> str:
        return "hybrid"

    @property
    def tensor_heads(self) -> int:
        return self.num_heads

    def selective_modules(self) -> tuple[Module, ...]:
        return ()

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        inner, states = self.num_heads * self.head_dim, self.num_groups * self.state_dim
        convolved = inner + 2 * states
        out = [
            ("in", (hidden, inner + convolved + self.num_heads)),
            ("conv", (convolved, self.conv_kernel + 1)),
            ("decay_skip_step", (3, self.num_heads)),
            ("norm", (inner,)),
            ("out", (inner, hidden)),
        ]
        return tuple(Weight(name=f"mamba.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        heads = split(self.num_heads)
        inner = split(self.num_heads, self.head_dim)
        state = shared(self.num_groups, self.state_dim)
        # inside a chunk, causal half: scores of each group, values of each head; across chunks: states in and out
        inside = (state + inner) * self.chunk
        across = inner * (4.0 * self.state_dim)
        return around_scan(
            Scan(name="mamba.scan", flop=inside + across, elements=(inner + state) * 4.0),
            hidden,
            entered=inner * 2.0 + state * 2.0 + heads,
            convolved=inner + state * 2.0,
            left=inner,
        )

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        inner = split(self.num_heads, self.head_dim)
        state = shared(self.num_groups, self.state_dim)
        # projection, convolution in and out, gate, output, and one state a chunk
        return saved_by_scan(
            "mamba", stream=inner * 5.0 + state * 4.0, states=inner * (self.state_dim / self.chunk)
        )
