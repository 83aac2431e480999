"""From a description to a topology: which builder each ``[[layer]]`` names, and hand-wired graphs."""

from __future__ import annotations

import numpy as np

from fullmesh.errors import TopologyError, did_you_mean
from fullmesh.network.wiring.clos import wire_clos
from fullmesh.network.wiring.description import Document, Reader, open_document, tables, unique_names
from fullmesh.network.wiring.dragonfly import wire_dragonfly
from fullmesh.network.wiring.graph import GraphLayer, wire_graph
from fullmesh.network.wiring.grid import wire_grid
from fullmesh.network.wiring.links import IntArray, LayerFacts, Wiring
from fullmesh.network.wiring.topology import Topology, assemble

LAYER_KINDS = ("clos", "fat-tree", "full-mesh", "torus", "dragonfly")
# more than this is a slip of the pen: the wired graph of it would fill the memory
MAX_DEVICES = 1_000_000
TIER_KINDS = ("package", "switch", "mesh", "rail")


def load_topology(name: str, num_devices: int | None = None, *, units: float | None = None) -> Topology:
    """A shipped machine's fabric by name, or a user's by the path of a TOML file.

    Parameters
    ----------
    name : str
        ``cloudmatrix384``, ``gb200-nvl72``, ``dgx-h200`` ... or a path ending in ``.toml``.
    num_devices : int, optional
        Another size than the description's own; outer layers grow with it.
    units : float, optional
        The size in units (supernodes, racks, nodes) instead.

    Raises
    ------
    TopologyError
        Anything contradictory, with file and line.
    """
    document = open_document(name)
    return build_topology(document, num_devices, units=units)


def build_topology(
    document: Document, num_devices: int | None = None, *, units: float | None = None
) -> Topology:
    """Build the topology of an open document; see `load_topology`."""
    top = Reader(document, document.data)
    title = top.text("title", top.text("name"))
    top.raw("source")
    top.raw("note")
    top.raw("aliases")
    basis = top.text("basis", "gpu")
    if basis not in ("gpu", "npu", "die"):
        raise top.fail(f"basis = {basis!r}", "basis", expected="gpu, npu or die")
    if "layer" not in document.data:
        return _wired_by_hand(document, top, title, basis)
    unit_devices = top.whole("unit_devices", top.whole("devices"))
    total = num_devices or (round(units * unit_devices) if units else top.whole("devices"))
    if not 1 <= total <= MAX_DEVICES:
        raise TopologyError(f"{total:,} devices", where=document.path, expected=f"from 1 to {MAX_DEVICES:,}")
    per_node = top.whole("devices_per_node", 1)
    per_package = top.whole("devices_per_package", 1)
    unit_name = top.text("unit", "machine")
    endpoints = tables(document, top, "endpoint")
    names = unique_names(endpoints)
    nodes = -(-total // per_node)
    kind = [np.zeros(total, np.int32)]
    node = [np.arange(total) // per_node]
    for i, reader in enumerate(endpoints):
        count = reader.whole("per_node")
        reader.done()
        kind.append(np.full(nodes * count, i + 1, np.int32))
        node.append(np.repeat(np.arange(nodes), count))
    endpoint_kind, endpoint_node = np.concatenate(kind), np.concatenate(node).astype(np.int64)
    layers = tables(document, top, "layer")
    unique_names(layers)
    top.done()
    wirings: list[Wiring] = []
    at_link, at_switch = 0, len(endpoint_kind)
    for reader in layers:
        wired = _wire_layer(
            reader, total, per_node, basis, endpoint_kind, endpoint_node, names, at_link, at_switch
        )
        reader.done()
        if len(wired.src) == 0:
            continue  # nothing to wire at this size
        wirings.append(wired)
        at_link += len(wired.src)
        at_switch += len(wired.switch_tier)
    topology = assemble(
        name=document.data["name"],
        title=title,
        device_basis=basis,
        num_devices=total,
        devices_per_node=per_node,
        devices_per_package=per_package,
        unit_devices=unit_devices,
        unit_name=unit_name,
        endpoint_kind=endpoint_kind,
        endpoint_kinds=(basis, *names),
        wirings=wirings,
    )
    _require_connected(topology, document)
    return topology


def _require_connected(topology: Topology, document: Document) -> None:
    """Every device must reach device 0 through some layer."""
    others = np.arange(1, topology.num_devices, dtype=np.int32)
    alone = others[topology.layer_of(np.zeros(len(others), np.int32), others) < 0]
    if len(alone):
        last = len(document.data["layer"]) - 1
        raise TopologyError(
            f"disconnected rank: no layer joins device 0 with device {int(alone[0])} ({len(alone)} such devices)",
            where=document.where("layer", last),
            expected="an outermost layer that joins all devices",
            hint="add a [[layer]] of kind clos over all nodes, or set devices to the size of the largest domain",
        )


def _facts(
    reader: Reader,
    *,
    group: int,
    port: float,
    tier: str,
    carries: bool = True,
    levels: tuple[tuple[str, int], ...] = (),
) -> LayerFacts:
    kind = reader.text("tier", tier)
    if kind not in TIER_KINDS:
        raise reader.fail(f"tier = {kind!r}", "tier", expected=", ".join(TIER_KINDS))
    reader.raw("note")
    return LayerFacts(
        name=reader.text("name"),
        tier_kind=kind,  # type: ignore[arg-type]
        group_devices=group,
        device_bytes_per_s=port,
        latencies_s=reader.quantities("latency", "s"),
        efficiency=reader.share("efficiency", 1.0),
        reduction_efficiency=reader.share("reduction_efficiency", 1.0),
        in_network_reduction=reader.flag("in_network_reduction"),
        source=reader.text("source"),
        carries_devices=carries,
        levels=levels,
    )


def _wire_layer(
    reader: Reader,
    total: int,
    per_node: int,
    basis: str,
    endpoint_kind: IntArray,
    endpoint_node: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    names: list[str],
    at_link: int,
    at_switch: int,
) -> Wiring:
    kind = reader.text("kind")
    if kind not in LAYER_KINDS:
        raise reader.fail(f"unknown layer kind {kind!r}", "kind", hint=did_you_mean(kind, list(LAYER_KINDS)))
    if kind in ("full-mesh", "torus"):
        sizes = reader.wholes("sizes")
        group = int(np.prod(sizes))
        if total % group:
            raise reader.fail(
                f"{total} devices do not fill grids of {group}",
                "sizes",
                expected=f"a multiple of {group} devices",
            )
        links = reader.quantities("link", "bytes_per_s")
        if len(links) not in (1, len(sizes)):
            raise reader.fail(f"{len(links)} link rates for {len(sizes)} dimensions", "link")
        rates = links if len(links) == len(sizes) else links * len(sizes)
        wrap = kind == "torus"
        ports = [min(s - 1, 2) if wrap else s - 1 for s in sizes]
        port = sum(n * rate for n, rate in zip(ports, rates, strict=True))
        return wire_grid(
            facts=_facts(reader, group=group, port=port, tier="mesh"),
            first_link=at_link,
            num_devices=total,
            num_endpoints=len(endpoint_kind),
            sizes=sizes,
            wrap=wrap,
            link_bytes_per_s=rates,
            link_name=reader.text("link_name", reader.text("name")),
        )
    if kind == "dragonfly":
        access = reader.quantity("link", "bytes_per_s")
        p, a, h = (reader.whole(k) for k in ("devices_per_router", "routers_per_group", "global_per_router"))
        largest = p * a * (a * h + 1)
        if total > largest:
            raise reader.fail(
                f"{total} devices, but this dragonfly holds {largest}",
                "global_per_router",
                expected=f"at most {largest} devices",
            )
        if total % (p * a):
            raise reader.fail(f"{total} devices do not fill groups of {p * a}", "routers_per_group")
        return wire_dragonfly(
            facts=_facts(reader, group=total, port=access, tier="switch"),
            first_link=at_link,
            first_switch=at_switch,
            num_devices=total,
            num_endpoints=len(endpoint_kind),
            devices_per_router=p,
            routers_per_group=a,
            global_per_router=h,
            access_bytes_per_s=access,
            local_bytes_per_s=reader.quantity("local_link", "bytes_per_s", access),
            global_bytes_per_s=reader.quantity("global_link", "bytes_per_s", access),
        )
    return _wire_clos_layer(
        reader, kind, total, per_node, endpoint_kind, endpoint_node, names, at_link, at_switch
    )


def _wire_clos_layer(
    reader: Reader,
    kind: str,
    total: int,
    per_node: int,
    endpoint_kind: IntArray,
    endpoint_node: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    names: list[str],
    at_link: int,
    at_switch: int,
) -> Wiring:
    nodes = -(-total // per_node)
    carries = reader.flag("devices", True)
    link = reader.quantity("link", "bytes_per_s") if carries else 1.0
    if kind == "fat-tree":
        radix = reader.whole("radix", least=2)
        half = radix // 2
        if radix % 2 or half % per_node:
            raise reader.fail(
                f"radix = {radix}", "radix", expected=f"an even number, half of it whole nodes of {per_node}"
            )
        if nodes * per_node > radix * half * half:
            raise reader.fail(
                f"{total} devices, but a three-tier fat tree of radix {radix} holds {radix * half * half}",
                "radix",
            )
        share = np.ones(1)
        nodes_per_leaf, nodes_per_pod, rails = half // per_node, half * half // per_node, 1
        spines = cores = half
        uplink = corelink = reader.quantity("uplink", "bytes_per_s", link)
    else:
        planes = reader.whole("planes", 1)
        lanes = reader.wholes("links_per_plane", (1,) * planes)
        if len(lanes) != planes:
            raise reader.fail(f"{len(lanes)} entries for {planes} planes", "links_per_plane")
        share = np.array(lanes, float)
        nodes_per_leaf = reader.whole("nodes_per_leaf", nodes)
        rails = reader.whole("rails", 1)
        if per_node % rails:
            raise reader.fail(f"{rails} rails do not divide {per_node} devices per node", "rails")
        spines = reader.whole("spines", 0, least=0)
        cores = reader.whole("cores", 0, least=0)
        nodes_per_pod = reader.whole("nodes_per_pod", nodes if spines else nodes_per_leaf)
        if nodes_per_pod % nodes_per_leaf and nodes_per_pod < nodes:
            raise reader.fail(f"pods of {nodes_per_pod} nodes are not whole leaves", "nodes_per_pod")
        uplink = reader.quantity("uplink", "bytes_per_s", link)
        corelink = reader.quantity("corelink", "bytes_per_s", uplink)
    groups = -(-nodes // nodes_per_leaf)
    leaf_of = (endpoint_node // nodes_per_leaf) * rails
    position = np.arange(len(endpoint_kind)) % per_node
    rail_of = np.where(endpoint_kind == 0, position // (per_node // rails), 0)
    leaf_of = (leaf_of + rail_of).astype(np.int32)
    access = np.full(len(endpoint_kind), link * share.sum())
    reached = (endpoint_kind == 0) & carries
    for item in reader.raw("attach", []):
        if isinstance(item, dict) and "endpoint" in item and item["endpoint"] not in names:
            raise reader.fail(
                f"dangling link: no endpoint {item['endpoint']!r}",
                "attach",
                expected="the name of an [[endpoint]]",
                hint=did_you_mean(str(item["endpoint"]), names),
            )
        if not isinstance(item, dict) or set(item) != {"endpoint", "bandwidth"}:
            raise reader.fail(
                "cannot read 'attach'",
                "attach",
                expected='attach = [{ endpoint = "...", bandwidth = "..." }]',
            )
        which = endpoint_kind == names.index(item["endpoint"]) + 1
        access[which] = reader._quantity(item["bandwidth"], "attach", "bytes_per_s", False)
        reached = reached | which
    pods_of = min(nodes_per_pod, nodes)
    group_nodes = nodes if cores else (pods_of if spines else nodes_per_leaf)
    if not cores and spines == 0 and rails > 1:
        raise reader.fail("rails without spines never meet", "spines", expected="spines of at least 1")
    joined = (nodes_per_leaf * per_node, group_nodes * per_node)
    levels = reader.raw("levels", [])
    if levels and (not isinstance(levels, list) or len(levels) != 2 or rails > 1 or not spines):
        raise reader.fail(
            "'levels' names leaf groups and pods", "levels", expected="two names, one rail, spines"
        )
    facts = _facts(
        reader,
        levels=tuple(zip(map(str, levels), joined, strict=True)) if levels else (),
        group=min(group_nodes * per_node, total),
        port=link * float(share.sum()),
        tier="switch",
        carries=carries,
    )
    return wire_clos(
        facts=facts,
        first_link=at_link,
        first_switch=at_switch,
        leaf_of=np.where(reached, leaf_of, -1).astype(np.int32),
        rail_of=rail_of.astype(np.int32),
        access_bytes_per_s=access,
        endpoint_kind=endpoint_kind,
        endpoint_kinds=(reader.text("device_name", "device"), *names),
        plane_share=share / share.sum(),
        num_leaves=groups * rails,
        leaves_per_pod=-(-pods_of // nodes_per_leaf) * rails,
        num_spines=spines,
        num_cores=cores,
        uplink_bytes_per_s=uplink,
        corelink_bytes_per_s=corelink,
        switch_names=(
            reader.text("leaf", "leaf"),
            reader.text("spine", "spine"),
            reader.text("core", "core"),
        ),
        links_per_module=reader.whole("links_per_module", 0, least=0),
        relay_in_node=reader.flag("relay_in_node") and rails > 1,
    )


def _wired_by_hand(document: Document, top: Reader, title: str, basis: str) -> Topology:
    """A graph given by ``[[device]]``, ``[[switch]]`` and ``[[link]]``."""
    devices, switches, cables = (tables(document, top, k) for k in ("device", "switch", "link"))
    if not devices or not cables:
        raise top.fail(
            "neither layers nor a wired graph",
            expected="[[layer]] tables, or [[device]], [[switch]] and [[link]] tables",
        )
    top.done()
    taken: dict[str, str] = {}
    names = unique_names(devices, taken) + unique_names(switches, taken)
    number = {n: i for i, n in enumerate(names)}
    for reader in devices:
        reader.done()
    tier_names: list[str] = []
    tier_of = []
    for reader in switches:
        tier = reader.text("tier", "switch")
        reader.done()
        if tier not in tier_names:
            tier_names.append(tier)
        tier_of.append(tier_names.index(tier))
    src, dst, rate, latency, kinds, kind_of = [], [], [], [], [], []
    for reader in cables:
        ends = [reader.text(k) for k in ("a", "b")]
        for key, end in zip(("a", "b"), ends, strict=True):
            if end not in number:
                raise reader.fail(
                    f"dangling link: {end!r} is not a device or switch", key, hint=did_you_mean(end, names)
                )
        if ends[0] == ends[1]:
            raise reader.fail(f"the link joins {ends[0]!r} with itself", "b")
        src.append(number[ends[0]])
        dst.append(number[ends[1]])
        rate.append(reader.quantity("bandwidth", "bytes_per_s"))
        latency.append(reader.quantity("latency", "s", 0.0, zero=True))
        kind = reader.text("kind", "link")
        reader.done()
        if kind not in kinds:
            kinds.append(kind)
        kind_of.append(kinds.index(kind))
    n = len(devices)
    degree_rate = np.bincount(src, rate, len(names)) + np.bincount(dst, rate, len(names))
    wired = wire_graph(
        facts=LayerFacts(
            name="graph",
            tier_kind="switch",
            group_devices=n,
            device_bytes_per_s=float(degree_rate[:n].min()),
            latencies_s=(float(max(latency)),),
            efficiency=1.0,
            reduction_efficiency=1.0,
            in_network_reduction=False,
            source=document.path,
        ),
        first_link=0,
        num_devices=n,
        num_endpoints=n,
        num_nodes=len(names),
        src=np.array(src, np.int64),
        dst=np.array(dst, np.int64),
        bytes_per_s=np.array(rate),
        latency_s=np.array(latency),
        kind=np.array(kind_of, np.int64),
        kinds=tuple(kinds),
        switch_tier=np.array(tier_of, np.int64),
        switch_tiers=tuple(tier_names),
    )
    layer = wired.layer
    assert isinstance(layer, GraphLayer)
    far = layer.distances(wired.bytes_per_s)[0, :n]
    if not np.isfinite(far).all():
        lost = int(np.flatnonzero(~np.isfinite(far))[0])
        raise devices[lost].fail(
            f"disconnected rank: no path from {names[0]!r} to {names[lost]!r}",
            "name",
            expected="every device reachable from every other",
        )
    return assemble(
        name=document.data["name"],
        title=title,
        device_basis=basis,
        num_devices=n,
        devices_per_node=1,
        devices_per_package=1,
        unit_devices=n,
        unit_name="machine",
        endpoint_kind=np.zeros(n, np.int32),
        endpoint_kinds=(basis,),
        wirings=[wired],
    )
