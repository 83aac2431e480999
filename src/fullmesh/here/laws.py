"""Laws of operators on the device at hand: a few numbers each, fitted to microbenchmarks; no PyTorch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.laws import Hardware, ProductFit, product_s

Floats = npt.NDArray[np.float64]

# log-units below which the residual of a point counts in full
_ROBUST_SCALE = 0.05
_DIGITS = 5


def _attention_terms(x: Floats) -> Floats:
    """Sizes are batch, positions, heads, head dimension."""
    batch, seq, heads, width = x
    rows = batch * heads * seq
    return np.array([np.ones_like(rows), rows * width, rows * seq, rows * seq * width])


def _embedding_terms(x: Floats) -> Floats:
    """Sizes are tokens, rows of the table, width; the gradient has the size of the table."""
    tokens, rows, width = x
    return np.array([np.ones_like(rows), tokens, tokens * width, rows * width])


_TERMS = {"attention": _attention_terms, "embedding": _embedding_terms}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Seconds of one phase of one operator as a function of its sizes.

    Parameters
    ----------
    operator : str
    phase : {"forward", "backward"}
    column : {"device", "host"}
        Seconds of the device, or of the host that queues the work.
    form : {"product", "terms", "curve", "constant"}
        ``product``: the product model of the operator profiles (launch, arithmetic and traffic). ``terms``: a sum of
        terms with coefficients of at least zero. ``curve``: through the measured points, in logarithms, against the
        product of the sizes; below the first point its value, beyond the last one in proportion. ``constant``: what
        the host takes to queue an operator, of whatever size.
    numbers : tuple of float
        Parameters of the form; for a curve sizes first, seconds after them.
    points : int
        Measured points that it was fitted on.
    residual : float
        Median of ``|fitted / measured - 1|`` over those points; zero for a curve, which passes through them.
    """

    operator: str
    phase: str
    column: str
    form: str
    numbers: tuple[float, ...]
    points: int
    residual: float

    def seconds(self, *sizes: npt.ArrayLike) -> Floats:
        """Evaluate; sizes are broadcast against one another."""
        x = np.array(np.broadcast_arrays(*(np.asarray(s, dtype=np.float64) for s in sizes)))
        if self.form == "product":
            return _product(np.array(self.numbers), x)
        if self.form == "terms":
            return np.tensordot(np.array(self.numbers), _TERMS[self.operator](x), axes=1)
        if self.form == "constant":
            return np.full(x.shape[1:], self.numbers[0])
        half = len(self.numbers) // 2
        knots, values = np.log(self.numbers[:half]), np.log(self.numbers[half:])
        at = np.log(np.maximum(np.prod(x, axis=0), 1.0))
        return np.asarray(np.exp(np.interp(at, knots, values) + np.maximum(0.0, at - knots[-1])))


def fit_law(
    operator: str, phase: str, column: str, sizes: Sequence[Sequence[float]], seconds: Sequence[float]
) -> Law:
    """Fit the law of an operator to measured points.

    Parameters
    ----------
    operator : str
    phase, column : str
    sizes : sequence of sequence of float
        One entry a point.
    seconds : sequence of float
        Measured, all positive.

    Returns
    -------
    Law
        The same points give the same numbers.
    """
    x, y = np.array(sizes, dtype=np.float64).T, np.array(seconds, dtype=np.float64)
    if column == "host":
        form, numbers = "constant", np.array([np.median(y)])
    elif operator == "linear":
        form, numbers = "product", _fit_product(x, y)
    elif operator in _TERMS:
        form, numbers = "terms", _fit_terms(_TERMS[operator](x), y)
    else:
        form, numbers = "curve", _fit_curve(np.prod(x, axis=0), y)
    law = Law(
        operator=operator,
        phase=phase,
        column=column,
        form=form,
        numbers=tuple(float(f"{v:.{_DIGITS}g}") for v in numbers),
        points=len(y),
        residual=0.0,
    )
    residual = float(np.median(np.abs(law.seconds(*x) / y - 1.0)))
    return dataclasses.replace(law, residual=round(residual, 4))


def _fit_curve(size: Floats, y: Floats) -> Floats:
    knots = np.unique(size)
    values = np.array([np.exp(np.mean(np.log(y[size == k]))) for k in knots])
    # more elements are never faster
    return np.concatenate([knots, np.maximum.accumulate(values)])


def _fit_terms(terms: Floats, y: Floats) -> Floats:
    """Non-negative least squares on relative errors, with weights that temper outliers."""
    from scipy.optimize import nnls

    design = (terms / y).T
    scale = np.maximum(design.max(axis=0), 1e-300)
    weight = np.ones(len(y))
    found = np.zeros(len(scale))
    for _ in range(5):
        found, _residual = nnls(design / scale * weight[:, None], weight)
        error = np.abs(design / scale @ found - 1.0)
        weight = 1.0 / np.sqrt(np.maximum(error / _ROBUST_SCALE, 1.0))
    return np.asarray(found / scale)


def _product(numbers: Floats, x: Floats) -> Floats:
    """``numbers``: launch, rate of arithmetic, rate of traffic, three pads."""
    launch, flop_per_s, bytes_per_s, pad_m, pad_n, pad_k = numbers
    fit = ProductFit(
        launch_s=float(launch),
        compute_share=1.0,
        memory_share=1.0,
        pad_m=float(pad_m),
        pad_n=float(pad_n),
        pad_k=float(pad_k),
        sharpness=2.0,
    )
    hardware = Hardware(flop_per_s=float(flop_per_s), hbm_bytes_per_s=float(bytes_per_s), element_bytes=2.0)
    return product_s(fit, hardware, *x)


def _fit_product(x: Floats, y: Floats) -> Floats:
    from scipy.optimize import least_squares

    flop, elements = 2.0 * np.prod(x, axis=0), x[0] * x[1] + x[1] * x[2] + x[0] * x[2]
    best = float(np.max(flop / y))
    first = np.log([0.1 * y.min(), best, 20.0 * float(np.max(elements / y)), 1.0, 1.0, 1.0])

    def residuals(p: Floats) -> Floats:
        # a weak pull to the start settles what the points leave open
        return np.concatenate([np.log(_product(np.exp(p), x) / y), 0.01 * (p - first)])

    found = least_squares(residuals, first, loss="soft_l1", f_scale=_ROBUST_SCALE)
    return np.asarray(np.exp(found.x))


def law_from_json(data: Mapping[str, Any]) -> Law:
    """Read back what ``dataclasses.asdict`` wrote."""
    return Law(**{**data, "numbers": tuple(float(v) for v in data["numbers"])})
