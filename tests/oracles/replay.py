"""Plain twins of the compiled kernels: slow, short, and written from the definitions, for tests and for reading."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import numpy.typing as npt

from fullmesh.timeline.engine.engines import Timeline
from fullmesh.timeline.schedule.graph import Floats, TaskGraph
from fullmesh.timeline.schedule.tasks import K_JOIN, S_COMPUTE, STREAMS

NUM_STREAMS = len(STREAMS)


def maxplus(graph: TaskGraph) -> Floats:
    """A task ends its duration after the last of its predecessors, shape (N,)."""
    end = np.zeros(len(graph))
    for i in range(1, len(graph)):
        end[i] = end[graph.pred[i]].max() + graph.duration_s[i]
    return end


def slack_s(timeline: Timeline) -> Floats:
    """How much longer every task could take without a longer step, shape (N,); zero along the critical path."""
    graph = timeline.graph
    latest = np.full(len(graph), timeline.step_s)
    for i in range(len(graph) - 1, 0, -1):
        for p in graph.pred[i]:
            latest[p] = min(latest[p], latest[i] - timeline.taken_s[i])
    return latest - timeline.end_s


def maxplus_levels(graph: TaskGraph) -> Floats:
    """The same in NumPy, one level of the graph at a time."""
    level = np.zeros(len(graph), dtype=np.int64)
    for i in range(1, len(graph)):
        level[i] = level[graph.pred[i]].max() + 1
    order = np.argsort(level, kind="stable")
    bounds = np.searchsorted(level[order], np.arange(level.max() + 2))
    end = np.zeros(len(graph))
    for a, b in itertools.pairwise(bounds[1:]):
        tasks = order[a:b]
        end[tasks] = end[graph.pred[tasks]].max(axis=1) + graph.duration_s[tasks]
    return end


def events(graph: TaskGraph) -> Floats:
    """Event replay with one running task a lane and queues in order of readiness, shape (N,)."""
    need = (graph.pred > 0).sum(axis=1)
    after: list[list[int]] = [[] for _ in range(len(graph))]
    for i in range(1, len(graph)):
        for p in graph.pred[i]:
            if p > 0:
                after[p].append(i)
    end = np.zeros(len(graph))
    queues: dict[int, list[int]] = {}
    busy: set[int] = set()
    running: list[tuple[float, int]] = []
    now = 0.0
    ready = [i for i in range(len(graph) - 1, 0, -1) if need[i] == 0]
    while True:
        while ready:
            i = ready.pop()
            if graph.kind[i] == K_JOIN:
                end[i] = now
                ready += _release(after[i], need)
                continue
            lane = int(graph.rank[i]) * NUM_STREAMS + int(graph.stream[i])
            if lane in busy:
                queues.setdefault(lane, []).append(i)
                continue
            busy.add(lane)
            heapq.heappush(running, (now + float(graph.duration_s[i]), i))
        if not running:
            return end
        now, i = heapq.heappop(running)
        end[i] = now
        lane = int(graph.rank[i]) * NUM_STREAMS + int(graph.stream[i])
        busy.discard(lane)
        if queues.get(lane):
            ready.append(queues[lane].pop(0))
        ready += _release(after[i], need)


def _release(after: list[int], need: npt.NDArray[np.int64]) -> list[int]:
    out = []
    for s in reversed(after):
        need[s] -= 1
        if need[s] == 0:
            out.append(s)
    return out


def shared(
    graph: TaskGraph,
    work: Floats,
    slow_compute: Floats,
    slow_comm: Floats,
    route_of: npt.NDArray[np.int32],
    routes: list[list[tuple[int, float]]],
    capacity: Floats,
) -> Floats:
    """Replay with rates that are worked out afresh for everything that runs at every instant, shape (N,)."""
    need = (graph.pred > 0).sum(axis=1)
    after: list[list[int]] = [[] for _ in range(len(graph))]
    for i in range(1, len(graph)):
        for p in graph.pred[i]:
            if p > 0:
                after[p].append(i)
    end = np.zeros(len(graph))
    rest: dict[int, float] = {}
    queues: dict[int, list[int]] = {}
    lanes: dict[int, int] = {}
    ready = [i for i in range(len(graph) - 1, 0, -1) if need[i] == 0]
    now = 0.0
    while True:
        while ready:
            i = ready.pop()
            if graph.kind[i] == K_JOIN:
                end[i] = now
                ready += _release(after[i], need)
                continue
            lane = int(graph.rank[i]) * NUM_STREAMS + int(graph.stream[i])
            if lane in lanes:
                queues.setdefault(lane, []).append(i)
                continue
            lanes[lane] = i
            rest[i] = float(work[i])
        if not rest:
            return end
        rates = _rates(graph, lanes, slow_compute, slow_comm, route_of, routes, capacity)
        step = min(rest[i] / rates[i] if rates[i] > 0 else np.inf for i in rest)
        if step == np.inf:
            return end
        now += step
        ended = [i for i in rest if rest[i] / rates[i] <= step * (1 + 1e-12)] if step > 0 else []
        ended += [i for i in rest if rest[i] <= 0 and i not in ended]
        for i in rest:
            rest[i] -= step * rates[i]
        for i in sorted(ended):
            del rest[i]
            end[i] = now
            lane = int(graph.rank[i]) * NUM_STREAMS + int(graph.stream[i])
            del lanes[lane]
            if queues.get(lane):
                ready.append(queues[lane].pop(0))
            ready += _release(after[i], need)


def _rates(
    graph: TaskGraph,
    lanes: dict[int, int],
    slow_compute: Floats,
    slow_comm: Floats,
    route_of: npt.NDArray[np.int32],
    routes: list[list[tuple[int, float]]],
    capacity: Floats,
) -> dict[int, float]:
    flows = [i for i in lanes.values() if route_of[i] >= 0]
    full = dict.fromkeys(lanes.values(), 1.0) | fair_shares(
        flows, [routes[route_of[i]] for i in flows], capacity
    )
    out = {}
    for lane, i in lanes.items():
        base = lane - lane % NUM_STREAMS
        if lane == base + S_COMPUTE:
            beside = [slow_compute[s] for s in range(1, NUM_STREAMS) if base + s in lanes]
            out[i] = full[i] / max([1.0, *beside])
        else:
            out[i] = full[i] / (slow_comm[lane % NUM_STREAMS] if base + S_COMPUTE in lanes else 1.0)
    return out


def fair_shares(
    flows: list[int], routes: list[list[tuple[int, float]]], capacity: Floats
) -> dict[int, float]:
    """Max-min fair rates by filling all flows together until a link is full, then the rest."""
    share: dict[int, float] = {}
    left = capacity.astype(float).copy()
    while len(share) < len(flows):
        total = np.zeros(len(capacity))
        for f, route in zip(flows, routes, strict=True):
            if f not in share:
                for link, weight in route:
                    total[link] += weight
        level = np.full(len(capacity), np.inf)
        np.divide(np.maximum(left, 0.0), total, out=level, where=total > 1e-12)
        tightest = int(level.argmin())
        for f, route in zip(flows, routes, strict=True):
            if f not in share and any(link == tightest for link, _ in route):
                share[f] = float(level[tightest])
                for link, weight in route:
                    left[link] -= weight * level[tightest]
    return share
