"""The work of one rank, component by component: products, grouped products, memory traffic, tensor-parallel exchange.

The blocks of :mod:`fullmesh.cost.layers` are written in these terms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives.algorithms import collective_s
from fullmesh.cost.components import NUM_COMPONENTS, C
from fullmesh.cost.operators.kernels import (
    OperatorProfile,
    gemm_s,
    grouped_gemm_s,
    load_profile,
    memory_bound_s,
)
from fullmesh.machine import Machine
from fullmesh.plan import RECIPES, Plans
from fullmesh.plan.plan import RECOMPUTES, TRAINABLES
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]
BF16_BYTES = 2.0
FP32_BYTES = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What the layers of one model share: plans, machine and the columns derived from them.

    Parameters
    ----------
    kernel, wide : str
        Kernel of the recipe's products, and of what stays in 16 bits in every recipe (head, router, scans).
    tokens : float array, shape (n,)
        Tokens of one micro-batch on one context-parallel rank.
    local_tokens : float array, shape (n,)
        Tokens of a rank where the sequence is split over the tensor-parallel group too.
    """

    plans: Plans
    machine: Machine
    model: ModelSpec
    profile: OperatorProfile
    kernel: str
    wide: str
    cast_bytes: float
    tokens: Floats
    local_tokens: Floats

    @property
    def num(self) -> int:
        """Number of plans."""
        return len(self.plans)


def split(model: ModelSpec, machine: Machine, plans: Plans, precision: str) -> Split:
    """Prepare the columns for plans that share one precision recipe."""
    recipe = RECIPES[precision]
    tokens = (plans.mbs * plans.seq / plans.cp).astype(np.float64)
    local = np.where(plans.sequence_parallel, tokens / plans.tp, tokens)
    return Split(
        plans=plans,
        machine=machine,
        model=model,
        profile=load_profile(machine.chip),
        kernel=recipe.kernel,
        wide="bf16" if "bf16" in machine.chip.matrix_flop_per_s else "fp16",
        cast_bytes=recipe.cast_bytes,
        tokens=tokens,
        local_tokens=local,
    )


class RankCost:
    """Accumulates the components of one layer."""

    def __init__(self, s: Split) -> None:
        self.s = s
        self.rows = np.zeros((s.num, NUM_COMPONENTS))
        self.full: Floats = (s.plans.recompute == RECOMPUTES.index("full")) * s.plans.recompute_fraction
        self.lora = s.plans.trainable == TRAINABLES.index("lora")

    def add(self, component: C, value: Floats | float) -> None:
        self.rows[:, component] += value

    def share(self, module: str | None) -> Floats:
        """Share of the layers in which the forward work of ``module`` is done again."""
        if module is None:
            return self.full
        named: Floats = np.maximum(
            self.full, self.s.plans.recomputes(module) * self.s.plans.recompute_fraction
        )
        return named

    def linear(
        self, m: Floats, n: Floats | float, k: Floats | float, *, module: str | None = None, kernel: str = ""
    ) -> None:
        """A dense product of ``m`` tokens: forward, gradient of the input, gradient of the weight."""
        s = self.s
        dtype = kernel or s.kernel
        n, k = np.broadcast_to(n, s.num), np.broadcast_to(k, s.num)
        forward = gemm_s(s.profile, m, n, k, dtype)
        again = self.share(module)
        self.add(C.LINEAR_F, forward)
        self.add(C.LINEAR_B, gemm_s(s.profile, m, k, n, dtype))
        self.add(C.LINEAR_W, np.where(self.lora, 0.0, gemm_s(s.profile, k, n, m, dtype)))
        self.add(C.LINEAR_R, again * forward)
        flop = 2.0 * m * n * k
        self.add(C.FLOP_F, flop)
        self.add(C.FLOP_R, again * flop)
        self.launches(1.0, 2.0, again)
        if s.cast_bytes and not kernel:
            # the input is cast on the way in, the gradient of the output on the way back
            self.memory(s.cast_bytes * m * k, s.cast_bytes * m * n, again=again, kernels=1.0)

    def experts(self, rows: Floats, n: Floats | float, k: Floats | float, local_experts: Floats) -> None:
        """A grouped product over the local experts."""
        s = self.s
        again = self.share("moe")
        n, k = np.broadcast_to(n, s.num), np.broadcast_to(k, s.num)
        forward = grouped_gemm_s(s.profile, rows, n, k, local_experts, s.kernel)
        weight = grouped_gemm_s(s.profile, rows, n, k, local_experts, s.kernel)
        # gradients of all local experts are read and written once per micro-batch in FP32
        traffic = 2.0 * FP32_BYTES * local_experts * n * k / s.machine.chip.hbm_bytes_per_s
        self.add(C.EXPERT_F, forward)
        self.add(C.EXPERT_B, grouped_gemm_s(s.profile, rows, k, n, local_experts, s.kernel))
        self.add(C.EXPERT_W, np.where(self.lora, 0.0, np.maximum(weight, traffic)))
        self.add(C.EXPERT_R, again * forward)
        flop = 2.0 * rows * n * k
        self.add(C.FLOP_F, flop)
        self.add(C.FLOP_R, again * flop)
        kernels = np.where(s.plans.grouped_experts, 2.0, local_experts)
        self.launches(kernels, 2.0 * kernels, again)
        if s.cast_bytes:
            self.route(s.cast_bytes * rows * k, s.cast_bytes * rows * n, again=again, kernels=2.0)

    def memory(
        self,
        forward_bytes: Floats,
        backward_bytes: Floats,
        *,
        again: Floats | None = None,
        kernels: float = 1.0,
    ) -> None:
        """Element-wise work bound by memory traffic."""
        self._traffic(C.MEMORY_F, C.MEMORY_B, C.MEMORY_R, forward_bytes, backward_bytes, again, kernels)

    def route(
        self,
        forward_bytes: Floats,
        backward_bytes: Floats,
        *,
        again: Floats | None = None,
        kernels: float = 1.0,
    ) -> None:
        """Memory-bound work of routing: permutation, scores, expert activations."""
        self._traffic(C.ROUTE_F, C.ROUTE_B, C.ROUTE_R, forward_bytes, backward_bytes, again, kernels)

    def _traffic(
        self, f: C, b: C, r: C, forward: Floats, backward: Floats, again: Floats | None, kernels: float
    ) -> None:
        share = self.full if again is None else again
        seconds = kernels * memory_bound_s(self.s.profile, forward / kernels)
        self.add(f, seconds)
        self.add(b, kernels * memory_bound_s(self.s.profile, backward / kernels))
        self.add(r, share * seconds)
        self.launches(kernels, kernels, share)

    def launches(self, forward: Floats | float, backward: Floats | float, again: Floats) -> None:
        self.add(C.LAUNCH_F, forward)
        self.add(C.LAUNCH_B, backward)
        self.add(C.LAUNCH_R, again * forward)

    def scan(self, flop: Floats, num_bytes: Floats) -> None:
        """A chunked state-space or delta-rule scan: its products at peak plus its traffic; the fit scales it."""
        peak = self.s.machine.chip.matrix_flop_per_s[self.s.wide]
        forward = flop / peak + memory_bound_s(self.s.profile, num_bytes)
        again = self.share("core_attn")
        self.add(C.SCAN_F, forward)
        self.add(C.SCAN_B, 2.0 * forward)
        self.add(C.SCAN_R, again * forward)
        self.add(C.FLOP_F, flop)
        self.add(C.FLOP_R, again * flop)
        self.launches(5.0, 8.0, again)

    def tensor_parallel(self, again: Floats) -> None:
        """Entry and exit of one tensor-parallel block."""
        s = self.s
        p = s.plans
        num_bytes = BF16_BYTES * s.tokens * s.model.hidden
        gather = collective_s(s.machine, "all_gather", num_bytes, p.tp)
        scatter = collective_s(s.machine, "reduce_scatter", num_bytes, p.tp)
        reduce = collective_s(s.machine, "all_reduce", num_bytes, p.tp)
        one_way = np.where(p.sequence_parallel, gather + scatter, reduce)
        self.add(C.TP_F, one_way)
        self.add(C.TP_B, one_way)
        self.add(C.TP_R, again * one_way)
