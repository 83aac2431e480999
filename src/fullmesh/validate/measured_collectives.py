"""Every measured point of a collective or an expert exchange against what the model says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fullmesh.calibrate.collectives.fit import predict
from fullmesh.calibrate.collectives.points import read_curves
from fullmesh.cost.collectives.constants import PROFILE, load_fabrics
from fullmesh.errors import CatalogError

#: Median error that the model must keep where it was fitted, and where it was not.
BAR_FITTED = 0.08
BAR_HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One point: what was measured, what is predicted.

    ``error`` is predicted over measured less one. ``role`` is ``fit``, ``hold`` or ``conflict``: another source
    measured the same operation about twice as fast or slow, so the point is listed and not judged.
    """

    curve: str
    kind: str
    algorithm: str
    ranks: int
    num_bytes: float
    measured_s: float
    predicted_s: float
    error: float
    fitted_on: bool
    role: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Errors of the points of one curve and operation, or of all of a role."""

    curve: str
    kind: str
    fitted_on: bool
    points: int
    median_error: float
    p90_error: float
    worst_error: float


def read_harness(path: Path = PROFILE) -> dict[str, float]:
    """Constant starts that ways of measuring add, in seconds, from the shipped profile.

    Raises
    ------
    CatalogError
        The profile cannot be read.
    """
    try:
        harness: dict[str, float] = json.loads(path.read_text(encoding="utf-8")).get("harness_s", {})
    except (OSError, json.JSONDecodeError) as error:
        raise CatalogError(f"cannot read the collective profile: {error}", where=str(path)) from error
    return harness


def score_collectives(folder: Path | None = None) -> list[Score]:
    """Score the shipped points and, where given, the larger tables of a folder.

    Parameters
    ----------
    folder : Path, optional
        Folder with ``nccl_intra_node.csv``, ``deepep_normal_h100.csv``, ``nvl72_moe_alltoall.csv`` or some of them.

    Returns
    -------
    list of Score
        One per point, in the order of the tables.

    Raises
    ------
    ResultsError
        A table cannot be read.
    """
    fabrics, harness_s = load_fabrics(), read_harness()
    scores = []
    for curve in read_curves(folder):
        predicted = predict(curve, fabrics, harness_s)
        for i, seconds in enumerate(curve.seconds):
            scores.append(
                Score(
                    curve=curve.name,
                    kind=f"{curve.kind} {curve.phase}".strip(),
                    algorithm=curve.algorithm,
                    ranks=int(curve.ranks[i]),
                    num_bytes=float(curve.num_bytes[i]),
                    measured_s=float(seconds),
                    predicted_s=float(predicted[i]),
                    error=float(predicted[i] / seconds - 1.0),
                    fitted_on=curve.role == "fit",
                    role=curve.role,
                    source=curve.source,
                )
            )
    return scores


def _summary(curve: str, kind: str, fitted_on: bool, scores: Sequence[Score]) -> Summary:
    error = np.abs([s.error for s in scores])
    return Summary(
        curve=curve,
        kind=kind,
        fitted_on=fitted_on,
        points=len(scores),
        median_error=float(np.median(error)),
        p90_error=float(np.quantile(error, 0.9)),
        worst_error=float(error.max()),
    )


def summarise(scores: Sequence[Score]) -> list[Summary]:
    """Errors by curve and operation, in order, then of all fitted points and of all held-out points."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for s in scores:
        groups.setdefault((s.curve, f"{s.kind} {s.algorithm}".strip(), s.role), []).append(s)
    out = [_summary(c, k, role == "fit", g) for (c, k, role), g in groups.items()]
    for role, name in (("fit", "all fitted"), ("hold", "all held out")):
        chosen = [s for s in scores if s.role == role]
        if chosen:
            out.append(_summary(name, "all", role == "fit", chosen))
    return out
