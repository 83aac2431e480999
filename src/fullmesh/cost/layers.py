"""One layer of a model on one rank: products, attention, memory traffic and communication of every plan at once.

Every function takes columns over plans and returns an array of shape ``(num_plans, NUM_COMPONENTS)``.
Rank order is Megatron's: tensor, context, (expert,) data, pipeline, innermost first; it decides which tier of the
fabric a group's traffic crosses.
"""

from __future__ import annotations

import numpy as np

from fullmesh.cost.collectives.algorithms import collective_s, expert_all_to_all_s
from fullmesh.cost.components import C
from fullmesh.cost.operators.kernels import attention_s, memory_bound_s
from fullmesh.cost.rank import BF16_BYTES, FP32_BYTES, Floats, RankCost, Split
from fullmesh.plan import DISPATCHERS, RECIPES
from fullmesh.plan.plan import CP_KINDS, PRECISIONS
from fullmesh.workload import (
    MLP,
    Attention,
    FeedForward,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    MoE,
)


def layer_cost(s: Split, layer: Layer) -> Floats:
    """Components of one layer, shape ``(num_plans, NUM_COMPONENTS)``."""
    cost = RankCost(s)
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
    cost = RankCost(s)
    none = np.zeros(s.num)
    num_bytes = 2.0 * BF16_BYTES * s.tokens * s.model.hidden
    cost.memory(num_bytes, 2.0 * num_bytes, again=none, kernels=2.0)
    return cost.rows


def mtp_projection_cost(s: Split) -> Floats:
    """The projection of state and next embedding, side by side, to the hidden size (multi-token prediction)."""
    cost = RankCost(s)
    cost.linear(s.local_tokens, float(s.model.hidden), 2.0 * s.model.hidden)
    return cost.rows


def head_cost(s: Split) -> Floats:
    """Final norm, logits and cross-entropy. The head stays in BF16 in every recipe."""
    cost = RankCost(s)
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


def _norm(cost: RankCost) -> None:
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


def _mixer(cost: RankCost, mixer: Mixer) -> None:
    if isinstance(mixer, Attention):
        _attention(cost, mixer)
    elif isinstance(mixer, LatentAttention):
        _latent_attention(cost, mixer)
    elif isinstance(mixer, Mamba2):
        _mamba(cost, mixer)
    else:
        _linear_attention(cost, mixer)


def _attention(cost: RankCost, a: Attention) -> None:
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


def _latent_attention(cost: RankCost, a: LatentAttention) -> None:
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


def _core(
    cost: RankCost, heads: Floats, kv_heads: Floats, qk_dim: int, v_dim: int, window: int | None
) -> None:
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


def _mamba(cost: RankCost, m: Mamba2) -> None:
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


def _linear_attention(cost: RankCost, a: LinearAttention) -> None:
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


def _feed_forward(cost: RankCost, ffn: FeedForward) -> None:
    if isinstance(ffn, MLP):
        _mlp(cost, ffn.ffn, gated=ffn.gated, module="mlp")
        cost.tensor_parallel(np.maximum(cost.full, cost.share("mlp")))
    else:
        _moe(cost, ffn)


def _mlp(cost: RankCost, width: int, *, gated: bool, module: str) -> None:
    s = cost.s
    h = float(s.model.hidden)
    inner = width / s.plans.tp
    up = 2.0 if gated else 1.0
    cost.linear(s.tokens, up * inner, h, module=module)
    _activation(cost, s.tokens * inner, gated=gated, again=cost.share(module), routed=False)
    cost.linear(s.tokens, h, inner, module=module)


def _activation(cost: RankCost, elements: Floats, *, gated: bool, again: Floats, routed: bool) -> None:
    up = 2.0 if gated else 1.0
    traffic = cost.route if routed else cost.memory
    traffic(
        (up + 1.0) * BF16_BYTES * elements, (2.0 * up + 1.0) * BF16_BYTES * elements, again=again, kernels=1.0
    )


def _moe(cost: RankCost, moe: MoE) -> None:
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
