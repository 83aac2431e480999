"""The two ends of a model: embedding, head with its loss, and the projection in front of a prediction module."""

from __future__ import annotations

from fullmesh.workload.ops import FP32_BYTES, Block, Elementwise, Product, Tokens, split, whole


def embedding(hidden: int) -> Block:
    """Look-up of the embedding and the scattered gradient."""
    look_up = Elementwise(
        name="embedding", tokens=Tokens.STREAM, width=whole(hidden), forward=(1.0, 1.0), backward=(2.0, 2.0),
        kernels=2.0,
    )  # fmt: skip
    return Block(operators=(look_up,), hidden=hidden, recomputed=False)


def head(hidden: int, vocab: int) -> Block:
    """Final norm, logits and cross-entropy over a vocabulary that a tensor-parallel group shares out.

    The head stays in 16 bits in every recipe.
    """
    return Block(
        operators=(
            Elementwise(
                name="head.norm", tokens=Tokens.LOCAL, width=whole(hidden), forward=(1.0, 1.0), backward=(2.0, 1.0)
            ),
            Product(name="head", tokens=Tokens.STREAM, n=split(vocab), k=whole(hidden), wide=True),
            # logits are read for the maximum, the sum and the loss, in FP32; the gradient overwrites them
            Elementwise(
                name="head.loss", tokens=Tokens.STREAM, width=split(vocab), forward=(3.0, 0.0), backward=(1.0, 1.0),
                element_bytes=FP32_BYTES, kernels=4.0,
            ),
        ),
        hidden=hidden,
        vocabulary=True,
        recomputed=False,
    )  # fmt: skip


def prediction_projection(hidden: int) -> Block:
    """State and next embedding, side by side, to the hidden size (multi-token prediction)."""
    return Block(
        operators=(
            Product(
                name="prediction.projection", tokens=Tokens.LOCAL, n=whole(hidden), k=whole(2.0 * hidden)
            ),
        ),
        hidden=hidden,
    )
