"""What is borrowed, announced or never seen is marked in a result, and widens its interval."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fullmesh.errors import ScenarioError
from fullmesh.machine import Borrowed, Machine, load_machine
from fullmesh.outcomes.caveats import caveats_of
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.outcomes.fields import estimate_record
from fullmesh.outcomes.intervals import interval_for, results_of_chip
from fullmesh.plan import Plan
from fullmesh.plan.software import software_of
from fullmesh.search import search
from fullmesh.search.fields import search_record
from fullmesh.study.scenario import load_scenario
from fullmesh.workload.readers.huggingface import load_model

LLAMA = load_model("llama-3-8b")


def width(machine: Machine, stack: str = "") -> float:
    """Half of the interval of a step whose effects are certain, as a logarithm."""
    return interval_for(1.0, 0.0, unproven=caveats_of(machine, stack).unproven).log_half_width


@pytest.mark.parametrize(
    "name", ["dgx-h100", "dgx-h200", "gb200-nvl72", "gb300-nvl72", "dgx-b200", "dgx-a100"]
)
def test_a_measured_chip_borrows_nothing(name: str) -> None:
    caveats = caveats_of(load_machine(name), "nemo-26.06")
    assert (caveats.borrowed, caveats.notes, caveats.unproven) == ((), (), "")


def test_kernels_and_collectives_of_another_are_named() -> None:
    def borrowed(name: str) -> dict[str, str]:
        return {b.what: b.source for b in caveats_of(load_machine(name)).borrowed}

    assert borrowed("dgx-b300") == {"kernels": "gb300"}
    assert borrowed("cloudmatrix384") == {"kernels": "ascend-910b2"}
    assert borrowed("atlas-900-a2-podc") == {"collectives of hccs": "ub", "collectives of roce": "infiniband"}
    # the network card counts only where the machine is larger than a supernode
    two = load_machine("cloudmatrix384", num_devices=1536)
    assert {b.what for b in caveats_of(two).borrowed} == {"kernels", "collectives of roce"}


def test_ten_results_of_its_own_vouch_for_a_chip_that_borrows() -> None:
    assert results_of_chip("b300") >= 10 > results_of_chip("h800")
    assert caveats_of(load_machine("dgx-b300")).unproven == ""
    assert width(load_machine("h800")) > width(load_machine("dgx-b300")) == width(load_machine("h200"))
    found = interval_for(1.0, 0.0, unproven=caveats_of(load_machine("h800")).unproven)
    assert "borrowed: kernels" in found.basis


def test_the_same_machine_with_a_rarer_bin_is_less_sure() -> None:
    common, rare = load_machine("910b3"), load_machine("910b4")
    assert width(rare) > width(common)


def test_a_users_chip_borrows_kernels_effects_and_software() -> None:
    h200 = load_machine("h200")
    mine = dataclasses.replace(h200, chip=dataclasses.replace(h200.chip, id="mine"))
    caveats = caveats_of(mine)
    assert {b.what: b.source for b in caveats.borrowed} == {
        "kernels": "h200",
        "effects of real steps": "the family H100",
    }
    assert width(mine) > width(h200)
    # software that a file leaves open is marked, and as sure as the machines that it is taken from
    soft = dataclasses.replace(h200, borrowed=(Borrowed(what="software (nemo)", source="others"),))
    assert caveats_of(soft).notes == ("software (nemo) taken from others",)
    assert width(soft) == width(h200)


def test_every_result_carries_them_and_so_does_its_json() -> None:
    machine = load_machine("h800", num_devices=8)
    found = estimate(
        LLAMA, machine, Plan(tp=2, dp=4, gbs=64, seq=4096, recompute="full", stack=software_of(machine).stack)
    )
    assert isinstance(found, Estimate)
    assert found.notes == ("kernels taken from h100-sxm",)
    record = estimate_record(found)
    assert record["borrowed"] == [{"what": "kernels", "from": "h100-sxm"}]
    assert record["notes"] == ["kernels taken from h100-sxm"]
    assert "borrowed" in record["interval_80"]["basis"]
    best = search(LLAMA, machine, gbs=64, seq=4096, top=1)
    assert best.notes[:1] == found.notes
    assert search_record(best)["notes"] == list(best.notes)


def test_announced_hardware_says_so() -> None:
    caveats = caveats_of(load_machine("atlas-950-superpod"))
    assert caveats.notes[0].startswith("announced")
    assert "announced" in caveats.unproven


SCENARIO = """
[model]
name = "llama-2-7b"
[machine]
name = "dgx-a100"
chips = 16
[plan]
stack = "{stack}"
pp = 2
mbs = 2
gbs = 2048
seq = 4096
zero = 1
"""


def test_an_unknown_stack_is_an_error_with_the_known_names(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(SCENARIO.format(stack="nonsense-xyz"), encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"plan\.toml:8: plan\.stack: unknown software stack") as caught:
        load_scenario(path)
    assert all(
        name in str(caught.value) for name in ("nemo-26.06", "mindspeed-2026", "torchtitan", "unknown")
    )


def test_the_stack_unknown_is_allowed_and_less_sure(tmp_path: Path) -> None:
    steps = []
    for stack in ("nemo-26.06", "unknown"):
        path = tmp_path / "plan.toml"
        path.write_text(SCENARIO.format(stack=stack), encoding="utf-8")
        s = load_scenario(path)
        found = estimate(s.model, s.machine, s.plan)
        assert isinstance(found, Estimate)
        steps.append(found)
    known, unknown = steps
    assert unknown.interval.log_half_width > known.interval.log_half_width
    said = "software: no published result of the stack 'unknown'"
    assert unknown.notes[0] == said
    assert said not in known.notes
    # what else a result may say, that it is predicted above every published run, is no matter of software
    assert all("is above the best" in note for note in (*known.notes, *unknown.notes[1:]))
