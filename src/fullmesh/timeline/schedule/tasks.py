"""Compiled builder: from the order in which ranks work to tasks with predecessors, numbered topologically.

A task has at most three predecessors; where more are needed, tasks of no duration join them. Task 0 is the start of the
step, so that "no predecessor" needs no branch anywhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fullmesh.timeline.schedule.orders import (
    BACKWARD,
    FORWARD,
    INPUT,
    PAIRED_BACKWARD,
    PAIRED_FORWARD,
    WEIGHT,
)

KINDS = (
    "forward", "backward", "backward_input", "backward_weight", "paired_forward", "paired_backward",
    "recompute", "send_forward", "send_backward", "tp", "ep", "cp",
    "grad_reduce", "param_gather", "fsdp_gather", "fsdp_scatter",
    "optimizer", "grad_norm", "copy_out", "copy_in", "join",
)  # fmt: skip
(
    K_FORWARD, K_BACKWARD, K_INPUT, K_WEIGHT, K_PAIRED_FORWARD, K_PAIRED_BACKWARD,
    K_RECOMPUTE, K_SEND_FORWARD, K_SEND_BACKWARD, K_TP, K_EP, K_CP,
    K_GRAD_REDUCE, K_PARAM_GATHER, K_FSDP_GATHER, K_FSDP_SCATTER,
    K_OPTIMIZER, K_GRAD_NORM, K_COPY_OUT, K_COPY_IN, K_JOIN,
) = range(len(KINDS))  # fmt: skip

STREAMS = (
    "compute", "tp", "ep", "cp", "send forward", "send backward", "reduce", "gather", "copy out", "copy in",
)  # fmt: skip
S_COMPUTE, S_TP, S_EP, S_CP, S_SEND_FORWARD, S_SEND_BACKWARD, S_REDUCE, S_GATHER, S_OUT, S_IN = range(
    len(STREAMS)
)

# Columns of the table of durations that the builder reads, one row a chunk.
DURATIONS = (
    "forward", "input", "weight", "recompute", "paired_forward", "paired_backward", "paired_ep_forward",
    "paired_ep_backward", "send", "hidden_tp_f", "hidden_ep_f", "hidden_cp_f", "hidden_tp_b", "hidden_ep_b",
    "hidden_cp_b", "grad_reduce", "param_gather", "fsdp_gather", "fsdp_scatter", "offload",
)  # fmt: skip
(
    D_FORWARD, D_INPUT, D_WEIGHT, D_RECOMPUTE, D_PF, D_PB, D_EPF, D_EPB, D_SEND,
    D_HIDDEN_F, _HEF, _HCF, D_HIDDEN_B, _HEB, _HCB,
    D_REDUCE, D_GATHER, D_FSDP_GATHER, D_FSDP_SCATTER, D_OFFLOAD,
) = range(len(DURATIONS))  # fmt: skip

# Switches, in the order in which the builder reads them.
(F_BUCKETS, F_GRAD_OVERLAP, F_PARAM_OVERLAP, F_BLOCKS, F_PREFETCH, F_P2P, F_GLOBAL_NORM, F_HALF, F_MICRO) = (
    range(9)
)

_MAX_RING = 64
# A backward pass this few operations after its forward pass finds its activations where they are.
_NEAR = 2


@njit(cache=True, inline="always")
def _add(t, n, kind, stream, rank, chunk, mb, seconds, a, b, c):  # type: ignore[no-untyped-def]
    i = n[0]
    t[0][i] = kind
    t[1][i] = stream
    t[2][i] = rank
    t[3][i] = chunk
    t[4][i] = mb
    t[5][i] = seconds
    t[6][i, 0] = a
    t[6][i, 1] = b
    t[6][i, 2] = c
    n[0] = i + 1
    return i


@njit(cache=True)
def _last_writes(order, num_slots):  # type: ignore[no-untyped-def]
    """Place of the operation that completes the gradients of each slot."""
    last = np.full((order.shape[1], num_slots), -1, np.int64)
    for r in range(order.shape[1]):
        for i in range(order.shape[2]):
            op = order[0, r, i]
            if op in (BACKWARD, WEIGHT, PAIRED_BACKWARD):
                last[r, order[1, r, i]] = i
    return last


@njit(cache=True)
def _returns(order, chunk_of, num_chunks, micro):  # type: ignore[no-untyped-def]
    """Whether a chunk's activations are worth sending away: other passes lie between forward and backward."""
    forward = np.zeros((num_chunks, micro), np.int64)
    worth = np.zeros((num_chunks, micro), np.bool_)
    for r in range(order.shape[1]):
        for i in range(order.shape[2]):
            op = order[0, r, i]
            if op < 0 or op == WEIGHT:
                continue
            c, mb = chunk_of[r, order[1, r, i]], order[2, r, i]
            if op in (FORWARD, PAIRED_FORWARD):
                forward[c, mb] = i
            else:
                worth[c, mb] = i - forward[c, mb] > _NEAR
    return worth


@njit(cache=True)
def upper_bound(order, parts, lanes, num_slots):  # type: ignore[no-untyped-def]
    """At least as many tasks as the builder will emit."""
    ops = 0
    for r in range(order.shape[1]):
        for i in range(order.shape[2]):
            ops += order[0, r, i] >= 0
    return 1 + ops * (parts * 2 + lanes + 7) + order.shape[1] * (num_slots * (3 * parts + 2) + 16)


@njit(cache=True)
def build(order, chunk_of, rank_of, seconds, optimizer, grad_norm, flags, t):  # type: ignore[no-untyped-def]
    """Emit all tasks into the columns ``t``.

    Returns ``(num_tasks, rank, place)``; ``rank >= 0`` names an operation that can never start.
    """
    num_ranks, num_ops = order.shape[1], order.shape[2]
    num_chunks, num_slots = seconds.shape[0], chunk_of.shape[1]
    micro, half = flags[F_MICRO], flags[F_HALF]
    ready_f = np.full((num_chunks, micro), -1, np.int32)
    ready_b = np.full((num_chunks, micro), -1, np.int32)
    done_f = np.full((num_chunks, micro), -1, np.int32)
    done_b = np.full((num_chunks, micro), -1, np.int32)
    copied = np.zeros((num_chunks, micro), np.int32)
    goes_out = _returns(order, chunk_of, num_chunks, micro)
    last = _last_writes(order, num_slots)
    prev = np.zeros((num_ranks, len(STREAMS)), np.int32)
    gathered = np.zeros((num_ranks, num_slots), np.int32)
    ring = np.zeros((num_ranks, _MAX_RING), np.int32)
    head = np.zeros(num_ranks, np.int64)
    at = np.zeros(num_ranks, np.int64)
    n = np.zeros(1, np.int64)
    ahead = min(flags[F_PREFETCH] + 1, _MAX_RING)
    _add(t, n, K_JOIN, S_COMPUTE, 0, 0, -1, 0.0, 0, 0, 0)

    if flags[F_PARAM_OVERLAP]:
        # parameters are gathered in the order in which the slots of a rank are first used
        pending = np.ones((num_ranks, num_slots), np.bool_)
        for i in range(num_ops):
            for r in range(num_ranks):
                v = order[1, r, i]
                if v >= 0 and pending[r, v]:
                    pending[r, v] = False
                    c = chunk_of[r, v]
                    if seconds[c, D_GATHER] > 0:
                        prev[r, S_GATHER] = _add(
                            t,
                            n,
                            K_PARAM_GATHER,
                            S_GATHER,
                            r,
                            c,
                            -1,
                            seconds[c, D_GATHER],
                            prev[r, S_GATHER],
                            0,
                            0,
                        )
                        gathered[r, v] = prev[r, S_GATHER]

    left = 0
    for r in range(num_ranks):
        for i in range(num_ops):
            left += order[0, r, i] >= 0
    while left > 0:
        moved = False
        for r in range(num_ranks):
            i = at[r]
            if i >= num_ops or order[0, r, i] < 0:
                continue
            op, slot, mb = order[0, r, i], order[1, r, i], order[2, r, i]
            c = chunk_of[r, slot]
            direction = 1 if mb >= half else 0

            # --- what the operation waits for
            pair = op == PAIRED_FORWARD
            come, come2 = 0, 0
            if op == FORWARD or pair:
                if c > 0:
                    come = ready_f[c - 1, mb]
            elif op != WEIGHT:
                if done_f[c, mb] < 0:
                    come = -1
                elif c < num_chunks - 1:
                    come = ready_b[c + 1, mb]
            elif done_b[c, mb] < 0:
                come = -1
            cb, mb2 = c, mb
            if pair:
                cb, mb2 = chunk_of[r, order[1, r, i + 1]], order[2, r, i + 1]
                if done_f[cb, mb2] < 0:
                    come2 = -1
                elif cb < num_chunks - 1:
                    come2 = ready_b[cb + 1, mb2]
            if come < 0 or come2 < 0:
                continue
            moved = True
            left -= 2 if pair else 1
            at[r] = i + (2 if pair else 1)
            start = prev[r, S_COMPUTE]
            if (op == FORWARD or pair) and gathered[r, slot] > 0:
                if come2 > 0:
                    come2 = _add(t, n, K_JOIN, S_COMPUTE, r, c, mb, 0.0, come2, gathered[r, slot], 0)
                else:
                    come2 = gathered[r, slot]
                gathered[r, slot] = 0
            backward = op in (BACKWARD, INPUT)
            if (backward and copied[c, mb] > 0) or (pair and copied[cb, mb2] > 0):
                where = cb if pair else c
                b = mb2 if pair else mb
                held = ring[r, (head[r] - ahead) % _MAX_RING] if head[r] >= ahead else 0
                back = _add(
                    t, n, K_COPY_IN, S_IN, r, where, b, seconds[where, D_OFFLOAD],
                    prev[r, S_IN], copied[where, b], held,
                )  # fmt: skip
                prev[r, S_IN] = back
                come2 = _add(t, n, K_JOIN, S_COMPUTE, r, c, mb, 0.0, come2, back, 0) if come2 > 0 else back

            # --- its tasks on the compute stream
            if backward and seconds[c, D_RECOMPUTE] > 0:
                start = _add(
                    t, n, K_RECOMPUTE, S_COMPUTE, r, c, mb, seconds[c, D_RECOMPUTE], start, come, come2
                )
                come, come2 = 0, 0
            begin, begin_a, begin_b = start, come, come2
            out = start
            for half_op in range(2 if pair else 1):
                kind, cc, m = op, c, mb
                if half_op == 1:
                    kind, cc, m = PAIRED_BACKWARD, cb, mb2
                place = i + half_op
                if kind == FORWARD:
                    total = seconds[cc, D_FORWARD]
                elif kind == BACKWARD:
                    total = seconds[cc, D_INPUT] + seconds[cc, D_WEIGHT]
                elif kind == INPUT:
                    total = seconds[cc, D_INPUT]
                elif kind == WEIGHT:
                    total = seconds[cc, D_WEIGHT]
                elif kind == PAIRED_FORWARD:
                    total = seconds[cc, D_PF]
                else:
                    total = seconds[cc, D_PB]
                writes = kind in (BACKWARD, WEIGHT, PAIRED_BACKWARD)
                slot2 = order[1, r, place]
                fsdp = seconds[cc, D_FSDP_GATHER] > 0 and kind != WEIGHT
                scatter = seconds[cc, D_FSDP_SCATTER] > 0 and writes
                is_last = writes and last[r, slot2] == place
                reduce = is_last and flags[F_GRAD_OVERLAP] and seconds[cc, D_REDUCE] > 0
                parts = flags[F_BLOCKS] if (fsdp or scatter) else (flags[F_BUCKETS] if reduce else 1)
                for p in range(parts):
                    first = p == 0 and half_op == 0
                    wait = come if first else 0
                    wait2 = come2 if first else 0
                    if fsdp:
                        held = ring[r, (head[r] - ahead) % _MAX_RING] if head[r] >= ahead else 0
                        unit = _add(
                            t, n, K_FSDP_GATHER, S_GATHER, r, cc, m, seconds[cc, D_FSDP_GATHER] / parts,
                            prev[r, S_GATHER], held, 0,
                        )  # fmt: skip
                        prev[r, S_GATHER] = unit
                        wait2 = (
                            _add(t, n, K_JOIN, S_COMPUTE, r, cc, m, 0.0, wait2, unit, 0)
                            if wait2 > 0
                            else unit
                        )
                    out = _add(t, n, kind, S_COMPUTE, r, cc, m, total / parts, out, wait, wait2)
                    ring[r, head[r] % _MAX_RING] = out
                    head[r] += 1
                    if scatter:
                        prev[r, S_REDUCE] = _add(
                            t, n, K_FSDP_SCATTER, S_REDUCE, r, cc, m, seconds[cc, D_FSDP_SCATTER] / parts,
                            prev[r, S_REDUCE], out, 0,
                        )  # fmt: skip
                    if reduce:
                        prev[r, S_REDUCE] = _add(
                            t, n, K_GRAD_REDUCE, S_REDUCE, r, cc, -1, seconds[cc, D_REDUCE] / parts,
                            prev[r, S_REDUCE], out, 0,
                        )  # fmt: skip

            # --- what runs beside it
            if op != WEIGHT:
                for lane_kind in range(3):
                    if pair:
                        beside = seconds[c, D_HIDDEN_F + lane_kind] + seconds[cb, D_HIDDEN_B + lane_kind]
                        if lane_kind == 1:
                            beside += seconds[c, D_EPF] + seconds[cb, D_EPB]
                    elif op == FORWARD:
                        beside = seconds[c, D_HIDDEN_F + lane_kind]
                    else:
                        beside = seconds[c, D_HIDDEN_B + lane_kind]
                    if beside > 0:
                        lane = _add(
                            t,
                            n,
                            K_TP + lane_kind,
                            S_TP + lane_kind,
                            r,
                            c,
                            mb,
                            beside,
                            begin,
                            begin_a,
                            begin_b,
                        )
                        out = _add(t, n, K_JOIN, S_COMPUTE, r, c, mb, 0.0, out, lane, 0)
            prev[r, S_COMPUTE] = out

            # --- what it hands on
            if op == FORWARD or pair:
                done_f[c, mb] = out
                ready_f[c, mb] = out
                if c < num_chunks - 1 and rank_of[direction, c + 1] != r and seconds[c, D_SEND] > 0:
                    if flags[F_P2P]:
                        send = _add(
                            t, n, K_SEND_FORWARD, S_SEND_FORWARD, r, c, mb, seconds[c, D_SEND],
                            out, prev[r, S_SEND_FORWARD], 0,
                        )  # fmt: skip
                        prev[r, S_SEND_FORWARD] = send
                    else:
                        send = _add(
                            t, n, K_SEND_FORWARD, S_COMPUTE, r, c, mb, seconds[c, D_SEND],
                            prev[r, S_COMPUTE], 0, 0,
                        )  # fmt: skip
                        prev[r, S_COMPUTE] = send
                    ready_f[c, mb] = send
                if seconds[c, D_OFFLOAD] > 0 and goes_out[c, mb]:
                    prev[r, S_OUT] = _add(
                        t, n, K_COPY_OUT, S_OUT, r, c, mb, seconds[c, D_OFFLOAD], out, prev[r, S_OUT], 0
                    )
                    copied[c, mb] = prev[r, S_OUT]
            if backward or pair:
                b_direction = 1 if mb2 >= half else 0
                done_b[cb, mb2] = out
                ready_b[cb, mb2] = out
                if cb > 0 and rank_of[b_direction, cb - 1] != r and seconds[cb - 1, D_SEND] > 0:
                    if flags[F_P2P]:
                        send = _add(
                            t, n, K_SEND_BACKWARD, S_SEND_BACKWARD, r, cb, mb2, seconds[cb - 1, D_SEND],
                            out, prev[r, S_SEND_BACKWARD], 0,
                        )  # fmt: skip
                        prev[r, S_SEND_BACKWARD] = send
                    else:
                        send = _add(
                            t, n, K_SEND_BACKWARD, S_COMPUTE, r, cb, mb2, seconds[cb - 1, D_SEND],
                            prev[r, S_COMPUTE], 0, 0,
                        )  # fmt: skip
                        prev[r, S_COMPUTE] = send
                    ready_b[cb, mb2] = send
        if not moved:
            for r in range(num_ranks):
                if at[r] < num_ops and order[0, r, at[r]] >= 0:
                    return n[0], r, at[r]

    # --- gradients that were not reduced on the way, the norm, the optimizer, the parameters
    for r in range(num_ranks):
        if not flags[F_GRAD_OVERLAP]:
            for v in range(num_slots - 1, -1, -1):
                c = chunk_of[r, v]
                if seconds[c, D_REDUCE] > 0:
                    prev[r, S_REDUCE] = _add(
                        t, n, K_GRAD_REDUCE, S_REDUCE, r, c, -1, seconds[c, D_REDUCE],
                        prev[r, S_REDUCE], prev[r, S_COMPUTE], 0,
                    )  # fmt: skip
    whole = 0
    if flags[F_GLOBAL_NORM]:
        r = 0
        while r < num_ranks:  # two ranks a join, each with its compute and its reductions
            whole = _add(t, n, K_JOIN, S_COMPUTE, r, 0, -1, 0.0, whole, prev[r, S_COMPUTE], prev[r, S_REDUCE])
            r += 1
        if grad_norm > 0:
            whole = _add(t, n, K_GRAD_NORM, S_REDUCE, 0, 0, -1, grad_norm, whole, 0, 0)
    for r in range(num_ranks):
        if optimizer[r] > 0:
            prev[r, S_COMPUTE] = _add(
                t, n, K_OPTIMIZER, S_COMPUTE, r, chunk_of[r, 0], -1, optimizer[r],
                prev[r, S_COMPUTE], prev[r, S_REDUCE], whole,
            )  # fmt: skip
        if not flags[F_PARAM_OVERLAP]:
            for v in range(num_slots):
                c = chunk_of[r, v]
                if seconds[c, D_GATHER] > 0:
                    prev[r, S_GATHER] = _add(
                        t, n, K_PARAM_GATHER, S_GATHER, r, c, -1, seconds[c, D_GATHER],
                        prev[r, S_GATHER], prev[r, S_COMPUTE], prev[r, S_REDUCE] if optimizer[r] == 0 else 0,
                    )  # fmt: skip
    return n[0], -1, -1
