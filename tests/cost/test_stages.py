"""What every stage holds, reduces and copies to the host."""

from __future__ import annotations

import dataclasses

import pytest

from fullmesh.cost.collectives.algorithms import collective_s
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.errors import PlanError
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload import ModelSpec
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


class TestReduction:
    """Groups over which gradients are reduced and states sharded."""

    MACHINE = load_machine("h100", num_devices=256)
    DENSE = load_model("llama-3-8b")

    def stages(self, model: ModelSpec, **fields: int) -> Stages:
        return stage_table(model, self.MACHINE, Plans.of([Plan(gbs=256, **fields)]), distinct=False)

    def test_subgroups_scatter_inside_and_reduce_across(self) -> None:
        whole, part = (self.stages(self.DENSE, dp=256, zero=1, shard=n) for n in (0, 8))
        held = whole.dense_parameters
        scatter = collective_s(self.MACHINE, "reduce_scatter", 4.0 * held, 8, 1)
        across = collective_s(self.MACHINE, "all_reduce", 4.0 * held / 8, 32, 8)
        assert part.gradient_s == pytest.approx(scatter + across)
        assert part.parameter_s == pytest.approx(collective_s(self.MACHINE, "all_gather", 2.0 * held, 8, 1))
        assert part.parameter_s[0] < whole.parameter_s[0]
        # every rank updates a larger share
        assert part.optimizer_s == pytest.approx(whole.optimizer_s * 256 / 8)
        same = self.stages(self.DENSE, dp=256, zero=1, shard=256)
        assert same.gradient_s == pytest.approx(whole.gradient_s)

    def test_tied_ends_add_up_their_gradients(self) -> None:
        tied = dataclasses.replace(self.DENSE, tied_embeddings=True)
        free, held = (self.stages(m, dp=64, pp=4) for m in (self.DENSE, tied))
        more = held.gradient_s - free.gradient_s
        table = 4.0 * tied.vocab * tied.hidden
        one = float(collective_s(self.MACHINE, "all_reduce", table, 2, 64 * 3))
        assert more == pytest.approx([one, 0.0, 0.0, one], abs=1e-12)
        # without a pipeline both ends are one table, of which there is less to reduce
        alone, both = (self.stages(m, dp=256) for m in (tied, self.DENSE))
        assert alone.gradient_s[0] < both.gradient_s[0]

    def test_small_optimizers_move_less(self) -> None:
        adam, small = (self.stages(self.DENSE, dp=256, optimizer_bytes=n) for n in (12, 8))
        assert small.optimizer_s == pytest.approx(adam.optimizer_s * (6 + 16) / (6 + 24))
