"""Compiled kernels of symmetry: dense labels of 64-bit colours, and colour refinement. For the arrays see `kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _scramble(x):  # type: ignore[no-untyped-def]
    z = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True)
def label(colours):  # type: ignore[no-untyped-def]
    """Number 64-bit colours densely in order of appearance; returns the labels and the first place of each."""
    n = len(colours)
    labels = np.empty(n, np.int32)
    size = 64
    slots, owner = np.full(size, -1, np.int32), np.empty(n, np.int32)
    found = 0
    for i in range(n):
        h = np.int64(_scramble(colours[i]) & np.uint64(size - 1))
        while slots[h] >= 0 and colours[owner[slots[h]]] != colours[i]:
            h = (h + 1) & (size - 1)
        if slots[h] < 0:
            slots[h] = found
            owner[found] = i
            found += 1
            labels[i] = found - 1
            if found * 2 > size:
                size *= 4
                slots = np.full(size, -1, np.int32)
                for j in range(found):
                    g = np.int64(_scramble(colours[owner[j]]) & np.uint64(size - 1))
                    while slots[g] >= 0:
                        g = (g + 1) & (size - 1)
                    slots[g] = j
        else:
            labels[i] = slots[h]
    return labels, owner[:found].copy()


@njit(cache=True)
def refine(seg, mult_code, ptr, link, weight_code, flow_colour, link_colour):  # type: ignore[no-untyped-def]
    """Colour refinement on the flow-segment-link incidence, in place, until the links' partition stands still.

    Colours are 64-bit hashes and hold the colour before, so classes only split. Returns the number of rounds.
    """
    num_flows, columns = seg.shape
    num_seg = len(ptr) - 1
    many = mult_code.size > 0
    classes = len(label(link_colour)[1])
    rounds = 0
    while True:
        rounds += 1
        down = np.zeros(num_seg, np.uint64)
        up = np.zeros(num_seg, np.uint64)
        for s in range(num_seg):
            acc = np.uint64(0)
            for e in range(ptr[s], ptr[s + 1]):
                acc += _scramble(link_colour[link[e]] ^ weight_code[e])
            up[s] = _scramble(acc)
        for f in range(num_flows):
            acc = np.uint64(0)
            for c in range(columns):
                s = seg[f, c]
                if s >= 0:
                    acc += _scramble(up[s] ^ mult_code[f, c]) if many else up[s]
            colour = _scramble(flow_colour[f] + acc)
            flow_colour[f] = colour
            for c in range(columns):
                s = seg[f, c]
                if s >= 0:
                    down[s] += _scramble(colour ^ mult_code[f, c]) if many else colour
        gathered = np.zeros(len(link_colour), np.uint64)
        for s in range(num_seg):
            for e in range(ptr[s], ptr[s + 1]):
                gathered[link[e]] += down[s] * (weight_code[e] | np.uint64(1))
        for ln in range(len(link_colour)):
            link_colour[ln] = _scramble(link_colour[ln] + _scramble(gathered[ln]))
        now = len(label(link_colour)[1])
        if now == classes:
            return rounds
        classes = now
        if rounds > 64:
            return rounds


@njit(cache=True)
def merge_links(ptr, link, weight, capacity):  # type: ignore[no-untyped-def]
    """Merge links that the same segments load in the same proportion; the tightest of each group stays.

    Returns compressed rows over the merged links, weights relative to the first segment of each link, and capacities
    in the same measure.
    """
    num_links, num_seg = len(capacity), len(ptr) - 1
    signature = np.zeros(num_links, np.uint64)
    first = np.zeros(num_links)
    for s in range(num_seg):
        for e in range(ptr[s], ptr[s + 1]):
            ln = link[e]
            if first[ln] == 0.0:
                first[ln] = weight[e]
            ratio = np.uint64(np.int64(weight[e] / first[ln] * 1099511627776.0 + 0.5))
            signature[ln] += _scramble(_scramble(np.uint64(s)) ^ ratio)
    used = np.flatnonzero(first > 0)
    group, owner = label(signature[used])
    tightest = np.full(len(owner), -1, np.int64)
    for i in range(len(used)):
        g = group[i]
        best = tightest[g]
        if best < 0 or capacity[used[i]] / first[used[i]] < capacity[best] / first[best]:
            tightest[g] = used[i]
    number = np.full(num_links, -1, np.int32)
    cap = np.empty(len(owner))
    for g in range(len(owner)):
        number[tightest[g]] = g
        cap[g] = capacity[tightest[g]] / first[tightest[g]]
    new_ptr = np.zeros(num_seg + 1, np.int64)
    new_link, new_weight = np.empty(len(link), np.int32), np.empty(len(link))
    at = 0
    for s in range(num_seg):
        for e in range(ptr[s], ptr[s + 1]):
            if number[link[e]] >= 0:
                new_link[at] = number[link[e]]
                new_weight[at] = weight[e] / first[link[e]]
                at += 1
        new_ptr[s + 1] = at
    return new_ptr, new_link[:at].copy(), new_weight[:at].copy(), cap
