"""Kernels against their NumPy twins, classes against full solves, events against an independent simulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullmesh.errors import TopologyError
from fullmesh.network.flow import colours as kernels_colour
from fullmesh.network.flow import solve, symmetry, traffic
from fullmesh.network.flow.solve import Problem
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.failures import break_parts, parse_failure
from fullmesh.network.wiring.links import Policy
from oracles import flow as reference

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "flows.json").read_text(encoding="utf-8"))
NONE = np.zeros((0, 0))


def random_problem(seed: int, flows: int, segments: int, links: int, columns: int, even: bool) -> Problem:
    """Flows on random weighted segments; ``even`` draws few distinct values, so that ties are common."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, segments)
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    link = np.concatenate([rng.choice(links, n, replace=False) for n in lengths]).astype(np.int32)
    weight = rng.choice([0.25, 0.5, 1.0], len(link)) if even else rng.uniform(0.1, 2.0, len(link))
    seg = rng.integers(0, segments, (flows, columns)).astype(np.int32)
    seg[:, 1:][rng.random((flows, columns - 1)) < 0.3] = -1
    cap = rng.choice([1.0, 2.0], links) if even else rng.uniform(0.5, 5.0, links)
    return Problem(seg=seg, mult=NONE, ptr=ptr, link=link, weight=weight, cap=cap)


def incidence(problem: Problem) -> np.ndarray:
    return reference.flat_incidence(
        problem.seg, problem.mult, problem.ptr, problem.link, problem.weight, len(problem.cap)
    )


problems = st.builds(
    random_problem,
    seed=st.integers(0, 10_000),
    flows=st.integers(1, 40),
    segments=st.integers(1, 12),
    links=st.integers(4, 10),
    columns=st.integers(1, 4),
    even=st.booleans(),
)


@pytest.fixture(params=["plain", "compiled", "by level"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways in which rates are found, each for all flows."""
    monkeypatch.setattr(solve, "FEW_ENTRIES", 0 if request.param == "compiled" else 10**9)
    monkeypatch.setattr(solve, "MOST_PASSES", 0 if request.param == "by level" else 10**9)
    return str(request.param)


@given(problems)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_waterfill_equals_its_twin(way: str, problem: Problem) -> None:
    rate = solve.max_min_rates(problem)
    dense = incidence(problem)
    np.testing.assert_allclose(rate, reference.waterfill(dense, problem.cap), rtol=1e-9)
    # The definition: within capacity, and every flow has a full link where no other flow gets more.
    load = dense @ rate
    assert np.all(load <= problem.cap * (1 + 1e-9))
    full = load >= problem.cap * (1 - 1e-9)
    for flow in range(len(rate)):
        mine = full & (dense[:, flow] > 0)
        assert any(rate[dense[link] > 0].max() <= rate[flow] * (1 + 1e-9) for link in np.flatnonzero(mine))


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_bottlenecks_equal_the_twin(way: str, seed: int) -> None:
    """Compiled passes give up here, and the rest is settled level by level."""
    problem = random_problem(seed, 400, 120, 90, 3, False)
    np.testing.assert_allclose(
        solve.max_min_rates(problem), reference.waterfill(incidence(problem), problem.cap), rtol=1e-9
    )


@given(problems, st.integers(0, 1000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_events_equal_their_twin(problem: Problem, seed: int, staggered: bool) -> None:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 4.0, len(problem.seg))
    start = rng.uniform(0, 3.0, len(size)) if staggered else np.zeros(len(size))
    finish, solves = solve.completion_times(problem, size, start)
    np.testing.assert_allclose(
        finish, reference.simulate(incidence(problem), problem.cap, size, start), rtol=1e-8
    )
    assert 1 <= solves <= 2 * len(size) + 1


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_many_events_equal_their_twin(seed: int, even: bool, staggered: bool) -> None:
    """Enough flows for long chains of repairs, of equal shares and of different ones."""
    problem = random_problem(seed, 120, 24, 20, 3, even)
    rng = np.random.default_rng(seed)
    size = rng.choice([1.0, 2.0, 3.0], 120) if even else rng.uniform(0.1, 4.0, 120)
    start = rng.uniform(0, 30.0, 120) if staggered else np.zeros(120)
    finish, _ = solve.completion_times(problem, size, start)
    np.testing.assert_allclose(
        finish, reference.simulate(incidence(problem), problem.cap, size, start), rtol=1e-8
    )


@pytest.mark.parametrize("endpoints", [12, 24])
def test_rates_stay_fair_and_bytes_are_conserved_over_all_events(endpoints: int) -> None:
    """The rates that the completion times imply, worked out afresh between every two events, move every byte."""
    topology = load_topology("cloudmatrix384", 48)
    flows = traffic.skewed_all_to_all(np.arange(endpoints), 1e6, concentration=3.0, seed=4)
    routing = topology.route(flows.src, flows.dst)
    problem = solve.drop_slack(solve.make_problem(topology, routing))
    finish, _ = solve.completion_times(problem, flows.num_bytes)
    sent, now = np.zeros(len(flows)), 0.0
    dense = incidence(problem)
    for moment in np.unique(finish):
        running = np.flatnonzero(finish > now)
        rate = reference.waterfill(dense[:, running], problem.cap)
        sent[running] += rate * (moment - now)
        now = moment
    np.testing.assert_allclose(sent, flows.num_bytes, rtol=1e-6)


def test_a_flow_that_leaves_can_slow_another_down() -> None:
    """Max-min shares are not monotone: flow 0 leaves, flow 1 takes link 0, and flow 2 keeps less of link 1."""
    problem = Problem(
        seg=np.array([[0, -1], [0, 1], [1, -1]], np.int32),
        mult=NONE,
        ptr=np.arange(3, dtype=np.int64),
        link=np.array([0, 1], np.int32),
        weight=np.ones(2),
        cap=np.array([2.0, 10.0]),
    )
    finish, solves = solve.completion_times(problem, np.array([1.0, 3.0, 13.0]))
    # to 1 s: rates 1, 1, 9; then flow 1 at 2 and flow 2 at 8, which ends at 1.5 s; flow 1 at 2 s
    assert finish.tolist() == pytest.approx([1.0, 2.0, 1.5])
    assert solves == 3


@given(problems, st.floats(1.0, 4.0))
@settings(max_examples=40, deadline=None)
def test_more_bandwidth_everywhere_is_proportionally_faster(problem: Problem, factor: float) -> None:
    size = np.linspace(1.0, 2.0, len(problem.seg))
    slow, _ = solve.completion_times(problem, size)
    wide = Problem(
        **{f: getattr(problem, f) for f in ("seg", "mult", "ptr", "link", "weight")}, cap=problem.cap * factor
    )
    fast, _ = solve.completion_times(wide, size)
    np.testing.assert_allclose(fast, slow / factor, rtol=1e-8)
    # No order of sharing beats the fullest link.
    bound = ((incidence(problem) @ size) / problem.cap).max()
    assert slow.max() >= bound * (1 - 1e-9)


def test_textbook_max_min() -> None:
    """Three flows on two links (Bertsekas and Gallager): the long one gets half of the tight link."""
    problem = Problem(
        seg=np.array([[0, 1], [0, -1], [1, -1]], np.int32),
        mult=NONE,
        ptr=np.arange(3, dtype=np.int64),
        link=np.array([0, 1], np.int32),
        weight=np.ones(2),
        cap=np.array([1.0, 3.0]),
    )
    assert solve.max_min_rates(problem).tolist() == pytest.approx([0.5, 0.5, 2.5])
    finish, _ = solve.completion_times(problem, np.array([1.0, 1.0, 5.0]))
    assert finish.tolist() == pytest.approx([2.0, 2.0, 2.0])


def test_dead_links_never_finish() -> None:
    problem = random_problem(1, 5, 4, 4, 1, True)
    dead = Problem(
        **{f: getattr(problem, f) for f in ("seg", "mult", "ptr", "link", "weight")}, cap=np.zeros(4)
    )
    finish, _ = solve.completion_times(dead, np.ones(5))
    assert np.isinf(finish).all()


@given(problems)
@settings(max_examples=60, deadline=None)
def test_quotient_equals_the_full_solve(problem: Problem) -> None:
    quotient = symmetry.refine(problem)
    rate = solve.max_min_rates(quotient.problem)[quotient.flow_class]
    np.testing.assert_allclose(rate, solve.max_min_rates(problem), rtol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_refinement_equals_its_twin(seed: int, links: int, columns: int) -> None:
    """Segments of one link each, few capacities: the same partition of flows and the same number of link classes."""
    rng = np.random.default_rng(seed)
    seg = np.sort(rng.integers(0, links, (20, columns)).astype(np.int32), axis=1)
    seg[:, 1:][seg[:, 1:] == seg[:, :-1]] = -1
    problem = Problem(
        seg=np.ascontiguousarray(seg),
        mult=NONE,
        ptr=np.arange(links + 1, dtype=np.int64),
        link=np.arange(links, dtype=np.int32),
        weight=np.ones(links),
        cap=rng.choice([1.0, 2.0], links),
    )
    colour = rng.choice([1.0, 2.0], 20) if seed % 2 else np.zeros(20)
    flow_colour, link_colour = colour.view(np.uint64).copy(), problem.cap.view(np.uint64).copy()
    incidence_codes = kernels_colour.Incidence(
        problem.seg, np.zeros((0, 0), np.uint64), problem.ptr, problem.link, np.ones(links, np.uint64)
    )
    kernels_colour.refine(incidence_codes, flow_colour, link_colour)
    flows, link_classes = reference.refine(incidence(problem), problem.cap, colour)
    mine = kernels_colour.label(flow_colour)[0]
    assert (
        len({*zip(mine.tolist(), flows.tolist(), strict=True)})
        == len(set(flows.tolist()))
        == len(set(mine.tolist()))
    )
    assert len(kernels_colour.label(link_colour)[1]) == len(set(link_classes.tolist()))


@pytest.mark.parametrize(
    "fail", ["", "l2=1", "link=1", "module=1", "die-l1=2", "package@0,9", "l1@3", "links=5", "link=1:0.5"]
)
def test_classes_by_arithmetic_equal_the_full_solve(fail: str) -> None:
    """On four nodes with seven planes: every pair listed, classes collapsed, classes refined."""
    topology = load_topology("cloudmatrix384", 64)
    if fail:
        topology = break_parts(topology, [parse_failure(fail)], seed=5)
    policy = Policy(name="resplit")
    src, dst = traffic.all_pairs(np.arange(64)[None, :])
    routing = topology.route(src, dst, policy)
    full = solve.max_min_rates(solve.make_problem(topology, routing))
    few = symmetry.collapse_all_to_all(topology)
    assert few is not None
    assert few.pairs.sum() == len(src)
    small, mult = few.route(topology, policy)
    problem = solve.make_problem(topology, small, mult)
    quotient = symmetry.refine(problem)
    rate = solve.max_min_rates(quotient.problem)[quotient.flow_class]
    np.testing.assert_allclose(np.sort(np.repeat(rate, few.pairs.astype(int))), np.sort(full), rtol=1e-9)
    one = np.ones(len(src))
    assert solve.bottleneck(topology, small, np.ones(len(rate)), mult)[0] == pytest.approx(
        solve.bottleneck(topology, routing, one)[0], rel=1e-9
    )


def test_whole_machine_classes_equal_the_full_solve() -> None:
    topology = load_topology("cloudmatrix384")
    src, dst = traffic.all_pairs(np.arange(768)[None, :])
    routing = topology.route(src, dst)
    problem = solve.make_problem(topology, routing)
    rate = solve.max_min_rates(problem)
    quotient = symmetry.refine(problem)
    assert len(quotient.problem.seg) == 3  # in the package, in the node, across nodes
    np.testing.assert_allclose(solve.max_min_rates(quotient.problem)[quotient.flow_class], rate, rtol=1e-12)
    assert rate.min() * 766 == pytest.approx(196e9)
    result = traffic.uniform_all_to_all(topology, 768e6)
    assert result.seconds == pytest.approx(766e6 / 196e9, rel=1e-12)
    assert result.bytes_per_s_per_device == pytest.approx(196e9 * 767 / 766, rel=1e-12)


def test_hashed_paths_have_no_symmetry_and_say_so() -> None:
    topology = load_topology("dgx-h200", 512)
    src = np.arange(512)
    routing = topology.route(src, (src + 256) % 512, Policy(name="ecmp", seed=1))
    problem = solve.make_problem(topology, routing)
    np.testing.assert_allclose(
        solve.max_min_rates(problem), reference.waterfill(incidence(problem), problem.cap), rtol=1e-9
    )


def test_merging_and_dropping_links_changes_nothing() -> None:
    topology = load_topology("cloudmatrix384", 48)
    flows = traffic.skewed_all_to_all(np.arange(48), 1e6, concentration=5.0, seed=2)
    routing = topology.route(flows.src, flows.dst)
    raw = Problem(
        seg=routing.seg,
        mult=NONE,
        ptr=routing.ptr,
        link=routing.link,
        weight=routing.weight,
        cap=topology.capacity,
    )
    merged = solve.make_problem(topology, routing)
    assert len(merged.cap) < len(np.unique(routing.link)) / 5
    slim = solve.drop_slack(merged)
    assert slim.seg.shape[1] < merged.seg.shape[1]
    expected, _ = solve.completion_times(raw, flows.num_bytes)
    for problem in (merged, slim):
        np.testing.assert_allclose(solve.completion_times(problem, flows.num_bytes)[0], expected, rtol=1e-8)


@pytest.mark.parametrize("endpoints", [16, 64, 128])
def test_simgrid_golden_figures(endpoints: int) -> None:
    """The passport of the figures stands in the file beside this one."""
    flows = traffic.skewed_all_to_all(
        np.arange(endpoints), GOLDEN["mean_bytes"], concentration=GOLDEN["concentration"], seed=GOLDEN["seed"]
    )
    topology = load_topology("cloudmatrix384")
    routing = topology.route(flows.src, flows.dst)
    problem = solve.drop_slack(solve.make_problem(topology, routing))
    start = np.full(len(flows), GOLDEN["latency_s"])
    finish, _ = solve.completion_times(problem, flows.num_bytes, start)
    golden = GOLDEN["cases"][str(endpoints)]
    assert finish.max() == pytest.approx(golden["makespan_s"], rel=1e-9)
    if "finish_s" in golden:  # SimGrid rounds the end of a transfer to a nanosecond or so
        np.testing.assert_allclose(finish, golden["finish_s"], rtol=5e-5)
    bound, _ = solve.bottleneck(topology, routing, flows.num_bytes)
    assert finish.max() == pytest.approx(bound + GOLDEN["latency_s"], rel=1e-9)
    quick, solves = solve.completion_times(problem, flows.num_bytes, start, tolerance=1e-3)
    assert solves < len(flows)
    assert 0.99 * finish.max() < quick.max() <= finish.max() * (1 + 1e-9)


def test_jobs_that_share_links_slow_each_other() -> None:
    from fullmesh.network.evaluate import share_fabric

    topology = load_topology("cloudmatrix384", 64)
    first = traffic.all_to_all(np.arange(0, 32)[None, :], 1e9)
    apart = traffic.all_to_all(np.arange(32, 64)[None, :], 1e9)
    alone = share_fabric(topology, [first, apart])
    np.testing.assert_allclose(alone.together_s, alone.alone_s, rtol=1e-9)
    mixed = share_fabric(topology, [first, first])
    np.testing.assert_allclose(mixed.together_s, 2 * mixed.alone_s, rtol=1e-3)
    late = traffic.make_flows(first.src, first.dst, first.num_bytes, 1.0)
    np.testing.assert_allclose(
        share_fabric(topology, [first, late]).together_s[0], alone.alone_s[0], rtol=1e-9
    )


def test_colour_labels_are_dense_and_exact() -> None:
    colours = np.array([7, 7, 3, 9, 3, 7], np.uint64)
    labels, first = kernels_colour.label(colours)
    assert labels.tolist() == [0, 0, 1, 2, 1, 0]
    assert first.tolist() == [0, 2, 3]
    many = np.random.default_rng(0).integers(0, 5000, 20_000).astype(np.uint64)
    labels, first = kernels_colour.label(many)
    np.testing.assert_array_equal(many[first][labels], many)
    assert len(first) == len(np.unique(many))


def test_cut_flows_are_refused() -> None:
    topology = break_parts(load_topology("cloudmatrix384", 64), [parse_failure("plane=1")])
    routing = topology.route(np.array([0]), np.array([40]))
    with pytest.raises(TopologyError, match="no path"):
        solve.bottleneck(topology, routing, np.ones(1))
