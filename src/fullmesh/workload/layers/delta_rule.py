"""Gated delta-rule linear attention (Yang et al., arXiv 2406.06484 and 2412.06464)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.layers.recurrent import around_scan, saved_by_scan
from fullmesh.workload.ops import Module, Operator, Saved, Scan, Weight, split


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Gated delta-rule linear attention."""

    title: ClassVar[str] = "gated delta rule"

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int = 4
    chunk: int = 64

    @property
    def family(self) -> str:
        return "hybrid"

    @property
    def tensor_heads(self) -> int:
        return 0

    def selective_modules(self) -> tuple[Module, ...]:
        return ()

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        keys, values = self.num_key_heads * self.key_dim, self.num_value_heads * self.value_dim
        convolved = 2 * keys + values
        out = [
            ("in", (hidden, convolved + values + 2 * self.num_value_heads)),
            ("conv", (convolved, self.conv_kernel)),
            ("decay_step", (2, self.num_value_heads)),
            ("norm", (self.value_dim,)),
            ("out", (values, hidden)),
        ]
        return tuple(Weight(name=f"delta.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        keys = split(self.num_key_heads, self.key_dim)
        values = split(self.num_value_heads, self.value_dim)
        gates = split(self.num_value_heads, 2.0)
        # inside a chunk, causal halves: key-key and query-key scores, the triangular solve applied to keys and values,
        # and the outputs; across chunks: corrections, outputs and states
        inside = split(self.num_value_heads, self.chunk * (3.0 * self.key_dim + 2.0 * self.value_dim))
        across = split(self.num_value_heads, 6.0 * self.key_dim * self.value_dim)
        return around_scan(
            Scan(name="delta.scan", flop=inside + across, elements=(keys + values) * 4.0),
            hidden,
            entered=keys * 2.0 + values * 2.0 + gates,
            convolved=keys * 2.0 + values,
            left=values,
        )

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        keys = split(self.num_key_heads, self.key_dim)
        values = split(self.num_value_heads, self.value_dim)
        return saved_by_scan(
            "delta", stream=keys * 4.0 + values * 5.0, states=values * (self.key_dim / self.chunk)
        )
