"""Peak memory of one rank: what it holds, stage by stage, as a ledger.

Saved activations are counted tensor by tensor, as a fused implementation keeps them: inputs of products, queries, keys
and values, the output of attention and its row sums, the two halves of a gated activation. Formulas generalise
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import TermTable
from fullmesh.cost.stages import Stages, mtp_block
from fullmesh.plan import RECIPES, RECOMPUTES, SCHEDULES, Plans
from fullmesh.plan.plan import PRECISIONS, TRAINABLES
from fullmesh.workload import MLP, Attention, LatentAttention, Layer, Mamba2, ModelSpec, MoE

Floats = npt.NDArray[np.float64]
BF16 = 2.0
FP32 = 4.0
# FP32 master weight and two moments
OPTIMIZER_BYTES = 12.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLedger:
    """Bytes that one rank of every stage row holds at its peak; all columns have shape ``(num_stages,)``.

    ``allocated`` is what the framework's allocator has handed out, ``reserved`` what it has taken from the device, and
    ``used`` adds the device context, to be held against the capacity.
    """

    parameters: Floats
    gradients: Floats
    optimizer: Floats
    activations: Floats
    head: Floats
    transient: Floats
    buffers: Floats
    allocated: Floats
    reserved: Floats
    used: Floats


def memory_ledger(model: ModelSpec, stages: Stages, plans: Plans, table: TermTable) -> MemoryLedger:
    """Peak memory of every stage.

    Parameters
    ----------
    table : TermTable
        Values of the memory terms for each plan.
    """
    i = stages.plan
    p = plans.take(i)
    dense, experts = stages.dense_parameters, stages.expert_parameters
    ranks = p.dp * p.cp
    expert_ranks = np.maximum(ranks * p.tp // (p.ep * p.etp), 1)
    shard = np.where((p.zero == 3) & (p.shard > 0), np.minimum(p.shard, ranks), ranks)

    def owned(stage: int) -> Floats:
        """Parameters left on a rank once ZeRO ``stage`` shards them."""
        return dense / np.where(p.zero >= stage, shard, 1) + experts / np.where(
            p.zero >= stage, expert_ranks, 1
        )

    frozen = p.trainable == TRAINABLES.index("lora")
    fsdp = p.zero == 3
    # FSDP keeps the FP32 master as the parameter itself; other stacks keep a BF16 copy beside the optimizer's master
    per_layer = (dense + experts) / np.maximum(stages.layers, 1)
    gathered = np.where(fsdp, 2.0 * BF16 * per_layer, 0.0)
    weight_bytes = np.where(p.fp8_params, 2.0, BF16)
    parameters = np.where(fsdp, FP32 * owned(3) + gathered, weight_bytes * owned(3))
    gradient_bytes = np.where(fsdp, FP32, p.grad_bytes.astype(float))
    gradients = np.where(frozen, 0.0, gradient_bytes * owned(2))
    optimizer = np.where(frozen, 0.0, np.where(fsdp, OPTIMIZER_BYTES - FP32, OPTIMIZER_BYTES) * owned(1))
    optimizer = optimizer * (1.0 - p.offload_optimizer)

    saved, working = _layer_bytes(model, plans)
    per_stage = np.einsum("sk,sk->s", stages.kind_counts.astype(float), saved[i])
    if model.mtp_layers:
        block = np.sum([_saved(model, plans, layer)[0] for layer in mtp_block(model)], axis=0)
        per_stage += stages.mtp * block[i]
    largest = np.max(np.where(stages.kind_counts > 0, working[i], 0.0), axis=1)
    full = (p.recompute == RECOMPUTES.index("full")) & (stages.layers > 0)
    in_flight = _in_flight(p, stages)
    activation = table.column("activation")[i] * per_stage * in_flight * (1.0 - p.offload_activations)
    tokens = p.mbs * p.seq / p.cp
    # logits in BF16, their FP32 copy and the gradient that overwrites it
    logits = table.column("head")[i] * stages.head.clip(0, 1) * tokens * model.vocab / p.tp * (BF16 + FP32)
    transient = table.column("transient")[i] * np.where(full, largest, 0.5 * largest)
    buffers = table.column("static")[i] * np.ones(len(i))
    allocated = parameters + gradients + optimizer + activation + logits + transient + buffers
    reserved = allocated * (1.0 + table.column("reserved")[i])
    return MemoryLedger(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activation,
        head=logits,
        transient=transient,
        buffers=buffers,
        allocated=allocated,
        reserved=reserved,
        used=reserved + table.column("context")[i],
    )


def _in_flight(p: Plans, stages: Stages) -> Floats:
    """Micro-batches whose activations a stage holds at once, in units of the whole stage."""
    pp, vpp, micro = p.pp.astype(float), p.vpp.astype(float), p.num_microbatches.astype(float)
    s = stages.index.astype(float)
    plain = np.minimum(micro, pp - s)
    chunks = np.minimum(micro * vpp, 2.0 * (pp - s - 1.0) + (vpp - 1.0) * pp + 1.0)
    schedule = p.schedule
    return np.select(
        [
            schedule == SCHEDULES.index("gpipe"),
            schedule == SCHEDULES.index("dualpipe"),
            (vpp > 1) & (pp > 1),
        ],
        [micro, np.minimum(micro, pp + 1.0) * np.where(pp > 1, 1.0, 1.0 / (pp + 1.0)), chunks / vpp],
        plain,
    )


def _layer_bytes(model: ModelSpec, plans: Plans) -> tuple[Floats, Floats]:
    """Saved bytes and working set of one layer of each kind, shape ``(num_plans, K)``."""
    kinds = tuple(dict.fromkeys(model.layers))
    columns = [_saved(model, plans, layer) for layer in kinds]
    return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)


def _saved(model: ModelSpec, p: Plans, layer: Layer) -> tuple[Floats, Floats]:
    """What one layer saves for its backward pass, and what it would save without recomputing."""
    tokens = p.mbs * p.seq / p.cp
    local = tokens / np.where(p.sequence_parallel, p.tp, 1)
    h = float(model.hidden)
    inputs = np.array([RECIPES[PRECISIONS[int(c)]].saved_input_bytes for c in p.precision])
    keep_norm = np.where(p.recomputes("layernorm"), 0.0, 1.0)
    total = np.zeros(len(p))
    if layer.mixer is not None:
        # the residual as the norm's input, and the norm's output as the input of the first product
        total += BF16 * local * h + keep_norm * inputs * local * h
        total += _mixer_saved(p, layer, tokens, local, inputs)
    if layer.ffn is not None:
        total += BF16 * local * h + keep_norm * inputs * local * h
        if isinstance(layer.ffn, MLP):
            total += _mlp_saved(p, layer.ffn.ffn, layer.ffn.gated, tokens / p.tp, inputs, "mlp")
        else:
            total += _moe_saved(p, layer.ffn, h, tokens, inputs)
    kept = np.where(
        p.recompute == RECOMPUTES.index("full"),
        p.recompute_fraction * BF16 * local * h + (1.0 - p.recompute_fraction) * total,
        total,
    )
    return kept, total


def _mixer_saved(p: Plans, layer: Layer, tokens: Floats, local: Floats, inputs: Floats) -> Floats:
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        heads = mixer.num_heads / p.tp
        kv = np.maximum(mixer.num_kv_heads / p.tp, 1.0)
        qkv = BF16 * tokens * (heads + 2.0 * kv) * mixer.head_dim
        if mixer.qk_norm:
            qkv = qkv + BF16 * tokens * (heads + kv) * mixer.head_dim
        out = BF16 * tokens * heads * mixer.head_dim
        return qkv + out + FP32 * tokens * heads + _scores(p, heads)
    if isinstance(mixer, LatentAttention):
        heads = mixer.num_heads / p.tp
        qk = mixer.qk_nope_dim + mixer.qk_rope_dim
        small = 2.0 * BF16 * local * ((mixer.q_lora_rank or 0) + mixer.kv_lora_rank)
        # q, k with its copied rotary part, and v, as attention reads them
        up = BF16 * tokens * heads * (2.0 * qk + mixer.v_dim)
        up = np.where(p.recomputes("mla_up_proj"), 0.0, up)
        out = BF16 * tokens * heads * mixer.v_dim
        return small + up + out + FP32 * tokens * heads + _scores(p, heads)
    if isinstance(mixer, Mamba2):
        inner = mixer.num_heads * mixer.head_dim / p.tp
        state = np.maximum(mixer.num_groups / p.tp, 1.0) * mixer.state_dim
        # projection, convolution in and out, gate, output, and one state a chunk
        chunk_states = inner * mixer.state_dim / mixer.chunk
        return BF16 * tokens * (5.0 * inner + 4.0 * state) + FP32 * tokens * chunk_states
    assert mixer is not None
    keys = mixer.num_key_heads * mixer.key_dim / p.tp
    values = mixer.num_value_heads * mixer.value_dim / p.tp
    states = mixer.num_value_heads / p.tp * mixer.key_dim * mixer.value_dim / mixer.chunk
    return BF16 * tokens * (4.0 * keys + 5.0 * values) + FP32 * tokens * states


def _scores(p: Plans, heads: Floats) -> Floats:
    """Scores that an unfused attention keeps: softmax, dropout mask and dropped scores (5 bytes each)."""
    stored = ~p.flash_attention & ~p.recomputes("core_attn")
    return np.where(stored, 5.0 * p.mbs * p.seq / p.cp * p.seq * heads, 0.0)


def _mlp_saved(p: Plans, width: int, gated: bool, tokens: Floats, inputs: Floats, module: str) -> Floats:
    up = 2.0 if gated else 1.0
    saved = tokens * width * (up * BF16 + inputs)
    return np.where(p.recomputes(module), 0.0, saved)


def _moe_saved(p: Plans, moe: MoE, h: float, tokens: Floats, inputs: Floats) -> Floats:
    width = float(moe.latent or h)
    rows = tokens / p.tp * moe.topk * p.etp
    up = 2.0 if moe.gated else 1.0
    activation = np.where(p.recomputes("moe_act"), 0.0, inputs * rows * moe.ffn / p.etp)
    # dispatched tokens, the halves of the activation, its output; scores in FP32
    routed = inputs * rows * width + BF16 * up * rows * moe.ffn / p.etp + activation
    routed = routed + BF16 * rows * width + 2.0 * FP32 * tokens / p.tp * moe.num_experts
    routed = np.where(p.recomputes("moe"), 0.0, routed)
    if moe.shared_ffn:
        routed = routed + _mlp_saved(p, moe.shared_ffn, moe.gated, tokens / p.tp, inputs, "moe")
    return routed
