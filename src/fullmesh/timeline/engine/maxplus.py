"""Compiled replay kernels. Each has a plain twin in :mod:`oracles.replay`.

In come the predecessors of every task and its seconds, out go the seconds at which each starts and ends. N is the
number of tasks; task 0 is the start of the step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel
from fullmesh.timeline.schedule.graph import Floats, Ids, TaskGraph
from fullmesh.timeline.schedule.tasks import K_JOIN


class Edges(NamedTuple):
    """What waits for what.

    Attributes
    ----------
    ptr : int32, shape (N + 1,)
        Where the successors of each task begin.
    succ : int32, shape (edges,)
    need : int8, shape (N,)
        Predecessors that have not ended; kernels count it down.
    """

    ptr: Ids
    succ: Ids
    need: npt.NDArray[np.int8]


class Lanes(NamedTuple):
    """Streams of ranks, and the tasks that wait for one to be free.

    Attributes
    ----------
    key : float64, shape (lanes + 1,)
        Heap: seconds at which running tasks end.
    item : int32, shape (lanes + 1,)
        Their numbers.
    busy : bool, shape (lanes,)
    head, tail : int32, shape (lanes,)
        First and last task in the queue of a lane, -1 if there is none.
    following : int32, shape (N,)
        Next task in the queue.
    ready : int32, shape (N,)
        Stack of tasks whose predecessors have ended.
    """

    key: Floats
    item: Ids
    busy: npt.NDArray[np.bool_]
    head: Ids
    tail: Ids
    following: Ids
    ready: Ids


def fresh_lanes(num_lanes: int, num_tasks: int) -> Lanes:
    """Idle lanes."""
    return Lanes(
        key=np.empty(num_lanes + 1),
        item=np.empty(num_lanes + 1, np.int32),
        busy=np.zeros(num_lanes, np.bool_),
        head=np.full(num_lanes, -1, np.int32),
        tail=np.full(num_lanes, -1, np.int32),
        following=np.empty(num_tasks, np.int32),
        ready=np.empty(num_tasks, np.int32),
    )


@kernel
def maxplus(pred: npt.NDArray[np.uint32], duration: Floats, end: Floats) -> None:
    """Write the ends of all tasks in one pass.

    Parameters
    ----------
    pred : uint32, shape (N, 3)
        Unsigned, so that indexing needs no test for negative numbers.
    duration, end : float64, shape (N,)
        Seconds.
    """
    end[0] = duration[0]
    for i in range(np.uint64(1), np.uint64(len(duration))):
        a, b, c = end[pred[i, 0]], end[pred[i, 1]], end[pred[i, 2]]
        end[i] = max(max(a, b), c) + duration[i]  # noqa: PLW3301 (max of three compiles slowly)


@kernel
def starts(pred: npt.NDArray[np.uint32], end: Floats, start: Floats) -> None:
    """Write when every task could start: the latest end among its predecessors. Shapes as in `maxplus`."""
    start[0] = 0.0
    for i in range(1, len(end)):
        start[i] = max(max(end[pred[i, 0]], end[pred[i, 1]]), end[pred[i, 2]])  # noqa: PLW3301


@kernel
def _count_successors(pred: Ids, ptr: Ids, need: npt.NDArray[np.int8]) -> None:
    for i in range(1, len(pred)):
        for j in range(3):
            p = pred[i, j]
            if p > 0:
                ptr[p + 1] += 1
                need[i] += 1
    for i in range(len(pred)):
        ptr[i + 1] += ptr[i]


@kernel
def _list_successors(pred: Ids, at: Ids, succ: Ids) -> None:
    for i in range(1, len(pred)):
        for j in range(3):
            p = pred[i, j]
            if p > 0:
                succ[at[p]] = i
                at[p] += 1


def edges_of(graph: TaskGraph) -> Edges:
    """Successors of every task in order, and how many predecessors each has (0 does not count)."""
    ptr, need = np.zeros(len(graph) + 1, np.int32), np.zeros(len(graph), np.int8)
    _count_successors(graph.pred, ptr, need)
    succ = np.empty(ptr[-1], np.int32)
    _list_successors(graph.pred, ptr[:-1].copy(), succ)
    return Edges(ptr, succ, need)


@inlined
def less(k1, t1, k2, t2):  # type: ignore[no-untyped-def]
    return k1 < k2 or (k1 == k2 and t1 < t2)


@inlined
def _up(key, item, i, k, v):  # type: ignore[no-untyped-def]
    while i > 0:
        parent = (i - 1) >> 1
        if not less(k, v, key[parent], item[parent]):
            break
        key[i], item[i] = key[parent], item[parent]
        i = parent
    key[i], item[i] = k, v


@inlined
def _down(key, item, size, k, v):  # type: ignore[no-untyped-def]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and less(key[child + 1], item[child + 1], key[child], item[child]):
            child += 1
        if not less(key[child], item[child], k, v):
            break
        key[i], item[i] = key[child], item[child]
        i = child
    key[i], item[i] = k, v


@inlined
def release(edges, i, ready, top):  # type: ignore[no-untyped-def]
    """Put on the stack the tasks that waited for task ``i`` alone, the first of them on top; returns its new height."""
    for e in range(edges.ptr[i + 1] - 1, edges.ptr[i] - 1, -1):
        s = edges.succ[e]
        edges.need[s] -= 1
        if edges.need[s] == 0:
            ready[top] = s
            top += 1
    return top


@inlined
def first_ready(edges, ready):  # type: ignore[no-untyped-def]
    """Put on the stack the tasks that wait for nothing; returns its height."""
    top = 0
    for i in range(len(edges.need) - 1, 0, -1):
        if edges.need[i] == 0:
            ready[top] = i
            top += 1
    return top


@inlined
def wait_in_line(head, tail, following, ln, i):  # type: ignore[no-untyped-def]
    """Put task ``i`` at the end of the queue of lane ``ln``."""
    following[i] = -1
    if head[ln] < 0:
        head[ln] = i
    else:
        following[tail[ln]] = i
    tail[ln] = i


@kernel
def events(
    kind: npt.NDArray[np.int8],
    lane: Ids,
    duration: Floats,
    edges: Edges,
    lanes: Lanes,
    start: Floats,
    end: Floats,
) -> int:
    """Event replay with one running task a lane; a ready task that finds its lane busy queues in order of readiness.

    Ties are broken by the number of the task, so that the result does not depend on anything else.

    Parameters
    ----------
    kind : int8, shape (N,)
    lane : int32, shape (N,)
        Rank and stream in one number.
    duration : float64, shape (N,)
        Seconds.
    edges : Edges
        Its ``need`` is used up.
    lanes : Lanes
        As `fresh_lanes` gives them.
    start, end : float64, shape (N,)
        Receive seconds.

    Returns
    -------
    int
        Tasks that ran.
    """
    key, item, ready = lanes.key, lanes.item, lanes.ready
    start[0], end[0] = 0.0, 0.0
    now, ran, size, top = 0.0, 1, 0, first_ready(edges, ready)
    hole = False  # the root has been served and may be overwritten
    while True:
        while top > 0:
            top -= 1
            i = ready[top]
            if kind[i] == K_JOIN:
                start[i], end[i] = now, now
                ran += 1
                top = release(edges, i, ready, top)
                continue
            ln = lane[i]
            if lanes.busy[ln]:
                wait_in_line(lanes.head, lanes.tail, lanes.following, ln, i)
                continue
            lanes.busy[ln] = True
            done = now + duration[i]
            start[i], end[i] = now, done
            if hole:
                _down(key, item, size, done, i)
                hole = False
            else:
                _up(key, item, size, done, i)
                size += 1
        if hole:
            size -= 1
            if size > 0:
                _down(key, item, size, key[size], item[size])
        if size == 0:
            return ran
        now, i = key[0], item[0]
        hole = True
        ran += 1
        ln = lane[i]
        lanes.busy[ln] = False
        if lanes.head[ln] >= 0:
            ready[top] = lanes.head[ln]
            top += 1
            lanes.head[ln] = lanes.following[lanes.head[ln]]
        top = release(edges, i, ready, top)
