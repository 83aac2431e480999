"""Seconds of single operators on one device: pure functions over columns, the same for one shape and for a million.

All of them are weakly increasing in every extent, never faster than the peak of the chip's matrix units, and defined
outside the measured range: below it the smallest measured extent holds, above it time grows in proportion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.lattice import Floats
from fullmesh.cost.operators.laws import REFERENCE_HEAD_DIM
from fullmesh.cost.operators.profile import OperatorProfile, head_dim_share, load_profile
from fullmesh.cost.operators.routing import routed

__all__ = [
    "OperatorProfile",
    "attention_s",
    "gemm_s",
    "grouped_gemm_s",
    "load_profile",
    "memory_bound_s",
    "moe_layer_s",
]

_RESULT_BYTES = 2.0


def gemm_s(
    profile: OperatorProfile, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, dtype: str
) -> Floats:
    """Seconds of one matrix product kernel ``[m, k] x [k, n]``.

    Parameters
    ----------
    profile : OperatorProfile
    m, n, k : array_like
        Rows, columns, depth; broadcast.
    dtype : str
        Of the operands: ``bf16``, ``fp16``, ``fp8`` (one scale a tensor), ``fp8_block`` (128-wide blocks),
        ``mxfp8``, ``nvfp4``, ``int8``, ``fp32`` (TF32 on NVIDIA).

    Returns
    -------
    float array

    Raises
    ------
    PlanError
        The chip has no matrix unit for ``dtype``.

    Notes
    -----
    The larger of arithmetic and memory traffic (p-norm) plus launch, with fitted shares of peak and bandwidth and a
    smooth fitted correction. Wave quantisation has no term of its own: in the measured tables, where the fastest of
    three frameworks counts, it explains at most a quarter of what whole waves would lose. Products in ``fp8_block``
    and ``nvfp4`` with fewer columns or less depth than a block of scales leave the tuned kernel and take longer: there,
    and only there, a larger product can be the faster one.
    """
    product = profile.product(dtype)
    seconds = product.lattice(m, n, k)
    if product.small is not None:
        below = np.broadcast_to(np.minimum(n, k) < product.block, seconds.shape)
        if below.any():
            m, n, k = (np.broadcast_to(x, seconds.shape)[below] for x in (m, n, k))
            seconds[below] = np.maximum(product.small(m, n, k), seconds[below])
    return seconds


def grouped_gemm_s(
    profile: OperatorProfile,
    tokens: npt.ArrayLike,
    n: npt.ArrayLike,
    k: npt.ArrayLike,
    num_experts: npt.ArrayLike,
    dtype: str,
    skew: npt.ArrayLike = 1.0,
) -> Floats:
    """Seconds of one grouped product: every row meets the weight ``[k, n]`` of its own expert.

    Parameters
    ----------
    profile : OperatorProfile
    tokens : array_like
        Rows over all local experts.
    n, k : array_like
    num_experts : array_like
        Experts on this device.
    dtype : str
    skew : array_like
        Rows of the busiest device over the mean: the others wait for it.

    Returns
    -------
    float array

    Raises
    ------
    PlanError
        The chip has no matrix unit for ``dtype``.
    """
    grouped = profile.grouped(dtype)
    rows = np.asarray(tokens, dtype=np.float64) * np.asarray(skew, dtype=np.float64)
    columns, depth = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    activation_bytes = rows * (columns + depth) * _RESULT_BYTES
    products = grouped.lattice(rows, num_experts, columns * depth)
    return np.asarray(products + activation_bytes * grouped.s_per_byte)


def moe_layer_s(
    profile: OperatorProfile,
    num_tokens: npt.ArrayLike,
    hidden_size: npt.ArrayLike,
    inter_size: npt.ArrayLike,
    topk: npt.ArrayLike,
    num_experts: npt.ArrayLike,
    ep_size: npt.ArrayLike,
    dtype: str,
    *,
    distribution: str = "balanced",
) -> Floats:
    """Seconds of a fused expert layer on the busiest of ``ep_size`` devices, without communication.

    Routing and permutation, the grouped gate-and-up product ``[hidden, 2 inter]``, the gated activation, the grouped
    down product ``[inter, hidden]``, and the weighted sum over the experts of a token.

    Parameters
    ----------
    profile : OperatorProfile
    num_tokens : array_like
        Tokens that all devices together route; each goes to ``topk`` of ``num_experts`` experts.
    hidden_size, inter_size, topk, num_experts, ep_size : array_like
    dtype : str
    distribution : str
        ``balanced``, or ``power_law_A``: expert loads drawn from a power law of exponent A.

    Returns
    -------
    float array

    Raises
    ------
    PlanError
        The dtype or the distribution is unknown.

    Notes
    -----
    A last smooth correction, by tokens, devices, size and distribution, covers what the frameworks do around the
    products. Unlike the products themselves it is not forced to grow with every extent.
    """
    grouped = profile.grouped(dtype)
    load = routed(num_tokens, topk, num_experts, ep_size, distribution)
    rows = load.mean_rows * load.skew**grouped.concentration
    hidden, inter, tokens, ep = (
        np.asarray(x, dtype=np.float64) for x in (hidden_size, inter_size, num_tokens, ep_size)
    )
    # read and write rows twice to permute them, read two halves and write one for the gated activation
    elements = grouped.layer_traffic * rows * (4.0 * hidden + 3.0 * inter)
    elements = elements + grouped.routing_traffic * load.mean_rows * ep * hidden
    around = grouped.layer_s + elements * _RESULT_BYTES * grouped.s_per_byte
    products = grouped_gemm_s(profile, rows, 2.0 * inter, hidden, load.experts, dtype)
    products = products + grouped_gemm_s(profile, rows, hidden, inter, load.experts, dtype)
    if grouped.layer is None:
        return np.asarray(around + products)
    shape = np.broadcast_arrays(np.log2(tokens), np.log2(ep), np.log2(hidden * inter), np.float64(load.alpha))
    return np.asarray((around + products) * np.exp(grouped.layer.at(*shape)))


def attention_s(
    profile: OperatorProfile,
    batch: npt.ArrayLike,
    seq_q: npt.ArrayLike,
    seq_kv: npt.ArrayLike,
    num_heads: npt.ArrayLike,
    num_kv_heads: npt.ArrayLike,
    qk_dim: float,
    v_dim: float,
    *,
    causal: bool,
    window: float | None = None,
    backward: bool = False,
    dtype: str = "",
    kernel: str = "",
) -> Floats:
    """Seconds of flash attention.

    Parameters
    ----------
    profile : OperatorProfile
    batch, seq_q, seq_kv, num_heads, num_kv_heads : array_like
        ``seq_q`` positions attend to ``seq_kv``. Where a causal sequence is split over devices the split is taken to
        be even (zig-zag), so that a mean query sees half of ``seq_kv``.
    qk_dim, v_dim : float
        Head dimension of queries and keys, and of values.
    causal : bool
    window : float, optional
        Positions that a query sees at most.
    backward : bool
        The backward pass instead of the forward pass.
    dtype : str
        ``bf16`` or ``fp16``; if empty, ``bf16`` where the chip has it.
    kernel : str
        A measured kernel by name; the profile's usual one if empty.

    Returns
    -------
    float array

    Raises
    ------
    PlanError
        The chip has no matrix unit for ``dtype``, or the kernel is unknown.
    """
    dtype = dtype or ("bf16" if "bf16" in profile.chip.matrix_flop_per_s else "fp16")
    kernel_fit = profile.attention(dtype, kernel)
    shape = profile.attention_shape
    batch, seq_q, seq_kv, num_heads, num_kv_heads = (
        np.asarray(x, dtype=np.float64) for x in (batch, seq_q, seq_kv, num_heads, num_kv_heads)
    )
    reach = seq_kv if window is None else np.minimum(seq_kv, window)
    if causal:
        # the length of a full causal mask with as many pairs: the first positions see less than the window
        length = reach * (2.0 - reach / np.maximum(seq_kv, 1.0))
        rows = batch * num_heads * seq_q
    else:
        # as much work as a causal mask of that length twice, less the tiles which that mask leaves half empty
        length = reach
        rows = 2.0 * batch * num_heads * seq_q * reach / (reach + shape.mask_waste)
    width = (qk_dim + v_dim) / 2.0
    rows = rows * (width / REFERENCE_HEAD_DIM) / head_dim_share(shape, width)
    passes = 1.0
    if backward:
        rows = rows * shape.backward_flop / shape.backward_share
        # reads what the forward pass moved and the gradient of the result, writes three gradients
        passes = 2.5
    heads = num_heads * seq_q + num_kv_heads * seq_kv
    moved = batch * heads * (qk_dim + v_dim) * _RESULT_BYTES
    flop = 2.0 * batch * num_heads * seq_q * (length / 2.0 if causal else reach) * (qk_dim + v_dim)
    peak = profile.chip.matrix_flop_per_s[dtype]
    at_peak = flop * (shape.backward_flop if backward else 1.0) / peak
    seconds = kernel_fit.lattice(rows, length) + passes * moved * kernel_fit.s_per_byte
    return np.asarray(np.maximum(seconds, at_peak))


def memory_bound_s(profile: OperatorProfile, num_bytes: npt.ArrayLike) -> Floats:
    """Seconds of an elementwise or normalisation kernel.

    Parameters
    ----------
    profile : OperatorProfile
    num_bytes : array_like
        Bytes read and written; none takes no time.

    Returns
    -------
    float array
    """
    moved = np.asarray(num_bytes, dtype=np.float64)
    rate = profile.chip.hbm_bytes_per_s * profile.memory.bandwidth_share
    return np.where(moved > 0.0, profile.memory.launch_s + moved / rate, 0.0)
