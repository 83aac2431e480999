"""Compiled replay kernels. Each has a plain twin in :mod:`oracles.replay`."""

from __future__ import annotations

import numpy as np
from numba import njit

from fullmesh.timeline.schedule.tasks import K_JOIN, STREAMS

NUM_STREAMS = len(STREAMS)


@njit(cache=True)
def maxplus(pred, duration, end):  # type: ignore[no-untyped-def]
    """Ends of all tasks in one pass; ``pred`` is unsigned, so that indexing needs no test for negative numbers."""
    end[0] = duration[0]
    for i in range(np.uint64(1), np.uint64(len(duration))):
        a, b, c = end[pred[i, 0]], end[pred[i, 1]], end[pred[i, 2]]
        end[i] = max(a, b, c) + duration[i]


@njit(cache=True)
def starts(pred, end, start):  # type: ignore[no-untyped-def]
    """When every task could start: the latest end among its predecessors."""
    start[0] = 0.0
    for i in range(1, len(end)):
        start[i] = max(end[pred[i, 0]], end[pred[i, 1]], end[pred[i, 2]])


@njit(cache=True)
def slack(pred, duration, end, finish, out):  # type: ignore[no-untyped-def]
    """How much later every task could end without the step ending after ``finish``."""
    n = len(end)
    out[:] = finish
    for i in range(n - 1, 0, -1):
        latest = out[i] - duration[i]
        for j in range(3):
            p = pred[i, j]
            if latest < out[p]:
                out[p] = latest
    for i in range(n):
        out[i] -= end[i]


@njit(cache=True)
def successors(pred):  # type: ignore[no-untyped-def]
    """Compressed rows of successors, and how many predecessors each task has (0 does not count)."""
    n = len(pred)
    ptr = np.zeros(n + 1, np.int32)
    need = np.zeros(n, np.int8)
    for i in range(1, n):
        for j in range(3):
            p = pred[i, j]
            if p > 0:
                ptr[p + 1] += 1
                need[i] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    at = ptr[:-1].copy()
    succ = np.empty(ptr[n], np.int32)
    for i in range(1, n):
        for j in range(3):
            p = pred[i, j]
            if p > 0:
                succ[at[p]] = i
                at[p] += 1
    return ptr, succ, need


@njit(cache=True, inline="always")
def less(k1, t1, k2, t2):  # type: ignore[no-untyped-def]
    return k1 < k2 or (k1 == k2 and t1 < t2)


@njit(cache=True)
def _up(key, item, i, k, v):  # type: ignore[no-untyped-def]
    while i > 0:
        parent = (i - 1) >> 1
        if not less(k, v, key[parent], item[parent]):
            break
        key[i], item[i] = key[parent], item[parent]
        i = parent
    key[i], item[i] = k, v


@njit(cache=True)
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


@njit(cache=True)
def events(kind, lane, duration, ptr, succ, need, num_lanes, start, end):  # type: ignore[no-untyped-def]
    """Event replay with one running task a lane; a ready task that finds its lane busy queues in order of readiness.

    Ties are broken by the number of the task, so that the result does not depend on anything else. Returns the number
    of tasks that ran.
    """
    n = len(duration)
    need = need.copy()
    key, item = np.empty(num_lanes + 1), np.empty(num_lanes + 1, np.int32)
    size = 0
    busy = np.zeros(num_lanes, np.bool_)
    queue_head = np.full(num_lanes, -1, np.int32)
    queue_tail = np.full(num_lanes, -1, np.int32)
    following = np.empty(n, np.int32)
    stack = np.empty(n, np.int32)
    start[0], end[0] = 0.0, 0.0
    top = 0
    now = 0.0
    ran = 1
    for i in range(n - 1, 0, -1):
        if need[i] == 0:
            stack[top] = i
            top += 1
    hole = False  # the root has been served and may be overwritten
    while True:
        while top > 0:
            top -= 1
            i = stack[top]
            if kind[i] == K_JOIN:
                start[i], end[i] = now, now
                ran += 1
                for e in range(ptr[i + 1] - 1, ptr[i] - 1, -1):
                    s = succ[e]
                    need[s] -= 1
                    if need[s] == 0:
                        stack[top] = s
                        top += 1
                continue
            ln = lane[i]
            if busy[ln]:
                following[i] = -1
                if queue_head[ln] < 0:
                    queue_head[ln] = i
                else:
                    following[queue_tail[ln]] = i
                queue_tail[ln] = i
                continue
            busy[ln] = True
            start[i] = now
            done = now + duration[i]
            end[i] = done
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
            hole = False
        if size == 0:
            return ran
        now = key[0]
        i = item[0]
        hole = True
        ran += 1
        ln = lane[i]
        busy[ln] = False
        if queue_head[ln] >= 0:
            stack[top] = queue_head[ln]
            top += 1
            queue_head[ln] = following[queue_head[ln]]
        for e in range(ptr[i + 1] - 1, ptr[i] - 1, -1):
            s = succ[e]
            need[s] -= 1
            if need[s] == 0:
                stack[top] = s
                top += 1
