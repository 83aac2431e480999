"""Error bars from the predictive distribution, made to hold what they promise on results that were left out.

The logarithm of a published step time lies around the predicted one with the variance of the effects (publishers and
stacks never seen included) and that of the noise. Residuals of held-out results in units of that deviation decide how
many of them an interval spans.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.effects.fit import StepProblem
from fullmesh.cost.effects import EffectProfile
from fullmesh.cost.uncertainty import Uncertainty
from fullmesh.evidence.cases import CaseTable
from fullmesh.outcomes.intervals import NORMAL

Floats = npt.NDArray[np.float64]

# Share of published results that an interval should hold.
COVERAGE = 0.8
LARGEST_NOISE = 0.5
# Levels at which the errors of left-out peaks of memory are kept; beyond them nothing is known.
MEMORY_LEVELS = np.round(np.arange(0.05, 0.96, 0.05), 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What a fit without some cases says of them: residuals log(published / predicted), and their variance.

    ``kind`` and ``group`` say what was left out: a fold of configurations, or a publisher.
    """

    cases: npt.NDArray[np.int64]
    residual: Floats
    variance: Floats
    kind: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntervalFit:
    """How wide intervals are.

    Parameters
    ----------
    noise : float
        Deviation of the logarithm of a step time around its prediction that no effect explains.
    low, high : float
        Ends of the interval, in deviations.
    rows : int
        Held-out results that decided them.
    unseen : float
        Deviation of results of publishers that were left out, all causes together.
    within_setting : float
        What 80 % of the predicted ratios of two published plans of one setting are off by at most, as a logarithm;
        None without such plans.
    coverage : dict
        Results and share of them inside intervals that were made without them, by what was left out.
    """

    noise: float
    low: float
    high: float
    rows: int
    unseen: float
    within_setting: float | None
    coverage: dict[str, tuple[int, float]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """How far published peaks of memory lie from predictions made without their publishers.

    Parameters
    ----------
    levels, quantiles : tuple of float
        Logarithms of published over predicted peaks at some levels; every publisher counts the same.
    rows, publishers : int
    coverage : float or None
        Share of the peaks inside 80 % intervals made without their publishers; None of a single publisher.
    """

    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    rows: int
    publishers: int
    coverage: float | None


def fit_memory_intervals(residuals: Mapping[str, Floats]) -> MemoryFit | None:
    """Intervals of peaks from logarithms of published over predicted ones, by the publisher left out; None of none."""
    known = {who: r for who, r in residuals.items() if len(r)}
    if not known:
        return None

    def quantiles(levels: Floats, without: str = "") -> Floats:
        kept = [r for who, r in known.items() if who != without]
        weights = np.concatenate([np.full(len(r), 1.0 / len(r)) for r in kept])
        return np.array([_quantile(np.concatenate(kept), weights, level) for level in levels])

    edge = (1.0 - COVERAGE) / 2.0
    inside: list[bool] = []
    for who, r in known.items() if len(known) > 1 else ():
        low, high = quantiles(np.array([edge, 1.0 - edge]), without=who)
        inside += ((r >= low) & (r <= high)).tolist()
    return MemoryFit(
        levels=tuple(MEMORY_LEVELS.tolist()),
        quantiles=tuple(np.round(quantiles(MEMORY_LEVELS), 4).tolist()),
        rows=sum(map(len, known.values())),
        publishers=len(known),
        coverage=round(float(np.mean(inside)), 4) if inside else None,
    )


def uncertainty_of(problem: StepProblem, effects: Floats) -> Uncertainty:
    """Covariance of fitted effects in compact form."""
    r, j = problem.residuals(effects), problem.jacobian(effects)
    precision = j.T @ (j / np.sqrt(1.0 + r * r)[:, None])
    return Uncertainty.of(problem.design.names, problem.design.prior_sd, precision)


def predict_held_out(
    table: CaseTable,
    profile: EffectProfile,
    problem: StepProblem,
    published_s: Floats,
    held: npt.NDArray[np.bool_],
) -> HeldOut:
    """Residuals and variances of the cases that a fit has not seen."""
    effects = np.array([profile.effects.get(n, 0.0) for n in problem.design.names])
    # an effect that only held-out cases have is as uncertain as before any result
    u = uncertainty_of(problem, effects)
    variance = table.log_variances(profile, u)
    residual = np.log(published_s / table.step_times(profile).step_s)
    at = np.flatnonzero(held)
    return HeldOut(cases=at, residual=residual[at], variance=variance[at])


def fit_intervals(table: CaseTable, pieces: Sequence[HeldOut]) -> IntervalFit:
    """Noise and ends of the intervals, with the coverage of intervals made without the piece that they are held to."""
    made = _ends(pieces)
    inside: dict[str, list[bool]] = {}
    for piece in pieces:
        noise, low, high = _ends([p for p in pieces if p is not piece])
        z = piece.residual / np.sqrt(piece.variance + noise**2)
        holds = (z >= low) & (z <= high)
        prefix = "" if piece.kind == "configuration" else "unseen publishers: "
        for case, ok in zip(piece.cases, holds, strict=True):
            groups = ["all", table.cases[case].machine.chip.family]
            if piece.kind == "publisher":
                groups.append(piece.group)
            for group in groups:
                inside.setdefault(prefix + group, []).append(bool(ok))
    return IntervalFit(
        noise=round(made[0], 4),
        low=round(made[1], 4),
        high=round(made[2], 4),
        rows=sum(len(p.cases) for p in pieces if p.kind == "configuration"),
        unseen=round(_unseen(pieces), 4),
        within_setting=_within_setting(table, pieces),
        coverage={k: (len(v), round(float(np.mean(v)), 4)) for k, v in sorted(inside.items())},
    )


def _ends(pieces: Sequence[HeldOut]) -> tuple[float, float, float]:
    """Noise, so that configurations left out scatter as a normal distribution does; then both ends.

    An end lies as far out as configurations left out need, or publishers left out where those need more: the promise
    holds for both.
    """
    seen = [p for p in pieces if p.kind == "configuration"]
    residual = np.concatenate([p.residual for p in seen])
    variance = np.concatenate([p.variance for p in seen])
    low, high = 0.0, LARGEST_NOISE
    for _ in range(50):
        middle = 0.5 * (low + high)
        share = float(np.mean(np.abs(residual) <= NORMAL * np.sqrt(variance + middle**2)))
        low, high = (middle, high) if share < COVERAGE else (low, middle)
    edge = (1.0 - COVERAGE) / 2.0
    ends = []
    for kind in dict.fromkeys(p.kind for p in pieces):
        z = np.concatenate([p.residual / np.sqrt(p.variance + high**2) for p in pieces if p.kind == kind])
        ends.append([_quantile(z, np.ones(len(z)), level) for level in (edge, 1.0 - edge)])
    lows, highs = zip(*ends, strict=True)
    return high, min(lows), max(highs)


def _unseen(pieces: Sequence[HeldOut]) -> float:
    """Deviation of a normal distribution as wide as the residuals of publishers left out."""
    residual = np.concatenate([p.residual for p in pieces if p.kind == "publisher"])
    return float(np.quantile(np.abs(residual), COVERAGE)) / NORMAL


def _within_setting(table: CaseTable, pieces: Sequence[HeldOut]) -> float | None:
    """How far predicted ratios of plans of one setting are off: machine, model, batch and software are the same."""
    settings: dict[tuple[object, ...], list[tuple[object, float]]] = {}
    for piece in pieces:
        if piece.kind != "configuration":
            continue
        for case, residual in zip(piece.cases, piece.residual, strict=True):
            c = table.cases[case]
            key = (
                c.machine.id, c.machine.num_devices, c.model, c.plan.gbs, c.plan.seq, c.plan.precision, c.plan.stack,
                c.row.publisher,
            )  # fmt: skip
            settings.setdefault(key, []).append((c.plan, float(residual)))
    off = [
        abs(a - b)
        for members in settings.values()
        for i, (plan, a) in enumerate(members)
        for other, b in members[:i]
        if plan != other
    ]
    return round(float(np.quantile(off, COVERAGE)), 4) if off else None


def _quantile(values: Floats, weights: Floats, level: float) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(share, level)])
