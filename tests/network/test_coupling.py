"""Routes for the timeline carry what the collectives put on the graph."""

from __future__ import annotations

import numpy as np
import pytest

from fullmesh.network import coupling, evaluate
from fullmesh.network.collective_steps import place_groups, schedule
from fullmesh.network.wiring.build import load_topology


@pytest.mark.parametrize(
    ("machine", "devices", "kind", "algorithm", "node_size"),
    [
        ("cloudmatrix384", 64, "all_to_all", "direct", 0),
        ("cloudmatrix384", 64, "all_reduce", "ring", 0),
        ("dgx-h200", 32, "all_gather", "ring", 8),
        ("dgx-h200", 8, "all_reduce", "nvls", 0),
        ("atlas-800t-a2", 8, "reduce_scatter", "direct", 0),
    ],
)
def test_a_collective_alone_takes_its_own_time(
    machine: str, devices: int, kind: str, algorithm: str, node_size: int
) -> None:
    topology = load_topology(machine, devices)
    plan = schedule(kind, algorithm, np.arange(devices)[None, :], 1e9, node_size=node_size)  # type: ignore[arg-type]
    routes = coupling.collective_routes(topology, [plan])
    expected = evaluate.run(topology, plan).seconds
    assert routes.alone_s(np.array([1e9]))[0] == pytest.approx(expected, rel=1e-9)
    assert routes.alone_s(np.array([2e9]))[0] > routes.alone_s(np.array([1e9]))[0]


def test_two_axes_share_ports_and_sends_have_routes() -> None:
    topology = load_topology("dgx-h200", 32)
    tp = schedule("all_gather", "ring", place_groups(32, 8), 1e9)
    dp = schedule("all_gather", "ring", place_groups(32, 4, 8), 1e9)
    routes = coupling.collective_routes(topology, [tp, dp])
    assert len(routes.route_ptr) == 3
    assert len(routes.link_bytes_per_s) < 200


def test_the_replay_shares_these_routes() -> None:
    """Two all-reduces that overlap on the same ports take twice as long; in two nodes they do not touch."""
    engines = pytest.importorskip("fullmesh.timeline.engine.engines")
    graph = pytest.importorskip("fullmesh.timeline.schedule.graph")
    topology = load_topology("dgx-h200", 16)
    same = [schedule("all_gather", "ring", np.arange(8)[None, :], 1e9)] * 2
    apart = [schedule("all_gather", "ring", 8 * k + np.arange(8)[None, :], 1e9) for k in range(2)]
    for plans, slower in ((same, 2.0), (apart, 1.0)):
        routes = coupling.collective_routes(topology, plans)
        tasks = graph.TaskGraph(
            kind=np.zeros(3, np.int8),
            stream=np.array([0, 1, 1], np.int8),
            rank=np.array([0, 0, 1], np.int32),
            chunk=np.zeros(3, np.int16),
            microbatch=np.zeros(3, np.int32),
            duration_s=np.zeros(3),
            pred=np.zeros((3, 3), np.int32),
            num_ranks=2,
            num_stages=2,
        )
        network = engines.Network(
            link_bytes_per_s=routes.link_bytes_per_s,
            route_ptr=routes.route_ptr,
            route_link=routes.route_link,
            route_weight=routes.route_weight,
            route_of=np.array([-1, 0, 1], np.int32),
            bytes=np.array([0.0, 1e9, 1e9]),
        )
        end = engines.replay(tasks, network=network).end_s
        wire = routes.alone_s(np.full(2, 1e9)) - routes.latency_s
        np.testing.assert_allclose(end[1:], slower * wire, rtol=1e-9)
