"""Gated short convolutions as mixers (LFM2): two gates around a causal convolution over a few tokens."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.ops import Elementwise, Module, Operator, Product, Saved, Tokens, Weight, split, whole


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShortConv:
    """Input gate, causal convolution of each channel over ``kernel`` tokens, output gate."""

    title: ClassVar[str] = "short convolution"

    kernel: int
    bias: bool = False

    @property
    def family(self) -> str:
        return "hybrid"

    @property
    def tensor_heads(self) -> int:
        return 0

    def selective_modules(self) -> tuple[Module, ...]:
        return ()

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        out: list[tuple[str, tuple[int, ...]]] = [
            ("in", (hidden, 3 * hidden)),
            ("conv", (hidden, self.kernel)),
            ("out", (hidden, hidden)),
        ]
        if self.bias:
            out.append(("biases", (5 * hidden,)))
        return tuple(Weight(name=f"conv.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        inner = split(hidden)
        return (
            Product(name="conv.in", tokens=Tokens.STREAM, n=inner * 3.0, k=whole(hidden)),
            Elementwise(
                name="conv.gated", tokens=Tokens.STREAM, width=inner, forward=(3.0, 1.0), backward=(4.0, 3.0),
                kernels=3.0,
            ),
            Product(name="conv.out", tokens=Tokens.STREAM, n=whole(hidden), k=inner),
        )  # fmt: skip

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        # the three parts of the projection, what is convolved, and the input of the output projection
        return (Saved(name="conv.stream", tokens=Tokens.STREAM, width=split(hidden, 5.0)),)
