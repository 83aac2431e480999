"""Faults that happened, or were drawn one by one, replayed event by event against one way to run a job."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.catalog.fault_log import PLANNED, FaultLog
from fullmesh.outcomes.goodput.domains import WIDE
from fullmesh.outcomes.goodput.draws import one
from fullmesh.outcomes.goodput.engine import LOSSES, Outcomes, Run

Floats = npt.NDArray[np.float64]

# of a log's faults that are not over when it ends, the share of the log that they last
_LEFT_OPEN = 0.1
# effects of domains that stop nothing
_NO_STOP = (PLANNED, "flap", "straggler", "optical", "spine", "l2")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One fault that stops the job: when, and what it is."""

    at_s: float
    repair_s: float
    wide: bool = False
    silent: bool = False
    replaced: bool = True


def stops_of_log(log: FaultLog, num_nodes: int, log_nodes: int, *, start: float) -> list[Stop]:
    """The faults of a log as a job of ``num_nodes`` nodes meets them.

    Parameters
    ----------
    num_nodes : int
        Of the job. Where the log has more, its first ones are taken; where it has fewer, the log is laid over itself,
        each copy from another point of time.
    log_nodes : int
        Nodes that the log is of, those without a fault included.
    start : float
        Share of the log at which the job begins; the log is a ring.
    """
    copies = max(math.ceil(num_nodes / log_nodes), 1)
    names = {name: i for i, name in enumerate(log.nodes)}
    # nodes without a fault are spread evenly among the others
    stride = log_nodes / max(len(names), 1)
    out = []
    for copy in range(copies):
        count = min(num_nodes - copy * log_nodes, log_nodes)
        offset = (start + copy / copies) * log.span_s
        for fault in log.faults:
            if fault.domain in _NO_STOP or int(names[fault.node] * stride) >= count:
                continue
            length = _LEFT_OPEN * log.span_s if fault.end_s is None else fault.end_s - fault.start_s
            out.append(
                Stop(
                    at_s=(fault.start_s - offset) % log.span_s,
                    repair_s=max(length, 0.0),
                    wide=fault.domain in WIDE,
                    silent=fault.domain == "silent",
                    replaced=fault.domain != "software",
                )
            )
    return sorted(out, key=lambda s: s.at_s)


@dataclasses.dataclass(slots=True)
class _State:
    now: float = 0.0  # when steps begin again
    ready: float = 0.0  # when there were units enough to begin the recovery before that
    saved: float = 0.0
    at_store: float = 0.0  # saved work modulo a store interval counts from here
    stalls: float = 0.0
    near_down: float = 0.0
    wide_down: float = 0.0
    waits: float = 0.0
    fewer: float = 0.0
    grown: float = 0.0
    stops: int = 0


def replay_stops(
    run: Run, stops: Sequence[Stop], work_s: float, *, period_s: float = math.inf, slow: tuple[float, float] = (0, 0),
    rng: np.random.Generator | None = None,
) -> Outcomes:  # fmt: skip
    """Replay stops in their order until the work is done.

    Parameters
    ----------
    period_s : float
        After which the stops come again, for a log that is shorter than the run.
    slow : tuple of float
        Share of speed lost to slow nodes, and to links.
    rng : Generator, optional
        Draws the spread of recoveries; without it each takes its mean.
    """
    r, stall, near = run.recovery, one(run.stall_s), one(run.near_s)
    need = work_s * (1.0 + slow[0] + slow[1])
    s = _State()
    repairs: list[float] = []
    index, turn = 0, 0
    limit = 200.0 * work_s
    while s.now < limit:
        stop, at = None, math.inf
        if index < len(stops):
            stop, at = stops[index], stops[index].at_s + (turn * period_s if turn else 0.0)
        elif stops and math.isfinite(period_s):
            index, turn = 0, turn + 1
            continue
        left = need - s.saved
        wanted = left + stall * math.floor(left / near)
        reached, grown, ended = _work(run, s.now, at, wanted, repairs)
        s.grown += grown
        if ended is not None:
            s.stalls += stall * math.floor(left / near)
            s.fewer += ended - s.now - wanted - grown
            s.now = ended
            return _outcomes(run, s, work_s, need, slow)
        assert stop is not None
        index += 1
        if stop.replaced:
            heapq.heappush(repairs, at + stop.repair_s)
        ready = _ready(run, at, repairs)
        if at < s.ready:  # the job waits and does not run: it waits for this one too
            longer = max(ready - s.ready, 0.0)
            s.waits, s.ready, s.now = s.waits + longer, s.ready + longer, s.now + longer
            continue
        s.stops += 1
        if at > s.now:
            intervals = math.floor(reached / (near + stall))
            s.saved += intervals * near
            s.stalls += intervals * stall
            s.fewer += (at - s.now) - reached - grown
        _undo(run, s, stop)
        down = one(r.wide_total_s if stop.wide or stop.silent else r.near_total_s)
        if rng is not None and run.recovery_spread:
            z = float(rng.standard_normal())
            down *= math.exp(run.recovery_spread * z - run.recovery_spread**2 / 2.0)
        # what a recovery had still before it begins anew
        _take_back(s, max(s.now - at, 0.0))
        s.waits += ready - at
        s.ready = ready
        if stop.wide or stop.silent:
            s.wide_down += down
        else:
            s.near_down += down
        s.now = ready + down
    return _outcomes(run, s, math.inf, need, slow)


def _ready(run: Run, at: float, repairs: list[float]) -> float:
    """When no more units are in repair than there are spares; at once for a job that shrinks."""
    while repairs and repairs[0] <= at:
        heapq.heappop(repairs)
    if run.recovery.shrinks:
        return at
    over = len(repairs) - int(run.spares) * run.pools
    return heapq.nsmallest(over, repairs)[-1] if over > 0 else at


def _take_back(s: _State, over: float) -> None:
    """Take time of a recovery that did not pass out of the sums again."""
    for name in ("near_down", "wide_down"):
        part = min(over, getattr(s, name))
        setattr(s, name, getattr(s, name) - part)
        over -= part


def _work(
    run: Run, start: float, until: float, wanted: float, repairs: list[float]
) -> tuple[float, float, float | None]:
    """Seconds of full speed between two times, those that units took to join again, and the end if it was reached."""
    if until <= start:
        return 0.0, 0.0, None
    if not run.recovery.shrinks:
        if start + wanted <= until:
            return wanted, 0.0, start + wanted
        return until - start, 0.0, None
    done, grown, now = 0.0, 0.0, start
    missing = _missing(run, start, repairs)
    backs = sorted(t for t in repairs if start < t < until) if run.regrows_at_once else []
    for back in [*backs, until]:
        speed = run.speed_without(missing)
        if now < back:
            if speed > 0 and done + (back - now) * speed >= wanted:
                return wanted, grown, now + (wanted - done) / speed
            done += (back - now) * speed
            now = back
        if back < until and missing > _missing(run, back, repairs):
            missing -= 1
            joins = min(one(run.recovery.regrow_s), until - now)
            grown, now = grown + joins, now + joins
    return done, grown, None


def _missing(run: Run, now: float, repairs: list[float]) -> int:
    return max(sum(t > now for t in repairs) - int(run.spares) * run.pools, 0)


def _undo(run: Run, s: _State, stop: Stop) -> None:
    if not (stop.wide or stop.silent):
        return
    extra = math.fmod(s.saved - s.at_store + 1e-6, one(run.store_s))
    extra = 0.0 if extra < 2e-6 else extra
    if stop.silent:
        extra += one(run.silent_s)
    s.saved = max(s.saved - extra, 0.0)
    s.at_store = s.saved


def _outcomes(run: Run, s: _State, work_s: float, need: float, slow: tuple[float, float]) -> Outcomes:
    ended = math.isfinite(work_s)
    r = run.recovery
    near_total, wide_total = max(one(r.near_total_s), 1e-9), max(one(r.wide_total_s), 1e-9)
    share = one(run.planned_share)
    planned = s.now * share / (1.0 - share)
    work = work_s if ended else need / (1.0 + slow[0] + slow[1])
    losses = {
        "detection": s.near_down * r.detection_s / near_total + s.wide_down * r.wide_detection_s / wide_total,
        "restart": s.near_down * (r.restart_s + r.load_s) / near_total
        + s.wide_down * (r.wide_restart_s + r.wide_load_s) / wide_total
        + s.grown,
        "recomputed": s.now - s.near_down - s.wide_down - s.stalls - s.waits - s.fewer - s.grown - need,
        "checkpoint_stalls": s.stalls,
        "warm_up": s.near_down * r.warm_up_s / near_total + s.wide_down * r.warm_up_s / wide_total,
        "waiting_for_repair": s.waits,
        "fewer_devices": s.fewer,
        "planned_stops": planned,
        "slow_nodes": work * slow[0],
        "slow_links": work * slow[1],
    }
    wall = s.now + planned if ended else math.inf
    return Outcomes(
        wall_s=np.array([wall]),
        work_s=np.array([work]),
        losses_s={k: np.array([losses[k] if ended else math.inf]) for k in LOSSES},
        stops=np.array([float(s.stops) if ended else math.inf]),
        planned=np.array([wall * one(run.planned_per_s)]),
    )


def joined(outcomes: Sequence[Outcomes]) -> Outcomes:
    """Runs one after the other as columns."""
    return Outcomes(
        wall_s=np.concatenate([o.wall_s for o in outcomes]),
        work_s=np.concatenate([o.work_s for o in outcomes]),
        losses_s={k: np.concatenate([o.losses_s[k] for o in outcomes]) for k in LOSSES},
        stops=np.concatenate([o.stops for o in outcomes]),
        planned=np.concatenate([o.planned for o in outcomes]),
    )
