"""What a run is to the engines, what comes out of it, and its expectation in closed form.

A run needs ``work_s`` seconds of steps. Faults that stop it come at random times; what was done since the last
checkpoint is lost; then come detection, restart and warm-up, during which the next fault may fall too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.goodput.draws import Amount, Whole, one
from fullmesh.outcomes.goodput.policies import Recovery
from fullmesh.outcomes.goodput.rates import Load
from fullmesh.outcomes.goodput.spares import erlang_b, mean_over_missing, mean_wait, some_missing

Floats = npt.NDArray[np.float64]

#: what a run loses time to, in the order of the waterfall; keys of the glossary
LOSSES = (
    "detection",
    "restart",
    "recomputed",
    "checkpoint_stalls",
    "warm_up",
    "waiting_for_repair",
    "fewer_devices",
    "planned_stops",
    "slow_nodes",
    "slow_links",
)
#: below this share of its time in useful steps a run is taken never to end
LEAST_GOODPUT = 0.02
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to run a job; amounts are one value, or one for each of several runs.

    Parameters
    ----------
    recovery : Recovery
    near_s, store_s : float or array
        Seconds of steps between near checkpoints, and between those in storage: a whole multiple of the former.
    store_stall_s : float or array
        Of one checkpoint to storage.
    spares : int or array
        Spare units of one pool.
    pools : int
    recovery_spread : float
        Deviation of the logarithm of one recovery.
    planned_per_s, planned_s : float or array
        Planned stops a second, and how long one takes.
    silent_s : float or array
        Seconds of steps that a silent corruption undoes beyond the last checkpoint.
    speeds : tuple of float
        Speed with no, one, two ... units fewer than the job wants, for a policy that shrinks; the last holds beyond.
    regrows_at_once : bool
        Whether the job stops to take a repaired unit in again, or waits for the next stop with that.
    """

    recovery: Recovery
    near_s: Amount
    store_s: Amount
    store_stall_s: Amount
    spares: Whole
    pools: int
    recovery_spread: float
    planned_per_s: Amount
    planned_s: Amount
    silent_s: Amount
    speeds: tuple[float, ...] = (1.0,)
    regrows_at_once: bool = True

    @property
    def stall_s(self) -> Amount:
        """Stalls for each near interval, with its share of one to storage."""
        if not self.recovery.two_levels:
            return self.store_stall_s
        return self.recovery.near_stall_s + self.store_stall_s * self.near_s / self.store_s

    def blocked(self, load: Load) -> Floats:
        """Probability that a stop finds no spare."""
        if self.recovery.shrinks:
            return np.zeros_like(load.stops_per_s)
        each = load.replaced_per_s * load.repair_s / self.pools
        return erlang_b(self.spares, each) * load.replaced_share

    def wait_s(self, load: Load) -> Floats:
        """Mean wait of a stop that finds no spare."""
        each = load.replaced_per_s * load.repair_s / self.pools
        return mean_wait(self.spares, each, load.repair_s)

    def missing(self, load: Load) -> Floats:
        """Mean number of units that are away, the spares' part included, where the job goes on without them."""
        away = load.replaced_per_s * load.repair_s
        # a unit that is whole again waits for the next stop: on average the time between two
        return away if self.regrows_at_once else away + load.replaced_share

    def speed(self, load: Load) -> Floats:
        """Mean speed, one where nothing is missing."""
        if not self.recovery.shrinks:
            return np.ones_like(load.stops_per_s)
        mean = mean_over_missing(int(self.spares) * self.pools, self.missing(load), self.speeds)
        return np.maximum(mean, LEAST_GOODPUT)

    def speed_without(self, missing: int) -> float:
        """Speed with so many units beyond the spares in repair."""
        return self.speeds[min(missing, len(self.speeds) - 1)]

    @property
    def planned_share(self) -> Amount:
        """Of all time, planned stops."""
        return np.minimum(self.planned_per_s * self.planned_s, 0.9)

    def regrow_s(self, load: Load) -> Floats:
        """Mean seconds, for each stop, of the stop in which what it took away joins again."""
        if not (self.recovery.shrinks and self.regrows_at_once):
            return np.zeros_like(load.stops_per_s)
        # a spare that comes back to the shelf stops nothing
        smaller = some_missing(int(self.spares) * self.pools, self.missing(load))
        out: Floats = load.replaced_share * smaller * self.recovery.regrow_s
        return out

    def at(self, i: int) -> Run:
        """One of several runs."""

        def single(x: Any) -> Any:
            return x[i].item() if isinstance(x, np.ndarray) and x.ndim else x

        def fields(of: Any) -> dict[str, Any]:
            return {f.name: single(getattr(of, f.name)) for f in dataclasses.fields(of)}

        return Run(**(fields(self) | {"recovery": Recovery(**fields(self.recovery))}))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Runs as columns: seconds in all, seconds by loss, numbers of stops that nobody planned and that were planned."""

    wall_s: Floats
    work_s: Floats
    losses_s: dict[str, Floats]
    stops: Floats
    planned: Floats

    @property
    def goodput(self) -> Floats:
        """Work over wall time: the share of time that went into steps that counted, at full speed."""
        return np.divide(
            self.work_s, self.wall_s, out=np.zeros_like(self.wall_s), where=np.isfinite(self.wall_s)
        )


def laplace(rate: Floats, seconds: Amount, spread: float) -> Floats:
    """Mean of ``exp(-rate * R)`` for a lognormal R of mean ``seconds``."""
    r = np.exp(spread * _NODES - spread**2 / 2.0)
    out: Floats = np.exp(-np.multiply.outer(rate * seconds, r)) @ (_WEIGHTS / _WEIGHTS.sum())
    return out


def expected(run: Run, load: Load, work_s: Floats | float) -> Outcomes:
    """The mean run, by renewal: every stop begins a cycle that is as long as it takes to the next one.

    Notes
    -----
    With stops at rate ``r``, intervals ``t``, stalls ``c`` and recoveries R, a cycle saves on average
    ``t E[exp(-r R)] / (exp(r (t + c)) - 1)`` seconds of work (Daly's exact form; faults may fall into recoveries).
    Young's interval is its optimum where ``r (t + c)`` is small. Of faults that only storage helps against, the work
    since the last checkpoint there is lost too: its mean follows from a geometric number of near intervals.
    """
    rate = np.maximum(load.stops_per_s, 1e-300)
    x = np.minimum(rate * (run.near_s + run.stall_s), 700.0)
    done = np.exp(-x)
    wide = load.wide_share
    r = run.recovery
    near_l, wide_l = (laplace(rate, s, run.recovery_spread) for s in (r.near_total_s, r.wide_total_s))
    # intervals saved in one cycle
    saved = ((1.0 - wide) * near_l + wide * wide_l) * done / -np.expm1(-x)
    behind = np.zeros_like(saved)
    if r.two_levels and np.any(np.asarray(run.store_s) > run.near_s):
        # a geometric number of intervals between two faults that only storage helps against, modulo those of a store
        n = np.asarray(run.store_s) / run.near_s
        mean = np.divide(saved, wide, out=np.full_like(saved, np.inf), where=wide > 0)
        decay = np.where(np.isfinite(mean), -np.log1p(1.0 / np.maximum(mean, 1e-12)), 0.0)
        tail = n / np.expm1(np.maximum(-n * decay, 1e-9))
        behind = np.where(np.isfinite(mean) & (-n * decay > 1e-6), mean - tail, (n - 1.0) / 2.0)
    undone = wide * behind * run.near_s + load.silent_share * np.minimum(
        run.silent_s, np.asarray(work_s, dtype=np.float64) / 2.0
    )
    net = saved * run.near_s - undone
    wait = run.blocked(load) * run.wait_s(load)
    speed = run.speed(load)
    slow = load.slow_nodes + load.slow_links
    work = np.asarray(work_s, dtype=np.float64)
    grown = run.regrow_s(load)
    need = work * (1.0 + slow) / speed
    ok = np.isfinite(wait) & (net > LEAST_GOODPUT * (1.0 / rate + wait + grown))
    cycles = np.divide(need, net, out=np.full(np.broadcast(need, net).shape, np.inf), where=ok)
    # the last cycle ends with the work and not with a fault
    down_near = (1.0 - near_l) / rate * (1.0 - wide)
    down_wide = (1.0 - wide_l) / rate * wide
    stalls = saved * run.stall_s
    again = 1.0 / rate - down_near - down_wide - stalls - net
    base = np.where(ok, np.where(ok, cycles, 0.0) * (1.0 / rate + np.where(ok, wait, 0.0) + grown), np.inf)
    planned = np.where(ok, np.where(ok, base, 0.0) * run.planned_share / (1.0 - run.planned_share), np.inf)
    near_total, wide_total = np.maximum(r.near_total_s, 1e-9), np.maximum(r.wide_total_s, 1e-9)
    lost = {
        "detection": down_near * r.detection_s / near_total + down_wide * r.wide_detection_s / wide_total,
        "restart": down_near * (r.restart_s + r.load_s) / near_total
        + down_wide * (r.wide_restart_s + r.wide_load_s) / wide_total
        + grown,
        "recomputed": again,
        "checkpoint_stalls": stalls,
        "warm_up": down_near * r.warm_up_s / near_total + down_wide * r.warm_up_s / wide_total,
        "waiting_for_repair": wait,
    }
    losses = {k: np.where(ok, np.where(ok, cycles, 0.0) * v, np.inf) for k, v in lost.items()}
    losses |= {
        "fewer_devices": work * (1.0 + slow) * (1.0 / speed - 1.0),
        "planned_stops": planned,
        "slow_nodes": work * load.slow_nodes,
        "slow_links": work * load.slow_links,
    }
    wall = base + planned
    return Outcomes(
        wall_s=wall,
        work_s=work * np.ones_like(wall),
        losses_s={k: losses[k] * np.ones_like(wall) for k in LOSSES},
        stops=cycles * np.ones_like(wall),
        planned=np.where(ok, np.where(ok, wall, 0.0) * run.planned_per_s, np.inf),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The best distances of checkpoints, and how flat the optimum is.

    Parameters
    ----------
    near_s, store_s : float
    flat_low_s, flat_high_s : float
        Distances of checkpoints to storage that cost at most half a per cent of the time more.
    young_s : float
        Young's first-order interval, the root of twice the stall times the mean time between stops.
    """

    near_s: float
    store_s: float
    flat_low_s: float
    flat_high_s: float
    young_s: float


#: share of the time within which an interval is as good as the best
FLAT = 0.005


def best_intervals(run: Run, load: Load, *, least_near_s: float, least_store_s: float) -> Intervals:
    """Distances of checkpoints for which the mean run is shortest.

    Parameters
    ----------
    run : Run
        Its own distances are not looked at.
    load : Load
        Without dimensions: the expected rates.
    least_near_s, least_store_s : float
        A step, and the time until a checkpoint is in storage: no checkpoint starts before the last one is there.
    """
    mtbf = 1.0 / max(float(load.stops_per_s), 1e-12)
    stall = max(one(run.store_stall_s), 1e-3)
    young = math.sqrt(2.0 * stall * mtbf)
    work = 1000.0 * mtbf

    def wall(near: float, store: float) -> float:
        tried = dataclasses.replace(run, near_s=near, store_s=store)
        return float(expected(tried, load, work).wall_s)

    longest = max(30.0 * young, 10.0 * least_store_s, 10.0 * mtbf)
    stores = np.geomspace(max(least_store_s, least_near_s), longest, 240)
    if not run.recovery.two_levels:
        costs = [wall(float(s), float(s)) for s in stores]
        pairs = [(float(s), float(s)) for s in stores]
    else:
        near_young = math.sqrt(2.0 * max(one(run.recovery.near_stall_s), 1e-3) * mtbf)
        fixed = run.recovery.near_s
        nears = (
            [fixed] if fixed else list(np.geomspace(least_near_s, max(4 * near_young, 2 * least_near_s), 16))
        )
        pairs, costs = [], []
        for s in stores[::2]:
            options = [(float(s) / max(math.floor(float(s) / n + 1e-9), 1), float(s)) for n in nears]
            found = [wall(*o) for o in options]
            k = int(np.argmin(found))
            pairs.append(options[k])
            costs.append(found[k])
    finite = np.array(costs)
    best = int(np.argmin(finite))
    if not np.isfinite(finite[best]):
        return Intervals(
            near_s=pairs[best][0], store_s=pairs[best][1], flat_low_s=pairs[best][1],
            flat_high_s=pairs[best][1], young_s=young,
        )  # fmt: skip
    flat = [p[1] for p, c in zip(pairs, costs, strict=True) if c <= finite[best] * (1.0 + FLAT)]
    return Intervals(
        near_s=pairs[best][0],
        store_s=pairs[best][1],
        flat_low_s=min(flat),
        flat_high_s=max(flat),
        young_s=young,
    )
