"""Error bars: how far published step times lie from predictions of rows that were not fitted."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval that covers 80 % of published results like this one.

    ``basis`` says from how many results of which kind it was taken.
    """

    low_s: float
    high_s: float
    log_half_width: float
    basis: str


#: Results of its own from which on a chip's borrowed parts are in the residuals that its interval is made of.
ENOUGH_ROWS = 10


@functools.lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/intervals.json")
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def _quantiles() -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = _document().get("groups", {})
    return groups


def held_out_coverage() -> dict[str, tuple[int, float]]:
    """Results and share of them inside an interval made without their fold, for ``all`` and by chip family."""
    coverage = _document().get("coverage", {"all": (0, math.nan)})
    return {group: (int(rows), float(share)) for group, (rows, share) in coverage.items()}


def results_of_chip(chip_id: str) -> int:
    """Published results that the intervals rest on and that ran on this very chip."""
    return int(_document().get("chips", {}).get(chip_id, 0))


def interval_for(family: str, *, moe: bool, step_s: float, unproven: str = "") -> Interval:
    """The 80 % interval of a step time.

    The residuals of the chip family and kind of model are used where there are at least ten results of that kind. A
    family with fewer takes those of all chips with whole publishers left out, which are wider, and the basis says so.

    Parameters
    ----------
    family : str
    moe : bool
    step_s : float
    unproven : str
        Why results of the family do not vouch for this machine or software; empty where they do. The interval then
        covers both that of the family and that of whole publishers left out.
    """
    groups = _quantiles()
    kind = "moe" if moe else "dense"
    models = "MoE models" if moe else "dense models"
    unseen = groups.get(f"unseen|{kind}")
    for key in (f"{family}|{kind}", f"{family}|any"):
        if found := groups.get(key):
            what = "all models" if key.endswith("any") else models
            basis = f"{int(found['rows'])} published results, {family}, {what}, cross-validated"
            if unproven and unseen:
                basis += (
                    f"; and {int(unseen['rows'])}, all chips, {models}, whole publishers left out: {unproven}"
                )
                return _interval(
                    step_s, min(found["low"], unseen["low"]), max(found["high"], unseen["high"]), basis
                )
            return _interval(step_s, found["low"], found["high"], basis)
    if unseen:
        basis = (
            f"{int(unseen['rows'])} published results, all chips (the {family} has too few of its own), {models}, "
            "whole publishers left out"
        )
        return _interval(step_s, unseen["low"], unseen["high"], basis)
    return Interval(
        low_s=math.nan, high_s=math.nan, log_half_width=math.inf, basis="no published result to compare with"
    )


def _interval(step_s: float, low: float, high: float, basis: str) -> Interval:
    return Interval(
        low_s=step_s * math.exp(low),
        high_s=step_s * math.exp(high),
        log_half_width=(high - low) / 2,
        basis=basis,
    )
