"""Collectives as traffic: volumes, closed forms where they are exact, the libraries' choices, experts, placement."""

from __future__ import annotations

import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import TopologyError
from fullmesh.network import collective_steps as collectives
from fullmesh.network import evaluate
from fullmesh.network.collective_steps import ALGORITHMS, KINDS, Schedule, schedule
from fullmesh.network.flow import traffic
from fullmesh.network.selection import hccl_choice, nccl_choice
from fullmesh.network.wiring.build import load_topology
from oracles.traffic import expert_traffic_by_node

GIB, MIB = 2.0**30, 2.0**20


def delivered(plan: Schedule) -> np.ndarray:
    """Bytes that each rank of the first group receives over the whole schedule."""
    ranks = plan.groups[0]
    place = {int(e): i for i, e in enumerate(ranks)}
    received = np.zeros(len(ranks))
    for step in plan.steps:
        for dst, size in zip(step.dst, step.num_bytes, strict=True):
            received[place[int(dst)]] += size * step.repeats
    return received


@pytest.mark.parametrize("size", [2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_volumes(kind: collectives.Kind, size: int) -> None:
    """Bandwidth-optimal algorithms move exactly (p - 1) / p of the buffer, twice for an all-reduce."""
    groups = np.arange(size)[None, :]
    least = (size - 1) / size * (2 if kind == "all_reduce" else 1) * 1e6
    for name in ALGORITHMS[kind]:
        if name in ("hierarchical", "nvls-tree", "nvls", "one-shot", "tree"):
            continue
        received = delivered(schedule(kind, name, groups, 1e6))
        if name == "halving-doubling" and size & (size - 1):
            assert received.max() >= least * (1 - 1e-12)
        else:
            np.testing.assert_allclose(received, least, rtol=1e-12, err_msg=name)


def test_steps_of_each_algorithm() -> None:
    groups = np.arange(12)[None, :]

    def steps(kind: collectives.Kind, name: str, g: np.ndarray = groups) -> int:
        return schedule(kind, name, g, 1e6).num_steps

    assert steps("all_reduce", "ring") == 22
    assert steps("all_gather", "ring") == 11
    assert steps("all_reduce", "nhr") == 8  # twice ceil(log2 12)
    assert steps("all_reduce", "direct") == 2
    assert steps("all_to_all", "pairwise") == 11
    assert steps("all_reduce", "halving-doubling", np.arange(16)[None, :]) == 8
    assert steps("all_reduce", "halving-doubling") == 2 * 3 + 2  # before and after for the four that are over


@given(st.sampled_from([2, 4, 8]), st.sampled_from(["ring", "direct", "nhr", "halving-doubling"]))
@settings(max_examples=12, deadline=None)
def test_flat_switch_gives_the_textbook_time(size: int, name: str) -> None:
    """On a non-blocking switch: 2 (p - 1) / p n / b plus the steps' latencies, whatever the algorithm."""
    topology = load_topology("dgx-h200", 8)
    plan = schedule("all_reduce", name, np.arange(size)[None, :], GIB)
    for level in ("bottleneck", "max-min"):
        got = evaluate.run(topology, plan, level=level, protocol=False)  # type: ignore[arg-type]
        assert got.wire_s == pytest.approx(2 * (size - 1) / size * GIB / 450e9, rel=1e-9)
        assert got.latency_s == pytest.approx(plan.num_steps * 0.6e-6, rel=1e-9)
        assert got.bus_bytes_per_s < 450e9


def test_in_switch_reduction_and_its_published_bus_bandwidth() -> None:
    """n (p + 1) / p bytes each way through the port; with the measured share, 482 GB/s on eight H200."""
    topology = load_topology("dgx-h200", 8)
    plan = schedule("all_reduce", "nvls", np.arange(8)[None, :], 16 * GIB)
    line = evaluate.run(topology, plan, protocol=False)
    assert line.wire_s == pytest.approx(16 * GIB * 9 / 8 / 450e9)
    assert evaluate.run(topology, plan).bus_bytes_per_s == pytest.approx(482.3e9, rel=0.01)
    with pytest.raises(TopologyError, match="do not reduce"):
        evaluate.run(load_topology("dgx-a100", 8), plan)


def test_mesh_needs_all_peers_and_ub_does_not() -> None:
    """A2: seven links of 28 GB/s, so two ranks get a seventh of what eight get; UB: the whole port for any two."""
    mesh, ub = load_topology("atlas-800t-a2", 8), load_topology("cloudmatrix384", 64)
    rates = {}
    for name, topology, stride in (("mesh", mesh, 1), ("ub", ub, 2)):
        for size in (2, 4, 8):
            groups = (np.arange(size) * stride)[None, :]
            got = evaluate.run(topology, schedule("all_gather", "direct", groups, GIB), protocol=False)
            rates[name, size] = (size - 1) / size * GIB / got.wire_s
    assert rates["mesh", 2] == pytest.approx(28e9)
    assert rates["mesh", 4] == pytest.approx(3 * 28e9)
    assert rates["mesh", 8] == pytest.approx(196e9)
    assert all(rates["ub", size] == pytest.approx(196e9) for size in (2, 4, 8))


def test_halving_doubling_order_on_rails_and_torus(tmp_path: Path) -> None:
    """Near partners take the large blocks, so rails see little; on a torus the ring beats it."""
    rails = load_topology("dgx-h200", 64)
    groups = np.arange(64)[None, :]
    doubling = evaluate.run(rails, schedule("all_reduce", "halving-doubling", groups, GIB), protocol=False)
    one_ring = evaluate.run(rails, schedule("all_reduce", "ring", groups, GIB), protocol=False)
    channels = evaluate.run(rails, schedule("all_reduce", "ring", groups, GIB, node_size=8), protocol=False)
    two_level = evaluate.run(
        rails, schedule("all_reduce", "hierarchical", groups, GIB, node_size=8), protocol=False
    )
    assert one_ring.wire_s == pytest.approx(2 * 63 / 64 * GIB / 50e9, rel=1e-9)
    assert channels.wire_s == pytest.approx(one_ring.wire_s / 8, rel=0.15)
    assert doubling.wire_s == pytest.approx(two_level.wire_s, rel=1e-9)
    # The published closed form: 2 (g - 1) / g over the node plus 2 (k - 1) / k of an eighth over the cards.
    assert two_level.wire_s == pytest.approx(2 * 7 / 8 * GIB / 450e9 + 2 * 7 / 8 * GIB / 8 / 50e9, rel=1e-9)
    path = tmp_path / "torus.toml"
    path.write_text(
        'id = "t"\nname = "t"\nsource = "t"\n[size]\ndefault_devices = 64\ndevices_per_node = 8\n'
        'devices_per_unit = 64\nunit_name = "lab"\n[[tier]]\nname = "t"\nkind = "mesh"\nnum_devices = "all"\n'
        'bandwidth = "200 GB/s"\nlatency = "1 us"\nsource = "t"\n[[wiring]]\ntiers = ["t"]\nkind = "torus"\n'
        'sizes = [8, 8]\nsource = "t"\n',
        encoding="utf-8",
    )
    torus = load_topology(str(path))
    ring = evaluate.run(torus, schedule("all_reduce", "ring", groups, GIB), protocol=False)
    doubling = evaluate.run(torus, schedule("all_reduce", "halving-doubling", groups, GIB), protocol=False)
    assert doubling.wire_s > 1.3 * ring.wire_s


def test_hierarchical_volumes_add_up() -> None:
    groups = np.arange(32)[None, :]
    for kind in KINDS:
        received = delivered(schedule(kind, "hierarchical", groups, 1e6, node_size=8))
        near, far = 7 / 8 * 1e6, 3 / 4 * 1e6 / 8
        expected = {
            "all_reduce": 2 * (near + far),
            "all_gather": near + far,
            "reduce_scatter": near + far,
            "all_to_all": near + 3 / 4 * 1e6,
        }[kind]
        np.testing.assert_allclose(received, expected, rtol=1e-12, err_msg=kind)


def test_nccl_switches_from_ring_to_nvls_at_two_mib_on_eight_h200() -> None:
    chosen = {
        k: nccl_choice("all_reduce", 2.0**k, generation="hopper", ranks_per_node=8) for k in range(12, 35)
    }
    assert {c.algorithm for k, c in chosen.items() if k <= 20} == {"ring"}
    assert {c.protocol for k, c in chosen.items() if k <= 20} == {"ll"}
    assert {(c.algorithm, c.protocol) for k, c in chosen.items() if k >= 21} == {("nvls", "simple")}
    topology = load_topology("dgx-h200", 8)
    assert evaluate.chosen_algorithm(topology, "all_reduce", 8, 1, MIB) == "ring"
    assert evaluate.chosen_algorithm(topology, "all_reduce", 8, 1, 2 * MIB) == "nvls"
    assert (
        evaluate.chosen_algorithm(topology, "all_reduce", 4, 1, GIB) == "ring"
    )  # four GPUs stay with the ring
    assert evaluate.chosen_algorithm(topology, "all_gather", 8, 1, GIB) == "ring"
    assert evaluate.chosen_algorithm(load_topology("dgx-a100", 8), "all_reduce", 8, 1, GIB) == "ring"


def test_hccl_rules() -> None:
    def pick(servers: int, size: float = GIB, kind: collectives.Kind = "all_reduce") -> str:
        return hccl_choice(
            kind, size, mesh=True, ranks_per_server=8, num_servers=servers, server_bytes_per_s=25e9
        ).algorithm

    assert pick(1) == "direct"
    assert pick(1, 1024.0) == "one-shot"
    assert pick(2) == "ring"  # all equal: ring before NHR before halving-doubling
    assert pick(16) == "nhr"
    assert pick(12, MIB) == "nhr"
    assert pick(16, kind="all_to_all") == "direct"
    a2 = load_topology("atlas-800t-a2", 128)
    assert evaluate.chosen_algorithm(a2, "all_reduce", 128, 1, GIB) == "hierarchical"


def test_experts_hot_and_limited() -> None:
    members = np.arange(64)
    sizes = {"tokens_per_rank": 256, "bytes_per_token": 7168.0}
    even_router = traffic.Router(num_experts=256, top_k=8)
    even = traffic.expert_traffic(members, even_router, **sizes)  # type: ignore[arg-type]
    full = traffic.expert_traffic(members, even_router, deduplicate=False, **sizes)  # type: ignore[arg-type]
    hot = traffic.expert_traffic(members, traffic.Router(num_experts=256, top_k=8, imbalance=1.0), **sizes)  # type: ignore[arg-type]
    assert full.num_bytes.sum() == pytest.approx(63 / 64 * 256 * 64 * 8 * 7168.0, rel=0.01)
    # A token of k distinct experts of 256 reaches 64 (1 - C(252, 8) / C(256, 8)) ranks of four experts.
    reach = 64 * (1 - np.prod([(252 - i) / (256 - i) for i in range(8)]))
    assert even.num_bytes.sum() == pytest.approx(63 / 64 * 256 * 64 * reach * 7168.0, rel=0.01)

    def skew(flows: traffic.Flows) -> float:
        into = np.bincount(flows.dst, weights=flows.num_bytes, minlength=64)
        return float(into.max() / into.mean())

    assert skew(hot) > 1.3 * skew(even)
    back = traffic.reverse(even)
    assert np.array_equal(back.src, even.dst)
    topology = load_topology("cloudmatrix384", 64)
    slow, quick = (evaluate.share_fabric(topology, [f], tolerance=1e-3).alone_s[0] for f in (hot, even))
    assert slow > 1.2 * quick


def test_node_limited_routing_saves_network_cards() -> None:
    """A token crosses to each node once, so a limit of two nodes bounds what the network cards carry."""
    members = np.arange(64)
    sizes = {"tokens_per_rank": 256, "bytes_per_token": 7168.0, "ranks_per_node": 8}
    topology = load_topology("dgx-h200", 64)
    times, crossings = [], []
    for limit in (0, 4, 2):
        router = traffic.Router(
            num_experts=256, top_k=8, groups_per_token=limit, num_groups=8 if limit else 0, seed=3
        )
        across, inside = expert_traffic_by_node(members, router, **sizes)  # type: ignore[arg-type]
        assert np.all(across.src % 8 == across.dst % 8)
        assert np.all(inside.src // 8 == inside.dst // 8)
        crossings.append(across.num_bytes.sum() / (256 * 64 * 7168.0))
        times.append(evaluate.share_fabric(topology, [across], tolerance=1e-3).alone_s[0])
    # One of the nodes is the token's own one time in eight.
    assert crossings[1] <= 4 * 7 / 8 * 1.02
    assert crossings[2] == pytest.approx(2 * 7 / 8, rel=0.02)
    assert crossings[0] > crossings[1] > crossings[2]
    assert times[0] > times[1] > times[2]


def test_placement_decides_who_pays() -> None:
    topology = load_topology("dgx-h200", 64)
    inner = collectives.place_axes(64, {"tp": 8, "dp": 8}, ("tp", "dp"))
    outer = collectives.place_axes(64, {"tp": 8, "dp": 8}, ("dp", "tp"))
    assert inner["tp"][0].tolist() == list(range(8))
    assert outer["tp"][0].tolist() == list(range(0, 64, 8))
    times = [
        evaluate.group_collective(topology, "all_gather", p["tp"], GIB, algorithm="ring", node_size=n).seconds
        for p, n in ((inner, 8), (outer, 1))
    ]
    assert times[1] > 5 * times[0]
    ub = load_topology("cloudmatrix384")
    near = evaluate.collective(ub, "all_gather", 16, GIB, stride=1, algorithm="direct", protocol=False)
    far = evaluate.collective(ub, "all_gather", 16, GIB, stride=48, algorithm="direct", protocol=False)
    assert far.wire_s == pytest.approx(
        near.wire_s * 15 / 14, rel=1e-6
    )  # UB: one peer in the package is all it saves


@pytest.mark.parametrize(
    ("kind", "name"), [("all_reduce", "direct"), ("all_to_all", "direct"), ("all_gather", "ring")]
)
def test_levels_agree_where_the_closed_form_is_exact(kind: collectives.Kind, name: str) -> None:
    """Bottleneck equals max-min with events for the uniform steps of a collective, on every machine."""
    for machine, size in (
        ("cloudmatrix384", 64),
        ("dgx-h200", 64),
        ("atlas-800t-a2", 64),
        ("gb200-nvl72", 72),
    ):
        topology = load_topology(machine, size)
        plan = schedule(kind, name, np.arange(size)[None, :], GIB)
        bound = evaluate.run(topology, plan, level="bottleneck")
        exact = evaluate.run(topology, plan, level="max-min")
        assert exact.wire_s == pytest.approx(bound.wire_s, rel=1e-9)


@pytest.mark.parametrize(
    ("machine", "devices", "size", "stride", "algorithm"),
    [
        ("gb200-nvl72", 72, 72, 1, "direct"),
        ("gb200-nvl72", 72, 8, 1, "ring"),
        ("dgx-h200", 64, 8, 1, "ring"),
        ("dgx-h200", 64, 8, 8, "ring"),
        ("dgx-h200", 64, 64, 1, "hierarchical"),
        ("dgx-a100", 64, 32, 1, "hierarchical"),
        ("atlas-800t-a2", 64, 8, 1, "direct"),
        ("atlas-800t-a2", 64, 4, 1, "direct"),
        ("atlas-800t-a2", 64, 64, 1, "hierarchical"),
        ("cloudmatrix384", 768, 48, 16, "direct"),
        ("cloudmatrix384", 64, 8, 2, "direct"),
    ],
)
@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce"])
def test_tier_list_and_graph_agree(
    kind: collectives.Kind, machine: str, devices: int, size: int, stride: int, algorithm: str
) -> None:
    """One description gives both: the closed form over its tiers equals the graph where it is exact."""
    topology = load_topology(machine, devices)
    plain = evaluate.tier_form(topology, kind, size, stride, GIB)
    near = evaluate.neighbours(topology, size, stride)
    groups = collectives.place_groups(devices, size, stride)
    graph = evaluate.group_collective(topology, kind, groups, GIB, algorithm=algorithm, node_size=near)
    assert graph.wire_s == pytest.approx(plain.wire_s, rel=1e-9)


def test_every_answer_says_what_it_rests_on() -> None:
    topology = load_topology("dgx-h200", 8)
    seen = set()
    for level in typing.get_args(evaluate.Level):
        got = evaluate.collective(topology, "all_reduce", 8, 256 * MIB, level=level)
        assert got.level == level
        assert got.evidence
        seen.add(got.evidence)
    assert len(seen) >= 3
    assert evaluate.collective(topology, "all_reduce", 8, 256 * MIB).level == "table"
    with pytest.raises(TopologyError, match="nothing measured"):
        evaluate.collective(load_topology("dgx-h200"), "all_reduce", 256, GIB, level="table")


def experts(ranks: int, **router: int) -> traffic.Flows:
    return traffic.expert_traffic(
        np.arange(ranks), traffic.Router(top_k=2, **router), tokens_per_rank=1, bytes_per_token=1.0
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: schedule("all_reduce", "rign", np.arange(4)[None, :], 1.0), "rign"),  # type: ignore[arg-type]
        (lambda: schedule("all_sum", "ring", np.arange(4)[None, :], 1.0), "all_sum"),  # type: ignore[arg-type]
        (lambda: schedule("all_reduce", "ring", np.arange(1)[None, :], 1.0), "one rank"),
        (lambda: schedule("all_reduce", "ring", np.arange(4)[None, :], -1.0), "bytes"),
        (
            lambda: schedule("all_reduce", "hierarchical", np.arange(4)[None, :], 1.0, node_size=3),
            "nodes of 3",
        ),
        (lambda: collectives.place_groups(64, 5), "do not fill"),
        (lambda: collectives.place_axes(64, {"tp": 8}, ("tp",)), "axes"),
        (lambda: nccl_choice("all_reduce", 1.0, generation="volta", ranks_per_node=8), "volta"),
        (lambda: experts(3, num_experts=4), "experts"),
        (lambda: experts(4, num_experts=8, groups_per_token=1, num_groups=8), "enough experts"),
        (lambda: experts(4, num_experts=8, groups_per_token=1, num_groups=3), "equal groups"),
    ],
)
def test_mistakes_are_named(call: object, match: str) -> None:
    with pytest.raises(TopologyError, match=match):
        call()  # type: ignore[operator]
