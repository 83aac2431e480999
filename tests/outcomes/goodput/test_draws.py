"""Inputs are drawn within their ranges, by the seed, and what a user gives stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from fullmesh.catalog.run_inputs import load_run_inputs
from fullmesh.outcomes.goodput.draws import DRAWN, draw_inputs, draw_price

INPUTS = load_run_inputs()


@pytest.mark.parametrize("key", DRAWN)
def test_the_ends_of_a_range_are_p10_and_p90(key: str) -> None:
    row = INPUTS.row(key)
    assert 0 < row.low < row.high
    found = np.asarray(draw_inputs(INPUTS, 3, 40_000)[key])
    low, middle, high = np.quantile(found, (0.1, 0.5, 0.9))
    assert low == pytest.approx(row.low, rel=0.06)
    assert middle == pytest.approx(row.value, rel=0.03)
    assert high == pytest.approx(row.high, rel=0.06)
    # cut at P5 and P95: nothing lies far out
    assert found.max() <= row.value * (row.high / row.value) ** 1.3
    assert found.min() >= row.value * (row.low / row.value) ** 1.3


def test_a_share_stays_a_share() -> None:
    assert float(np.max(draw_inputs(INPUTS, 0, 100_000)["host_efficiency"])) <= 1.0


def test_draws_depend_on_seed_and_key_alone() -> None:
    one, same, other = (draw_inputs(INPUTS, s, 500) for s in (1, 1, 2))
    np.testing.assert_array_equal(one["restart"], same["restart"])
    assert not np.array_equal(one["restart"], other["restart"])
    # one input that is given changes no other: the same luck for every way to run
    given = draw_inputs(INPUTS.given({"detection": 60.0}), 1, 500)
    assert given["detection"] == 60.0
    np.testing.assert_array_equal(given["restart"], one["restart"])
    z = np.log(np.asarray(one["restart"]) / 360.0), np.log(np.asarray(one["warm_up"]) / 90.0)
    assert abs(np.corrcoef(z)[0, 1]) < 0.15


def test_choices_are_not_drawn() -> None:
    found = draw_inputs(INPUTS, 0, 10)
    for key in ("asynchronous", "spare_target", "recovery_spread", "power_matrix", "price_range"):
        assert found[key] == INPUTS[key]


def test_a_price_lies_within_its_range() -> None:
    low, high = np.quantile(draw_price(0.8, 1.5, 0, 20_000), (0.1, 0.9))
    assert (low, high) == (pytest.approx(0.8, rel=0.03), pytest.approx(1.5, rel=0.03))
