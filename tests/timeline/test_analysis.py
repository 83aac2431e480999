"""Critical path, bubbles, waits, slack, memory, stragglers and jitter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from fullmesh.errors import ScenarioError
from fullmesh.timeline.analysis import activity, critical_path
from fullmesh.timeline.costs import Lane, Operator, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import Contention, replay
from fullmesh.timeline.memory import memory_profile
from fullmesh.timeline.perturb import Jitter, Perturbation, parse_perturbation, unfold
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.schedule.unfold import DISTRIBUTIONS, _factor, joins_of
from oracles.replay import slack_s


@njit  # type: ignore[untyped-decorator]
def factor(distribution: int, cv: float, seed: int, member: int, task: int, width: int) -> float:
    """A draw as the kernels make it, callable from Python."""
    return _factor(distribution, cv, seed, member, task, width)  # type: ignore[no-any-return]


def full(schedule: str = "1f1b", p: int = 4, m: int = 8, seed: int = 0) -> PipelineCosts:
    rng = np.random.default_rng(seed)
    base = even_costs(schedule, p, m, num_virtual=2 if schedule == "interleaved" else 1, send_s=0.03)
    n = base.num_chunks
    return dataclasses.replace(
        base,
        forward_s=rng.uniform(0.8, 1.2, n),
        grad_reduce_s=rng.uniform(0, 1, n),
        grad_buckets=2,
        param_gather_s=rng.uniform(0, 1, n),
        optimizer_s=rng.uniform(0.1, 0.3, p),
        grad_norm_s=0.01,
        lanes=(Lane(name="ep", forward_s=np.full(n, 0.2), backward_s=np.full(n, 0.3)),),
        operators=(Operator(name="experts", forward_s=np.full(n, 0.3), backward_s=np.full(n, 0.6)),),
        activation_bytes=np.ones(n),
        weight_bytes=np.full(n, 0.5),
        static_bytes=np.full(p, 10.0),
        ranks_per_stage=8,
        lockstep_ranks=4,
    )


ALL = ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev"]


@pytest.mark.parametrize("schedule", ALL)
def test_critical_path_has_no_gap_and_adds_up(schedule: str) -> None:
    costs = full(schedule, m=12)
    timeline = replay(build_graph(costs))
    path = critical_path(timeline, costs)
    start, end = timeline.start_s[path.tasks], timeline.end_s[path.tasks]
    assert start[0] == 0.0
    np.testing.assert_array_equal(start[1:], end[:-1])
    assert end[-1] == timeline.step_s
    assert sum(path.seconds.values()) == pytest.approx(timeline.step_s)
    assert path.seconds["ep"] > 0
    slack = slack_s(timeline)
    np.testing.assert_allclose(slack[path.tasks], 0.0, atol=1e-9)
    assert slack.min() > -1e-9


@settings(max_examples=25, deadline=None)
@given(task=st.integers(1, 10_000), share=st.floats(0.1, 3.0), schedule=st.sampled_from(ALL))
def test_slack_is_what_a_task_can_take_without_a_longer_step(task: int, share: float, schedule: str) -> None:
    costs = full(schedule, m=12)
    graph = build_graph(costs)
    timeline = replay(graph)
    slack = slack_s(timeline)
    i = 1 + task % (len(graph) - 1)
    longer = graph.duration_s.copy()
    longer[i] += slack[i] * share
    step = replay(dataclasses.replace(graph, duration_s=longer)).step_s
    expected = timeline.step_s + max(slack[i] * (share - 1), 0.0)
    assert step == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 16)])
def test_bubble_of_an_even_pipeline_by_cause(p: int, m: int) -> None:
    costs = even_costs("1f1b", p, m)
    found = activity(replay(build_graph(costs)), costs)
    assert found.bubble_fraction == pytest.approx((p - 1) / (m + p - 1))
    causes = found.bubble_by_cause()
    assert set(causes) <= {"warm-up", "cool-down", "end of step"}
    assert sum(causes.values()) == pytest.approx((p - 1) * 3.0)
    assert found.exposed_by_kind() == {}


@pytest.mark.parametrize("schedule", ALL)
def test_time_of_every_rank_is_accounted_for(schedule: str) -> None:
    costs = full(schedule, m=12)
    timeline = replay(build_graph(costs))
    found = activity(timeline, costs)
    np.testing.assert_allclose(found.busy_s.sum(axis=1) + found.waited_s.sum(axis=(1, 2)), timeline.step_s)
    assert sum(found.bubble_by_cause().values()) == pytest.approx(found.mean(found.waited_s.sum(axis=(1, 2))))
    assert {"ep", "send", "gradient reduction"} <= set(found.exposed_by_kind())
    phases = found.phases()
    assert sum(phases.values()) == pytest.approx(timeline.step_s)


def test_phases_of_deepseek_v3() -> None:
    """Phases as published for DeepSeek-V3 on 2,048 H800, PP 16, 120 micro-batches (arXiv 2505.09343).

    Published: 1F 1.13 s, 1B 1.99, 1W 0.48, 1F1B 13.95, optimizer 0.29, bubble 2.06, step 19.926. The durations of
    passes are set so that the first five come out; bubble and step then follow from the schedule, from 61 layers on
    stages of four, and from 4,096 x 7,168 activations of two bytes over a 50 GB/s adapter.
    """
    p = 16
    layers = np.array([4.0] * 15 + [1.0])
    published = np.array([1.13, 1.99, 0.48, 13.95])
    names = ("forward", "backward", "weight", "forward and backward")
    per_layer = np.array([0.012, 0.019, 0.008, 0.036])
    phases: dict[str, float] = {}
    for _ in range(4):
        f, i, w, pair = per_layer
        costs = dataclasses.replace(
            even_costs("dualpipe", p, 120),
            forward_s=f * layers,
            backward_input_s=i * layers,
            backward_weight_s=w * layers,
            paired_forward_s=pair * layers * f / (f + i + w),
            paired_backward_s=pair * layers * (i + w) / (f + i + w),
            send_s=np.full(p - 1, 4096 * 7168 * 2 / 50e9),
            optimizer_s=np.full(p, 0.29),
        )
        timeline = replay(build_graph(costs))
        phases = activity(timeline, costs).phases()
        per_layer = per_layer * published / np.array([phases[n] for n in names])
    np.testing.assert_allclose([phases[n] for n in names], published, rtol=2e-3)
    assert phases["bubble"] == pytest.approx(2.06, rel=0.15)
    assert timeline.step_s == pytest.approx(19.926, rel=0.02)


def test_memory_in_flight_follows_the_schedules() -> None:
    def peak(schedule: str, m: int = 16) -> list[float]:
        costs = even_costs(schedule, 4, m)
        n = costs.num_chunks
        costs = dataclasses.replace(costs, activation_bytes=np.full(n, 4 / n))
        profile = memory_profile(replay(build_graph(costs)), costs)
        return profile.peak_bytes.round(9).tolist()

    assert peak("1f1b") == [4, 3, 2, 1]
    assert peak("gpipe") == [16, 16, 16, 16]
    assert peak("dualpipe") == [5, 5, 5, 5]
    assert peak("zb-v") == [4, 4, 4, 4]
    assert max(peak("zb-h1")) == 4
    assert max(peak("zb-h2")) == 7


@pytest.mark.parametrize("schedule", ALL)
def test_memory_returns_to_where_it_began(schedule: str) -> None:
    costs = dataclasses.replace(full(schedule, m=12), fsdp_gather_s=None)
    profile = memory_profile(replay(build_graph(costs)), costs)
    for row in range(4):
        time, held = profile.row(row)
        assert held[0] == 10.0
        assert held[-1] == pytest.approx(10.0)
        assert np.all(np.diff(time) >= 0)
        assert held.min() > 10.0 - 1e-9
        assert profile.peak_bytes[row] == pytest.approx(held.max())
        assert profile.peak_s[row] in time


def test_offload_frees_memory_between_the_passes() -> None:
    costs = dataclasses.replace(full("1f1b", 4, 16), offload_s=np.full(4, 0.1))
    without = dataclasses.replace(costs, offload_s=None)
    kept = memory_profile(replay(build_graph(costs)), costs).peak_bytes
    assert kept[0] < memory_profile(replay(build_graph(without)), without).peak_bytes[0]


# --- ranks that differ


@pytest.mark.parametrize("schedule", ALL)
def test_unfolding_equal_ranks_changes_nothing(schedule: str) -> None:
    costs = full(schedule, m=12)
    graph = build_graph(costs)
    unfolded = unfold(graph, costs, every_rank=True)
    unfolded.graph.check()
    assert unfolded.graph.num_ranks == 32
    timeline = replay(unfolded.graph)
    assert timeline.step_s == replay(graph).step_s
    assert replay(unfolded.graph, "event").step_s == timeline.step_s
    assert unfold(graph, costs).multiplicity.tolist() == [8]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_folded_stragglers_equal_unfolded_ones(data: st.DataObject) -> None:
    costs = full(data.draw(st.sampled_from(ALL)), m=12)
    graph = build_graph(costs)
    devices = st.dictionaries(st.integers(0, 31), st.floats(0.7, 2.0), max_size=3)
    links = data.draw(st.dictionaries(st.integers(0, 23), st.floats(1.0, 5.0), max_size=2))
    what = Perturbation(
        stragglers=data.draw(devices),
        slow_devices=data.draw(devices),
        slow_stages=data.draw(st.dictionaries(st.integers(0, 3), st.floats(0.8, 1.5), max_size=1)),
        slow_links={(d, d + 8): f for d, f in links.items()},
        expert_load=data.draw(devices),
    )
    some = unfold(graph, costs, what)
    everyone = unfold(graph, costs, what, every_rank=True)
    assert some.exact
    assert some.multiplicity.sum() == 8
    assert replay(some.graph).step_s == pytest.approx(replay(everyone.graph).step_s, rel=1e-12)


def test_a_straggler_is_the_one_that_others_wait_for() -> None:
    costs = full()
    graph = build_graph(costs)
    unfolded = unfold(graph, costs, Perturbation(stragglers={17: 1.5}))
    timeline = replay(unfolded.graph)
    assert timeline.step_s > replay(graph).step_s * 1.2
    found = activity(timeline, costs, unfolded.multiplicity)
    waited = np.bincount(found.whom, weights=found.seconds * found.weight[found.who])
    assert unfolded.device(int(waited.argmax())) == 17
    assert found.weight.sum() == 32
    pairs = found.waits(5)
    assert pairs == sorted(pairs, key=lambda x: -x[2])


def test_waits_for_peers_are_told_from_waits_for_stages() -> None:
    costs = full()
    graph = build_graph(costs)
    for what, waits in ((Perturbation(), False), (Perturbation(stragglers={17: 1.5}), True)):
        unfolded = unfold(graph, costs, what, every_rank=True)
        found = activity(replay(unfolded.graph), costs, unfolded.multiplicity)
        assert ("slower peers" in found.bubble_by_cause()) == waits


def test_a_hot_expert_slows_its_block_by_the_work_of_experts_alone() -> None:
    base = even_costs("1f1b", 1, 10)
    costs = dataclasses.replace(
        base,
        operators=(Operator(name="experts", forward_s=[0.4], backward_s=[0.8]),),  # type: ignore[arg-type]
        ranks_per_stage=8,
        lockstep_ranks=8,
    )
    graph = build_graph(costs)
    step = replay(unfold(graph, costs, Perturbation(expert_load={3: 1.5})).graph).step_s
    assert step == pytest.approx(10 * (3.0 + 0.5 * 1.2))


def test_slower_never_means_faster() -> None:
    costs = full("interleaved", m=12)
    graph = build_graph(costs)
    steps = [
        replay(unfold(graph, costs, Perturbation(stragglers={5: f})).graph).step_s
        for f in (1.0, 1.1, 1.3, 2.0)
    ]
    assert steps == sorted(steps)
    slow_link = Perturbation(slow_links={(3, 11): 40.0})
    assert replay(unfold(graph, costs, slow_link).graph).step_s > steps[0]
    slow_stage = Perturbation(slow_stages={2: 1.2})
    assert replay(unfold(graph, costs, slow_stage).graph).step_s > steps[0]


def test_jitter_depends_on_the_seed_alone() -> None:
    costs = full()
    graph = build_graph(costs)

    def step(seed: int, cv: float = 0.05) -> float:
        what = Perturbation(jitter=Jitter(cv=cv, seed=seed))
        return replay(unfold(graph, costs, what).graph).step_s

    assert step(1) == step(1)
    assert step(1) != step(2)
    assert step(1, cv=0.0) == pytest.approx(replay(graph).step_s)
    assert replay(graph).step_s < step(1) < step(1, cv=0.2)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_random_factors_have_the_moments_they_should(name: str) -> None:
    code = DISTRIBUTIONS.index(name)
    drawn = np.array([factor(code, 0.1, 7, i % 100, i, 1) for i in range(20_000)])
    assert drawn.mean() == pytest.approx(1.0, abs=0.005)
    assert drawn.std() == pytest.approx(0.1, rel=0.05)
    assert drawn.min() > 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_largest_of_many_factors_is_drawn_as_one(name: str) -> None:
    code = DISTRIBUTIONS.index(name)
    width = 64
    direct = [max(factor(code, 0.1, 3, w, i, 1) for w in range(width)) for i in range(2000)]
    drawn = [factor(code, 0.1, 5, 0, i, width) for i in range(2000)]
    assert np.mean(drawn) == pytest.approx(np.mean(direct), rel=0.01)
    assert np.std(drawn) == pytest.approx(np.std(direct), rel=0.1)


def test_jitter_drawn_by_block_is_said_to_be_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = full()
    graph = build_graph(costs)
    what = Perturbation(jitter=Jitter(cv=0.05, seed=3))
    exact = unfold(graph, costs, what)
    monkeypatch.setattr("fullmesh.timeline.perturb.MOST_TASKS", 10)
    bound = unfold(graph, costs, what)
    assert exact.exact
    assert not bound.exact
    assert bound.graph.num_ranks == 8
    assert replay(bound.graph).step_s == pytest.approx(replay(exact.graph).step_s, rel=0.02)


def test_contention_on_unfolded_ranks() -> None:
    costs = full()
    graph = build_graph(costs)
    slow = Contention(compute={"reduce": 1.2, "send forward": 1.1}, communication={"reduce": 1.3})
    folded = replay(graph, contention=slow)
    everyone = replay(unfold(graph, costs, every_rank=True).graph, contention=slow)
    assert everyone.step_s == pytest.approx(folded.step_s, rel=1e-9)
    path = critical_path(folded, costs)
    assert sum(path.seconds.values()) == pytest.approx(folded.step_s)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 9, 64, 128])
def test_joins_bring_all_together(size: int) -> None:
    levels = np.ceil(np.log(size) / np.log(3)) if size > 1 else 0
    assert (size - 1) / 2 <= joins_of(size) <= (size - 1) / 2 + levels


def test_perturbations_are_read() -> None:
    found = parse_perturbation(
        ("rank=17:1.2", "stage=3:1.1", "link=4:2", "link=4-12:3", "expert=5:1.5"), "normal:0.05:7"
    )
    assert found.stragglers == {17: 1.2}
    assert found.slow_stages == {3: 1.1}
    assert found.slow_devices == {4: 2.0}
    assert found.slow_links == {(4, 12): 3.0}
    assert found.expert_load == {5: 1.5}
    assert found.jitter == Jitter(distribution="normal", cv=0.05, seed=7)
    assert parse_perturbation((), "0.1").jitter == Jitter(cv=0.1)


@pytest.mark.parametrize(
    ("stragglers", "jitter"),
    [
        (("rank=17",), ""), (("rank=a:2",), ""), (("node=1:2",), ""), (("rank=1-2:2",), ""),
        ((), "much"), ((), "cauchy:0.1"), ((), "1.5"),
    ],
)  # fmt: skip
def test_unreadable_perturbations_are_refused(stragglers: tuple[str, ...], jitter: str) -> None:
    with pytest.raises(ScenarioError):
        parse_perturbation(stragglers, jitter)


@pytest.mark.parametrize(
    "what",
    [
        Perturbation(stragglers={32: 1.1}),
        Perturbation(slow_stages={4: 1.1}),
        Perturbation(slow_links={(0, 9): 2.0}),
        Perturbation(slow_links={(0, 16): 2.0}),
        Perturbation(stragglers={1: 0.0}),
    ],
)
def test_perturbations_of_nobody_are_refused(what: Perturbation) -> None:
    costs = full()
    with pytest.raises(ScenarioError):
        unfold(build_graph(costs), costs, what)
