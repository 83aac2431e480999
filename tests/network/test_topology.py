"""Counts, bisection, paths and tiers of the shipped and the generic topologies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import CatalogError
from fullmesh.machine import list_machines, load_machine
from fullmesh.machine.names import fabric_aliases
from fullmesh.network.flow import solve, traffic
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.links import Policy
from fullmesh.network.wiring.topology import Routing, Topology

FABRICS = sorted(set(fabric_aliases().values()))
GENERIC = {
    "torus": ('sizes = [4, 4, 2]\nkind = "torus"', 32, "50 GB/s"),
    "odd-torus": ('sizes = [5, 3]\nkind = "torus"', 15, "40 GB/s"),
    "mesh2": ('sizes = [4, 4]\nkind = "full-mesh"\nlink = ["10 GB/s", "5 GB/s"]', 16, "45 GB/s"),
    "fat": ('kind = "fat-tree"\nradix = 8', 128, "10 GB/s"),
    "dragonfly": (
        'kind = "dragonfly"\ndevices_per_router = 2\nrouters_per_group = 4\nglobal_per_router = 2',
        72,
        "10 GB/s",
    ),
    "dragonfly-small": (
        'kind = "dragonfly"\ndevices_per_router = 2\nrouters_per_group = 4\nglobal_per_router = 2',
        24,
        "10 GB/s",
    ),
}


def one_tier(name: str, wiring: str, devices: int, bandwidth: str) -> str:
    """A fabric without chips whose only tier is wired as given."""
    return (
        f'id = "{name}"\nname = "{name}"\nsource = "test"\n'
        f'[size]\ndefault_devices = {devices}\ndevices_per_node = 1\ndevices_per_unit = {devices}\nunit_name = "lab"\n'
        f'[[tier]]\nname = "net"\nkind = "switch"\nnum_devices = "all"\nbandwidth = "{bandwidth}"\nlatency = "1 us"\n'
        f'source = "test"\n[[wiring]]\ntiers = ["net"]\n{wiring}\nsource = "test"\n'
    )


def generic(tmp_path: Path, name: str) -> Topology:
    path = tmp_path / f"{name}.toml"
    path.write_text(one_tier(name, *GENERIC[name]), encoding="utf-8")
    return load_topology(str(path))


def check_paths(topology: Topology, src: np.ndarray, dst: np.ndarray, routing: Routing) -> None:
    """Every flow is conserved at every node between its ends: one byte leaves, one byte arrives."""
    num_nodes = topology.num_endpoints + len(topology.switches)
    for flow in range(routing.num_flows):
        balance = np.zeros(num_nodes)
        for seg in routing.seg[flow]:
            if seg >= 0:
                rows = slice(routing.ptr[seg], routing.ptr[seg + 1])
                np.subtract.at(balance, topology.links.src[routing.link[rows]], routing.weight[rows])
                np.add.at(balance, topology.links.dst[routing.link[rows]], routing.weight[rows])
        parent = routing.parent[flow]
        expected = np.zeros(num_nodes)
        expected[src[parent]], expected[dst[parent]] = -1.0, 1.0
        np.testing.assert_allclose(balance, expected, atol=1e-9)


def some_pairs(topology: Topology, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    src = rng.integers(0, topology.num_devices, count)
    return src, (src + rng.integers(1, topology.num_devices, count)) % topology.num_devices


@pytest.mark.parametrize("name", FABRICS)
def test_links_pair_up_and_end_at_nodes(name: str) -> None:
    topology = load_topology(name)
    links = topology.links
    index = np.arange(len(links))
    assert np.array_equal(links.peer[links.peer], index)
    assert np.array_equal(links.src[links.peer], links.dst)
    assert np.array_equal(links.bytes_per_s[links.peer], links.bytes_per_s)
    assert links.src.min() >= 0
    assert links.dst.max() < topology.num_endpoints + len(topology.switches)
    assert np.all(links.src != links.dst)
    # Every switch chip has links, and every layer accounts for its own.
    touched = np.zeros(topology.num_endpoints + len(topology.switches), bool)
    touched[links.src] = True
    assert touched.all()
    assert sum(layer.num_links for layer in topology.layers) == len(links)


@pytest.mark.parametrize("policy", ["static", "resplit", "ecmp"])
@pytest.mark.parametrize("name", FABRICS)
def test_paths_conserve_bytes(name: str, policy: str) -> None:
    topology = load_topology(name)
    src, dst = some_pairs(topology, 40)
    routing = topology.route(src, dst, Policy(name=policy, queue_pairs=2))  # type: ignore[arg-type]
    assert not routing.cut.any()
    check_paths(topology, src, dst, routing)


@pytest.mark.parametrize("policy", ["static", "resplit", "ecmp"])
@pytest.mark.parametrize("name", list(GENERIC))
def test_generic_paths_conserve_bytes(tmp_path: Path, name: str, policy: str) -> None:
    topology = generic(tmp_path, name)
    src, dst = some_pairs(topology, 60)
    check_paths(topology, src, dst, topology.route(src, dst, Policy(name=policy)))  # type: ignore[arg-type]


def test_cloudmatrix_counts_are_the_published_ones() -> None:
    topology = load_topology("cloudmatrix384")
    assert topology.num_devices == 768
    switches, links = topology.switch_counts(), topology.link_counts()
    assert (switches["l1"], switches["l2"]) == (336, 112)
    assert links["l1-l2"] == (5376, 28e9)
    assert links["die-l1"] == (5376, 28e9)
    assert links["package"] == (384, 224e9)
    # 5,376 links of 28 GB/s are 384 packages of 392 GB/s: no oversubscription.
    assert pytest.approx(384 * 392e9) == 5376 * 28e9
    assert topology.endpoint_kinds == ("die", "cpu", "dpu")
    assert int((topology.endpoint_kind == 1).sum()) == 192
    modules = topology.links.module
    assert len(np.unique(modules[modules >= 0])) == 2688  # node side; the switch side has as many again


def test_nvl72_and_dgx_counts() -> None:
    rack = load_topology("gb200-nvl72")
    assert rack.switch_counts()["nvswitch"] == 18
    assert rack.link_counts()["gpu-nvswitch"] == (1296, 50e9)
    node = load_topology("dgx-h100", 8)
    assert node.switch_counts()["nvswitch"] == 4
    assert node.link_counts()["gpu-nvswitch"][0] * node.link_counts()["gpu-nvswitch"][1] == pytest.approx(
        8 * 450e9
    )


def bisection_bytes_per_s(topology: Topology) -> float:
    """What the lower half of the devices can send to the upper half at once, evenly."""
    n = topology.num_devices
    a, b = (x.ravel() for x in np.indices((n // 2, n // 2)))
    routing = topology.route(a, b + n // 2)
    seconds, _ = solve.bottleneck(topology, routing, np.ones(len(a)))
    return len(a) / seconds


def test_bisections() -> None:
    # Half of the published 150.5 TB/s per direction: 192 packages x 392 GB/s.
    assert bisection_bytes_per_s(load_topology("cloudmatrix384")) == pytest.approx(192 * 392e9, rel=1e-9)
    assert bisection_bytes_per_s(load_topology("gb200-nvl72")) == pytest.approx(36 * 900e9, rel=1e-9)
    assert bisection_bytes_per_s(load_topology("dgx-h200", 64)) == pytest.approx(32 * 50e9, rel=1e-9)
    assert bisection_bytes_per_s(load_topology("fat-tree-16", 256)) == pytest.approx(128 * 50e9, rel=1e-9)


def test_generic_counts(tmp_path: Path) -> None:
    fat = generic(tmp_path, "fat")
    assert fat.switch_counts() == {"leaf": 32, "spine": 32, "core": 16}  # 5 k^2 / 4 chips of radix 8
    assert len(fat.links) == 2 * 3 * 128
    torus = generic(tmp_path, "torus")
    assert len(torus.links) == 32 * (2 + 2 + 1)  # a ring of two is one cable
    mesh = generic(tmp_path, "mesh2")
    assert len(mesh.links) == 16 * (3 + 3)
    fly = generic(tmp_path, "dragonfly")
    assert fly.switch_counts() == {"router": 36}
    assert fly.link_counts()["global"][0] == 9 * 8 // 2  # every pair of the nine groups once
    assert generic(tmp_path, "dragonfly-small").link_counts()["global"][0] == 3 * 4  # three pairs, four each


def test_torus_ties_go_both_ways(tmp_path: Path) -> None:
    topology = generic(tmp_path, "torus")
    routing = topology.route(np.array([0]), np.array([2]))  # half way around a ring of four
    load = solve.link_loads(topology, routing, np.ones(1))
    assert sorted(load[load > 0].tolist()) == pytest.approx([0.5] * 4)
    routing = topology.route(np.array([0]), np.array([1]))
    load = solve.link_loads(topology, routing, np.ones(1))
    assert load[load > 0].tolist() == pytest.approx([1.0])


def test_even_torus_all_to_all_matches_its_closed_form(tmp_path: Path) -> None:
    """A ring of k with even ties loads every link with k^2 / 8 messages per device-row: k / 8 per device and link."""
    path = tmp_path / "ring.toml"
    path.write_text(one_tier("ring", 'kind = "torus"\nsizes = [8]', 8, "16 GB/s"), encoding="utf-8")
    topology = load_topology(str(path))
    src, dst = traffic.all_pairs(np.arange(8)[None, :])
    load = solve.link_loads(topology, topology.route(src, dst), np.ones(len(src)))
    np.testing.assert_allclose(load, 8 * 8 / 8)


def test_mesh_gives_one_peer_a_link_and_ub_the_whole_port() -> None:
    mesh, ub = load_topology("atlas-800t-a2", 8), load_topology("cloudmatrix384")
    for topology, peer, alone, everyone, others in (
        (mesh, 5, 28e9, 196e9, np.arange(1, 8)),
        (ub, 5, 196e9, 196e9, np.arange(2, 16)),
        (ub, 700, 196e9, 196e9, np.arange(16, 768)),
    ):
        pair = topology.route(np.array([0]), np.array([peer]))
        assert solve.max_min_rates(solve.make_problem(topology, pair))[0] == pytest.approx(alone)
        fan = topology.route(np.zeros(len(others), np.int64), others)
        assert solve.max_min_rates(solve.make_problem(topology, fan)).sum() == pytest.approx(everyone)


def test_several_supernodes_meet_on_the_rdma_plane() -> None:
    topology = load_topology("cloudmatrix384", units=2)
    assert topology.num_devices == 1536
    assert topology.switch_counts()["l2"] == 224
    assert [t.name for t in topology.tiers()] == ["package", "ub-node", "ub-supernode", "roce"]
    pair = topology.route(np.array([0, 0]), np.array([767, 768]))
    assert solve.max_min_rates(solve.make_problem(topology, pair)).tolist() == pytest.approx([196e9, 25e9])
    racks = load_topology("gb200-nvl72", units=2)
    pair = racks.route(np.array([0, 0]), np.array([71, 72]))
    assert solve.max_min_rates(solve.make_problem(racks, pair)).tolist() == pytest.approx([900e9, 50e9])


def test_rail_mismatch_hops_inside_the_node() -> None:
    topology = load_topology("dgx-h200", 16)
    straight = topology.route(np.array([0]), np.array([8]))
    crossed = topology.route(np.array([0]), np.array([9]))
    kinds = topology.links.kinds
    load = solve.link_loads(topology, crossed, np.ones(1))
    assert {kinds[k] for k in topology.links.kind[load > 0]} == {"gpu-nvswitch", "gpu-leaf"}
    assert crossed.latency_s[0] > straight.latency_s[0]


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_oversubscription_slows_traffic_between_leaves(tmp_path: Path, ratio: int) -> None:
    path = tmp_path / "leafspine.toml"
    wiring = f'kind = "clos"\nnodes_per_leaf = 8\nspines = {8 // ratio}'
    path.write_text(one_tier("ls", wiring, 32, "10 GB/s"), encoding="utf-8")
    topology = load_topology(str(path))
    src = np.arange(32)
    routing = topology.route(src, (src + 8) % 32)
    seconds, _ = solve.bottleneck(topology, routing, np.full(32, 10e9))
    assert seconds == pytest.approx(float(ratio))


def test_ecmp_collides_and_queue_pairs_help() -> None:
    topology = load_topology("dgx-h200", 2048)
    src = np.arange(2048)
    dst = (src + 256) % 2048  # every card sends to the next scalable unit
    worst = []
    for pairs in (1, 4, 16):
        routing = topology.route(src, dst, Policy(name="ecmp", queue_pairs=pairs, seed=3))
        seconds, _ = solve.bottleneck(topology, routing, np.full(routing.num_flows, 50e9 / pairs))
        worst.append(1 / seconds)
    assert worst[0] < worst[1] < worst[2] < 1
    assert 0.12 < worst[0] < 0.3  # a handful of flows on the fullest of 32 links
    again = topology.route(src, dst, Policy(name="ecmp", seed=3))
    other = topology.route(src, dst, Policy(name="ecmp", seed=4))
    first = topology.route(src, dst, Policy(name="ecmp", seed=3))
    assert np.array_equal(again.link[first.seg], first.link[again.seg])
    assert not np.array_equal(
        solve.link_loads(topology, other, np.ones(2048)), solve.link_loads(topology, first, np.ones(2048))
    )


@pytest.mark.parametrize("name", FABRICS)
def test_every_tier_gets_from_the_graph_what_its_file_says(name: str) -> None:
    """The list of tiers and the graph of links are two readings of one file: rate and latency at every level."""
    topology = load_topology(name)
    if topology.num_devices == topology.unit_devices and len(topology.tiers()) < len(topology.fabric.tiers):
        topology = load_topology(name, units=2)  # one unit never leaves it
    tiers = topology.fabric.tiers
    read_back = topology.tiers()
    assert [(t.name, t.kind, t.num_devices) for t in read_back] == [
        (t.name, t.kind, t.num_devices) for t in tiers
    ]
    assert [t.in_network_reduction for t in read_back] == [t.in_network_reduction for t in tiers]
    inside = 1
    for tier in tiers:
        # a mesh gives its whole port to all peers at once, a switch to those that no inner tier joins already
        peers = np.arange(1 if tier.kind == "mesh" else inside, tier.num_devices)
        relays = tier.kind == "rail" and any(getattr(x, "relay_in_node", False) for x in topology.layers)
        if relays:
            peers = peers[peers % topology.devices_per_node == 0]
        fan = topology.route(np.zeros(len(peers), np.int64), peers)
        rates = solve.max_min_rates(solve.make_problem(topology, fan))
        assert rates.sum() == pytest.approx(tier.bytes_per_s, rel=1e-9), tier.name
        assert fan.latency_s.max() == pytest.approx(tier.latency_s, rel=1e-9), tier.name
        inside = tier.num_devices


@pytest.mark.parametrize("name", list_machines())
def test_a_machine_and_its_fabric_are_one_description(name: str) -> None:
    machine = load_machine(name)
    topology = load_topology(name)
    assert topology.fabric == machine.fabric
    assert topology.num_devices == machine.num_devices
    assert not [x.facts.name for x in topology.layers if x.facts.assumed]
    # shares of the line rate are fitted: they stand in the profile and in no machine file
    assert all(w.efficiency is None and w.reduction_efficiency is None for w in machine.wirings)


def test_a_tier_that_is_not_wired_gets_the_plainest_of_its_kind(tmp_path: Path) -> None:
    text = one_tier("lab", 'kind = "clos"', 16, "10 GB/s")
    inner = (
        '[[tier]]\nname = "mesh"\nkind = "mesh"\nnum_devices = 4\nbandwidth = "30 GB/s"\nlatency = "1 us"\n'
        'source = "test"\n'
    )
    path = tmp_path / "lab.toml"
    path.write_text(
        text[: text.index("[[wiring]]")].replace("[[tier]]", inner + "[[tier]]"), encoding="utf-8"
    )
    topology = load_topology(str(path))
    assert [(x.facts.name, x.facts.assumed) for x in topology.layers] == [("mesh", True), ("net", True)]
    assert topology.link_counts()["mesh"] == (16 // 4 * 6, pytest.approx(10e9))
    assert topology.link_counts()["gpu-leaf"] == (16, 10e9)


@given(st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_sizes_scale(units: int, seed: int) -> None:
    topology = load_topology("dgx-a100", units=units)
    assert topology.num_devices == 8 * units
    if units > 1:
        src, dst = some_pairs(topology, 5, seed)
        check_paths(topology, src, dst, topology.route(src, dst))


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(CatalogError, match=r"cloudmatrix384"):
        load_topology("cloudmatrx384")
    assert load_topology("cm384").name == "cloudmatrix384"
