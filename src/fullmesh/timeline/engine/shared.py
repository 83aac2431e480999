"""Compiled replay with rates: what overlaps slows down, and routed transfers share links.

Lanes are the entries of an indexed heap, so that a running task can be timed anew.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fullmesh.timeline.engine.maxplus import less
from fullmesh.timeline.schedule.tasks import K_JOIN, STREAMS

NUM_STREAMS = len(STREAMS)


@njit(cache=True)
def _place(key, heap, pos, size, ln):  # type: ignore[no-untyped-def]
    """Move lane ``ln`` to where its key belongs."""
    i = pos[ln]
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


@njit(cache=True, inline="always")
def _retime(ln, new_rate, now, rate, rest, since, key, heap, pos, size):  # type: ignore[no-untyped-def]
    if new_rate == rate[ln]:
        return
    rest[ln] = max(rest[ln] - (now - since[ln]) * rate[ln], 0.0)
    since[ln] = now
    rate[ln] = new_rate
    key[ln] = now + rest[ln] / new_rate if new_rate > 0 else np.inf
    _place(key, heap, pos, size, ln)


@njit(cache=True)
def _fair(seeds, num_seeds, net, lists, share, scratch):  # type: ignore[no-untyped-def]
    """Max-min rates of the flows connected with the links in ``seeds``; returns how many lanes were rated.

    Flows that share no link with these, directly or through others, keep their rates: max-min shares of separate
    components do not depend on each other.
    """
    capacity, route_ptr, route_link, route_weight = net
    first, following, _, node_lane, lane_route, num_nodes = lists
    link_mark, lane_mark, links, lanes, left, total, stamp = scratch
    stamp[0] += 1
    mark = stamp[0]
    num_links, num_lanes, at = 0, 0, 0
    for q in range(num_seeds):
        if link_mark[seeds[q]] != mark:
            link_mark[seeds[q]] = mark
            links[num_links] = seeds[q]
            num_links += 1
    while at < num_links:
        ln = links[at]
        at += 1
        left[ln] = capacity[ln]
        total[ln] = 0.0
        node = first[ln]
        while node >= 0:
            lane = node_lane[node]
            row = lane_route[lane]
            total[ln] += route_weight[route_ptr[row] + node % num_nodes]
            if lane_mark[lane] != mark:
                lane_mark[lane] = mark
                share[lane] = -1.0
                lanes[num_lanes] = lane
                num_lanes += 1
                for e in range(route_ptr[row], route_ptr[row + 1]):
                    other = route_link[e]
                    if link_mark[other] != mark:
                        link_mark[other] = mark
                        links[num_links] = other
                        num_links += 1
            node = following[node]
    open_lanes = num_lanes
    while open_lanes > 0:
        best, tightest = np.inf, -1
        for q in range(num_links):
            ln = links[q]
            if total[ln] > 1e-12:
                level = max(left[ln], 0.0) / total[ln]
                if level < best:
                    best, tightest = level, ln
        if tightest < 0:
            break
        node = first[tightest]
        while node >= 0:
            lane = node_lane[node]
            if share[lane] < 0:
                share[lane] = best
                open_lanes -= 1
                row = lane_route[lane]
                for e in range(route_ptr[row], route_ptr[row + 1]):
                    other = route_link[e]
                    left[other] -= best * route_weight[e]
                    total[other] -= route_weight[e]
            node = following[node]
        total[tightest] = 0.0
    return num_lanes


@njit(cache=True)
def shared(  # type: ignore[no-untyped-def]
    kind, stream, rank, work, ptr, succ, need, num_ranks, slow_compute, slow_comm,
    route_of, net, start, end,
):  # fmt: skip
    """Event replay where what overlaps slows down, and where routed tasks share links max-min fairly.

    ``work`` is seconds, or bytes where ``route_of`` names a route. While streams of a rank are busy, its computation
    runs at ``1 / max(slow_compute[stream])`` and stream s at ``1 / slow_comm[s]`` while it computes. Everything that
    happens at one instant is taken together before rates change. Returns (tasks that ran, fair-share solves).
    """
    n = len(work)
    need = need.copy()
    capacity, route_ptr, route_link, _ = net
    num_lanes = num_ranks * NUM_STREAMS
    key, heap, pos = (
        np.full(num_lanes, np.inf),
        np.empty(num_lanes, np.int32),
        np.full(num_lanes, -1, np.int32),
    )
    size = 0
    running = np.full(num_lanes, -1, np.int32)
    rate, rest, since = np.zeros(num_lanes), np.zeros(num_lanes), np.zeros(num_lanes)
    queue_head, queue_tail = np.full(num_lanes, -1, np.int32), np.full(num_lanes, -1, np.int32)
    following = np.empty(n, np.int32)
    stack = np.empty(n, np.int32)
    dirty, is_dirty = np.empty(num_ranks, np.int32), np.zeros(num_ranks, np.bool_)
    mask = np.zeros(num_ranks, np.int64)  # busy streams of each rank, one bit each
    # flows on links: node = lane * num_nodes + place in the route
    num_links = len(capacity)
    num_nodes = 1
    for row in range(len(route_ptr) - 1):
        num_nodes = max(num_nodes, route_ptr[row + 1] - route_ptr[row])
    nodes = num_lanes * num_nodes if num_links > 0 else 1
    first, after, before = (
        np.full(num_links, -1, np.int32),
        np.full(nodes, -1, np.int32),
        np.full(nodes, -1, np.int32),
    )
    node_lane = np.empty(nodes, np.int32)
    for node in range(nodes):
        node_lane[node] = node // num_nodes
    lane_route = np.full(num_lanes, -1, np.int32)
    lists = (first, after, before, node_lane, lane_route, num_nodes)
    share = np.zeros(num_lanes)
    scratch = (
        np.zeros(num_links, np.int64), np.zeros(num_lanes, np.int64), np.empty(num_links, np.int32),
        np.empty(num_lanes, np.int32), np.zeros(num_links), np.zeros(num_links), np.zeros(1, np.int64),
    )  # fmt: skip
    seeds, seeded = np.empty(num_links + 1, np.int32), np.zeros(num_links, np.bool_)
    start[0], end[0] = 0.0, 0.0
    now, ran, solves, top = 0.0, 1, 0, 0
    for i in range(n - 1, 0, -1):
        if need[i] == 0:
            stack[top] = i
            top += 1
    while True:
        num_dirty, num_seeds = 0, 0
        # everything that ends now
        while size > 0 and key[heap[0]] <= now:
            ln = heap[0]
            size -= 1
            moved = heap[size]
            pos[ln] = -1
            key[ln] = np.inf
            if size > 0:
                heap[0] = moved
                pos[moved] = 0
                _place(key, heap, pos, size, moved)
            i = running[ln]
            running[ln] = -1
            end[i] = now
            ran += 1
            r = rank[i]
            mask[r] &= ~(1 << (ln - r * NUM_STREAMS))
            if not is_dirty[r]:
                is_dirty[r] = True
                dirty[num_dirty] = r
                num_dirty += 1
            row = lane_route[ln]
            if row >= 0:
                for e in range(route_ptr[row], route_ptr[row + 1]):
                    link, node = route_link[e], ln * num_nodes + e - route_ptr[row]
                    if before[node] >= 0:
                        after[before[node]] = after[node]
                    else:
                        first[link] = after[node]
                    if after[node] >= 0:
                        before[after[node]] = before[node]
                    if not seeded[link]:
                        seeded[link] = True
                        seeds[num_seeds] = link
                        num_seeds += 1
                lane_route[ln] = -1
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
        # everything that starts now
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
            r = rank[i]
            ln = r * NUM_STREAMS + stream[i]
            if running[ln] >= 0:
                following[i] = -1
                if queue_head[ln] < 0:
                    queue_head[ln] = i
                else:
                    following[queue_tail[ln]] = i
                queue_tail[ln] = i
                continue
            running[ln] = i
            mask[r] |= 1 << stream[i]
            start[i] = now
            rest[ln], since[ln] = work[i], now
            row = route_of[i] if num_links > 0 else -1
            if row >= 0:
                rate[ln] = 0.0
                key[ln] = np.inf
                lane_route[ln] = row
                for e in range(route_ptr[row], route_ptr[row + 1]):
                    link, node = route_link[e], ln * num_nodes + e - route_ptr[row]
                    after[node], before[node] = first[link], -1
                    if first[link] >= 0:
                        before[first[link]] = node
                    first[link] = node
                    if not seeded[link]:
                        seeded[link] = True
                        seeds[num_seeds] = link
                        num_seeds += 1
            else:
                rate[ln] = 1.0
                key[ln] = now + work[i]
            heap[size] = ln
            pos[ln] = size
            size += 1
            _place(key, heap, pos, size, ln)
            if not is_dirty[r]:
                is_dirty[r] = True
                dirty[num_dirty] = r
                num_dirty += 1
        if size == 0:
            return ran, solves
        # links whose flows changed, then ranks whose streams did
        if num_seeds > 0:
            rated = _fair(seeds, num_seeds, net, lists, share, scratch)
            solves += 1
            for q in range(num_seeds):
                seeded[seeds[q]] = False
            for q in range(rated):
                r = scratch[3][q] // NUM_STREAMS
                if not is_dirty[r]:
                    is_dirty[r] = True
                    dirty[num_dirty] = r
                    num_dirty += 1
        for q in range(num_dirty):
            r = dirty[q]
            is_dirty[r] = False
            busy = mask[r]
            base = r * NUM_STREAMS
            computes = (busy & 1) == 1
            worst = 1.0
            busy >>= 1
            ln = base
            while busy > 0:
                ln += 1
                if busy & 1:
                    s = ln - base
                    worst = max(worst, slow_compute[s])
                    full = share[ln] if lane_route[ln] >= 0 else 1.0
                    new = full / slow_comm[s] if computes else full
                    _retime(ln, new, now, rate, rest, since, key, heap, pos, size)
                busy >>= 1
            if computes:
                full = share[base] if lane_route[base] >= 0 else 1.0
                _retime(base, full / worst, now, rate, rest, since, key, heap, pos, size)
        now = key[heap[0]]
        if now == np.inf:
            return ran, solves
