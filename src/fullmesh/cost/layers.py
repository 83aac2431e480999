"""One layer of a model on one rank: products, attention, memory traffic and communication of every plan at once.

Every function takes columns over plans and returns an array of shape ``(num_plans, NUM_COMPONENTS)``.
Rank order is Megatron's: tensor, context, (expert,) data, pipeline, innermost first; it decides which tier of the
fabric a group's traffic crosses.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives import collective_s, expert_all_to_all_s
from fullmesh.cost.components import NUM_COMPONENTS, C
from fullmesh.cost.operators import (
    OperatorProfile,
    attention_s,
    gemm_s,
    grouped_gemm_s,
    load_profile,
    memory_bound_s,
)
from fullmesh.machine import Machine
from fullmesh.plan import DISPATCHERS, RECIPES, Plans
from fullmesh.plan.types import CP_KINDS, PRECISIONS, RECOMPUTES, TRAINABLES
from fullmesh.workload import (
    MLP,
    Attention,
    FeedForward,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoE,
)

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


class _Cost:
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


def layer_cost(s: Split, layer: Layer) -> Floats:
    """Components of one layer, shape ``(num_plans, NUM_COMPONENTS)``."""
    cost = _Cost(s)
    if layer.mixer is not None:
        _norm(cost)
        _mixer(cost, layer.mixer)
        cost.tensor_parallel(cost.full)
    if layer.ffn is not None:
        _norm(cost)
        _feed_forward(cost, layer.ffn)
    return cost.rows


def embedding_cost(s: Split) -> Floats:
    """Look-up of the embedding and the scattered gradient."""
    cost = _Cost(s)
    none = np.zeros(s.num)
    num_bytes = 2.0 * BF16_BYTES * s.tokens * s.model.hidden
    cost.memory(num_bytes, 2.0 * num_bytes, again=none, kernels=2.0)
    return cost.rows


def mtp_projection_cost(s: Split) -> Floats:
    """The projection of state and next embedding, side by side, to the hidden size (multi-token prediction)."""
    cost = _Cost(s)
    cost.linear(s.local_tokens, float(s.model.hidden), 2.0 * s.model.hidden)
    return cost.rows


def head_cost(s: Split) -> Floats:
    """Final norm, logits and cross-entropy. The head stays in BF16 in every recipe."""
    cost = _Cost(s)
    p = s.plans
    cost.full = np.zeros(s.num)
    vocab = s.model.vocab / p.tp
    cost.memory(
        2 * BF16_BYTES * s.local_tokens * s.model.hidden, 3 * BF16_BYTES * s.local_tokens * s.model.hidden
    )
    cost.linear(s.tokens, vocab, float(s.model.hidden), kernel=s.wide)
    # logits are read for the maximum, the sum and the loss, in FP32; the gradient overwrites them
    cost.memory(3.0 * FP32_BYTES * s.tokens * vocab, 2.0 * FP32_BYTES * s.tokens * vocab, kernels=4.0)
    num_bytes = BF16_BYTES * s.tokens * s.model.hidden
    one_way = np.where(
        p.sequence_parallel,
        collective_s(s.machine, "all_gather", num_bytes, p.tp),
        collective_s(s.machine, "all_reduce", num_bytes, p.tp),
    )
    cost.add(C.TP_F, 2.0 * collective_s(s.machine, "all_reduce", FP32_BYTES * s.tokens, p.tp))
    cost.add(C.TP_B, one_way)
    return cost.rows


def _norm(cost: _Cost) -> None:
    """Norm and residual of one half layer."""
    s = cost.s
    elements = s.local_tokens * s.model.hidden
    again = cost.share("layernorm")
    copies = 2.0 if s.model.sandwich_norm else 1.0
    # norm: read, write; residual: two reads, one write. Backward reads input, gradient and residual gradient.
    cost.memory(
        (2.0 * copies + 3.0) * BF16_BYTES * elements,
        (3.0 * copies + 2.0) * BF16_BYTES * elements,
        again=again,
        kernels=1.0 + copies,
    )


def _mixer(cost: _Cost, mixer: Mixer) -> None:
    if isinstance(mixer, Attention):
        _attention(cost, mixer)
    elif isinstance(mixer, LatentAttention):
        _latent_attention(cost, mixer)
    elif isinstance(mixer, Mamba2):
        _mamba(cost, mixer)
    else:
        _linear_attention(cost, mixer)


def _attention(cost: _Cost, a: Attention) -> None:
    s = cost.s
    p = s.plans
    h = float(s.model.hidden)
    heads = a.num_heads / p.tp
    # a key-value head cannot be split further than over its own ranks
    kv_heads = np.maximum(a.num_kv_heads / p.tp, 1.0)
    gate = heads if a.gated_output else 0.0
    values = 0.0 if a.shared_kv else kv_heads
    if a.q_lora_rank is None:
        cost.linear(s.tokens, (heads + kv_heads + values + gate) * a.head_dim, h)
    else:
        cost.linear(s.local_tokens, float(a.q_lora_rank), h)
        cost.linear(s.tokens, (heads + gate) * a.head_dim, float(a.q_lora_rank))
        cost.linear(s.tokens, (kv_heads + values) * a.head_dim, h)
    if a.rotary or a.qk_norm:
        elements = s.tokens * (heads + kv_heads) * a.head_dim
        passes = (1.0 if a.rotary else 0.0) + (1.0 if a.qk_norm else 0.0)
        cost.memory(
            2 * passes * BF16_BYTES * elements, 2.5 * passes * BF16_BYTES * elements, kernels=2.0 * passes
        )
    _core(cost, heads, kv_heads, a.head_dim, a.head_dim, a.window)
    if a.out_rank:
        # blocks of heads are projected apart: one product per group, together as many rows
        cost.linear(s.tokens * a.out_groups, float(a.out_rank), heads * a.head_dim / a.out_groups)
        cost.linear(s.tokens, h, float(a.out_rank * a.out_groups) / p.tp)
    else:
        cost.linear(s.tokens, h, heads * a.head_dim)


def _latent_attention(cost: _Cost, a: LatentAttention) -> None:
    s = cost.s
    p = s.plans
    h = float(s.model.hidden)
    heads = a.num_heads / p.tp
    qk = a.qk_nope_dim + a.qk_rope_dim
    if a.q_lora_rank is None:
        cost.linear(s.local_tokens, heads * qk, h)
    else:
        cost.linear(s.local_tokens, float(a.q_lora_rank), h)
        cost.linear(s.tokens, heads * qk, float(a.q_lora_rank), module="mla_up_proj")
    cost.linear(s.local_tokens, float(a.kv_lora_rank + a.qk_rope_dim), h)
    cost.linear(s.tokens, heads * (a.qk_nope_dim + a.v_dim), float(a.kv_lora_rank), module="mla_up_proj")
    # norms of the compressed vectors, rotary part, and the concatenated keys
    small = s.local_tokens * ((a.q_lora_rank or 0) + a.kv_lora_rank)
    joined = s.tokens * heads * (2.0 * qk + a.v_dim)
    cost.memory(
        2 * BF16_BYTES * (small + joined),
        3 * BF16_BYTES * (small + joined),
        again=cost.share("mla_up_proj"),
        kernels=6.0,
    )
    _core(cost, heads, heads, qk, a.v_dim, None)
    cost.linear(s.tokens, h, heads * a.v_dim)


def _core(cost: _Cost, heads: Floats, kv_heads: Floats, qk_dim: int, v_dim: int, window: int | None) -> None:
    """Softmax attention. Context parallelism splits the causal work evenly (zig-zag order)."""
    s = cost.s
    p = s.plans
    ulysses = p.cp_kind == CP_KINDS.index("ulysses")
    again = cost.share("core_attn")
    head_split = np.where(ulysses, p.cp, 1)
    seq_split = np.where(ulysses, 1, p.cp)
    shape = (
        p.mbs,
        p.seq / seq_split,
        p.seq.astype(np.float64),
        np.maximum(heads / head_split, 1.0),
        np.maximum(kv_heads / head_split, 1.0),
        qk_dim,
        v_dim,
    )
    forward = attention_s(s.profile, *shape, causal=True, window=window)
    backward = attention_s(s.profile, *shape, causal=True, window=window, backward=True)
    reach = np.minimum(p.seq, window) if window else p.seq
    # the first `reach` tokens of a sequence see fewer keys
    pairs = s.tokens * reach * (1.0 - reach / (2.0 * p.seq))
    flop = 2.0 * pairs * heads * (qk_dim + v_dim)
    # without a fused kernel scores are written, masked, normalised, dropped out and read back
    scores = s.tokens * p.seq * heads
    unfused_f = np.where(p.flash_attention, 0.0, memory_bound_s(s.profile, 6.0 * BF16_BYTES * scores))
    unfused_b = np.where(p.flash_attention, 0.0, memory_bound_s(s.profile, 8.0 * BF16_BYTES * scores))
    cost.add(C.ATTENTION_F, forward)
    cost.add(C.ATTENTION_B, backward)
    cost.add(C.ATTENTION_R, again * forward)
    cost.add(C.MEMORY_F, unfused_f)
    cost.add(C.MEMORY_B, unfused_b)
    cost.add(C.MEMORY_R, again * unfused_f)
    cost.add(C.FLOP_F, flop)
    cost.add(C.FLOP_R, again * flop)
    cost.launches(1.0, 2.0, again)

    kv_bytes = BF16_BYTES * s.tokens * kv_heads * (qk_dim + v_dim)
    hop = collective_s(s.machine, "send_recv", kv_bytes, np.minimum(p.cp, 2), p.tp)
    ring_f = (p.cp - 1) * hop
    # each hop hides behind the attention of the block that is already there; backward carries gradients too
    exposed_f = np.maximum(ring_f - forward, 0.0) + np.where(p.cp > 1, hop, 0.0)
    exposed_b = np.maximum(2.0 * ring_f - backward, 0.0) + np.where(p.cp > 1, 2.0 * hop, 0.0)
    qkvo_bytes = BF16_BYTES * s.tokens * (heads + kv_heads) * (qk_dim + v_dim)
    exchange = collective_s(s.machine, "all_to_all", qkvo_bytes, p.cp, p.tp)
    comm_f = np.where(ulysses, exchange, exposed_f)
    comm_b = np.where(ulysses, exchange, exposed_b)
    cost.add(C.CP_F, comm_f)
    cost.add(C.CP_B, comm_b)
    cost.add(C.CP_R, again * comm_f)


def _mamba(cost: _Cost, m: Mamba2) -> None:
    s = cost.s
    p = s.plans
    h = float(s.model.hidden)
    heads = m.num_heads / p.tp
    inner = heads * m.head_dim
    groups = np.maximum(m.num_groups / p.tp, 1.0)
    state = groups * m.state_dim
    cost.linear(s.tokens, 2.0 * inner + 2.0 * state + heads, h)
    conv = s.tokens * (inner + 2.0 * state)
    cost.memory(2 * BF16_BYTES * conv, 3 * BF16_BYTES * conv, kernels=2.0)
    # SSD: scores and outputs inside a chunk (causal half), states in and out of it
    inside = s.tokens * m.chunk * (groups * m.state_dim + inner)
    across = 4.0 * s.tokens * inner * m.state_dim
    cost.scan(inside + across, BF16_BYTES * s.tokens * (4.0 * inner + 4.0 * state))
    cost.memory(4 * BF16_BYTES * s.tokens * inner, 6 * BF16_BYTES * s.tokens * inner, kernels=2.0)
    cost.linear(s.tokens, h, inner)


def _linear_attention(cost: _Cost, a: LinearAttention) -> None:
    s = cost.s
    p = s.plans
    h = float(s.model.hidden)
    keys = a.num_key_heads * a.key_dim / p.tp
    values = a.num_value_heads * a.value_dim / p.tp
    cost.linear(s.tokens, 2.0 * keys + 2.0 * values + 2.0 * a.num_value_heads / p.tp, h)
    conv = s.tokens * (2.0 * keys + values)
    cost.memory(2 * BF16_BYTES * conv, 3 * BF16_BYTES * conv, kernels=2.0)
    # delta rule in chunks: scores, triangular solve and outputs inside, states in and out
    heads = a.num_value_heads / p.tp
    inside = 2.0 * s.tokens * a.chunk * heads * (2.0 * a.key_dim + a.value_dim)
    across = 4.0 * s.tokens * heads * a.key_dim * a.value_dim
    cost.scan(inside + across, BF16_BYTES * s.tokens * (4.0 * keys + 4.0 * values))
    cost.memory(4 * BF16_BYTES * s.tokens * values, 6 * BF16_BYTES * s.tokens * values, kernels=2.0)
    cost.linear(s.tokens, h, values)


def _feed_forward(cost: _Cost, ffn: FeedForward) -> None:
    if isinstance(ffn, MLP):
        _mlp(cost, ffn.ffn, gated=ffn.gated, module="mlp")
        cost.tensor_parallel(np.maximum(cost.full, cost.share("mlp")))
    else:
        _moe(cost, ffn)


def _mlp(cost: _Cost, width: int, *, gated: bool, module: str) -> None:
    s = cost.s
    h = float(s.model.hidden)
    inner = width / s.plans.tp
    up = 2.0 if gated else 1.0
    cost.linear(s.tokens, up * inner, h, module=module)
    _activation(cost, s.tokens * inner, gated=gated, again=cost.share(module), routed=False)
    cost.linear(s.tokens, h, inner, module=module)


def _activation(cost: _Cost, elements: Floats, *, gated: bool, again: Floats, routed: bool) -> None:
    up = 2.0 if gated else 1.0
    traffic = cost.route if routed else cost.memory
    traffic(
        (up + 1.0) * BF16_BYTES * elements, (2.0 * up + 1.0) * BF16_BYTES * elements, again=again, kernels=1.0
    )


def _moe(cost: _Cost, moe: MoE) -> None:
    s = cost.s
    p = s.plans
    h = float(s.model.hidden)
    width = float(moe.latent or s.model.hidden)
    # the router sees each token once; expert ranks lie inside tensor and data parallelism
    tokens = s.tokens / p.tp
    again = cost.share("moe")
    # the host waits for the counts of routed tokens, and issues many small kernels around them
    cost.add(C.SYNC_F, 1.0)
    cost.add(C.SYNC_B, 1.0)
    cost.add(C.SYNC_R, again)
    cost.linear(tokens, float(moe.num_experts), h, module="moe", kernel=s.wide)
    scores = tokens * moe.num_experts
    cost.route(4.0 * FP32_BYTES * scores, 3.0 * FP32_BYTES * scores, again=again, kernels=8.0)
    if moe.latent:
        cost.linear(tokens, width, h, module="moe")
        cost.linear(tokens, h, width, module="moe")
    rows = tokens * moe.topk * p.etp
    copies = rows * width
    # permutation before and after the experts: read and write every copy
    cost.route(4.0 * BF16_BYTES * copies, 4.0 * BF16_BYTES * copies, again=again, kernels=4.0)
    local_experts = np.maximum(moe.num_experts / p.ep, 1.0)
    inner = moe.ffn / p.etp
    up = 2.0 if moe.gated else 1.0
    cost.experts(rows, up * inner, width, local_experts)
    _activation(
        cost, rows * inner, gated=moe.gated, again=np.maximum(again, cost.share("moe_act")), routed=True
    )
    cost.experts(rows, width, inner, local_experts)
    recipe = RECIPES[PRECISIONS[int(p.precision[0])]]
    for name in DISPATCHERS:
        chosen = p.dispatcher == DISPATCHERS.index(name)
        if not chosen.any():
            continue
        dispatch, combine = expert_all_to_all_s(
            s.machine,
            tokens,
            recipe.dispatch_bytes * width,
            BF16_BYTES * width,
            moe.topk,
            p.ep,
            p.etp,
            num_experts=moe.num_experts,
            dispatcher="alltoall" if name == "allgather" else name,
        )
        gathered = collective_s(s.machine, "all_gather", BF16_BYTES * tokens * width * p.ep, p.ep, p.etp)
        scattered = collective_s(s.machine, "reduce_scatter", BF16_BYTES * tokens * width * p.ep, p.ep, p.etp)
        one_way = (gathered + scattered) if name == "allgather" else (dispatch + combine)
        inside = 2.0 * collective_s(
            s.machine, "all_gather", BF16_BYTES * rows * width / np.maximum(moe.topk, 1), p.etp
        )
        one_way = np.where(chosen & (p.ep > 1), one_way, 0.0) + np.where(chosen, inside, 0.0)
        cost.add(C.EP_F, one_way)
        cost.add(C.EP_B, one_way)
        cost.add(C.EP_R, again * one_way)
    if moe.shared_ffn:
        _mlp(cost, moe.shared_ffn, gated=moe.gated, module="moe")
        cost.tensor_parallel(again)
