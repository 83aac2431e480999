"""Error bars: how far published step times lie from predictions of rows that were not fitted."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval that covers 80 % of published results like this one.

    ``basis`` says from how many results of which kind it was taken.
    """

    low_s: float
    high_s: float
    log_half_width: float
    basis: str


@functools.lru_cache(maxsize=1)
def _quantiles() -> dict[str, dict[str, float]]:
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/intervals.json")
    if not path.is_file():
        return {}
    groups: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8"))["groups"]
    return groups


def held_out_coverage() -> dict[str, tuple[int, float]]:
    """Results and share of them inside an interval made without their fold, for ``all`` and by chip family."""
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/intervals.json")
    if not path.is_file():
        return {"all": (0, math.nan)}
    coverage = json.loads(path.read_text("utf-8"))["coverage"]
    return {group: (int(rows), float(share)) for group, (rows, share) in coverage.items()}


def interval_for(family: str, *, moe: bool, step_s: float) -> Interval:
    """The 80 % interval of a step time.

    The residuals of the chip family and kind of model are used where there are at least ten results of that kind. A
    family with fewer takes those of all chips with whole publishers left out, which are wider, and the basis says so.
    """
    groups = _quantiles()
    kind = "moe" if moe else "dense"
    for key in (f"{family}|{kind}", f"{family}|any", f"unseen|{kind}"):
        found = groups.get(key)
        if found:
            fam, what = key.split("|")
            how = "whole publishers left out" if fam == "unseen" else "cross-validated"
            chips = f"all chips (the {family} has too few of its own)" if fam == "unseen" else fam
            what = "all models" if what == "any" else ("MoE models" if what == "moe" else "dense models")
            basis = f"{int(found['rows'])} published results, {chips}, {what}, {how}"
            low, high = found["low"], found["high"]
            return Interval(
                low_s=step_s * math.exp(low),
                high_s=step_s * math.exp(high),
                log_half_width=(high - low) / 2,
                basis=basis,
            )
    return Interval(
        low_s=math.nan, high_s=math.nan, log_half_width=math.inf, basis="no published result to compare with"
    )
