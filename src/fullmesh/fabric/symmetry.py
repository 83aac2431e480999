"""Classes of flows that must share alike: found by arithmetic for an all-to-all, by colour refinement otherwise."""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.fabric.clos import ClosLayer
from fullmesh.fabric.solve import Problem
from fullmesh.fabric.topology import Topology
from fullmesh.fabric.wiring import (
    SIDE_DST,
    SIDE_SHARED,
    SIDE_SRC,
    FloatArray,
    IntArray,
    LongArray,
    combine,
    mix,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quotient:
    """A problem over classes; ``flow_class`` brings its rates back to flows."""

    problem: Problem
    flow_class: IntArray
    num_link_classes: int
    rounds: int


def refine(problem: Problem, colour: LongArray | FloatArray | None = None) -> Quotient:
    """Collapse flows and links that colour refinement cannot tell apart; max-min rates are the same in each class.

    Parameters
    ----------
    problem : Problem
    colour : array, optional
        What else distinguishes flows, such as their bytes.
    """
    from fullmesh.fabric import kernels

    num_flows = len(problem.seg)
    start = np.zeros(num_flows, np.float64) if colour is None else np.asarray(colour, np.float64)
    flow_colour = np.ascontiguousarray(start).view(np.uint64).copy()
    link_colour = problem.cap.copy().view(np.uint64)
    weight_code = mix(np.rint(problem.weight * 2.0**40).astype(np.int64))
    mult_code = (
        mix(np.rint(problem.mult * 2.0**20).astype(np.int64))
        if problem.mult.size
        else np.zeros((0, 0), np.uint64)
    )
    rounds = kernels.refine(
        problem.seg, mult_code, problem.ptr, problem.link, weight_code, flow_colour, link_colour
    )
    flow_class, flow_rep = kernels.label(flow_colour)
    link_class, link_rep = kernels.label(link_colour)
    num_flow, num_link = len(flow_rep), len(link_rep)
    if num_flow * 2 > num_flows:  # hashing has broken the symmetry: classes would only cost
        return Quotient(
            problem=problem,
            flow_class=np.arange(num_flows, dtype=np.int32),
            num_link_classes=len(problem.cap),
            rounds=rounds,
        )
    # Flows of each class on one representative link of each class.
    is_rep = np.zeros(len(problem.cap), bool)
    is_rep[link_rep] = True
    entry = np.flatnonzero(is_rep[problem.link])
    segment_of = np.repeat(np.arange(len(problem.ptr) - 1), np.diff(problem.ptr))[entry]
    wanted, row = np.unique(segment_of, return_inverse=True)
    place = np.full(len(problem.ptr), -1, np.int64)
    place[wanted] = np.arange(len(wanted))
    codes, amounts = [], []
    for c in range(problem.seg.shape[1]):
        at = place[problem.seg[:, c]]
        hit = np.flatnonzero((problem.seg[:, c] >= 0) & (at >= 0))
        codes.append(at[hit] * num_flow + flow_class[hit])
        amounts.append(problem.mult[hit, c] if problem.mult.size else np.ones(len(hit)))
    pairs, inverse = np.unique(np.concatenate(codes), return_inverse=True)
    amount = np.bincount(inverse, weights=np.concatenate(amounts))
    first = np.searchsorted(pairs, np.arange(len(wanted) + 1) * num_flow)
    reach = np.diff(first)[row]
    take = np.repeat(first[:-1][row], reach) + _ramp(reach)
    weight = amount[take] * np.repeat(problem.weight[entry], reach)
    link = np.repeat(link_class[problem.link[entry]], reach).astype(np.int64)
    cell, inverse = np.unique((pairs[take] % num_flow) * num_link + link, return_inverse=True)
    merged = np.bincount(inverse, weights=weight).astype(float)
    ptr = np.searchsorted(cell, np.arange(num_flow + 1) * num_link).astype(np.int64)
    return Quotient(
        problem=Problem(
            seg=np.arange(num_flow, dtype=np.int32)[:, None],
            mult=np.zeros((0, 0)),
            ptr=ptr,
            link=(cell % num_link).astype(np.int32),
            weight=merged,
            cap=problem.cap[link_rep],
        ),
        flow_class=flow_class,
        num_link_classes=num_link,
        rounds=rounds,
    )


def _ramp(lengths: LongArray) -> LongArray:
    """``[2, 3]`` becomes ``[0, 1, 0, 1, 2]``."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Collapsed:
    """One flow for every class of pairs of an all-to-all.

    Attributes
    ----------
    src, dst : array of int32
        A representative pair of each class.
    pairs : array of float
        Pairs in the class.
    fan_out, fan_in : array of float
        Flows of the class that leave one source, and that enter one destination.
    """

    src: IntArray
    dst: IntArray
    pairs: FloatArray
    fan_out: FloatArray
    fan_in: FloatArray

    def multiplicity(self, side: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> FloatArray:
        """How many flows of the class an entry of the representative's path carries, by whose property it is."""
        table = np.select(
            [side == SIDE_SRC, side == SIDE_DST, side == SIDE_SHARED],
            [self.fan_out[:, None], self.fan_in[:, None], self.pairs[:, None]],
            1.0,
        )
        return np.ascontiguousarray(table)


def collapse_all_to_all(topology: Topology) -> Collapsed | None:
    """Classes of pairs of an all-to-all over all devices, without listing the pairs.

    Two devices are twins when they hang on the same leaves of every switched layer, no layer can tell them apart, and
    neither can their neighbours in the groups inside. All pairs between two sets of twins then behave alike.

    Returns
    -------
    Collapsed or None
        None where inner groups reach across leaves (rails) or nothing is switched: use `refine` there.
    """
    n = topology.num_devices
    capacity = topology.capacity
    switched = [
        layer for layer in topology.layers if isinstance(layer, ClosLayer) and layer.facts.carries_devices
    ]
    inner = [layer for layer in topology.layers if not isinstance(layer, ClosLayer)]
    if not switched or any(layer.relay_in_node for layer in switched):
        return None
    group_sizes = [layer.facts.group_devices for layer in inner]
    leaf = switched[0].leaf_of[:n].astype(np.int64)
    labels = [layer.leaf_of[:n].astype(np.int64) for layer in switched]
    devices = np.arange(n)
    for size in group_sizes:
        first = devices // size * size
        if (
            size >= n
            or (leaf[first] != leaf).any()
            or (leaf[np.minimum(first + size - 1, n - 1)] != leaf).any()
        ):
            return None
    if any(size > 2 for size in group_sizes):
        return None  # a mesh of more than two tells its members apart link by link
    labels += [layer.profile(capacity)[:n] for layer in (*switched, *inner)]
    own = combine(*labels)
    for size in group_sizes:
        mate = np.minimum(devices ^ 1, n - 1) if size == 2 else devices
        own = combine(own, own[mate])
    twins = np.unique(own, return_index=True, return_counts=True)
    reps, counts = twins[1].astype(np.int64), twins[2].astype(np.int64)
    a, b = (x.ravel() for x in np.indices((len(reps), len(reps))))
    keep = a != b
    src, dst = reps[a[keep]], reps[b[keep]]
    fan_out, fan_in = counts[b[keep]].astype(float), counts[a[keep]].astype(float)
    pairs = fan_out * fan_in
    extra: list[tuple[int, int, float, float, float]] = []
    mates = [layer for layer in inner if layer.facts.group_devices == 2]
    for rep, count in zip(reps, counts, strict=True):
        mate = int(rep) ^ 1
        joined = (
            bool(mates)
            and mate < n
            and bool(mates[0].joins(np.array([rep], np.int32), np.array([mate], np.int32), capacity)[0])
        )
        peers = int(count) - 1
        if joined and own[mate] == own[rep]:
            extra.append((int(rep), mate, float(count), 1.0, 1.0))
            peers -= 1
        elif joined:  # the mate is of another class: its one flow leaves the cross pairs
            row = np.flatnonzero((src == rep) & (own[dst] == own[mate]))
            other = np.flatnonzero(own[:n] == own[mate])
            stranger = other[other != mate]
            extra.append((int(rep), mate, float(count), 1.0, 1.0))
            if len(stranger):
                dst[row] = stranger[0]
                fan_out[row] -= 1
                fan_in[row] -= 1
                pairs[row] = fan_out[row] * counts[own[rep]]
            else:
                pairs[row] = fan_out[row] = fan_in[row] = 0.0
        if peers > 0:
            same = np.flatnonzero(own == own[rep])
            far = same[(same != rep) & ((same != mate) | (not joined))]
            extra.append((int(rep), int(far[0]), float(count) * peers, float(peers), float(peers)))
    if extra:
        e = np.array(extra)
        src, dst = (
            np.concatenate([src, e[:, 0].astype(np.int64)]),
            np.concatenate([dst, e[:, 1].astype(np.int64)]),
        )
        pairs, fan_out, fan_in = (
            np.concatenate([x, e[:, i]]) for x, i in ((pairs, 2), (fan_out, 3), (fan_in, 4))
        )
    live = pairs > 0
    return Collapsed(
        src=src[live].astype(np.int32),
        dst=dst[live].astype(np.int32),
        pairs=pairs[live],
        fan_out=fan_out[live],
        fan_in=fan_in[live],
    )
