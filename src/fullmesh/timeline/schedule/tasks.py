"""Compiled builder: from the order in which ranks work to tasks with predecessors, numbered topologically.

A task has at most three predecessors; where more are needed, tasks of no duration join them. Task 0 is the start of the
step, so that "no predecessor" needs no branch anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel
from fullmesh.timeline.schedule.graph import Floats, Ids
from fullmesh.timeline.schedule.orders import (
    BACKWARD,
    FORWARD,
    INPUT,
    PAIRED_BACKWARD,
    PAIRED_FORWARD,
    WEIGHT,
)

Longs = npt.NDArray[np.int64]

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


class Columns(NamedTuple):
    """Columns of the tasks that are emitted, see `fullmesh.timeline.schedule.graph.TaskGraph`; shape (bound,) each.

    Attributes
    ----------
    kind, stream : int8
    rank : int32
    chunk : int16
    microbatch : int32
    seconds : float64
    pred : int32, shape (bound, 3)
    """

    kind: npt.NDArray[np.int8]
    stream: npt.NDArray[np.int8]
    rank: Ids
    chunk: npt.NDArray[np.int16]
    microbatch: Ids
    seconds: Floats
    pred: Ids


class Layout(NamedTuple):
    """What is to be built; never changed.

    Attributes
    ----------
    order : int32, shape (3, ranks, operations)
        Operation, slot and micro-batch of each rank in turn; -1 pads.
    chunk_of : int64, shape (ranks, slots)
    rank_of : int64, shape (2, chunks)
        Rank of each chunk for the two directions of DualPipe.
    seconds : float64, shape (chunks, len(DURATIONS))
    optimizer_s : float64, shape (ranks,)
    flags : int64, shape (9,)
        Switches ``F_...``.
    last : int64, shape (ranks, slots)
        Place of the operation that completes the gradients of a slot; -1 where nobody asks.
    goes_out : bool, shape (chunks, micro-batches)
        Whether activations are worth sending away.
    """

    order: Ids
    chunk_of: Longs
    rank_of: Longs
    seconds: Floats
    optimizer_s: Floats
    flags: Longs
    last: Longs
    goes_out: npt.NDArray[np.bool_]


class Progress(NamedTuple):
    """How far the builder is.

    Attributes
    ----------
    ready_forward, ready_backward, done_forward, done_backward : int64, shape (chunks, micro-batches)
        Task that hands a pass's result on, and that ends it; -1 before.
    copied : int64, shape (chunks, micro-batches)
        Task that sent activations away; 0 if none did.
    prev : int64, shape (ranks, streams)
        Last task of each stream.
    gathered : int64, shape (ranks, slots)
        Task that gathers the slot's parameters, until a pass has waited for it.
    ring : int64, shape (ranks, 64)
        The last passes (or blocks of them) of each rank, which a prefetch waits for.
    head, at : int64, shape (ranks,)
        Passes put into the ring, and the operation that is next.
    num : int64, shape (1,)
        Tasks emitted.
    """

    ready_forward: Longs
    ready_backward: Longs
    done_forward: Longs
    done_backward: Longs
    copied: Longs
    prev: Longs
    gathered: Longs
    ring: Longs
    head: Longs
    at: Longs
    num: Longs


def upper_bound(order: Ids, parts: int, lanes: int, num_slots: int) -> int:
    """At least as many tasks as the builder will emit."""
    ops = int(np.count_nonzero(order[0] >= 0))
    ranks: int = order.shape[1]
    return 1 + ops * (parts * 2 + lanes + 7) + ranks * (num_slots * (3 * parts + 2) + 16)


def fresh_columns(bound: int) -> Columns:
    """Room for ``bound`` tasks."""
    return Columns(
        np.empty(bound, np.int8),
        np.empty(bound, np.int8),
        np.empty(bound, np.int32),
        np.empty(bound, np.int16),
        np.empty(bound, np.int32),
        np.empty(bound, np.float64),
        np.empty((bound, 3), np.int32),
    )


def layout_of(
    order: Ids, chunk_of: Longs, rank_of: Longs, seconds: Floats, optimizer_s: Floats, flags: Longs
) -> Layout:
    """A layout, with what the builder must know ahead of time worked out where it is asked for."""
    shape = (len(seconds), int(flags[F_MICRO]))
    reduces = flags[F_GRAD_OVERLAP] and seconds[:, D_REDUCE].any()
    offloads = seconds[:, D_OFFLOAD].any()
    last = _last_writes(order, chunk_of.shape[1]) if reduces else np.full(chunk_of.shape, -1, np.int64)
    goes_out = _far_apart(order, chunk_of, shape) if offloads else np.zeros(shape, np.bool_)
    return Layout(order, chunk_of, rank_of, seconds, optimizer_s, flags, last, goes_out)


def fresh_progress(layout: Layout) -> Progress:
    """Nothing built yet."""
    ranks, slots = layout.chunk_of.shape
    shape = layout.goes_out.shape
    return Progress(
        ready_forward=np.full(shape, -1, np.int64),
        ready_backward=np.full(shape, -1, np.int64),
        done_forward=np.full(shape, -1, np.int64),
        done_backward=np.full(shape, -1, np.int64),
        copied=np.zeros(shape, np.int64),
        prev=np.zeros((ranks, len(STREAMS)), np.int64),
        gathered=np.zeros((ranks, slots), np.int64),
        ring=np.zeros((ranks, _MAX_RING), np.int64),
        head=np.zeros(ranks, np.int64),
        at=np.zeros(ranks, np.int64),
        num=np.zeros(1, np.int64),
    )


def _last_writes(order: Ids, num_slots: int) -> Longs:
    """Place of the operation that completes the gradients of each slot, shape (ranks, slots)."""
    last = np.full((order.shape[1], num_slots), -1, np.int64)
    rank, place = np.nonzero(np.isin(order[0], (BACKWARD, WEIGHT, PAIRED_BACKWARD)))
    np.maximum.at(last, (rank, order[1, rank, place]), place)
    return last


def _far_apart(order: Ids, chunk_of: Longs, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether other passes lie between a chunk's forward and backward pass, shape (chunks, micro-batches)."""
    places = []
    for ops in ((FORWARD, PAIRED_FORWARD), (BACKWARD, INPUT, PAIRED_BACKWARD)):
        rank, place = np.nonzero(np.isin(order[0], ops))
        found = np.zeros(shape, np.int64)
        found[chunk_of[rank, order[1, rank, place]], order[2, rank, place]] = place
        places.append(found)
    out: npt.NDArray[np.bool_] = places[1] - places[0] > _NEAR
    return out


@inlined
def _add(t, progress, kind, stream, rank, chunk, mb, seconds, a, b, c):  # type: ignore[no-untyped-def]
    """Emit a task that waits for tasks ``a``, ``b`` and ``c`` (0 for none); returns its number."""
    i = progress.num[0]
    t.kind[i] = kind
    t.stream[i] = stream
    t.rank[i] = rank
    t.chunk[i] = chunk
    t.microbatch[i] = mb
    t.seconds[i] = seconds
    t.pred[i, 0] = a
    t.pred[i, 1] = b
    t.pred[i, 2] = c
    progress.num[0] = i + 1
    return i


@inlined
def _operation(layout, r, i):  # type: ignore[no-untyped-def]
    """Operation, slot and micro-batch ``i`` of rank ``r``, all of one type: a part is compiled for each type anew."""
    order = layout.order
    return np.int64(order[0, r, i]), np.int64(order[1, r, i]), np.int64(order[2, r, i])


@inlined
def _also(t, progress, rank, chunk, mb, a, b):  # type: ignore[no-untyped-def]
    """One task to wait for in place of ``a`` and ``b``: ``b`` itself where ``a`` is none."""
    if a > 0:
        return _add(t, progress, K_JOIN, S_COMPUTE, rank, chunk, mb, 0.0, a, b, 0)
    return b


@inlined
def _held(layout, progress, r):  # type: ignore[no-untyped-def]
    """The pass that must have ended before the rank may prefetch once more; 0 if there is none."""
    ahead = min(layout.flags[F_PREFETCH] + 1, _MAX_RING)
    if progress.head[r] >= ahead:
        return progress.ring[r, (progress.head[r] - ahead) % _MAX_RING]
    return np.int64(0)


@inlined
def _gather_first(layout, progress, t):  # type: ignore[no-untyped-def]
    """Gather parameters beside the first passes, in the order in which a rank first uses its slots."""
    for i in range(layout.order.shape[2]):
        for r in range(layout.order.shape[1]):
            v = np.int64(layout.order[1, r, i])
            if v >= 0 and progress.gathered[r, v] == 0:
                c = layout.chunk_of[r, v]
                progress.gathered[r, v] = -1
                if layout.seconds[c, D_GATHER] > 0:
                    seconds, before = layout.seconds[c, D_GATHER], progress.prev[r, S_GATHER]
                    task = _add(t, progress, K_PARAM_GATHER, S_GATHER, r, c, -1, seconds, before, 0, 0)
                    progress.prev[r, S_GATHER] = task
                    progress.gathered[r, v] = task


@inlined
def _comes_forward(layout, progress, c, mb):  # type: ignore[no-untyped-def]
    """Task that brings a forward pass its input; 0 for none, -1 if there is none yet."""
    return progress.ready_forward[c - 1, mb] if c > 0 else np.int64(0)


@inlined
def _comes_backward(layout, progress, c, mb):  # type: ignore[no-untyped-def]
    """The same of a backward pass, which also needs its own forward pass."""
    if progress.done_forward[c, mb] < 0:
        return np.int64(-1)
    return progress.ready_backward[c + 1, mb] if c < len(layout.seconds) - 1 else np.int64(0)


@inlined
def _copy_back(layout, progress, t, r, c, mb):  # type: ignore[no-untyped-def]
    """Bring back the activations of a pass."""
    task = _add(
        t, progress, K_COPY_IN, S_IN, r, c, mb, layout.seconds[c, D_OFFLOAD],
        progress.prev[r, S_IN], progress.copied[c, mb], _held(layout, progress, r),
    )  # fmt: skip
    progress.prev[r, S_IN] = task
    return task


@inlined
def _pass_seconds(layout, kind, c):  # type: ignore[no-untyped-def]
    """Seconds of a pass on the compute stream."""
    if kind == FORWARD:
        return layout.seconds[c, D_FORWARD]
    if kind == BACKWARD:
        return layout.seconds[c, D_INPUT] + layout.seconds[c, D_WEIGHT]
    if kind == INPUT:
        return layout.seconds[c, D_INPUT]
    if kind == WEIGHT:
        return layout.seconds[c, D_WEIGHT]
    return layout.seconds[c, D_PF] if kind == PAIRED_FORWARD else layout.seconds[c, D_PB]


@inlined
def _run(layout, progress, t, r, place, start, wait, wait2):  # type: ignore[no-untyped-def]
    """One pass on the compute stream after task ``start``, in blocks or buckets where something runs beside each.

    Returns its last task.
    """
    kind, slot, mb = _operation(layout, r, place)
    c = layout.chunk_of[r, slot]
    seconds, flags = layout.seconds, layout.flags
    writes = kind in (BACKWARD, WEIGHT, PAIRED_BACKWARD)
    fsdp = seconds[c, D_FSDP_GATHER] > 0 and kind != WEIGHT
    scatter = seconds[c, D_FSDP_SCATTER] > 0 and writes
    reduce = (
        writes and layout.last[r, slot] == place and flags[F_GRAD_OVERLAP] > 0 and seconds[c, D_REDUCE] > 0
    )
    parts = flags[F_BLOCKS] if (fsdp or scatter) else (flags[F_BUCKETS] if reduce else np.int64(1))
    total, out = _pass_seconds(layout, kind, c), start
    for _ in range(parts):
        if fsdp:
            unit = _add(
                t, progress, K_FSDP_GATHER, S_GATHER, r, c, mb, seconds[c, D_FSDP_GATHER] / parts,
                progress.prev[r, S_GATHER], _held(layout, progress, r), 0,
            )  # fmt: skip
            progress.prev[r, S_GATHER] = unit
            wait2 = _also(t, progress, r, c, mb, wait2, unit)
        out = _add(t, progress, kind, S_COMPUTE, r, c, mb, total / parts, out, wait, wait2)
        wait, wait2 = np.int64(0), np.int64(0)
        progress.ring[r, progress.head[r] % _MAX_RING] = out
        progress.head[r] += 1
        for which in range(2):
            if scatter if which == 0 else reduce:
                exchange = seconds[c, D_FSDP_SCATTER] if which == 0 else seconds[c, D_REDUCE]
                progress.prev[r, S_REDUCE] = _add(
                    t, progress, K_FSDP_SCATTER if which == 0 else K_GRAD_REDUCE, S_REDUCE, r, c,
                    mb if which == 0 else -1, exchange / parts, progress.prev[r, S_REDUCE], out, 0,
                )  # fmt: skip
    return out


@inlined
def _beside(layout, progress, t, r, op, c, cb, mb, out, start, wait, wait2):  # type: ignore[no-untyped-def]
    """Hidden communication of a pass (or of a pair), which the pass's end waits for; returns that end.

    ``start``, ``wait`` and ``wait2`` are what the pass itself began after.
    """
    seconds = layout.seconds
    for lane in range(3):
        if op == PAIRED_FORWARD:
            hidden = seconds[c, D_HIDDEN_F + lane] + seconds[cb, D_HIDDEN_B + lane]
            if lane == 1:
                hidden += seconds[c, D_EPF] + seconds[cb, D_EPB]
        elif op == FORWARD:
            hidden = seconds[c, D_HIDDEN_F + lane]
        else:
            hidden = seconds[c, D_HIDDEN_B + lane]
        if hidden > 0:
            task = _add(t, progress, K_TP + lane, S_TP + lane, r, c, mb, hidden, start, wait, wait2)
            out = _add(t, progress, K_JOIN, S_COMPUTE, r, c, mb, 0.0, out, task, 0)
    return out


@inlined
def _send(layout, progress, t, r, c, mb, seconds, backward, out):  # type: ignore[no-untyped-def]
    """Send a result to another rank, beside the computation or in its way; returns the task that hands it on."""
    kind = K_SEND_BACKWARD if backward else K_SEND_FORWARD
    if layout.flags[F_P2P]:
        stream = S_SEND_BACKWARD if backward else S_SEND_FORWARD
        a, b = out, progress.prev[r, stream]
    else:
        stream = S_COMPUTE
        a, b = progress.prev[r, S_COMPUTE], np.int64(0)
    task = _add(t, progress, kind, stream, r, c, mb, seconds, a, b, 0)
    progress.prev[r, stream] = task
    return task


@inlined
def _hand_on(layout, progress, t, r, c, mb, backward, out):  # type: ignore[no-untyped-def]
    """Note the end of a pass, and send its result on where the next chunk is another rank's."""
    direction = 1 if mb >= layout.flags[F_HALF] else 0
    other = c - 1 if backward else c + 1
    ready = out
    if 0 <= other < len(layout.seconds) and layout.rank_of[direction, other] != r:
        seconds = layout.seconds[min(c, other), D_SEND]
        if seconds > 0:
            ready = _send(layout, progress, t, r, c, mb, seconds, backward, out)
    if backward:
        progress.done_backward[c, mb] = out
        progress.ready_backward[c, mb] = ready
        return
    progress.done_forward[c, mb] = out
    progress.ready_forward[c, mb] = ready
    if layout.seconds[c, D_OFFLOAD] > 0 and layout.goes_out[c, mb]:
        task = _add(
            t, progress, K_COPY_OUT, S_OUT, r, c, mb, layout.seconds[c, D_OFFLOAD],
            out, progress.prev[r, S_OUT], 0,
        )  # fmt: skip
        progress.prev[r, S_OUT] = task
        progress.copied[c, mb] = task


@inlined
def _operate(layout, progress, t, r, i):  # type: ignore[no-untyped-def]
    """Emit operation ``i`` of rank ``r``, with its partner if it is paired.

    Returns how many operations that were; 0 if one that it waits for has not been emitted yet.
    """
    op, slot, mb = _operation(layout, r, i)
    c = layout.chunk_of[r, slot]
    pair, backward = op == PAIRED_FORWARD, op in (BACKWARD, INPUT)
    cb, mb2, come, come2 = c, mb, np.int64(0), np.int64(0)
    if op == FORWARD or pair:
        come = _comes_forward(layout, progress, c, mb)
    elif op != WEIGHT:
        come = _comes_backward(layout, progress, c, mb)
    elif progress.done_backward[c, mb] < 0:
        come = np.int64(-1)
    if pair:
        _, slot2, mb2 = _operation(layout, r, i + 1)
        cb = layout.chunk_of[r, slot2]
        come2 = _comes_backward(layout, progress, cb, mb2)
    if come < 0 or come2 < 0:
        return 0
    start = progress.prev[r, S_COMPUTE]
    if (op == FORWARD or pair) and progress.gathered[r, slot] > 0:
        come2 = _also(t, progress, r, c, mb, come2, progress.gathered[r, slot])
        progress.gathered[r, slot] = -1
    if (backward or pair) and progress.copied[cb, mb2] > 0:
        back = _copy_back(layout, progress, t, r, cb, mb2)
        come2 = _also(t, progress, r, c, mb, come2, back)
    if backward and layout.seconds[c, D_RECOMPUTE] > 0:
        seconds = layout.seconds[c, D_RECOMPUTE]
        start = _add(t, progress, K_RECOMPUTE, S_COMPUTE, r, c, mb, seconds, start, come, come2)
        come, come2 = np.int64(0), np.int64(0)
    out, wait, wait2 = start, come, come2
    for half in range(2 if pair else 1):
        out = _run(layout, progress, t, r, i + half, out, wait, wait2)
        wait, wait2 = np.int64(0), np.int64(0)
    if op != WEIGHT:
        out = _beside(layout, progress, t, r, op, c, cb, mb, out, start, come, come2)
    progress.prev[r, S_COMPUTE] = out
    for back in range(2):
        if (backward or pair) if back == 1 else (op == FORWARD or pair):
            _hand_on(layout, progress, t, r, cb if back == 1 else c, mb2 if back == 1 else mb, back == 1, out)
    return 2 if pair else 1


@inlined
def _finish(layout, progress, t, grad_norm_s):  # type: ignore[no-untyped-def]
    """Gradients that were not reduced on the way, their norm, the optimizer, the parameters."""
    ranks, slots = layout.chunk_of.shape
    seconds, prev = layout.seconds, progress.prev
    for r in range(ranks if layout.flags[F_GRAD_OVERLAP] == 0 else 0):
        for v in range(slots - 1, -1, -1):
            c = layout.chunk_of[r, v]
            if seconds[c, D_REDUCE] > 0:
                prev[r, S_REDUCE] = _add(
                    t, progress, K_GRAD_REDUCE, S_REDUCE, r, c, -1, seconds[c, D_REDUCE],
                    prev[r, S_REDUCE], prev[r, S_COMPUTE], 0,
                )  # fmt: skip
    whole = np.int64(0)
    if layout.flags[F_GLOBAL_NORM]:
        for r in range(ranks):
            whole = _add(
                t, progress, K_JOIN, S_COMPUTE, r, 0, -1, 0.0, whole, prev[r, S_COMPUTE], prev[r, S_REDUCE]
            )
        if grad_norm_s > 0:
            whole = _add(t, progress, K_GRAD_NORM, S_REDUCE, 0, 0, -1, grad_norm_s, whole, 0, 0)
    for r in range(ranks):
        works = layout.optimizer_s[r] > 0
        if works:
            prev[r, S_COMPUTE] = _add(
                t, progress, K_OPTIMIZER, S_COMPUTE, r, layout.chunk_of[r, 0], -1, layout.optimizer_s[r],
                prev[r, S_COMPUTE], prev[r, S_REDUCE], whole,
            )  # fmt: skip
        for v in range(slots if layout.flags[F_PARAM_OVERLAP] == 0 else 0):
            c = layout.chunk_of[r, v]
            if seconds[c, D_GATHER] > 0:
                prev[r, S_GATHER] = _add(
                    t, progress, K_PARAM_GATHER, S_GATHER, r, c, -1, seconds[c, D_GATHER],
                    prev[r, S_GATHER], prev[r, S_COMPUTE], 0 if works else prev[r, S_REDUCE],
                )  # fmt: skip


@kernel
def build(layout: Layout, progress: Progress, t: Columns, num_ops: int, grad_norm_s: float) -> int:
    """Emit all tasks of a step, rank after rank as far as each can go.

    Parameters
    ----------
    layout : Layout
    progress : Progress
        As `fresh_progress` gives it; ``num`` and ``at`` say how far the builder came.
    t : Columns
        Receives the tasks.
    num_ops : int
        Operations of all ranks.
    grad_norm_s : float
        Seconds of the norm of all gradients.

    Returns
    -------
    int
        Rank whose next operation can never start, or -1.
    """
    ranks, most = layout.order.shape[1], layout.order.shape[2]
    _add(t, progress, K_JOIN, S_COMPUTE, 0, 0, -1, 0.0, 0, 0, 0)
    if layout.flags[F_PARAM_OVERLAP]:
        _gather_first(layout, progress, t)
    while num_ops > 0:
        moved = 0
        for r in range(ranks):
            i = progress.at[r]
            if i < most and layout.order[0, r, i] >= 0:
                done = _operate(layout, progress, t, r, i)
                progress.at[r] = i + done
                moved += done
        num_ops -= moved
        if moved == 0:
            for r in range(ranks):
                if progress.at[r] < most and layout.order[0, r, progress.at[r]] >= 0:
                    return r
    _finish(layout, progress, t, grad_norm_s)
    return -1
