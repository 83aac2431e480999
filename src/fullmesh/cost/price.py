"""Seconds of a rank's operators and collectives on a machine, as components: one plan or a million, the same code.

Prices what :mod:`fullmesh.plan.shard` hands over and nothing else: it knows no layer of a model and no rule of a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives.algorithms import collective_s, expert_all_to_all_s
from fullmesh.cost.components import NUM_COMPONENTS, C
from fullmesh.cost.operators.kernels import attention_s, gemm_s, grouped_gemm_s, memory_bound_s
from fullmesh.cost.operators.profile import OperatorProfile, load_profile
from fullmesh.machine import Machine
from fullmesh.plan import DISPATCHERS, RECIPES, Plans, Recipe
from fullmesh.plan.plan import CP_KINDS, TRAINABLES
from fullmesh.plan.shard import (
    ExpertExchange,
    RankAttention,
    RankGroupedProduct,
    RankOperator,
    RankProduct,
    RankScan,
    RankSync,
    RankTraffic,
    Shard,
    TensorExchange,
    VocabularyExchange,
)
from fullmesh.workload.ops import BF16_BYTES, Block

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What all operators of plans that share one precision recipe are priced with.

    Parameters
    ----------
    kernel, wide : str
        Kernel of the recipe's products, and of what stays in 16 bits in every recipe (head, router, scans).
    """

    shard: Shard
    plans: Plans
    machine: Machine
    profile: OperatorProfile
    recipe: Recipe
    wide: str

    @classmethod
    def of(cls, machine: Machine, plans: Plans, precision: str) -> Pricing:
        """Prepare the columns for plans that share one precision recipe."""
        return cls(
            shard=Shard(plans),
            plans=plans,
            machine=machine,
            profile=load_profile(machine.chip),
            recipe=RECIPES[precision],
            wide="bf16" if "bf16" in machine.chip.matrix_flop_per_s else "fp16",
        )

    def blocks(self, blocks: Iterable[Block]) -> Floats:
        """Components of some blocks together, shape ``(num_plans, NUM_COMPONENTS)``."""
        cost = _Cost(self)
        for block in blocks:
            for op in self.shard.operators(block):
                cost.add_operator(op)
        return cost.rows


class _Cost:
    """Adds up the components of operators."""

    def __init__(self, pricing: Pricing) -> None:
        self.p = pricing
        self.rows = np.zeros((len(pricing.plans), NUM_COMPONENTS))
        self.lora = pricing.plans.trainable == TRAINABLES.index("lora")

    def add_operator(self, op: RankOperator) -> None:
        match op:
            case RankProduct():
                self._product(op)
            case RankGroupedProduct():
                self._grouped_product(op)
            case RankAttention():
                self._attention(op)
            case RankScan():
                self._scan(op)
            case RankTraffic():
                self._traffic(
                    op.forward_bytes, op.backward_bytes, again=op.again, kernels=op.kernels, routed=op.routed
                )
            case RankSync():
                self._add(C.SYNC_F, 1.0)
                self._add(C.SYNC_B, 1.0)
                self._add(C.SYNC_R, op.again)
            case TensorExchange():
                self._tensor_exchange(op)
            case VocabularyExchange():
                self._vocabulary_exchange(op)
            case ExpertExchange():
                self._expert_exchange(op)
            case _:
                assert_never(op)

    def _add(self, component: C, value: Floats | float) -> None:
        self.rows[:, component] += value

    def _launches(self, forward: Floats | float, backward: Floats | float, again: Floats) -> None:
        self._add(C.LAUNCH_F, forward)
        self._add(C.LAUNCH_B, backward)
        self._add(C.LAUNCH_R, again * forward)

    def _flop(self, flop: Floats, again: Floats) -> None:
        self._add(C.FLOP_F, flop)
        self._add(C.FLOP_R, again * flop)

    def _product(self, op: RankProduct) -> None:
        """Forward, gradient of the input, gradient of the weight."""
        p = self.p
        dtype = p.wide if op.wide else p.recipe.kernel
        m, n, k = op.m, op.n, op.k
        forward = gemm_s(p.profile, m, n, k, dtype)
        self._add(C.LINEAR_F, forward)
        self._add(C.LINEAR_B, gemm_s(p.profile, m, k, n, dtype))
        self._add(C.LINEAR_W, np.where(self.lora, 0.0, gemm_s(p.profile, k, n, m, dtype)))
        self._add(C.LINEAR_R, op.again * forward)
        self._flop(2.0 * m * n * k, op.again)
        self._launches(1.0, 2.0, op.again)
        if p.recipe.cast_bytes and not op.wide:
            # the input is cast on the way in, the gradient of the output on the way back
            cast, weight = self._cast_bytes(), self._weight_cast_bytes() * n * k
            self._traffic(cast * m * k + weight, cast * m * n, again=op.again)

    def _grouped_product(self, op: RankGroupedProduct) -> None:
        p = self.p
        rows, n, k, experts = op.rows, op.n, op.k, op.num_experts
        forward = grouped_gemm_s(p.profile, rows, n, k, experts, p.recipe.kernel)
        # gradients of all local experts are read and written once per micro-batch
        traffic = 2.0 * p.plans.grad_bytes * experts * n * k / p.machine.chip.hbm_bytes_per_s
        self._add(C.EXPERT_F, forward)
        self._add(C.EXPERT_B, grouped_gemm_s(p.profile, rows, k, n, experts, p.recipe.kernel))
        self._add(C.EXPERT_W, np.where(self.lora, 0.0, np.maximum(forward, traffic)))
        self._add(C.EXPERT_R, op.again * forward)
        self._flop(2.0 * rows * n * k, op.again)
        kernels = np.where(p.plans.grouped_experts, 2.0, experts)
        self._launches(kernels, 2.0 * kernels, op.again)
        if p.recipe.cast_bytes:
            cast, weight = self._cast_bytes(), self._weight_cast_bytes() * experts * n * k
            self._traffic(cast * rows * k + weight, cast * rows * n, again=op.again, kernels=2.0, routed=True)

    def _cast_bytes(self) -> Floats:
        """Traffic of casting an element; a cast inside the kernel before it writes the copies alone."""
        recipe = self.p.recipe
        written = min(recipe.weight_copy_bytes or recipe.saved_input_bytes, recipe.cast_bytes)
        return np.where(self.p.plans.fused_casts, written, recipe.cast_bytes)

    def _weight_cast_bytes(self) -> Floats:
        """Traffic of casting an element of a weight in every micro-batch; none where copies are kept over the step."""
        plans = self.p.plans
        return np.where(plans.weight_cache | plans.fp8_params, 0.0, self.p.recipe.cast_bytes)

    def _traffic(
        self,
        forward_bytes: Floats,
        backward_bytes: Floats,
        *,
        again: Floats,
        kernels: float = 1.0,
        routed: bool = False,
    ) -> None:
        f, b, r = (C.ROUTE_F, C.ROUTE_B, C.ROUTE_R) if routed else (C.MEMORY_F, C.MEMORY_B, C.MEMORY_R)
        seconds = kernels * memory_bound_s(self.p.profile, forward_bytes / kernels)
        self._add(f, seconds)
        self._add(b, kernels * memory_bound_s(self.p.profile, backward_bytes / kernels))
        self._add(r, again * seconds)
        self._launches(kernels, kernels, again)

    def _attention(self, op: RankAttention) -> None:
        p = self.p
        shape = (op.batch, op.queries, op.keys, op.heads, op.kv_heads, op.qk_dim, op.v_dim)
        forward = attention_s(p.profile, *shape, causal=True, window=op.window)
        backward = attention_s(p.profile, *shape, causal=True, window=op.window, backward=True)
        # without a fused kernel scores are written, masked, normalised, dropped out and read back
        fused = p.plans.flash_attention
        unfused_f = np.where(fused, 0.0, memory_bound_s(p.profile, 6.0 * BF16_BYTES * op.square))
        unfused_b = np.where(fused, 0.0, memory_bound_s(p.profile, 8.0 * BF16_BYTES * op.square))
        self._add(C.ATTENTION_F, forward)
        self._add(C.ATTENTION_B, backward)
        self._add(C.ATTENTION_R, op.again * forward)
        self._add(C.MEMORY_F, unfused_f)
        self._add(C.MEMORY_B, unfused_b)
        self._add(C.MEMORY_R, op.again * unfused_f)
        self._flop(op.flop, op.again)
        self._launches(1.0, 2.0, op.again)
        self._context_exchange(op, forward, backward)

    def _context_exchange(self, op: RankAttention, forward: Floats, backward: Floats) -> None:
        """Keys and values around a ring, or all heads exchanged for all tokens (Ulysses)."""
        machine, plans = self.p.machine, self.p.plans
        hop = collective_s(machine, "send_recv", op.key_value_bytes, np.minimum(plans.cp, 2), plans.tp)
        ring = (plans.cp - 1) * hop
        # each hop hides behind the attention of the block that is already there; backward carries gradients too
        exposed_f = np.maximum(ring - forward, 0.0) + np.where(plans.cp > 1, hop, 0.0)
        exposed_b = np.maximum(2.0 * ring - backward, 0.0) + np.where(plans.cp > 1, 2.0 * hop, 0.0)
        exchange = collective_s(machine, "all_to_all", op.exchanged_bytes, plans.cp, plans.tp)
        ulysses = plans.cp_kind == CP_KINDS.index("ulysses")
        one_way = np.where(ulysses, exchange, exposed_f)
        self._add(C.CP_F, one_way)
        self._add(C.CP_B, np.where(ulysses, exchange, exposed_b))
        self._add(C.CP_R, op.again * one_way)

    def _scan(self, op: RankScan) -> None:
        """Products at peak plus traffic; the fit scales it."""
        peak = self.p.machine.chip.matrix_flop_per_s[self.p.wide]
        forward = op.flop / peak + memory_bound_s(self.p.profile, op.num_bytes)
        self._add(C.SCAN_F, forward)
        self._add(C.SCAN_B, 2.0 * forward)
        self._add(C.SCAN_R, op.again * forward)
        self._flop(op.flop, op.again)
        self._launches(5.0, 8.0, op.again)

    def _tensor_exchange(self, op: TensorExchange) -> None:
        machine, plans = self.p.machine, self.p.plans
        gather = collective_s(machine, "all_gather", op.num_bytes, plans.tp)
        scatter = collective_s(machine, "reduce_scatter", op.num_bytes, plans.tp)
        reduce = collective_s(machine, "all_reduce", op.num_bytes, plans.tp)
        one_way = np.where(plans.sequence_parallel, gather + scatter, reduce)
        self._add(C.TP_F, one_way)
        self._add(C.TP_B, one_way)
        self._add(C.TP_R, op.again * one_way)

    def _vocabulary_exchange(self, op: VocabularyExchange) -> None:
        machine, plans = self.p.machine, self.p.plans
        one_way = np.where(
            plans.sequence_parallel,
            collective_s(machine, "all_gather", op.num_bytes, plans.tp),
            collective_s(machine, "all_reduce", op.num_bytes, plans.tp),
        )
        self._add(C.TP_F, 2.0 * collective_s(machine, "all_reduce", op.statistics_bytes, plans.tp))
        self._add(C.TP_B, one_way)

    def _expert_exchange(self, op: ExpertExchange) -> None:
        machine, plans = self.p.machine, self.p.plans
        inside = 2.0 * collective_s(machine, "all_gather", op.gathered_bytes, plans.etp)
        for code, name in enumerate(DISPATCHERS):
            chosen = plans.dispatcher == code
            if not chosen.any():
                continue
            one_way = np.where(plans.ep > 1, self._dispatched_s(op, name), 0.0) + inside
            one_way = np.where(chosen, one_way, 0.0)
            self._add(C.EP_F, one_way)
            self._add(C.EP_B, one_way)
            self._add(C.EP_R, op.again * one_way)

    def _dispatched_s(self, op: ExpertExchange, dispatcher: str) -> Floats:
        """One dispatch and one combine; ``allgather`` gathers all tokens everywhere instead."""
        machine, plans = self.p.machine, self.p.plans
        if dispatcher == "allgather":
            num_bytes = BF16_BYTES * op.tokens * op.width * plans.ep
            gathered = collective_s(machine, "all_gather", num_bytes, plans.ep, plans.etp)
            return gathered + collective_s(machine, "reduce_scatter", num_bytes, plans.ep, plans.etp)
        dispatch, combine = expert_all_to_all_s(
            machine,
            op.tokens,
            self.p.recipe.dispatch_bytes * op.width,
            BF16_BYTES * op.width,
            op.topk,
            plans.ep,
            plans.etp,
            num_experts=op.num_experts,
            dispatcher=dispatcher,
        )
        return dispatch + combine
