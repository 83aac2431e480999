"""Power by what devices do, against measured nodes; caps, cooling, sites."""

from __future__ import annotations

import numpy as np
import pytest

from fullmesh.catalog.facts import load_facts
from fullmesh.catalog.run_inputs import load_run_inputs
from fullmesh.errors import ScenarioError
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.goodput.power import (
    MONTH_S,
    DevicePower,
    Phases,
    device_power,
    mean_pue,
    phases_of,
    site_fit,
)
from fullmesh.outcomes.waterfall import waterfall
from fullmesh.study.api import best_plans

INPUTS = load_run_inputs()
BUSY = Phases(matrix_s=0.7, memory_s=0.12, links_s=0.1, waiting_s=0.08)


def power(machine: str, phases: Phases = BUSY) -> DevicePower:
    found = device_power(load_machine(machine), phases, INPUTS)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def gpt3() -> Estimate:
    found = best_plans("gpt3-175b", "dgx-h100", chips=512, batch=2048, seq=2048, top=1).best
    assert found is not None
    return found


def test_an_eight_h100_node_is_within_twelve_per_cent_of_the_measured_peak() -> None:
    # arXiv 2412.08602: 8.4 to 8.5 kW at peak of a node rated 10.2 kW
    assert 8 * power("dgx-h100").peak_w == pytest.approx(8450.0, rel=0.12)


def test_mean_and_idle_power_of_measured_nodes(gpt3: Estimate) -> None:
    facts = load_facts()
    phases = phases_of(waterfall(gpt3))
    assert phases.step_s == pytest.approx(gpt3.step_s)
    node = 8 * power("dgx-h100", phases).training_w
    # liquid-cooled nodes draw 6.8 kW, air-cooled ones up to 7.9
    low, high = (f.si_value for f in facts.rows("dgx-h100", "unit_power_measured"))
    assert low * 0.95 < node < high * 1.05
    assert 8 * power("dgx-h100").resting_w == pytest.approx(
        facts.used("dgx-h100", "unit_power_idle").si_value, rel=0.12
    )
    assert 8 * power("dgx-b200").training_w == pytest.approx(
        facts.used("dgx-b200", "unit_power_measured").si_value, rel=0.12
    )


def test_energy_of_a_published_run_lies_within_its_interval(gpt3: Estimate) -> None:
    """MLPerf Training v4.0, GPT-3 175B on 64 nodes of eight H100: 415.4 kWh in 3,412 s, nodes alone."""
    p = power("dgx-h100", phases_of(waterfall(gpt3)))
    kwh = 512 * p.training_w * 3412 / 3.6e6
    half = np.exp(1.2816 * p.log_error)
    assert kwh / half < 415.4 < kwh * half


def test_an_unmeasured_machine_has_a_wide_bar_and_says_so() -> None:
    ascend, h100 = power("cloudmatrix384"), power("dgx-h100")
    assert ascend.log_error > 2 * h100.log_error
    assert "no machine of this family was measured" in ascend.basis
    assert "not published" in ascend.basis
    assert device_power(load_machine("atlas-800t-a2"), BUSY, INPUTS) is None


def test_waiting_draws_less_than_training() -> None:
    p = power("gb200-nvl72")
    assert p.resting_w < p.waiting_w < p.training_w < p.peak_w < p.nameplate_w
    more = power("gb200-nvl72", Phases(matrix_s=0.4, memory_s=0.12, links_s=0.4, waiting_s=0.08))
    assert more.training_w < p.training_w


def test_a_cap_lowers_clock_and_power_and_lengthens_the_step() -> None:
    machine = load_machine("dgx-h100")
    steps, means = [], []
    for cap in (700.0, 600.0, 500.0, 400.0, 300.0):
        found = device_power(machine, BUSY, INPUTS, cap)
        assert found is not None
        p, capped = found
        assert capped is not None
        steps.append(capped.step_factor)
        means.append(p.training_w)
    assert steps[0] == 1.0
    assert steps == sorted(steps)
    assert means == sorted(means, reverse=True)
    # half the power costs far less than half the speed: dynamic power goes with more than the square of the clock
    assert 1.1 < steps[-1] < 1.6
    with pytest.raises(ScenarioError, match="idle"):
        device_power(machine, BUSY, INPUTS, 80.0)


def test_cooling_by_month() -> None:
    months = (1.1,) * 6 + (1.4,) * 6
    at = mean_pue(months, np.array([MONTH_S, 7 * MONTH_S, 12 * MONTH_S, 24 * MONTH_S, 0.5 * MONTH_S]))
    np.testing.assert_allclose(at, [1.1, (6 * 1.1 + 1.4) / 7, 1.25, 1.25, 1.1])
    np.testing.assert_allclose(mean_pue((1.3,), np.array([5.0, 1e9])), 1.3)


def test_units_that_a_site_feeds() -> None:
    machine = load_machine("cloudmatrix384")
    fit = site_fit(machine, power("cloudmatrix384"), 1.15, 5e6)
    assert fit.units_low < fit.units < fit.units_high
    # by the catalog's 559 kW with cooling
    assert fit.units_nameplate == int(5e6 // (559e3 * 1.15)) == 7
    assert fit.units * fit.unit_peak_w <= 5e6 < (fit.units + 1) * fit.unit_peak_w
