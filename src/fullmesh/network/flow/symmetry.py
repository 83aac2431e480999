"""Classes of flows that must share alike: found by arithmetic for an all-to-all, by colour refinement otherwise."""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.network.flow.solve import Problem
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.grid import GridLayer
from fullmesh.network.wiring.links import (
    SIDE_DST,
    SIDE_SHARED,
    SIDE_SRC,
    BoolArray,
    FloatArray,
    IntArray,
    LongArray,
    Policy,
    combine,
    mix,
)
from fullmesh.network.wiring.topology import Routing, Topology

MAX_CLASS_PAIRS = 3_000_000


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
    from fullmesh.network.flow import colours as kernels

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
    incidence = kernels.Incidence(problem.seg, mult_code, problem.ptr, problem.link, weight_code)
    rounds = kernels.refine(incidence, flow_colour, link_colour)
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


def looks_alike_everywhere(topology: Topology) -> bool:
    """Whether an all-to-all loads all links of a kind alike: nothing broken, and every leaf and pod equally full.

    Links of a kind that reach devices must reach equal numbers of them; endpoints of other kinds have kinds of links
    of their own.
    """
    if (topology.health < 1).any():
        return False
    for layer in topology.layers:
        if isinstance(layer, ClosLayer) and layer.facts.carries_devices:
            leaf = layer.leaf_of[: topology.num_devices]
            for group in (leaf, leaf // layer.leaves_per_pod):
                count = np.bincount(group)
                if (count != count[0]).any():
                    return False
        elif not isinstance(layer, (ClosLayer, GridLayer)):
            return False
    return True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Collapsed:
    """One flow for every class of pairs of an all-to-all.

    Attributes
    ----------
    src, dst : array of int32
        A pair of each class whose source is the representative of its twins.
    entering : array of int32, shape (2, classes)
        A pair of the same class whose destination is the representative of its twins.
    pairs : array of float
        Pairs in the class.
    fan_out, fan_in : array of float
        Flows of the class that leave one source, and that enter one destination.
    """

    src: IntArray
    dst: IntArray
    entering: IntArray
    pairs: FloatArray
    fan_out: FloatArray
    fan_in: FloatArray

    def route(self, topology: Topology, policy: Policy | None = None) -> tuple[Routing, FloatArray]:
        """Paths of the classes, and how many flows each entry stands for.

        The path leaves through the source's representative and enters through the destination's, so that the links of
        representatives carry all that a device of their kind carries.
        """
        n = len(self.src)
        both = topology.route(
            np.concatenate([self.src, self.entering[0]]), np.concatenate([self.dst, self.entering[1]]), policy
        )
        side = both.side[:n]
        seg = np.where((side == SIDE_DST) & (both.side[n:] == SIDE_DST), both.seg[n:], both.seg[:n])
        routing = dataclasses.replace(
            both,
            seg=np.ascontiguousarray(seg),
            side=side,
            latency_s=both.latency_s[:n],
            layer=both.layer[:n],
            cut=both.cut[:n] | both.cut[n:],
            parent=np.arange(n),
        )
        mult = np.select(
            [side == SIDE_SRC, side == SIDE_DST, side == SIDE_SHARED],
            [self.fan_out[:, None], self.fan_in[:, None], self.pairs[:, None]],
            1.0,
        )
        return routing, np.ascontiguousarray(mult)


def collapse_all_to_all(topology: Topology) -> Collapsed | None:
    """Classes of pairs of an all-to-all over all devices, without listing the pairs.

    Two devices are twins when they hang on the same leaves of every switched layer, no layer can tell them apart, and
    neither can their mates in the package. All pairs between two sets of twins then behave alike.

    Returns
    -------
    Collapsed or None
        None where inner groups reach across leaves (rails) or tell their members apart (meshes), nothing is switched,
        or the classes are too many to list in pairs: use `refine` there.
    """
    twins = _find_twins(topology)
    if twins is None or len(twins.reps) ** 2 > MAX_CLASS_PAIRS:
        return None
    a, b = (x.ravel() for x in np.indices((len(twins.reps), len(twins.reps))))
    mates = twins.mated[twins.reps[a]] & (twins.own[twins.mate[twins.reps[a]]] == b)
    plain = (a != b) & ~mates  # classes of all pairs between two sets of twins
    rows = [row for t in range(len(twins.reps)) for row in _special_classes(twins, t)]
    table = np.array(rows, float).reshape(-1, 7)
    sizes, here, there = twins.counts, a[plain], b[plain]
    columns = (
        twins.reps[here], twins.reps[there], twins.reps[here], twins.reps[there],
        sizes[here] * sizes[there], sizes[there], sizes[here],
    )  # fmt: skip
    src, dst, enter_src, enter_dst, pairs, fan_out, fan_in = (
        np.concatenate([column, table[:, i]]) for i, column in enumerate(columns)
    )
    return Collapsed(
        src=src.astype(np.int32),
        dst=dst.astype(np.int32),
        entering=np.stack([enter_src, enter_dst]).astype(np.int32),
        pairs=pairs.astype(float),
        fan_out=fan_out.astype(float),
        fan_in=fan_in.astype(float),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Twins:
    """Devices that nothing tells apart.

    Attributes
    ----------
    own : array of int64, shape (devices,)
        Set of each device.
    reps, counts : arrays of int64, shape (sets,)
        First device of each set, and its size.
    order : array of int64, shape (devices,), and first : array of int64, shape (sets + 1,)
        Devices set by set, and where each set begins.
    mate : array of int64, shape (devices,)
        The other device of the package.
    mated : array of bool, shape (devices,)
        Whether the two have a link of their own.
    """

    own: LongArray
    reps: LongArray
    counts: LongArray
    order: LongArray
    first: LongArray
    mate: LongArray
    mated: BoolArray

    def members(self, t: int) -> LongArray:
        """Devices of set ``t``."""
        return self.order[self.first[t] : self.first[t + 1]]


def _find_twins(topology: Topology) -> _Twins | None:
    """Sets of twins, or None where leaves and packages do not say what a device can tell apart."""
    n, capacity = topology.num_devices, topology.capacity
    switched = [x for x in topology.layers if isinstance(x, ClosLayer) and x.facts.carries_devices]
    inner = [x for x in topology.layers if not isinstance(x, ClosLayer)]
    if (
        not switched
        or any(x.relay_in_node for x in switched)
        or any(x.facts.group_devices != 2 for x in inner)
    ):
        return None
    devices = np.arange(n)
    mate = devices ^ 1
    own = combine(
        *(x.leaf_of[:n].astype(np.int64) for x in switched),
        *(x.profile(capacity)[:n] for x in topology.layers),
    )
    if inner:
        if n % 2 or any((x.leaf_of[:n] != x.leaf_of[mate]).any() for x in switched):
            return None
        own = combine(own, own[mate])
    mated = np.zeros(n, bool)
    for layer in inner:
        mated |= layer.joins(devices.astype(np.int32), mate.astype(np.int32), capacity)
    _, reps, counts = np.unique(own, return_index=True, return_counts=True)
    return _Twins(
        own=own,
        reps=reps,
        counts=counts,
        order=np.argsort(own, kind="stable"),
        first=np.concatenate([[0], np.cumsum(counts)]),
        mate=mate,
        mated=mated,
    )


def _special_classes(twins: _Twins, t: int) -> list[tuple[int, int, int, int, float, float, float]]:
    """Classes of pairs from set ``t`` that are not all pairs between two sets.

    Each is a pair that leaves the representative, one that enters the representative of the other side, the pairs in
    the class, and the flows of a source and of a destination.
    """
    own, mate = twins.own, twins.mate
    rep, count = int(twins.reps[t]), float(twins.counts[t])
    joined, rows = bool(twins.mated[rep]), []
    if joined:  # the package's own link: one flow for each device
        rows.append((rep, int(mate[rep]), int(mate[rep]), rep, count, 1.0, 1.0))
    partners = [t] if not joined or own[mate[rep]] == t else [t, int(own[mate[rep]])]
    for other in partners:  # some pairs are taken out: itself, and that of the mate
        there, goal = twins.members(other), int(twins.reps[other])
        leaving = there[(there != rep) & ((there != mate[rep]) | (not joined))]
        here = twins.members(t)
        entering = here[(here != goal) & ((here != mate[goal]) | (not joined))]
        if len(leaving):
            ends = rep, int(leaving[0]), int(entering[0]), goal
            rows.append((*ends, count * len(leaving), float(len(leaving)), float(len(entering))))
    return rows
