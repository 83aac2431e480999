"""Rates, loads and completion times of flows on a topology.

Three answers to the same question, from cheap to exact: the bottleneck bound (largest load over capacity), max-min
rates, and max-min with completion events. When all flows start together the bound is the makespan.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.errors import TopologyError
from fullmesh.network.flow.records import TIE, Paths, crossing_of, fresh_state, paths_of
from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray
from fullmesh.network.wiring.topology import Routing, Topology

_NONE = np.zeros((0, 0))
FEW_ENTRIES = 10_000  # of flows on links: up to here plain Python is quicker than to compile a kernel ...
MOST_PASSES = 64  # ... unless so many passes leave some flows unsettled


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Flows on links, ready for a solver: links that always fill together are one link here.

    Attributes
    ----------
    seg : array of int32, shape (flows, columns)
    mult : array of float, shape (flows, columns) or (0, 0)
        Equal flows that an entry stands for.
    ptr, link, weight : arrays
        Segments as compressed rows over the merged links.
    cap : array of float
        Bytes per second of the merged links.
    """

    seg: IntArray
    mult: FloatArray
    ptr: LongArray
    link: IntArray
    weight: FloatArray
    cap: FloatArray


def segment_flows(routing: Routing, amount: FloatArray, mult: FloatArray = _NONE) -> FloatArray:
    """Sum of ``amount`` over the flows of each segment."""
    out = np.zeros(routing.num_segments)
    for c in range(routing.seg.shape[1]):
        used = routing.seg[:, c] >= 0
        value = np.asarray(amount * mult[:, c] if mult.size else amount, np.float64)
        if used.all():
            count = np.bincount(routing.seg[:, c], weights=value, minlength=len(out))
        else:
            count = np.bincount(routing.seg[used, c], weights=value[used], minlength=len(out))
        out += count.astype(np.float64)
    return out


def link_loads(
    topology: Topology, routing: Routing, amount: FloatArray, mult: FloatArray = _NONE
) -> FloatArray:
    """Load of every link, in the unit of ``amount`` (bytes, or bytes per second)."""
    per_segment = segment_flows(routing, amount, mult)
    rows = np.repeat(per_segment, np.diff(routing.ptr))
    return np.bincount(routing.link, weights=routing.weight * rows, minlength=len(topology.links)).astype(
        float
    )


def require_paths(routing: Routing) -> None:
    """Refuse flows that the policy sends into something dead."""
    if routing.cut.any():
        raise TopologyError(
            f"{int(routing.cut.sum())} of {routing.num_flows} flows have no path",
            expected="a living path for every flow",
            hint="the static split keeps sending into a dead plane; try --policy resplit",
        )


def bottleneck(
    topology: Topology, routing: Routing, size: FloatArray, mult: FloatArray = _NONE
) -> tuple[float, int]:
    """The bottleneck bound: seconds that the fullest link needs, and its number.

    Exact for flows that start together wherever max-min sharing keeps that link busy to the end, which it does when
    every flow on it is limited by it; a lower bound always.

    Parameters
    ----------
    size : array of float, shape (flows,)
        Bytes of each flow.
    """
    require_paths(routing)
    load = link_loads(topology, routing, size, mult)
    capacity = topology.capacity
    time = np.divide(load, capacity, out=np.where(load > 0, np.inf, 0.0), where=capacity > 0)
    worst = int(time.argmax())
    return float(time[worst]), worst


def make_problem(topology: Topology, routing: Routing, mult: FloatArray = _NONE) -> Problem:
    """Merge links that carry the same segments in the same proportion; only the tightest of them can bind.

    Seven planes with one spray pattern are one link after this, exactly.
    """
    from fullmesh.network.flow import colours as kernels_colour

    ptr, link, weight, cap = kernels_colour.merge_links(
        routing.ptr, routing.link, np.ascontiguousarray(routing.weight, float), topology.capacity
    )
    return Problem(
        seg=np.ascontiguousarray(routing.seg), mult=mult, ptr=ptr, link=link, weight=weight, cap=cap
    )


def drop_slack(problem: Problem) -> Problem:
    """Leave out links that cannot bind: those not full even when all links that feed them are.

    Worth its cost before an event simulation. Only segments of one link are considered.
    """
    single = np.diff(problem.ptr) == 1
    if problem.mult.size or problem.seg.shape[1] < 2:
        return problem
    most = np.full(len(problem.ptr) - 1, np.inf)  # bytes/s that a segment can carry at most
    row = problem.ptr[:-1][single]
    alone = np.bincount(problem.link, minlength=len(problem.cap)) == 1
    most[single] = problem.cap[problem.link[row]] / problem.weight[row]
    candidate = np.zeros(len(most), bool)
    candidate[single] = alone[problem.link[row]]
    slack = np.zeros(len(most), bool)
    for feeder in range(min(2, problem.seg.shape[1])):
        for column in range(2, problem.seg.shape[1]):
            both = (problem.seg[:, feeder] >= 0) & (problem.seg[:, column] >= 0)
            if not both.any():
                continue
            a, b = problem.seg[both, feeder].astype(np.int64), problem.seg[both, column].astype(np.int64)
            pair = np.unique(b * len(most) + a)
            inflow = np.bincount(pair // len(most), weights=most[pair % len(most)], minlength=len(most))
            covered = np.bincount(
                problem.seg[problem.seg[:, column] >= 0, column], minlength=len(most)
            ) == np.bincount(b, minlength=len(most))
            full = np.bincount(b, minlength=len(most)) > 0
            slack |= candidate & full & covered & (inflow <= most * (1 + 1e-12))
    # A segment may stand in one column only for the test above to see all of its flows.
    places = sum(
        (np.bincount(problem.seg[problem.seg[:, c] >= 0, c], minlength=len(most)) > 0).astype(int)
        for c in range(problem.seg.shape[1])
    )
    slack &= places == 1
    if not slack.any():
        return problem
    seg = np.where((problem.seg >= 0) & slack[problem.seg], -1, problem.seg)
    order = np.argsort(seg < 0, axis=1, kind="stable")
    packed = np.take_along_axis(seg, order, axis=1)
    width = max(int((packed >= 0).any(axis=0).sum()), 1)
    alive, place = np.unique(packed[:, :width], return_inverse=True)
    place = place.reshape(len(seg), width).astype(np.int32)
    if alive.size and alive[0] == -1:
        alive, place = alive[1:], place - 1
    lengths = np.diff(problem.ptr)[alive]
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    take = np.repeat(problem.ptr[alive] - ptr[:-1], lengths) + np.arange(ptr[-1])
    links, link = np.unique(problem.link[take], return_inverse=True)
    return Problem(
        seg=np.ascontiguousarray(place),
        mult=problem.mult,
        ptr=ptr,
        link=link.astype(np.int32),
        weight=problem.weight[take],
        cap=problem.cap[links],
    )


def max_min_rates(problem: Problem) -> FloatArray:
    """Max-min fair rate of each flow in bytes per second, shape (flows,); infinite for a flow without links."""
    paths = paths_of(problem)
    rate = np.empty(len(problem.seg))
    entries = (
        len(problem.seg) * problem.seg.shape[1] * max(1, len(problem.link) // max(1, len(problem.ptr) - 1))
    )
    if entries <= FEW_ENTRIES:
        active, left = _settle_few(paths, rate)
        if not len(active):
            return rate
    from fullmesh.network.flow import waterfill

    if entries > FEW_ENTRIES:
        scratch = waterfill.fresh_pass(paths)
        active = np.empty(len(problem.seg), np.int32)
        active = active[: waterfill.settle_alike(paths, scratch, active, rate)]
        left = scratch.left
        if not len(active):
            return rate
    state = fresh_state(paths, crossing_of(paths, active))
    state.links.left[:] = left
    state.flows.rate[:] = rate
    waterfill.settle_by_level(state, active)
    return state.flows.rate


def _settle_few(paths: Paths, rate: FloatArray) -> tuple[IntArray, FloatArray]:
    """`fullmesh.network.flow.waterfill.settle_alike` for few flows: done before that is compiled or even loaded.

    Returns
    -------
    tuple of arrays
        Flows that are left after `MOST_PASSES`, int32, and bytes per second that links have left, shape (links,).
    """
    rate[:] = np.inf
    ptr, link, weight, left = (
        paths.ptr.tolist(),
        paths.link.tolist(),
        paths.weight.tolist(),
        paths.cap.tolist(),
    )
    mult = paths.mult.tolist()
    open_paths: dict[
        int, list[tuple[int, float]]
    ] = {}  # links of each flow whose rate is not known, and its share
    for flow, row in enumerate(paths.seg.tolist()):
        for column, segment in enumerate(row):
            if segment >= 0:
                many = mult[flow][column] if mult else 1.0
                entries = range(ptr[segment], ptr[segment + 1])
                open_paths.setdefault(flow, []).extend((link[e], weight[e] * many) for e in entries)
    for _ in range(MOST_PASSES):
        total = [0.0] * len(left)
        for path in open_paths.values():
            for ln, part in path:
                total[ln] += part
        share = [
            max(rest, 0.0) / all_of if all_of > 0 else np.inf
            for rest, all_of in zip(left, total, strict=True)
        ]
        smallest, best = [True] * len(left), {}
        for flow, path in open_paths.items():
            best[flow] = least = min([share[ln] for ln, _ in path])
            for ln, _ in path:
                if share[ln] > least * (1 + TIE):
                    smallest[ln] = False
        for flow in [f for f, path in open_paths.items() if any(smallest[ln] for ln, _ in path)]:
            rate[flow] = best[flow]
            for ln, part in open_paths.pop(flow):
                left[ln] -= part * best[flow]
        if not open_paths:
            break
    return np.array(list(open_paths), np.int32), np.array(left)


def completion_times(
    problem: Problem, size: FloatArray, start: FloatArray | None = None, *, tolerance: float = 0.0
) -> tuple[FloatArray, int]:
    """Completion time of each flow when rates are shared anew at every start and completion.

    Parameters
    ----------
    size : array of float
        Bytes of each flow.
    start : array of float, optional
        Seconds at which each flow may start sending (its latency included); all at 0 by default.
    tolerance : float
        Completions that lie within this share of the clock are one event. 0 is exact; 1e-3 is 4 to 80 times quicker
        and at most a few thousandths early.

    Returns
    -------
    tuple of (array of float, int)
        Seconds, infinite for flows that never move; and the number of solves.
    """
    from fullmesh.network.flow import events

    order = _by_fullest(problem, size)
    problem = dataclasses.replace(problem, seg=np.ascontiguousarray(problem.seg[order]))
    paths = paths_of(problem)
    crossing = crossing_of(paths, np.arange(len(size)))
    places = events.Places(np.zeros(problem.seg.shape, np.int64), np.zeros(len(crossing.flow), np.int32))
    crossing.num_flows[:] = 0  # none runs yet
    begin = np.zeros(len(size)) if start is None else np.asarray(start, np.float64)
    transfers = events.fresh_transfers(size[order], begin[order])
    solves = events.simulate(fresh_state(paths, crossing), transfers, places, float(tolerance))
    finish = np.empty(len(size))
    finish[order] = transfers.finish
    return finish, int(solves)


def _by_fullest(problem: Problem, size: FloatArray) -> LongArray:
    """Flows in an order that puts those of a hot endpoint side by side: their rates change together."""
    most, best = 0.0, np.zeros(len(size), np.int32)
    for segment in problem.seg.T:
        used = segment >= 0
        load = np.bincount(segment[used], weights=size[used], minlength=1).max()
        if load > most:
            most, best = load, segment
    return np.argsort(best, kind="stable")
