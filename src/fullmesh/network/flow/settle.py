"""Max-min fair shares brought up to date after a change: the cost is that of the flows whose share changes.

Rates are max-min fair when every flow has a link that limits it: full, and with no faster flow. When flows leave or
join, only flows around the links that they crossed lose that property, then perhaps some around those. So a solve
opens few flows and fills them up from the lowest rate, as water-filling does, with two repairs on the way. Where a link
becomes full at a rate below that of one of its settled flows, that flow is opened too. Where a link's own level is
reached and it has capacity to spare, the flows that it limits are opened. Both happen at the rate that filling has
arrived at or above it, so nothing that was settled before in the same solve can become wrong (progressive filling:
Bertsekas and Gallager, Data Networks, 6.5.2; the repairs are the two ways in which its certificate can fail).

The parts below take a `State` and change it in place. All rates are in bytes per second.
"""

from __future__ import annotations

import numpy as np

from fullmesh.compiled import inlined
from fullmesh.network.flow.records import OPEN, TIE

# places of a link outside the heap: untouched in this solve, dealt with, waiting for the end of filling
ABSENT, DONE, PARKED = -1, -2, -3
SIZE, TOUCHED = 0, 1  # places in Queue.num
OPENED, STILL_OPEN = 0, 1  # places in Solve.num
LEAVE, SPARE, FULL = range(3)  # what a link is found to be: of no interest now, not full at its level, full


@inlined
def index(number):  # type: ignore[no-untyped-def]
    """The number of a flow, segment or link as it stands in an array, as an index that is known not to be negative.

    What may be negative is compared and corrected at each use, for it would count from the end.
    """
    return np.int64(np.uint32(number))


@inlined
def _lower(queue, ln, key):  # type: ignore[no-untyped-def]
    """Put link ``ln`` into the heap with ``key``, or move it up to a lower one."""
    i = np.int64(queue.place[ln])
    if i < 0:
        if i == ABSENT:
            queue.touched[queue.num[TOUCHED]] = ln
            queue.num[TOUCHED] += 1
        i = queue.num[SIZE]
        queue.num[SIZE] = i + 1
    elif key >= queue.key[ln]:
        return
    queue.key[ln] = key
    while i > 0:
        parent = (i - 1) >> 1
        other = index(queue.heap[parent])
        if queue.key[other] <= key:
            break
        queue.heap[i] = other
        queue.place[other] = i
        i = parent
    queue.heap[i] = ln
    queue.place[ln] = i


@inlined
def _take(queue):  # type: ignore[no-untyped-def]
    """Take the link of the lowest key out of the heap."""
    top = index(queue.heap[0])
    size = queue.num[SIZE] - 1
    queue.num[SIZE] = size
    queue.place[top] = DONE
    if size == 0:
        return top
    last = index(queue.heap[size])
    key = queue.key[last]
    i = np.int64(0)
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and queue.key[queue.heap[child + 1]] < queue.key[queue.heap[child]]:
            child += 1
        other = index(queue.heap[child])
        if queue.key[other] >= key:
            break
        queue.heap[i] = other
        queue.place[other] = i
        i = child
    queue.heap[i] = last
    queue.place[last] = i
    return top


@inlined
def _share(links, ln):  # type: ignore[no-untyped-def]
    """Rate at which the open flows of a link fill it; infinite where there are none."""
    if links.num_open[ln] < 0.5:
        return np.inf
    return max(links.left[ln], 0.0) / links.open_weight[ln]


@inlined
def _next(links, ln):  # type: ignore[no-untyped-def]
    """Rate at which a link must be looked at: where it is full, or where the flows that it limits stand."""
    share = _share(links, ln)
    if links.num_limited[ln] > 0 and links.level[ln] < share:
        return links.level[ln]
    return share


@inlined
def unload(state, f):  # type: ignore[no-untyped-def]
    """Give back to its links what the settled flow ``f`` takes, and mark those whose own flows may now rise."""
    paths, links = state.paths, state.links
    rate = state.flows.rate[f]
    links.num_limited[state.flows.limit[f]] -= 1
    for c in range(paths.seg.shape[1]):
        s = paths.seg[f, c]
        if s >= 0:
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                ln = index(paths.link[e])
                links.left[ln] += paths.weight[e] * rate
                if links.num_limited[ln] > 0:
                    _lower(state.queue, ln, _next(links, ln))


@inlined
def open_flow(state, f, old_rate):  # type: ignore[no-untyped-def]
    """Open flow ``f``, which takes ``old_rate`` from its links now."""
    paths, links, solve = state.paths, state.links, state.solve
    n = solve.num[OPENED]
    solve.flow[n] = f
    solve.old_rate[n] = old_rate
    solve.num[OPENED] = n + 1
    solve.num[STILL_OPEN] += 1
    state.flows.rate[f] = OPEN
    state.flows.limit[f] = -1
    for c in range(paths.seg.shape[1]):
        s = paths.seg[f, c]
        if s >= 0:
            m = paths.mult[f, c] if paths.mult.size > 0 else 1.0
            for e in range(paths.ptr[s], paths.ptr[s + 1]):
                ln = index(paths.link[e])
                links.left[ln] += paths.weight[e] * m * old_rate
                links.open_weight[ln] += paths.weight[e] * m
                links.num_open[ln] += m
                # a link in the heap below the flow's rate stays there: its share moves towards that rate
                if state.queue.place[ln] < 0 or old_rate < state.queue.key[ln]:
                    _lower(state.queue, ln, _next(links, ln))


@inlined
def _open_more(state, ln, above):  # type: ignore[no-untyped-def]
    """Open the settled flows of a link that are faster than ``above``, or that it limits if ``above`` is negative.

    A flow is opened once in a solve at most, so that rounding cannot make two links take turns for ever. Returns how
    many were opened.
    """
    crossing, flows, links = state.crossing, state.flows, state.links
    before, fastest = state.solve.num[OPENED], 0.0
    if above >= 0.0 and links.fastest[ln] <= above:
        return np.int64(0)
    for e in range(crossing.link_ptr[ln], crossing.link_ptr[ln + 1]):
        s = index(crossing.link_seg[e])
        for j in range(crossing.flow_ptr[s], crossing.flow_ptr[s] + crossing.num_flows[s]):
            f = index(crossing.flow[j])
            wanted = flows.rate[f] > above if above >= 0.0 else flows.limit[f] == ln
            if wanted and flows.limit[f] >= 0:
                links.num_limited[flows.limit[f]] -= 1
                open_flow(state, f, flows.rate[f])
            elif above >= 0.0:
                fastest = max(fastest, flows.rate[f])
    if above >= 0.0:
        links.fastest[ln] = fastest
    return state.solve.num[OPENED] - before


@inlined
def _close(state, ln, share):  # type: ignore[no-untyped-def]
    """Settle the open flows of a full link at ``share``."""
    paths, crossing, links, flows, solve = state.paths, state.crossing, state.links, state.flows, state.solve
    num_segments, closed = 0, 0
    for e in range(crossing.link_ptr[ln], crossing.link_ptr[ln + 1]):
        s = index(crossing.link_seg[e])
        for j in range(crossing.flow_ptr[s], crossing.flow_ptr[s] + crossing.num_flows[s]):
            f = index(crossing.flow[j])
            if flows.rate[f] >= 0.0:
                continue
            flows.rate[f] = share
            flows.limit[f] = -2 - ln  # not to be opened again in this solve
            closed += 1
            for c in range(paths.seg.shape[1]):
                s2 = paths.seg[f, c]
                if s2 >= 0:
                    if solve.delta[s2] == 0.0:
                        solve.segment[num_segments] = s2
                        num_segments += 1
                    solve.delta[s2] += paths.mult[f, c] if paths.mult.size > 0 else 1.0
    for i in range(num_segments):
        s2 = index(solve.segment[i])
        d = solve.delta[s2]
        solve.delta[s2] = 0.0
        for e in range(paths.ptr[s2], paths.ptr[s2 + 1]):
            other = index(paths.link[e])
            links.left[other] -= paths.weight[e] * d * share
            links.fastest[other] = max(links.fastest[other], share)
            links.num_open[other] -= d
            if links.num_open[other] < 0.5:
                links.num_open[other] = 0.0
                links.open_weight[other] = 0.0
            else:
                links.open_weight[other] -= paths.weight[e] * d
    links.num_limited[ln] += closed
    solve.num[STILL_OPEN] -= closed


@inlined
def _decide(state, ln):  # type: ignore[no-untyped-def]
    """What to do with a link just taken from the heap.

    Returns
    -------
    tuple of (int, float)
        One of `LEAVE`, `SPARE` and `FULL`, and the rate at which the link is full.
    """
    links, queue = state.links, state.queue
    share, key = _share(links, ln), _next(links, ln)
    if key > queue.key[ln] * (1.0 + TIE) and queue.num[SIZE] > 0 and key > queue.key[queue.heap[0]]:
        if key < np.inf:  # others come first
            _lower(queue, ln, key)
        return LEAVE, share
    if links.num_limited[ln] > 0 and share > links.level[ln] * (1.0 + TIE):
        if share == np.inf and links.left[ln] <= TIE * state.paths.cap[ln]:
            return LEAVE, share
        return SPARE, share
    return (LEAVE if share == np.inf else FULL), share


@inlined
def _park(queue):  # type: ignore[no-untyped-def]
    """Empty the heap: with no flow open only links that lost some of their load matter."""
    queue.num[SIZE] = 0
    for i in range(queue.num[TOUCHED]):
        if queue.place[queue.touched[i]] >= 0:
            queue.place[queue.touched[i]] = PARKED


@inlined
def _unfilled(state, cursor):  # type: ignore[no-untyped-def]
    """From place ``cursor`` on, the next parked link that limits flows and has capacity to spare.

    Returns
    -------
    tuple of (int, int)
        The link, -1 if there is none, and the place after it.
    """
    links, queue = state.links, state.queue
    for i in range(cursor, queue.num[TOUCHED]):
        ln = np.int64(queue.touched[i])
        if queue.place[ln] == PARKED:
            queue.place[ln] = DONE
            if links.num_limited[ln] > 0 and links.left[ln] > TIE * state.paths.cap[ln]:
                return ln, i + 1
    return np.int64(-1), np.int64(-1)


@inlined
def settle(state):  # type: ignore[no-untyped-def]
    """Settle all open flows, and those that must change with them; returns the number of levels at which some were.

    Links that flows have left (`unload`) are filled again all together: were one of them forgotten until others had
    been filled to a higher rate, its flows could no longer be weighed against those.
    """
    links, queue, solve = state.links, state.queue, state.solve
    levels, cursor = 0, np.int64(-1)  # place in the list of touched links while that is gone through
    while True:
        if cursor >= 0:
            ln, cursor = _unfilled(state, cursor)
            what, share = SPARE, np.inf
            if ln < 0:
                if solve.num[STILL_OPEN] == 0:
                    break
                continue
        elif solve.num[STILL_OPEN] > 0 and queue.num[SIZE] > 0:
            ln = _take(queue)
            what, share = _decide(state, ln)
            if what == LEAVE:
                continue
        else:
            _park(queue)
            cursor = np.int64(0)
            continue
        opened = _open_more(state, ln, share * (1.0 + TIE) if what == FULL else -1.0)
        if what == FULL and opened == 0:
            if links.num_limited[ln] == 0:
                links.level[ln] = share
            _close(state, ln, share)
            levels += 1
            continue
        if opened == 0 and share < np.inf:
            links.level[ln] = share
        if _next(links, ln) < np.inf:
            _lower(queue, ln, _next(links, ln))
    for i in range(solve.num[OPENED]):
        state.flows.limit[solve.flow[i]] = -2 - state.flows.limit[solve.flow[i]]
    for i in range(queue.num[TOUCHED]):
        queue.place[queue.touched[i]] = ABSENT
    queue.num[SIZE] = 0
    queue.num[TOUCHED] = 0
    return levels
