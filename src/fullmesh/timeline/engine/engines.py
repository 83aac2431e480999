"""Replay of a task graph, by the engine that the question needs.

``maxplus`` is exact while nothing slows anything else and is the fastest; ``event`` gives the same and also arbitrates
streams whose order is not fixed; ``contention`` lets computation and communication slow each other; ``fabric`` adds
links that routed transfers share. Where a cheaper engine is exact, all of them agree to the last bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.errors import ScenarioError, did_you_mean
from fullmesh.timeline.engine import maxplus as kernels
from fullmesh.timeline.engine import shared as kernels_shared
from fullmesh.timeline.schedule.graph import Floats, Ids, TaskGraph
from fullmesh.timeline.schedule.tasks import K_JOIN, K_SEND_BACKWARD, K_SEND_FORWARD, STREAMS

ENGINES = ("maxplus", "event", "contention", "fabric")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """By how much a stream and the computation beside it slow each other, per stream; 1 where not named.

    Parameters
    ----------
    compute : mapping of str to float
        Factor on computation while that stream is busy; the largest of those busy counts.
    communication : mapping of str to float
        Factor on that stream while the rank computes.
    """

    compute: Mapping[str, float] = dataclasses.field(default_factory=dict)
    communication: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> Floats:
        """Factors by stream.

        Raises
        ------
        ScenarioError
            A stream that does not exist, or a factor below one.
        """
        out = np.ones(len(STREAMS))
        for stream, factor in getattr(self, name).items():
            if stream not in STREAMS[1:]:
                raise ScenarioError(
                    f"the stream {stream!r} is unknown", hint=did_you_mean(stream, list(STREAMS[1:]))
                )
            if not factor >= 1.0:
                raise ScenarioError(f"a slowdown of {factor} for {stream}", expected="a factor of at least 1")
            out[STREAMS.index(stream)] = factor
        return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Links, routes over them, and which tasks send how much over which route.

    Parameters
    ----------
    link_bytes_per_s : float array, shape (L,)
    route_ptr, route_link, route_weight : arrays
        Routes as compressed rows: links and the share of the bytes that takes each.
    route_of : int32 array, shape (N,)
        Route of each task, -1 for tasks that keep their duration.
    bytes : float array, shape (N,)
    """

    link_bytes_per_s: Floats
    route_ptr: npt.NDArray[np.int64]
    route_link: Ids
    route_weight: Floats
    route_of: Ids
    bytes: Floats


def sends_of(graph: TaskGraph) -> tuple[npt.NDArray[np.int64], Ids, Ids]:
    """All sends between stages: their task numbers, the row that sends and the row that receives."""
    sends = np.isin(graph.kind, (K_SEND_FORWARD, K_SEND_BACKWARD))
    target = np.full(len(graph), -1, np.int32)
    for joined in (True, False):
        for j in range(3):
            source = graph.pred[:, j]
            other = graph.rank[source] != graph.rank
            used = np.flatnonzero(sends[source] & other & ((graph.kind == K_JOIN) == joined))
            target[source[used]] = graph.rank[used]
    tasks = np.flatnonzero(sends & (target >= 0))
    return tasks, graph.rank[tasks], target[tasks]


def network_over(
    graph: TaskGraph,
    tasks: npt.NDArray[np.int64],
    route: npt.NDArray[np.int64],
    num_bytes: Floats,
    *,
    link_bytes_per_s: Floats,
    route_ptr: npt.NDArray[np.int64],
    route_link: Ids,
    route_weight: Floats,
) -> Network:
    """Put tasks on routes, as :mod:`fullmesh.network.coupling` gives them for a wired machine.

    Parameters
    ----------
    tasks : int array, shape (T,)
        Tasks that share links; all others keep their durations.
    route : int array, shape (T,)
        Route of each.
    num_bytes : float array, shape (T,)
    """
    route_of = np.full(len(graph), -1, np.int32)
    route_of[tasks] = route
    amount = np.zeros(len(graph))
    amount[tasks] = num_bytes
    return Network(
        link_bytes_per_s=np.ascontiguousarray(link_bytes_per_s, np.float64),
        route_ptr=np.ascontiguousarray(route_ptr, np.int64),
        route_link=np.ascontiguousarray(route_link, np.int32),
        route_weight=np.ascontiguousarray(route_weight, np.float64),
        route_of=route_of,
        bytes=amount,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When every task ran.

    Parameters
    ----------
    graph : TaskGraph
    start_s, end_s : float array, shape (N,)
    engine : str
    engine_s : float
        Wall-clock seconds of the replay itself.
    num_solves : int
        Max-min solves of the ``fabric`` engine.
    """

    graph: TaskGraph
    start_s: Floats
    end_s: Floats
    engine: str
    engine_s: float
    num_solves: int = 0

    @property
    def step_s(self) -> float:
        """End of the last task."""
        return float(self.end_s.max())

    @property
    def taken_s(self) -> Floats:
        """Seconds that each task took, stretched where it was slowed."""
        return self.end_s - self.start_s


def shared_state(
    graph: TaskGraph, edges: kernels.Edges, contention: Contention, network: Network | None
) -> kernels_shared.State:
    """What the engine with rates starts from: nothing runs, nothing is on a link."""
    if network is None:
        none = np.zeros(0, np.int32)
        routes = kernels_shared.Routes(np.zeros(0), np.zeros(1, np.int64), none, np.zeros(0), none)
        work = graph.duration_s
    else:
        routes = kernels_shared.Routes(
            network.link_bytes_per_s,
            network.route_ptr,
            network.route_link,
            network.route_weight,
            network.route_of,
        )
        work = np.where(network.route_of >= 0, network.bytes, graph.duration_s)
    tasks = kernels_shared.Tasks(graph.kind, graph.stream, graph.rank, work)
    slow = kernels_shared.Slowdown(contention.column("compute"), contention.column("communication"))
    return kernels_shared.fresh_state(tasks, edges, slow, routes, graph.num_ranks)


def replay(
    graph: TaskGraph,
    engine: str | None = None,
    *,
    contention: Contention | None = None,
    network: Network | None = None,
) -> Timeline:
    """Run every task as soon as its predecessors have ended and its stream is free.

    Parameters
    ----------
    engine : str, optional
        One of ``ENGINES``; by default the cheapest that is exact for what else is given.

    Raises
    ------
    ScenarioError
        An unknown engine, one that cannot do what is asked, or transfers over a dead link.
    """
    if engine is None:
        engine = "fabric" if network else "contention" if contention else "maxplus"
    if engine not in ENGINES:
        raise ScenarioError(f"the engine {engine!r} is unknown", hint=did_you_mean(engine, list(ENGINES)))
    if (network and engine != "fabric") or (contention and engine not in ("contention", "fabric")):
        raise ScenarioError(
            f"the engine {engine!r} has neither slowdown nor links",
            hint="leave the engine out to get the one that has",
        )
    n = len(graph)
    start, end = np.empty(n), np.empty(n)
    solves = 0
    pred = graph.pred.view(np.uint32)
    if engine == "maxplus":
        began = time.perf_counter()
        kernels.maxplus(pred, graph.duration_s, end)
        took = time.perf_counter() - began
        kernels.starts(pred, end, start)
    else:
        edges = kernels.edges_of(graph)
        num_lanes = graph.num_ranks * len(STREAMS)
        if engine == "event":
            lane = graph.rank * np.int32(len(STREAMS)) + graph.stream
            began = time.perf_counter()
            lanes = kernels.fresh_lanes(num_lanes, n)
            ran = kernels.events(graph.kind, lane, graph.duration_s, edges, lanes, start, end)
        else:
            began = time.perf_counter()
            state = shared_state(graph, edges, contention or Contention(), network)
            ran, solves = kernels_shared.shared(state, start, end)
        took = time.perf_counter() - began
        if ran < n:
            raise ScenarioError(
                f"{n - ran} of {n} tasks never run",
                where="timeline",
                expected="every transfer on links that are alive",
                hint="a route over a link of no bandwidth stops the step",
            )
    return Timeline(
        graph=graph, start_s=start, end_s=end, engine=engine, engine_s=took, num_solves=int(solves)
    )
