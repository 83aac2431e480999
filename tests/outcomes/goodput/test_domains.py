"""Fault domains count what is wired, and what a fault does is what the fabric says."""

from __future__ import annotations

import pytest

from fullmesh.catalog.facts import load_facts
from fullmesh.catalog.faults import load_faults
from fullmesh.machine import load_machine
from fullmesh.network.summary import failure_rows
from fullmesh.network.wiring.build import load_topology
from fullmesh.outcomes.goodput.domains import exposures, members, scale_up


def test_a_cloudmatrix_has_the_parts_that_are_published() -> None:
    counts = members(load_machine("cloudmatrix384"))
    facts = load_facts()
    assert counts["l1"] == facts.used("cloudmatrix384", "num_l1_switches").value
    assert counts["l2"] == facts.used("cloudmatrix384", "num_l2_switches").value
    # modules at both ends of every scale-up link and of both levels of the network
    assert (
        counts["optical"] + 2 * counts["cable"] == facts.used("cloudmatrix384", "num_optical_modules").value
    )
    assert (counts["die"], counts["package"], counts["node"], counts["rack"]) == (768, 384, 48, 16)


def test_counts_grow_with_the_machine() -> None:
    one, many = (members(load_machine("cloudmatrix384", num_devices=n)) for n in (768, 98_304))
    assert many["die"] == 98_304
    for domain in ("package", "node", "l1", "l2", "optical", "cable", "power", "coolant"):
        assert many[domain] == pytest.approx(128 * one[domain])
    part = members(load_machine("cloudmatrix384", num_devices=384))
    assert part["l1"] == one["l1"] / 2


def test_switches_are_those_of_the_graph() -> None:
    for name, chips in (("gb200-nvl72", 18), ("cloudmatrix384", 336)):
        up = scale_up(load_machine(name))
        assert up is not None
        topology = load_topology(name)
        kind = topology.switches.tiers[0]
        assert (
            up.leaves == chips == int((topology.switches.tier == topology.switches.tiers.index(kind)).sum())
        )


@pytest.mark.parametrize(("domain", "part"), [("l2", "l2=1"), ("l1", "l1=1"), ("optical", "module=1")])
def test_lost_bandwidth_is_that_of_the_wired_graph(domain: str, part: str) -> None:
    found = {x.rate.domain: x for x in exposures(load_machine("cloudmatrix384"), load_faults().rates)}
    assert found[domain].effect == "slow"
    assert found[domain].scale_up
    change = failure_rows(load_topology("cloudmatrix384"), [part])[0].resplit_change
    assert change is not None
    assert -change == pytest.approx(found[domain].bandwidth_lost, rel=0.03)


def test_where_every_chip_is_needed_its_loss_stops_the_job() -> None:
    found = {x.rate.domain: x for x in exposures(load_machine("dgx-h100"), load_faults().rates)}
    assert found["l1"].effect == "stop"
    assert "l2" not in found
    assert found["optical"].effect == "slow"
    assert found["software"].effect == "restart"


def test_a_mesh_without_switches_has_none() -> None:
    assert scale_up(load_machine("atlas-800t-a2")) is None
    assert members(load_machine("atlas-800t-a2"))["l1"] == 0
