"""Error bars: how far published step times lie from predictions that had not seen them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math
from typing import Any

import numpy as np

# Deviations of a normal distribution that hold 80 % of it.
NORMAL = 1.2816
#: Results of its own from which on a chip's borrowed parts are in the residuals that its interval is made of.
ENOUGH_ROWS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval that covers 80 % of published results like this one.

    ``basis`` says what it was made from, ``unproven`` why results like it are missing, empty where they are not.
    """

    low_s: float
    high_s: float
    log_half_width: float
    basis: str
    unproven: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInterval:
    """How much memory a plan may take in truth.

    ``low_bytes`` and ``high_bytes`` cover 80 % of published peaks like this one, ``fits`` is the chance that the peak
    stays below the capacity; ``basis`` says what they were made from. All of them nan without a published peak.
    ``is_within_evidence`` is false where the capacity lies beyond all errors that are known: ``fits`` is then a bound.
    """

    low_bytes: float
    high_bytes: float
    fits: float
    is_within_evidence: bool
    basis: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """Median error of a left-out publisher's results, before and after so many of its configurations were given.

    ``before`` and ``after`` are of the same results, those that were not given; medians over draws of configurations.
    """

    shots: int
    configurations: int
    before: float
    after: float


@functools.lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/intervals.json")
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def held_out_coverage() -> dict[str, tuple[int, float]]:
    """Results and share of them inside intervals made without them.

    ``all`` and chip families are configurations left out; ``unseen publishers: ...`` whole publishers left out.
    """
    coverage = _document().get("coverage", {"all": (0, math.nan)})
    return {group: (int(rows), float(share)) for group, (rows, share) in coverage.items()}


def few_shot_results() -> dict[str, tuple[FewShot, ...]]:
    """What one and three configurations of a publisher that no fit had seen are worth."""
    found = _document().get("few_shot", {})
    return {who: tuple(FewShot(**entry) for entry in entries) for who, entries in found.items() if entries}


def results_of_chip(chip_id: str) -> int:
    """Published results that the intervals rest on and that ran on this very chip."""
    return int(_document().get("chips", {}).get(chip_id, 0))


def within_setting() -> float:
    """Ratio, as a logarithm, below which two plans of one model on one machine cannot be told apart.

    From pairs of published plans of one setting: what 80 % of their predicted ratios are off by at most. Infinite
    where no result says.
    """
    found = _document().get("within_setting")
    return math.inf if found is None else float(found)


def selection_variance(num_candidates: int) -> float:
    """Variance of the logarithm of the step time that comes from having won against plans predicted as good.

    The least of ``n`` normal draws lies some ``sqrt(2 ln n)`` deviations below their mean; a draw is the error of one
    plan among those of its setting.
    """
    pair = within_setting()
    if num_candidates < 2 or not math.isfinite(pair):
        return 0.0
    one = pair / NORMAL / math.sqrt(2.0)
    return one**2 * 2.0 * math.log(num_candidates)


def noise() -> float:
    """Deviation of the logarithm of a step time around its prediction that no effect explains; 0 without a fit."""
    return float(_document().get("noise", 0.0))


def far_deviations() -> float:
    """Deviations from the prediction to the far end of an interval; 0 without a fit."""
    return float(_document().get("high", 0.0))


def interval_for(step_s: float, variance: float, *, unproven: str = "") -> Interval:
    """The 80 % interval of a step time.

    Parameters
    ----------
    step_s : float
    variance : float
        Of the logarithm of the step time, from the effects (:mod:`fullmesh.cost.uncertainty`).
    unproven : str
        Why published results do not vouch for this machine or software; empty where they do. The interval is then
        wider by as much as results of publishers never seen scatter.
    """
    fit = _document()
    if not fit:
        return Interval(
            low_s=math.nan,
            high_s=math.nan,
            log_half_width=math.inf,
            basis="no published result to compare with",
            unproven=unproven,
        )
    deviation = math.sqrt(variance + fit["noise"] ** 2 + (fit["unseen"] ** 2 if unproven else 0.0))
    low, high = fit["low"] * deviation, fit["high"] * deviation
    basis = f"{int(fit['rows'])} published results, each predicted without its configuration and without its publisher"
    if unproven:
        basis += f"; wider, since {unproven}"
    return Interval(
        low_s=step_s * math.exp(low),
        high_s=step_s * math.exp(high),
        log_half_width=(high - low) / 2,
        basis=basis,
        unproven=unproven,
    )


def memory_interval_for(predicted_bytes: float, capacity_bytes: float) -> MemoryInterval:
    """The 80 % interval of a peak of memory, and the chance that it fits."""
    fit = _document().get("memory")
    if not fit:
        return MemoryInterval(
            low_bytes=math.nan, high_bytes=math.nan, fits=math.nan, is_within_evidence=False, basis=""
        )
    logs, levels = fit["quantiles"], fit["levels"]
    room = math.log(capacity_bytes / predicted_bytes)
    tenth, nine_tenths = (predicted_bytes * math.exp(float(np.interp(q, levels, logs))) for q in (0.1, 0.9))
    return MemoryInterval(
        low_bytes=tenth,
        high_bytes=nine_tenths,
        fits=float(np.interp(room, logs, levels)),
        is_within_evidence=logs[0] < room < logs[-1],
        basis=f"{fit['rows']} published peaks of {fit['publishers']} publishers, each predicted without its publisher",
    )


def memory_coverage() -> tuple[int, float]:
    """Published peaks, and the share of them inside intervals that were made without their publishers."""
    fit = _document().get("memory") or {"rows": 0, "coverage": None}
    return int(fit["rows"]), math.nan if fit["coverage"] is None else float(fit["coverage"])
