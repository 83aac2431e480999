"""Comparisons: sizes by basis, waterfalls that add up, records with all keys, reasons and ties."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest

from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine, load_machine
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.outcomes.intervals import Interval
from fullmesh.outcomes.waterfall import GROUPS, waterfall
from fullmesh.plan import Plan
from fullmesh.study.api import compare
from fullmesh.study.batch import choose_batch
from fullmesh.study.compare import Comparison
from fullmesh.study.fields import CSV_COLUMNS, comparison_record, comparison_rows
from fullmesh.study.options import read_options
from fullmesh.study.sizing import resized
from fullmesh.workload import MLP, Attention, Layer, ModelSpec, MoE

ATTENTION = Attention(num_heads=32, num_kv_heads=8, head_dim=128)
MODEL = ModelSpec(
    id="small-moe",
    name="Small MoE",
    hidden=4096,
    vocab=64000,
    layers=(
        Layer(mixer=ATTENTION, ffn=MLP(ffn=11008)),
        *(Layer(mixer=ATTENTION, ffn=MoE(num_experts=32, topk=4, ffn=1536)),) * 15,
    ),
)
MACHINES = ("cloudmatrix384", "gb200-nvl72", "h200")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(MODEL, MACHINES)


def test_whole_supernodes_and_a_cluster_of_as_many_packages(comparison: Comparison) -> None:
    assert [c.machine.num_devices for c in comparison.columns] == [768, 72, 384]
    assert [c.machine.num_packages for c in comparison.equal_packages] == [384, 384, 384]
    assert [c.racks for c in comparison.columns] == [16, 1, 12]


def test_both_figures_of_cloudmatrix_compute(comparison: Comparison) -> None:
    column = comparison.columns[0]
    assert column.published_flop_per_s == pytest.approx(300e15)
    assert column.matrix_flop_per_s == pytest.approx(768 * 353.9e12)
    assert column.published_differs
    assert not comparison.columns[1].published_differs


def test_same_tokens_everywhere(comparison: Comparison) -> None:
    for column in (*comparison.columns, *comparison.equal_packages):
        assert column.best is not None
        assert column.best.tokens_per_step == comparison.gbs * comparison.seq


def test_a_waterfall_adds_up_to_the_step(comparison: Comparison) -> None:
    for column in comparison.columns:
        assert column.best is not None
        assert column.waterfall is not None
        assert sum(loss.seconds for loss in column.waterfall.losses) == pytest.approx(
            column.best.step_s, rel=1e-9
        )
        assert sum(column.waterfall.group(g) for g in GROUPS) == pytest.approx(column.best.step_s, rel=1e-9)
        assert column.waterfall.losses[0].share == pytest.approx(column.best.mfu, rel=1e-9)


def test_ratios_name_the_faster_machine_first(comparison: Comparison) -> None:
    assert len(comparison.ratios) == 3
    for r in comparison.ratios:
        assert r.ratio >= 1.0
        assert r.reason.startswith(r.a.name)
        assert r.reason.endswith(".")
        assert (r.tie is None) == math.isnan(r.low)


def test_throughput_is_peak_times_use(comparison: Comparison) -> None:
    for r in comparison.ratios:
        by_id = {c.machine.id: c for c in comparison.columns}
        a, b = by_id[r.a.id], by_id[r.b.id]
        assert a.best is not None
        assert b.best is not None
        peak = a.matrix_flop_per_s / b.matrix_flop_per_s
        assert r.ratio == pytest.approx(peak * a.best.mfu / b.best.mfu, rel=1e-9)


def test_equal_machines_are_a_tie() -> None:
    machine = load_machine("h200", num_devices=64)
    twin = dataclasses.replace(machine, id="twin", name="Twin")
    c = compare(MODEL, [machine, twin], batch=64)
    assert c.ratios[0].ratio == pytest.approx(1.0)
    assert c.ratios[0].tie is not False


def test_a_machine_that_cannot_hold_the_model_is_a_column() -> None:
    small = load_machine("h200", num_devices=8)
    starved = dataclasses.replace(small, id="starved", chip=dataclasses.replace(small.chip, hbm_bytes=4e9))
    c = compare(MODEL, [starved, small], batch=64)
    assert c.columns[0].best is None
    assert c.columns[0].found.closest is not None
    assert c.columns[1].best is not None
    assert not c.ratios
    record = comparison_record(c)
    assert record["machines"][0]["feasible"] is False
    assert record["machines"][0]["limit"]["limit"]["name"] == "memory"
    assert "does not fit" in str(c)


def test_records_have_all_keys_and_are_plain_json(comparison: Comparison) -> None:
    record = json.loads(json.dumps(comparison_record(comparison), allow_nan=False))
    assert {"model", "global_batch", "seq", "basis", "machines", "ratios", "equal_packages"} <= set(record)
    assert {
        "devices", "packages", "racks", "software", "precision", "substituted", "matrix_flop_per_s",
        "published_bf16_flop_per_s", "best", "second", "money", "time_to_tokens_s", "rejected",
    } <= set(record["machines"][0])  # fmt: skip
    assert {
        "plan", "step_s", "bounds", "interval_80", "tokens_per_s", "tokens_per_s_per_device", "mfu", "hfu",
        "memory_bytes", "capacity_bytes", "energy_per_step_j", "energy_per_token_j", "energy_basis", "waterfall",
    } <= set(record["machines"][0]["best"])  # fmt: skip
    assert record["machines"][2]["money"] is None
    rows = comparison_rows(comparison)
    assert len(rows) == 6
    assert all(set(row) == set(CSV_COLUMNS) for row in rows)


def test_bounds_hold_the_step(comparison: Comparison) -> None:
    for column in comparison.columns:
        assert column.best is not None
        assert column.best.low_s <= column.best.step_s <= column.best.high_s


def test_a_missing_precision_is_substituted_and_named() -> None:
    c = compare(MODEL, [load_machine("cloudmatrix384", num_devices=64)], precision="fp8")
    assert c.columns[0].found.precision == "bf16"
    assert "FP8" in c.columns[0].found.substituted


@pytest.mark.parametrize("basis", ["devices", "packages", "power"])
def test_sizes_are_equal_by_basis(basis: str) -> None:
    machines = resized([load_machine(n) for n in MACHINES], basis)
    measure: Callable[[Machine], float] = {
        "devices": lambda m: m.num_devices,
        "packages": lambda m: m.num_packages,
        "power": lambda m: (m.unit_power_w or 0.0) * m.num_units,
    }[basis]
    values = [measure(m) for m in machines]
    assert max(values) / min(values) < (1.15 if basis == "power" else 1.001)


def test_equal_money_needs_prices() -> None:
    with pytest.raises(ScenarioError, match="has no price"):
        resized([load_machine(n) for n in MACHINES], "money")


def test_the_default_batch_divides_on_every_machine() -> None:
    machines = [
        load_machine("cloudmatrix384"),
        load_machine("gb200-nvl72"),
        load_machine("h200", num_devices=384),
    ]
    batch = choose_batch(MODEL, machines, read_options(seq=4096))
    assert batch.gbs % 9 == 0
    assert batch.gbs % 128 == 0
    assert "Mi tokens" in batch.note


def test_more_compute_is_never_slower() -> None:
    machine = load_machine("h200", num_devices=64)
    plan = Plan(tp=2, pp=2, dp=16, ep=8, mbs=1, gbs=64, seq=4096, zero=1)
    steps = []
    for scale in (1.0, 1.5, 3.0):
        peaks = {k: v * scale for k, v in machine.chip.matrix_flop_per_s.items()}
        faster = dataclasses.replace(machine.chip, matrix_flop_per_s=peaks)
        e = estimate(MODEL, dataclasses.replace(machine, chip=faster), plan)
        assert isinstance(e, Estimate)
        steps.append(e.step_s)
        assert sum(loss.seconds for loss in waterfall(e).losses) == pytest.approx(e.step_s)
    assert steps[0] >= steps[1] >= steps[2]


def test_ties_are_named_where_published_results_give_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(step_s: float, *args: object, **kwargs: object) -> Interval:
        low_s, high_s = step_s * math.exp(-0.1), step_s * math.exp(0.1)
        return Interval(low_s=low_s, high_s=high_s, log_half_width=0.1, basis="50 published results")

    monkeypatch.setattr("fullmesh.outcomes.estimate.interval_for", interval)
    machine = load_machine("h200", num_devices=64)
    half = load_machine("h200", num_devices=32)
    near = dataclasses.replace(
        machine,
        id="near",
        chip=dataclasses.replace(machine.chip, hbm_bytes_per_s=machine.chip.hbm_bytes_per_s * 1.05),
    )
    c = compare(MODEL, [machine, half, near], batch=64)
    by_pair = {frozenset((r.a.num_devices, r.b.num_devices)): r for r in c.ratios}
    tie, differs = by_pair[frozenset((64,))], by_pair[frozenset((64, 32))]
    assert tie.tie is True
    assert tie.low < 1.0 < tie.high
    assert differs.tie is False
    assert differs.low > 1.0
    best = c.columns[0].best
    assert best is not None
    assert best.interval.low_s < best.step_s < best.interval.high_s
    assert "50 published results" in best.interval.basis


def test_a_plan_with_memory_to_spare_stands_beside_a_tight_one() -> None:
    machine = load_machine("h200", num_devices=8)
    first = compare(MODEL, [machine], batch=64).columns[0].found.best
    assert first is not None
    tight = dataclasses.replace(machine.chip, hbm_bytes=first.memory_bytes * 1.01)
    found = compare(MODEL, [dataclasses.replace(machine, chip=tight)], batch=64).columns[0].found
    assert found.best is not None
    assert found.roomy is not None
    assert found.roomy.memory_bytes <= 0.92 * tight.hbm_bytes
    assert found.against_best(found.roomy) >= 0.0
