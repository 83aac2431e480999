"""NumPy twins of the kernels: slow, short, and tested equal."""

from __future__ import annotations

import numpy as np

from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray


def flat_incidence(
    seg: IntArray, mult: FloatArray, ptr: LongArray, link: IntArray, weight: FloatArray, num_links: int
) -> FloatArray:
    """Bytes on each link for one byte of each flow, as a dense array of shape (links, flows); small cases only."""
    out = np.zeros((num_links, len(seg)))
    for f in range(len(seg)):
        for c, s in enumerate(seg[f]):
            if s >= 0:
                rows = slice(ptr[s], ptr[s + 1])
                np.add.at(out[:, f], link[rows], weight[rows] * (mult[f, c] if mult.size else 1.0))
    return out


def waterfill(incidence: FloatArray, cap: FloatArray) -> FloatArray:
    """Progressive filling: raise all rates together, freeze the flows of every saturated link, repeat.

    Parameters
    ----------
    incidence : array of float, shape (links, flows)
    cap : array of float, shape (links,)
        Bytes per second.

    Returns
    -------
    array of float, shape (flows,)
        Max-min fair rates in bytes per second; infinite for a flow without links.
    """
    num_flows = incidence.shape[1]
    rate = np.full(num_flows, np.inf)
    open_flows = (incidence > 0).any(axis=0)
    left = cap.astype(float).copy()
    while open_flows.any():
        load = incidence[:, open_flows].sum(axis=1)
        share = np.divide(np.maximum(left, 0.0), load, out=np.full(len(cap), np.inf), where=load > 0)
        level = share.min()
        full = share <= level * (1 + 1e-12)
        now = open_flows & (incidence[full] > 0).any(axis=0)
        rate[now] = level
        left -= incidence[:, now].sum(axis=1) * level
        open_flows &= ~now
    return rate


def simulate(incidence: FloatArray, cap: FloatArray, size: FloatArray, start: FloatArray) -> FloatArray:
    """Completion times in seconds under max-min sharing, one event after another."""
    finish = np.full(len(size), np.inf)
    rest, now = size.astype(float).copy(), 0.0
    waiting = np.ones(len(size), bool)
    running = np.zeros(len(size), bool)
    while waiting.any() or running.any():
        if not running.any():
            now = max(now, start[waiting].min())
        begin = waiting & (start <= now * (1 + 1e-12))
        waiting &= ~begin
        running |= begin
        at_once = running & ((rest <= 0) | ~(incidence > 0).any(axis=0))
        finish[at_once] = start[at_once]
        running &= ~at_once
        if not running.any():
            continue
        ids = np.flatnonzero(running)
        rate = waterfill(incidence[:, ids], cap)
        need = np.divide(rest[ids], rate, out=np.full(len(ids), np.inf), where=rate > 0)
        step = min(need.min(), (start[waiting].min() - now) if waiting.any() else np.inf)
        if not np.isfinite(step):
            break
        done = need <= step + 1e-12 * (now + step)
        finish[ids[done]] = now + need[done]
        rest[ids] -= rate * step
        running[ids[done]] = False
        now += step
    return finish


def refine(incidence: FloatArray, cap: FloatArray, colour: FloatArray) -> tuple[LongArray, LongArray]:
    """Colour refinement by sorting whole signatures, no hashes: classes of flows and of links.

    Parameters
    ----------
    incidence : array of float, shape (links, flows)
    cap : array of float, shape (links,)
    colour : array of float, shape (flows,)
        What distinguishes flows to begin with.
    """

    def number(rows: list[tuple[object, ...]]) -> LongArray:
        names = {row: i for i, row in enumerate(sorted(set(rows), key=repr))}
        return np.array([names[row] for row in rows], np.int64)

    flows, links = number([(c,) for c in colour]), number([(c,) for c in cap])
    while True:
        new_flows = number(
            [
                (
                    flows[f],
                    tuple(sorted((links[k], incidence[k, f]) for k in np.flatnonzero(incidence[:, f]))),
                )
                for f in range(len(flows))
            ]
        )
        new_links = number(
            [
                (
                    links[k],
                    tuple(sorted((new_flows[f], incidence[k, f]) for f in np.flatnonzero(incidence[k]))),
                )
                for k in range(len(links))
            ]
        )
        if len(set(new_flows)) == len(set(flows)) and len(set(new_links)) == len(set(links)):
            return new_flows, new_links
        flows, links = new_flows, new_links
