"""Copies to the host."""

from __future__ import annotations

import dataclasses

import pytest

from fullmesh.cost.stages import stage_table
from fullmesh.errors import PlanError
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload.readers.huggingface import load_model

LLAMA = load_model("llama-3-8b")
H200 = load_machine("h200")


def optimizer_s(share: float, machine: object = H200) -> float:
    plans = Plans.of([Plan(dp=8, gbs=8, offload_optimizer=share)])
    return float(stage_table(LLAMA, machine, plans).optimizer_s[0])  # type: ignore[arg-type]


def test_offloaded_states_cost_the_copy_over_the_host_link() -> None:
    """FP32 gradients go down and BF16 weights come back for the parameters that a rank owns."""
    owned = float(stage_table(LLAMA, H200, Plans.of([Plan(dp=8, gbs=8)])).dense_parameters[0]) / 8
    assert H200.chip.host_bytes_per_s == pytest.approx(63e9)
    assert optimizer_s(1.0) - optimizer_s(0.0) == pytest.approx(owned * 6 / 63e9)
    assert optimizer_s(0.5) - optimizer_s(0.0) == pytest.approx(owned * 3 / 63e9)


def test_a_faster_host_link_is_never_slower() -> None:
    assert optimizer_s(1.0, load_machine("gb200-nvl72")) < optimizer_s(1.0)


def test_a_chip_without_a_known_host_link_is_refused_only_when_it_is_needed() -> None:
    chip = dataclasses.replace(H200.chip, host_bytes_per_s=None)
    machine = dataclasses.replace(H200, chip=chip)
    assert optimizer_s(0.0, machine) > 0
    with pytest.raises(PlanError, match="host"):
        optimizer_s(1.0, machine)
