"""A plan's costs as the timeline takes them: sums, schedules, and the replay against the closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from fullmesh.evidence.mapping import row_case
from fullmesh.evidence.results import read_results
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, Evaluation, estimate, evaluate
from fullmesh.plan import Plan, Plans
from fullmesh.plan.software import software_of
from fullmesh.replays.chunks import pipeline_costs, timeline_schedule
from fullmesh.replays.links import sends_on_links
from fullmesh.replays.replayed import Replayed, changes_between, replay_plan
from fullmesh.search.space import Question, every_plan
from fullmesh.timeline.perturb import parse_perturbation
from fullmesh.timeline.simulate import simulate
from fullmesh.validate.score import score
from fullmesh.workload.readers.huggingface import load_model

LLAMA = load_model("llama-3-8b")
H200 = load_machine("h200", num_devices=16)
PLAN = Plan(tp=2, pp=4, vpp=2, dp=2, mbs=1, gbs=32, seq=8192, recompute="full", stack=software_of(H200).stack)


def priced(plan: Plan) -> Estimate:
    found = estimate(LLAMA, H200, plan)
    assert isinstance(found, Estimate)
    return found


def replayed(plan: Plan, **options: object) -> Replayed:
    found = replay_plan(priced(plan), **options)  # type: ignore[arg-type]
    assert found.simulation is not None
    return found


def sample(num: int) -> Iterator[Estimate]:
    """Plans that fit, drawn from the search's own space; most with a pipeline."""
    rng = np.random.default_rng(20260)
    for name, on, devices, gbs, seq in (
        ("llama-3-70b", "h200", 256, 512, 8192),
        ("deepseek-v3", "cloudmatrix384", 768, 9216, 4096),
        ("qwen3-30b-a3b", "h200", 64, 512, 4096),
        ("mixtral-8x7b", "gb200-nvl72", 64, 512, 4096),
    ):
        model, machine = load_model(name), load_machine(on, num_devices=devices)
        question = Question(
            model=model, machine=machine, gbs=gbs, seq=seq, precision="bf16", num_devices=(devices,),
            software=software_of(machine),
        )  # fmt: skip
        plans = every_plan(question)
        some = plans.take(rng.permutation(len(plans))[:200])
        priced_plans: Evaluation = evaluate(model, machine, some)
        fits = np.flatnonzero(priced_plans.fits)
        weight = np.where(some.pp[fits] > 1, 4.0, 1.0)
        for i in rng.choice(fits, min(num, len(fits)), replace=False, p=weight / weight.sum()):
            found = estimate(model, machine, some.plan(int(i)))
            assert isinstance(found, Estimate)
            yield found


@pytest.fixture(scope="module")
def drawn() -> list[Replayed]:
    return [replay_plan(e) for e in sample(10)]


def test_closed_form_and_replay_agree(drawn: list[Replayed]) -> None:
    assert len(drawn) >= 30
    off = np.abs([r.difference for r in drawn])
    assert np.median(off) < 0.005
    assert np.mean(off < 0.03) >= 0.8
    assert off.max() < 0.10


def test_plans_of_equal_chunks_agree_within_two_per_cent(drawn: list[Replayed]) -> None:
    even = [r for r in drawn if r.estimate.model.num_layers % (r.estimate.plan.pp * r.estimate.plan.vpp) == 0]
    assert len(even) >= 12
    assert max(abs(r.difference) for r in even) < 0.02


def test_a_difference_has_a_named_reason(drawn: list[Replayed]) -> None:
    for r in drawn:
        if abs(r.difference) > 0.02:
            assert r.causes, r.estimate.plan
            assert abs(r.causes[0].share) > 0.25 * abs(r.difference)


def test_memory_peaks_near_the_ledger(drawn: list[Replayed]) -> None:
    ratio = []
    for r in drawn:
        assert r.simulation is not None
        ratio.append(float(r.simulation.memory.peak_bytes.max()) / r.estimate.memory_bytes)
    assert np.all(np.abs(np.array(ratio) - 1.0) < 0.15)
    assert np.median(np.abs(np.array(ratio) - 1.0)) < 0.02


def test_passes_add_up_to_the_stages_of_the_estimate() -> None:
    costs = pipeline_costs(LLAMA, H200, PLAN)
    e = priced(PLAN)
    # every duration carries what stragglers multiply the whole step by
    factor = e.step_s / (e.step_s - e.parts_s["straggler_s"])
    held_up = next(op for op in costs.operators if op.name == "send and receive")
    for stage in e.stages:
        # no stage is busy for longer than the step
        assert PLAN.num_microbatches * (stage.forward_s + stage.backward_s) < e.step_s
        mine = [stage.index, stage.index + PLAN.pp]
        forward = (costs.forward_s - held_up.forward_s)[mine].sum()
        again = costs.column("recompute_s")
        backward = (costs.backward_s + again - held_up.backward_s)[mine].sum()
        assert forward == pytest.approx(factor * stage.forward_s)
        assert backward == pytest.approx(factor * stage.backward_s)
    assert np.all(costs.column("recompute_s") > 0)


@pytest.mark.parametrize(
    ("changes", "schedule"),
    [
        ({}, ("interleaved", 2)),
        ({"vpp": 1}, ("1f1b", 1)),
        ({"vpp": 1, "schedule": "gpipe"}, ("gpipe", 1)),
        ({"schedule": "gpipe"}, ("gpipe", 1)),
        ({"vpp": 1, "schedule": "zero-bubble"}, ("zb-h1", 1)),
        ({"schedule": "zero-bubble"}, ("zb-v", 2)),
        ({"vpp": 1, "schedule": "dualpipe"}, ("dualpipe", 1)),
        ({"vpp": 1, "pp": 1, "dp": 8, "zero": 3}, ("1f1b", 1)),
        ({"vpp": 1, "p2p_overlap": False}, ("1f1b", 1)),
        ({"vpp": 1, "grad_overlap": False, "param_overlap": False}, ("1f1b", 1)),
    ],
)
def test_every_schedule_is_replayed(changes: dict[str, object], schedule: tuple[str, int]) -> None:
    plan = dataclasses.replace(PLAN, **changes)  # type: ignore[arg-type]
    assert timeline_schedule(plan) == schedule
    r = replayed(plan)
    assert abs(r.difference) < 0.12
    if plan.schedule in ("1f1b", "gpipe"):
        assert abs(r.difference) < 0.03, (r.difference, r.causes)


def test_a_schedule_that_cannot_run_says_why() -> None:
    plan = dataclasses.replace(PLAN, vpp=1, schedule="dualpipe", gbs=12)
    r = replay_plan(priced(plan))
    assert r.simulation is None
    assert "6 micro-batches" in r.reason


def test_kinds_add_up_to_the_step() -> None:
    r = replayed(PLAN)
    assert r.simulation is not None
    assert sum(r.critical_path_s().values()) == pytest.approx(r.simulation.step_s)
    assert {"forward", "backward", "recompute", "optimizer", "tp"} <= set(r.critical_path_s())
    assert {"tp", "send", "gradient reduction"} <= set(r.exposed_s())


def test_the_contention_engine_slows_what_overlaps() -> None:
    plan = dataclasses.replace(PLAN, vpp=1, tp_overlap=True)
    plain, slowed = replayed(plan), replayed(plan, engine="contention")
    assert slowed.simulation is not None
    assert slowed.simulation.step_s == pytest.approx(plain.simulation.step_s, rel=0.02)  # type: ignore[union-attr]
    # the closed form's sum was left out of the passes, so the engine found it
    bare = pipeline_costs(LLAMA, H200, plan, contention=True)
    assert bare.backward_s.sum() < pipeline_costs(LLAMA, H200, plan).backward_s.sum()


def test_the_fabric_engine_shares_the_links_of_the_wired_machine() -> None:
    # a stage is a node, so both of its neighbours are reached through the same cards
    machine, plan = load_machine("h200", num_devices=32), dataclasses.replace(PLAN, vpp=1, dp=4, gbs=64)
    priced_plan = estimate(LLAMA, machine, plan)
    assert isinstance(priced_plan, Estimate)
    run = replay_plan(priced_plan, engine="fabric").simulation
    assert run is not None
    assert run.network is not None
    assert run.timeline.num_solves > 0
    sends = run.network.route_of >= 0
    assert sends.sum() == 2 * (plan.pp - 1) * plan.num_microbatches
    # on its own a boundary takes the time of the costs; what meets on a card takes longer, and nothing is faster
    stretch = run.timeline.taken_s[sends] / run.timeline.graph.duration_s[sends]
    assert stretch.min() == pytest.approx(1.0)
    costs = dataclasses.replace(run.costs, send_s=200.0 * run.costs.column("send_s"))
    alone = simulate(costs).step_s
    network = sends_on_links(machine, costs, None, every_rank=False)
    assert simulate(costs, engine="fabric", network=network).step_s > 1.01 * alone
    # a row for every device is the same machine
    network = sends_on_links(machine, costs, None, every_rank=True)
    unfolded = simulate(costs, engine="fabric", network=network, every_rank=True)
    folded = simulate(costs, engine="fabric", network=sends_on_links(machine, costs, None, every_rank=False))
    assert unfolded.step_s == pytest.approx(folded.step_s, rel=1e-6)


def test_stragglers_slow_the_step_and_are_the_reason() -> None:
    usual = replayed(PLAN)
    slow = replayed(PLAN, perturbation=parse_perturbation(("rank=5:1.2",)))
    assert usual.simulation is not None
    assert slow.simulation is not None
    assert slow.simulation.step_s > 1.01 * usual.simulation.step_s
    assert slow.undisturbed_step_s == pytest.approx(usual.simulation.step_s)
    assert slow.causes[0].name == "devices that differ"
    lines = changes_between(usual, slow)
    assert lines[0].change_s == pytest.approx(slow.simulation.step_s - usual.simulation.step_s)
    # a plan with another number of stages is compared without them
    other = replayed(dataclasses.replace(PLAN, pp=2, dp=4))
    assert not any(line.view.startswith("stage") for line in changes_between(other, slow))
    assert changes_between(other, slow)[0].before_s == pytest.approx(other.simulation.step_s)  # type: ignore[union-attr]


def test_a_published_dualpipe_step_has_the_published_phases() -> None:
    # DeepSeek-V3 on 2,048 H800 (arXiv 2505.09343, table of training metrics), in seconds
    published = {"forward": 1.13, "backward": 1.99, "forward and backward": 13.95, "bubble": 2.06}
    case = row_case(next(row for row in read_results() if row.id == "NV668"))
    run = simulate(pipeline_costs(case.model, case.machine, case.plan))
    phases = run.activity.phases()
    # how the step divides is the schedule's, whoever runs it
    for name, seconds in published.items():
        assert phases[name] / run.step_s == pytest.approx(seconds / 19.926, rel=0.15), name
    # the plan of somebody unknown is slower as a whole; as its publisher runs it, the seconds are the published ones
    unknown = evaluate(case.model, case.machine, Plans.of([case.plan])).times.step_s[0]
    known = score([case.row]).rows[0].predicted_step_s
    for name, seconds in published.items():
        assert phases[name] * known / unknown == pytest.approx(seconds, rel=0.15), name
    assert run.step_s * known / unknown == pytest.approx(19.926, rel=0.1)
