"""Jobs that share, expert exchanges, load by kind of link, measured pairs, and levels of a plan."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fullmesh.errors import FullmeshError, TopologyError
from fullmesh.faces.cli.main import cli
from fullmesh.network import whatif
from fullmesh.network.flow import traffic
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.failures import break_parts, parse_failure
from fullmesh.network.wiring.links import Policy


def test_measured_pairs() -> None:
    """Where the graph takes its figure from the measurement, and where it does not."""
    rows = [
        r
        for name in ("cloudmatrix384", "dgx-h200", "gb200-nvl72")
        for r in whatif.pair_rows(load_topology(name))
    ]
    used = [abs(r.error) for r in rows if r.used]
    other = [abs(r.error) for r in rows if not r.used]
    assert len(used) == 8
    assert len(other) == 6
    assert np.median(used) < 0.08
    assert np.median(other) < 0.2
    assert {r.pair for r in rows} >= {"package", "ub-node", "ub-supernode", "cpu", "nvlink", "infiniband"}


def test_load_by_kind_conserves_bytes() -> None:
    topology = load_topology("dgx-h200", 64)
    flows = traffic.all_to_all(np.arange(64)[None, :], 1e9)
    load = {r.kind: r for r in whatif.load_rows(topology, flows, Policy())}
    assert load["gpu-leaf"].fullest == pytest.approx(1.0)
    assert load["gpu-leaf"].mean == pytest.approx(1.0)
    assert 0 < load["gpu-nvswitch"].fullest < 0.2
    assert load["leaf-spine"].fullest == 0  # one scalable unit: rails never reach the spine


def test_jobs_interfere_only_where_they_share_links() -> None:
    healthy = load_topology("cloudmatrix384", 64)
    rows = whatif.job_rows(healthy, ["0-31", "32-63"], 1e8, Policy())
    assert [r.devices for r in rows] == [32, 32]
    assert all(abs(r.slowdown) < 1e-6 for r in rows)
    crossed = whatif.job_rows(healthy, ["0-62:2", "1-63:2"], 1e8, Policy())  # one die of each package
    assert all(abs(r.slowdown) < 1e-6 for r in crossed)  # UB does not block
    broken = break_parts(healthy, [parse_failure("l2=8")])
    shared = whatif.job_rows(broken, ["0-62:2", "1-63:2"], 1e8, Policy())
    assert all(r.slowdown > 0.2 for r in shared)  # half of a plane's uplinks: now they do


def test_expert_exchange_by_imbalance_and_measurement() -> None:
    topology = load_topology("cloudmatrix384")
    size = {"tokens_per_rank": 4096, "hidden": 7168, "policy": Policy()}
    even = whatif.expert_rows(topology, 32, traffic.Router(num_experts=256, top_k=8), **size)  # type: ignore[arg-type]
    hot = whatif.expert_rows(topology, 32, traffic.Router(num_experts=256, top_k=8, imbalance=1.0), **size)  # type: ignore[arg-type]
    assert [r.phase for r in even] == ["dispatch", "combine"]
    assert even[1].wire_s == pytest.approx(2 * even[0].wire_s, rel=0.02)
    for a, b in zip(even, hot, strict=True):
        assert b.imbalance > a.imbalance
        assert b.wire_s > 1.05 * a.wire_s
        assert a.library == "sgl-ep"
        assert a.table_s is not None
        assert a.table_s > a.wire_s  # software on top of the wire
    small = whatif.expert_rows(
        topology,
        8,
        traffic.Router(num_experts=256, top_k=8),
        tokens_per_rank=128,
        hidden=7168,
        policy=Policy(),
    )
    assert small[0].table_s == pytest.approx(116e-6, rel=0.2)


def test_a_plan_is_checked_at_a_level() -> None:
    topology = load_topology("dgx-h200", 64)
    rows = whatif.check_plan(
        topology, [("all_gather", 8, 1, 2.0**28), ("all_reduce", 8, 8, 2.0**28)], "bottleneck"
    )
    for row in rows:
        assert row.level == "bottleneck"
        assert "wired graph" in row.evidence
        assert row.closed_form_off == pytest.approx(row.closed_form_s / row.level_s - 1)
        assert abs(row.closed_form_off) < 1.0


def test_matrix_shows_every_tier() -> None:
    found = whatif.tier_matrix(load_topology("cloudmatrix384"), Policy())
    assert found.devices == (0, 1, 2, 15, 16, 767)
    row = dict(zip(found.devices, found.bytes_per_s[0], strict=True))
    assert row == pytest.approx({0: 0.0, 1: 224e9, 2: 196e9, 15: 196e9, 16: 196e9, 767: 196e9})
    late = dict(zip(found.devices, found.latency_s[0], strict=True))
    assert late == pytest.approx({0: 0.0, 1: 0.2e-6, 2: 0.7e-6, 15: 0.7e-6, 16: 2.1e-6, 767: 2.1e-6})
    assert np.array_equal(found.bytes_per_s, found.bytes_per_s.T)


def test_oversubscription_of_a_shipped_cluster() -> None:
    topology = load_topology("dgx-h200", 512)  # two scalable units
    rates = []
    for ratio in (1, 2, 4):
        narrow = whatif.oversubscribed(topology, ratio)
        rates.append(traffic.uniform_all_to_all(narrow, 1e9).bytes_per_s_per_device)
    assert rates[0] > rates[1] > rates[2]
    # Half of the devices lie in the other unit: their share of the traffic waits for the narrow links.
    assert rates[2] == pytest.approx(50e9 / 4 * 511 / 256, rel=1e-9)
    with pytest.raises(TopologyError, match="1 or more"):
        whatif.oversubscribed(topology, 0.5)


def test_alike_devices_need_no_list_of_pairs() -> None:
    for name, count in (
        ("dgx-h200", 256),
        ("atlas-910a-pod", 64),
        ("gb200-nvl72", 144),
        ("fat-tree-16", 128),
    ):
        topology = load_topology(name, count)
        listed = traffic.uniform_all_to_all(topology, 1e9)
        alike = traffic._alike_all_to_all(topology, 1e9 / count, Policy())
        assert alike.seconds == pytest.approx(listed.seconds, rel=1e-9)
    big = traffic.uniform_all_to_all(load_topology("dgx-h200", 16_384), 1e9)
    assert big.bytes_per_s_per_device == pytest.approx(50e9 * 16383 / 16376)
    broken = break_parts(load_topology("dgx-h200", 16_384), [parse_failure("leaf=1")])
    with pytest.raises(TopologyError, match="flows"):
        traffic.uniform_all_to_all(broken, 1e9)


def test_options_of_the_command() -> None:
    def run(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(cli, ["fabric", *arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        data: dict[str, object] = json.loads(result.stdout)
        return data

    data = run(
        "cloudmatrix384",
        "--devices",
        "64",
        "--jobs",
        "0-31,32-63",
        "--load",
        "--experts",
        "ranks=16,groups=2/4",
    )
    assert set(data) == {"devices", "switches", "links", "all_to_all", "load", "jobs", "experts", "timing"}
    text = CliRunner().invoke(
        cli,
        [
            "fabric",
            "cloudmatrix384",
            "--devices",
            "64",
            "--jobs",
            "0-31,32-63",
            "--load",
            "--experts",
            "ranks=16",
        ],
    )
    for part in ("slower by", "fullest", "dispatch"):
        assert part in text.stdout
    for bad in (
        ["--jobs", "5-2"],
        ["--jobs", "0-99"],
        ["--experts", "rank=4"],
        ["--experts", "ranks=x"],
        ["--experts", "ranks=0"],
    ):
        with pytest.raises(FullmeshError):
            CliRunner().invoke(
                cli, ["fabric", "cloudmatrix384", "--devices", "64", *bad], catch_exceptions=False
            )
