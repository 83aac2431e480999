"""Fits of single operators: a robust least-squares fit of the physical part, then a penalised smooth correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.lattice import hat_weights
from fullmesh.cost.operators.laws import (
    AttentionFit,
    GroupedFit,
    Hardware,
    ProductFit,
    attention_core_s,
    grouped_core_s,
    product_s,
)
from fullmesh.cost.operators.routing import Load

Floats = npt.NDArray[np.float64]

# residuals beyond this (in the logarithm) count linearly: a slow framework version must not bend the fit
_ROBUST_SCALE = 0.1
# decimals of what is stored: far below the noise of a measurement, far above rounding differences between runs
_DIGITS = 5
_ROUNDS = 12
_STIFF = 300.0
# beyond this the p-norm is the larger of the two, and the fit would wander
_SHARPEST = {"sharpness_above_one": 9.0}


def fit_parameters(
    log_model: Callable[[Floats], Floats],
    target: Floats,
    start: Mapping[str, float],
    highest: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Fit positive parameters by robust least squares on their logarithms, held weakly at ``start``.

    Parameters
    ----------
    log_model : callable
        Logarithm of the seconds from the logarithms of the parameters, in the order of ``start``.
    target : float array
        Logarithm of the measured seconds.
    start : mapping of str to float
    highest : mapping of str to float, optional
        Upper bounds.
    """
    from scipy.optimize import least_squares

    first = np.log(np.array(list(start.values())))

    def residuals(x: Floats) -> Floats:
        return np.concatenate([log_model(x) - target, 0.01 * np.sqrt(len(target) / 1000.0) * (x - first)])

    upper = np.log([(highest or {}).get(name, np.inf) for name in start])
    found = least_squares(
        residuals, first, loss="soft_l1", f_scale=_ROBUST_SCALE, bounds=(np.full(len(first), -np.inf), upper)
    )
    values = np.exp(found.x)
    return {name: float(f"{v:.{_DIGITS}g}") for name, v in zip(start, values, strict=True)}


def roughness(counts: Sequence[int], weight: float) -> Any:
    """Sum over the axes of squared second differences, as a sparse matrix."""
    from scipy import sparse

    total = sparse.csr_matrix((int(np.prod(counts)),) * 2)
    for axis, count in enumerate(counts):
        if count < 3:
            continue
        second = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(count - 2, count))
        factors = [second if i == axis else sparse.identity(c) for i, c in enumerate(counts)]
        product = factors[0]
        for factor in factors[1:]:
            product = sparse.kron(product, factor)
        total = total + weight * (product.T @ product)
    return total + 1e-3 * sparse.identity(total.shape[0])


def weights_of(coordinates: Sequence[Floats], knots: Sequence[Floats]) -> Any:
    """Interpolation weights of every point on the knots of all axes, sparse, shape (n, knots)."""
    from scipy import sparse

    dense = hat_weights(coordinates[0], knots[0])
    for position, axis in zip(coordinates[1:], knots[1:], strict=True):
        dense = (dense[:, :, None] * hat_weights(position, axis)[:, None, :]).reshape(len(dense), -1)
    return sparse.csr_matrix(dense)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slopes:
    """Growth of the logarithm of the seconds from octave to octave, linear in the correction.

    Parameters
    ----------
    matrix : sparse matrix, shape (steps, knots)
        Growth of the correction.
    physical : float array, shape (steps,)
        Growth of the physical part.
    """

    matrix: Any
    physical: Floats


def slopes_on(knots: Sequence[Floats], physical: Callable[..., Floats]) -> Slopes:
    """The growth along every axis on the octave grid within the knots.

    Parameters
    ----------
    knots : sequence of float array
    physical : callable
        Seconds from the coordinates.
    """
    from scipy import sparse

    axes = [np.arange(np.ceil(k[0]), np.floor(k[-1]) + 1.0) for k in knots]
    grid = np.meshgrid(*axes, indexing="ij")
    log_s = np.log(physical(*(2.0**g for g in grid)))
    weights = weights_of([g.ravel() for g in grid], knots)
    index = np.arange(log_s.size).reshape(log_s.shape)
    steps, growth = [], []
    for axis in range(len(axes)):
        low = np.take(index, range(len(axes[axis]) - 1), axis=axis).ravel()
        high = np.take(index, range(1, len(axes[axis])), axis=axis).ravel()
        steps.append(weights[high] - weights[low])
        growth.append(log_s.ravel()[high] - log_s.ravel()[low])
    return Slopes(matrix=sparse.vstack(steps).tocsr(), physical=np.concatenate(growth))


def fit_correction(
    matrix: Any, target: Floats, counts: Sequence[int], smoothing: float, slopes: Slopes, start: Floats
) -> Floats:
    """Least absolute deviations, smoothed, without a shape that takes longer than a larger one.

    By a fixed number of reweighted least-squares rounds; a step that would fall is held at zero by a stiff penalty.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    penalty = roughness(counts, smoothing)
    values = start
    for _ in range(_ROUNDS):
        weight = 0.03 / np.maximum(np.abs(matrix @ values - target), 0.03)
        falls = slopes.matrix @ values + slopes.physical < 0.0
        held = slopes.matrix[falls]
        normal = matrix.T @ sparse.diags(weight) @ matrix + penalty + _STIFF * (held.T @ held)
        right = matrix.T @ (weight * target) - _STIFF * (held.T @ slopes.physical[falls])
        values = spsolve(normal.tocsc(), right)
    return values


def stored_correction(knots: Sequence[Floats], values: Floats) -> dict[str, Any]:
    """As the profile file keeps it."""
    return {
        "knots": [[float(f"{x:.6g}") for x in axis] for axis in knots],
        "log_ratio_thousandths": [round(float(v) * 1000.0) for v in values],
    }


def fit_product(
    m: Floats, n: Floats, k: Floats, seconds: Floats, hardware: Hardware, knots: Sequence[Floats]
) -> dict[str, Any]:
    """Fit one dtype of matrix products."""
    start = {
        "launch_s": 3e-6,
        "compute_share": 0.78,
        "memory_share": 0.8,
        "pad_m": 16.0,
        "pad_n": 16.0,
        "pad_k": 64.0,
        "sharpness_above_one": 1.0,
    }

    def model(x: Floats) -> Floats:
        return np.log(product_s(_product_fit(dict(zip(start, np.exp(x), strict=True))), hardware, m, n, k))

    target = np.log(seconds)
    fit = _product_fit(fit_parameters(model, target, start, {"compute_share": 1.0, **_SHARPEST}))
    matrix = weights_of([np.log2(m), np.log2(n), np.log2(k)], knots)
    rest = target - np.log(product_s(fit, hardware, m, n, k))
    slopes = slopes_on(knots, lambda *x: product_s(fit, hardware, *x))
    values = fit_correction(matrix, rest, [len(x) for x in knots], 0.05, slopes, np.zeros(matrix.shape[1]))
    return {"fit": _fields(fit), "correction": stored_correction(knots, values)}


def _product_fit(p: Mapping[str, float]) -> ProductFit:
    return ProductFit(
        launch_s=p["launch_s"],
        compute_share=p["compute_share"],
        memory_share=p["memory_share"],
        pad_m=p["pad_m"],
        pad_n=p["pad_n"],
        pad_k=p["pad_k"],
        sharpness=1.0 + p["sharpness_above_one"],
    )


def fit_attention(
    rows: Floats,
    length: Floats,
    moved_bytes: Floats,
    seconds: Floats,
    hardware: Hardware,
    knots: Sequence[Floats],
) -> dict[str, Any]:
    """Fit one causal attention kernel."""
    start = {
        "launch_s": 1e-5,
        "compute_share": 0.6,
        "pad_rows": 10000.0,
        "pad_length": 100.0,
        "traffic": 1.0,
    }

    def model(x: Floats) -> Floats:
        fit = AttentionFit(**dict(zip(start, np.exp(x), strict=True)))
        traffic = fit.traffic * moved_bytes / hardware.hbm_bytes_per_s
        return np.log(attention_core_s(fit, hardware, rows, length) + traffic)

    fit = AttentionFit(**fit_parameters(model, np.log(seconds), start))
    core = np.maximum(seconds - fit.traffic * moved_bytes / hardware.hbm_bytes_per_s, 0.3 * seconds)
    rest = np.log(core) - np.log(attention_core_s(fit, hardware, rows, length))
    matrix = weights_of([np.log2(rows), np.log2(length)], knots)
    slopes = slopes_on(knots, lambda *x: attention_core_s(fit, hardware, *x))
    values = fit_correction(matrix, rest, [len(x) for x in knots], 0.05, slopes, np.zeros(matrix.shape[1]))
    return {"fit": _fields(fit), "correction": stored_correction(knots, values)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Timings of whole expert layers, one entry each; all arrays of one shape.

    Attributes
    ----------
    load : Load
        Rows of the experts of the fullest device.
    alpha : float array
        Exponent of the distribution of tokens over experts.
    tokens, ep, hidden, inter : float array
        Tokens of a device, devices that share the experts, sizes of the layer.
    seconds : float array
        As measured.
    """

    load: Load
    alpha: Floats
    tokens: Floats
    ep: Floats
    hidden: Floats
    inter: Floats
    seconds: Floats

    @property
    def up(self) -> Floats:
        """Weights of an expert's first product, gate and up together."""
        return 2.0 * self.hidden * self.inter

    @property
    def down(self) -> Floats:
        """Weights of its second product."""
        return self.hidden * self.inter


def _layer_parts(
    layers: Layers, fit: GroupedFit, hardware: Hardware
) -> tuple[Floats, Floats, Floats, Floats]:
    """Rows of the fullest expert, and seconds of what surrounds the two products and of each of these."""
    load, hidden, inter = layers.load, layers.hidden, layers.inter
    rows = load.mean_rows * load.skew**fit.concentration
    rate = hardware.hbm_bytes_per_s * fit.memory_share
    # activations of both products, permutation and gate, rows of other devices
    elements = rows * ((hidden + 2.0 * inter) + (hidden + inter))
    elements = elements + fit.layer_traffic * rows * (4.0 * hidden + 3.0 * inter)
    elements = elements + fit.routing_traffic * load.mean_rows * layers.ep * hidden
    fixed = fit.layer_s + 2.0 * elements / rate
    return (
        rows,
        fixed,
        grouped_core_s(fit, hardware, rows, load.experts, layers.up),
        grouped_core_s(fit, hardware, rows, load.experts, layers.down),
    )


def _fit_layer_parameters(layers: Layers, hardware: Hardware, ceiling: float) -> GroupedFit:
    """The physical part of `fit_grouped`."""
    start = {
        "launch_s": 1e-5,
        "expert_s": 1e-7,
        "compute_share": 0.6,
        "memory_share": 0.8,
        "pad_rows": 32.0,
        "sharpness_above_one": 1.0,
        "layer_s": 1e-5,
        "concentration": 1.0,
        "layer_traffic": 0.5,
        "routing_traffic": 0.1,
    }

    def model(x: Floats) -> Floats:
        fit = _grouped_fit(dict(zip(start, np.exp(x), strict=True)))
        _, fixed, first, second = _layer_parts(layers, fit, hardware)
        return np.asarray(np.log(fixed + first + second))

    # more than a dense product reaches, or than the datasheet bandwidth, would be made up for elsewhere
    bounds = {"compute_share": ceiling, "memory_share": 1.0, "layer_traffic": 1.0, **_SHARPEST}
    start["compute_share"] = min(start["compute_share"], 0.9 * ceiling)
    return _grouped_fit(fit_parameters(model, np.log(layers.seconds), start, bounds))


def fit_grouped(
    layers: Layers, hardware: Hardware, ceiling: float, knots: Sequence[Floats], layer_knots: Sequence[Floats]
) -> dict[str, Any]:
    """Fit grouped products to timings of whole expert layers.

    The layer is the sum that ``moe_layer_s`` composes. One correction belongs to its two grouped products alone; what
    that leaves, by tokens, devices, size and distribution, is a correction of the layer.

    Parameters
    ----------
    ceiling : float
        Share of the peak that a large dense product reaches.
    knots, layer_knots : sequence of float arrays
        Knots of the two corrections: of rows, experts and weights; of tokens, devices, weights and alpha.
    """
    from scipy import sparse

    seconds, up, down = layers.seconds, layers.up, layers.down
    fit = _fit_layer_parameters(layers, hardware, ceiling)
    rows, fixed, first, second = _layer_parts(layers, fit, hardware)
    at_up = weights_of([np.log2(rows), np.log2(layers.load.experts), np.log2(up)], knots)
    at_down = weights_of([np.log2(rows), np.log2(layers.load.experts), np.log2(down)], knots)
    values = np.zeros(at_up.shape[1])
    slopes = slopes_on(knots, lambda *x: grouped_core_s(fit, hardware, *x))
    # the layer is a sum of corrected terms: linearise, solve, repeat
    for _ in range(4):
        a, b = first * np.exp(at_up @ values), second * np.exp(at_down @ values)
        total = fixed + a + b
        slope = sparse.diags(a / total) @ at_up + sparse.diags(b / total) @ at_down
        target = np.log(seconds) - np.log(total) + slope @ values
        values = fit_correction(slope, target, [len(x) for x in knots], 0.03, slopes, values)
    best = hardware.flop_per_s * ceiling
    total = fixed + np.maximum(first * np.exp(at_up @ values), 2.0 * rows * up / best)
    total += np.maximum(second * np.exp(at_down @ values), 2.0 * rows * down / best)
    around = weights_of(
        [np.log2(layers.tokens), np.log2(layers.ep), np.log2(down), layers.alpha], layer_knots
    )
    free = Slopes(matrix=sparse.csr_matrix((0, around.shape[1])), physical=np.zeros(0))
    rest, sizes = np.log(seconds) - np.log(total), [len(x) for x in layer_knots]
    layer = fit_correction(around, rest, sizes, 0.03, free, np.zeros(around.shape[1]))
    return {
        "fit": _fields(fit),
        "correction": stored_correction(knots, values),
        "layer": stored_correction(layer_knots, layer),
        "ceiling": ceiling,
    }


def _grouped_fit(p: Mapping[str, float]) -> GroupedFit:
    rest = {name: p[name] for name in GroupedFit.__slots__ if name != "sharpness"}
    return GroupedFit(**rest, sharpness=1.0 + p["sharpness_above_one"])


def _fields(fit: ProductFit | AttentionFit | GroupedFit) -> dict[str, float]:
    return {name: float(f"{getattr(fit, name):.{_DIGITS + 1}g}") for name in type(fit).__slots__}
