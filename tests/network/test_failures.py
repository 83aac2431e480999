"""The failure table of CloudMatrix 384 and the parts that can fail."""

from __future__ import annotations

import numpy as np
import pytest

from fullmesh.errors import TopologyError
from fullmesh.network import summary as report
from fullmesh.network.flow import traffic
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.failures import break_parts, parse_failure, parts
from fullmesh.network.wiring.links import Policy

DIE = 196e9
PEERS, UB_PEERS, FAR_PEERS = 767, 766, 752  # all other dies; without the package's; in other nodes


def static_rate(up_links: float) -> float:
    """Die rate when a node's worst plane has ``up_links`` of 16 links left and a seventh of the traffic must use it."""
    port = min(DIE, 28e9 * up_links * 7 / 16 * UB_PEERS / FAR_PEERS)
    return port * PEERS / UB_PEERS


def resplit_rate(up_links: float) -> float:
    """Die rate when planes share by what is left: the healthy planes' die links become the limit."""
    good = 16 / (6 * 16 + up_links)
    near = UB_PEERS - FAR_PEERS
    port = 28e9 / (FAR_PEERS / UB_PEERS * good + near / UB_PEERS / 7)
    return port * PEERS / UB_PEERS


# failure, links that the worst plane of the worst node keeps, change static, change re-split
TABLE = (
    ("l2=1", 15, -0.0450, -0.0088),
    ("l2=2", 14, -0.1087, -0.0175),
    ("link=1", 15, -0.0450, -0.0088),
    ("module=1", 14, -0.1087, -0.0175),
)


@pytest.mark.parametrize(("fail", "left", "static", "resplit"), TABLE)
def test_cloudmatrix_failure_table(fail: str, left: int, static: float, resplit: float) -> None:
    (row,) = report.failure_rows(load_topology("cloudmatrix384"), [fail])
    assert row.static_bytes_per_s == pytest.approx(static_rate(left), rel=1e-9)
    assert row.resplit_bytes_per_s == pytest.approx(resplit_rate(left), rel=1e-9)
    assert row.static_change == pytest.approx(static, abs=5e-5)
    assert row.resplit_change == pytest.approx(resplit, abs=5e-5)


def test_two_dead_l2_chips_in_two_planes_cost_no_more_than_one_when_static() -> None:
    (row,) = report.failure_rows(load_topology("cloudmatrix384"), ["l2@0,16"])
    assert row.static_bytes_per_s == pytest.approx(static_rate(15), rel=1e-9)
    assert row.resplit_change is not None
    assert row.resplit_change == pytest.approx(-0.0175, abs=5e-5)


@pytest.mark.parametrize("fail", ["l1=1", "plane=1", "die-l1=1"])
def test_a_lost_plane_costs_a_seventh_and_breaks_a_static_split(fail: str) -> None:
    (row,) = report.failure_rows(load_topology("cloudmatrix384"), [fail])
    assert row.static_bytes_per_s is None
    assert row.resplit_change == pytest.approx(-1 / 7, abs=1e-9)


def test_one_percent_of_links() -> None:
    topology = load_topology("cloudmatrix384")
    changes = [report.failure_rows(topology, ["links=1%"], seed)[0] for seed in range(3)]
    broken = break_parts(topology, [parse_failure("links=1%")])
    assert broken.link_counts()["l1-l2"][0] == 5376 - 54
    for row in changes:
        assert row.resplit_change is not None
        assert row.static_change is not None
        assert -0.06 < row.resplit_change < -0.02  # -4.0 % in an independent prototype
        assert row.static_change < row.resplit_change


def test_a_dead_cross_die_link_sends_the_pair_over_ub() -> None:
    topology = load_topology("cloudmatrix384", 64)
    broken = break_parts(topology, [parse_failure("package=1")])
    pair = (np.array([0]), np.array([1]))
    assert topology.layers[int(topology.route(*pair).layer[0])].facts.name == "package"
    assert topology.layers[int(broken.route(*pair).layer[0])].facts.name == "ub"


def test_a_dead_mesh_link_cuts_or_relays() -> None:
    from fullmesh.network.flow import solve

    topology = break_parts(load_topology("atlas-800t-a2", 8), [parse_failure("link=1")])
    one = (np.array([0]), np.array([1]))
    assert topology.route(*one).cut[0]
    routing = topology.route(*one, Policy(name="resplit"))
    rate = solve.max_min_rates(solve.make_problem(topology, routing))[0]
    assert rate == pytest.approx(6 * 28e9)  # alone, over the six others


def test_groups_inside_a_few_nodes_do_not_feel_one_l2_chip() -> None:
    """Uplinks of small groups have room; the figures are those of an independent prototype at package level."""
    from fullmesh.network.flow import solve

    topology = load_topology("cloudmatrix384")
    broken = break_parts(topology, [parse_failure("l2=1")])
    for size, change in ((32, 0.0), (128, 0.0), (256, -0.0078), (384, -0.0268)):
        flows = traffic.all_to_all(np.arange(size)[None, :], 1e9)
        times = [
            solve.bottleneck(t, t.route(flows.src, flows.dst), flows.num_bytes)[0] for t in (topology, broken)
        ]
        assert times[0] / times[1] - 1 == pytest.approx(change, abs=3e-3), size


def test_degraded_links_slow_and_more_capacity_never_hurts() -> None:
    topology = load_topology("cloudmatrix384")
    rates = []
    for health in ("0", "0.25", "0.5", "0.75"):
        broken = break_parts(topology, [parse_failure(f"link=1:{health}")])
        rates.append(traffic.uniform_all_to_all(broken, 1e9, Policy(name="resplit")).bytes_per_s_per_device)
    rates.append(traffic.uniform_all_to_all(topology, 1e9, Policy(name="resplit")).bytes_per_s_per_device)
    assert rates == sorted(rates)
    # A static split keeps loading the slow link like its fifteen sisters.
    half = break_parts(topology, [parse_failure("link=1:0.5")])
    assert traffic.uniform_all_to_all(half, 1e9).bytes_per_s_per_device == pytest.approx(
        static_rate(8), rel=1e-9
    )


@pytest.mark.parametrize(
    "name", ["cloudmatrix384", "gb200-nvl72", "dgx-h200", "atlas-800t-a2", "atlas-910a-pod"]
)
def test_every_named_part_can_fail(name: str) -> None:
    topology = load_topology(name, None if name != "atlas-910a-pod" else 64)
    for part in parts(topology):
        broken = break_parts(topology, [parse_failure(f"{part}=1")])
        assert (broken.health < 1).any(), part
        assert np.array_equal(broken.health[topology.links.peer], broken.health), part


def test_nvswitch_plane_costs_its_share() -> None:
    topology = load_topology("gb200-nvl72")
    broken = break_parts(topology, [parse_failure("nvswitch=1")])
    before = traffic.uniform_all_to_all(topology, 1e9).bytes_per_s_per_device
    after = traffic.uniform_all_to_all(broken, 1e9, Policy(name="resplit")).bytes_per_s_per_device
    assert after / before == pytest.approx(17 / 18)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("l3=1", "no 'l3'"),
        ("l2", "cannot read"),
        ("l2=0", "count"),
        ("l2=113", "there are 112"),
        ("l2@112", "does not exist"),
        ("links=0%", "share"),
        ("links=200%", "share"),
        ("link=1:1.5", "health"),
        ("=1", "cannot read"),
    ],
)
def test_bad_failures_are_named(text: str, match: str) -> None:
    with pytest.raises(TopologyError, match=match):
        break_parts(load_topology("cloudmatrix384", 64 if "11" not in text else None), [parse_failure(text)])
