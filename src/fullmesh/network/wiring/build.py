"""From the description of a fabric to its graph: which builder wires each of its layers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from fullmesh.cost.collectives.links import reached_share
from fullmesh.errors import TopologyError
from fullmesh.machine.cabling import grid_ports
from fullmesh.machine.hardware import FabricDescription, Machine, Tier, resize_tiers
from fullmesh.machine.load import load_fabric
from fullmesh.machine.wiring import (
    CableList,
    ClosShape,
    DragonflyShape,
    FatTreeShape,
    GridShape,
    TierWiring,
    complete_wirings,
)
from fullmesh.network.wiring.clos import ClosPlan, wire_clos
from fullmesh.network.wiring.dragonfly import DragonflyPlan, wire_dragonfly
from fullmesh.network.wiring.graph import wire_graph
from fullmesh.network.wiring.grid import GridPlan, wire_grid
from fullmesh.network.wiring.links import Endpoints, LayerFacts, Wiring, check_size
from fullmesh.network.wiring.topology import Topology, assemble

# more than this is a slip of the pen: the wired graph of it would fill the memory
MAX_DEVICES = 1_000_000
# paths of a graph of any shape are found between all pairs
MAX_WIRED_BY_HAND = 2_000


def load_topology(name: str, num_devices: int | None = None, *, units: float | None = None) -> Topology:
    """The wired fabric of a machine.

    Parameters
    ----------
    name : str
        As for `fullmesh.machine.load_fabric`: a machine, a fabric without chips, or the path of a file of either.
    num_devices : int, optional
        Another size than its own; outer layers grow with it.
    units : float, optional
        The size in units (supernodes, racks, nodes) instead.

    Raises
    ------
    CatalogError
        The name is unknown, or the file has a mistake.
    TopologyError
        The fabric cannot have that size.
    """
    found = load_fabric(name)
    if isinstance(found, CableList):
        return wire_cables(found, num_devices, units=units)
    if units is not None:
        num_devices = round(units * found.devices_per_unit)
    return wire_fabric(found, num_devices)


def wire_machine(machine: Machine, num_devices: int | None = None) -> Topology:
    """The wired fabric of a loaded machine, in another size if asked for; errors as `load_topology`."""
    return wire_fabric(machine.fabric, num_devices)


def wire_fabric(fabric: FabricDescription, num_devices: int | None = None) -> Topology:
    """Wire a description; errors as `load_topology`."""
    total = fabric.num_devices if num_devices is None else num_devices
    if not 1 <= total <= MAX_DEVICES:
        raise TopologyError(f"{total:,} devices", where=fabric.id, expected=f"from 1 to {MAX_DEVICES:,}")
    fabric = dataclasses.replace(fabric, num_devices=total, tiers=resize_tiers(fabric.tiers, total))
    endpoints = _endpoints(fabric)
    wirings: list[Wiring] = []
    at_link, at_switch = 0, len(endpoints)
    for wiring in complete_wirings(fabric.tiers, fabric.wirings):
        wired = _LayerBuilder(fabric, wiring, endpoints, at_link, at_switch).wire()
        if not len(wired.src):
            continue  # nothing to wire at this size
        wirings.append(wired)
        at_link += len(wired.src)
        at_switch += len(wired.switch_tier)
    topology = assemble(fabric, endpoints, wirings)
    _require_connected(topology)
    return topology


def wire_cables(found: CableList, num_devices: int | None = None, *, units: float | None = None) -> Topology:
    """Wire a fabric that is given link by link, which has one size."""
    n = len(found.devices)
    if n + len(found.switch_tiers) > MAX_WIRED_BY_HAND:
        raise TopologyError(
            f"{n + len(found.switch_tiers):,} devices and switches wired one by one",
            where=found.id,
            expected=f"at most {MAX_WIRED_BY_HAND:,}",
            hint="describe a regular fabric by tiers and wirings",
        )
    if num_devices not in (None, n) or units not in (None, 1):
        raise TopologyError(
            f"{found.name} has {n} devices", where=found.id, hint="a fabric given link by link has one size"
        )
    everything = Tier(name="graph", kind="switch", num_devices=n, bytes_per_s=math.nan, latency_s=math.nan)
    fabric = FabricDescription(
        id=found.id,
        name=found.name,
        device_basis=found.device_basis,
        num_devices=n,
        tiers=(everything,),
        devices_per_node=1,
        devices_per_package=1,
        devices_per_unit=n,
        unit_name="machine",
    )
    return assemble(fabric, _endpoints(fabric), [wire_graph(found)])


def _endpoints(fabric: FabricDescription) -> Endpoints:
    total, per_node = fabric.num_devices, fabric.devices_per_node
    nodes = -(-total // per_node)
    kind = [np.zeros(total, np.int32)]
    node = [np.arange(total) // per_node]
    for i, endpoint in enumerate(fabric.endpoints, start=1):
        check_size(f"endpoint {endpoint.name}", nodes * endpoint.per_node)
        kind.append(np.full(nodes * endpoint.per_node, i, np.int32))
        node.append(np.repeat(np.arange(nodes), endpoint.per_node))
    return Endpoints(
        kind=np.concatenate(kind),
        kinds=(fabric.device_basis, *(e.name for e in fabric.endpoints)),
        node=np.concatenate(node).astype(np.int64),
        num_devices=total,
        per_node=per_node,
    )


def _require_connected(topology: Topology) -> None:
    """Every device must reach device 0 through some layer."""
    others = np.arange(1, topology.num_devices, dtype=np.int32)
    alone = others[topology.layer_of(np.zeros(len(others), np.int32), others) < 0]
    if len(alone):
        raise TopologyError(
            f"disconnected rank: no layer joins device 0 with device {int(alone[0])} ({len(alone)} such devices)",
            where=topology.name,
            expected="an outermost tier that is wired so that it joins all devices",
            hint="give its wiring spines, or the grid the size of the machine",
        )


class _LayerBuilder:
    """One wiring of a fabric on its way to a layer of the graph."""

    def __init__(
        self,
        fabric: FabricDescription,
        wiring: TierWiring,
        endpoints: Endpoints,
        at_link: int,
        at_switch: int,
    ) -> None:
        self.fabric, self.wiring, self.endpoints = fabric, wiring, endpoints
        self.at_link, self.at_switch = at_link, at_switch
        by_name = {tier.name: tier for tier in fabric.tiers}
        self.tiers = [by_name[name] for name in wiring.tiers]
        self.port = self.tiers[-1].bytes_per_s if self.tiers else 0.0

    def error(self, what: str, *, expected: str = "", hint: str = "") -> TopologyError:
        where = f"{self.fabric.id}, wiring {self.wiring.name}"
        return TopologyError(what, where=where, expected=expected, hint=hint)

    def wire(self) -> Wiring:
        """The layer with its links."""
        shape = self.wiring.shape
        match shape:
            case ClosShape():
                plan = self._clos(shape)
                return wire_clos(plan, self.endpoints, first_link=self.at_link, first_switch=self.at_switch)
            case FatTreeShape():
                plan = self._fat_tree(shape)
                return wire_clos(plan, self.endpoints, first_link=self.at_link, first_switch=self.at_switch)
            case GridShape():
                return wire_grid(self._grid(shape), self.endpoints, first_link=self.at_link)
            case DragonflyShape():
                return wire_dragonfly(
                    self._dragonfly(shape),
                    self.endpoints,
                    first_link=self.at_link,
                    first_switch=self.at_switch,
                )

    def _full(self, tier: Tier) -> int:
        """Devices that a fully equipped instance of a tier joins; all for the outermost."""
        return tier.full_num_devices or self.fabric.num_devices

    def _facts(self, group: int) -> LayerFacts:
        wiring, outer = self.wiring, self.tiers[-1] if self.tiers else None
        share = reached_share(self.fabric.machine, self.tiers[0]) if self.tiers else None
        efficiency, reduction = wiring.efficiency, wiring.reduction_efficiency
        if efficiency is None:
            efficiency = share.efficiency if share else 1.0
        if reduction is None:
            reduction = share.reduction_efficiency if share else 1.0
        single = len(self.tiers) == 1
        return LayerFacts(
            name=self.tiers[0].name if single else wiring.name,
            tier_kind=outer.kind if outer else "rail",
            group_devices=min(group, self.fabric.num_devices),
            device_bytes_per_s=self.port if outer else 1.0,
            latencies_s=tuple(t.latency_s for t in self.tiers) or (wiring.latency_s or 0.0,),
            efficiency=efficiency,
            reduction_efficiency=reduction,
            in_network_reduction=bool(outer and outer.in_network_reduction),
            source=wiring.source,
            carries_devices=outer is not None,
            levels=() if single or not outer else tuple((t.name, self._full(t)) for t in self.tiers),
            assumed=wiring.assumed,
        )

    def _clos(self, shape: ClosShape) -> ClosPlan:
        total, per_node = self.fabric.num_devices, self.endpoints.per_node
        everything = -(-total // per_node) * per_node

        def nodes(count: int | None) -> int:
            return everything if count is None else count * per_node

        named = [t.full_num_devices or everything for t in self.tiers]
        leaf = pod = nodes(shape.nodes_per_leaf)
        if len(named) == shape.depth:  # each level of switches is a tier
            leaf, pod = named[0], named[min(1, len(named) - 1)]
        elif shape.cores:
            pod = nodes(shape.nodes_per_pod)
        elif shape.spines:
            pod = named[-1] if named else everything
        if shape.spines and pod % leaf and pod < everything:
            raise self.error(f"pods of {pod} devices are not whole leaves of {leaf}")
        group = everything if shape.cores else pod if shape.spines else leaf
        lanes = np.array(shape.links_per_plane, float)
        link = self.port / lanes.sum()
        uplink = link if shape.uplink_bytes_per_s is None else shape.uplink_bytes_per_s
        return self._plan(
            shape, leaf=leaf, pod=min(pod, everything), group=group, share=lanes / lanes.sum(), uplink=uplink
        )

    def _fat_tree(self, shape: FatTreeShape) -> ClosPlan:
        half, total = shape.radix // 2, self.fabric.num_devices
        most = shape.radix * half * half
        if total > most:
            raise self.error(
                f"{total} devices, but a three-level fat tree of radix {shape.radix} holds {most}"
            )
        per_node = self.endpoints.per_node
        clos = ClosShape(
            spines=half,
            cores=half,
            uplink_bytes_per_s=shape.uplink_bytes_per_s,
            switch_names=shape.switch_names,
        )
        everything = -(-total // per_node) * per_node
        uplink = self.port if shape.uplink_bytes_per_s is None else shape.uplink_bytes_per_s
        return self._plan(
            clos,
            leaf=half,
            pod=min(half * half, everything),
            group=everything,
            share=np.ones(1),
            uplink=uplink,
        )

    def _plan(
        self, shape: ClosShape, *, leaf: int, pod: int, group: int, share: np.ndarray, uplink: float
    ) -> ClosPlan:
        """The plan of a Clos layer from the devices that its leaves, its pods and the whole of it join."""
        ends, rails = self.endpoints, shape.rails
        beside = ends.like_device
        rail_of = np.where(ends.kind == 0, beside % ends.per_node // (ends.per_node // rails), 0)
        access = np.full(len(ends), self.port)
        reached = (ends.kind == 0) & bool(self.tiers)
        for attached in shape.attached:
            which = ends.kind == ends.kinds.index(attached.endpoint)
            access[which] = attached.bytes_per_s
            reached = reached | which
        corelink = shape.corelink_bytes_per_s
        return ClosPlan(
            facts=self._facts(group),
            leaf_of=np.where(reached, beside // leaf * rails + rail_of, -1).astype(np.int32),
            rail_of=rail_of.astype(np.int32),
            access_bytes_per_s=access,
            plane_share=share,
            num_leaves=-(-ends.num_devices // leaf) * rails,
            leaves_per_pod=-(-pod // leaf) * rails if shape.spines else rails,
            num_spines=shape.spines,
            num_cores=shape.cores,
            uplink_bytes_per_s=uplink,
            corelink_bytes_per_s=uplink if corelink is None else corelink,
            switch_names=shape.switch_names,
            links_per_module=shape.links_per_module,
            relay_in_node=shape.relay_in_node and rails > 1,
        )

    def _grid(self, shape: GridShape) -> GridPlan:
        total, tier = self.fabric.num_devices, self.tiers[0]
        sizes = shape.sizes or (self._full(tier),)
        group = math.prod(sizes)
        if total % group:
            raise self.error(
                f"{total} devices do not fill grids of {group}", expected=f"a multiple of {group} devices"
            )
        ports = sum(grid_ports(sizes, wrap=shape.wrap))
        rates = shape.link_bytes_per_s or (self.port / max(ports, 1),) * len(sizes)
        return GridPlan(
            facts=self._facts(group),
            sizes=sizes,
            wrap=shape.wrap,
            link_bytes_per_s=rates,
            link_name=shape.link_name or self.wiring.name,
        )

    def _dragonfly(self, shape: DragonflyShape) -> DragonflyPlan:
        total = self.fabric.num_devices
        p, a, h = shape.devices_per_router, shape.routers_per_group, shape.global_per_router
        largest = p * a * (a * h + 1)
        if total > largest:
            raise self.error(
                f"{total} devices, but this dragonfly holds {largest}", expected=f"at most {largest} devices"
            )
        if total % (p * a):
            raise self.error(f"{total} devices do not fill groups of {p * a}")
        local, between = shape.local_bytes_per_s, shape.global_bytes_per_s
        return DragonflyPlan(
            facts=self._facts(total),
            devices_per_router=p,
            routers_per_group=a,
            global_per_router=h,
            access_bytes_per_s=self.port,
            local_bytes_per_s=self.port if local is None else local,
            global_bytes_per_s=self.port if between is None else between,
        )
