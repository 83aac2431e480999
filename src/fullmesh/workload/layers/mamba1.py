"""Selective state-space mixers with a decay for each channel and state (Mamba: Gu and Dao, arXiv 2312.00752)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.ops import (
    Element,
    Elementwise,
    Module,
    Operator,
    Product,
    Saved,
    Scan,
    Tokens,
    Weight,
    split,
    whole,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mamba1:
    """A selective state-space mixer whose step, input and output are functions of each token.

    Parameters
    ----------
    inner : int
        Channels, usually twice the hidden size.
    step_rank : int
        Width through which the step of each channel is projected.
    inner_norms : bool
        Norms of step, input and output of the state (Jamba).
    """

    title: ClassVar[str] = "Mamba"

    inner: int
    state_dim: int
    step_rank: int
    conv_kernel: int = 4
    inner_norms: bool = False

    @property
    def family(self) -> str:
        return "hybrid"

    @property
    def tensor_heads(self) -> int:
        return self.inner

    def selective_modules(self) -> tuple[Module, ...]:
        return ()

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        out: list[tuple[str, tuple[int, ...]]] = [
            ("in", (hidden, 2 * self.inner)),
            ("conv", (self.inner, self.conv_kernel + 1)),
            ("x", (self.inner, self.step_rank + 2 * self.state_dim)),
            ("step", (self.step_rank, self.inner)),
            ("step_bias", (self.inner,)),
            ("decay", (self.inner, self.state_dim)),
            ("skip", (self.inner,)),
            ("out", (self.inner, hidden)),
        ]
        if self.inner_norms:
            out.append(("norms", (self.step_rank + 2 * self.state_dim,)))
        return tuple(Weight(name=f"mamba.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        inner, narrow = split(self.inner), whole(self.step_rank + 2.0 * self.state_dim)
        return (
            Product(name="mamba.in", tokens=Tokens.STREAM, n=inner * 2.0, k=whole(hidden)),
            Elementwise(
                name="mamba.conv", tokens=Tokens.STREAM, width=inner, forward=(1.0, 1.0), backward=(2.0, 1.0),
                kernels=2.0,
            ),
            Product(name="mamba.x", tokens=Tokens.STREAM, n=narrow, k=inner),
            Product(name="mamba.step", tokens=Tokens.STREAM, n=inner, k=whole(self.step_rank)),
            # each channel and state: decay and input into the state, output from it; no matrix products inside
            Scan(name="mamba.scan", flop=inner * (9.0 * self.state_dim), elements=inner * 4.0),
            Product(name="mamba.out", tokens=Tokens.STREAM, n=whole(hidden), k=inner),
        )  # fmt: skip

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        inner, narrow = split(self.inner), whole(self.step_rank + 2.0 * self.state_dim)
        return (
            # projection, convolution in and out, gate, step, output; states are computed again
            Saved(name="mamba.stream", tokens=Tokens.STREAM, width=inner * 6.0 + narrow),
            Saved(name="mamba.step", tokens=Tokens.STREAM, width=inner, element=Element.FP32),
        )
