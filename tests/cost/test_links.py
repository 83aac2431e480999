"""Shares of the line rate: fitted from facts and published curves, a tier's own or that of the one most like it."""

from __future__ import annotations

import dataclasses

import pytest

from fullmesh.calibrate.collectives.fit import fit_links, read_start
from fullmesh.calibrate.collectives.points import read_curves
from fullmesh.catalog.facts import load_facts
from fullmesh.cost.collectives.constants import read_profile
from fullmesh.cost.collectives.links import load_links, reached_share
from fullmesh.errors import CatalogError
from fullmesh.machine import load_machine


def test_the_shipped_shares_are_what_facts_and_curves_give() -> None:
    assert fit_links(read_start(), read_curves()) == read_profile()["links"]


def test_a_share_is_the_measured_over_the_line_rate() -> None:
    machine = load_machine("cloudmatrix384")
    share = reached_share(machine, machine.tiers[1])
    assert share is not None
    reached = load_facts().used("ub-node", "reached_bandwidth").si_value
    assert share.efficiency == pytest.approx(reached / machine.tiers[1].bytes_per_s, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "tier", "whose"),
    [
        ("dgx-h100", 0, "dgx-h100"),
        ("h100-94-cluster", 0, "dgx-h100"),
        ("dgx-b300", 0, "dgx-b200"),
        ("gb300-nvl72", 0, "gb200-nvl72"),
        ("dgx-a100", 1, "dgx-h200"),
        ("h100-96-cluster", 1, "dgx-h200"),
        ("atlas-900-a2-podc", 0, "atlas-800t-a2"),
        ("atlas-900-a2-podc", 1, "cloudmatrix384"),
    ],
)
def test_a_tier_without_one_takes_that_of_the_tier_most_like_it(name: str, tier: int, whose: str) -> None:
    machine = load_machine(name)
    share = reached_share(machine, machine.tiers[tier])
    assert share is not None
    assert share.machine == whose


def test_a_machine_of_ones_own_takes_that_of_its_chip() -> None:
    mine = dataclasses.replace(load_machine("h200"), id="mine")
    share = reached_share(mine, mine.tiers[0])
    assert share is not None
    assert share.machine == "dgx-h200"
    assert reached_share(None, mine.tiers[0]) is None


def test_a_share_beyond_the_line_rate_is_refused() -> None:
    with pytest.raises(CatalogError, match="not physical"):
        dataclasses.replace(load_links()[0], efficiency=1.01)
