"""Compiled replay with rates: what overlaps slows down, and routed transfers share links.

Lanes (a stream of a rank each) are the entries of an indexed heap, so that a running task can be timed anew. A lane
whose task is routed stands in the list of every link of its route, at node ``lane * places + place in the route``.
In comes a `State`, out go the seconds at which each of N tasks starts and ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel
from fullmesh.timeline.engine.maxplus import Edges, first_ready, less, release, wait_in_line
from fullmesh.timeline.schedule.graph import Floats, Ids
from fullmesh.timeline.schedule.tasks import K_JOIN, STREAMS

NUM_STREAMS = len(STREAMS)
Longs = npt.NDArray[np.int64]
# places in State.num
SIZE, TOP, DIRTY, SEEDS, MARK, RAN = range(6)


class Tasks(NamedTuple):
    """What is to run.

    Attributes
    ----------
    kind, stream : int8, shape (N,)
    rank : int32, shape (N,)
    work : float64, shape (N,)
        Seconds, or bytes of routed tasks.
    """

    kind: npt.NDArray[np.int8]
    stream: npt.NDArray[np.int8]
    rank: Ids
    work: Floats


class Slowdown(NamedTuple):
    """Factors of at least 1 by stream, shape (streams,): on the computation beside it, and on it beside computation."""

    compute: Floats
    communication: Floats


class Routes(NamedTuple):
    """Links that routed tasks share.

    Attributes
    ----------
    capacity : float64, shape (links,)
        Bytes per second.
    ptr : int64, shape (routes + 1,)
        Where the links of each route begin.
    link : int32, shape (entries,)
    weight : float64, shape (entries,)
        Share of the bytes that takes the link.
    route_of : int32, shape (N,), or (0,) where nothing is routed
        Route of each task, -1 for none.
    """

    capacity: Floats
    ptr: Longs
    link: Ids
    weight: Floats
    route_of: Ids


class Lanes(NamedTuple):
    """Streams of ranks; all of shape (lanes,) but the last.

    Attributes
    ----------
    key : float64
        Seconds at which the running task ends at its present rate.
    heap, pos : int32
        Busy lanes by ``key``, and where each lane stands there, -1 outside.
    running : int32
        Task that runs, -1 if none does.
    rate : float64
        Seconds of work per second, or bytes per second.
    rest, since : float64
        Work that was left at a time in seconds.
    head, tail : int32
        First and last task in the queue, -1 if there is none.
    following : int32, shape (N,)
        Next task in the queue.
    """

    key: Floats
    heap: Ids
    pos: Ids
    running: Ids
    rate: Floats
    rest: Floats
    since: Floats
    head: Ids
    tail: Ids
    following: Ids


class OnLinks(NamedTuple):
    """Which lanes are on which link: doubly linked lists of nodes.

    Attributes
    ----------
    first : int32, shape (links,)
        First node of each link, -1 if there is none.
    after, before : int32, shape (nodes,)
    lane_route : int32, shape (lanes,)
        Route of the running task, -1 if it has none.
    share : float64, shape (lanes,)
        Max-min fair bytes per second.
    """

    first: Ids
    after: Ids
    before: Ids
    lane_route: Ids
    share: Floats


class Fair(NamedTuple):
    """Scratch of the fair shares.

    Attributes
    ----------
    link_mark : int64, shape (links,), and lane_mark : int64, shape (lanes,)
        Number of the solve that saw it last.
    links : int32, shape (links,), and lanes : int32, shape (lanes,)
        Those that the present solve sees.
    left, total : float64, shape (links,)
        Bytes per second not given away, and weight of the lanes without a share.
    seeds : int32, shape (links + 1,)
        Links whose lanes have changed.
    seeded : bool, shape (links,)
    """

    link_mark: Longs
    lane_mark: Longs
    links: Ids
    lanes: Ids
    left: Floats
    total: Floats
    seeds: Ids
    seeded: npt.NDArray[np.bool_]


class Ranks(NamedTuple):
    """Ranks whose streams changed.

    Attributes
    ----------
    mask : int64, shape (ranks,)
        Busy streams, one bit each.
    dirty : int32, shape (ranks,)
    is_dirty : bool, shape (ranks,)
    """

    mask: Longs
    dirty: Ids
    is_dirty: npt.NDArray[np.bool_]


class State(NamedTuple):
    """Everything that the engine reads and changes.

    ``ready``, int32, shape (N,), is the stack of tasks that can start; ``num``, int64, shape (6,), holds the sizes of
    heap, stack, dirty ranks and seeds, the number of the last solve, and how many tasks ran.
    """

    tasks: Tasks
    edges: Edges
    slow: Slowdown
    routes: Routes
    lanes: Lanes
    on: OnLinks
    fair: Fair
    ranks: Ranks
    ready: Ids
    num: Longs


def fresh_state(tasks: Tasks, edges: Edges, slow: Slowdown, routes: Routes, num_ranks: int) -> State:
    """Nothing runs, nothing is on a link."""
    num_lanes, num_links, n = num_ranks * NUM_STREAMS, len(routes.capacity), len(tasks.work)
    nodes = num_lanes * int(np.diff(routes.ptr).max(initial=1)) if num_links else 1

    def none(size: int) -> Ids:
        return np.full(size, -1, np.int32)

    return State(
        tasks, edges, slow, routes,
        Lanes(
            np.full(num_lanes, np.inf), np.empty(num_lanes, np.int32), none(num_lanes), none(num_lanes),
            np.zeros(num_lanes), np.zeros(num_lanes), np.zeros(num_lanes), none(num_lanes), none(num_lanes),
            np.empty(n, np.int32),
        ),
        OnLinks(none(num_links), none(nodes), none(nodes), none(num_lanes), np.zeros(num_lanes)),
        Fair(
            np.zeros(num_links, np.int64), np.zeros(num_lanes, np.int64), np.empty(num_links, np.int32),
            np.empty(num_lanes, np.int32), np.zeros(num_links), np.zeros(num_links),
            np.empty(num_links + 1, np.int32), np.zeros(num_links, np.bool_),
        ),
        Ranks(np.zeros(num_ranks, np.int64), np.empty(num_ranks, np.int32), np.zeros(num_ranks, np.bool_)),
        ready=np.empty(n, np.int32),
        num=np.zeros(6, np.int64),
    )  # fmt: skip


@inlined
def _place(lanes, size, ln):  # type: ignore[no-untyped-def]
    """Move lane ``ln`` to where its key belongs."""
    key, heap, pos = lanes.key, lanes.heap, lanes.pos
    i = np.int64(pos[ln])
    k = key[ln]
    while i > 0:
        parent = (i - 1) >> 1
        other = heap[parent]
        if not less(k, ln, key[other], other):
            break
        heap[i] = other
        pos[other] = i
        i = parent
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        other = heap[child]
        if child + 1 < size:
            right = heap[child + 1]
            if less(key[right], right, key[other], other):
                child += 1
                other = right
        if not less(key[other], other, k, ln):
            break
        heap[i] = other
        pos[other] = i
        i = child
    heap[i] = ln
    pos[ln] = i


@inlined
def _mark_rank(state, r):  # type: ignore[no-untyped-def]
    """Note that the streams of rank ``r`` changed."""
    if not state.ranks.is_dirty[r]:
        state.ranks.is_dirty[r] = True
        state.ranks.dirty[state.num[DIRTY]] = r
        state.num[DIRTY] += 1


@inlined
def _mark_link(state, link):  # type: ignore[no-untyped-def]
    """Note that the lanes of a link changed."""
    if not state.fair.seeded[link]:
        state.fair.seeded[link] = True
        state.fair.seeds[state.num[SEEDS]] = link
        state.num[SEEDS] += 1


@inlined
def _enter_links(state, ln, row):  # type: ignore[no-untyped-def]
    """Put lane ``ln`` on the links of route ``row``."""
    on, routes = state.on, state.routes
    places = len(on.after) // len(on.lane_route)
    on.lane_route[ln] = row
    for e in range(routes.ptr[row], routes.ptr[row + 1]):
        link, node = routes.link[e], ln * places + e - routes.ptr[row]
        on.after[node], on.before[node] = on.first[link], -1
        if on.first[link] >= 0:
            on.before[on.first[link]] = node
        on.first[link] = node
        _mark_link(state, link)


@inlined
def _leave_links(state, ln):  # type: ignore[no-untyped-def]
    """Take lane ``ln`` off its links."""
    on, routes = state.on, state.routes
    places, row = len(on.after) // len(on.lane_route), on.lane_route[ln]
    for e in range(routes.ptr[row], routes.ptr[row + 1]):
        link, node = routes.link[e], ln * places + e - routes.ptr[row]
        if on.before[node] >= 0:
            on.after[on.before[node]] = on.after[node]
        else:
            on.first[link] = on.after[node]
        if on.after[node] >= 0:
            on.before[on.after[node]] = on.before[node]
        _mark_link(state, link)
    on.lane_route[ln] = -1


@inlined
def _connected(state):  # type: ignore[no-untyped-def]
    """Gather the links and lanes connected with the changed links, and what each link carries.

    Lanes that share no link with these, directly or through others, keep their rates: max-min shares of separate
    components do not depend on each other. Returns how many links and lanes there are.
    """
    fair, on, routes = state.fair, state.on, state.routes
    places = len(on.after) // len(on.lane_route)
    state.num[MARK] += 1
    mark = state.num[MARK]
    num_links, num_lanes, at = 0, 0, 0
    for q in range(state.num[SEEDS]):
        fair.link_mark[fair.seeds[q]] = mark
        fair.links[num_links] = fair.seeds[q]
        num_links += 1
    while at < num_links:
        ln = fair.links[at]
        at += 1
        fair.left[ln] = routes.capacity[ln]
        fair.total[ln] = 0.0
        node = np.int64(on.first[ln])
        while node >= 0:
            lane = node // places
            row = on.lane_route[lane]
            fair.total[ln] += routes.weight[routes.ptr[row] + node % places]
            if fair.lane_mark[lane] != mark:
                fair.lane_mark[lane] = mark
                on.share[lane] = -1.0
                fair.lanes[num_lanes] = lane
                num_lanes += 1
                for e in range(routes.ptr[row], routes.ptr[row + 1]):
                    other = routes.link[e]
                    if fair.link_mark[other] != mark:
                        fair.link_mark[other] = mark
                        fair.links[num_links] = other
                        num_links += 1
            node = np.int64(on.after[node])
    return num_links, num_lanes


@inlined
def _fair_shares(state):  # type: ignore[no-untyped-def]
    """Max-min rates of the lanes connected with the changed links; returns how many lanes were rated."""
    fair, on, routes = state.fair, state.on, state.routes
    places = len(on.after) // len(on.lane_route)
    num_links, num_lanes = _connected(state)
    open_lanes = num_lanes
    while open_lanes > 0:
        best, tightest = np.inf, -1
        for q in range(num_links):
            ln = fair.links[q]
            if fair.total[ln] > 1e-12:
                level = max(fair.left[ln], 0.0) / fair.total[ln]
                if level < best:
                    best, tightest = level, ln
        if tightest < 0:
            break
        node = np.int64(on.first[tightest])
        while node >= 0:
            lane = node // places
            if on.share[lane] < 0:
                on.share[lane] = best
                open_lanes -= 1
                row = on.lane_route[lane]
                for e in range(routes.ptr[row], routes.ptr[row + 1]):
                    fair.left[routes.link[e]] -= best * routes.weight[e]
                    fair.total[routes.link[e]] -= routes.weight[e]
            node = np.int64(on.after[node])
        fair.total[tightest] = 0.0
    return num_lanes


@inlined
def _end_tasks(state, now, end):  # type: ignore[no-untyped-def]
    """End everything that ends now, and put what waited for it on the stack."""
    lanes, num = state.lanes, state.num
    while num[SIZE] > 0 and lanes.key[lanes.heap[0]] <= now:
        ln = np.int64(lanes.heap[0])
        num[SIZE] -= 1
        moved = np.int64(lanes.heap[num[SIZE]])
        lanes.pos[ln] = -1
        lanes.key[ln] = np.inf
        if num[SIZE] > 0:
            lanes.heap[0] = moved
            lanes.pos[moved] = 0
            _place(lanes, num[SIZE], moved)
        i = np.int64(lanes.running[ln])
        lanes.running[ln] = -1
        end[i] = now
        num[RAN] += 1
        r = state.tasks.rank[i]
        state.ranks.mask[r] &= ~(1 << (ln - r * NUM_STREAMS))
        _mark_rank(state, r)
        if state.on.lane_route[ln] >= 0:
            _leave_links(state, ln)
        if lanes.head[ln] >= 0:
            state.ready[num[TOP]] = lanes.head[ln]
            num[TOP] += 1
            lanes.head[ln] = lanes.following[lanes.head[ln]]
        num[TOP] = release(state.edges, i, state.ready, num[TOP])


@inlined
def _start_tasks(state, now, start, end):  # type: ignore[no-untyped-def]
    """Start everything that can start now, or put it in line behind what runs on its stream."""
    tasks, lanes, num = state.tasks, state.lanes, state.num
    while num[TOP] > 0:
        num[TOP] -= 1
        i = np.int64(state.ready[num[TOP]])
        if tasks.kind[i] == K_JOIN:
            start[i], end[i] = now, now
            num[RAN] += 1
            num[TOP] = release(state.edges, i, state.ready, num[TOP])
            continue
        r = np.int64(tasks.rank[i])
        ln = r * NUM_STREAMS + tasks.stream[i]
        if lanes.running[ln] >= 0:
            wait_in_line(lanes.head, lanes.tail, lanes.following, ln, i)
            continue
        lanes.running[ln] = i
        state.ranks.mask[r] |= 1 << np.int64(tasks.stream[i])
        start[i] = now
        lanes.rest[ln], lanes.since[ln] = tasks.work[i], now
        if len(state.routes.route_of) > 0 and state.routes.route_of[i] >= 0:
            lanes.rate[ln] = 0.0
            lanes.key[ln] = np.inf
            _enter_links(state, ln, state.routes.route_of[i])
        else:
            lanes.rate[ln] = 1.0
            lanes.key[ln] = now + tasks.work[i]
        lanes.heap[num[SIZE]] = ln
        lanes.pos[ln] = num[SIZE]
        num[SIZE] += 1
        _place(lanes, num[SIZE], ln)
        _mark_rank(state, r)


@inlined
def _retime(state, ln, rate, now):  # type: ignore[no-untyped-def]
    """Give lane ``ln`` a new rate."""
    lanes = state.lanes
    if rate == lanes.rate[ln]:
        return
    lanes.rest[ln] = max(lanes.rest[ln] - (now - lanes.since[ln]) * lanes.rate[ln], 0.0)
    lanes.since[ln] = now
    lanes.rate[ln] = rate
    lanes.key[ln] = now + lanes.rest[ln] / rate if rate > 0 else np.inf
    _place(lanes, state.num[SIZE], ln)


@inlined
def _rate_ranks(state, now):  # type: ignore[no-untyped-def]
    """Give the busy lanes of all changed ranks the rate that what runs beside them leaves."""
    ranks, on = state.ranks, state.on
    for q in range(state.num[DIRTY]):
        r = np.int64(ranks.dirty[q])
        ranks.is_dirty[r] = False
        busy, base = ranks.mask[r], r * NUM_STREAMS
        computes, worst = (busy & 1) == 1, 1.0
        for place in range(1, NUM_STREAMS + 1):  # computation, stream 0, last: by then its slowdown is known
            at = place % NUM_STREAMS
            if not (busy >> at) & 1:
                continue
            ln = base + at
            full = on.share[ln] if on.lane_route[ln] >= 0 else 1.0
            if at == 0:
                full /= worst
            else:
                worst = max(worst, state.slow.compute[at])
                if computes:
                    full /= state.slow.communication[at]
            _retime(state, ln, full, now)
    state.num[DIRTY] = 0


@kernel
def shared(state: State, start: Floats, end: Floats) -> tuple[int, int]:
    """Event replay where what overlaps slows down, and where routed tasks share links max-min fairly.

    While streams of a rank are busy, its computation runs at ``1 / max(slow.compute[stream])`` and stream s at
    ``1 / slow.communication[s]`` while it computes. Everything that happens at one instant is taken together before
    rates change.

    Parameters
    ----------
    state : State
        As `fresh_state` gives it; used up.
    start, end : float64, shape (N,)
        Receive seconds.

    Returns
    -------
    tuple of int
        Tasks that ran, and fair-share solves.
    """
    num, fair = state.num, state.fair
    start[0], end[0] = 0.0, 0.0
    now, solves = 0.0, 0
    num[RAN] = 1
    num[TOP] = first_ready(state.edges, state.ready)
    while now < np.inf:
        _end_tasks(state, now, end)
        _start_tasks(state, now, start, end)
        if num[SIZE] == 0:
            break
        if num[SEEDS] > 0:
            rated = _fair_shares(state)
            solves += 1
            for q in range(num[SEEDS]):
                fair.seeded[fair.seeds[q]] = False
            num[SEEDS] = 0
            for q in range(rated):
                _mark_rank(state, fair.lanes[q] // NUM_STREAMS)
        _rate_ranks(state, now)
        now = state.lanes.key[state.lanes.heap[0]]
    return num[RAN], solves
