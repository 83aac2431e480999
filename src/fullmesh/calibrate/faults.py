"""Rates and repair times from a fault log: counts over exposure, repairs by censored fits."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from fullmesh.catalog.fault_log import DAY_S, PLANNED, FaultLog, NodeFault
from fullmesh.catalog.faults import SITE, FaultEffect, FaultRate
from fullmesh.errors import CatalogError
from fullmesh.machine import Machine
from fullmesh.outcomes.goodput.domains import members

YEAR_S = 365.25 * DAY_S
#: windows in which the rate of a log is compared with itself, for the spread of one site's rate over time
WINDOW_S = 54.0 * DAY_S
_RESTARTS = ("software",)
_OWN = ("silent", "straggler", "flap")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RepairFit:
    """How long repairs took, in hours: the law that fits best, with right-censored ones counted as such.

    Parameters
    ----------
    law : str
        ``lognormal``, ``weibull`` or ``exponential``.
    mean_h, median_h : float
        The mean is that of the Kaplan-Meier curve up to the longest repair, the median of the fitted law.
    parameters : tuple of float
        Shape and scale in hours: deviation of the logarithm and median, or Weibull's, or 1 and the mean.
    repaired, censored : int
    """

    law: str
    mean_h: float
    median_h: float
    parameters: tuple[float, float]
    repaired: int
    censored: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultFit:
    """What a log says.

    Parameters
    ----------
    rates : tuple of FaultRate
        One for each domain, and the row of the site.
    counts : dict of str to int
    repairs : dict of str to RepairFit
        By domain, and ``all``.
    node_years : float
    per_node_year : float
        Faults that take a node out, planned work left out.
    site_spread : float
    unavailable : float
        Share of node time that was lost to repairs.
    planned : int
        Entries of planned work, left out.
    """

    rates: tuple[FaultRate, ...]
    counts: dict[str, int]
    repairs: dict[str, RepairFit]
    node_years: float
    per_node_year: float
    site_spread: float
    unavailable: float
    planned: int


def fit_repairs(hours: npt.NDArray[np.float64], done: npt.NDArray[np.bool_]) -> RepairFit:
    """Fit repair times by maximum likelihood; those that are not ``done`` lasted at least as long."""
    known = np.maximum(hours, 1.0 / 60.0)
    data = stats.CensoredData(uncensored=known[done], right=known[~done])
    mean = float(known.sum() / max(int(done.sum()), 1))
    found = [("exponential", (1.0, mean), _loglike(stats.expon(scale=mean), known, done), mean * math.log(2))]
    # repairs that all took the same have no law
    if int(done.sum()) >= 5 and float(np.ptp(np.log(known[done]))) > 0.01:
        sigma, _, scale = stats.lognorm.fit(data, floc=0)
        law = stats.lognorm(sigma, scale=scale)
        found.append(("lognormal", (float(sigma), float(scale)), _loglike(law, known, done), float(scale)))
        shape, _, scale = stats.weibull_min.fit(data, floc=0)
        law = stats.weibull_min(shape, scale=scale)
        found.append(
            ("weibull", (float(shape), float(scale)), _loglike(law, known, done), float(law.median()))
        )
    # one parameter more must be worth it (Akaike)
    name, parameters, _, median = max(found, key=lambda f: f[2] - (1 if f[0] == "exponential" else 2))
    return RepairFit(
        law=name,
        mean_h=_mean_by_curve(known, done),
        median_h=median,
        parameters=parameters,
        repaired=int(done.sum()),
        censored=int((~done).sum()),
    )


def _loglike(law: stats.rv_frozen, hours: npt.NDArray[np.float64], done: npt.NDArray[np.bool_]) -> float:
    return float(law.logpdf(hours[done]).sum() + law.logsf(hours[~done]).sum())


def _mean_by_curve(hours: npt.NDArray[np.float64], done: npt.NDArray[np.bool_]) -> float:
    """Area under the Kaplan-Meier curve up to the longest time: the mean where the last one is known."""
    data = stats.CensoredData(uncensored=hours[done], right=hours[~done])
    if not done.any():
        return float(hours.sum())
    curve = stats.ecdf(data).sf
    times = np.concatenate([[0.0], curve.quantiles])
    heights = np.concatenate([[1.0], curve.probabilities])
    ends = np.concatenate([curve.quantiles, [hours.max()]])
    return float((heights * (ends - times)).sum())


def site_spread(starts_s: npt.NDArray[np.float64], span_s: float, window_s: float = WINDOW_S) -> float:
    """Deviation of the logarithm of a site's rate from one window to the next, beyond what chance makes of counts."""
    windows = int(span_s // window_s)
    if windows < 3:
        return math.nan
    counts = np.histogram(starts_s, bins=np.arange(windows + 1) * window_s)[0].astype(np.float64)
    mean = counts.mean()
    if mean == 0:
        return math.nan
    beyond = max(counts.var(ddof=1) - mean, 0.0) / mean**2
    # with few windows the next one may lie further out than these do among themselves
    return float(math.sqrt(math.log1p(beyond * (1.0 + 1.0 / windows))))


def fit_faults(
    log: FaultLog,
    machine: Machine,
    *,
    num_nodes: int,
    span_s: float | None = None,
    source: str = "",
    date: str = "",
) -> FaultFit:
    """Rates by domain and repair times from a log of ``num_nodes`` nodes of a machine.

    Raises
    ------
    CatalogError
        The log names more nodes than there are, or the span ends before its last fault starts.
    """
    if len(log.nodes) > num_nodes:
        raise CatalogError(
            f"the log names {len(log.nodes):,} nodes",
            where="--nodes",
            expected=f"at least {len(log.nodes):,}",
        )
    span = span_s or log.span_s
    if span < max(f.start_s for f in log.faults):
        raise CatalogError(
            "the last fault starts after the log ends",
            where="--days",
            expected=f"at least {math.ceil(log.span_s / DAY_S):,} days",
        )
    real = [f for f in log.faults if f.domain != PLANNED]
    if not real:
        raise CatalogError("the log holds planned work alone", where=log.name, expected="faults")
    counted = members(machine.resized(num_nodes * machine.devices_per_node))
    years = span / YEAR_S
    by_domain: dict[str, list[NodeFault]] = defaultdict(list)
    for fault in real:
        by_domain[fault.domain].append(fault)
    repairs = {"all": _repairs(real, span)}
    rates = []
    for domain, faults in sorted(by_domain.items()):
        repairs[domain] = _repairs(faults, span)
        n = len(faults)
        counted_as = f"{n} fault" if n == 1 else f"{n} faults"
        rates.append(
            FaultRate(
                domain=domain,
                effect=_effect(domain),
                rate_per_year=n / (max(counted[domain], 1.0) * years),
                # a rate from n counts is known to about one part in the root of n
                spread=math.sqrt(1.0 / n),
                repair_mean_h=repairs[domain].mean_h,
                repair_median_h=repairs[domain].median_h,
                kind="measured",
                source=source or log.name,
                date=date,
                note=f"{counted_as}; repairs {repairs[domain].law}, {repairs[domain].censored} unfinished",
            )
        )
    starts = np.array([f.start_s for f in real])
    spread = site_spread(starts, span)
    known = math.isfinite(spread)
    rates.append(
        FaultRate(
            domain=SITE,
            effect="factor",
            rate_per_year=1.0,
            spread=spread if known else 0.5,
            repair_mean_h=0.0,
            repair_median_h=0.0,
            kind="measured" if known else "assumed",
            source=source or log.name,
            date=date,
            note=f"from one window of {WINDOW_S / DAY_S:g} days to the next"
            if known
            else f"the log is shorter than three windows of {WINDOW_S / DAY_S:g} days",
        )
    )
    down = sum(min(f.end_s if f.end_s is not None else span, span) - f.start_s for f in real)
    return FaultFit(
        rates=tuple(rates),
        counts={d: len(f) for d, f in sorted(by_domain.items())},
        repairs=repairs,
        node_years=num_nodes * years,
        per_node_year=len(real) / (num_nodes * years),
        site_spread=spread,
        unavailable=down / (num_nodes * span),
        planned=len(log.faults) - len(real),
    )


def _effect(domain: str) -> FaultEffect:
    if domain in _OWN:
        return domain  # type: ignore[return-value]
    if domain in ("l1", "l2", "optical", "spine"):
        return "fabric"
    return "restart" if domain in _RESTARTS else "stop"


def _repairs(faults: Sequence[NodeFault], span_s: float) -> RepairFit:
    ends = [f.end_s if f.end_s is not None else span_s for f in faults]
    hours = np.array([max(e - f.start_s, 0.0) for e, f in zip(ends, faults, strict=True)]) / 3600.0
    return fit_repairs(hours, np.array([f.end_s is not None for f in faults]))
