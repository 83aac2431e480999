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
from fullmesh.cost.formulas import in_flight_dualpipe, in_flight_interleaved, in_flight_plain
from fullmesh.cost.stages import Stages
from fullmesh.plan import RECIPES, RECOMPUTES, SCHEDULES, Plans
from fullmesh.plan.plan import TRAINABLES
from fullmesh.plan.shard import Shard, reduction_groups
from fullmesh.workload import Layer, ModelSpec
from fullmesh.workload.ops import BF16_BYTES, FP32_BYTES, Tokens

Floats = npt.NDArray[np.float64]


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
    states = held_states(
        p,
        dense=stages.dense_parameters,
        experts=stages.expert_parameters,
        products=stages.product_parameters,
        layers=stages.layers,
    )
    # a rank of DualPipe holds the stages of both ends
    held_twice = np.where((p.schedule == SCHEDULES.index("dualpipe")) & (p.pp > 1), 2.0, 1.0)
    parameters, gradients = states.parameters * held_twice, states.gradients * held_twice
    optimizer = states.optimizer

    saved, working = _layer_bytes(model, plans)
    per_stage = np.einsum("sk,sk->s", stages.kind_counts.astype(float), saved[i])
    if model.mtp_layers:
        block = np.sum([_saved(model, plans, layer)[0] for layer in model.prediction_block], axis=0)
        per_stage += stages.mtp * block[i]
    largest = np.max(np.where(stages.kind_counts > 0, working[i], 0.0), axis=1)
    full = (p.recompute == RECOMPUTES.index("full")) & (stages.layers > 0)
    in_flight = _in_flight(p, stages)
    activation = table.column("activation")[i] * per_stage * in_flight * (1.0 - p.offload_activations)
    logits = table.column("head")[i] * stages.head.clip(0, 1) * head_bytes(model, p)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Bytes of weights, gradients and optimizer states that a rank of a stage holds."""

    parameters: Floats
    gradients: Floats
    optimizer: Floats


def held_states(
    p: Plans, *, dense: Floats, experts: Floats, products: Floats, layers: npt.NDArray[np.int64]
) -> States:
    """What plans hold of a stage with these parameters on a rank, before ZeRO shards them.

    All of it is proportional to the parameters, so that dense ones and experts may be told apart and added up.

    Parameters
    ----------
    dense, experts, products : float array, shape (num_plans,)
        As in :class:`fullmesh.cost.stages.Stages`.
    layers : int array, shape (num_plans,)
    """
    groups = reduction_groups(p)

    def owned(stage: int) -> Floats:
        """Parameters left on a rank once ZeRO ``stage`` shards them."""
        sharded = p.zero >= stage
        return dense / np.where(sharded, groups.shard, 1) + experts / np.where(
            sharded, groups.expert_shard, 1
        )

    frozen = p.trainable == TRAINABLES.index("lora")
    fsdp = p.zero == 3
    # FSDP keeps the FP32 master as the parameter itself; other stacks keep a BF16 copy beside the optimizer's master
    per_layer = (dense + experts) / np.maximum(layers, 1)
    gathered = np.where(fsdp, 2.0 * BF16_BYTES * per_layer, 0.0)
    # FP8 parameters are their own copies, by rows and by columns; other recipes keep theirs beside the 16-bit values
    copies = np.array([recipe.weight_copy_bytes for recipe in RECIPES.values()])[p.precision]
    copies = np.where(fsdp | p.fp8_params | ~p.weight_cache, 0.0, copies) * (products + experts)
    gradient_bytes = np.where(fsdp, FP32_BYTES, p.grad_bytes.astype(float))
    gradient = gradient_bytes * owned(2) + np.where(p.grad_copy, BF16_BYTES * (dense + experts), 0.0)
    # the FP32 master is one of the optimizer's states, but FSDP holds it as the parameter
    states = p.optimizer_bytes - np.where(fsdp, FP32_BYTES, 0.0)
    optimizer = np.where(frozen, 0.0, states * owned(1))
    return States(
        parameters=np.where(fsdp, FP32_BYTES * owned(3) + gathered, BF16_BYTES * owned(3) + copies),
        gradients=np.where(frozen, 0.0, gradient),
        optimizer=optimizer * (1.0 - p.offload_optimizer),
    )


def head_bytes(model: ModelSpec, p: Plans) -> Floats:
    """Bytes of the logits of a micro-batch with what is kept beside them, rows of plans."""
    tokens = p.mbs * p.seq / p.cp
    # logits in BF16 and their FP32 copy, which the gradient overwrites; or a softmax and a gradient of their own
    logit_bytes = BF16_BYTES + FP32_BYTES * np.where(p.fused_loss, 1.0, 3.0)
    out: Floats = tokens * model.vocab / p.tp * logit_bytes
    return out


def _in_flight(p: Plans, stages: Stages) -> Floats:
    """Micro-batches whose activations a stage holds at once, in units of the whole stage."""
    pp, vpp, micro = p.pp.astype(float), p.vpp.astype(float), p.num_microbatches.astype(float)
    s = stages.index.astype(float)
    schedule = p.schedule
    return np.select(
        [
            schedule == SCHEDULES.index("gpipe"),
            schedule == SCHEDULES.index("dualpipe"),
            (vpp > 1) & (pp > 1),
        ],
        [
            micro,
            in_flight_dualpipe(micro, pp) * np.where(pp > 1, 1.0, 1.0 / (pp + 1.0)),
            in_flight_interleaved(micro, pp, vpp, s),
        ],
        in_flight_plain(micro, pp, s),
    )


def _layer_bytes(model: ModelSpec, plans: Plans) -> tuple[Floats, Floats]:
    """Saved bytes and working set of one layer of each kind, shape ``(num_plans, K)``."""
    columns = [_saved(model, plans, layer) for layer in model.kinds]
    return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)


def _saved(model: ModelSpec, p: Plans, layer: Layer) -> tuple[Floats, Floats]:
    """What one layer saves for its backward pass, and what it would save without recomputing whole layers."""
    shard = Shard(p)
    inputs = np.array([recipe.saved_input_bytes for recipe in RECIPES.values()])[p.precision]
    total = np.zeros(len(p))
    for saved in model.saved(layer):
        total += np.where(shard.keeps(saved), shard.saved_bytes(saved, input_bytes=inputs), 0.0)
    # a layer that is recomputed whole keeps its input alone
    kept = np.where(
        p.recompute == RECOMPUTES.index("full"),
        p.recompute_fraction * BF16_BYTES * shard.tokens(Tokens.LOCAL) * model.hidden
        + (1.0 - p.recompute_fraction) * total,
        total,
    )
    return kept, total
