"""How fast a job goes on without some of its units: the same layout with fewer replicas, or a new plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from fullmesh.errors import PlanError
from fullmesh.outcomes.estimate import Estimate, Infeasible, estimate
from fullmesh.outcomes.goodput.case import Case, bad_site, spare_kind, unit_devices
from fullmesh.outcomes.goodput.engine import Run
from fullmesh.outcomes.goodput.rates import Load
from fullmesh.outcomes.goodput.records import RunOptions, SmallerPlan
from fullmesh.outcomes.goodput.spares import mean_over_missing, some_missing

#: The best plan on so many devices for a batch of so many sequences; None where none fits.
Planner = Callable[[int, int], Estimate | None]

# share of the batch that a smaller plan keeps at least, so that it divides over its ranks
_LEAST_BATCH = 0.9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What a job does without some of its units.

    Parameters
    ----------
    speeds : tuple of float
        With no, one, two ... units missing.
    plans : tuple of SmallerPlan
        Those that were priced.
    """

    speeds: tuple[float, ...]
    plans: tuple[SmallerPlan, ...]


def shrunk(case: Case, o: RunOptions, load: Load, planner: Planner | None) -> Shrunk:
    """Speeds by the number of missing units.

    Notes
    -----
    The same layout with fewer data-parallel ranks is priced for the loss of one unit, and each further replica costs as
    much. The planner is asked for the best plan where one unit is missing, as many as on average, and as many as at one
    site of ten: a plan for fewer devices runs on more, so between these sizes that of the next smaller one holds,
    where it is the faster.
    """
    machine = case.machine
    size = unit_devices(machine, spare_kind(machine, o.spares))
    units = math.ceil(machine.num_devices / size)
    same = _same_layout(case, size)
    speeds = [1.0, *(same.speed(m) for m in range(1, units)), 0.0]
    mean = float(load.replaced_per_s * load.repair_s)
    sizes = sorted({1, math.ceil(mean), math.ceil(mean * bad_site(o))} & set(range(1, units)))
    plans = []
    for m in sizes:
        found = None if planner is None else _searched(case, machine.num_devices - m * size, same, planner)
        if found is not None and found.tokens_per_s / case.e.tokens_per_s > speeds[m]:
            speed = min(found.tokens_per_s / case.e.tokens_per_s, 1.0)
            for k in range(1, m + 1):
                speeds[k] = max(speeds[k], speed)
            plans.append(_smaller(m, found, speed, searched=True))
        elif same.plan is not None and speeds[m] > 0:
            fewer = same.devices(m)
            layout = dataclasses.replace(same.plan.plan, dp=fewer // same.replica)
            plans.append(
                SmallerPlan(missing=m, devices=fewer, plan=layout.label(), speed=speeds[m], searched=False)
            )
    return Shrunk(speeds=tuple(speeds), plans=tuple(plans))


def joins_at_once(run: Run, load: Load) -> bool:
    """Whether it is cheaper to stop for a repaired unit than to take it in with the next fault."""
    rate = float(load.stops_per_s)
    if rate <= 0:
        return True
    spares, away = int(run.spares) * run.pools, float(load.replaced_per_s * load.repair_s)
    stop_s = float(load.replaced_share) * float(some_missing(spares, away)) * float(run.recovery.regrow_s)
    later = away + float(load.replaced_share)
    slower = float(mean_over_missing(spares, away, run.speeds) - mean_over_missing(spares, later, run.speeds))
    return stop_s <= slower / rate


def _smaller(missing: int, found: Estimate, speed: float, *, searched: bool) -> SmallerPlan:
    return SmallerPlan(
        missing=missing,
        devices=found.plan.num_devices,
        plan=found.plan.label(),
        speed=speed,
        searched=searched,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Same:
    """The same layout with fewer replicas: what one unit less costs, and units in a replica."""

    plan: Estimate | None
    lost: float
    units_per_replica: float
    replica: int
    dp: int
    gone: int

    def steps(self, missing: int) -> int:
        """How many times what one unit takes is gone: missing units are gathered in as few replicas as they fill."""
        return math.ceil(missing / self.units_per_replica - 1e-9)

    def speed(self, missing: int) -> float:
        return max(1.0 - self.lost * self.steps(missing), 0.0)

    def devices(self, missing: int) -> int:
        return max(self.dp - self.gone * self.steps(missing), 0) * self.replica


def _same_layout(case: Case, size: int) -> _Same:
    """The same layout without as many replicas as one unit takes; a unit that holds several takes them all."""
    plan, machine = case.e.plan, case.machine
    replica = machine.num_devices // plan.dp
    gone = math.ceil(size / replica)
    for dp in range(plan.dp - gone, 0, -1):
        if dp % max(plan.ep // max(plan.tp * plan.cp, 1), 1) and plan.ep > 1:
            continue
        # the batch stays as near as the ranks allow; tokens a second are compared
        gbs = plan.gbs // (dp * plan.mbs) * dp * plan.mbs
        if gbs == 0:
            continue
        try:
            found = estimate(case.e.model, machine, dataclasses.replace(plan, dp=dp, gbs=gbs))
        except PlanError:  # a layout that contradicts itself: the next smaller one
            continue
        if isinstance(found, Infeasible):
            continue
        return _Same(
            plan=found,
            lost=max(1.0 - found.tokens_per_s / case.e.tokens_per_s, 0.0),
            units_per_replica=max(replica / size, 1.0),
            replica=replica,
            dp=plan.dp,
            gone=plan.dp - dp,
        )
    return _Same(plan=None, lost=1.0, units_per_replica=1.0, replica=replica, dp=plan.dp, gone=plan.dp)


def _searched(case: Case, left: int, same: _Same, planner: Planner) -> Estimate | None:
    """The fastest plan on what is left: on all of it, or on as many devices as hold whole replicas of the old plan."""
    best = None
    for devices in dict.fromkeys((left, left // same.replica * same.replica)):
        if devices < 1:
            continue
        found = planner(devices, batch_for(case.e.plan.gbs, devices))
        if found is not None and (best is None or found.tokens_per_s > best.tokens_per_s):
            best = found
    return best


def batch_for(gbs: int, devices: int) -> int:
    """A batch, a tenth smaller at most, that divides over as many ranks of so many devices as can be."""
    odd = devices
    while odd % 2 == 0:
        odd //= 2
    best, unit = gbs, odd
    while unit <= gbs:
        if gbs // unit * unit >= _LEAST_BATCH * gbs:
            best = gbs // unit * unit
        unit *= 2
    return best
