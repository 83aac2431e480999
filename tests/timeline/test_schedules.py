"""Schedules: published bubble formulas come out of the replay exactly; tables are checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import PlanError, ScenarioError
from fullmesh.timeline.costs import Lane, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import Timeline, replay
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.schedules import build_graph, parse_table


def run(costs: PipelineCosts) -> Timeline:
    graph = build_graph(costs)
    graph.check()
    return replay(graph)


def spans(timeline: Timeline) -> np.ndarray:
    """First start to last end of the passes of every rank."""
    graph = timeline.graph
    work = graph.kind <= b.K_RECOMPUTE
    return np.array(
        [
            timeline.end_s[work & (graph.rank == r)].max() - timeline.start_s[work & (graph.rank == r)].min()
            for r in range(graph.num_ranks)
        ]
    )


@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 2), (4, 8), (8, 9), (16, 64)])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_plain_schedules_take_the_textbook_time(schedule: str, p: int, m: int) -> None:
    f, bw = 1.0, 2.25
    step = run(even_costs(schedule, p, m, forward_s=f, backward_input_s=1.0, backward_weight_s=1.25)).step_s
    assert step == (m + p - 1) * (f + bw)


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 4), (4, 2, 8), (4, 4, 12), (8, 8, 16), (16, 2, 64)])
def test_virtual_stages_divide_the_bubble(p: int, v: int, m: int) -> None:
    step = run(even_costs("interleaved", p, m, num_virtual=v, forward_s=2.0, backward_input_s=2.0)).step_s
    assert step == pytest.approx((m + (p - 1) / v) * 5.0, rel=1e-12)


def test_pangu_ultra_bubble_with_and_without_virtual_stages() -> None:
    # TP 8 x PP 8 x DP 128 and a batch of 2,048: 16 micro-batches on 8 stages.
    # Published: 30.45 % and, with 6 chunks a rank, 6.8 % (arXiv 2504.07866).
    micro_batches = 2048 // 128
    plain = run(even_costs("1f1b", 8, micro_batches)).step_s
    virtual = run(even_costs("interleaved", 8, micro_batches, num_virtual=6)).step_s
    work = micro_batches * 3.0
    assert 1 - work / plain == pytest.approx(7 / 23)
    assert 1 - work / plain == pytest.approx(0.3045, abs=3e-4)
    assert 1 - work / virtual == pytest.approx(7 / 103)
    assert 1 - work / virtual == pytest.approx(0.068, abs=5e-5)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 12), (8, 24)])
def test_zero_bubble_spans(p: int, m: int) -> None:
    # Equal F, B, W, the assumption of the paper: bubbles (P-1)(F+B-W), (P-1)(F+B-2W) and none.
    work = 3.0 * m
    assert spans(run(even_costs("zb-h1", p, m))).max() == work + (p - 1)
    assert spans(run(even_costs("zb-h2", p, m))).max() == work
    assert spans(run(even_costs("zb-v", p, m))).max() == work


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 12), (8, 20), (16, 120)])
def test_dualpipe_bubble(p: int, m: int) -> None:
    # (P/2 - 1)(F&B + B - 3W), with F&B = F + B when nothing is communicated
    step = run(even_costs("dualpipe", p, m)).step_s
    assert step == 3.0 * m + (p / 2 - 1) * (3.0 + 2.0 - 3.0)


@pytest.mark.parametrize(("p", "m"), [(1, 2), (2, 4), (4, 12), (8, 20)])
def test_dualpipe_v_bubble(p: int, m: int) -> None:
    step = run(even_costs("dualpipev", p, m)).step_s
    assert step == 3.0 * m + (p - 1) * (1.5 + 1.0 - 1.5)


def test_overlapped_pairs_hide_expert_traffic() -> None:
    ep = Lane(name="ep", forward_s=np.full(8, 0.5), backward_s=np.full(8, 0.5))
    costs = dataclasses.replace(even_costs("dualpipe", 8, 40), lanes=(ep,))
    # in a pair: 0.5 + 1.5 of computation beside 1.0 of traffic
    step = run(costs).step_s
    alone = run(even_costs("dualpipe", 8, 40)).step_s
    assert step < alone - 25
    graph = build_graph(costs)
    pairs = int((graph.kind == b.K_PAIRED_FORWARD).sum())
    assert pairs == int((graph.kind == b.K_EP).sum()) > 8 * 20


SCHEDULES = ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_pass_runs_once_and_after_what_it_needs(data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from(SCHEDULES))
    p = data.draw(st.integers(1, 6)) * (2 if schedule == "dualpipe" else 1)
    v = data.draw(st.integers(1, 4)) if schedule == "interleaved" else 1
    least = 2 * p if schedule.startswith("dualpipe") else 1
    m = data.draw(st.integers(least, least + 20))
    m += m % 2 if schedule == "dualpipe" else 0
    base = even_costs(schedule, p, m, num_virtual=v, send_s=data.draw(st.sampled_from([0.0, 0.01])))
    n = base.num_chunks
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    costs = dataclasses.replace(
        base,
        forward_s=rng.uniform(0.1, 1, n),
        backward_input_s=rng.uniform(0.1, 1, n),
        backward_weight_s=rng.uniform(0.1, 1, n),
        recompute_s=rng.uniform(0, 1, n) if data.draw(st.booleans()) else None,
        grad_reduce_s=rng.uniform(0, 1, n) if data.draw(st.booleans()) else None,
        grad_buckets=data.draw(st.integers(1, 3)),
        fsdp_gather_s=rng.uniform(0, 0.1, n) if data.draw(st.booleans()) else None,
        fsdp_scatter_s=rng.uniform(0, 0.1, n) if data.draw(st.booleans()) else None,
        fsdp_blocks=data.draw(st.integers(1, 3)),
        offload_s=rng.uniform(0, 0.3, n) if data.draw(st.booleans()) else None,
        p2p_overlap=data.draw(st.booleans()),
        optimizer_s=rng.uniform(0, 0.3, p),
        lanes=(
            Lane(
                name="tp",
                forward_s=np.zeros(n),
                backward_s=np.zeros(n),
                hidden_forward_s=rng.uniform(0, 1, n),
            ),
        ),
    )
    timeline = run(costs)
    graph = timeline.graph
    forward, inputs, weights = (np.zeros((n, m)) for _ in range(3))
    end_f, end_b, start_f, start_b = (np.zeros((n, m)) for _ in range(4))
    start_f[:], start_b[:] = np.inf, np.inf
    for i in range(1, len(graph)):
        k, c, mb = int(graph.kind[i]), int(graph.chunk[i]), int(graph.microbatch[i])
        if k in (b.K_FORWARD, b.K_PAIRED_FORWARD):
            forward[c, mb] += graph.duration_s[i]
            start_f[c, mb] = min(start_f[c, mb], timeline.start_s[i])
            end_f[c, mb] = timeline.end_s[i]
        elif k in (b.K_BACKWARD, b.K_PAIRED_BACKWARD, b.K_INPUT):
            inputs[c, mb] += graph.duration_s[i]
            start_b[c, mb] = min(start_b[c, mb], timeline.start_s[i])
            end_b[c, mb] = timeline.end_s[i]
        elif k in (b.K_WEIGHT, b.K_RECOMPUTE):
            weights[c, mb] += graph.duration_s[i]
            if k == b.K_RECOMPUTE:
                start_b[c, mb] = min(start_b[c, mb], timeline.start_s[i])
    total = costs.forward_s + costs.backward_s + costs.column("recompute_s")
    np.testing.assert_allclose(forward + inputs + weights, np.tile(total[:, None], m), rtol=1e-9)
    assert np.all(start_f[1:] >= end_f[:-1] - 1e-12)
    assert np.all(start_b[:-1] >= end_b[1:] - 1e-12)
    assert np.all(start_b[-1] >= end_f[-1] - 1e-12)
    # never shorter than what the busiest rank has to do, nor than one micro-batch there and back
    busy = np.bincount(graph.rank[graph.stream == 0], graph.duration_s[graph.stream == 0], minlength=p)
    assert timeline.step_s >= busy.max() - 1e-9


def test_buckets_hide_behind_the_last_backward_pass() -> None:
    base = even_costs("1f1b", 2, 4, backward_input_s=2.0, backward_weight_s=2.0)
    reduce = np.full(2, 2.0)
    late = dataclasses.replace(base, grad_reduce_s=reduce, grad_overlap=False)
    one = dataclasses.replace(base, grad_reduce_s=reduce)
    four = dataclasses.replace(base, grad_reduce_s=reduce, grad_buckets=4)
    plain = run(base).step_s
    assert run(late).step_s == plain + 2.0
    assert run(one).step_s == plain + 2.0
    assert run(four).step_s == plain + 0.5


def test_parameters_are_gathered_before_the_first_pass_or_after_the_optimizer() -> None:
    base = dataclasses.replace(
        even_costs("1f1b", 4, 8), param_gather_s=np.full(4, 0.75), optimizer_s=np.full(4, 0.5)
    )
    plain = run(even_costs("1f1b", 4, 8)).step_s
    assert run(base).step_s == plain + 0.5 + 0.75  # the first stage waits, the others hide behind the warm-up
    assert run(dataclasses.replace(base, param_overlap=False)).step_s == plain + 0.5 + 0.75


def test_sharded_parameters_hide_behind_computation_until_they_do_not() -> None:
    base = even_costs("1f1b", 1, 4, forward_s=4.0, backward_input_s=8.0, backward_weight_s=0.0)
    fsdp = dataclasses.replace(
        base, fsdp_gather_s=np.array([2.0]), fsdp_scatter_s=np.array([2.0]), fsdp_blocks=4
    )
    # only the first unit's gather and the last unit's scatter show
    assert run(fsdp).step_s == run(base).step_s + 0.5 + 0.5
    slow = dataclasses.replace(fsdp, fsdp_gather_s=np.array([8.0]))
    assert run(slow).step_s > run(fsdp).step_s + 4 * (8.0 - 4.0) - 4


def test_sends_on_the_compute_stream_hold_up_the_sender() -> None:
    base = even_costs("1f1b", 4, 16, send_s=0.05)
    assert (
        run(dataclasses.replace(base, p2p_overlap=False)).step_s
        > run(base).step_s
        > run(even_costs("1f1b", 4, 16)).step_s
    )


def test_a_table_reproduces_the_schedule_it_spells_out() -> None:
    table = parse_table("F0 F1 B0 F2 B1 B2  # first rank\nF0 B0 F1 B1 F2 B2\n")
    costs = dataclasses.replace(even_costs("1f1b", 2, 3), schedule="table", table=table)
    assert run(costs).step_s == run(even_costs("1f1b", 2, 3)).step_s


def test_a_table_with_halves_and_pairs() -> None:
    table = parse_table("F0 F1&B0 I1 W1")
    costs = dataclasses.replace(even_costs("1f1b", 1, 2), schedule="table", table=table)
    assert run(costs).step_s == 6.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F0 X1\nF0 B0", "line 1, operation 2"),
        ("", "empty"),
        ("F0 B0 F1\nF0 B0 F1 B1", "occurs 0 times"),
        ("F0 B0 F1 B1 B1\nF0 B0 F1 B1", "occurs 2 times"),
        ("F0 B0 F1 B1\nF0 B0 F7 B1", "micro-batch 7"),
        ("F0 B0 F1 B1", "1 ranks"),
        ("F0 B0 F1 B1\nF1 F0 B1 B0", "can never start"),
    ],
)
def test_bad_tables_are_refused(text: str, message: str) -> None:
    with pytest.raises((ScenarioError, PlanError), match=message):
        build_graph(dataclasses.replace(even_costs("1f1b", 2, 2), schedule="table", table=parse_table(text)))


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "1f2b"},
        {"num_microbatches": 0},
        {"forward_s": np.ones(3)},
        {"forward_s": -np.ones(4)},
        {"forward_s": np.full(4, np.nan)},
        {"forward_s": ["much", 1, 1, 1]},
        {"send_s": 0.1},
        {"schedule": "gpipe", "num_virtual": 2},
        {"schedule": "dualpipe", "num_microbatches": 4},
        {"ranks_per_stage": 12, "lockstep_ranks": 8},
        {"lanes": (Lane(name="ep", forward_s=np.full(4, 2.0), backward_s=np.zeros(4)),)},
        {"lanes": (Lane(name="xp", forward_s=np.zeros(4), backward_s=np.zeros(4)),)},
    ],
)
def test_impossible_costs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        dataclasses.replace(even_costs("1f1b", 4, 8), **change)
