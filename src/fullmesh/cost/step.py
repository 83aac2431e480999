"""From stages to a step: overlap, launches, pipeline, gradient traffic, optimizer, stragglers.

The closed form of a step, over columns; its parameters are the terms of :mod:`fullmesh.cost.effects`. The same function
ranks a million plans, prices one, and is differentiated when the effects are fitted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import FORWARD, RECOMPUTED, C
from fullmesh.cost.effects import TermTable
from fullmesh.cost.formulas import (
    beyond_room_s,
    bubble_s,
    device_s,
    doublings,
    dualpipe_factor,
    exposed_s,
    gathered_s,
    hidden_s,
    sends_s,
    slowed_s,
    weight_share,
    zero_bubble_factor,
)
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


class Traffic(NamedTuple):
    """Traffic inside the layers: its components (forward, backward, recomputed), and what may hide it.

    ``switch`` is the plan's field that lets a share of it run beside computation, ``share`` the term that says how
    much; both empty where none does.
    """

    name: str
    columns: tuple[C, C, C]
    switch: str = ""
    share: str = ""


TRAFFIC = (
    Traffic("tp", (C.TP_F, C.TP_B, C.TP_R), "tp_overlap", "overlap_tp"),
    Traffic("ep", (C.EP_F, C.EP_B, C.EP_R), "ep_overlap", "overlap_ep"),
    Traffic("cp", (C.CP_F, C.CP_B, C.CP_R)),
)
# parts of a stage that add up to its time
STAGE_PARTS = (
    "linear", "expert", "attention", "scan", "memory", "route", "recompute", "launch", "tp", "ep", "cp", "fsdp",
)  # fmt: skip
PARTS = tuple(
    f.name
    for f in dataclasses.fields(StepTime)
    if f.name not in ("step_s", "low_s", "high_s") and not f.name.startswith("stage_")
)


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


class _Passes(NamedTuple):
    """Seconds of the forward pass of one micro-batch, and of the backward pass with what it computes again."""

    forward: Floats
    backward: Floats


class _Computation(NamedTuple):
    """Seconds of the device's work in one micro-batch: by kind of operator, and what is computed ``again``."""

    linear: Floats
    expert: Floats
    attention: Floats
    scan: Floats
    memory: Floats
    route: Floats
    again: Floats
    weight: Floats
    forward: Floats

    @property
    def all_s(self) -> Floats:
        """Both passes together."""
        return self.linear + self.expert + self.attention + self.scan + self.memory + self.route + self.again

    @property
    def passes(self) -> _Passes:
        """Each of them."""
        return _Passes(self.forward, self.all_s - self.forward)


def speed_terms(term: Callable[[str], Floats], seq: npt.NDArray[np.int64]) -> tuple[Floats, ...]:
    """By how much each kind of operator is slower in training than its kernel alone, in the order of ``FORWARD``."""
    # tables and published kernels end at some length; what longer sequences gain is fitted, one exponent a family
    reach = np.clip(seq / REFERENCE_TOKENS, 1.0 / LENGTH_RANGE, LENGTH_RANGE)
    attention = term("attention") * reach ** (1.0 - term("attention_length"))
    return term("linear"), term("expert"), attention, term("scan"), term("memory"), term("route")


def _computation(stages: Stages, plans: Plans, term: Callable[[str], Floats]) -> _Computation:
    """Operators of every stage at the speed that published training reaches."""
    x = stages.components
    slower = speed_terms(term, plans.seq[stages.plan])

    def one(columns: tuple[C, ...]) -> Floats:
        return np.asarray(sum(factor * x[:, c] for factor, c in zip(slower, columns, strict=True)))

    lin, exp_, att, scan, mem, route = slower
    return _Computation(
        linear=lin * (x[:, C.LINEAR_F] + x[:, C.LINEAR_B] + x[:, C.LINEAR_W]),
        expert=exp_ * (x[:, C.EXPERT_F] + x[:, C.EXPERT_B] + x[:, C.EXPERT_W]),
        attention=att * (x[:, C.ATTENTION_F] + x[:, C.ATTENTION_B]),
        scan=scan * (x[:, C.SCAN_F] + x[:, C.SCAN_B]),
        memory=mem * (x[:, C.MEMORY_F] + x[:, C.MEMORY_B]),
        route=route * (x[:, C.ROUTE_F] + x[:, C.ROUTE_B]),
        again=one(RECOMPUTED),
        weight=lin * x[:, C.LINEAR_W] + exp_ * x[:, C.EXPERT_W],
        forward=one(FORWARD),
    )


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

    def passes(factor: Floats, forward: C, backward: C, again: C) -> _Passes:
        return _Passes(factor * x[:, forward], factor * (x[:, backward] + x[:, again]))

    work = _computation(stages, plans, term)
    compute = work.all_s
    traffic = [passes(term(kind.name), *kind.columns) for kind in TRAFFIC]
    shares = [
        np.where(getattr(plans, kind.switch)[i], term(kind.share), 0.0) if kind.switch else np.zeros(len(x))
        for kind in TRAFFIC
    ]
    # the device pauses between kernels; the host may take longer to issue them, and starts anew behind each wait
    wait = passes(term("sync") * plans.routing_syncs[i], C.SYNC_F, C.SYNC_B, C.SYNC_R)
    launches = passes(np.ones(len(x)), C.LAUNCH_F, C.LAUNCH_B, C.LAUNCH_R)
    gather = _Passes(term("fsdp") * x[:, C.FSDP_F], term("fsdp") * x[:, C.FSDP_B])
    gap, beside = term("gap"), np.where(plans.fsdp_prefetch[i], term("overlap_fsdp"), 0.0)
    issue = np.where(plans.issue_ns[i] > 0, 1e-9 * plans.issue_ns[i], term("issue"))
    whole: list[Floats] = []
    exposed: list[Floats] = [np.zeros(len(x)) for _ in TRAFFIC]
    idle, fsdp, hidden = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x))
    for p in range(2):
        behind, part = hidden_s(work.passes[p], traffic[0][p], traffic[1][p], shares[0], shares[1])
        left = [exposed_s(kind[p], share, part) for kind, share in zip(traffic, shares, strict=True)]
        busy = sum(left, work.passes[p])
        device = device_s(busy, launches[p], wait[p], gap, issue)
        whole.append(gathered_s(device, gather[p], beside))
        exposed = [a + b for a, b in zip(exposed, left, strict=True)]
        idle, fsdp, hidden = idle + (device - busy), fsdp + (whole[p] - device), hidden + behind
    gathered = gather.forward + gather.backward
    slowed = slowed_s(hidden + gathered - fsdp, compute, term("contention"))
    return StageTime(
        linear=work.linear,
        expert=work.expert,
        attention=work.attention,
        scan=work.scan,
        memory=work.memory,
        route=work.route,
        recompute=work.again,
        launch=idle + slowed,
        **{kind.name: e for kind, e in zip(TRAFFIC, exposed, strict=True)},
        fsdp=fsdp,
        forward_s=whole[0],
        backward_s=whole[1] + slowed,
        weight_s=work.weight,
        compute_s=compute,
        communication_s=sum((a + b for a, b in traffic), gathered),
        gather_s=gathered,
    )


def step_time(stages: Stages, plans: Plans, table: TermTable) -> StepTime:
    """Seconds of one optimizer step of every plan.

    A pipeline of uneven stages takes ``M * max(t) + (sum(t) - max(t)) / V``: the bottleneck stage is busy with all
    micro-batches, the others are waited for once, on the way in and out. For even stages this is the usual
    ``(M + (P - 1) / V) * t``. Zero-bubble and DualPipe shorten the waiting part as published.
    """
    t = stage_time(stages, plans, table)
    total = t.forward_s + t.backward_s
    vpp, micro = plans.vpp.astype(float), plans.num_microbatches.astype(float)
    longest = stages.max(total)
    # the row of the bottleneck stage of every plan
    is_longest = np.flatnonzero(total >= longest[stages.plan])
    bottleneck = np.zeros(len(plans), dtype=np.int64)
    bottleneck[stages.plan[is_longest[::-1]]] = is_longest[::-1]
    bubble = _bubble_s(plans, stages.sum(total) - longest, t, bottleneck)

    pp = plans.pp.astype(float)
    send_hidden = np.where(plans.p2p_overlap, table.column("overlap_send"), 0.0)
    one_send = table.column("send") * stages.max(stages.send_s)
    send = np.where(pp > 1, sends_s(one_send, pp, vpp, micro, send_hidden), 0.0)

    gradient = table.column("gradient") * stages.max(stages.gradient_s)
    parameter = table.column("gradient") * stages.max(stages.parameter_s)
    overlap = table.column("overlap_grad")
    # gradients hide behind the last backward pass, parameters behind the first forward pass
    room_b = t.backward_s[bottleneck] + 0.5 * bubble
    room_f = t.forward_s[bottleneck] + 0.5 * bubble
    data_parallel = beyond_room_s(
        gradient, np.where(plans.grad_overlap, overlap, 0.0), room_b
    ) + beyond_room_s(parameter, np.where(plans.param_overlap, overlap, 0.0), room_f)
    optimizer = table.column("optimizer") * stages.max(stages.optimizer_s)
    fixed = table.column("fixed")
    body = micro * longest + bubble + send + data_parallel + optimizer + fixed
    straggler = body * table.column("straggler") * doublings(plans.num_devices)
    # sharded parameters travel beside the exchange inside the layers, both behind the computation
    inside = t.communication_s - t.gather_s
    low = (
        micro * stages.max(np.maximum(np.maximum(t.compute_s, inside), t.gather_s))
        + np.minimum(bubble, stages.sum(t.compute_s) / vpp)
        + optimizer
    )
    high = body + straggler + micro * (t.compute_s + t.launch + t.communication_s - total)[bottleneck]
    high = high + gradient + parameter - data_parallel + 2.0 * vpp * micro * one_send * send_hidden
    release = table.column("all")
    return StepTime(
        **{f"{name}_s": release * micro * getattr(t, name)[bottleneck] for name in STAGE_PARTS},
        step_s=release * (body + straggler),
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


def _bubble_s(plans: Plans, others_s: Floats, t: StageTime, bottleneck: npt.NDArray[np.int64]) -> Floats:
    """How long the bottleneck stage waits for the others, which take ``others_s`` together for one micro-batch."""
    pp = plans.pp.astype(float)
    longest = np.maximum((t.forward_s + t.backward_s)[bottleneck], 1e-30)
    weights = weight_share(t.weight_s[bottleneck], longest)
    factor = np.select(
        [plans.schedule == SCHEDULES.index("zero-bubble"), plans.schedule == SCHEDULES.index("dualpipe")],
        [
            zero_bubble_factor(weights),
            np.where(
                pp > 1,
                dualpipe_factor(pp, t.backward_s[bottleneck], longest, weights),
                1.0 + t.backward_s[bottleneck] / longest - 3.0 * weights,
            ),
        ],
        1.0,
    )
    turns = np.where(plans.schedule == SCHEDULES.index("gpipe"), 1.0, plans.vpp.astype(float))
    bubble: Floats = bubble_s(others_s, turns, factor)
    return bubble
