"""Measured curves of collectives and expert exchanges: a compact fit of each, and the points it is held against.

One curve is one library on one machine with one number of ranks, over message sizes:
``seconds = a + bytes / b + c * bytes ** q``: a floor, a wire, and the slow approach between them. The four numbers of
each curve are fitted to measured points by `fullmesh calibrate collectives` and lie in the collective profile; ranks
in between are interpolated.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import math

import numpy as np

from fullmesh.cost.collectives.constants import read_profile
from fullmesh.data import DATA_DIR
from fullmesh.errors import ResultsError
from fullmesh.network.wiring.links import FloatArray

POINTS = DATA_DIR / "results" / "points" / "times.csv"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured time.

    Attributes
    ----------
    machine : str
        Machine id.
    family, kind : str
        Library (``nccl``, ``hccl``, ``deepep`` ...) and what was run, with its variant.
    ranks : int
    num_bytes : float
        Buffer of the collective; for an expert exchange bytes that one rank sends, tokens counted once per expert.
    seconds : float
    fitted : bool
        Whether the curve has seen this point.
    source : str
    """

    machine: str
    family: str
    kind: str
    ranks: int
    num_bytes: float
    seconds: float
    fitted: bool
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """``seconds = floor_s + bytes / bytes_per_s + slope * bytes ** power``, fitted between the two sizes."""

    machine: str
    family: str
    kind: str
    ranks: int
    floor_s: float
    bytes_per_s: float
    slope: float
    power: float
    low_bytes: float
    high_bytes: float
    num_points: int
    median_error: float

    def seconds(self, num_bytes: float | FloatArray) -> FloatArray:
        """Time of a message; rises with its size everywhere, and beyond the measured sizes at the wire's rate."""
        size = np.asarray(num_bytes, float)
        return np.asarray(self.floor_s + size / self.bytes_per_s + self.slope * size**self.power)


@functools.cache
def curves() -> tuple[Curve, ...]:
    """All fitted curves of the shipped profile."""
    return tuple(Curve(**row) for row in read_profile()["times"]["curves"])


@functools.cache
def points() -> tuple[Point, ...]:
    """The shipped measured points."""
    text = POINTS.read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        Point(
            machine=r["machine"],
            family=r["family"],
            kind=r["kind"],
            ranks=int(r["ranks"]),
            num_bytes=float(r["bytes"]),
            seconds=float(r["seconds"]),
            fitted=r["fitted"] == "1",
            source=r["source"],
        )
        for r in rows
    )


def predict(
    machine: str,
    family: str,
    kind: str,
    ranks: int,
    num_bytes: float,
    *,
    among: tuple[Curve, ...] | None = None,
) -> float | None:
    """Calibrated time in seconds, or None where no curve of that machine, library and kind exists.

    Between two measured numbers of ranks the logarithm of the time is interpolated over the logarithm of ranks; beyond
    the last one nothing is said.
    """
    pool = among if among is not None else curves()
    wanted = (machine, family, kind)
    mine = sorted((c for c in pool if (c.machine, c.family, c.kind) == wanted), key=lambda c: c.ranks)
    below = [c for c in mine if c.ranks <= ranks]
    above = [c for c in mine if c.ranks >= ranks]
    if not below or not above:
        return None
    low, high = below[-1], above[0]
    t_low, t_high = float(low.seconds(num_bytes)), float(high.seconds(num_bytes))
    if low.ranks == high.ranks:
        return t_low
    part = math.log(ranks / low.ranks) / math.log(high.ranks / low.ranks)
    return math.exp((1 - part) * math.log(t_low) + part * math.log(t_high))


def best(machine: str, kind: str, ranks: int, num_bytes: float) -> tuple[str, float] | None:
    """The library whose measured sizes lie nearest, and its calibrated time; None where none was measured."""

    def distance(family: str) -> tuple[float, str]:
        mine = [c for c in curves() if (c.machine, c.family, c.kind) == (machine, family, kind)]
        low, high = min(c.low_bytes for c in mine), max(c.high_bytes for c in mine)
        return max(0.0, math.log(low / num_bytes), math.log(num_bytes / high)), family

    families = {c.family for c in curves() if (c.machine, c.kind) == (machine, kind)}
    for family in sorted(families, key=distance):
        seconds = predict(machine, family, kind, ranks, num_bytes)
        if seconds is not None:
            return family, seconds
    return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """A measured point beside the calibrated time."""

    point: Point
    seconds: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus one."""
        return self.seconds / self.point.seconds - 1


def residuals(machine: str | None = None) -> list[Residual]:
    """Every shipped point with its prediction, in file order.

    Raises
    ------
    ResultsError
        A point without a curve: the profile and the points were not made together.
    """
    out = []
    for p in points():
        if machine is not None and p.machine != machine:
            continue
        seconds = predict(p.machine, p.family, p.kind, p.ranks, p.num_bytes)
        if seconds is None:
            raise ResultsError(
                f"no curve for {p.machine} {p.family} {p.kind} at {p.ranks} ranks",
                where=POINTS.name,
                hint="fit the profile again: fullmesh calibrate collectives FOLDER",
            )
        out.append(Residual(point=p, seconds=seconds))
    return out


def error_summary(rows: list[Residual]) -> dict[str, dict[str, float]]:
    """Median and 90th percentile of the absolute error, for points that were fitted and for those that were not."""
    out: dict[str, dict[str, float]] = {}
    for name, flag in (("fitted", True), ("not fitted", False)):
        errors = np.array([abs(r.error) for r in rows if r.point.fitted is flag])
        if len(errors):
            out[name] = {
                "points": float(len(errors)),
                "median": float(np.median(errors)),
                "p90": float(np.quantile(errors, 0.9)),
            }
    return out
