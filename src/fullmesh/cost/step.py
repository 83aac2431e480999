"""From stages to a step: overlap, launches, pipeline, gradient traffic, optimizer, stragglers.

The closed form of a step, over columns; its parameters are the terms of :mod:`fullmesh.cost.effects`. The same function
ranks a million plans, prices one, and is differentiated when the effects are fitted.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import C
from fullmesh.cost.effects import TermTable
from fullmesh.cost.stages import Stages
from fullmesh.plan import SCHEDULES, Plans

Floats = npt.NDArray[np.float64]

# Sequence length at which the attention term stands alone.
REFERENCE_TOKENS = 8192.0
# Beyond this factor of it the term stays as it is: published sequences say nothing of longer or shorter ones.
LENGTH_RANGE = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one step for every plan, with the waterfall of its bottleneck stage.

    Columns have shape ``(num_plans,)``; those named ``stage_`` have shape ``(num_stages,)`` and are the time of one
    micro-batch. The parts add up to ``step_s``; what a release saves or costs is inside all of them. ``low_s`` is the
    bound where everything that could overlap does, ``high_s`` the one where nothing does.
    """

    step_s: Floats
    linear_s: Floats
    expert_s: Floats
    attention_s: Floats
    scan_s: Floats
    memory_s: Floats
    route_s: Floats
    recompute_s: Floats
    launch_s: Floats
    tp_s: Floats
    ep_s: Floats
    cp_s: Floats
    fsdp_s: Floats
    bubble_s: Floats
    send_s: Floats
    data_parallel_s: Floats
    optimizer_s: Floats
    fixed_s: Floats
    straggler_s: Floats
    low_s: Floats
    high_s: Floats
    stage_forward_s: Floats
    stage_backward_s: Floats
    stage_weight_s: Floats


PARTS = tuple(
    f.name
    for f in dataclasses.fields(StepTime)
    if f.name not in ("step_s", "low_s", "high_s") and not f.name.startswith("stage_")
)


def _longer(a: Floats, b: Floats) -> Floats:
    """The longer of two durations, smooth where they are close: their 4-norm."""
    a2, b2 = a * a, b * b
    out: Floats = np.sqrt(np.sqrt(a2 * a2 + b2 * b2))
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Seconds of one micro-batch on every stage row, by part.

    ``communication_s`` is all traffic inside the layers, exposed or hidden; ``gather_s`` that of sharded parameters.
    """

    linear: Floats
    expert: Floats
    attention: Floats
    scan: Floats
    memory: Floats
    route: Floats
    recompute: Floats
    launch: Floats
    tp: Floats
    ep: Floats
    cp: Floats
    fsdp: Floats
    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    compute_s: Floats
    communication_s: Floats
    gather_s: Floats


def stage_time(stages: Stages, plans: Plans, table: TermTable) -> StageTime:
    """One micro-batch on every stage.

    Parameters
    ----------
    stages : Stages
    plans : Plans
    table : TermTable
        Values of the step terms for each plan.
    """
    i = stages.plan
    x = stages.components

    def term(name: str) -> Floats:
        return table.column(name)[i]

    lin, exp_, scan = term("linear"), term("expert"), term("scan")
    # tables and published kernels end at some length; what longer sequences gain is fitted, one exponent a family
    reach = np.clip(plans.seq[i] / REFERENCE_TOKENS, 1.0 / LENGTH_RANGE, LENGTH_RANGE)
    att = term("attention") * reach ** (1.0 - term("attention_length"))
    mem, route = term("memory"), term("route")
    tp, ep, cp = term("tp"), term("ep"), term("cp")

    linear = lin * (x[:, C.LINEAR_F] + x[:, C.LINEAR_B] + x[:, C.LINEAR_W])
    expert = exp_ * (x[:, C.EXPERT_F] + x[:, C.EXPERT_B] + x[:, C.EXPERT_W])
    attention = att * (x[:, C.ATTENTION_F] + x[:, C.ATTENTION_B])
    scan_s = scan * (x[:, C.SCAN_F] + x[:, C.SCAN_B])
    memory = mem * (x[:, C.MEMORY_F] + x[:, C.MEMORY_B])
    route_s = route * (x[:, C.ROUTE_F] + x[:, C.ROUTE_B])
    again = (
        lin * x[:, C.LINEAR_R]
        + exp_ * x[:, C.EXPERT_R]
        + att * x[:, C.ATTENTION_R]
        + scan * x[:, C.SCAN_R]
        + mem * x[:, C.MEMORY_R]
        + route * x[:, C.ROUTE_R]
    )
    forward_device = (
        lin * x[:, C.LINEAR_F]
        + exp_ * x[:, C.EXPERT_F]
        + att * x[:, C.ATTENTION_F]
        + scan * x[:, C.SCAN_F]
        + mem * x[:, C.MEMORY_F]
        + route * x[:, C.ROUTE_F]
    )
    compute = linear + expert + attention + scan_s + memory + route_s + again
    backward_device = compute - forward_device

    # the device pauses between kernels; the host may take longer to issue them, and starts anew behind each wait
    launches_f, launches_b = x[:, C.LAUNCH_F], x[:, C.LAUNCH_B] + x[:, C.LAUNCH_R]
    gap, issue, sync = term("gap"), term("issue"), term("sync")
    wait_f, wait_b = sync * x[:, C.SYNC_F], sync * (x[:, C.SYNC_B] + x[:, C.SYNC_R])

    tp_f, tp_b = tp * x[:, C.TP_F], tp * (x[:, C.TP_B] + x[:, C.TP_R])
    ep_f, ep_b = ep * x[:, C.EP_F], ep * (x[:, C.EP_B] + x[:, C.EP_R])
    cp_f, cp_b = cp * x[:, C.CP_F], cp * (x[:, C.CP_B] + x[:, C.CP_R])
    communication = tp_f + tp_b + ep_f + ep_b + cp_f + cp_b
    tp_f, tp_b, ep_f, ep_b, hidden = _behind_computation(
        (tp_f, tp_b, ep_f, ep_b),
        np.where(plans.tp_overlap[i], term("overlap_tp"), 0.0),
        np.where(plans.ep_overlap[i], term("overlap_ep"), 0.0),
        (forward_device, backward_device),
    )

    fsdp = term("fsdp")
    fsdp_hidden = term("overlap_fsdp")
    work_f, work_b = forward_device + tp_f + ep_f + cp_f, backward_device + tp_b + ep_b + cp_b
    device_f = _longer(work_f + gap * launches_f, issue * launches_f) + wait_f
    device_b = _longer(work_b + gap * launches_b, issue * launches_b) + wait_b
    idle = device_f - work_f + device_b - work_b
    gather_f, gather_b = fsdp * x[:, C.FSDP_F], fsdp * x[:, C.FSDP_B]
    forward = _longer(device_f, fsdp_hidden * gather_f) + (1 - fsdp_hidden) * gather_f
    backward = _longer(device_b, fsdp_hidden * gather_b) + (1 - fsdp_hidden) * gather_b
    fsdp_s = forward + backward - device_f - device_b
    hidden = hidden + gather_f + gather_b - fsdp_s
    slowed = term("contention") * np.minimum(np.maximum(hidden, 0.0), compute)
    backward = backward + slowed
    return StageTime(
        linear=linear,
        expert=expert,
        attention=attention,
        scan=scan_s,
        memory=memory,
        route=route_s,
        recompute=again,
        launch=idle + slowed,
        tp=tp_f + tp_b,
        ep=ep_f + ep_b,
        cp=cp_f + cp_b,
        fsdp=fsdp_s,
        forward_s=forward,
        backward_s=backward,
        weight_s=lin * x[:, C.LINEAR_W] + exp_ * x[:, C.EXPERT_W],
        compute_s=compute,
        communication_s=communication + gather_f + gather_b,
        gather_s=gather_f + gather_b,
    )


def _behind_computation(
    traffic: tuple[Floats, Floats, Floats, Floats],
    tp_share: Floats,
    ep_share: Floats,
    room: tuple[Floats, Floats],
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Exposed tensor- and expert-parallel traffic, forward and backward of each, and what hides.

    A share of the traffic hides behind computation, as far as there is computation: ``room`` forward and backward.
    """
    tp_f, tp_b, ep_f, ep_b = traffic
    out = []
    hidden = np.zeros_like(tp_f)
    for tp, ep, free in ((tp_f, ep_f, room[0]), (tp_b, ep_b, room[1])):
        wanted = tp_share * tp + ep_share * ep
        fits = np.minimum(1.0, free / np.maximum(wanted, 1e-30))
        hidden = hidden + fits * wanted
        out.append((tp * (1.0 - fits * tp_share), ep * (1.0 - fits * ep_share)))
    (tp_f, ep_f), (tp_b, ep_b) = out
    return tp_f, tp_b, ep_f, ep_b, hidden


def step_time(stages: Stages, plans: Plans, table: TermTable) -> StepTime:
    """Seconds of one optimizer step of every plan.

    A pipeline of uneven stages takes ``M * max(t) + (sum(t) - max(t)) / V``: the bottleneck stage is busy with all
    micro-batches, the others are waited for once, on the way in and out. For even stages this is the usual
    ``(M + (P - 1) / V) * t``. Zero-bubble and DualPipe shorten the waiting part as published.
    """
    t = stage_time(stages, plans, table)
    total = t.forward_s + t.backward_s
    pp, vpp = plans.pp.astype(float), plans.vpp.astype(float)
    micro = plans.num_microbatches.astype(float)
    longest = stages.max(total)
    # the row of the bottleneck stage of every plan
    is_longest = np.flatnonzero(total >= longest[stages.plan])
    bottleneck = np.zeros(len(plans), dtype=np.int64)
    bottleneck[stages.plan[is_longest[::-1]]] = is_longest[::-1]
    waiting = (stages.sum(total) - longest) / np.where(plans.schedule == SCHEDULES.index("gpipe"), 1.0, vpp)
    weight_share = np.clip(t.weight_s[bottleneck] / np.maximum(longest, 1e-30), 0.0, 0.45)
    factor = np.select(
        [plans.schedule == SCHEDULES.index("zero-bubble"), plans.schedule == SCHEDULES.index("dualpipe")],
        [
            1.0 - 2.0 * weight_share,
            # (P/2 - 1) * (F&B + B - 3W) against (P - 1) * (F + B)
            np.where(pp > 1, (pp / 2 - 1) / np.maximum(pp - 1, 1.0), 1.0)
            * (1.0 + t.backward_s[bottleneck] / np.maximum(longest, 1e-30) - 3.0 * weight_share),
        ],
        1.0,
    )
    bubble = waiting * np.maximum(factor, 0.0)

    send_hidden = np.where(plans.p2p_overlap, table.column("overlap_send"), 0.0)
    one_send = table.column("send") * stages.max(stages.send_s)
    send = np.where(pp > 1, one_send * (2.0 * vpp * micro * (1 - send_hidden) + 2.0 * (pp - 1)), 0.0)

    gradient = table.column("gradient") * stages.max(stages.gradient_s)
    parameter = table.column("gradient") * stages.max(stages.parameter_s)
    overlap = table.column("overlap_grad")
    # gradients hide behind the last backward pass, parameters behind the first forward pass
    room_b = t.backward_s[bottleneck] + 0.5 * bubble
    room_f = t.forward_s[bottleneck] + 0.5 * bubble
    data_parallel = _exposed(gradient, np.where(plans.grad_overlap, overlap, 0.0), room_b) + _exposed(
        parameter, np.where(plans.param_overlap, overlap, 0.0), room_f
    )
    optimizer = table.column("optimizer") * stages.max(stages.optimizer_s)
    fixed = table.column("fixed")
    body = micro * longest + bubble + send + data_parallel + optimizer + fixed
    doublings = np.maximum(np.log2(np.maximum(plans.num_devices, 1) / 8.0), 0.0)
    straggler = body * table.column("straggler") * doublings
    release = table.column("all")
    # sharded parameters travel beside the exchange inside the layers, both behind the computation
    inside = t.communication_s - t.gather_s
    low = (
        micro * stages.max(np.maximum(np.maximum(t.compute_s, inside), t.gather_s))
        + np.minimum(bubble, stages.sum(t.compute_s) / vpp)
        + optimizer
    )
    high = body + straggler + micro * (t.compute_s + t.launch + t.communication_s - total)[bottleneck]
    high = high + gradient + parameter - data_parallel + 2.0 * vpp * micro * one_send * send_hidden

    def part(values_s: Floats) -> Floats:
        out: Floats = release * micro * values_s[bottleneck]
        return out

    return StepTime(
        step_s=release * (body + straggler),
        linear_s=part(t.linear),
        expert_s=part(t.expert),
        attention_s=part(t.attention),
        scan_s=part(t.scan),
        memory_s=part(t.memory),
        route_s=part(t.route),
        recompute_s=part(t.recompute),
        launch_s=part(t.launch),
        tp_s=part(t.tp),
        ep_s=part(t.ep),
        cp_s=part(t.cp),
        fsdp_s=part(t.fsdp),
        bubble_s=release * bubble,
        send_s=release * send,
        data_parallel_s=release * data_parallel,
        optimizer_s=release * optimizer,
        fixed_s=release * fixed,
        straggler_s=release * straggler,
        low_s=release * low,
        high_s=release * high,
        stage_forward_s=release[stages.plan] * t.forward_s,
        stage_backward_s=release[stages.plan] * t.backward_s,
        stage_weight_s=release[stages.plan] * t.weight_s,
    )


def _exposed(traffic: Floats, overlap: Floats, room: Floats) -> Floats:
    """What of a transfer is not hidden: the part that never hides, and what exceeds the room to hide in."""
    hideable = traffic * overlap
    beyond = np.maximum(hideable - room, 0.0)
    return traffic - hideable + beyond
