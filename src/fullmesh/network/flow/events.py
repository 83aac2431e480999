"""Compiled kernel of completion events: flows run at max-min rates that are brought up to date as they come and go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fullmesh.compiled import inlined, kernel
from fullmesh.network.flow.records import TIE, State
from fullmesh.network.flow.settle import OPENED, STILL_OPEN, index, open_flow, settle, unload
from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray

_SUM_ANEW = 512  # solves after which loads are summed anew, so that rounding does not add up
_BLOCK = 64  # flows of a block, and blocks of a row, in the search for the next completion


class Transfers(NamedTuple):
    """What flows have to send, and how far they are.

    Attributes
    ----------
    start : float64, shape (flows,)
        Seconds at which each begins.
    by_start : int64, shape (flows,)
        Flows in order of ``start``.
    rest : float64, shape (flows,)
        Bytes that were left when the flow last stood still; of no meaning while it moves.
    due : float64, shape (flows,)
        Seconds at which each will end at its present rate; infinite for flows that do not run.
    first_due, row_due : float64, shape (blocks,) and (rows,)
        Least ``due`` of each 64 flows, and of each 64 blocks.
    finish : float64, shape (flows,)
        Seconds of completion: the answer.
    """

    start: FloatArray
    by_start: LongArray
    rest: FloatArray
    due: FloatArray
    first_due: FloatArray
    row_due: FloatArray
    finish: FloatArray


class Places(NamedTuple):
    """Where flows stand in ``Crossing.flow``, so that they can be taken out.

    Attributes
    ----------
    place : int64, shape (flows, columns)
    column : int32, shape (used entries of seg,)
        Column of the flow in that place.
    """

    place: LongArray
    column: IntArray


def fresh_transfers(size: FloatArray, start: FloatArray) -> Transfers:
    """Transfers of ``size`` bytes that begin at ``start`` seconds, none of them running yet."""
    n = len(size)
    blocks = -(-n // _BLOCK)
    return Transfers(
        start=start,
        by_start=np.argsort(start, kind="stable"),
        rest=size.astype(np.float64),
        due=np.full(n, np.inf),
        first_due=np.full(blocks, np.inf),
        row_due=np.full(-(-blocks // _BLOCK), np.inf),
        finish=np.zeros(n),
    )


@inlined
def _least(values, block):  # type: ignore[no-untyped-def]
    """Least of one block of ``values``."""
    best = np.inf
    for i in range(block * _BLOCK, min((block + 1) * _BLOCK, len(values))):
        best = min(best, values[i])
    return best


@inlined
def _expect(transfers, f, due):  # type: ignore[no-untyped-def]
    """Note when flow ``f`` will end."""
    was = transfers.due[f]
    transfers.due[f] = due
    b = f // _BLOCK
    first = transfers.first_due[b]
    if due < first:
        transfers.first_due[b] = due
    elif was == first and due > was:
        transfers.first_due[b] = _least(transfers.due, b)
    else:
        return
    row = b // _BLOCK
    now = transfers.first_due[b]
    if now < transfers.row_due[row]:
        transfers.row_due[row] = now
    elif first == transfers.row_due[row]:
        transfers.row_due[row] = _least(transfers.first_due, row)


@inlined
def _enter(state, places, f):  # type: ignore[no-untyped-def]
    """Put flow ``f`` on its segments."""
    crossing = state.crossing
    for c in range(state.paths.seg.shape[1]):
        s = state.paths.seg[f, c]
        if s >= 0:
            at = crossing.flow_ptr[s] + crossing.num_flows[s]
            crossing.flow[at] = f
            places.column[at] = c
            places.place[f, c] = at
            crossing.num_flows[s] += 1


@inlined
def _leave(state, places, f):  # type: ignore[no-untyped-def]
    """Take flow ``f`` off its segments; the last of each takes its place."""
    crossing = state.crossing
    for c in range(state.paths.seg.shape[1]):
        s = state.paths.seg[f, c]
        if s >= 0:
            crossing.num_flows[s] -= 1
            at, last = places.place[f, c], crossing.flow_ptr[s] + crossing.num_flows[s]
            moved, moved_column = crossing.flow[last], places.column[last]
            crossing.flow[at] = moved
            places.column[at] = moved_column
            places.place[moved, moved_column] = at


@inlined
def _sum_anew(state, transfers):  # type: ignore[no-untyped-def]
    """Work out what links have left from the rates of the flows that run."""
    paths, links = state.paths, state.links
    for ln in range(len(paths.cap)):
        links.left[ln] = paths.cap[ln]
    for f in range(len(transfers.due)):
        if transfers.due[f] < np.inf:
            for c in range(paths.seg.shape[1]):
                s = paths.seg[f, c]
                if s >= 0:
                    for e in range(paths.ptr[s], paths.ptr[s + 1]):
                        links.left[paths.link[e]] -= paths.weight[e] * state.flows.rate[f]


@inlined
def _start_flows(state, transfers, places, coming, now):  # type: ignore[no-untyped-def]
    """Open the flows that start by ``now``; returns how many have started or were empty, and how many of them run."""
    n, started = len(transfers.start), 0
    while coming < n and transfers.start[transfers.by_start[coming]] <= now * (1.0 + TIE):
        f = transfers.by_start[coming]
        coming += 1
        used = False
        for c in range(state.paths.seg.shape[1]):
            used = used or state.paths.seg[f, c] >= 0
        if not used or transfers.rest[f] <= 0:
            transfers.finish[f] = transfers.start[f]
            continue
        transfers.finish[f] = np.inf
        _enter(state, places, f)
        open_flow(state, f, 0.0)
        started += 1
    return coming, started


@inlined
def _retime(state, transfers, now):  # type: ignore[no-untyped-def]
    """Expect the completions of all flows whose rate the last solve has changed."""
    solve = state.solve
    for i in range(solve.num[OPENED]):
        f = index(solve.flow[i])
        old, new = solve.old_rate[i], state.flows.rate[f]
        if new == old:
            continue
        rest = max(transfers.due[f] - now, 0.0) * old if old > 0 else max(transfers.rest[f], 0.0)
        if new > 0:
            _expect(transfers, f, now + rest / new)
        else:
            transfers.rest[f] = rest
            _expect(transfers, f, np.inf)


@inlined
def _finish(state, transfers, places, window):  # type: ignore[no-untyped-def]
    """Take out the flows that end by ``window``, each at its own time; returns how many."""
    finished = 0
    for row in range(len(transfers.row_due)):
        if transfers.row_due[row] > window:
            continue
        for b in range(row * _BLOCK, min((row + 1) * _BLOCK, len(transfers.first_due))):
            if transfers.first_due[b] > window:
                continue
            for f in range(b * _BLOCK, min((b + 1) * _BLOCK, len(transfers.due))):
                if transfers.due[f] <= window:
                    transfers.finish[f] = transfers.due[f]
                    transfers.due[f] = np.inf
                    unload(state, f)
                    _leave(state, places, f)
                    finished += 1
            transfers.first_due[b] = _least(transfers.due, b)
        transfers.row_due[row] = _least(transfers.first_due, row)
    return finished


@kernel
def simulate(state: State, transfers: Transfers, places: Places, tolerance: float) -> int:
    """Run flows to completion under max-min sharing, with rates brought up to date at every start and completion.

    Parameters
    ----------
    state : State
        With no flow running, and flows of multiplicity one.
    transfers : Transfers
        Seconds of completion are written to its ``finish``, infinite for flows that never move.
    places : Places
        Of any content.
    tolerance : float
        Completions within this share of the clock after the next one are taken together, each at the time that its own
        rate gives.

    Returns
    -------
    int
        Number of solves.
    """
    n, solve = len(transfers.start), state.solve
    now, coming, running, solves = 0.0, 0, 0, 0
    while running > 0 or coming < n:
        if running == 0:
            now = max(now, transfers.start[transfers.by_start[coming]])
        if solves % _SUM_ANEW == 0:
            _sum_anew(state, transfers)
        solve.num[OPENED] = 0
        solve.num[STILL_OPEN] = 0
        coming, started = _start_flows(state, transfers, places, coming, now)
        running += started
        if running == 0:
            continue
        settle(state)
        solves += 1
        _retime(state, transfers, now)
        nearest = np.inf
        for row in range(len(transfers.row_due)):
            nearest = min(nearest, transfers.row_due[row])
        if coming < n and transfers.start[transfers.by_start[coming]] < nearest:
            now = transfers.start[transfers.by_start[coming]]
            continue
        if nearest == np.inf:  # nothing moves: every path left is dead
            return solves
        now = nearest
        running -= _finish(state, transfers, places, nearest * (1.0 + max(tolerance, TIE)))
    return solves
