"""A plan's collectives on the wired graph."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fullmesh.errors import PlanError
from fullmesh.machine import load_machine
from fullmesh.plan import Plan
from fullmesh.replays.wired import plan_collectives, wired_collectives
from fullmesh.workload.readers.huggingface import load_model

CommandLine = Callable[..., tuple[int, str, str]]
EXAMPLE = "docs/examples/deepseek-v3-cloudmatrix384.toml"
DEEPSEEK = load_model("deepseek-v3")


def test_every_axis_that_communicates_is_there() -> None:
    plan = Plan(tp=4, cp=2, dp=24, ep=96, gbs=96, seq=8192)
    axes = [axis for axis, *_ in plan_collectives(DEEPSEEK, plan)]
    assert axes == ["tensor parallel", "experts", "context parallel", "gradients"]
    assert plan_collectives(load_model("llama-3-8b"), Plan(gbs=1)) == []


def test_levels_agree_where_all_flows_start_together() -> None:
    machine = load_machine("cloudmatrix384")
    plan = Plan(tp=4, dp=192, ep=256, gbs=9216, zero=3)
    bound = wired_collectives(DEEPSEEK, machine, plan, "bottleneck")
    shared = wired_collectives(DEEPSEEK, machine, plan, "max-min")
    for a, b in zip(bound, shared, strict=True):
        assert a.level_s == pytest.approx(b.level_s, rel=1e-6)
        assert a.level_s > 0


def test_large_gradients_agree_with_the_closed_form() -> None:
    """Bandwidth decides there, and the fabric does not block: the tiers and the graph say the same."""
    plan = Plan(tp=4, dp=192, ep=256, gbs=9216, zero=3)
    found = wired_collectives(DEEPSEEK, load_machine("cloudmatrix384"), plan, "bottleneck")
    gradients = next(c for c in found if c.axis == "gradients")
    assert abs(gradients.off) < 0.1


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(PlanError, match="unknown"):
        wired_collectives(DEEPSEEK, load_machine("h200"), Plan(gbs=1), "packets")  # type: ignore[arg-type]


def test_simulate_shows_them_at_a_level(command_line: CommandLine) -> None:
    code, printed, _ = command_line("simulate", EXAMPLE, "--level", "bottleneck", "--json")
    assert code == 0
    wired = json.loads(printed)["wired"]
    assert {w["axis"] for w in wired} == {"tensor parallel", "experts", "gradients"}
    assert all(w["level_s"] > 0 for w in wired)
    code, printed, _ = command_line("simulate", EXAMPLE, "--level", "max-min")
    assert code == 0
    assert "wired graph" in printed
