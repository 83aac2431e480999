"""Software by name or as a capability file of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullmesh.cost.effects import known_stacks
from fullmesh.errors import CatalogError
from fullmesh.evidence.mapping import row_stack, stack_options
from fullmesh.evidence.results import read_results
from fullmesh.machine.software import load_software
from fullmesh.plan.plan import FIELDS
from fullmesh.plan.software import CAPABILITIES, read_software
from fullmesh.study.api import best_plans, simulate
from fullmesh.study.options import named_software

OWN = """
label = "our fork"
stack = "nemo-26.06"
source = "our launch scripts"
date = 2026-11-01
[options]
kernels = "transformer-engine"
dispatcher = "alltoall"
grad_bytes = 4
[expert_options]
cuda_graph = "partial"
"""


def test_capabilities_are_fields_of_a_plan() -> None:
    assert set(CAPABILITIES) <= set(FIELDS)
    for entry in load_software().values():
        assert set(entry.options) | set(entry.expert_options) <= set(CAPABILITIES)
        for key, value in {**entry.options, **entry.expert_options}.items():
            FIELDS[key].check(value, where=entry.name)


def test_every_stack_of_the_results_has_its_options() -> None:
    stacks = {row_stack(r.framework, r.source, r.overlap_and_flags)[0] for r in read_results()}
    for stack in stacks:
        options = stack_options(stack)
        assert options is not None, stack
        for key, value in options.items():
            FIELDS[key].check(value, where=stack)
    assert set(known_stacks()) <= stacks
    assert stack_options("nemo-") is None
    assert stack_options("nobody's") is None


def test_names() -> None:
    assert named_software(None) is None
    assert named_software("mindspeed") is load_software()["mindspeed"]
    old = named_software("nemo-25.09")
    assert old is not None
    assert (old.stack, old.options["dispatcher"]) == ("nemo-25.09", "deepep")
    # what a planner decides is not part of software
    assert "zero" not in old.options
    with pytest.raises(CatalogError, match="unknown software 'nemo-99'") as error:
        named_software("nemo-99")
    assert "did you mean nemo" in error.value.hint
    assert '"unknown"' in error.value.hint


def test_a_capability_file(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(OWN)
    found = read_software(path, known_stacks())
    assert (found.name, found.label, found.stack) == ("ours", "our fork", "nemo-26.06")
    assert found.options_for(moe=False)["grad_bytes"] == 4
    assert found.options_for(moe=True)["cuda_graph"] == "partial"
    result = best_plans("mixtral-8x7b", "h200", chips=32, batch=64, software=path)
    assert result.best is not None
    assert (result.best.plan.dispatcher, result.best.plan.stack) == ("alltoall", "nemo-26.06")
    assert result.software.label == "our fork"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('label = "our fork"', "label = 5"), "label is no text"),
        (('"nemo-26.06"', '"nemo-99"'), "unknown stack"),
        (("[options]", "[option]"), "unknown key"),
        (("grad_bytes = 4", "grad_bytes = 3"), "grad_bytes"),
        (("grad_bytes = 4", "tp = 4"), "nothing that software decides"),
        (('"alltoall"', '"pigeons"'), "dispatcher"),
        (("[expert_options]", "[expert_options"), "TOML"),
    ],
)
def test_mistakes_in_a_capability_file(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(CatalogError, match=message) as error:
        named_software(path)
    assert str(path) in error.value.render()


def test_unknown_software_has_a_wider_interval(tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        '[model]\nname = "llama-3-70b"\n[machine]\nname = "h200"\nchips = 64\n[plan]\ntp = 4\npp = 4\ngbs = 256\n'
    )
    known, unknown = simulate(scenario), simulate(scenario, software="unknown")
    assert unknown.interval.log_half_width > known.interval.log_half_width
    assert any("unknown" in note for note in unknown.notes)
