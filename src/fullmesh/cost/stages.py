"""Pipeline stages of many plans as one table: the sum of their layers, their parameters and their per-step traffic."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives.algorithms import collective_s
from fullmesh.cost.components import NUM_COMPONENTS, C
from fullmesh.cost.price import Pricing
from fullmesh.errors import PlanError
from fullmesh.machine import Machine
from fullmesh.plan import Plans
from fullmesh.plan.layout import StageLayout, stage_layout
from fullmesh.plan.plan import PRECISIONS, TRAINABLES
from fullmesh.plan.shard import ReductionGroups, reduction_groups
from fullmesh.workload import ModelSpec
from fullmesh.workload.ops import BF16_BYTES, FP32_BYTES
from fullmesh.workload.parameters import layer_parameters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# An optimizer reads the gradient and writes the BF16 copy of a weight; its states it reads and writes.
UPDATE_BYTES = FP32_BYTES + BF16_BYTES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Distinct stages of every plan, S rows ordered by plan.

    Parameters
    ----------
    plan : int array, shape (S,)
        Index of the plan that a stage belongs to.
    multiplicity : int array, shape (S,)
        Stages of that plan with the same composition.
    index : int array, shape (S,)
        Lowest pipeline rank with that composition (it holds the most micro-batches).
    components : float array, shape (S, NUM_COMPONENTS)
        Seconds (or counts) of one micro-batch.
    layers, embedding, head, mtp : int array, shape (S,)
        Layers (with those of MTP modules), embeddings, heads (with those of MTP modules) and MTP modules.
    kind_counts : int array, shape (S, K)
        Layers by kind, in the order of ``kinds`` of the layout.
    dense_parameters, expert_parameters : float array, shape (S,)
        Parameters that one rank holds before ZeRO shards them.
    product_parameters : float array, shape (S,)
        Dense parameters without embeddings and head: those whose products run in the recipe's precision.
    gradient_s, parameter_s : float array, shape (S,)
        Reduction of gradients and gathering of parameters once a step.
    optimizer_s : float array, shape (S,)
    send_s : float array, shape (S,)
        One activation sent to the next stage.
    """

    plan: Ints
    multiplicity: Ints
    index: Ints
    components: Floats
    layers: Ints
    embedding: Ints
    head: Ints
    mtp: Ints
    kind_counts: Ints
    dense_parameters: Floats
    expert_parameters: Floats
    product_parameters: Floats
    gradient_s: Floats
    parameter_s: Floats
    optimizer_s: Floats
    send_s: Floats

    @property
    def starts(self) -> Ints:
        """First row of every plan."""
        return np.flatnonzero(np.diff(self.plan, prepend=-1)).astype(np.int64)

    def max(self, values: Floats) -> Floats:
        """Largest of ``values`` within each plan."""
        out: Floats = np.maximum.reduceat(values, self.starts)
        return out

    def sum(self, values: Floats) -> Floats:
        """Sum of ``values`` over all stages of each plan, repeated ones counted."""
        out: Floats = np.add.reduceat(values * self.multiplicity, self.starts)
        return out


def stage_table(model: ModelSpec, machine: Machine, plans: Plans, *, distinct: bool = True) -> Stages:
    """Cost of the stages of every plan of one model on one machine.

    Parameters
    ----------
    distinct : bool
        Merge stages of equal composition; otherwise one row a stage, in order.
    """
    pieces = []
    for code in np.unique(plans.precision):
        mask = np.flatnonzero(plans.precision == code)
        pieces.append(
            (mask, _one_precision(model, machine, plans.take(mask), PRECISIONS[int(code)], distinct))
        )
    return pieces[0][1] if len(pieces) == 1 else _merge(pieces)


def _one_precision(
    model: ModelSpec, machine: Machine, plans: Plans, precision: str, distinct: bool
) -> Stages:
    pricing = Pricing.of(machine, plans, precision)
    kinds = model.kinds
    costs = np.stack([pricing.blocks(model.blocks(layer)) for layer in kinds])
    embed, head = pricing.blocks([model.embedding_block]), pricing.blocks([model.head_block])
    mtp = pricing.blocks(model.prediction_blocks()) if model.mtp_layers else head
    rows: list[dict[str, npt.NDArray[np.generic]]] = []
    groups: dict[tuple[int, int, str], list[int]] = {}
    for i, key in enumerate(zip(plans.pp.tolist(), plans.vpp.tolist(), plans.layout.tolist(), strict=True)):
        groups.setdefault(key, []).append(i)
    for (pp, vpp, text), members in groups.items():
        layout = stage_layout(model, pp, vpp, text)
        counts, index, multiplicity = compositions(layout, distinct)
        who = np.array(members)
        k = len(kinds)
        per_stage = np.einsum("sk,knc->nsc", counts[:, :k].astype(float), costs[:, who])
        per_stage += counts[None, :, k, None] * embed[who][:, None]
        per_stage += counts[None, :, k + 1, None] * head[who][:, None]
        per_stage += counts[None, :, k + 2, None] * mtp[who][:, None]
        n, num = len(who), len(index)
        rows.append(
            {
                "plan": np.repeat(who, num),
                "multiplicity": np.tile(multiplicity, n),
                "index": np.tile(index, n),
                "components": per_stage.reshape(n * num, NUM_COMPONENTS),
                "counts": np.tile(counts, (n, 1)),
            }
        )
    order = np.argsort(np.concatenate([r["plan"] for r in rows]), kind="stable")
    joined = {key: np.concatenate([r[key] for r in rows])[order] for key in rows[0]}
    return _with_parameters(model, machine, plans, joined)


def _host_copies_s(machine: Machine, offloaded: Floats) -> Floats:
    """Gradients to the host and updated weights back, for the parameters whose optimizer states live there.

    The host's own arithmetic is taken to hide behind the copies.

    Raises
    ------
    PlanError
        States are offloaded, and the catalog gives no link to the host for this chip.
    """
    if not offloaded.any():
        return np.zeros_like(offloaded)
    rate = machine.chip.host_bytes_per_s
    if rate is None:
        raise PlanError(
            f"the link of {machine.chip.name} to its host is not in the catalog",
            where="offload_optimizer",
            hint="add a fact host_bandwidth, or keep the states on the device",
        )
    return offloaded * (FP32_BYTES + BF16_BYTES) / rate


def compositions(layout: StageLayout, distinct: bool) -> tuple[Ints, Ints, Ints]:
    """Distinct rows of (layers by kind, embedding, head, mtp), the first rank of each, and how often it occurs."""
    table = np.column_stack([layout.counts, layout.embedding, layout.head, layout.mtp])
    if not distinct:
        return table, np.arange(len(table)), np.ones(len(table), dtype=np.int64)
    _, first, multiplicity = np.unique(table, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return table[first[order]], first[order].astype(np.int64), multiplicity[order].astype(np.int64)


def _with_parameters(
    model: ModelSpec, machine: Machine, plans: Plans, rows: dict[str, npt.NDArray[np.generic]]
) -> Stages:
    plan = rows["plan"].astype(np.int64)
    counts = rows["counts"].astype(np.int64)
    k = len(model.kinds)
    layers = counts[:, :k]
    dense, experts, products = held_parameters(
        model, counts, plans.pp[plan], plans.tp[plan], plans.ep[plan] * plans.etp[plan]
    )
    p = plans.take(plan)
    components = rows["components"].astype(np.float64)
    sharded = p.zero == 3
    if sharded.any():
        gather_s, scatter_s = sharded_s(machine, p, dense, experts)
        components[:, C.FSDP_F] = np.where(sharded, gather_s, 0.0)
        components[:, C.FSDP_B] = np.where(sharded, gather_s + scatter_s, 0.0)
    gradient, parameter = data_parallel_s(machine, p, dense, experts)
    gradient = gradient + tied_ends_s(model, machine, p, counts[:, k] + counts[:, k + 1] > 0)
    optimizer = optimizer_s(machine, p, dense, experts)
    send = send_s(model, machine, p)
    return Stages(
        plan=plan,
        multiplicity=rows["multiplicity"].astype(np.int64),
        index=rows["index"].astype(np.int64),
        components=components,
        layers=layers.sum(axis=1) + counts[:, k + 2],
        mtp=counts[:, k + 2],
        embedding=counts[:, k],
        head=counts[:, k + 1] + counts[:, k + 2],
        kind_counts=layers,
        dense_parameters=dense,
        expert_parameters=experts,
        product_parameters=products,
        gradient_s=gradient,
        parameter_s=parameter,
        optimizer_s=optimizer,
        send_s=send,
    )


def held_parameters(
    model: ModelSpec, counts: Ints, pp: Ints, tp: Ints, expert_ranks: Ints
) -> tuple[Floats, Floats, Floats]:
    """Parameters that one rank of a stage holds before ZeRO shards them: dense ones, experts, dense ones of products.

    Parameters
    ----------
    counts : int array, shape (S, K + 3)
        Layers by kind, embeddings, heads and MTP modules of each stage.
    pp, tp, expert_ranks : int array, shape (S,)
        Stages, tensor-parallel ranks, and ranks that share the experts.
    """
    kinds = model.kinds
    k = len(kinds)
    layers = counts[:, :k]
    held = [layer_parameters(model, layer) for layer in kinds]
    mtp_held = [layer_parameters(model, layer) for layer in model.prediction_block]
    # an MTP module also projects the state and the next embedding, side by side, to the hidden size
    mtp_dense = sum(p.dense for p in mtp_held) + 2.0 * model.hidden**2
    table = float(model.vocab * model.hidden)
    # tied embeddings still live on both ends of a pipeline
    tied_once = model.tied_embeddings & (pp == 1)
    vocab_tables = counts[:, k] + np.where(tied_once, 0, counts[:, k + 1])
    products = (layers @ np.array([p.dense for p in held], dtype=float) + counts[:, k + 2] * mtp_dense) / tp
    ends = model.learned_positions * model.hidden + model.other_parameters
    dense = products + (vocab_tables * table + counts[:, k] * ends) / tp
    experts = layers @ np.array([p.expert for p in held], dtype=float)
    experts = (experts + counts[:, k + 2] * sum(p.expert for p in mtp_held)) / expert_ranks
    return dense, experts, products


def optimizer_s(machine: Machine, p: Plans, dense: Floats, experts: Floats) -> Floats:
    """Seconds in which a rank updates what it owns of these parameters, rows of plans."""
    g = reduction_groups(p)
    frozen = p.trainable == TRAINABLES.index("lora")
    sharded = p.zero > 0
    owned = dense / np.where(sharded, g.shard, 1) + experts / np.where(sharded, g.expert_shard, 1)
    traffic = UPDATE_BYTES + 2.0 * p.optimizer_bytes
    here = np.where(frozen, 0.0, owned * traffic / machine.chip.hbm_bytes_per_s)
    return here + np.where(frozen, 0.0, _host_copies_s(machine, p.offload_optimizer * owned))


def send_s(model: ModelSpec, machine: Machine, p: Plans) -> Floats:
    """Seconds of one activation sent to the next stage."""
    tokens = p.mbs * p.seq / p.cp / np.where(p.sequence_parallel, p.tp, 1)
    one = collective_s(
        machine, "send_recv", BF16_BYTES * tokens * model.hidden, np.minimum(p.pp, 2), p.tp * p.cp * p.dp
    )
    return np.where(p.pp > 1, one, 0.0)


def data_parallel_s(machine: Machine, p: Plans, dense: Floats, experts: Floats) -> tuple[Floats, Floats]:
    """Gradient reduction and parameter gathering once a step (ZeRO-3 gathers inside the layers instead).

    Rows of plans with the parameters of a stage. What dense ones take and what experts take adds up.
    """
    g = reduction_groups(p)
    grad = p.grad_bytes.astype(float)
    frozen = p.trainable == TRAINABLES.index("lora")

    def over(kind: str, bytes_each: Floats, dense_ranks: Ints, expert_ranks: Ints) -> Floats:
        return _of_both(
            machine, kind, g, (dense * bytes_each, dense_ranks), (experts * bytes_each, expert_ranks)
        )

    # shard groups that do not span all ranks still reduce their gradient shards over the replicas
    apart = dataclasses.replace(g, stride=g.stride * g.shard, expert_stride=g.expert_stride * g.expert_shard)
    replicas = _of_both(
        machine, "all_reduce", apart,
        (dense * grad / g.shard, g.size // g.shard),
        (experts * grad / g.expert_shard, g.expert_size // g.expert_shard),
    )  # fmt: skip
    scattered = over("reduce_scatter", grad, g.shard, g.expert_shard) + replicas
    reduce = np.where(p.zero > 0, scattered, over("all_reduce", grad, g.size, g.expert_size))
    gathered = np.where(p.zero > 0, over("all_gather", _gather_bytes(p), g.shard, g.expert_shard), 0.0)
    gradient = np.where(p.zero == 3, replicas, reduce)
    return np.where(frozen, 0.0, gradient), np.where(frozen | (p.zero == 3), 0.0, gathered)


def _of_both(
    machine: Machine,
    kind: str,
    g: ReductionGroups,
    dense: tuple[Floats, Ints],
    experts: tuple[Floats, Ints],
) -> Floats:
    """Seconds of a collective over bytes and ranks of dense weights, then over those of experts where there are any."""
    out = np.zeros(len(g.size))
    for (num_bytes, ranks), stride in ((dense, g.stride), (experts, g.expert_stride)):
        if num_bytes.any():
            out = out + np.where(num_bytes > 0, collective_s(machine, kind, num_bytes, ranks, stride), 0.0)
    return out


def tied_ends_s(
    model: ModelSpec, machine: Machine, p: Plans, at_end: npt.NDArray[np.bool_]
) -> Floats | float:
    """Both ends of a pipeline add up the gradients of the table that they share; ``at_end`` are stages that hold it."""
    if not model.tied_embeddings:
        return 0.0
    table = p.grad_bytes * float(model.vocab * model.hidden) / p.tp
    stride = p.tp * p.cp * p.dp * np.maximum(p.pp - 1, 1)
    frozen = p.trainable == TRAINABLES.index("lora")
    each = collective_s(machine, "all_reduce", table, np.minimum(p.pp, 2), stride)
    return np.where((p.pp > 1) & at_end & ~frozen, each, 0.0)


def _gather_bytes(p: Plans) -> Floats:
    """Bytes an element takes when parameters are gathered."""
    return np.where(p.fp8_params, 1.0, BF16_BYTES)


def sharded_s(machine: Machine, p: Plans, dense: Floats, experts: Floats) -> tuple[Floats, Floats]:
    """ZeRO-3: seconds of gathering parameters (before forward and before backward), and of scattering gradients.

    Once for every micro-batch.
    """
    g = reduction_groups(p)

    def over(kind: str, bytes_each: Floats) -> Floats:
        return _of_both(
            machine, kind, g, (dense * bytes_each, g.shard), (experts * bytes_each, g.expert_shard)
        )

    frozen = p.trainable == TRAINABLES.index("lora")
    scattered = np.where(frozen, 0.0, over("reduce_scatter", p.grad_bytes.astype(float)))
    return over("all_gather", _gather_bytes(p)), scattered


def _merge(pieces: list[tuple[npt.NDArray[np.intp], Stages]]) -> Stages:
    """Put the tables of several precisions back into the order of the plans."""
    plan = np.concatenate([mask[t.plan] for mask, t in pieces])
    order = np.argsort(plan, kind="stable")
    columns = {
        f.name: np.concatenate([getattr(t, f.name) for _, t in pieces])[order]
        for f in dataclasses.fields(Stages)
        if f.name != "plan"
    }
    return Stages(plan=plan[order].astype(np.int64), **columns)
