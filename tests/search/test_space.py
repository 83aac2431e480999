"""Search: the winner is what pricing every plan one by one would find, and more hardware is never slower."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import PlanError
from fullmesh.machine import Machine, load_machine
from fullmesh.outcomes.estimate import Estimate, estimate, evaluate, log_variances
from fullmesh.outcomes.intervals import far_deviations, selection_variance, within_setting
from fullmesh.outcomes.support import missing_variance, missing_words, num_missing
from fullmesh.plan import Plans
from fullmesh.plan.feasible import violations
from fullmesh.search import search, software_of
from fullmesh.search.engine import ask
from fullmesh.search.space import Question, every_plan
from fullmesh.workload import MLP, Attention, Layer, ModelSpec, MoE
from fullmesh.workload.readers.huggingface import load_model

ATTENTION = Attention(num_heads=16, num_kv_heads=4, head_dim=128)
DENSE = ModelSpec(
    id="tiny",
    name="Tiny",
    hidden=2048,
    vocab=32000,
    layers=(Layer(mixer=ATTENTION, ffn=MLP(ffn=5632)),) * 8,
)
EXPERTS = dataclasses.replace(
    DENSE,
    layers=(
        Layer(mixer=ATTENTION, ffn=MLP(ffn=5632)),
        *(Layer(mixer=ATTENTION, ffn=MoE(num_experts=16, topk=2, ffn=1024)),) * 7,
    ),
)


def question(model: ModelSpec, machine: Machine, gbs: int = 32, precision: str = "bf16") -> Question:
    return Question(
        model=model,
        machine=machine,
        gbs=gbs,
        seq=4096,
        precision=precision,
        num_devices=(machine.num_devices,),
        software=software_of(machine),
    )


@pytest.mark.parametrize("model", [DENSE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("name", ["h200", "cloudmatrix384"])
def test_the_winner_is_the_best_of_all_plans_priced_one_by_one(model: ModelSpec, name: str) -> None:
    machine = load_machine(name, num_devices=16)
    found = search(model, machine, gbs=32, seq=4096)
    plans = every_plan(question(model, machine))
    single = [
        estimate(model, machine, plans.plan(i)) for i in range(0, len(plans), max(1, len(plans) // 150))
    ]
    assert found.best is not None
    assert len(single) > 50
    fastest = min(e.step_s for e in single if isinstance(e, Estimate))
    # what no result has tried may be faster, and then stands beside the best one
    quickest = found.exploratory or found.best
    assert quickest.step_s <= fastest * (1 + 1e-12)
    again = estimate(model, machine, found.best.plan)
    assert isinstance(again, Estimate)
    assert again.step_s == pytest.approx(found.best.step_s, rel=1e-12)


def test_one_plan_and_many_plans_are_priced_alike() -> None:
    machine = load_machine("gb200-nvl72", num_devices=64)
    plans = every_plan(question(EXPERTS, machine, gbs=64))
    many = evaluate(EXPERTS, machine, plans)
    for i in range(0, len(plans), max(1, len(plans) // 40)):
        one = evaluate(EXPERTS, machine, Plans.of([plans.plan(i)]), distinct=False)
        assert one.times.step_s[0] == pytest.approx(many.times.step_s[i], rel=1e-12)
        assert one.memory_bytes[0] == pytest.approx(many.memory_bytes[i], rel=1e-12)


def test_every_enumerated_plan_is_counted_once() -> None:
    machine = load_machine("h200", num_devices=64)
    found = search(EXPERTS, machine, gbs=64, seq=4096)
    assert found.num_fitting + sum(r.num_plans for r in found.rejected) == found.num_enumerated
    assert violations(EXPERTS, machine, every_plan(question(EXPERTS, machine, 64))).ok.all()


def far_end_s(e: Estimate) -> float:
    """The step at the far end of its interval: of its effects, and of pairs that no published result has."""
    result = evaluate(e.model, e.machine, Plans.of([e.plan]))
    return e.step_s * math.exp(far_deviations() * math.sqrt(float(log_variances(result)[0])))


def test_ranked_plans_are_ordered_and_of_different_layouts() -> None:
    found = search(EXPERTS, load_machine("h200", num_devices=64), gbs=64, seq=4096, top=8)
    far = [far_end_s(e) for e in found.ranked]
    assert far == pytest.approx(sorted(far), rel=1e-9)
    layouts = [(e.plan.tp, e.plan.cp, e.plan.pp, e.plan.ep, e.plan.zero, e.plan.dp) for e in found.ranked]
    assert len(set(layouts)) == len(layouts) == 8
    assert found.second is not None
    assert found.best is not None
    best, second = found.best.plan, found.second.plan
    assert (best.tp, best.cp, best.pp, best.zero) != (second.tp, second.cp, second.pp, second.zero)


def test_the_fastest_prediction_steps_back_where_no_result_speaks_for_it() -> None:
    model, machine = load_model("mixtral-8x7b"), load_machine("cloudmatrix384", num_devices=64)
    found = search(model, machine, gbs=576, seq=4096)
    best, fastest = found.best, found.exploratory
    assert best is not None
    assert fastest is not None
    assert fastest.step_s < best.step_s
    assert far_end_s(fastest) > far_end_s(best)
    # all plans priced: none is predicted faster than the exploratory one
    plans = every_plan(ask(model, machine, gbs=576, seq=4096))
    priced = evaluate(model, machine, plans)
    assert fastest.step_s == pytest.approx(priced.times.step_s[priced.fits].min(), rel=1e-12)
    assert found.against_best(found.exploratory) == pytest.approx(fastest.step_s / best.step_s - 1)
    missing = num_missing(model, machine, Plans.of([best.plan, fastest.plan]))
    assert missing[0] < missing[1]
    assert found.missing == missing_words(model, machine, fastest.plan) != ()
    # a pair that no result has costs what it is said to
    said = missing_variance(missing)
    assert said[1] > said[0]
    added = log_variances(evaluate(model, machine, Plans.of([fastest.plan])))[0]
    assert added > said[1]
    assert missing_variance(np.array([0, 1, 10, 300])) == pytest.approx([0.0, 0.01, 0.1, 0.1])


def test_ties_are_layouts_that_their_own_error_cannot_tell_apart() -> None:
    found = search(EXPERTS, load_machine("h200", num_devices=64), gbs=64, seq=4096, top=1000)
    assert found.best is not None
    assert found.tie_ratio == pytest.approx(math.exp(within_setting()))
    near = [e for e in found.ranked if e.step_s / found.best.step_s <= found.tie_ratio]
    assert found.num_ties == len(near) - 1 > 0
    assert len(near) < len(found.ranked)


def test_no_plan_on_the_pareto_front_beats_another() -> None:
    found = search(EXPERTS, load_machine("h200", num_devices=64), gbs=64, seq=4096)
    assert found.best is not None
    assert found.pareto[0].step_s == found.best.step_s
    for a, b in itertools.pairwise(found.pareto):
        assert a.step_s <= b.step_s
        assert a.memory_bytes > b.memory_bytes


def test_a_model_that_does_not_fit_is_a_result() -> None:
    big = dataclasses.replace(DENSE, hidden=16384, layers=(Layer(mixer=ATTENTION, ffn=MLP(ffn=65536)),) * 128)
    found = search(big, load_machine("h200", num_devices=8), gbs=8, seq=4096)
    assert found.best is None
    assert found.closest is not None
    assert found.closest.limit.name == "memory"
    assert found.closest.limit.gap > 0
    assert found.closest.limit.levers
    assert sum(r.num_plans for r in found.rejected) == found.num_enumerated


def test_a_batch_without_common_factor_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match="nearest global batches that do are 992 and 1008"):
        search(DENSE, load_machine("h200", num_devices=64), gbs=1001, seq=4096)


def test_offload_reaches_what_does_not_fit_otherwise() -> None:
    machine = load_machine("h200", num_devices=8)
    least = evaluate(EXPERTS, machine, every_plan(question(EXPERTS, machine, 8))).memory_bytes.min()
    tight = dataclasses.replace(
        machine, chip=dataclasses.replace(machine.chip, hbm_bytes=0.98 * float(least))
    )
    assert search(EXPERTS, tight, gbs=8, seq=4096).best is None
    found = search(EXPERTS, tight, gbs=8, seq=4096, offload=True)
    assert found.best is not None
    assert found.best.plan.offload_optimizer == 1.0


@settings(max_examples=12, deadline=None)
@given(scale=st.floats(1.05, 4.0), tier=st.integers(0, 1), name=st.sampled_from(["h200", "gb200-nvl72"]))
def test_more_bandwidth_is_never_slower(scale: float, tier: int, name: str) -> None:
    machine = load_machine(name, num_devices=144 if name == "gb200-nvl72" else 64)
    tiers = list(machine.tiers)
    tiers[tier] = dataclasses.replace(tiers[tier], bytes_per_s=tiers[tier].bytes_per_s * scale)
    better = dataclasses.replace(machine, tiers=tuple(tiers))
    plans = every_plan(question(EXPERTS, machine, gbs=288))
    plans = plans.take(np.arange(0, len(plans), max(1, len(plans) // 300)))
    before = evaluate(EXPERTS, machine, plans).times.step_s
    after = evaluate(EXPERTS, better, plans).times.step_s
    assert (after <= before * (1 + 1e-9)).all()


def test_more_memory_never_makes_the_best_plan_slower() -> None:
    machine = load_machine("cloudmatrix384", num_devices=32)
    steps = []
    for capacity in (20e9, 40e9, 80e9):
        chip = dataclasses.replace(machine.chip, hbm_bytes=capacity)
        best = search(EXPERTS, dataclasses.replace(machine, chip=chip), gbs=64, seq=4096).best
        assert best is not None
        steps.append(best.step_s)
    assert steps == sorted(steps, reverse=True)


def test_a_winner_of_many_is_less_sure() -> None:
    assert selection_variance(1) == 0.0
    assert 0.0 < selection_variance(2) < selection_variance(20)
    found = search(load_model("llama-3-70b"), load_machine("h200", num_devices=64), gbs=256, seq=8192)
    assert found.best is not None
    assert found.num_ties > 0
    alone = estimate(found.model, found.machine, found.best.plan)
    assert isinstance(alone, Estimate)
    assert alone.step_s == pytest.approx(found.best.step_s)
    assert found.best.interval.log_half_width > alone.interval.log_half_width
    assert found.ranked[0] == found.best
