"""Engines agree with their plain twins and, where a cheaper one is exact, with each other to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import ScenarioError
from fullmesh.timeline.costs import Lane, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import Contention, Network, network_over, replay, sends_of
from fullmesh.timeline.perturb import unfold
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import TaskGraph
from fullmesh.timeline.schedule.schedules import build_graph
from oracles import replay as reference


def busy_costs(seed: int, schedule: str = "interleaved", p: int = 4, m: int = 6, v: int = 2) -> PipelineCosts:
    rng = np.random.default_rng(seed)
    base = even_costs(schedule, p, m, num_virtual=v, send_s=0.05)
    n = base.num_chunks
    return dataclasses.replace(
        base,
        forward_s=rng.uniform(0.5, 1.5, n),
        backward_input_s=rng.uniform(0.5, 1.5, n),
        recompute_s=rng.uniform(0, 0.5, n),
        grad_reduce_s=rng.uniform(0, 2, n),
        grad_buckets=2,
        param_gather_s=rng.uniform(0, 1, n),
        optimizer_s=rng.uniform(0, 1, p),
        offload_s=rng.uniform(0, 0.4, n),
        lanes=(
            Lane(
                name="tp",
                forward_s=np.full(n, 0.1),
                backward_s=np.full(n, 0.1),
                hidden_forward_s=rng.uniform(0, 1, n),
                hidden_backward_s=rng.uniform(0, 2, n),
            ),
        ),
    )


def no_routes(graph: TaskGraph) -> np.ndarray:
    return np.full(len(graph), -1, np.int32)


SLOW = Contention(
    compute={"tp": 1.3, "reduce": 1.19, "send forward": 1.05}, communication={"tp": 1.1, "reduce": 1.25}
)


@pytest.mark.parametrize("seed", range(3))
def test_all_engines_and_twins_agree_exactly_without_contention(seed: int) -> None:
    graph = build_graph(busy_costs(seed))
    expected = reference.maxplus(graph)
    np.testing.assert_array_equal(reference.maxplus_levels(graph), expected)
    np.testing.assert_array_equal(reference.events(graph), expected)
    first = replay(graph)
    np.testing.assert_array_equal(first.end_s, expected)
    for engine in ("event", "contention", "fabric"):
        other = replay(graph, engine)
        np.testing.assert_array_equal(other.end_s, expected)
        np.testing.assert_array_equal(other.start_s, first.start_s)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60))
def test_events_equal_their_twin_where_streams_are_contested(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    pred = np.stack([rng.integers(0, np.arange(n).clip(1)) for _ in range(3)], axis=1).astype(np.int32)
    kind = np.where(rng.random(n) < 0.2, b.K_JOIN, b.K_FORWARD).astype(np.int8)
    kind[0] = b.K_JOIN
    graph = TaskGraph(
        kind=kind,
        stream=rng.integers(0, 3, n).astype(np.int8),
        rank=rng.integers(0, 2, n).astype(np.int32),
        chunk=np.zeros(n, np.int16),
        microbatch=np.zeros(n, np.int32),
        duration_s=np.where(kind == b.K_JOIN, 0.0, rng.integers(1, 5, n).astype(float)),
        pred=pred,
        num_ranks=2,
        num_stages=2,
    )
    timeline = replay(graph, "event")
    np.testing.assert_array_equal(timeline.end_s, reference.events(graph))
    # never earlier than the dependencies alone allow, and no two tasks of a lane at once
    assert np.all(timeline.end_s >= replay(graph).end_s)
    work = kind != b.K_JOIN
    for lane in {(int(r), int(s)) for r, s in zip(graph.rank, graph.stream, strict=True)}:
        mine = np.flatnonzero(work & (graph.rank == lane[0]) & (graph.stream == lane[1]))
        mine = mine[np.argsort(timeline.start_s[mine], kind="stable")]
        assert np.all(timeline.start_s[mine[1:]] >= timeline.end_s[mine[:-1]])


@pytest.mark.parametrize("seed", range(3))
def test_slowdown_equals_its_twin_and_only_slows(seed: int) -> None:
    graph = build_graph(busy_costs(seed))
    timeline = replay(graph, contention=SLOW)
    twin = reference.shared(
        graph,
        graph.duration_s,
        SLOW.column("compute"),
        SLOW.column("communication"),
        no_routes(graph),
        [],
        np.zeros(0),
    )
    np.testing.assert_allclose(timeline.end_s, twin, rtol=1e-10)
    assert timeline.step_s > replay(graph).step_s
    assert np.all(timeline.taken_s >= graph.duration_s - 1e-12)


def sends_over(graph: TaskGraph, links: np.ndarray, shared: bool, rate: float) -> Network:
    """Sends as flows: each rank has a port, and if ``shared`` all of them cross one more link."""
    sends = np.isin(graph.kind, (b.K_SEND_FORWARD, b.K_SEND_BACKWARD))
    p = graph.num_ranks
    # one port a direction and rank
    direction = (graph.kind == b.K_SEND_BACKWARD).astype(np.int64)
    route_of = np.where(sends, graph.rank + direction * p, -1).astype(np.int32)
    per = 2 if shared else 1
    route_link = np.column_stack([np.arange(2 * p), np.full(2 * p, 2 * p)])[:, :per].astype(np.int32).ravel()
    return Network(
        link_bytes_per_s=links,
        route_ptr=np.arange(2 * p + 1, dtype=np.int64) * per,
        route_link=route_link,
        route_weight=np.ones(len(route_link)),
        route_of=route_of,
        bytes=graph.duration_s * rate,
    )


def test_private_links_equal_the_plain_replay() -> None:
    costs = dataclasses.replace(busy_costs(1), send_s=np.full(7, 0.0625))
    graph = build_graph(costs)
    net = sends_over(graph, np.full(8, 1024.0), shared=False, rate=1024.0)
    timeline = replay(graph, network=net)
    np.testing.assert_array_equal(timeline.end_s, replay(graph).end_s)
    assert timeline.num_solves > 0


@pytest.mark.parametrize("seed", range(3))
def test_shared_links_equal_their_twin(seed: int) -> None:
    graph = build_graph(busy_costs(seed))
    links = np.append(np.full(8, 1000.0), 1500.0)
    net = sends_over(graph, links, shared=True, rate=4000.0)
    timeline = replay(graph, network=net, contention=SLOW)
    routes = [
        [
            (int(net.route_link[e]), float(net.route_weight[e]))
            for e in range(net.route_ptr[i], net.route_ptr[i + 1])
        ]
        for i in range(len(net.route_ptr) - 1)
    ]
    work = np.where(net.route_of >= 0, net.bytes, graph.duration_s)
    twin = reference.shared(
        graph, work, SLOW.column("compute"), SLOW.column("communication"), net.route_of, routes, links
    )
    np.testing.assert_allclose(timeline.end_s, twin, rtol=1e-9)
    assert timeline.step_s > replay(graph).step_s


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "dualpipe", "zb-v"])
def test_sends_name_both_ends(schedule: str) -> None:
    costs = even_costs(schedule, 4, 12, num_virtual=2 if schedule == "interleaved" else 1, send_s=0.05)
    costs = dataclasses.replace(costs, param_gather_s=np.full(costs.num_chunks, 0.1))
    graph = build_graph(costs)
    tasks, source, target = sends_of(graph)
    sends = np.isin(graph.kind, (b.K_SEND_FORWARD, b.K_SEND_BACKWARD))
    np.testing.assert_array_equal(tasks, np.flatnonzero(sends))
    ring = schedule == "interleaved"
    assert set(np.abs(source - target).tolist()) <= ({1, 3} if ring else {1})


def test_sends_of_many_pipelines_share_what_they_cross() -> None:
    base = even_costs("1f1b", 4, 16, send_s=0.02)
    costs = dataclasses.replace(base, ranks_per_stage=4)
    graph = unfold(build_graph(costs), costs, every_rank=True).graph
    tasks, source, target = sends_of(graph)
    # every pair of rows is a route of its own over one link that all of them share
    pairs, route = np.unique(np.stack([source, target]), axis=1, return_inverse=True)
    rate = 1e9

    def step(shared_bytes_per_s: float) -> float:
        num = pairs.shape[1]
        link = np.column_stack([np.arange(num), np.full(num, num)]).astype(np.int32).ravel()
        net = network_over(
            graph,
            tasks,
            route.ravel(),
            graph.duration_s[tasks] * rate,
            link_bytes_per_s=np.append(np.full(num, rate), shared_bytes_per_s),
            route_ptr=2 * np.arange(num + 1),
            route_link=link,
            route_weight=np.ones(2 * num),
        )
        return replay(graph, network=net).step_s

    alone = replay(graph).step_s
    assert step(1e12) == pytest.approx(alone)
    assert step(2e9) > step(8e9) >= alone * (1 - 1e-12)


def test_replay_is_deterministic() -> None:
    graph = build_graph(busy_costs(2))
    again = build_graph(busy_costs(2))
    for engine in ("maxplus", "event", "contention"):
        np.testing.assert_array_equal(replay(graph, engine).end_s, replay(again, engine).end_s)


def test_what_an_engine_cannot_do_is_refused() -> None:
    graph = build_graph(even_costs("1f1b", 2, 2, send_s=0.1))
    with pytest.raises(ScenarioError, match="unknown"):
        replay(graph, "turbo")
    with pytest.raises(ScenarioError, match="neither"):
        replay(graph, "event", contention=SLOW)
    with pytest.raises(ScenarioError, match="stream"):
        replay(graph, contention=Contention(compute={"nvlink": 1.2}))
    with pytest.raises(ScenarioError, match=r"slowdown of 0\.5"):
        replay(graph, contention=Contention(compute={"tp": 0.5}))
    dead = sends_over(graph, np.zeros(4), shared=False, rate=1.0)
    with pytest.raises(ScenarioError, match="never run"):
        replay(graph, network=dead)
