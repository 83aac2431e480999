"""Norm and residual of half a layer."""

from __future__ import annotations

from typing import Literal

from fullmesh.workload.ops import Element, Elementwise, Saved, Tokens, Weight, whole

# A norm with a scale, with scale and bias, and with neither.
Norm = Literal["rmsnorm", "layernorm", "plain"]
NORM_VECTORS: dict[Norm, int] = {"rmsnorm": 1, "layernorm": 2, "plain": 0}


def norm_weights(hidden: int, norm: Norm, *, sandwich: bool) -> tuple[Weight, ...]:
    """Scales, and biases of a layer norm; a sandwich has a second norm behind the part."""
    if norm == "plain":
        return ()
    shape = (2, hidden) if norm == "layernorm" else (hidden,)
    names = ("norm", "norm_behind") if sandwich else ("norm",)
    return tuple(Weight(name=name, shape=shape, part="norms") for name in names)


def norm_operator(hidden: int, *, sandwich: bool) -> Elementwise:
    """Norm and residual: the norm reads and writes, the residual reads two tensors and writes one.

    Backward reads input, gradient and the residual's gradient.
    """
    copies = 2.0 if sandwich else 1.0
    return Elementwise(
        name="norm", tokens=Tokens.LOCAL, width=whole(hidden), forward=(copies + 2.0, copies + 1.0),
        backward=(2.0 * copies + 1.0, copies + 1.0), kernels=1.0 + copies, drops=("layernorm",),
    )  # fmt: skip


def norm_saved(hidden: int) -> tuple[Saved, ...]:
    """The residual as the norm's input, and the norm's output as the input of the first product."""
    return (
        Saved(name="residual", tokens=Tokens.LOCAL, width=whole(hidden)),
        Saved(
            name="norm.output",
            tokens=Tokens.LOCAL,
            width=whole(hidden),
            element=Element.INPUT,
            drops=("layernorm",),
        ),
    )
