"""Mixtures of experts: router, dispatch, grouped products, and experts that every token uses."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.layers.mlp import MLP, kept, matrices, work
from fullmesh.workload.ops import (
    FP32_BYTES,
    Block,
    Element,
    Elementwise,
    Exchange,
    GroupedProduct,
    HostSync,
    Module,
    Operator,
    Product,
    Saved,
    Tokens,
    Weight,
    expert_split,
    whole,
)

_MOE: tuple[Module, ...] = ("moe",)
_ACTIVATION: tuple[Module, ...] = ("moe", "moe_act")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """Routed experts, with the width of all shared experts together.

    ``latent`` is the width that tokens are projected to before they are dispatched (None: the hidden size).
    """

    title: ClassVar[str] = "experts"

    num_experts: int
    topk: int
    ffn: int
    shared_ffn: int = 0
    gated: bool = True
    latent: int | None = None
    shared_gate: bool = False
    bias: bool = False

    @property
    def tensor_widths(self) -> tuple[int, ...]:
        return (self.shared_ffn,) if self.shared_ffn else ()

    def selective_modules(self) -> tuple[Module, ...]:
        return ("moe_act",)

    @property
    def expert(self) -> MLP:
        """One routed expert."""
        return MLP(ffn=self.ffn, gated=self.gated, bias=self.bias)

    @property
    def shared(self) -> MLP | None:
        """All shared experts as one."""
        return MLP(ffn=self.shared_ffn, gated=self.gated, bias=self.bias) if self.shared_ffn else None

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        out = list(matrices(self.expert, self.latent or hidden, part="expert", copies=self.num_experts))
        if self.shared is not None:
            out += matrices(self.shared, hidden, part="shared_expert")
            if self.shared_gate:
                out.append(Weight(name="shared_expert.gate", shape=(hidden,), part="shared_expert"))
        out.append(Weight(name="router", shape=(hidden, self.num_experts), part="router"))
        if self.bias:
            out.append(Weight(name="router.bias", shape=(self.num_experts,), part="router"))
        if self.latent:
            out += [
                Weight(name="latent.down", shape=(hidden, self.latent), part="latent"),
                Weight(name="latent.up", shape=(self.latent, hidden), part="latent"),
            ]
        return tuple(out)

    def blocks(self, hidden: int) -> tuple[Block, ...]:
        exchange = Exchange(num_experts=self.num_experts, topk=self.topk, width=float(self.latent or hidden))
        routed = Block(
            operators=(*self._routing(hidden), *self._experts(hidden)), hidden=hidden, exchange=exchange
        )
        if self.shared is None:
            return (routed,)
        work_of_shared = work(self.shared, hidden, drops=_MOE, name="shared_expert")
        return (routed, Block(operators=work_of_shared, hidden=hidden, joined=_MOE))

    def _routing(self, hidden: int) -> tuple[Operator, ...]:
        h = whole(hidden)
        out: list[Operator] = [
            HostSync(name="router.counts"),
            # the router sees each token once; expert ranks lie inside tensor and data parallelism
            Product(name="router", tokens=Tokens.ONCE, n=whole(self.num_experts), k=h, wide=True, drops=_MOE),
            Elementwise(
                name="router.scores", tokens=Tokens.ONCE, width=whole(self.num_experts), forward=(2.0, 2.0),
                backward=(2.0, 1.0), element_bytes=FP32_BYTES, kernels=8.0, routed=True, drops=_MOE,
            ),
        ]  # fmt: skip
        if self.latent:
            narrow = whole(self.latent)
            out += [
                Product(name="latent.down", tokens=Tokens.ONCE, n=narrow, k=h, drops=_MOE),
                Product(name="latent.up", tokens=Tokens.ONCE, n=h, k=narrow, drops=_MOE),
            ]
        return tuple(out)

    def _experts(self, hidden: int) -> tuple[Operator, ...]:
        width = whole(self.latent or hidden)
        inner = expert_split(self.ffn)
        up = 2.0 if self.gated else 1.0
        copies, inner_copies = width * self.topk, inner * self.topk
        return (
            # before and after the experts: read and write every copy
            Elementwise(
                name="experts.permute", tokens=Tokens.ROUTED, width=copies, forward=(2.0, 2.0), backward=(2.0, 2.0),
                kernels=4.0, routed=True, drops=_MOE,
            ),
            GroupedProduct(
                name="experts.up", num_experts=self.num_experts, topk=self.topk, n=inner * up, k=width
            ),
            Elementwise(
                name="experts.activation", tokens=Tokens.ROUTED, width=inner_copies, forward=(up, 1.0),
                backward=(up + 1.0, up), routed=True, drops=_ACTIVATION,
            ),
            GroupedProduct(name="experts.down", num_experts=self.num_experts, topk=self.topk, n=width, k=inner),
        )  # fmt: skip

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        width = whole(self.latent or hidden) * self.topk
        inner = expert_split(self.ffn) * self.topk
        up = 2.0 if self.gated else 1.0
        out = (
            Saved(
                name="experts.input", tokens=Tokens.ROUTED, width=width, element=Element.INPUT, drops=_MOE
            ),
            Saved(name="experts.halves", tokens=Tokens.ROUTED, width=inner * up, drops=_MOE),
            Saved(
                name="experts.activation", tokens=Tokens.ROUTED, width=inner, element=Element.INPUT,
                drops=_ACTIVATION,
            ),
            Saved(name="experts.output", tokens=Tokens.ROUTED, width=width, drops=_MOE),
            Saved(
                name="router.scores", tokens=Tokens.ONCE, width=whole(2.0 * self.num_experts),
                element=Element.FP32, drops=_MOE,
            ),
        )  # fmt: skip
        return (*out, *kept(self.shared, drops=_MOE, name="shared_expert")) if self.shared else out
