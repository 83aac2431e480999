"""Estimates: one plan as among many, what cannot run and why, precisions that a chip lacks, ties and error bars."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fullmesh.cost.step import PARTS
from fullmesh.errors import PlanError
from fullmesh.machine import Machine, list_machines, load_machine
from fullmesh.outcomes import intervals
from fullmesh.outcomes.estimate import (
    Estimate,
    Infeasible,
    estimate,
    evaluate,
    is_close,
    machine_power_w,
    supported_precision,
)
from fullmesh.outcomes.intervals import Interval, interval_for, memory_interval_for
from fullmesh.plan import RECIPES, Plan, Plans
from fullmesh.plan.feasible import violations
from fullmesh.plan.software import software_of
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.readers.huggingface import load_model

H200 = load_machine("h200", num_devices=64)
LLAMA = load_model("llama-3-8b")
MIXTRAL = load_model("mixtral-8x7b")
PLANS = st.builds(
    Plan,
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 4]),
    dp=st.sampled_from([1, 4, 8]),
    ep=st.sampled_from([1, 4]),
    gbs=st.sampled_from([32, 128]),
    zero=st.sampled_from([0, 1, 3]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    precision=st.sampled_from(["bf16", "fp8", "fp8-block"]),
    schedule=st.sampled_from(["1f1b", "zero-bubble"]),
)


def runs(model_name: str, machine: Machine, plan: Plan) -> Estimate:
    found = estimate(load_model(model_name), machine, plan)
    assert isinstance(found, Estimate), str(found)
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(PLANS, st.sampled_from(["llama-3-8b", "mixtral-8x7b"]))
def test_an_estimate_is_a_row_of_an_evaluation(plan: Plan, name: str) -> None:
    model = load_model(name)
    columns = Plans.of([Plan(tp=2, pp=2, dp=4, gbs=32), plan])
    assume(violations(model, H200, columns).ok.all())
    many = evaluate(model, H200, columns)
    found = estimate(model, H200, plan)
    if isinstance(found, Infeasible):
        assert not many.fits[1]
        assert found.limit.name == "memory"
        return
    assert many.fits[1]
    assert found.step_s == pytest.approx(many.times.step_s[1], rel=1e-12)
    assert found.memory_bytes == pytest.approx(many.memory_bytes[1], rel=1e-12)
    for part in PARTS:
        assert found.parts_s[part] == pytest.approx(getattr(many.times, part)[1], rel=1e-9, abs=1e-15)
    assert sum(found.parts_s.values()) == pytest.approx(found.step_s, rel=1e-9)
    assert found.low_s <= found.step_s <= found.high_s
    assert found.memory_bytes == max(s.used_bytes for s in found.stages)
    for stage in found.stages:
        assert sum(stage.memory.values()) == pytest.approx(stage.used_bytes, rel=1e-9)
    assert [s.index for s in found.stages] == list(range(plan.pp))
    assert sum(s.layers for s in found.stages) == model.num_layers


def test_throughput_and_utilisation_follow_from_the_step() -> None:
    plan = Plan(tp=2, dp=8, gbs=64, recompute="full")
    e = runs("llama-3-8b", H200, plan)
    assert e.tokens_per_step == 64 * 4096
    assert e.tokens_per_s == pytest.approx(e.tokens_per_step / e.step_s)
    assert e.tokens_per_s_per_device == pytest.approx(e.tokens_per_s / 16)
    useful = 3 * model_flop_per_token(LLAMA, 4096) * e.tokens_per_step
    assert e.mfu == pytest.approx(useful / (e.step_s * 16 * H200.chip.matrix_flop_per_s["bf16"]))
    # one forward pass more, without the head
    assert 1.25 < e.hfu / e.mfu < 1.34
    without = runs("llama-3-8b", H200, dataclasses.replace(plan, recompute="none"))
    assert without.hfu == without.mfu
    assert 0.1 < without.mfu < 0.75


def test_energy_is_the_power_of_the_devices_used() -> None:
    half = runs("llama-3-8b", H200, Plan(tp=2, dp=16, gbs=64))
    power = machine_power_w(H200)
    assert power is not None
    assert half.energy_per_step_j == pytest.approx(power / 2 * half.step_s)
    assert half.energy_per_token_j == pytest.approx(half.energy_per_step_j / half.tokens_per_step)
    dark = dataclasses.replace(H200, unit_power_w=None)
    assert machine_power_w(dark) is None
    assert runs("llama-3-8b", dark, Plan(tp=2, dp=16, gbs=64)).energy_per_step_j is None


def test_more_devices_than_there_are_is_a_mistake() -> None:
    with pytest.raises(PlanError) as caught:
        estimate(LLAMA, H200, Plan(tp=8, dp=16, gbs=64))
    assert "128 devices" in caught.value.what
    assert "at most 64" in caught.value.expected
    assert "--chips" in caught.value.hint


def test_a_plan_that_contradicts_itself_is_a_mistake() -> None:
    with pytest.raises(PlanError, match="nearest global batch is 32"):
        estimate(LLAMA, H200, Plan(dp=16, gbs=33))


def test_a_rule_that_is_broken_is_a_result() -> None:
    found = estimate(LLAMA, H200, Plan(dp=8, ep=8, gbs=8))
    assert isinstance(found, Infeasible)
    assert found.limit.name == "experts"
    assert "ep = 1" in str(found)


@pytest.mark.parametrize(
    ("model", "plan", "mostly", "lever"),
    [
        ("llama-3-70b", Plan(dp=8, gbs=8, zero=0), "optimizer", "zero = 1"),
        ("llama-3-8b", Plan(tp=1, dp=1, gbs=16, mbs=16, seq=8192), "activations", "recompute = full"),
        ("llama-3-70b", Plan(dp=64, gbs=64, zero=1), "gradients", "zero = 2 or 3"),
        ("mixtral-8x22b", Plan(dp=64, gbs=64, trainable="lora"), "parameters", "more ep"),
    ],
)
def test_too_little_memory_says_what_takes_it_and_what_would_help(
    model: str, plan: Plan, mostly: str, lever: str
) -> None:
    found = estimate(load_model(model), H200, plan)
    assert isinstance(found, Infeasible)
    limit = found.limit
    assert limit.name == "memory"
    assert limit.unit == "B"
    assert limit.available == H200.chip.hbm_bytes
    assert limit.gap > 0
    assert limit.where.endswith(f"mostly {mostly}")
    assert lever in limit.levers
    assert "more devices" in limit.levers
    assert "cannot run" in str(found)


def test_levers_that_are_already_pulled_are_not_offered() -> None:
    plan = Plan(dp=1, gbs=1, seq=131072, recompute="full", zero=3, mbs=1, offload_optimizer=1.0)
    found = estimate(load_model("llama-3-70b"), H200, plan)
    assert isinstance(found, Infeasible)
    taken = {
        "recompute = full",
        "a smaller micro-batch",
        "zero = 3",
        "zero = 2 or 3",
        "zero = 1",
        "offload_optimizer",
    }
    assert not taken & set(found.limit.levers)


def test_full_recompute_is_not_offered_where_it_is_on() -> None:
    # a small vocabulary, so that activations and not logits take the space
    model = dataclasses.replace(LLAMA, vocab=1000)
    plan = Plan(dp=64, gbs=64, seq=1 << 20, zero=3)
    found = estimate(model, H200, plan)
    assert isinstance(found, Infeasible)
    assert found.limit.where.endswith("mostly activations")
    assert "recompute = full" in found.limit.levers
    again = estimate(model, H200, dataclasses.replace(plan, recompute="full", seq=1 << 22))
    assert isinstance(again, Infeasible)
    assert not {"recompute = full", "a smaller micro-batch"} & set(again.limit.levers)


@pytest.mark.parametrize(("tp", "pp", "cp"), [(1, 4, 1), (4, 1, 1), (1, 1, 4), (2, 2, 2)])
def test_recomputed_work_is_that_of_the_whole_model(tp: int, pp: int, cp: int) -> None:
    plan = Plan(tp=tp, pp=pp, cp=cp, dp=2, gbs=64, recompute="full")
    e = runs("llama-3-8b", H200, plan)
    alone = runs("llama-3-8b", H200, Plan(dp=8, gbs=64, recompute="full"))
    assert e.hfu / e.mfu == pytest.approx(alone.hfu / alone.mfu, rel=1e-9)


def test_a_lever_that_is_pulled_makes_it_fit() -> None:
    plan = Plan(dp=8, gbs=128, mbs=16)
    assert isinstance(estimate(LLAMA, H200, plan), Infeasible)
    for change in ({"recompute": "full"}, {"mbs": 1}, {"tp": 8}):
        assert isinstance(estimate(LLAMA, H200, dataclasses.replace(plan, **change)), Estimate), change  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "wanted", "used"),
    [
        ("h200", "bf16", "bf16"),
        ("h200", "fp8-block", "fp8-block"),
        ("h200", "mxfp8", "fp8"),
        ("h200", "nvfp4", "fp8"),
        ("gb200-nvl72", "nvfp4", "nvfp4"),
        ("gb200-nvl72", "mxfp8", "mxfp8"),
        ("cloudmatrix384", "fp8", "bf16"),
        ("cloudmatrix384", "nvfp4", "bf16"),
        ("cloudmatrix384", "int8", "int8"),
        ("dgx-a100", "fp8-block", "bf16"),
        ("atlas-910a-pod", "bf16", "fp16"),
        ("atlas-910a-pod", "nvfp4", "fp16"),
        ("gb300-nvl72", "int8", "bf16"),
    ],
)
def test_a_precision_that_a_chip_lacks_is_replaced_and_said(machine: str, wanted: str, used: str) -> None:
    m = load_machine(machine)
    name, note = supported_precision(m, wanted)
    assert name == used
    if used == wanted:
        assert note == ""
    else:
        assert m.chip.name in note
        assert wanted.upper() in note
        assert used.upper() in note


def test_a_chip_without_any_of_them_is_refused() -> None:
    chip = dataclasses.replace(H200.chip, matrix_flop_per_s={"fp32": 1e12})
    with pytest.raises(PlanError, match="none of the precisions"):
        supported_precision(dataclasses.replace(H200, chip=chip), "nvfp4")


@pytest.mark.parametrize("machine", list_machines())
@pytest.mark.parametrize("wanted", RECIPES)
def test_what_is_said_to_be_supported_can_be_priced(machine: str, wanted: str) -> None:
    m = load_machine(machine, num_devices=None)
    name, _ = supported_precision(m, wanted)
    plan = Plan(tp=8, pp=2, gbs=8, precision=name, recompute="full")
    for model in (load_model("llama-3.2-1b"), dataclasses.replace(MIXTRAL, layers=MIXTRAL.layers[:4])):
        times = evaluate(model, m, Plans.of([plan])).times
        assert math.isfinite(times.step_s[0])
        assert times.step_s[0] > 0


@pytest.fixture(scope="module")
def some_estimate() -> Estimate:
    return runs("llama-3-8b", H200, Plan(tp=2, dp=8, gbs=64))


def with_interval(e: Estimate, tokens_per_s: float, half: float) -> Estimate:
    interval = Interval(low_s=1.0, high_s=2.0, log_half_width=half, basis="")
    return dataclasses.replace(e, tokens_per_s=tokens_per_s, interval=interval)


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_tie_is_a_tie_both_ways(
    some_estimate: Estimate, a: float, b: float, wide: float, narrow: float
) -> None:
    x, y = with_interval(some_estimate, a, wide), with_interval(some_estimate, b, narrow)
    assert is_close(x, y) == is_close(y, x)
    assert is_close(x, x)


def test_ties_end_where_the_error_ends(some_estimate: Estimate) -> None:
    e = some_estimate
    base = with_interval(e, 100.0, 0.03)
    spread = math.hypot(0.03, 0.04)
    assert is_close(base, with_interval(e, 100.0 * math.exp(0.999 * spread), 0.04))
    assert not is_close(base, with_interval(e, 100.0 * math.exp(1.001 * spread), 0.04))


FIT = {"noise": 0.03, "unseen": 0.12, "low": -1.5, "high": 1.25, "rows": 700, "within_setting": 0.11}


class TestIntervals:
    @pytest.fixture
    def fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intervals, "_document", lambda: FIT)

    @pytest.mark.parametrize(
        ("variance", "unproven", "deviation"),
        [
            (0.0, "", 0.03),
            (0.04**2, "", 0.05),
            (0.04**2, "the chip is new", 0.13),
            (0.0, "the chip is new", math.hypot(0.03, 0.12)),
        ],
    )
    def test_effects_noise_and_what_was_never_seen_add_up(
        self, fit: None, variance: float, unproven: str, deviation: float
    ) -> None:
        found = interval_for(2.0, variance, unproven=unproven)
        assert found.low_s == pytest.approx(2.0 * math.exp(-1.5 * deviation))
        assert found.high_s == pytest.approx(2.0 * math.exp(1.25 * deviation))
        assert found.log_half_width == pytest.approx(1.375 * deviation)
        assert found.unproven == unproven

    def test_the_basis_says_what_it_rests_on_and_why_it_is_wider(self, fit: None) -> None:
        proven = interval_for(2.0, 0.0).basis
        unproven = interval_for(2.0, 0.0, unproven="the chip is new").basis
        assert proven.startswith("700 published results, each predicted without its configuration")
        assert unproven == f"{proven}; wider, since the chip is new"

    def test_plans_of_one_setting_are_told_apart_by_their_own_error(self, fit: None) -> None:
        assert intervals.within_setting() == 0.11
        assert intervals.far_deviations() == 1.25

    def test_without_results_there_is_no_interval(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intervals, "_document", dict)
        found = interval_for(2.0, 0.01, unproven="the chip is new")
        assert math.isnan(found.low_s)
        assert math.isnan(found.high_s)
        assert found.log_half_width == math.inf
        assert "no published result" in found.basis
        assert found.unproven == "the chip is new"
        assert intervals.within_setting() == math.inf
        assert intervals.far_deviations() == 0.0
        assert intervals.results_of_chip("h200") == 0
        assert intervals.held_out_coverage()["all"][0] == 0

    def test_a_peak_of_memory_is_as_sure_as_left_out_peaks_were(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fit = {
            "levels": [0.1, 0.5, 0.9],
            "quantiles": [-0.2, 0.0, 0.3],
            "rows": 9,
            "publishers": 3,
            "coverage": 0.8,
        }
        monkeypatch.setattr(intervals, "_document", lambda: {"memory": fit})
        found = memory_interval_for(50e9, 50e9 * math.exp(0.15))
        assert found.low_bytes == pytest.approx(50e9 * math.exp(-0.2))
        assert found.high_bytes == pytest.approx(50e9 * math.exp(0.3))
        assert found.fits == pytest.approx(0.7)
        assert found.is_within_evidence
        assert found.basis.startswith("9 published peaks of 3 publishers")
        roomy = memory_interval_for(10e9, 80e9)
        assert roomy.fits == 0.9
        assert not roomy.is_within_evidence
        assert memory_interval_for(500e9, 80e9).fits == 0.1
        assert intervals.memory_coverage() == (9, 0.8)

    @given(st.floats(1e9, 1e12), st.floats(1.0, 10.0))
    def test_more_memory_is_never_less_likely_to_fit(self, predicted: float, factor: float) -> None:
        less, more = (memory_interval_for(predicted, 80e9 * x) for x in (1.0, factor))
        assert 0.0 < less.fits <= more.fits < 1.0
        assert less.low_bytes < predicted < less.high_bytes

    def test_without_peaks_there_is_no_interval_of_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intervals, "_document", dict)
        assert math.isnan(memory_interval_for(1e9, 2e9).fits)
        assert intervals.memory_coverage()[0] == 0

    def test_shipped_intervals_hold_the_prediction_and_what_they_promise(self) -> None:
        fit = intervals._document()
        assert fit["low"] < 0 < fit["high"]
        assert fit["noise"] > 0
        assert fit["unseen"] > 0
        assert 0 < intervals.within_setting() < 0.7
        rows, share = intervals.held_out_coverage()["all"]
        assert rows == fit["rows"] >= 500
        assert share == pytest.approx(0.8, abs=0.02)
        unseen_rows, unseen_share = intervals.held_out_coverage()["unseen publishers: all"]
        assert unseen_rows == rows
        assert unseen_share == pytest.approx(0.8, abs=0.05)
        assert sum(fit["chips"].values()) == rows
        sure = interval_for(2.0, 0.0)
        assert sure.low_s < 2.0 < sure.high_s


def test_an_estimate_says_itself_in_a_line() -> None:
    text = str(runs("llama-3-8b", H200, Plan(tp=2, dp=8, gbs=64)))
    for word in ("TP2 DP8", "a step", "tokens/s", "MFU", "of 150.1 GB"):
        assert word in text
    assert runs("llama-3-8b", H200, Plan(tp=2, dp=8, gbs=64)).part_share("linear_s") < 1


def test_a100_with_its_default_software_is_where_published_runs_are() -> None:
    """Llama-2-7B on 16 A100: no run of a dense model used more than 65.3 % of the peak, one measured 69.1 GB."""
    machine = load_machine("dgx-a100", num_devices=16)
    software = software_of(machine)
    plan = Plan(
        pp=2, dp=8, mbs=2, gbs=2048, seq=4096, zero=1, stack=software.stack, **software.options_for(moe=False)
    )
    found = runs("llama-2-7b", machine, plan)
    assert found.mfu < 0.653
    assert found.memory_bytes == pytest.approx(69.1e9, rel=0.08)
