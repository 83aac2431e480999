"""A fabric as it is wired: endpoints, switches, links and their health, and the layers that route over them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fullmesh.errors import TopologyError
from fullmesh.machine.hardware import FabricDescription, Tier
from fullmesh.network.wiring import links as wiring
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.links import (
    SIDE_NONE,
    BoolArray,
    Endpoints,
    FloatArray,
    IntArray,
    Layer,
    LayerRoute,
    Links,
    LongArray,
    Policy,
    Switches,
    Wiring,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Paths of many flows in two steps: a flow names segments, a segment names links with weights.

    A segment is what many flows share, such as "from this leaf to all spines, evenly". Two steps keep the exact paths
    of an all-to-all over 768 dies in a few megabytes where one step would need 137 million entries.

    Attributes
    ----------
    seg : array of int32, shape (flows, columns)
        Segments of each flow, -1 where unused.
    side : array of int8, shape (flows, columns)
        Whose property the segment is (``SIDE_*``).
    ptr, link, weight : arrays
        Compressed rows of the segments.
    latency_s : array of float, shape (flows,)
    layer : array of int16, shape (flows,)
        Index of the layer that joins the pair.
    cut : array of bool, shape (flows,)
        No path under the policy.
    parent : array of int64, shape (flows,)
        Which of the asked pairs the flow belongs to (more than one flow each under ECMP with queue pairs).
    """

    seg: IntArray
    side: NDArray[np.int8]
    ptr: LongArray
    link: IntArray
    weight: FloatArray
    latency_s: FloatArray
    layer: NDArray[np.int16]
    cut: BoolArray
    parent: LongArray

    @property
    def num_flows(self) -> int:
        return len(self.seg)

    @property
    def num_segments(self) -> int:
        return len(self.ptr) - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The whole fabric of one machine.

    Attributes
    ----------
    name, title : str
    device_basis : str
        What one device is: ``gpu``, ``npu`` or ``die``.
    num_devices, num_endpoints : int
        Devices come first; CPUs and DPUs follow as further endpoints.
    unit_devices, unit_name : int, str
        What one buys, and how many devices it has.
    endpoint_kind : array of int32
        Index into ``endpoint_kinds``; 0 is the device.
    fabric : FabricDescription
        What it was wired from.
    layers : tuple of Layer
        Innermost first: a pair talks through the first layer that joins it.
    health : array of float, shape (links,)
        Share of the line rate that is left: 1 healthy, 0 dead.
    switch_dead : array of bool, shape (switches,)
    """

    name: str
    title: str
    device_basis: str
    num_devices: int
    num_endpoints: int
    devices_per_node: int
    devices_per_package: int
    unit_devices: int
    unit_name: str
    endpoint_kind: IntArray
    endpoint_kinds: tuple[str, ...]
    fabric: FabricDescription
    layers: tuple[Layer, ...]
    links: Links
    switches: Switches
    health: FloatArray
    switch_dead: BoolArray

    @property
    def capacity(self) -> FloatArray:
        """Bytes per second of every link as it is now."""
        return self.links.bytes_per_s * self.health

    def with_health(self, health: FloatArray, switch_dead: BoolArray | None = None) -> Topology:
        """The same fabric with other link health."""
        dead = self.switch_dead if switch_dead is None else switch_dead
        return dataclasses.replace(self, health=health, switch_dead=dead)

    def tiers(self) -> tuple[Tier, ...]:
        """The tier list of the same description, for closed forms; layers that no pair needs are left out."""
        out: list[Tier] = []
        for layer in self.layers:
            facts = layer.facts
            levels = facts.levels or ((facts.name, facts.group_devices),)
            for level, (name, devices) in enumerate(levels):
                group = min(devices, self.num_devices)
                if not facts.carries_devices or (out and group <= out[-1].num_devices):
                    continue
                at = level if facts.levels else len(facts.latencies_s) - 1
                out.append(
                    Tier(
                        name=name,
                        kind=facts.tier_kind,
                        num_devices=group,
                        bytes_per_s=facts.device_bytes_per_s,
                        latency_s=facts.latencies_s[min(at, len(facts.latencies_s) - 1)],
                        in_network_reduction=facts.in_network_reduction,
                    )
                )
        return tuple(out)

    def switch_counts(self) -> dict[str, int]:
        """Living switch chips by tier."""
        alive = self.switches.tier[~self.switch_dead]
        count = np.bincount(alive, minlength=len(self.switches.tiers))
        return {name: int(count[i]) for i, name in enumerate(self.switches.tiers)}

    def link_counts(self) -> dict[str, tuple[int, float]]:
        """Living cables by kind: how many, and the mean rate of one in one direction (bytes per second)."""
        first = self.links.peer > np.arange(len(self.links))
        alive = first & (self.health > 0)
        count = np.bincount(self.links.kind[alive], minlength=len(self.links.kinds))
        rate = np.bincount(
            self.links.kind[alive], weights=self.capacity[alive], minlength=len(self.links.kinds)
        )
        return {
            name: (int(count[i]), float(rate[i] / count[i]) if count[i] else 0.0)
            for i, name in enumerate(self.links.kinds)
        }

    def layer_of(self, src: IntArray, dst: IntArray) -> NDArray[np.int16]:
        """Index of the first layer that joins each pair, -1 where none does."""
        capacity = self.capacity
        out = np.full(len(src), -1, np.int16)
        left = np.arange(len(src))
        for index, layer in enumerate(self.layers):
            if not layer.facts.carries_devices and not (self.endpoint_kind[src[left]] > 0).any():
                continue
            hit = layer.joins(src[left], dst[left], capacity)
            out[left[hit]] = index
            left = left[~hit]
            if not len(left):
                break
        return out

    def route(
        self, src: LongArray | IntArray, dst: LongArray | IntArray, policy: Policy | None = None
    ) -> Routing:
        """Paths of the pairs ``src[i] -> dst[i]``.

        Parameters
        ----------
        src, dst : array of int
            Endpoint numbers; no pair may be equal.
        policy : Policy, optional
            Even spray by default.

        Raises
        ------
        TopologyError
            A pair that no layer joins even when everything is healthy.
        """
        policy = policy or Policy()
        parent = np.arange(len(src), dtype=np.int64)
        if policy.name == "ecmp" and policy.queue_pairs > 1:
            parent = np.repeat(parent, policy.queue_pairs)
            src, dst = src[parent], dst[parent]
        src32, dst32 = np.asarray(src, np.int32), np.asarray(dst, np.int32)
        which = self.layer_of(src32, dst32)
        if (which < 0).any():
            bad = int(np.flatnonzero(which < 0)[0])
            raise TopologyError(
                f"endpoints {int(src32[bad])} and {int(dst32[bad])} of {self.name} are not connected",
                expected="a layer that joins them",
                hint="add an outer layer, or use fewer devices",
            )
        parts: list[tuple[LongArray, LayerRoute]] = []
        capacity = self.capacity
        for index, layer in enumerate(self.layers):
            mine = np.flatnonzero(which == index)
            if not len(mine):
                continue
            whole = len(mine) == len(src32)
            a, b = (src32, dst32) if whole else (src32[mine], dst32[mine])
            if isinstance(layer, ClosLayer) and layer.relay_in_node:
                a = self._relay(layer, a, b, mine, capacity, policy, parts)
            parts.append((mine, layer.route(a, b, capacity, policy)))
        return self._merge(parts, which, parent)

    def _relay(
        self,
        layer: ClosLayer,
        src: IntArray,
        dst: IntArray,
        rows: LongArray,
        capacity: FloatArray,
        policy: Policy,
        parts: list[tuple[LongArray, LayerRoute]],
    ) -> IntArray:
        """Send flows between rails first to the node's device on the right rail; returns the new sources."""
        relay = (src - src % self.devices_per_node + dst % self.devices_per_node).astype(np.int32)
        hop = (layer.rail_of[src] != layer.rail_of[dst]) & (relay < self.num_devices)
        inner = self.layer_of(src[hop], relay[hop])
        for index in np.unique(inner):
            pick = np.flatnonzero(hop)[inner == index]
            if self.layers[index] is layer:  # nothing faster inside the node: no relay
                hop[pick] = False
                continue
            parts.append((rows[pick], self.layers[index].route(src[pick], relay[pick], capacity, policy)))
        return np.where(hop, relay, src).astype(np.int32)

    def _merge(
        self, parts: list[tuple[LongArray, LayerRoute]], which: NDArray[np.int16], parent: LongArray
    ) -> Routing:
        n = len(which)
        if len(parts) == 1 and len(parts[0][0]) == n:
            only = parts[0][1]
            side = np.broadcast_to(np.array(only.side, np.int8), only.seg.shape)
            return Routing(
                seg=only.seg,
                side=side,
                ptr=only.ptr,
                link=only.link,
                weight=only.weight,
                latency_s=only.latency_s,
                layer=which,
                cut=only.cut,
                parent=parent,
            )
        used = np.zeros(n, np.int64)
        for rows, part in parts:
            used[rows] += part.seg.shape[1]
        width = int(used.max(initial=0))
        seg, side = np.full((n, width), -1, np.int32), np.full((n, width), SIDE_NONE, np.int8)
        latency, cut, filled = np.zeros(n), np.zeros(n, bool), np.zeros(n, np.int64)
        ptr, link, weight, first = wiring.join_tables([(p.ptr, p.link, p.weight) for _, p in parts])
        for (rows, part), start in zip(parts, first, strict=True):
            places = np.unique(filled[rows])
            for place in places:  # nearly always one value: relayed flows stand behind their first hop
                sub = filled[rows] == place
                columns = slice(int(place), int(place) + part.seg.shape[1])
                moved = np.where(part.seg >= 0, part.seg + start, -1)
                if sub.all():
                    seg[rows, columns], side[rows, columns] = moved, np.array(part.side, np.int8)
                else:
                    seg[rows[sub], columns], side[rows[sub], columns] = (
                        moved[sub],
                        np.array(part.side, np.int8),
                    )
            filled[rows] += part.seg.shape[1]
            latency[rows] += part.latency_s
            cut[rows] |= part.cut
        return Routing(
            seg=seg,
            side=side,
            ptr=ptr,
            link=link,
            weight=weight,
            latency_s=latency,
            layer=which,
            cut=cut,
            parent=parent,
        )


def assemble(fabric: FabricDescription, endpoints: Endpoints, wirings: list[Wiring]) -> Topology:
    """Join the layers' wirings into one graph."""
    kinds: list[str] = []
    tiers: list[str] = []
    kind_columns, tier_columns = [], []
    module_offset = 0
    modules = []
    for w in wirings:
        kind_at = _places(kinds, w.kinds, w.kind)
        kind_columns.append(kind_at[w.kind])
        tier_at = _places(tiers, w.switch_tiers, w.switch_tier)
        tier_columns.append(tier_at[w.switch_tier] if len(w.switch_tier) else np.zeros(0, np.int64))
        modules.append(np.where(w.module >= 0, w.module + module_offset, -1))
        module_offset += int(w.module.max(initial=-1)) + 1
    kind_all, tier_all = np.concatenate(kind_columns), np.concatenate(tier_columns)
    links = Links(
        src=np.concatenate([w.src for w in wirings]).astype(np.int32),
        dst=np.concatenate([w.dst for w in wirings]).astype(np.int32),
        bytes_per_s=np.concatenate([w.bytes_per_s for w in wirings]),
        kind=kind_all.astype(np.int16),
        plane=np.concatenate([w.plane for w in wirings]).astype(np.int16),
        module=np.concatenate(modules).astype(np.int32),
        peer=np.concatenate([w.peer for w in wirings]).astype(np.int32),
        kinds=tuple(kinds),
    )
    switches = Switches(
        tier=tier_all.astype(np.int16),
        plane=np.concatenate([w.switch_plane for w in wirings]).astype(np.int16),
        tiers=tuple(tiers),
    )
    return Topology(
        name=fabric.id,
        title=fabric.name,
        device_basis=fabric.device_basis,
        num_devices=fabric.num_devices,
        num_endpoints=len(endpoints),
        devices_per_node=fabric.devices_per_node,
        devices_per_package=fabric.devices_per_package,
        unit_devices=fabric.devices_per_unit,
        unit_name=fabric.unit_name,
        endpoint_kind=endpoints.kind,
        endpoint_kinds=endpoints.kinds,
        fabric=fabric,
        layers=tuple(w.layer for w in wirings),
        links=links,
        switches=switches,
        health=np.ones(len(links)),
        switch_dead=np.zeros(len(switches), bool),
    )


def _places(names: list[str], mine: tuple[str, ...], used: LongArray) -> LongArray:
    """Positions of ``mine`` in ``names``, to which those that are used are added."""
    out = np.zeros(len(mine), np.int64)
    for index in np.unique(used):
        if mine[index] not in names:
            names.append(mine[index])
        out[index] = names.index(mine[index])
    return out
