"""Closed forms against replay: exact where stages are even, within 2 % on random plans or with the cause named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import PlanError
from fullmesh.timeline.costs import Lane, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import replay
from fullmesh.timeline.schedule.closed_form import Passes, pipeline_s
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.step_form import closed_form_step_s, passes_of, why_different
from oracles.bubbles import bubble_fraction

SCHEDULES = ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev"]


def step(costs: PipelineCosts) -> float:
    return replay(build_graph(costs)).step_s


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 12), (8, 32), (16, 64)])
def test_even_plans_are_exact(schedule: str, p: int, m: int) -> None:
    costs = even_costs(schedule, p, m, num_virtual=3 if schedule == "interleaved" else 1)
    assert closed_form_step_s(costs) == pytest.approx(step(costs), rel=1e-9)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe", "dualpipev"])
@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 16), (8, 64)])
def test_published_bubbles_are_those_of_the_replay(schedule: str, p: int, m: int) -> None:
    v = 4 if schedule == "interleaved" else 1
    costs = even_costs(schedule, p, m, num_virtual=v)
    idle = 1 - 3.0 * m / step(costs)
    assert float(bubble_fraction(schedule, p, m, num_virtual=v)) == pytest.approx(idle, rel=1e-9)


def test_bubbles_of_many_plans_at_once() -> None:
    p, m = np.array([4, 8, 16]), np.array([16, 16, 128])
    out = bubble_fraction("1f1b", p, m)
    np.testing.assert_allclose(out, (p - 1) / (m + p - 1))
    assert float(bubble_fraction("zb-h2", 8, 32)) == 0.0
    # 30.45 % and 6.8 % as published for Pangu Ultra
    assert float(bubble_fraction("1f1b", 8, 16)) == pytest.approx(0.3045, abs=3e-4)
    assert float(bubble_fraction("interleaved", 8, 16, num_virtual=6)) == pytest.approx(0.068, abs=5e-5)


def draw_plan(data: st.DataObject, *, whole_step: bool) -> PipelineCosts:
    """A feasible plan with as many micro-batches as its schedule is made for."""
    schedule = data.draw(st.sampled_from(SCHEDULES))
    p = data.draw(st.sampled_from([2, 4, 8, 16]))
    v = data.draw(st.sampled_from([2, 3, 4, 6])) if schedule == "interleaved" else 1
    least = 2 if schedule in ("zb-h2", "zb-v", "dualpipe", "dualpipev") else 1
    m = p * data.draw(st.integers(least, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    base = even_costs(schedule, p, m, num_virtual=v)
    n = base.num_chunks
    uneven = data.draw(st.sampled_from([0.0, 0.03, 0.08]))
    forward = 1 + rng.uniform(-uneven, uneven, n)
    forward[-1] *= 1 + uneven  # the head
    costs = dataclasses.replace(
        base,
        forward_s=forward,
        backward_input_s=forward * rng.uniform(0.9, 1.2),
        backward_weight_s=forward * rng.uniform(0.6, 1.0),
        send_s=np.full(n - 1, data.draw(st.sampled_from([0.0, 0.01, 0.02]))),
        recompute_s=forward * data.draw(st.sampled_from([0.0, 0.3])),
        p2p_overlap=data.draw(st.booleans()),
    )
    if not whole_step:
        return costs
    return dataclasses.replace(
        costs,
        grad_reduce_s=rng.uniform(0, 2, n),
        grad_buckets=data.draw(st.integers(1, 4)),
        grad_overlap=data.draw(st.booleans()),
        param_gather_s=rng.uniform(0, 1, n),
        param_overlap=data.draw(st.booleans()),
        optimizer_s=rng.uniform(0, 1, p),
    )


@pytest.mark.parametrize("whole_step", [False, True])
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_closed_form_and_replay_agree_or_say_why(data: st.DataObject, whole_step: bool) -> None:
    costs = draw_plan(data, whole_step=whole_step)
    relative = closed_form_step_s(costs) / step(costs) - 1
    if abs(relative) > 0.02:
        found, causes = why_different(costs)
        assert found == pytest.approx(relative)
        assert causes
        assert sum(share for _, share in causes) > 0.3 * abs(relative)
        assert abs(relative) < 0.12


def test_most_random_plans_agree_within_two_percent() -> None:
    rng = np.random.default_rng(7)
    errors: dict[str, list[float]] = {s: [] for s in SCHEDULES}
    for schedule in SCHEDULES:
        for _ in range(40):
            p = int(rng.choice([2, 4, 8]))
            m = p * int(rng.integers(2, 9))
            base = even_costs(
                schedule, p, m, num_virtual=int(rng.integers(2, 5)) if schedule == "interleaved" else 1
            )
            n = base.num_chunks
            forward = 1 + rng.uniform(-0.05, 0.05, n)
            costs = dataclasses.replace(
                base,
                forward_s=forward,
                backward_input_s=forward * rng.uniform(0.9, 1.2),
                backward_weight_s=forward * rng.uniform(0.6, 1.0),
                send_s=np.full(n - 1, rng.choice([0.0, 0.01, 0.02])),
            )
            errors[schedule].append(abs(closed_form_step_s(costs) / step(costs) - 1))
    for schedule, found in errors.items():
        assert np.quantile(found, 0.9) < 0.02, schedule
    assert max(max(errors[s]) for s in ("gpipe", "1f1b", "zb-h1")) < 0.01


@pytest.mark.parametrize("feature", ["sharded", "beside", "exposed", "offloaded"])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_features_keep_the_two_together(schedule: str, feature: str) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(25):
        p = int(rng.choice([1, 2, 4, 8]))
        base = even_costs(
            schedule, p, p * int(rng.integers(2, 9)), num_virtual=2 if schedule == "interleaved" else 1
        )
        f = rng.uniform(0.97, 1.03, base.num_chunks)
        lane = {"forward_s": 0 * f, "backward_s": 0 * f}
        changes: dict[str, dict[str, object]] = {
            "sharded": {
                "fsdp_gather_s": 0.6 * f,
                "fsdp_scatter_s": 0.6 * f,
                "fsdp_blocks": int(rng.integers(1, 6)),
            },
            "beside": {
                "lanes": (Lane(name="tp", **lane, hidden_forward_s=1.2 * f, hidden_backward_s=1.5 * f),)
            },
            "exposed": {"lanes": (Lane(name="ep", forward_s=0.3 * f, backward_s=0.5 * f),)},
            "offloaded": {"offload_s": 0.6 * f},
        }
        costs = dataclasses.replace(
            base,
            **(
                {"forward_s": f, "backward_input_s": 1.1 * f, "backward_weight_s": 0.9 * f} | changes[feature]
            ),  # type: ignore[arg-type]
        )
        found.append(abs(closed_form_step_s(costs) / step(costs) - 1))
    assert np.quantile(found, 0.9) < 0.02


def test_reasons_name_what_was_put_in() -> None:
    costs = even_costs("interleaved", 8, 16, num_virtual=4)
    assert why_different(costs) == (pytest.approx(0.0, abs=1e-9), [])
    rng = np.random.default_rng(3)
    uneven = dataclasses.replace(costs, forward_s=costs.forward_s * rng.uniform(0.5, 1.5, costs.num_chunks))
    relative, causes = why_different(uneven)
    assert abs(relative) > 0.01
    assert causes[0][0] == "stages or chunks of unequal length"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_plans_equal_single_ones(schedule: str) -> None:
    rng = np.random.default_rng(1)
    plans = []
    for m in (16, 24, 32):
        base = even_costs(schedule, 4, m, num_virtual=2 if schedule == "interleaved" else 1)
        plans.append(dataclasses.replace(base, forward_s=rng.uniform(0.9, 1.1, base.num_chunks)))
    rows = [passes_of(c) for c in plans]
    joined = Passes(
        **{f.name: np.concatenate([getattr(r, f.name) for r in rows]) for f in dataclasses.fields(Passes)}
    )
    together = pipeline_s(schedule, plans[0].num_virtual, joined)
    for i, row in enumerate(rows):
        assert together[i] == pytest.approx(pipeline_s(schedule, plans[0].num_virtual, row)[0], rel=1e-12)


def test_a_table_has_no_closed_form() -> None:
    with pytest.raises(PlanError, match="no closed form"):
        pipeline_s("table", 1, passes_of(even_costs("1f1b", 2, 2)))
    with pytest.raises(PlanError, match="no formula"):
        bubble_fraction("table", 2, 2)
