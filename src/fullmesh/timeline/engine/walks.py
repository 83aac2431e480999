"""Compiled walks over a replayed graph: the chain that a task waited for, gaps on the compute stream."""

from __future__ import annotations

import numpy as np
from numba import njit

from fullmesh.timeline.schedule.tasks import (
    K_BACKWARD,
    K_FORWARD,
    K_INPUT,
    K_JOIN,
    K_PAIRED_BACKWARD,
    K_PAIRED_FORWARD,
    K_RECOMPUTE,
    S_COMPUTE,
)

# Phases of a rank that a gap may fall into; PEERS is a wait for another device of the same stage, in any phase.
WARM_UP, STEADY, COOL_DOWN, AFTER, PEERS = range(5)


@njit(cache=True)
def _latest(pred, end, i):  # type: ignore[no-untyped-def]
    """The predecessor that ended last; the first of them on a tie."""
    best = pred[i, 0]
    if end[pred[i, 1]] > end[best]:
        best = pred[i, 1]
    if end[pred[i, 2]] > end[best]:
        best = pred[i, 2]
    return best


@njit(cache=True)
def critical(pred, kind, start, end, out):  # type: ignore[no-untyped-def]
    """Tasks of the longest chain, last first, written to ``out``; returns how many."""
    i = 0
    for j in range(len(end)):
        if end[j] > end[i] or (end[j] == end[i] and kind[i] == K_JOIN):
            i = j
    n = 0
    while i > 0:
        if kind[i] != K_JOIN:
            out[n] = i
            n += 1
        i = _latest(pred, end, i)
    return n


@njit(cache=True)
def gaps(pred, kind, stream, rank, start, end, num_rows, num_stages, num_kinds):  # type: ignore[no-untyped-def]
    """What every row does, and what its gaps wait for.

    For the length of a gap the chain behind the task that ends it is followed back in time; the gap is split over what
    the tasks of that chain were doing meanwhile.

    Returns
    -------
    busy : array, shape (rows, kinds)
        Seconds of each kind on the compute stream.
    waited : array, shape (rows, 5, kinds)
        Seconds waited in each phase for tasks of each kind.
    who, whom, how_long : arrays
        One entry for each piece of a gap that another row accounts for.
    """
    n = len(end)
    first_backward = np.full(num_rows, np.inf)
    last_forward = np.full(num_rows, -np.inf)
    for i in range(1, n):
        r, k = rank[i], kind[i]
        if k in (K_BACKWARD, K_INPUT, K_PAIRED_BACKWARD, K_RECOMPUTE):
            first_backward[r] = min(first_backward[r], start[i])
        elif k in (K_FORWARD, K_PAIRED_FORWARD):
            last_forward[r] = max(last_forward[r], start[i])
    busy = np.zeros((num_rows, num_kinds))
    waited = np.zeros((num_rows, 5, num_kinds))
    until = np.zeros(num_rows)
    size = 1024
    who, whom, how_long = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float64)
    found = 0
    for i in range(1, n):
        if stream[i] != S_COMPUTE or kind[i] == K_JOIN:
            continue
        r = rank[i]
        gap_from, at = until[r], start[i]
        busy[r, kind[i]] += end[i] - start[i]
        until[r] = max(until[r], end[i])
        if at - gap_from <= 1e-12 * at:
            continue
        phase = STEADY
        if at <= first_backward[r]:
            phase = WARM_UP
        elif gap_from >= last_forward[r]:
            phase = COOL_DOWN
        j = _latest(pred, end, i)
        while at > gap_from:
            if j == 0:
                waited[r, phase, K_JOIN] += at - gap_from
                break
            if kind[j] != K_JOIN:
                begin = max(start[j], gap_from)
                piece = min(end[j], at) - begin
                if piece > 0:
                    peer = rank[j] != r and rank[j] % num_stages == r % num_stages
                    waited[r, PEERS if peer else phase, kind[j]] += piece
                    if rank[j] != r:
                        if found == size:
                            size *= 2
                            who2, whom2, how2 = (
                                np.empty(size, np.int32),
                                np.empty(size, np.int32),
                                np.empty(size),
                            )
                            who2[:found], whom2[:found], how2[:found] = who, whom, how_long
                            who, whom, how_long = who2, whom2, how2
                        who[found], whom[found], how_long[found] = r, rank[j], piece
                        found += 1
                at = begin
                if start[j] <= gap_from:
                    break
            j = _latest(pred, end, j)
    finish = 0.0
    for i in range(n):
        finish = max(finish, end[i])
    for r in range(num_rows):
        waited[r, AFTER, K_JOIN] += finish - until[r]
    return busy, waited, who[:found].copy(), whom[:found].copy(), how_long[:found].copy()
