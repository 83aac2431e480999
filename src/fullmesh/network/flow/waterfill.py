"""Compiled kernels of max-min rates from nothing: passes that settle many alike flows at once, then level by level.

The plain twin is `oracles.flow.waterfill`. Rates and capacities are in bytes per second.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fullmesh.compiled import inlined, kernel
from fullmesh.network.flow.records import TIE, Paths, State
from fullmesh.network.flow.settle import OPENED, index, open_flow, settle
from fullmesh.network.wiring.links import BoolArray, FloatArray, IntArray


class Pass(NamedTuple):
    """Scratch of the passes.

    Attributes
    ----------
    num_open : float64, shape (segments,)
        Open flows of each segment.
    left, share : float64, shape (links,)
        Bytes per second not given away, and what each open flow would get of it.
    own, reach : float64, shape (segments,)
        Least share of the segment's links; least share that one of its flows meets anywhere.
    settles : bool, shape (segments,)
        Whether a link of the segment settles its flows in this pass.
    smallest : bool, shape (links,)
        Whether no open flow of the link meets a smaller share elsewhere.
    closed, taken : float64, shape (segments,)
        Flows that settle in this pass, and the bytes per second that they take.
    """

    num_open: FloatArray
    left: FloatArray
    share: FloatArray
    own: FloatArray
    reach: FloatArray
    settles: BoolArray
    smallest: BoolArray
    closed: FloatArray
    taken: FloatArray


def fresh_pass(paths: Paths) -> Pass:
    """Scratch for a problem, with nothing given away."""
    segments, links = len(paths.ptr) - 1, len(paths.cap)
    return Pass(
        num_open=np.zeros(segments),
        left=paths.cap.astype(np.float64),
        share=np.zeros(links),
        own=np.zeros(segments),
        reach=np.zeros(segments),
        settles=np.zeros(segments, np.bool_),
        smallest=np.zeros(links, np.bool_),
        closed=np.zeros(segments),
        taken=np.zeros(segments),
    )


@inlined
def _set_shares(paths, scratch):  # type: ignore[no-untyped-def]
    """What an open flow gets of each link, and the least of it along each segment."""
    share = scratch.share
    for ln in range(len(share)):
        share[ln] = 0.0
    for s in range(len(scratch.own)):
        if scratch.num_open[s] > 0.5:
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                share[index(paths.link[e])] += paths.weight[e] * scratch.num_open[s]
    for ln in range(len(share)):
        share[ln] = max(scratch.left[ln], 0.0) / share[ln] if share[ln] > 0 else np.inf
    for s in range(len(scratch.own)):
        best = np.inf
        for e in range(paths.ptr[s], paths.ptr[s + 1]):
            best = min(best, share[index(paths.link[e])])
        scratch.own[s] = best
        scratch.reach[s] = np.inf
        scratch.settles[s] = False


@inlined
def _set_rates(paths, scratch, active, num_active, rate):  # type: ignore[no-untyped-def]
    """The least share that each open flow meets, and what that means to its segments."""
    columns = paths.seg.shape[1]
    for i in range(num_active):
        f = index(active[i])
        best = np.inf
        for c in range(columns):
            s = paths.seg[f, c]
            if s >= 0 and scratch.own[s] < best:
                best = scratch.own[s]
        rate[f] = best
        for c in range(columns):
            s = paths.seg[f, c]
            if s >= 0 and best < scratch.reach[s]:
                scratch.reach[s] = best


@inlined
def _find_smallest(paths, scratch):  # type: ignore[no-untyped-def]
    """Links whose open flows meet no smaller share, and the segments that these settle."""
    for ln in range(len(scratch.smallest)):
        scratch.smallest[ln] = True
    for s in range(len(scratch.own)):
        if scratch.num_open[s] > 0.5:
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                ln = index(paths.link[e])
                if scratch.share[ln] > scratch.reach[s] * (1.0 + TIE):
                    scratch.smallest[ln] = False
    for s in range(len(scratch.own)):
        if scratch.num_open[s] > 0.5:
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                if scratch.smallest[index(paths.link[e])]:
                    scratch.settles[s] = True


@inlined
def _close_alike(paths, scratch, active, num_active, rate):  # type: ignore[no-untyped-def]
    """Take settled flows out of ``active`` and their rates off the links; returns how many are left."""
    columns, many = paths.seg.shape[1], paths.mult.size > 0
    kept = 0
    for i in range(num_active):
        f = index(active[i])
        hit = False
        for c in range(columns):
            s = paths.seg[f, c]
            if s >= 0 and scratch.settles[s]:
                hit = True
        if hit:
            for c in range(columns):
                s = paths.seg[f, c]
                if s >= 0:
                    m = paths.mult[f, c] if many else 1.0
                    scratch.closed[s] += m
                    scratch.taken[s] += m * rate[f]
        else:
            active[kept] = f
            kept += 1
    for s in range(len(scratch.own)):
        if scratch.closed[s] > 0:
            scratch.num_open[s] -= scratch.closed[s]
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                scratch.left[index(paths.link[e])] -= paths.weight[e] * scratch.taken[s]
            scratch.closed[s] = 0.0
            scratch.taken[s] = 0.0
    return kept


@kernel
def settle_alike(paths: Paths, scratch: Pass, active: IntArray, rate: FloatArray) -> int:
    """Pass by pass settle every flow with a link that no open flow of it finds a smaller share than.

    One pass is enough where all bottlenecks are alike; it needs no index from segments to flows.

    Parameters
    ----------
    paths : Paths
    scratch : Pass
        As `fresh_pass` gives it; its ``left`` is what the settled flows leave.
    active : int32, shape (flows,)
        Receives the flows that were not settled, as passes had become slow.
    rate : float64, shape (flows,)
        Receives the rates of the settled flows; infinite for those without links.

    Returns
    -------
    int
        How many of ``active`` are left.
    """
    num_active, passes = 0, 0
    for f in range(len(rate)):
        rate[f] = np.inf
        used = False
        for c in range(paths.seg.shape[1]):
            s = paths.seg[f, c]
            if s >= 0:
                scratch.num_open[s] += paths.mult[f, c] if paths.mult.size > 0 else 1.0
                used = True
        if used:
            active[num_active] = f
            num_active += 1
    while num_active > 0:
        _set_shares(paths, scratch)
        _set_rates(paths, scratch, active, num_active, rate)
        _find_smallest(paths, scratch)
        kept = _close_alike(paths, scratch, active, num_active, rate)
        settled, num_active = num_active - kept, kept
        passes += 1
        if passes >= 2 and settled * 8 < num_active:
            break
    return num_active


@kernel
def settle_by_level(state: State, active: IntArray) -> int:
    """Settle flows from the tightest link to the widest.

    Parameters
    ----------
    state : State
        Its ``links.left`` is what other flows leave, its ``crossing`` lists the flows ``active`` alone; rates of these
        are written to ``flows.rate``.
    active : int32, shape (some,)

    Returns
    -------
    int
        Number of levels.
    """
    state.solve.num[OPENED] = 0
    for f in active:
        open_flow(state, f, 0.0)
    levels: int = settle(state)
    return levels
