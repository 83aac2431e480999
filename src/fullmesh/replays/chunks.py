"""A plan as the timeline sees it: the cost model's seconds and bytes, chunk by chunk."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import C
from fullmesh.cost.effects import TermTable, load_effects, settings_of
from fullmesh.cost.memory import memory_ledger
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.cost.step import TRAFFIC, StageTime, stage_time, step_time
from fullmesh.machine import Machine
from fullmesh.plan import Plan, Plans
from fullmesh.timeline.costs import SPLIT_BACKWARD, Lane, Operator, PipelineCosts
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]


# Operators that stand for communication inside the passes which never hides.
SENDS = "send and receive"
SHARDED = "sharded parameters"


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What the closed form and the replay of one plan both start from.

    Parameters
    ----------
    plan : Plan
    schedule : str
        As the timeline calls it.
    num_virtual : int
        Chunks of a rank that the schedule keeps apart.
    whole : Stages
        One row a pipeline stage.
    chunk_plan : Plan
        A plan whose stages are the chunks.
    chunks : Stages
        One row a chunk, in model order.
    table : TermTable
        The fitted terms of the step.
    """

    plan: Plan
    schedule: str
    num_virtual: int
    whole: Stages
    chunk_plan: Plan
    chunks: Stages
    table: TermTable

    def term(self, name: str) -> float:
        """Value of one term."""
        return float(self.table.column(name)[0])

    @property
    def rank_of(self) -> npt.NDArray[np.int64]:
        """Pipeline rank of every chunk, shape (num_chunks,)."""
        chunk = np.arange(self.plan.pp * self.num_virtual)
        if self.schedule in ("zb-v", "dualpipev"):
            return np.minimum(chunk, chunk[::-1])
        return chunk % self.plan.pp

    @property
    def factor(self) -> float:
        """What a whole step is multiplied by: stragglers as jobs grow, and the software generation."""
        doublings = max(math.log2(max(self.plan.num_devices, 1) / 8.0), 0.0)
        return (1.0 + self.term("straggler") * doublings) * self.term("all")

    def closed_form_step_s(self) -> float:
        """Seconds of the step by :func:`fullmesh.cost.step.step_time`."""
        return float(step_time(self.whole, Plans.of([self.plan]), self.table).step_s[0])


def pipeline_of(model: ModelSpec, machine: Machine, plan: Plan) -> Pipeline:
    """The stages and chunks of a plan with the terms that price them."""
    return pipelines_of(model, machine, [plan])[0]


def pipelines_of(model: ModelSpec, machine: Machine, plans: Sequence[Plan]) -> list[Pipeline]:
    """The stages and chunks of several plans, priced together."""
    schedules = [timeline_schedule(plan) for plan in plans]
    columns = Plans.of(plans)
    settings, index = settings_of(model, machine, columns)
    # a schedule that keeps no chunks apart takes the stages as they are
    chunk_plans = [
        dataclasses.replace(plan, pp=plan.pp * num_virtual, vpp=1) if num_virtual == plan.vpp else plan
        for plan, (_, num_virtual) in zip(plans, schedules, strict=True)
    ]
    whole = _apart(stage_table(model, machine, columns, distinct=False), len(plans))
    chunks = _apart(stage_table(model, machine, Plans.of(chunk_plans), distinct=False), len(plans))
    table = load_effects().table("step", settings, index)
    return [
        Pipeline(
            plan=plan,
            schedule=schedule,
            num_virtual=num_virtual,
            whole=whole[i],
            chunk_plan=chunk_plans[i],
            chunks=chunks[i],
            table=TermTable(model="step", values=table.values[i : i + 1]),
        )
        for i, (plan, (schedule, num_virtual)) in enumerate(zip(plans, schedules, strict=True))
    ]


def _apart(stages: Stages, num_plans: int) -> list[Stages]:
    """The stages of each plan as a table of their own."""
    ends = np.searchsorted(stages.plan, np.arange(num_plans + 1))
    names = [f.name for f in dataclasses.fields(Stages)]
    out = []
    for first, last in itertools.pairwise(ends.tolist()):
        columns = {name: getattr(stages, name)[first:last] for name in names}
        out.append(Stages(**{**columns, "plan": np.zeros(last - first, dtype=np.int64)}))
    return out


def pipeline_costs(
    model: ModelSpec, machine: Machine, plan: Plan, *, contention: bool = False
) -> PipelineCosts:
    """Durations, bytes and switches of the pipeline of a plan, for the timeline.

    The same stage costs and the same fitted terms as in the closed form. A chunk is priced as the stage of a plan
    with as many stages as there are chunks. What of a transfer never hides is part of the passes, or of the
    optimizer where it happens once a step; the rest runs beside them. Stragglers and the software generation,
    which the closed form applies to the whole step, scale every duration.

    Parameters
    ----------
    contention : bool
        Leave out what hidden communication slows computation by, for an engine that finds it itself.

    Raises
    ------
    PlanError
        A schedule that cannot run with this many stages or micro-batches.
    """
    x = pipeline_of(model, machine, plan)
    costs = costs_of(x, contention=contention)
    one = Plans.of([dataclasses.replace(x.chunk_plan, gbs=plan.mbs * plan.dp, schedule="1f1b")])
    plans = Plans.of([plan])
    settings, index = settings_of(model, machine, plans)
    terms = load_effects().table("memory", settings, index)
    saved = memory_ledger(model, x.chunks, one, terms).activations
    ledger = memory_ledger(model, x.whole, plans, terms)
    return dataclasses.replace(
        costs,
        activation_bytes=saved,
        # products keep their inputs until their weight half has run; which share of the rest that is, nobody says
        weight_bytes=saved if x.schedule in SPLIT_BACKWARD else None,
        static_bytes=ledger.used - ledger.activations,
        tiers=_tiers(machine, plan),
    )


def _tiers(machine: Machine, plan: Plan) -> tuple[tuple[str, str], ...]:
    """The outermost tier that each stream's group of neighbouring devices spans."""
    stage = plan.tp * plan.cp * plan.dp
    spans = {
        "tp": plan.tp,
        "cp": plan.tp * plan.cp,
        "ep": plan.ep * plan.etp,
        "reduce": stage,
        "gather": stage,
        "send forward": 2 * stage,
        "send backward": 2 * stage,
    }
    return tuple(
        (stream, next((t.name for t in machine.tiers if t.num_devices >= span), machine.tiers[-1].name))
        for stream, span in spans.items()
        if span > 1
    )


def costs_of(x: Pipeline, *, contention: bool = False) -> PipelineCosts:
    """Durations and switches without the bytes (see :func:`pipeline_costs`)."""
    plan, chunks, factor = x.plan, x.chunks, x.factor
    num_chunks = len(chunks.plan)
    t = stage_time(chunks, Plans.of([x.chunk_plan]), x.table)
    forward, backward = t.forward_s, t.backward_s
    if contention:
        backward = backward - contention_s(x, t)
    send = x.term("send") * chunks.send_s[: num_chunks - 1] * (plan.pp > 1)
    # without a stream of their own all sends hold up the sender, and the replay sees to that
    held_up = (1.0 - x.term("overlap_send")) * send if plan.p2p_overlap else np.zeros_like(send)
    forward = forward + np.append(held_up, 0.0)
    backward = backward + np.append(0.0, held_up)
    again = t.recompute
    for kind in TRAFFIC:
        f, b, r = kind.columns
        again = again + _share(getattr(t, kind.name), chunks, r, f, b)
    lanes = _lanes(x, t)
    pairs = x.schedule in ("dualpipe", "dualpipev")
    in_pair = (factor * forward, factor * backward) if pairs else (None, None)
    if pairs:
        # the share of expert traffic that hides does so in pairs; a pass alone has nothing to hide it behind
        lanes, more_forward, more_backward = _exposed_alone(lanes)
        forward, backward = forward + more_forward / factor, backward + more_backward / factor
    weight = np.minimum(t.weight_s, backward - again)

    rank_of = x.rank_of
    held = chunks.dense_parameters + chunks.expert_parameters
    of_rank = np.bincount(rank_of, weights=held, minlength=plan.pp)[rank_of]
    part = np.divide(held, of_rank, out=np.full(num_chunks, 1.0 / x.num_virtual), where=of_rank > 0)
    at_end = after_passes(x)
    reduce = (x.term("gradient") * x.whole.gradient_s - at_end["gradient reduction"])[rank_of] * part
    gather = (x.term("gradient") * x.whole.parameter_s - at_end["parameter gather"])[rank_of] * part
    blocks = np.maximum(chunks.layers, 1)
    if plan.param_overlap:
        # gathered layer by layer: what the first pass waits for is one layer, and what it cannot keep up with
        gather = np.maximum(gather / blocks, gather - t.forward_s * (blocks - 1) / blocks)
    fsdp = plan.zero == 3
    sharded = factor * x.term("fsdp") * x.term("overlap_fsdp") * x.plan.fsdp_prefetch
    parts = chunks.components
    return PipelineCosts(
        schedule=x.schedule,
        num_stages=plan.pp,
        num_virtual=x.num_virtual,
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
        fsdp_gather_s=sharded * parts[:, C.FSDP_F] if fsdp else None,
        fsdp_scatter_s=sharded * (parts[:, C.FSDP_B] - parts[:, C.FSDP_F]) if fsdp else None,
        fsdp_blocks=int(blocks.max()) if fsdp else 1,
        optimizer_s=factor * sum(at_end.values(), np.zeros(plan.pp)),
        ranks_per_stage=plan.tp * plan.cp * plan.dp,
        lockstep_ranks=math.lcm(plan.tp * plan.cp, plan.ep * plan.etp if plan.ep > 1 else 1),
        paired_forward_s=in_pair[0],
        paired_backward_s=in_pair[1],
    )


def after_passes(x: Pipeline) -> dict[str, Floats]:
    """What every stage does after its last pass, by kind, shape (pp,): what of the traffic never hides comes first."""
    hides = x.term("overlap_grad")
    gradient, parameter = x.term("gradient") * x.whole.gradient_s, x.term("gradient") * x.whole.parameter_s
    return {
        # without overlap the replay itself runs all of it after the passes
        "gradient reduction": (1.0 - hides) * x.plan.grad_overlap * gradient,
        "parameter gather": (1.0 - hides) * x.plan.param_overlap * parameter,
        "optimizer": x.term("optimizer") * x.whole.optimizer_s,
        "once a step": np.full(x.plan.pp, x.term("fixed")),
    }


def contention_s(x: Pipeline, t: StageTime) -> Floats:
    """What communication hidden behind a micro-batch slows its computation by, as in the closed form."""
    hidden = t.communication_s - t.tp - t.ep - t.cp - t.fsdp
    out: Floats = x.term("contention") * np.minimum(hidden.clip(0.0), t.compute_s)
    return out


def _share(total: Floats, stages: Stages, wanted: C, *others: C) -> Floats:
    """The part of a kind's seconds that belongs to one component; all of them have the same effects."""
    x = stages.components
    whole = x[:, wanted] + sum(x[:, c] for c in others)
    out: Floats = np.divide(total * x[:, wanted], whole, out=np.zeros_like(total), where=whole > 0)
    return out


def _lanes(x: Pipeline, t: StageTime) -> tuple[Lane, ...]:
    lanes = []
    for kind in TRAFFIC:
        name, (f, b, r), total = kind.name, kind.columns, getattr(t, kind.name)
        if not total.any():
            continue
        hides = kind.switch and getattr(x.plan, kind.switch)
        forward = x.factor * _share(total, x.chunks, f, b, r)
        backward = (x.factor * total - forward).clip(0.0)
        # all of the traffic, exposed or not, against what is exposed
        every = x.term(name) * x.chunks.components[:, [f, b, r]].sum(axis=1)
        hidden = np.divide(every - total, total, out=np.zeros_like(total), where=total > 0).clip(0.0)
        lanes.append(
            Lane(
                name=name,
                forward_s=forward,
                backward_s=backward,
                hidden_forward_s=hidden * forward if hides else None,
                hidden_backward_s=hidden * backward if hides else None,
            )
        )
    return tuple(lanes)


def _exposed_alone(lanes: tuple[Lane, ...]) -> tuple[tuple[Lane, ...], Floats | float, Floats | float]:
    """Expert traffic wholly exposed, and by how much that lengthens the passes."""
    out: list[Lane] = []
    forward: Floats | float = 0.0
    backward: Floats | float = 0.0
    for lane in lanes:
        if lane.name != "ep" or lane.hidden_forward_s is None or lane.hidden_backward_s is None:
            out.append(lane)
            continue
        forward, backward = lane.hidden_forward_s, lane.hidden_backward_s
        out.append(Lane(name="ep", forward_s=lane.forward_s + forward, backward_s=lane.backward_s + backward))
    return tuple(out), forward, backward


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
        (SHARDED, t.fsdp, C.FSDP_F, (C.FSDP_B,)),
    )
    out = []
    for name, total, forward, others in kinds:
        if stages.components[:, [forward, *others]].any():
            first = _share(total, stages, forward, *others)
            out.append(
                Operator(name=name, forward_s=factor * first, backward_s=factor * (total - first).clip(0))
            )
    if held_up.any():
        out.append(
            Operator(
                name=SENDS,
                forward_s=factor * np.append(held_up, 0.0),
                backward_s=factor * np.append(0.0, held_up),
            )
        )
    return tuple(out)
