"""The physical part of the operator models, as functions of fitted parameters.

A kernel is the launch, then the slower of its arithmetic and its memory traffic. The two are joined by a p-norm, since
near the ridge a kernel hides one behind the other only in part. Fitted are the launch, the share of the peak and of
the memory bandwidth that is reached, and the sizes at which half of the efficiency is lost to short dimensions.

A smooth correction on few knots in the logarithms of the shape follows; it is fitted to what the physical part leaves.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.lattice import hat_weights

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a kernel's time scales with.

    Parameters
    ----------
    flop_per_s : float
        Dense peak in the dtype of the operands.
    hbm_bytes_per_s : float
        Datasheet bandwidth.
    element_bytes : float
        Bytes of one element of an operand, scales included.
    """

    flop_per_s: float
    hbm_bytes_per_s: float
    element_bytes: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Logarithm of measured over physical seconds: piecewise linear between knots, constant outside.

    Parameters
    ----------
    knots : tuple of float array
        log2 of the coordinates at the knots, one array an axis.
    log_ratio : float array, one axis a coordinate
    """

    knots: tuple[Floats, ...]
    log_ratio: Floats

    def on_grid(self, *log2_axes: Floats) -> Floats:
        """The correction at every point of the grid that the axes span."""
        value = self.log_ratio
        for axis, (position, knots) in enumerate(zip(log2_axes, self.knots, strict=True)):
            value = np.moveaxis(np.tensordot(hat_weights(position, knots), value, axes=(1, axis)), 0, axis)
        return value

    def at(self, *log2_coordinates: Floats) -> Floats:
        """The correction at points, one array of equal shape a coordinate."""
        cells, parts = [], []
        for position, knots in zip(log2_coordinates, self.knots, strict=True):
            x = np.clip(position, knots[0], knots[-1])
            cell = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
            cells.append(cell)
            parts.append((x - knots[cell]) / (knots[cell + 1] - knots[cell]))
        total = np.zeros(np.shape(log2_coordinates[0]))
        for corner in itertools.product((0, 1), repeat=len(cells)):
            weight = np.ones(total.shape)
            for part, up in zip(parts, corner, strict=True):
                weight = weight * (part if up else 1.0 - part)
            total += weight * self.log_ratio[tuple(c + up for c, up in zip(cells, corner, strict=True))]
        return total


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProductFit:
    """Fitted numbers of one matrix product kernel family.

    Parameters
    ----------
    launch_s : float
    compute_share, memory_share : float
        Of the peak and of the datasheet bandwidth, for large operands. Above one for the memory where operands
        stayed in the cache between repetitions of the measurement.
    pad_m, pad_n, pad_k : float
        Rows, columns and depth that are added to every product: tile filling and pipeline ramps.
    sharpness : float
        Exponent of the norm that joins arithmetic and memory traffic.
    """

    launch_s: float
    compute_share: float
    memory_share: float
    pad_m: float
    pad_n: float
    pad_k: float
    sharpness: float


def product_s(
    fit: ProductFit, hardware: Hardware, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike
) -> Floats:
    """Physical part of the seconds of one product ``[m, k] x [k, n]`` with a two-byte result."""
    m, n, k = (np.asarray(x, dtype=np.float64) for x in (m, n, k))
    compute = 2.0 * (m + fit.pad_m) * (n + fit.pad_n) * (k + fit.pad_k)
    compute = compute / (hardware.flop_per_s * fit.compute_share)
    moved = (m * k + n * k) * hardware.element_bytes + 2.0 * m * n
    memory = moved / (hardware.hbm_bytes_per_s * fit.memory_share)
    return np.asarray(fit.launch_s + _p_norm(compute, memory, fit.sharpness))


def _p_norm(a: Floats, b: Floats, p: float) -> Floats:
    larger = np.maximum(a, b)
    return np.asarray(larger * (1.0 + (np.minimum(a, b) / larger) ** p) ** (1.0 / p))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFit:
    """Fitted numbers of one flash attention kernel.

    Parameters
    ----------
    launch_s : float
    compute_share : float
    pad_rows, pad_length : float
        Query rows (batch x heads x positions) and key positions that are added: unfilled processors, ramps.
    traffic : float
        Multiple of the least memory traffic (queries, keys, values, result) at datasheet bandwidth that is added.
    """

    launch_s: float
    compute_share: float
    pad_rows: float
    pad_length: float
    traffic: float


# the tables that fits rest on have this head dimension; other ones are scaled to it
REFERENCE_HEAD_DIM = 128.0


def attention_core_s(
    fit: AttentionFit, hardware: Hardware, rows: npt.ArrayLike, length: npt.ArrayLike
) -> Floats:
    """Physical part of the seconds of causal attention of 128-wide heads, without the memory traffic.

    Parameters
    ----------
    fit : AttentionFit
    hardware : Hardware
    rows : array_like
        Query rows: batch x heads x positions.
    length : array_like
        Keys of the last position; a mean row attends to half of them.
    """
    rows, length = np.asarray(rows, dtype=np.float64), np.asarray(length, dtype=np.float64)
    flop = 2.0 * (rows + fit.pad_rows) * (length + fit.pad_length) * REFERENCE_HEAD_DIM
    return np.asarray(fit.launch_s + flop / (hardware.flop_per_s * fit.compute_share))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupedFit:
    """Fitted numbers of the grouped products of experts, and of the fused expert layer around them.

    Parameters
    ----------
    launch_s : float
        Of one grouped product.
    expert_s : float
        Added for every local expert.
    compute_share, memory_share : float
    pad_rows : float
        Rows added for every expert that has any: the last tile is not full.
    sharpness : float
    layer_s : float
        Routing, permutation and quantisation of one layer, apart from their memory traffic.
    concentration : float
        Exponent on the busiest rank's load over the mean load under a skewed routing distribution.
    layer_traffic : float
        Multiple of the memory traffic that permutation and activation have where nothing is fused.
    routing_traffic : float
        Passes over the rows of all devices, which some frameworks sort or reduce on every device.
    """

    launch_s: float
    expert_s: float
    compute_share: float
    memory_share: float
    pad_rows: float
    sharpness: float
    layer_s: float
    concentration: float
    layer_traffic: float
    routing_traffic: float


def grouped_core_s(
    fit: GroupedFit,
    hardware: Hardware,
    rows: npt.ArrayLike,
    experts: npt.ArrayLike,
    weights: npt.ArrayLike,
) -> Floats:
    """Physical part of the seconds of one grouped product, without the traffic of its activations.

    Parameters
    ----------
    fit : GroupedFit
    hardware : Hardware
    rows : array_like
        Rows over all experts.
    experts : array_like
        Experts on this device. Few rows reach only some of them.
    weights : array_like
        Elements of one expert's weight, ``n * k``.
    """
    rows, experts, weights = (np.asarray(x, dtype=np.float64) for x in (rows, experts, weights))
    active = -experts * np.expm1(-rows / experts)
    compute = 2.0 * (rows + active * fit.pad_rows) * weights / (hardware.flop_per_s * fit.compute_share)
    memory = active * weights * hardware.element_bytes / (hardware.hbm_bytes_per_s * fit.memory_share)
    return np.asarray(fit.launch_s + fit.expert_s * experts + _p_norm(compute, memory, fit.sharpness))
