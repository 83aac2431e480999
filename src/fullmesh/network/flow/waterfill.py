"""Compiled kernels: max-min water-filling and completion events. Each has a NumPy twin in `reference`.

Flows name segments (``seg``, shape (flows, columns), -1 unused) and segments name links in compressed rows
(``ptr``, ``link``, ``weight``). ``mult`` says how many equal flows one entry stands for; empty means one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_BLOCK = 64
_TIE = 1e-12  # shares closer than this are one bottleneck level: the rounding of double precision


@njit(cache=True)
def _push(key, item, size, k, v):  # type: ignore[no-untyped-def]
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if key[parent] <= k:
            break
        key[i], item[i] = key[parent], item[parent]
        i = parent
    key[i], item[i] = k, v
    return size + 1


@njit(cache=True)
def _drop_top(key, item, size):  # type: ignore[no-untyped-def]
    size -= 1
    k, v = key[size], item[size]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and key[child + 1] < key[child]:
            child += 1
        if key[child] >= k:
            break
        key[i], item[i] = key[child], item[child]
        i = child
    key[i], item[i] = k, v
    return size


@njit(cache=True)
def _fill(  # type: ignore[no-untyped-def]
    seg, mult, ptr, link, weight, link_ptr, link_seg, list_ptr, list_flow, list_len,
    total, left, count, frozen, rate, goal, order, step_at, done, delta, touched, key, item,
):  # fmt: skip
    """Lazy-heap water-filling: a link's share only rises, so a stale key is recomputed when it is popped.

    ``order`` takes flows in the order in which they freeze, and ``step_at`` of a flow where in it its bottleneck
    begins; ``done`` of ``goal`` are frozen on entry.
    """
    columns = seg.shape[1]
    many = mult.size > 0
    size = 0
    for ln in range(len(total)):
        if count[ln] > 0.5:
            size = _push(key, item, size, max(left[ln], 0.0) / total[ln], ln)
    levels = 0
    while done < goal and size > 0:
        k, ln = key[0], item[0]
        size = _drop_top(key, item, size)
        if count[ln] <= 0.5:
            continue
        share = max(left[ln], 0.0) / total[ln]
        if size > 0 and share > key[0] and share > k * (1.0 + _TIE):
            size = _push(key, item, size, share, ln)
            continue
        levels += 1
        step = done
        num_touched = 0
        for e in range(link_ptr[ln], link_ptr[ln + 1]):
            s = link_seg[e]
            for j in range(list_ptr[s], list_ptr[s] + list_len[s]):
                f = list_flow[j]
                if frozen[f]:
                    continue
                frozen[f] = True
                rate[f] = share
                order[done] = f
                step_at[f] = step
                done += 1
                for c in range(columns):
                    s2 = seg[f, c]
                    if s2 >= 0:
                        if delta[s2] == 0.0:
                            touched[num_touched] = s2
                            num_touched += 1
                        delta[s2] += mult[f, c] if many else 1.0
        for i in range(num_touched):
            s2 = touched[i]
            d = delta[s2]
            delta[s2] = 0.0
            for e in range(ptr[s2], ptr[s2 + 1]):
                other = link[e]
                total[other] -= weight[e] * d
                left[other] -= weight[e] * d * share
                count[other] -= d
    return levels


@njit(cache=True)
def _links_to_segments(ptr, link, num_links):  # type: ignore[no-untyped-def]
    link_ptr = np.zeros(num_links + 1, np.int64)
    for e in range(len(link)):
        link_ptr[link[e] + 1] += 1
    for ln in range(num_links):
        link_ptr[ln + 1] += link_ptr[ln]
    at = link_ptr[:-1].copy()
    link_seg = np.empty(len(link), np.int32)
    for s in range(len(ptr) - 1):
        for e in range(ptr[s], ptr[s + 1]):
            link_seg[at[link[e]]] = s
            at[link[e]] += 1
    return link_ptr, link_seg


@njit(cache=True)
def waterfill(seg, mult, ptr, link, weight, cap, rate):  # type: ignore[no-untyped-def]
    """Max-min fair rates of all flows, written into ``rate``; returns the number of bottleneck levels or passes.

    First passes freeze every flow that has a locally smallest share, with no index from segments to flows: one pass is
    enough where all bottlenecks are alike. What then remains goes to the heap.
    """
    num_flows, columns = seg.shape
    num_seg, num_links = len(ptr) - 1, len(cap)
    many = mult.size > 0
    n = np.zeros(num_seg)
    active = np.empty(num_flows, np.int32)
    num_active = 0
    for f in range(num_flows):
        used = False
        for c in range(columns):
            s = seg[f, c]
            if s >= 0:
                n[s] += mult[f, c] if many else 1.0
                used = True
        rate[f] = np.inf
        if used:
            active[num_active] = f
            num_active += 1
    total, left, share = np.zeros(num_links), cap.copy(), np.empty(num_links)
    own, reach = np.empty(num_seg), np.empty(num_seg)
    flag, local = np.zeros(num_seg, np.bool_), np.empty(num_links, np.bool_)
    delta, amount = np.zeros(num_seg), np.zeros(num_seg)
    passes = 0
    while num_active > 0:
        total[:] = 0.0
        for s in range(num_seg):
            if n[s] > 0.5:
                for e in range(ptr[s], ptr[s + 1]):
                    total[link[e]] += weight[e] * n[s]
        for ln in range(num_links):
            share[ln] = max(left[ln], 0.0) / total[ln] if total[ln] > 0 else np.inf
        for s in range(num_seg):
            best = np.inf
            for e in range(ptr[s], ptr[s + 1]):
                best = min(best, share[link[e]])
            own[s], reach[s], flag[s] = best, np.inf, False
        for i in range(num_active):
            f = active[i]
            best = np.inf
            for c in range(columns):
                s = seg[f, c]
                if s >= 0 and own[s] < best:
                    best = own[s]
            rate[f] = best
            for c in range(columns):
                s = seg[f, c]
                if s >= 0 and best < reach[s]:
                    reach[s] = best
        local[:] = True
        for s in range(num_seg):
            if n[s] > 0.5:
                for e in range(ptr[s], ptr[s + 1]):
                    if share[link[e]] > reach[s] * (1.0 + _TIE):
                        local[link[e]] = False
        for s in range(num_seg):
            if n[s] > 0.5:
                for e in range(ptr[s], ptr[s + 1]):
                    if local[link[e]]:
                        flag[s] = True
        kept = 0
        for i in range(num_active):
            f = active[i]
            hit = False
            for c in range(columns):
                s = seg[f, c]
                if s >= 0 and flag[s]:
                    hit = True
            if hit:
                for c in range(columns):
                    s = seg[f, c]
                    if s >= 0:
                        m = mult[f, c] if many else 1.0
                        delta[s] += m
                        amount[s] += m * rate[f]
            else:
                active[kept] = f
                kept += 1
        settled = num_active - kept
        num_active = kept
        passes += 1
        for s in range(num_seg):
            if delta[s] > 0:
                n[s] -= delta[s]
                for e in range(ptr[s], ptr[s + 1]):
                    left[link[e]] -= weight[e] * amount[s]
                delta[s], amount[s] = 0.0, 0.0
        if passes >= 2 and settled * 8 < num_active:
            break
    if num_active == 0:
        return passes

    list_ptr = np.zeros(num_seg + 1, np.int64)
    for i in range(num_active):
        for c in range(columns):
            s = seg[active[i], c]
            if s >= 0:
                list_ptr[s + 1] += 1
    for s in range(num_seg):
        list_ptr[s + 1] += list_ptr[s]
    list_flow = np.empty(list_ptr[num_seg], np.int32)
    list_len = np.zeros(num_seg, np.int64)
    frozen = np.zeros(num_flows, np.bool_)
    for i in range(num_active):
        f = active[i]
        for c in range(columns):
            s = seg[f, c]
            if s >= 0:
                list_flow[list_ptr[s] + list_len[s]] = f
                list_len[s] += 1
    count = np.zeros(num_links)
    total[:] = 0.0
    for s in range(num_seg):
        if n[s] > 0.5:
            for e in range(ptr[s], ptr[s + 1]):
                total[link[e]] += weight[e] * n[s]
                count[link[e]] += n[s]
    link_ptr, link_seg = _links_to_segments(ptr, link, num_links)
    key, item = np.empty(num_links + 1), np.empty(num_links + 1, np.int32)
    touched = np.empty(num_seg, np.int32)
    return passes + _fill(
        seg, mult, ptr, link, weight, link_ptr, link_seg, list_ptr, list_flow, list_len,
        total, left, count, frozen, rate, num_active, active.copy(), np.empty(num_flows, np.int32), 0,
        delta, touched, key, item,
    )  # fmt: skip


@njit(cache=True, fastmath=True)
def _block_minima(values, minima):  # type: ignore[no-untyped-def]
    for b in range(len(minima)):
        best = np.inf
        for i in range(b * _BLOCK, min((b + 1) * _BLOCK, len(values))):
            best = min(best, values[i])
        minima[b] = best


@njit(cache=True)
def simulate(seg, ptr, link, weight, cap, size, start, by_start, tolerance, finish):  # type: ignore[no-untyped-def]
    """Run flows to completion under max-min sharing, re-solved at every start and completion.

    Exact reuse: bottlenecks found before the first one that a leaving flow belonged to do not carry that flow, so a
    solve resumes there. Completions within ``tolerance`` of the clock after the next one are taken together, each at
    the time that its own rate gives. ``by_start`` lists flows by ``start``. Returns the number of solves.
    """
    num_flows, columns = seg.shape
    num_seg, num_links = len(ptr) - 1, len(cap)
    mult = np.empty((0, 0))
    link_ptr, link_seg = _links_to_segments(ptr, link, num_links)
    list_ptr = np.zeros(num_seg + 1, np.int64)
    for f in range(num_flows):
        for c in range(columns):
            if seg[f, c] >= 0:
                list_ptr[seg[f, c] + 1] += 1
    for s in range(num_seg):
        list_ptr[s + 1] += list_ptr[s]
    list_flow, list_len = np.empty(list_ptr[num_seg], np.int32), np.zeros(num_seg, np.int64)
    list_column = np.empty(list_ptr[num_seg], np.int32)
    place = np.empty((num_flows, columns), np.int64)
    rest, seen, rate = size.copy(), np.zeros(num_flows), np.zeros(num_flows)
    due = np.full(num_flows, np.inf)
    minima = np.empty((num_flows + _BLOCK - 1) // _BLOCK)
    frozen, gone = np.zeros(num_flows, np.bool_), np.zeros(num_flows, np.bool_)
    order, step_at = np.empty(num_flows, np.int32), np.empty(num_flows, np.int32)
    done, running = 0, 0
    total, left, count = np.zeros(num_links), cap.copy(), np.zeros(num_links)
    key, item = np.empty(num_links + 1), np.empty(num_links + 1, np.int32)
    delta, touched = np.zeros(num_seg), np.empty(num_seg, np.int32)
    now, coming, solves = 0.0, 0, 0
    while running > 0 or coming < num_flows:
        if running == 0:
            now = max(now, start[by_start[coming]])
        fresh = solves % 512 == 0  # from the beginning now and then: keeps rounding from adding up
        while coming < num_flows and start[by_start[coming]] <= now * (1.0 + _TIE):
            f = by_start[coming]
            coming += 1
            used = False
            for c in range(columns):
                if seg[f, c] >= 0:
                    used = True
            if not used or rest[f] <= 0:
                finish[f] = start[f]
                gone[f] = True
                continue
            for c in range(columns):
                s = seg[f, c]
                if s >= 0:
                    at = list_ptr[s] + list_len[s]
                    list_flow[at], list_column[at], place[f, c] = f, c, at
                    list_len[s] += 1
            seen[f] = now
            running += 1
            fresh = True
        if running == 0:
            continue
        if fresh:
            for i in range(done):
                f = order[i]
                frozen[f] = False
            done = 0
            for ln in range(num_links):
                left[ln], total[ln], count[ln] = cap[ln], 0.0, 0.0
            for s in range(num_seg):
                if list_len[s] > 0:
                    for e in range(ptr[s], ptr[s + 1]):
                        total[link[e]] += weight[e] * list_len[s]
                        count[link[e]] += list_len[s]
            for f in range(num_flows):
                if (due[f] < np.inf or rate[f] == 0.0) and not gone[f] and seen[f] < now:
                    rest[f] -= rate[f] * (now - seen[f])
                    seen[f] = now
        resumed = done
        _fill(
            seg, mult, ptr, link, weight, link_ptr, link_seg, list_ptr, list_flow, list_len,
            total, left, count, frozen, rate, running, order, step_at, done, delta, touched, key, item,
        )  # fmt: skip
        solves += 1
        done = running
        for i in range(resumed, done):
            f = order[i]
            due[f] = now + max(rest[f], 0.0) / rate[f] if rate[f] > 0 else np.inf
        _block_minima(due, minima)
        nearest = np.inf
        for b in range(len(minima)):
            nearest = min(nearest, minima[b])
        if coming < num_flows and start[by_start[coming]] < nearest:
            now = start[by_start[coming]]
            continue
        if nearest == np.inf:  # nothing moves: every path left is dead
            for i in range(done):
                finish[order[i]] = np.inf
            return solves
        window = nearest * (1.0 + max(tolerance, _TIE))
        now = nearest
        resume = done
        finished = 0
        for b in range(len(minima)):
            if minima[b] > window:
                continue
            for f in range(b * _BLOCK, min((b + 1) * _BLOCK, num_flows)):
                if due[f] <= window:
                    finish[f] = due[f]
                    due[f] = np.inf
                    gone[f] = True
                    finished += 1
                    resume = min(resume, step_at[f])
                    for c in range(columns):
                        s = seg[f, c]
                        if s >= 0:
                            at, last = place[f, c], list_ptr[s] + list_len[s] - 1
                            moved, moved_column = list_flow[last], list_column[last]
                            list_flow[at], list_column[at] = moved, moved_column
                            place[moved, moved_column] = at
                            list_len[s] -= 1
        running -= finished
        # Thaw what froze with the first bottleneck that a leaving flow belonged to, and after it.
        while done > resume:
            done -= 1
            f = order[done]
            frozen[f] = False
            for c in range(columns):
                s = seg[f, c]
                if s >= 0:
                    for e in range(ptr[s], ptr[s + 1]):
                        left[link[e]] += weight[e] * rate[f]
                        if not gone[f]:
                            total[link[e]] += weight[e]
                            count[link[e]] += 1.0
            if not gone[f]:
                rest[f] -= rate[f] * (now - seen[f])
                seen[f] = now
    return solves
