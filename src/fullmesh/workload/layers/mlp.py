"""Dense feed-forward parts: two matrices, or three with a gate (SwiGLU, GeGLU)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from fullmesh.workload.ops import (
    Block,
    Element,
    Elementwise,
    Module,
    Operator,
    Product,
    Saved,
    Tokens,
    Weight,
    split,
    whole,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """A feed-forward layer; ``gated`` has three matrices (SwiGLU, GeGLU), otherwise two."""

    title: ClassVar[str] = "dense"

    ffn: int
    gated: bool = True
    bias: bool = False

    @property
    def tensor_widths(self) -> tuple[int, ...]:
        return (self.ffn,)

    def selective_modules(self) -> tuple[Module, ...]:
        return ("mlp",)

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        return matrices(self, hidden, part="mlp")

    def blocks(self, hidden: int) -> tuple[Block, ...]:
        return (Block(operators=work(self, hidden, drops=("mlp",)), hidden=hidden, joined=("mlp",)),)

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        return kept(self, drops=("mlp",))


def matrices(
    mlp: MLP, hidden: int, *, part: Literal["mlp", "expert", "shared_expert"], copies: int = 1
) -> tuple[Weight, ...]:
    """Weights of a feed-forward part, or of ``copies`` experts."""
    up = 2 if mlp.gated else 1
    front = (copies,) if part == "expert" else ()
    out = [("up", (hidden, up * mlp.ffn)), ("down", (mlp.ffn, hidden))]
    biases: list[tuple[str, tuple[int, ...]]] = []
    if mlp.bias:
        biases = [("up_bias", (up * mlp.ffn,)), ("down_bias", (hidden,))]
    return tuple(
        Weight(name=f"{part}.{name}", shape=(*front, *shape), part=part) for name, shape in (*out, *biases)
    )


def work(mlp: MLP, hidden: int, *, drops: tuple[Module, ...], name: str = "mlp") -> tuple[Operator, ...]:
    """Up projection, activation, down projection."""
    h = whole(hidden)
    up = 2.0 if mlp.gated else 1.0
    return (
        Product(name=f"{name}.up", tokens=Tokens.STREAM, n=split(mlp.ffn, up), k=h, drops=drops),
        Elementwise(
            name=f"{name}.activation", tokens=Tokens.STREAM, width=split(mlp.ffn), forward=(up, 1.0),
            backward=(up + 1.0, up), drops=drops,
        ),
        Product(name=f"{name}.down", tokens=Tokens.STREAM, n=h, k=split(mlp.ffn), drops=drops),
    )  # fmt: skip


def kept(mlp: MLP, *, drops: tuple[Module, ...], name: str = "mlp") -> tuple[Saved, ...]:
    """The halves of the activation, and its output as the input of the down projection.

    Operation by operation, the activated gate is kept as well, for its product with the other half.
    """
    up = 2.0 if mlp.gated else 1.0
    gate = Saved(name=f"{name}.gate", tokens=Tokens.STREAM, width=split(mlp.ffn), drops=drops, unfused=True)
    return (
        *((gate,) if mlp.gated else ()),
        Saved(name=f"{name}.halves", tokens=Tokens.STREAM, width=split(mlp.ffn, up), drops=drops),
        Saved(
            name=f"{name}.activation",
            tokens=Tokens.STREAM,
            width=split(mlp.ffn),
            element=Element.INPUT,
            drops=drops,
        ),
    )
