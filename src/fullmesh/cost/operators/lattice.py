"""Seconds as a piecewise power law: values on a regular grid of log2 coordinates, interpolated in the logarithm.

Multilinear interpolation of grid values that do not decrease along any axis does not decrease either, and where every
grid value respects a bound that is itself a power law (work over peak), so does everything between. Both are therefore
settled once, on the grid, and hold everywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# small enough that a block and its temporaries stay in the second-level cache
BLOCK = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogLattice:
    """A function of positive coordinates, one knot an octave along each axis.

    Parameters
    ----------
    first : tuple of int
        log2 of the first knot of each axis.
    log_s : float array, one axis a coordinate
        Natural logarithm of the seconds at the knots, at least two knots an axis.
    """

    first: tuple[int, ...]
    log_s: Floats

    def __call__(self, *coordinates: npt.ArrayLike) -> Floats:
        """Evaluate.

        Parameters
        ----------
        *coordinates : array_like
            Positive numbers, one argument an axis, broadcast against one another. Below the first knot the value of
            the first knot holds; beyond the last one seconds grow in proportion to the coordinate.

        Returns
        -------
        float array
            Seconds, in the common shape.
        """
        arrays = np.broadcast_arrays(*coordinates)
        shape = arrays[0].shape
        columns = [np.ravel(a) for a in arrays]
        out = np.empty(columns[0].size)
        for start in range(0, out.size, BLOCK):
            stop = min(start + BLOCK, out.size)
            out[start:stop] = self._block([c[start:stop] for c in columns])
        return out.reshape(shape)

    def _block(self, columns: list[Floats]) -> Floats:
        counts = self.log_s.shape
        strides = [math.prod(counts[axis + 1 :]) for axis in range(len(counts))]
        base = np.zeros(columns[0].size, dtype=np.intp)
        parts = []
        beyond = np.zeros(columns[0].size)
        for column, first, count, stride in zip(columns, self.first, counts, strides, strict=True):
            position = np.log2(np.maximum(column, 2.0**first)) - first
            inside = np.minimum(position, count - 1)
            if count - 1 < position.max(initial=0.0):
                beyond += (position - inside) * np.log(2.0)
            cell = np.minimum(inside.astype(np.intp), count - 2)
            parts.append(inside - cell)
            base += cell * stride
        flat = self.log_s.reshape(-1)
        values = [
            np.take(flat, base + sum(s for s, up in zip(strides, corner, strict=True) if up))
            for corner in itertools.product((False, True), repeat=len(counts))
        ]
        # corners come in pairs that differ along the last axis, so the last axis folds first
        for part in reversed(parts):
            values = [low + part * (high - low) for low, high in zip(values[::2], values[1::2], strict=True)]
        return np.asarray(np.exp(values[0] + beyond))


def never_decreasing(log_s: Floats) -> Floats:
    """The smallest grid above ``log_s`` that does not decrease along any axis."""
    for axis in range(log_s.ndim):
        log_s = np.maximum.accumulate(log_s, axis=axis)
    return log_s


def hat_weights(position: npt.ArrayLike, knots: Floats) -> Floats:
    """Weights of piecewise linear interpolation, clamped outside the knots.

    Parameters
    ----------
    position : array_like, shape (n,)
    knots : float array, shape (k,), increasing

    Returns
    -------
    float array, shape (n, k)
    """
    x = np.clip(np.asarray(position, dtype=np.float64), knots[0], knots[-1])
    cell = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    part = (x - knots[cell]) / (knots[cell + 1] - knots[cell])
    weights = np.zeros((x.size, len(knots)))
    rows = np.arange(x.size)
    weights[rows, cell] = 1.0 - part
    weights[rows, cell + 1] += part
    return weights
