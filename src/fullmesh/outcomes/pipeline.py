"""A plan as the timeline sees it: the cost model's seconds and bytes, chunk by chunk."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import C
from fullmesh.cost.memory import memory_ledger
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.cost.step import StageTime, stage_time
from fullmesh.cost.terms import TermTable, load_effects, settings_of
from fullmesh.machine import Machine
from fullmesh.plan import Plan, Plans
from fullmesh.timeline.costs import Lane, Operator, PipelineCosts
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]

_SPLIT = ("zb-h1", "zb-v", "dualpipe", "dualpipev")


def timeline_schedule(plan: Plan) -> tuple[str, int]:
    """The timeline's name for the schedule of a plan, and how many chunks a rank has in it.

    Chunks of a rank are one where no published schedule keeps them apart.
    """
    if plan.pp == 1:
        return "1f1b", 1
    if plan.schedule == "1f1b":
        return ("interleaved", plan.vpp) if plan.vpp > 1 else ("1f1b", 1)
    if plan.schedule == "zero-bubble":
        return ("zb-v", 2) if plan.vpp == 2 else ("zb-h1", 1)
    if plan.schedule == "dualpipe":
        return ("dualpipev", 2) if plan.vpp == 2 else ("dualpipe", 1)
    return "gpipe", 1


def pipeline_costs(model: ModelSpec, machine: Machine, plan: Plan) -> PipelineCosts:
    """Durations, bytes and switches of the pipeline of a plan.

    The same stage costs and the same fitted effects as in the closed form. A chunk is priced as the stage of a plan
    with as many stages as there are chunks. What of a transfer never hides is part of the passes, or of the
    optimizer where it happens once a step; the rest runs beside them. Stragglers and the software generation,
    which the closed form applies to the whole step, scale every duration.

    Raises
    ------
    PlanError
        A schedule that cannot run with this many stages or micro-batches.
    """
    schedule, num_virtual = timeline_schedule(plan)
    num_chunks = plan.pp * num_virtual
    plans = Plans.of([plan])
    settings, index = settings_of(model, machine, plans)
    effects = load_effects()
    table = effects.table("step", settings, index)
    memory_terms = effects.table("memory", settings, index)
    whole = stage_table(model, machine, plans, distinct=False)
    # a schedule that keeps no chunks apart takes the stages as they are
    by_chunk = dataclasses.replace(plan, pp=num_chunks, vpp=1) if num_virtual == plan.vpp else plan
    chunk_plans = Plans.of([by_chunk])
    chunks = stage_table(model, machine, chunk_plans, distinct=False)
    t = stage_time(chunks, chunk_plans, table)
    factor = _whole_step_factor(plan, table)

    def term(name: str) -> float:
        return float(table.column(name)[0])

    send = term("send") * chunks.send_s[: num_chunks - 1] * (plan.pp > 1)
    send_hides = term("overlap_send") if plan.p2p_overlap else 0.0
    held_up = (1.0 - send_hides) * send if plan.p2p_overlap else np.zeros_like(send)
    forward = t.forward_s + np.append(held_up, 0.0)
    backward = t.backward_s + np.append(0.0, held_up)
    lanes = _lanes(chunks, plan, t, term("overlap_tp"), term("overlap_ep"), factor)
    again = t.recompute + _share(t.tp, chunks, C.TP_R, C.TP_F, C.TP_B)
    again = (
        again + _share(t.ep, chunks, C.EP_R, C.EP_F, C.EP_B) + _share(t.cp, chunks, C.CP_R, C.CP_F, C.CP_B)
    )
    weight = np.minimum(t.weight_s, backward - again)

    rank_of = np.arange(num_chunks) % plan.pp
    if schedule in ("zb-v", "dualpipev"):
        rank_of = np.minimum(np.arange(num_chunks), num_chunks - 1 - np.arange(num_chunks))
    held = chunks.dense_parameters + chunks.expert_parameters
    of_rank = np.bincount(rank_of, weights=held, minlength=plan.pp)[rank_of]
    part = np.divide(held, of_rank, out=np.full(num_chunks, 1.0 / num_virtual), where=of_rank > 0)
    hides = term("overlap_grad")
    gradient = term("gradient") * whole.gradient_s
    parameter = term("gradient") * whole.parameter_s
    gradient_hides = hides if plan.grad_overlap else 1.0
    parameter_hides = hides if plan.param_overlap else 1.0
    optimizer = term("optimizer") * whole.optimizer_s + term("fixed")
    optimizer = optimizer + (1.0 - gradient_hides) * gradient + (1.0 - parameter_hides) * parameter
    reduce = gradient_hides * gradient[rank_of] * part
    gather = parameter_hides * parameter[rank_of] * part
    blocks = np.maximum(chunks.layers, 1)
    if plan.param_overlap:
        # gathered layer by layer ahead of the first pass, which starts after the first layer
        gather = np.maximum(gather / blocks, gather - t.forward_s * (blocks - 1) / blocks)
    fsdp = plan.zero == 3
    sharded = term("fsdp") * term("overlap_fsdp")
    x = chunks.components
    saved, static = _bytes(model, plan, chunks, by_chunk, whole, plans, memory_terms)
    ranks = plan.tp * plan.cp * plan.dp
    return PipelineCosts(
        schedule=schedule,
        num_stages=plan.pp,
        num_virtual=num_virtual,
        num_microbatches=plan.num_microbatches,
        forward_s=factor * forward,
        backward_input_s=factor * (backward - again - weight),
        backward_weight_s=factor * weight,
        recompute_s=factor * again if again.any() else None,
        send_s=factor * (send - held_up) if plan.pp > 1 else None,
        p2p_overlap=plan.p2p_overlap,
        lanes=lanes,
        operators=_operators(chunks, t, held_up, factor),
        grad_reduce_s=factor * reduce if reduce.any() else None,
        grad_buckets=int(blocks.max()) if plan.grad_overlap else 1,
        grad_overlap=plan.grad_overlap,
        param_gather_s=factor * gather if gather.any() else None,
        param_overlap=plan.param_overlap,
        fsdp_gather_s=factor * sharded * x[:, C.FSDP_F] if fsdp else None,
        fsdp_scatter_s=factor * sharded * (x[:, C.FSDP_B] - x[:, C.FSDP_F]) if fsdp else None,
        fsdp_blocks=int(blocks.max()) if fsdp else 1,
        optimizer_s=factor * optimizer,
        activation_bytes=saved,
        weight_bytes=saved if schedule in _SPLIT else None,
        static_bytes=static,
        ranks_per_stage=ranks,
        lockstep_ranks=math.lcm(plan.tp * plan.cp, plan.ep * plan.etp if plan.ep > 1 else 1),
    )


def _whole_step_factor(plan: Plan, table: TermTable) -> float:
    """What the closed form multiplies a whole step by: stragglers as jobs grow, and the software generation."""
    doublings = max(math.log2(max(plan.num_devices, 1) / 8.0), 0.0)
    waiting = float(table.column("straggler")[0]) * doublings
    return (1.0 + waiting) * float(table.column("all")[0])


def _share(total: Floats, stages: Stages, wanted: C, *others: C) -> Floats:
    """The part of a kind's seconds that belongs to one component; all of them have the same effects."""
    x = stages.components
    whole = x[:, wanted] + sum(x[:, c] for c in others)
    out: Floats = np.divide(total * x[:, wanted], whole, out=np.zeros_like(total), where=whole > 0)
    return out


def _lanes(
    stages: Stages, plan: Plan, t: StageTime, tp_hides: float, ep_hides: float, factor: float
) -> tuple[Lane, ...]:
    lanes = []
    for name, total, (f, b, r), hides in (
        ("tp", t.tp, (C.TP_F, C.TP_B, C.TP_R), tp_hides if plan.tp_overlap else 0.0),
        ("ep", t.ep, (C.EP_F, C.EP_B, C.EP_R), ep_hides if plan.ep_overlap else 0.0),
        ("cp", t.cp, (C.CP_F, C.CP_B, C.CP_R), 0.0),
    ):
        if not total.any():
            continue
        forward = factor * _share(total, stages, f, b, r)
        backward = factor * total - forward
        hidden = hides / (1.0 - hides)
        lanes.append(
            Lane(
                name=name,
                forward_s=forward,
                backward_s=backward.clip(0.0),
                hidden_forward_s=hidden * forward if hides else None,
                hidden_backward_s=hidden * backward.clip(0.0) if hides else None,
            )
        )
    return tuple(lanes)


def _operators(stages: Stages, t: StageTime, held_up: Floats, factor: float) -> tuple[Operator, ...]:
    """Computation of the passes by class, and what of sends and sharding they wait for; recompute stands apart."""
    kinds: tuple[tuple[str, Floats, C, tuple[C, ...]], ...] = (
        ("linear", t.linear, C.LINEAR_F, (C.LINEAR_B, C.LINEAR_W)),
        ("experts", t.expert, C.EXPERT_F, (C.EXPERT_B, C.EXPERT_W)),
        ("attention", t.attention, C.ATTENTION_F, (C.ATTENTION_B,)),
        ("scan", t.scan, C.SCAN_F, (C.SCAN_B,)),
        ("memory-bound", t.memory, C.MEMORY_F, (C.MEMORY_B,)),
        ("routing", t.route, C.ROUTE_F, (C.ROUTE_B,)),
        ("launches", t.launch, C.LAUNCH_F, (C.LAUNCH_B, C.LAUNCH_R)),
        ("sharded parameters", t.fsdp, C.FSDP_F, (C.FSDP_B,)),
    )
    out = []
    for name, total, forward, others in kinds:
        if total.any():
            first = _share(total, stages, forward, *others)
            out.append(
                Operator(name=name, forward_s=factor * first, backward_s=factor * (total - first).clip(0))
            )
    if held_up.any():
        out.append(
            Operator(
                name="send and receive",
                forward_s=factor * np.append(held_up, 0.0),
                backward_s=factor * np.append(0.0, held_up),
            )
        )
    return tuple(out)


def _bytes(
    model: ModelSpec,
    plan: Plan,
    chunks: Stages,
    by_chunk: Plan,
    whole: Stages,
    plans: Plans,
    terms: TermTable,
) -> tuple[Floats, Floats]:
    """Activations of one micro-batch on every chunk, and all else that every stage holds at its peak."""
    one = Plans.of([dataclasses.replace(by_chunk, gbs=plan.mbs * plan.dp, schedule="1f1b")])
    saved = memory_ledger(model, chunks, one, terms).activations
    ledger = memory_ledger(model, whole, plans, terms)
    return saved, ledger.used - ledger.activations
