"""Routes for the timeline: what a task that sends, or a whole collective, puts on the links of the wired graph.

The replay shares links among the communications that overlap in time. It needs of each task one compressed row: links,
and bytes on them for one byte of the task's buffer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.network import evaluate
from fullmesh.network.collective_steps import Schedule, Step
from fullmesh.network.flow import solve
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray, Policy
from fullmesh.network.wiring.topology import Topology


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Compressed rows over links, one row for each route.

    Attributes
    ----------
    link_bytes_per_s : array of float, shape (links,)
        Only links that some route uses; those that always fill together are one.
    route_ptr, route_link, route_weight : arrays
        Bytes on a link for one byte of the buffer.
    latency_s : array of float, shape (routes,)
        Latencies one after another, to be added to the time on the wire.
    """

    link_bytes_per_s: FloatArray
    route_ptr: LongArray
    route_link: IntArray
    route_weight: FloatArray
    latency_s: FloatArray

    def alone_s(self, num_bytes: FloatArray) -> FloatArray:
        """Time of each route when nothing else is on the fabric, in seconds."""
        longest = np.zeros(len(self.latency_s))
        row = np.repeat(np.arange(len(longest)), np.diff(self.route_ptr))
        np.maximum.at(longest, row, self.route_weight / self.link_bytes_per_s[self.route_link])
        return np.asarray(longest * num_bytes + self.latency_s, float)


def _step_load(topology: Topology, step: Step, policy: Policy) -> tuple[FloatArray, float]:
    """Bytes on every link of one occurrence of a step, and its latency."""
    if len(step.members):
        load = np.zeros(len(topology.links))
        capacity = topology.capacity
        layer = next(x for x in topology.layers if isinstance(x, ClosLayer) and x.facts.in_network_reduction)
        for block, amount in (("access_up", step.up_bytes), ("access_down", step.down_bytes)):
            first, shape = layer.blocks()[block]
            row = first + layer.local[step.members][:, None] * shape[1] + np.arange(shape[1])
            share = capacity[row] / capacity[row].sum(axis=1, keepdims=True)
            load[row] += amount * share * layer.facts.efficiency / layer.facts.reduction_efficiency
        return load, layer.facts.latencies_s[-1] * step.hops
    routing = topology.route(step.src, step.dst, policy)
    solve.require_paths(routing)
    parts = np.bincount(routing.parent, minlength=len(step.src))
    size = (step.num_bytes / parts)[routing.parent]
    return solve.link_loads(topology, routing, size), float(routing.latency_s.max(initial=0.0)) * step.hops


def collective_routes(
    topology: Topology, plans: list[Schedule], *, policy: Policy | None = None, protocol: bool = True
) -> Routes:
    """One route for each schedule, its steps laid over one another.

    Alone, a route takes as long as its fullest link needs for all steps: the time of `evaluate.run` where every step is
    held up by the same links, as in rings and direct exchanges, and a lower bound otherwise.

    Parameters
    ----------
    protocol : bool
        Links at the share of their line rate that was measured.
    """
    fabric = evaluate.with_protocol(topology) if protocol else topology
    policy = policy or Policy()
    loads, latencies = [], []
    for plan in plans:
        total, latency = np.zeros(len(topology.links)), 0.0
        known: dict[int, tuple[FloatArray, float]] = {}
        for step in plan.steps:
            if id(step) not in known:
                known[id(step)] = _step_load(fabric, step, policy)
            total += known[id(step)][0] * step.repeats
            latency += known[id(step)][1] * step.repeats
        loads.append(total / plan.num_bytes)
        latencies.append(latency)
    return _pack(np.array(loads), fabric.capacity, np.array(latencies))


def _pack(loads: FloatArray, capacity: FloatArray, latency: FloatArray) -> Routes:
    """Rows without zeros, over links that differ: of links loaded in the same proportion the tightest is kept."""
    used = np.flatnonzero((loads > 0).any(axis=0))
    columns = loads[:, used]
    first = columns[(columns > 0).argmax(axis=0), np.arange(len(used))]
    alike = np.unique(np.rint(columns / first * 2.0**30), axis=1, return_inverse=True)[1].reshape(-1)
    room = capacity[used] / first
    order = np.lexsort((room, alike))
    keep = order[np.concatenate([[True], alike[order][1:] != alike[order][:-1]])]
    rows = columns[:, keep] / first[keep]
    where = rows > 0
    ptr = np.concatenate([[0], np.cumsum(where.sum(axis=1))]).astype(np.int64)
    return Routes(
        link_bytes_per_s=room[keep],
        route_ptr=ptr,
        route_link=np.nonzero(where)[1].astype(np.int32),
        route_weight=rows[where],
        latency_s=latency,
    )
