"""Dragonfly: groups of fully meshed routers, every pair of groups joined by the same number of global links."""

from __future__ import annotations

import dataclasses

import numpy as np

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
class DragonflyLayer:
    """Minimal routing: at most one local, one global and one local hop, spread over the parallel global links."""

    facts: LayerFacts
    first_link: int
    num_links: int
    num_devices: int
    num_endpoints: int
    devices_per_router: int
    routers_per_group: int
    global_per_router: int
    num_groups: int

    @property
    def num_routers(self) -> int:
        return self.num_groups * self.routers_per_group

    @property
    def parallel(self) -> int:
        """Global links between two groups."""
        if self.num_groups < 2:
            return 0
        return self.routers_per_group * self.global_per_router // (self.num_groups - 1)

    def _firsts(self) -> tuple[int, int, int, int]:
        up = self.first_link
        down = up + self.num_devices
        local = down + self.num_devices
        return up, down, local, local + self.num_routers * (self.routers_per_group - 1)

    def joins(self, src: IntArray, dst: IntArray, capacity: FloatArray) -> BoolArray:
        return (src < self.num_devices) & (dst < self.num_devices)

    def profile(self, capacity: FloatArray) -> LongArray:
        # Routers differ by the order of their global links: no two devices of different routers are taken as alike.
        out = np.arange(self.num_endpoints, dtype=np.int64)
        return out // self.devices_per_router

    def local_link(self, here: LongArray, there: LongArray) -> LongArray:
        """Link between two routers of one group."""
        a = self.routers_per_group
        x, y = here % a, there % a
        return self._firsts()[2] + here * (a - 1) + y - (y > x)

    def global_hop(
        self, from_group: LongArray, to_group: LongArray, slot: LongArray
    ) -> tuple[LongArray, LongArray, LongArray]:
        """Link number, router that it leaves and router that it reaches."""
        g, a, h = self.num_groups, self.routers_per_group, self.global_per_router
        out_port = slot * (g - 1) + (to_group - from_group - 1) % g
        in_port = slot * (g - 1) + (from_group - to_group - 1) % g
        link = self._firsts()[3] + from_group * (g - 1) * self.parallel + out_port
        return link, from_group * a + out_port // h, to_group * a + in_port // h

    def route(self, src: IntArray, dst: IntArray, capacity: FloatArray, policy: Policy) -> LayerRoute:
        up, down, _, _ = self._firsts()
        here, there = (
            src.astype(np.int64) // self.devices_per_router,
            dst.astype(np.int64) // self.devices_per_router,
        )
        m = max(self.parallel, 1)
        slots = m if policy.name == "ecmp" else 1
        key = (here * self.num_routers + there) * slots
        if slots > 1:
            key += (wiring.mix(src, dst, np.arange(len(src)), policy.seed) % np.uint64(m)).astype(np.int64)
        key = np.where(here == there, -1, key)
        keys, seg = wiring.compact(key, self.num_routers**2 * slots)
        r1, r2 = keys // slots // self.num_routers, keys // slots % self.num_routers
        g1, g2 = r1 // self.routers_per_group, r2 // self.routers_per_group
        links = np.zeros((len(keys), m, 3), np.int64)
        used = np.zeros((len(keys), m, 3), bool)
        near = g1 == g2
        links[near, 0, 0], used[near, 0, 0] = self.local_link(r1[near], r2[near]), True
        for slot in range(m):
            take = ~near & ((keys % slots == slot) | (slots == 1))
            link, leave, enter = self.global_hop(g1, g2, np.full(len(keys), slot))
            links[:, slot, 1] = np.where(take, link, links[:, slot, 1])
            used[:, slot, 1] = take
            first_hop, last_hop = take & (leave != r1), take & (enter != r2)
            links[first_hop, slot, 0], used[first_hop, slot, 0] = self.local_link(r1, leave)[first_hop], True
            links[last_hop, slot, 2], used[last_hop, slot, 2] = self.local_link(enter, r2)[last_hop], True
        path_cap = np.where(used, capacity[links], np.inf).min(axis=2)
        path_cap[~used.any(axis=2)] = 0.0
        exists = used.any(axis=2)
        weight = path_cap if policy.name == "resplit" else exists.astype(float)
        total = weight.sum(axis=1, keepdims=True)
        weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        dead = (total[:, 0] <= 0) if policy.name == "resplit" else (exists & (path_cap <= 0)).any(axis=1)
        rows = wiring.dense_table(
            links.reshape(len(keys), -1), (used * weight[:, :, None]).reshape(len(keys), -1)
        )
        up_keys, up_seg = wiring.compact(src.astype(np.int64), self.num_devices)
        down_keys, down_seg = wiring.compact(dst.astype(np.int64), self.num_devices)
        parts = [
            (np.arange(len(k) + 1, dtype=np.int64), (first + k).astype(np.int32), np.ones(len(k)))
            for first, k in ((up, up_keys), (down, down_keys))
        ]
        ptr, link_out, weight_out, first_row = wiring.join_tables([*parts, rows])
        latencies = self.facts.latencies_s
        level = np.where(
            here == there,
            0,
            np.where(here // self.routers_per_group == there // self.routers_per_group, 1, 2),
        )
        access_dead = (capacity[up + src] <= 0) | (capacity[down + dst] <= 0)
        return LayerRoute(
            seg=np.stack(
                [up_seg, down_seg + first_row[1], np.where(seg >= 0, seg + first_row[2], -1)], axis=1
            ).astype(np.int32),
            side=(SIDE_SRC, SIDE_DST, SIDE_SHARED),
            ptr=ptr,
            link=link_out,
            weight=weight_out,
            latency_s=np.asarray(latencies)[np.minimum(level, len(latencies) - 1)],
            cut=access_dead | (np.where(seg >= 0, dead[seg], False) if len(keys) else False),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DragonflyPlan:
    """What a dragonfly consists of; links are those of devices, inside a group and between groups."""

    facts: LayerFacts
    devices_per_router: int
    routers_per_group: int
    global_per_router: int
    access_bytes_per_s: float
    local_bytes_per_s: float
    global_bytes_per_s: float


def wire_dragonfly(
    plan: DragonflyPlan, endpoints: Endpoints, *, first_link: int, first_switch: int
) -> Wiring:
    """Wire a dragonfly; the number of groups follows from the number of devices."""
    num_devices = endpoints.num_devices
    layer = DragonflyLayer(
        facts=plan.facts,
        first_link=first_link,
        num_links=0,
        num_devices=num_devices,
        num_endpoints=len(endpoints),
        devices_per_router=plan.devices_per_router,
        routers_per_group=plan.routers_per_group,
        global_per_router=plan.global_per_router,
        num_groups=-(-num_devices // (plan.devices_per_router * plan.routers_per_group)),
    )
    ends = plan.routers_per_group + plan.global_per_router
    check_size(plan.facts.name, 2 * num_devices + layer.num_routers * ends)
    a, g, r, m = plan.routers_per_group, layer.num_groups, layer.num_routers, layer.parallel
    device = np.arange(num_devices, dtype=np.int64)
    router_of = first_switch + device // plan.devices_per_router
    here = np.repeat(np.arange(r, dtype=np.int64), a - 1)
    port = np.tile(np.arange(a - 1, dtype=np.int64), r)
    there = here // a * a + port + (port >= here % a)
    g1, slot, step = (x.ravel().astype(np.int64) for x in np.indices((g, m, max(g - 1, 0))))
    g2 = (g1 + 1 + step) % g
    link, leave, enter = layer.global_hop(g1, g2, slot)
    back, _, _ = layer.global_hop(g2, g1, slot)
    assert np.array_equal(link, layer._firsts()[3] + np.arange(len(link)))
    count = (num_devices, num_devices, len(here), len(link))
    return Wiring(
        layer=dataclasses.replace(layer, num_links=sum(count)),
        src=np.concatenate([device, router_of, first_switch + here, first_switch + leave]),
        dst=np.concatenate([router_of, device, first_switch + there, first_switch + enter]),
        bytes_per_s=np.repeat(
            [
                plan.access_bytes_per_s,
                plan.access_bytes_per_s,
                plan.local_bytes_per_s,
                plan.global_bytes_per_s,
            ],
            count,
        ),
        kind=np.repeat([0, 0, 1, 2], count).astype(np.int64),
        plane=np.zeros(sum(count), np.int64),
        module=np.full(sum(count), -1, np.int64),
        peer=np.concatenate(
            [first_link + num_devices + device, first_link + device, layer.local_link(there, here), back]
        ),
        kinds=("device-router", "router-router", "global"),
        switch_tier=np.zeros(r, np.int64),
        switch_plane=np.zeros(r, np.int64),
        switch_tiers=("router",),
    )
