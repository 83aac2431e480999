"""Leaf, spine and core switches in parallel planes: UB, NVSwitch, rail-optimised clusters and fat trees.

An endpoint has one link to the leaf of each plane. A pod is a set of leaves under the same spines; cores join pods.
Without spines a pod is its leaf alone. All numbers of links follow by arithmetic from (endpoint, plane, spine, core).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullmesh.network.wiring import links as wiring
from fullmesh.network.wiring.links import (
    SIDE_DST,
    SIDE_SHARED,
    SIDE_SRC,
    BoolArray,
    Endpoints,
    FloatArray,
    IntArray,
    LayerFacts,
    LayerRoute,
    LongArray,
    Policy,
    Wiring,
    check_size,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClosLayer:
    """A Clos layer; see the module's text for the terms.

    Attributes
    ----------
    leaf_of : array of int32
        Leaf of each endpoint, -1 for an endpoint that this layer does not carry.
    rail_of : array of int32
        Rail of each device inside its node; flows between rails may first hop inside the node.
    plane_share : array of float, shape (planes,)
        Share of an endpoint's port that belongs to each plane.
    """

    facts: LayerFacts
    first_link: int
    num_links: int
    num_planes: int
    num_leaves: int
    leaves_per_pod: int
    num_spines: int
    num_cores: int
    leaf_of: IntArray
    local: IntArray
    members: IntArray
    rail_of: IntArray
    plane_share: FloatArray
    devices_per_leaf: float
    relay_in_node: bool

    @property
    def num_pods(self) -> int:
        return -(-self.num_leaves // self.leaves_per_pod)

    def blocks(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """First link and shape of each block of links."""
        e, p, s, c = len(self.members), self.num_planes, self.num_spines, self.num_cores
        out: dict[str, tuple[int, tuple[int, ...]]] = {}
        at = self.first_link
        for name, shape in (
            ("access", (e, p)),
            ("spine", (self.num_leaves, p, s)),
            ("core", (self.num_pods, p, s, c)),
        ):
            for direction in ("up", "down"):
                out[f"{name}_{direction}"] = (at, shape)
                at += math.prod(shape)
        return out

    def _view(self, capacity: FloatArray, block: str) -> FloatArray:
        first, shape = self.blocks()[block]
        return capacity[first : first + math.prod(shape)].reshape(shape)

    def joins(self, src: IntArray, dst: IntArray, capacity: FloatArray) -> BoolArray:
        a, b = self.leaf_of[src], self.leaf_of[dst]
        both: BoolArray = np.asarray((a >= 0) & (b >= 0), bool)
        if self.num_spines == 0:
            return np.asarray(both & (a == b), bool)
        if self.num_cores == 0:
            return np.asarray(both & (a // self.leaves_per_pod == b // self.leaves_per_pod), bool)
        return both

    def profile(self, capacity: FloatArray) -> LongArray:
        out = np.full(len(self.leaf_of), -1, np.int64)
        out[self.members] = self._member_profile(capacity)
        return out + 1

    def _member_profile(self, capacity: FloatArray) -> LongArray:
        leaf = self.leaf_of[self.members]
        rows = [self._view(capacity, "access_up"), self._view(capacity, "access_down")]
        own = wiring.row_classes(np.concatenate(rows, axis=1))
        spine = np.concatenate(
            [self._view(capacity, f"spine_{d}").reshape(self.num_leaves, -1) for d in ("up", "down")], axis=1
        )
        core = np.concatenate(
            [self._view(capacity, f"core_{d}").reshape(self.num_pods, -1) for d in ("up", "down")], axis=1
        )
        leaf_class = wiring.row_classes(spine)[leaf]
        return wiring.combine(own, leaf_class, wiring.row_classes(core)[leaf // self.leaves_per_pod])

    def _pair_weights(
        self, capacity: FloatArray, src: IntArray, dst: IntArray, level: IntArray, policy: Policy
    ) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """Weights over planes, spines and cores for one representative pair of each class, and which are cut."""
        a, b = self.leaf_of[src], self.leaf_of[dst]
        n, p, s = len(src), self.num_planes, self.num_spines
        access = np.minimum(
            self._view(capacity, "access_up")[self.local[src]],
            self._view(capacity, "access_down")[self.local[dst]],
        )
        up, down = self._view(capacity, "spine_up")[a], self._view(capacity, "spine_down")[b]
        leaf_cap = np.minimum(up, down)
        core_cap = np.minimum(
            self._view(capacity, "core_up")[a // self.leaves_per_pod],
            self._view(capacity, "core_down")[b // self.leaves_per_pod],
        )
        far = (level == 2)[:, None, None]
        spine_cap = np.where(far, np.minimum(leaf_cap, core_cap.sum(axis=3)), leaf_cap)
        even = policy.name != "resplit"
        spine_w = (spine_cap > 0).astype(float) if even else spine_cap
        core_w = (core_cap > 0).astype(float) if even else core_cap
        with np.errstate(invalid="ignore", divide="ignore"):
            spine_w = np.nan_to_num(spine_w / spine_w.sum(axis=2, keepdims=True))
            core_w = np.nan_to_num(core_w / core_w.sum(axis=3, keepdims=True))
            through = (level >= 1)[:, None]
            share = spine_cap.sum(axis=2) / self.devices_per_leaf if s else np.zeros((n, p))
            plane_cap = np.where(through, np.minimum(access, share), access)
            if even:
                plane_w = np.broadcast_to(self.plane_share, (n, p)).copy()
                cut = np.any((plane_cap <= 0) & (plane_w > 0), axis=1)
            else:
                plane_w = plane_cap
                cut = np.all(plane_cap <= 0, axis=1)
            plane_w = np.nan_to_num(plane_w / plane_w.sum(axis=1, keepdims=True))
        return plane_w, spine_w, core_w, np.asarray(cut, bool)

    def _pair_classes(
        self, src: IntArray, dst: IntArray, capacity: FloatArray
    ) -> tuple[IntArray, LongArray, IntArray, IntArray, IntArray]:
        """Level of each pair, its class, and one representative pair and level for each class."""
        a, b = self.leaf_of[src], self.leaf_of[dst]
        level = (a != b).astype(np.int32)
        if self.num_cores:
            level += a // self.leaves_per_pod != b // self.leaves_per_pod
        member = self._member_profile(capacity)
        count = int(member.max(initial=0)) + 1
        if count == 1:
            codes, cls = wiring.compact(level.astype(np.int64), 3)
        else:
            profile = np.zeros(len(self.leaf_of), np.int64)
            profile[self.members] = member
            codes, cls = wiring.compact((profile[src] * count + profile[dst]) * 3 + level, 3 * count * count)
        rep = np.zeros(len(codes), np.int64)
        rep[cls[::-1]] = np.arange(len(cls) - 1, -1, -1)  # first pair of each class
        return level, cls.astype(np.int64), src[rep], dst[rep], level[rep]

    def route(self, src: IntArray, dst: IntArray, capacity: FloatArray, policy: Policy) -> LayerRoute:
        level, cls, rep_src, rep_dst, rep_level = self._pair_classes(src, dst, capacity)
        plane_w, spine_w, core_w, rep_cut = self._pair_weights(capacity, rep_src, rep_dst, rep_level, policy)
        latency = np.asarray(self.facts.latencies_s)[np.minimum(level, len(self.facts.latencies_s) - 1)]
        weights = (plane_w, spine_w, core_w)
        if policy.name == "ecmp":
            return self._route_hashed(src, dst, level, cls, weights, rep_level, latency, rep_cut, policy)

        n, p, s, c = len(rep_src), self.num_planes, self.num_spines, self.num_cores
        leaf_w = plane_w[:, :, None] * spine_w
        families = [("access", plane_w, p), ("spine", leaf_w.reshape(n, -1), p * s)]
        families.append(("core", (leaf_w[..., None] * core_w).reshape(n, -1), p * s * c))
        deepest = int(rep_level.max(initial=0))
        leaf_src, leaf_dst = self.leaf_of[src], self.leaf_of[dst]
        owners = [(self.local[src], self.local[dst]), (leaf_src, leaf_dst)]
        owners.append((leaf_src // self.leaves_per_pod, leaf_dst // self.leaves_per_pod))
        columns: list[IntArray] = []
        tables: list[tuple[LongArray, IntArray, FloatArray]] = []
        rows = 0
        for depth, (name, weight, width) in enumerate(families[: deepest + 1]):
            alike = wiring.row_classes(np.where((rep_level >= depth)[:, None], weight, -1.0))
            num_alike = int(alike.max(initial=0)) + 1
            alike_w = np.zeros((num_alike, width))
            alike_w[alike] = weight
            for end, direction in enumerate(("up", "down")):
                first, shape = self.blocks()[f"{name}_{direction}"]
                key = owners[depth][end].astype(np.int64) * num_alike
                if num_alike > 1:
                    key = key + alike[cls]
                if depth:
                    key = np.where(level >= depth, key, -1)
                keys, seg = wiring.compact(key, shape[0] * num_alike)
                base = first + (keys // num_alike)[:, None] * width + np.arange(width)
                tables.append(wiring.dense_table(base, alike_w[keys % num_alike]))
                columns.append(np.where(seg >= 0, seg + rows, -1).astype(np.int32) if rows or depth else seg)
                rows += len(keys)
        ptr, link, weight_out, _ = wiring.join_tables(tables)
        return LayerRoute(
            seg=np.stack(columns, axis=1),
            side=(SIDE_SRC, SIDE_DST, SIDE_SHARED, SIDE_SHARED, SIDE_SHARED, SIDE_SHARED)[: len(columns)],
            ptr=ptr,
            link=link,
            weight=weight_out,
            latency_s=latency,
            cut=rep_cut[cls],
        )

    def _route_hashed(
        self,
        src: IntArray,
        dst: IntArray,
        level: IntArray,
        cls: LongArray,
        weights: tuple[FloatArray, FloatArray, FloatArray],
        rep_level: IntArray,
        latency: FloatArray,
        rep_cut: BoolArray,
        policy: Policy,
    ) -> LayerRoute:
        """One path per flow; the caller has already divided flows into queue pairs (equal pairs in a row)."""
        plane_w, spine_w, core_w = weights
        n, p, s, c = len(plane_w), self.num_planes, max(self.num_spines, 1), max(self.num_cores, 1)
        alive = np.zeros((n, p, s, c), bool)
        for k in range(n):
            if rep_level[k] == 0:
                alive[k, :, 0, 0] = plane_w[k] > 0
            elif rep_level[k] == 1:
                alive[k, :, :, 0] = plane_w[k][:, None] * spine_w[k] > 0
            else:
                alive[k] = plane_w[k][:, None, None] * spine_w[k][..., None] * core_w[k] > 0
        flat = alive.reshape(n, -1)
        count = np.maximum(flat.sum(axis=1), 1)
        order = np.argsort(~flat, axis=1, kind="stable")
        # Queue pairs of one flow stand together: their position in the run is part of what the hash sees.
        same = np.zeros(len(src), bool)
        same[1:] = (src[1:] == src[:-1]) & (dst[1:] == dst[:-1])
        start = np.maximum.accumulate(np.where(same, 0, np.arange(len(src))))
        pick = wiring.mix(src, dst, np.arange(len(src)) - start, policy.seed) % count[cls].astype(np.uint64)
        path = order[cls, pick.astype(np.int64)]
        core, rest = path % c, path // c
        spine, plane = rest % s, rest // s
        blocks = self.blocks()
        seg = np.full((len(src), 6), -1, np.int64)
        leaf_src, leaf_dst = self.leaf_of[src].astype(np.int64), self.leaf_of[dst].astype(np.int64)
        seg[:, 0] = blocks["access_up"][0] + self.local[src] * p + plane
        seg[:, 1] = blocks["access_down"][0] + self.local[dst] * p + plane
        for column, (name, leaf) in enumerate((("spine_up", leaf_src), ("spine_down", leaf_dst)), start=2):
            number = blocks[name][0] + (leaf * p + plane) * self.num_spines + spine
            seg[:, column] = np.where(level >= 1, number, -1)
        for column, (name, leaf) in enumerate((("core_up", leaf_src), ("core_down", leaf_dst)), start=4):
            pod = leaf // self.leaves_per_pod
            number = blocks[name][0] + ((pod * p + plane) * self.num_spines + spine) * self.num_cores + core
            seg[:, column] = np.where(level >= 2, number, -1)
        seg = seg[:, : 2 + 2 * int(level.max(initial=0))]
        keys, position = wiring.compact(seg, self.first_link + self.num_links)
        return LayerRoute(
            seg=position,
            side=(SIDE_SRC, SIDE_DST, SIDE_SHARED, SIDE_SHARED, SIDE_SHARED, SIDE_SHARED)[: seg.shape[1]],
            ptr=np.arange(len(keys) + 1, dtype=np.int64),
            link=keys.astype(np.int32),
            weight=np.ones(len(keys)),
            latency_s=latency,
            cut=rep_cut[cls],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClosPlan:
    """What a Clos layer consists of, before its links have numbers.

    Attributes
    ----------
    facts : LayerFacts
    leaf_of : array of int32, shape (endpoints,)
        Leaf group of each endpoint, -1 where the layer does not reach it.
    rail_of : array of int32, shape (endpoints,)
        Rail of each device inside its node.
    access_bytes_per_s : array of float, shape (endpoints,)
        Whole port of each endpoint into this layer, shared among planes by ``plane_share``.
    plane_share : array of float, shape (planes,)
    num_leaves, leaves_per_pod : int
    num_spines, num_cores : int
        Spines per plane and pod; cores behind each spine.
    uplink_bytes_per_s, corelink_bytes_per_s : float
        One link between leaf and spine, and between spine and core.
    switch_names : tuple of str
        Of leaf, spine and core.
    links_per_module : int
        Leaf-spine links that one optical module carries; 0 where no module is known.
    relay_in_node : bool
    """

    facts: LayerFacts
    leaf_of: IntArray
    rail_of: IntArray
    access_bytes_per_s: FloatArray
    plane_share: FloatArray
    num_leaves: int
    leaves_per_pod: int
    num_spines: int
    num_cores: int
    uplink_bytes_per_s: float
    corelink_bytes_per_s: float
    switch_names: tuple[str, str, str]
    links_per_module: int
    relay_in_node: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Cables between two rows of nodes, one entry each; the upward links come first, then the downward ones."""

    low: LongArray
    high: LongArray
    bytes_per_s: FloatArray
    plane: LongArray
    module: LongArray
    kind: LongArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Chips:
    """Node numbers of the switch chips: leaf and plane; pod, plane and spine; plane, spine and core."""

    leaf: LongArray
    spine: LongArray
    core: LongArray

    @property
    def num(self) -> tuple[int, int, int]:
        return self.leaf.size, self.spine.size, self.core.size


def wire_clos(plan: ClosPlan, endpoints: Endpoints, *, first_link: int, first_switch: int) -> Wiring:
    """Wire a Clos layer whose links and switches are numbered from the given ones on."""
    switches = plan.num_leaves * plan.num_spines
    switches += -(-plan.num_leaves // plan.leaves_per_pod) * plan.num_spines * plan.num_cores
    check_size(plan.facts.name, 2 * len(plan.plane_share) * (len(endpoints) + switches))
    layer = _layer(plan, endpoints, first_link)
    p, s, c, pods = layer.num_planes, layer.num_spines, layer.num_cores, layer.num_pods
    at_spine = first_switch + plan.num_leaves * p
    at_core = at_spine + pods * p * s
    # core c behind spine s of a plane is the same chip for every pod
    chips = _Chips(
        leaf=np.arange(first_switch, at_spine).reshape(plan.num_leaves, p),
        spine=np.arange(at_spine, at_core).reshape(pods, p, s),
        core=np.arange(at_core, at_core + p * s * c).reshape(p, s, c),
    )
    blocks = (
        _access_block(plan, endpoints, layer, chips),
        _spine_block(plan, layer, chips, len(endpoints.kinds)),
        _core_block(plan, layer, chips, len(endpoints.kinds) + 1),
    )
    leaf_name, spine_name, core_name = plan.switch_names
    access_kinds = tuple(f"{name}-{leaf_name}" for name in endpoints.kinds)
    return Wiring(
        layer=layer,
        src=_both_ways(blocks, "low", "high"),
        dst=_both_ways(blocks, "high", "low"),
        bytes_per_s=_both_ways(blocks, "bytes_per_s").astype(np.float64),
        kind=_both_ways(blocks, "kind"),
        plane=_both_ways(blocks, "plane"),
        module=_both_ways(blocks, "module"),
        peer=_peers(blocks, first_link),
        kinds=(*access_kinds, f"{leaf_name}-{spine_name}", f"{spine_name}-{core_name}"),
        switch_tier=np.repeat([0, 1, 2], chips.num).astype(np.int64),
        switch_plane=np.concatenate(
            [
                np.tile(np.arange(p), plan.num_leaves),
                np.tile(np.repeat(np.arange(p), s), pods),
                np.repeat(np.arange(p), s * c),
            ]
        ).astype(np.int64),
        switch_tiers=plan.switch_names,
    )


def _layer(plan: ClosPlan, endpoints: Endpoints, first_link: int) -> ClosLayer:
    members = np.flatnonzero(plan.leaf_of >= 0).astype(np.int32)
    local = np.full(len(plan.leaf_of), -1, np.int32)
    local[members] = np.arange(len(members), dtype=np.int32)
    p, s = len(plan.plane_share), plan.num_spines
    devices = endpoints.kind[members] == 0
    leaves = plan.leaf_of[members][devices]
    fullest = int(np.bincount(leaves, minlength=plan.num_leaves).max()) if devices.any() else 1
    pods = -(-plan.num_leaves // plan.leaves_per_pod)
    return ClosLayer(
        facts=plan.facts,
        first_link=first_link,
        num_links=2 * p * (len(members) + plan.num_leaves * s + pods * s * plan.num_cores),
        num_planes=p,
        num_leaves=plan.num_leaves,
        leaves_per_pod=plan.leaves_per_pod,
        num_spines=s,
        num_cores=plan.num_cores,
        leaf_of=plan.leaf_of,
        local=local,
        members=members,
        rail_of=plan.rail_of,
        plane_share=plan.plane_share,
        devices_per_leaf=float(max(fullest, 1)),
        relay_in_node=plan.relay_in_node,
    )


def _access_block(plan: ClosPlan, endpoints: Endpoints, layer: ClosLayer, chips: _Chips) -> _Block:
    """One cable from every endpoint to its leaf in each plane."""
    members, p = layer.members, layer.num_planes
    return _Block(
        low=np.repeat(members, p).astype(np.int64),
        high=chips.leaf[plan.leaf_of[members]].ravel(),
        bytes_per_s=(plan.access_bytes_per_s[members][:, None] * plan.plane_share).ravel(),
        plane=np.tile(np.arange(p), len(members)),
        module=np.full(len(members) * p, -1),
        kind=np.repeat(endpoints.kind[members], p).astype(np.int64),
    )


def _spine_block(plan: ClosPlan, layer: ClosLayer, chips: _Chips, kind: int) -> _Block:
    """One cable from every leaf to each spine of its plane and pod."""
    leaf, plane, spine = (
        x.ravel() for x in np.indices((layer.num_leaves, layer.num_planes, layer.num_spines))
    )
    module = np.full(leaf.size, -1)
    if plan.links_per_module:
        per_plane = -(-layer.num_spines // plan.links_per_module)
        module = (leaf * layer.num_planes + plane) * per_plane + spine // plan.links_per_module
    return _Block(
        low=chips.leaf[leaf, plane],
        high=chips.spine[leaf // layer.leaves_per_pod, plane, spine],
        bytes_per_s=np.full(leaf.size, plan.uplink_bytes_per_s),
        plane=plane,
        module=module,
        kind=np.full(leaf.size, kind),
    )


def _core_block(plan: ClosPlan, layer: ClosLayer, chips: _Chips, kind: int) -> _Block:
    """One cable from every spine to each core behind it."""
    shape = (layer.num_pods, layer.num_planes, layer.num_spines, layer.num_cores)
    pod, plane, spine, core = (x.ravel() for x in np.indices(shape))
    return _Block(
        low=chips.spine[pod, plane, spine],
        high=chips.core[plane, spine, core],
        bytes_per_s=np.full(pod.size, plan.corelink_bytes_per_s),
        plane=plane,
        module=np.full(pod.size, -1),
        kind=np.full(pod.size, kind),
    )


def _both_ways(blocks: tuple[_Block, ...], up: str, down: str = "") -> NDArray[Any]:
    """A column over all links: of each block the upward half, then the downward one."""
    return np.concatenate([getattr(b, name) for b in blocks for name in (up, down or up)])


def _peers(blocks: tuple[_Block, ...], first_link: int) -> LongArray:
    """The same cable in the other direction, for every link."""
    peers, at = [], first_link
    for block in blocks:
        size, number = block.low.size, np.arange(block.low.size)
        peers += [at + size + number, at + number]
        at += 2 * size
    return np.concatenate(peers)
