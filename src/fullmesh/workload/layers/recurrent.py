"""What layers with a chunked scan share: a short convolution before it, a gated norm behind it, a state a chunk."""

from __future__ import annotations

from fullmesh.workload.ops import (
    Element,
    Elementwise,
    Operator,
    Product,
    Saved,
    Scan,
    Tokens,
    Width,
    whole,
)


def around_scan(
    scan: Scan, hidden: int, *, entered: Width, convolved: Width, left: Width
) -> tuple[Operator, ...]:
    """The operators of a mixer, in order.

    Parameters
    ----------
    scan : Scan
        Named ``"<mixer>.scan"``; the others are named after the same mixer.
    hidden : int
    entered, convolved, left : Width
        What the first product makes of a token, what of it is convolved, and what the scan leaves.
    """
    mixer = scan.name.partition(".")[0]
    return (
        Product(name=f"{mixer}.in", tokens=Tokens.STREAM, n=entered, k=whole(hidden)),
        Elementwise(
            name=f"{mixer}.conv", tokens=Tokens.STREAM, width=convolved, forward=(1.0, 1.0), backward=(2.0, 1.0),
            kernels=2.0,
        ),
        scan,
        Elementwise(
            name=f"{mixer}.gated_norm", tokens=Tokens.STREAM, width=left, forward=(3.0, 1.0), backward=(4.0, 2.0),
            kernels=2.0,
        ),
        Product(name=f"{mixer}.out", tokens=Tokens.STREAM, n=whole(hidden), k=left),
    )  # fmt: skip


def saved_by_scan(mixer: str, *, stream: Width, states: Width) -> tuple[Saved, ...]:
    """What the backward passes of a mixer need: elements a token, and those of the states, spread over a chunk."""
    return (
        Saved(name=f"{mixer}.stream", tokens=Tokens.STREAM, width=stream),
        Saved(name=f"{mixer}.states", tokens=Tokens.STREAM, width=states, element=Element.FP32),
    )
