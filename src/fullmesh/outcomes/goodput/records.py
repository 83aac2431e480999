"""What a whole run is asked and what it answers: spreads, options, and the records of a forecast."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from fullmesh.catalog import Price
from fullmesh.catalog.fault_log import FaultLog
from fullmesh.catalog.faults import FaultTable
from fullmesh.catalog.run_inputs import RunInput, RunInputs
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.goodput.engine import Intervals
from fullmesh.outcomes.goodput.policies import Checkpoint, PolicyName, Recovery
from fullmesh.outcomes.goodput.power import (
    DevicePower,
    SiteFit,
)

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a tenth, half and nine tenths of the runs stay below."""

    p10: float
    p50: float
    p90: float


def spread_of(values: Floats) -> Spread:
    """Quantiles of runs; infinite where so many never end."""
    ordered = np.sort(values)
    # no interpolation: a run that never ends would make its neighbours undefined
    at = [ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.1, 0.5, 0.9)]
    return Spread(p10=float(at[0]), p50=float(at[1]), p90=float(at[2]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpareRequest:
    """Spares as asked for; ``share`` is of the job's own units.

    ``auto`` chooses as many nodes as the target needs, or the units with which a run is cheapest.
    """

    kind: Literal["auto", "node", "unit"] = "auto"
    count: int = 0
    share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The checked options of a forecast.

    Parameters
    ----------
    num_tokens : float
    policies : tuple of str
    spares : SpareRequest
    faults : FaultTable
    log : FaultLog or None
        Faults to replay instead of drawing them from the table.
    log_nodes : int
        Nodes that the log is of.
    inputs : RunInputs
    pue : tuple of float
        One figure, or twelve from the month in which the run begins; empty for the default of the machine.
    power_cap_w, site_w, grid_g_per_kwh : float or None
    runs, seed : int
    prices : tuple of Price or None
    """

    num_tokens: float
    policies: tuple[PolicyName, ...]
    spares: SpareRequest
    faults: FaultTable
    log: FaultLog | None
    log_nodes: int
    inputs: RunInputs
    pue: tuple[float, ...]
    power_cap_w: float | None
    site_w: float | None
    grid_g_per_kwh: float | None
    runs: int
    seed: int
    prices: tuple[Price, ...] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoneyForecast:
    """US dollars of a run by one way to have the machines.

    Parameters
    ----------
    rented : bool
    usd, usd_per_million_tokens : Spread
    parts_usd : dict of str to float
        Means over the middle fifth of the runs by their length.
    basis : str
    """

    rented: bool
    usd: Spread
    usd_per_million_tokens: Spread
    parts_usd: dict[str, float]
    basis: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SmallerPlan:
    """What a job goes on as where some of its units are missing.

    Parameters
    ----------
    missing : int
        Units.
    devices : int
        That the plan uses.
    plan : str
    speed : float
        Tokens a second over those of the whole job.
    searched : bool
        Whether the planner found it, or it is the same layout with fewer data-parallel ranks.
    """

    missing: int
    devices: int
    plan: str
    speed: float
    searched: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyForecast:
    """One recovery policy, with everything that follows.

    Parameters
    ----------
    recovery : Recovery
    days, goodput, interruptions : Spread
        ``interruptions`` are stops that nobody planned.
    losses_s : dict of str to float
        Mean seconds by cause over the middle fifth of the runs by their length; with ``work_s`` they add up to
        ``wall_s``.
    work_s, wall_s, planned_stops, tokens_lost : float
        Means over the same runs.
    mean_days : float
        Over all runs that end.
    unfinished_share : float
        Of the runs, those that never end: faults come faster than they are repaired.
    closed_form_days : float
        The mean run by the closed form, for the expected rates and inputs.
    intervals : Intervals
        Of checkpoints.
    spares, spare_devices : int
        Spare units (nodes, or units of a supernode machine), and their devices.
    spare_kind : str
    spares_for : dict of str to int
        Spares needed so that at most that share of faults finds none, at nine of ten sites.
    waiting_share : float
        Share of stops that find no spare.
    stock_nodes : int
        Nodes in stock where units are replaced and their nodes repaired meanwhile.
    energy_j, mean_power_w : Spread or None
        At the meter of the site, cooling and spares included.
    peak_power_w, carbon_kg : float or None
    peak_interval_w : Spread or None
    money : tuple of MoneyForecast
    smaller : tuple of SmallerPlan
        Of a policy that shrinks.
    rejoins_at_once : bool or None
        Of such a policy: whether the job stops for a repaired unit, or takes it in with the next fault.
    """

    recovery: Recovery
    days: Spread
    goodput: Spread
    interruptions: Spread
    losses_s: dict[str, float]
    work_s: float
    wall_s: float
    mean_days: float
    unfinished_share: float
    closed_form_days: float
    planned_stops: float
    tokens_lost: float
    intervals: Intervals
    spares: int
    spare_devices: int
    spare_kind: str
    spares_for: dict[str, int]
    waiting_share: float
    stock_nodes: int
    energy_j: Spread | None
    mean_power_w: Spread | None
    peak_power_w: float | None
    peak_interval_w: Spread | None
    carbon_kg: float | None
    money: tuple[MoneyForecast, ...]
    smaller: tuple[SmallerPlan, ...]
    rejoins_at_once: bool | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DomainRow:
    """One fault domain of the job."""

    domain: str
    members: float
    effect: str
    per_year: float
    bandwidth_lost: float
    kind: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What one input does to days and money at the ends of its range."""

    key: str
    low: float
    high: float
    days_low: float
    days_high: float
    usd_low: float | None
    usd_high: float | None

    @property
    def days_span(self) -> float:
        """Days between the two ends."""
        return abs(self.days_high - self.days_low)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CapForecast:
    """What a power cap does: clock, step, days and energy with it and without."""

    cap_w: float
    clock: float
    step_factor: float
    days_without: float
    days_with: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """A whole run of one plan under one or several policies; the first one is the answer.

    Parameters
    ----------
    mtbf_s : float
        Mean time between stops that nobody planned, at the expected rates.
    stops_per_node_year : float
    """

    estimate: Estimate
    num_tokens: float
    policies: tuple[PolicyForecast, ...]
    domains: tuple[DomainRow, ...]
    checkpoint: Checkpoint
    mtbf_s: float
    stops_per_node_year: float
    power: DevicePower | None
    pue: tuple[float, ...]
    cap: CapForecast | None
    site: SiteFit | None
    tornado: tuple[Swing, ...]
    inputs: tuple[RunInput, ...]
    faults_name: str
    engine: str
    runs: int
    seed: int
    notes: tuple[str, ...]
