"""A fabric that a user wires link by link: shortest paths, traffic split evenly at every equal choice."""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.machine.wiring import CableList
from fullmesh.network.wiring import links as wiring
from fullmesh.network.wiring.links import (
    SIDE_PAIR,
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
class GraphLayer:
    """Links of any shape. Paths are found once for each pair, so this is for hundreds of endpoints, not thousands."""

    facts: LayerFacts
    first_link: int
    num_links: int
    num_devices: int
    num_endpoints: int
    num_nodes: int
    src: LongArray
    dst: LongArray
    latency_s: FloatArray

    def joins(self, src: IntArray, dst: IntArray, capacity: FloatArray) -> BoolArray:
        return np.ones(len(src), bool)

    def profile(self, capacity: FloatArray) -> LongArray:
        return np.arange(self.num_endpoints, dtype=np.int64)

    def distances(self, capacity: FloatArray) -> FloatArray:
        """Hops between all nodes over living links, shape (nodes, nodes)."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import shortest_path

        live = capacity[self.first_link : self.first_link + self.num_links] > 0
        shape = (self.num_nodes, self.num_nodes)
        graph = coo_matrix((np.ones(int(live.sum())), (self.src[live], self.dst[live])), shape=shape).tocsr()
        graph.data[:] = 1.0
        return np.asarray(shortest_path(graph, unweighted=True))

    def route(self, src: IntArray, dst: IntArray, capacity: FloatArray, policy: Policy) -> LayerRoute:
        far = self.distances(capacity)
        live = capacity[self.first_link : self.first_link + self.num_links]
        order = np.argsort(self.src, kind="stable")
        leaving = np.searchsorted(self.src[order], np.arange(self.num_nodes + 1))
        keys, seg = wiring.compact(src.astype(np.int64) * self.num_nodes + dst, self.num_nodes**2)
        if policy.name == "ecmp":  # every flow has a path of its own
            keys, seg = src.astype(np.int64) * self.num_nodes + dst, np.arange(len(src), dtype=np.int32)
        ptr, links, weights, latency, cut = [0], [], [], np.zeros(len(keys)), np.zeros(len(keys), bool)
        for row, key in enumerate(keys):
            start, goal = int(key) // self.num_nodes, int(key) % self.num_nodes
            cut[row] = not np.isfinite(far[start, goal])
            here = {} if cut[row] else {start: 1.0}
            turn = 0
            while here:
                there: dict[int, float] = {}
                slowest = 0.0
                for node, amount in here.items():
                    out = order[leaving[node] : leaving[node + 1]]
                    out = out[(live[out] > 0) & (far[self.dst[out], goal] == far[node, goal] - 1)]
                    share = (
                        live[out] / live[out].sum()
                        if policy.name == "resplit"
                        else np.full(len(out), 1 / len(out))
                    )
                    if policy.name == "ecmp":
                        pick = int(wiring.mix(row, node, turn, policy.seed)[0] % np.uint64(len(out)))
                        out, share = out[pick : pick + 1], np.ones(1)
                    slowest = max(slowest, float(self.latency_s[out].max()))
                    for link, part in zip(out, share, strict=True):
                        links.append(int(link) + self.first_link)
                        weights.append(amount * float(part))
                        if self.dst[link] != goal:
                            there[int(self.dst[link])] = there.get(int(self.dst[link]), 0.0) + amount * float(
                                part
                            )
                latency[row] += slowest
                here, turn = there, turn + 1
            ptr.append(len(links))
        return LayerRoute(
            seg=seg.astype(np.int32)[:, None],
            side=(SIDE_PAIR,),
            ptr=np.array(ptr, np.int64),
            link=np.array(links, np.int32),
            weight=np.array(weights),
            latency_s=latency[seg],
            cut=cut[seg],
        )


def wire_graph(found: CableList) -> Wiring:
    """Wire a list of cables: cable ``i`` becomes links ``2i`` and ``2i + 1``, one in each direction."""
    ends = np.array([(c.a, c.b) for c in found.cables], np.int64)
    rate, latency = (np.array([getattr(c, k) for c in found.cables]) for k in ("bytes_per_s", "latency_s"))
    n, nodes = len(found.devices), len(found.devices) + len(found.switch_tiers)
    port = np.bincount(ends.ravel(), np.repeat(rate, 2), nodes)
    kinds, tiers = (tuple(dict.fromkeys(x)) for x in ([c.kind for c in found.cables], found.switch_tiers))
    count = ends.size
    layer = GraphLayer(
        facts=LayerFacts(
            name="graph",
            tier_kind="switch",
            group_devices=n,
            device_bytes_per_s=float(port[:n].min()),
            latencies_s=(float(latency.max()),),
            efficiency=1.0,
            reduction_efficiency=1.0,
            in_network_reduction=False,
            source=found.source,
        ),
        first_link=0,
        num_links=count,
        num_devices=n,
        num_endpoints=n,
        num_nodes=nodes,
        src=ends.ravel(),
        dst=ends[:, ::-1].ravel(),
        latency_s=np.repeat(latency, 2),
    )
    return Wiring(
        layer=layer,
        src=layer.src,
        dst=layer.dst,
        bytes_per_s=np.repeat(rate, 2),
        kind=np.repeat([kinds.index(c.kind) for c in found.cables], 2),
        plane=np.zeros(count, np.int64),
        module=np.full(count, -1, np.int64),
        peer=np.arange(count) ^ 1,
        kinds=kinds,
        switch_tier=np.array([tiers.index(t) for t in found.switch_tiers], np.int64),
        switch_plane=np.zeros(len(found.switch_tiers), np.int64),
        switch_tiers=tiers,
    )
