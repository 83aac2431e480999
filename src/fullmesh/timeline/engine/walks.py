"""Compiled walks over a replayed graph: the chain that a task waited for, gaps on the compute stream.

In comes a replayed graph of N tasks on R rows, out go seconds by row, phase and kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel
from fullmesh.timeline.schedule.graph import Floats, Ids, TaskGraph
from fullmesh.timeline.schedule.tasks import (
    K_BACKWARD,
    K_FORWARD,
    K_INPUT,
    K_JOIN,
    K_PAIRED_BACKWARD,
    K_PAIRED_FORWARD,
    K_RECOMPUTE,
    KINDS,
    S_COMPUTE,
)

# Phases of a rank that a gap may fall into; PEERS is a wait for another device of the same stage, in any phase.
WARM_UP, STEADY, COOL_DOWN, AFTER, PEERS = range(5)


@inlined
def _latest(pred, end, i):  # type: ignore[no-untyped-def]
    """The predecessor that ended last; the first of them on a tie."""
    best = pred[i, 0]
    if end[pred[i, 1]] > end[best]:
        best = pred[i, 1]
    if end[pred[i, 2]] > end[best]:
        best = pred[i, 2]
    return best


@kernel
def critical(pred: Ids, kind: npt.NDArray[np.int8], end: Floats, out: Ids) -> int:
    """Write tasks of the longest chain to ``out`` (int32, shape (N,)), last first; returns how many."""
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


class Ran(NamedTuple):
    """A replayed graph.

    Attributes
    ----------
    pred : int32, shape (N, 3)
    kind, stream : int8, shape (N,)
    rank : int32, shape (N,)
    start, end : float64, shape (N,)
        Seconds.
    """

    pred: Ids
    kind: npt.NDArray[np.int8]
    stream: npt.NDArray[np.int8]
    rank: Ids
    start: Floats
    end: Floats


class Gaps(NamedTuple):
    """What rows do, and what their gaps wait for.

    Attributes
    ----------
    busy : float64, shape (R, kinds)
        Seconds of each kind on the compute stream.
    waited : float64, shape (R, 5, kinds)
        Seconds waited in each phase for tasks of each kind.
    who, whom : int32, shape (pieces,)
        Row that waits and row that it waits for, for each piece of a gap that another row accounts for.
    how_long : float64, shape (pieces,)
        Seconds.
    """

    busy: Floats
    waited: Floats
    who: Ids
    whom: Ids
    how_long: Floats


class Rows(NamedTuple):
    """Seconds of each row, shape (R,): first backward pass, last forward pass, end of the last computation so far."""

    first_backward: Floats
    last_forward: Floats
    until: Floats


@inlined
def _turn(ran, rows):  # type: ignore[no-untyped-def]
    """Find when each row turns from forward to backward passes."""
    for i in range(1, len(ran.end)):
        r, k = ran.rank[i], ran.kind[i]
        if k in (K_BACKWARD, K_INPUT, K_PAIRED_BACKWARD, K_RECOMPUTE):
            rows.first_backward[r] = min(rows.first_backward[r], ran.start[i])
        elif k in (K_FORWARD, K_PAIRED_FORWARD):
            rows.last_forward[r] = max(rows.last_forward[r], ran.start[i])


@inlined
def _explain(ran, gaps, i, gap_from, phase, num_stages, found):  # type: ignore[no-untyped-def]
    """Split the gap from ``gap_from`` to the start of task ``i`` over the chain behind that task.

    Returns the number of pieces so far; those beyond the room in ``gaps`` are counted and not kept.
    """
    r, at, j = ran.rank[i], ran.start[i], _latest(ran.pred, ran.end, i)
    while at > gap_from:
        if j == 0:
            gaps.waited[r, phase, K_JOIN] += at - gap_from
            break
        if ran.kind[j] != K_JOIN:
            begin = max(ran.start[j], gap_from)
            piece = min(ran.end[j], at) - begin
            if piece > 0:
                other = ran.rank[j]
                peer = other != r and other % num_stages == r % num_stages
                gaps.waited[r, PEERS if peer else phase, ran.kind[j]] += piece
                if other != r:
                    if found < len(gaps.who):
                        gaps.who[found], gaps.whom[found], gaps.how_long[found] = r, other, piece
                    found += 1
            at = begin
            if ran.start[j] <= gap_from:
                break
        j = _latest(ran.pred, ran.end, j)
    return found


@kernel
def _gaps(ran: Ran, rows: Rows, gaps: Gaps, num_stages: int) -> int:
    """Fill ``gaps``, which is zero; returns how many pieces there are."""
    _turn(ran, rows)
    found, finish = 0, 0.0
    for i in range(1, len(ran.end)):
        finish = max(finish, ran.end[i])
        if ran.stream[i] != S_COMPUTE or ran.kind[i] == K_JOIN:
            continue
        r = ran.rank[i]
        gap_from, at = rows.until[r], ran.start[i]
        gaps.busy[r, ran.kind[i]] += ran.end[i] - at
        rows.until[r] = max(gap_from, ran.end[i])
        if at - gap_from <= 1e-12 * at:
            continue
        phase = STEADY
        if at <= rows.first_backward[r]:
            phase = WARM_UP
        elif gap_from >= rows.last_forward[r]:
            phase = COOL_DOWN
        found = _explain(ran, gaps, i, gap_from, phase, num_stages, found)
    for r in range(len(rows.until)):
        gaps.waited[r, AFTER, K_JOIN] += finish - rows.until[r]
    return found


def gaps(graph: TaskGraph, start: Floats, end: Floats) -> Gaps:
    """What every row does, and what its gaps wait for.

    For the length of a gap the chain behind the task that ends it is followed back in time; the gap is split over what
    the tasks of that chain were doing meanwhile.

    Parameters
    ----------
    start, end : float64, shape (N,)
        Seconds at which the tasks of the graph ran.
    """
    ran, size, num = Ran(graph.pred, graph.kind, graph.stream, graph.rank, start, end), 0, len(graph)
    while num > size:  # a second time if there are more pieces than tasks
        size, rows = num, graph.num_ranks
        out = Gaps(
            np.zeros((rows, len(KINDS))), np.zeros((rows, 5, len(KINDS))),
            np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size),
        )  # fmt: skip
        turns = Rows(np.full(rows, np.inf), np.full(rows, -np.inf), np.zeros(rows))
        num = int(_gaps(ran, turns, out, graph.num_stages))
    return out._replace(who=out.who[:num], whom=out.whom[:num], how_long=out.how_long[:num])
