"""Precision recipes: which dtype each product runs in, and what a parameter weighs in memory."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train in mixed precision.

    Parameters
    ----------
    name : str
    linear : str
        Dtype key of the dense and expert products (see ``Chip.matrix_flop_per_s``).
    kernel : str
        Dtype key of the operator profile (FP8 with block scales is another kernel than per-tensor FP8).
    saved_input_bytes : float
        Bytes an element of a product's saved input takes.
    dispatch_bytes : float
        Bytes an element takes when tokens are dispatched to experts.
    weight_copy_bytes : float
        Bytes an element of a weight takes in copies that are kept for the products beside its 16-bit values: one by
        rows, one by columns, with their scales.
    cast_bytes : float
        Memory traffic, per element of a product's input, of casting it (read, write, and the transposed copy).
    fallback : str
        What is used where a chip has no such dtype.
    """

    name: str
    linear: str
    kernel: str
    saved_input_bytes: float
    dispatch_bytes: float
    cast_bytes: float
    weight_copy_bytes: float = 0.0
    fallback: str = "bf16"


# Traffic of a cast: 2 bytes read, then the rowwise and the columnwise copy written; current scaling reads
# the tensor once more for its maximum. NVFP4 keeps 0.5 byte a value and one scale for 16 values.
RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(
            name="bf16",
            linear="bf16",
            kernel="bf16",
            saved_input_bytes=2.0,
            dispatch_bytes=2.0,
            cast_bytes=0.0,
        ),
        Recipe(
            name="fp16",
            linear="fp16",
            kernel="fp16",
            saved_input_bytes=2.0,
            dispatch_bytes=2.0,
            cast_bytes=0.0,
        ),
        Recipe(
            name="fp8",
            linear="fp8",
            kernel="fp8",
            saved_input_bytes=1.0,
            dispatch_bytes=2.0,
            cast_bytes=6.0,
            weight_copy_bytes=2.0,
        ),
        Recipe(
            name="fp8-block",
            linear="fp8",
            kernel="fp8_block",
            saved_input_bytes=1.0,
            dispatch_bytes=1.0,
            cast_bytes=4.0,
            weight_copy_bytes=2.0,
        ),
        Recipe(
            name="mxfp8",
            linear="fp8",
            kernel="mxfp8",
            saved_input_bytes=1.03,
            dispatch_bytes=2.0,
            cast_bytes=4.1,
            weight_copy_bytes=2.06,
            fallback="fp8",
        ),
        Recipe(
            name="nvfp4",
            linear="nvfp4",
            kernel="nvfp4",
            saved_input_bytes=0.6,
            dispatch_bytes=2.0,
            cast_bytes=5.2,
            weight_copy_bytes=1.125,
            fallback="mxfp8",
        ),
        Recipe(
            name="int8",
            linear="int8",
            kernel="int8",
            saved_input_bytes=1.0,
            dispatch_bytes=1.0,
            cast_bytes=4.0,
        ),
    )
}
