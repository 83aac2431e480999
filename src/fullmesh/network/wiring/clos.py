"""Leaf, spine and core switches in parallel planes: UB, NVSwitch, rail-optimised clusters and fat trees.

An endpoint has one link to the leaf of each plane. A pod is a set of leaves under the same spines; cores join pods.
Without spines a pod is its leaf alone. All numbers of links follow by arithmetic from (endpoint, plane, spine, core).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullmesh.network.wiring import links as wiring
from fullmesh.network.wiring.links import (
    SIDE_DST,
    SIDE_SHARED,
    SIDE_SRC,
    BoolArray,
    FloatArray,
    IntArray,
    LayerFacts,
    LayerRoute,
    LongArray,
    Policy,
    Wiring,
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
                at += int(np.prod(shape))
        return out

    def _view(self, capacity: FloatArray, block: str) -> FloatArray:
        first, shape = self.blocks()[block]
        return capacity[first : first + int(np.prod(shape))].reshape(shape)

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


def wire_clos(
    *,
    facts: LayerFacts,
    first_link: int,
    first_switch: int,
    leaf_of: IntArray,
    rail_of: IntArray,
    access_bytes_per_s: FloatArray,
    endpoint_kind: IntArray,
    endpoint_kinds: tuple[str, ...],
    plane_share: FloatArray,
    num_leaves: int,
    leaves_per_pod: int,
    num_spines: int,
    num_cores: int,
    uplink_bytes_per_s: float,
    corelink_bytes_per_s: float,
    switch_names: tuple[str, str, str],
    links_per_module: int,
    relay_in_node: bool,
) -> Wiring:
    """Wire a Clos layer.

    Parameters
    ----------
    leaf_of : array of int32, shape (endpoints,)
        Leaf group of each endpoint, -1 where the layer does not reach it.
    access_bytes_per_s : array of float, shape (endpoints,)
        Whole port of each endpoint into this layer, shared among planes by ``plane_share``.
    num_spines, num_cores : int
        Spines per plane and pod; cores behind each spine.
    links_per_module : int
        Leaf-spine links that one optical module carries; 0 where no module is known.
    """
    members = np.flatnonzero(leaf_of >= 0).astype(np.int32)
    local = np.full(len(leaf_of), -1, np.int32)
    local[members] = np.arange(len(members), dtype=np.int32)
    p = len(plane_share)
    devices = endpoint_kind[members] == 0
    count = np.bincount(leaf_of[members][devices], minlength=num_leaves) if devices.any() else np.ones(1)
    layer = ClosLayer(
        facts=facts,
        first_link=first_link,
        num_links=2 * (len(members) * p + num_leaves * p * num_spines),
        num_planes=p,
        num_leaves=num_leaves,
        leaves_per_pod=leaves_per_pod,
        num_spines=num_spines,
        num_cores=num_cores,
        leaf_of=leaf_of,
        local=local,
        members=members,
        rail_of=rail_of,
        plane_share=plane_share,
        devices_per_leaf=float(max(count.max(), 1)),
        relay_in_node=relay_in_node,
    )
    pods = layer.num_pods
    layer = dataclasses.replace(layer, num_links=layer.num_links + 2 * pods * p * num_spines * num_cores)
    leaf_switch = first_switch + np.arange(num_leaves * p)
    spine_switch = first_switch + num_leaves * p + np.arange(pods * p * num_spines)
    # Core c behind spine s of a plane is the same chip for every pod.
    num_core_switches = p * num_spines * num_cores
    core_switch = spine_switch[-1:].sum() + 1 + np.arange(num_core_switches)

    plane = np.broadcast_to(np.arange(p), (len(members), p))
    ends = [
        (
            np.broadcast_to(members[:, None], plane.shape),
            leaf_switch[leaf_of[members][:, None] * p + plane],
            access_bytes_per_s[members][:, None] * plane_share,
            plane,
            np.full(plane.shape, -1),
        )
    ]
    leaf_i, plane_i, spine_i = np.indices((num_leaves, p, num_spines))
    module = np.full(leaf_i.shape, -1)
    if links_per_module:
        per_plane = -(-num_spines // links_per_module)
        module = (leaf_i * p + plane_i) * per_plane + spine_i // links_per_module
    ends.append(
        (
            leaf_switch[leaf_i * p + plane_i],
            spine_switch[((leaf_i // leaves_per_pod) * p + plane_i) * num_spines + spine_i]
            if num_spines
            else leaf_i,
            np.full(leaf_i.shape, uplink_bytes_per_s),
            plane_i,
            module,
        )
    )
    pod_i, plane_j, spine_j, core_j = np.indices((pods, p, num_spines, num_cores))
    ends.append(
        (
            spine_switch[(pod_i * p + plane_j) * num_spines + spine_j] if num_spines else pod_i,
            core_switch[(plane_j * num_spines + spine_j) * num_cores + core_j]
            if num_core_switches
            else pod_i,
            np.full(pod_i.shape, corelink_bytes_per_s),
            plane_j,
            np.full(pod_i.shape, -1),
        )
    )
    leaf_name, spine_name, core_name = switch_names
    access_kinds = tuple(f"{name}-{leaf_name}" for name in endpoint_kinds)
    kinds = (*access_kinds, f"{leaf_name}-{spine_name}", f"{spine_name}-{core_name}")
    columns: dict[str, list[NDArray[Any]]] = {
        k: [] for k in ("src", "dst", "cap", "kind", "plane", "mod", "peer")
    }
    at = first_link
    for block, (low, high, cap, planes, modules) in enumerate(ends):
        size = low.size
        kind = (
            np.broadcast_to(endpoint_kind[members][:, None], low.shape).ravel()
            if block == 0
            else np.full(size, len(access_kinds) + block - 1)
        )
        number = np.arange(size)
        columns["src"] += [low.ravel(), high.ravel()]
        columns["dst"] += [high.ravel(), low.ravel()]
        columns["cap"] += [cap.ravel()] * 2
        columns["kind"] += [kind] * 2
        columns["plane"] += [planes.ravel()] * 2
        columns["mod"] += [modules.ravel()] * 2
        columns["peer"] += [at + size + number, at + number]
        at += 2 * size
    joined = {k: np.concatenate(v) for k, v in columns.items()}
    switch_plane = np.concatenate(
        [
            np.tile(np.arange(p), num_leaves),
            np.tile(np.repeat(np.arange(p), num_spines), pods),
            np.repeat(np.arange(p), num_spines * num_cores),
        ]
    )
    return Wiring(
        layer=layer,
        src=joined["src"].astype(np.int64),
        dst=joined["dst"].astype(np.int64),
        bytes_per_s=joined["cap"].astype(np.float64),
        kind=joined["kind"].astype(np.int64),
        plane=joined["plane"].astype(np.int64),
        module=joined["mod"].astype(np.int64),
        peer=joined["peer"].astype(np.int64),
        kinds=kinds,
        switch_tier=np.repeat([0, 1, 2], [num_leaves * p, pods * p * num_spines, num_core_switches]).astype(
            np.int64
        ),
        switch_plane=switch_plane.astype(np.int64),
        switch_tiers=switch_names,
    )
