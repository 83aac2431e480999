"""Compiled unfolding: copies of one pipeline's tasks, joined where devices work in lockstep.

In come the N tasks of one pipeline and how K copies of it differ, out goes the graph of all copies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel
from fullmesh.timeline.schedule.graph import Floats, Ids, TaskGraph
from fullmesh.timeline.schedule.tasks import (
    K_JOIN,
    K_SEND_BACKWARD,
    K_SEND_FORWARD,
    S_COMPUTE,
    Columns,
    fresh_columns,
)

DISTRIBUTIONS = ("lognormal", "normal", "exponential")


def joins_of(size: int) -> int:
    """Joins of at most three tasks that bring ``size`` tasks together."""
    total = 0
    while size > 1:
        full, rest = divmod(size, 3)
        total += full + (rest == 2)
        size = full + (rest > 0)
    return total


@inlined
def _hash(seed, member, task, draw):  # type: ignore[no-untyped-def]
    z = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(member) * np.uint64(0xD1B54A32D192ED03)
    z += np.uint64(task) * np.uint64(0x8CB92BA72F3D8DD7) + np.uint64(draw) * np.uint64(0xABC98388FB8FAC03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def _uniform(bits):  # type: ignore[no-untyped-def]
    return (np.float64(bits >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@inlined
def _normal_above(tail):  # type: ignore[no-untyped-def]
    """The value that a standard normal variable exceeds with probability ``tail``, by Newton's method."""
    flip = tail > 0.5
    q = 1.0 - tail if flip else tail
    q = max(q, 1e-300)
    z = math.sqrt(max(-2.0 * math.log(2.0 * q), 0.0))
    for _ in range(30):
        density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        step = (0.5 * math.erfc(z / math.sqrt(2.0)) - q) / density
        # the upper tail is convex: a step too far would leave it
        step = min(max(step, -1.0), 1.0)
        z += step
        if abs(step) < 1e-13:
            break
    return -z if flip else z


@inlined
def _factor(distribution, cv, seed, member, task, width):  # type: ignore[no-untyped-def]
    """A random factor of mean 1, or the largest of ``width`` of them, that depends on nothing but its arguments."""
    u = _uniform(_hash(seed, member, task, 0))
    if width > 1:
        # the largest of n: its distribution function is the n-th power of that of one
        tail = -math.expm1(math.log(u) / width)
        z = 0.0 if distribution == 2 else _normal_above(tail)
    else:
        tail = u
        z = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * _uniform(_hash(seed, member, task, 1)))
    if distribution == 2:
        return 1.0 - cv - cv * math.log(tail)
    if distribution == 1:
        return max(1.0 + cv * z, 0.0)
    variance = math.log(1.0 + cv * cv)
    return math.exp(math.sqrt(variance) * z - 0.5 * variance)


class Parts(NamedTuple):
    """What the seconds of each task are made of, and who ends it together; shape (N,) each.

    Attributes
    ----------
    communication, experts : float64
        Seconds of the task that are communication, and work of experts.
    couple : int8
        0 nobody, 1 the copies of a block, 2 all copies.
    """

    communication: Floats
    experts: Floats
    couple: npt.NDArray[np.int8]


class Factors(NamedTuple):
    """How the devices of the copies differ, 1 being usual.

    Attributes
    ----------
    compute, communication, experts : float64, shape (stages, K)
        On computation, on all communication, on the work of experts.
    send : float64, shape (2, stages, K)
        On what is sent towards the next stage, and towards the one before.
    """

    compute: Floats
    communication: Floats
    experts: Floats
    send: Floats


class Copies(NamedTuple):
    """Which devices the copies show.

    Attributes
    ----------
    member, block : int64, shape (K,)
        Device within each stage, and its lockstep block.
    distribution : int
        Index into `DISTRIBUTIONS` of random factors on computation, -1 for none.
    cv : float
    seed : int
    width : int
        Devices that a copy stands for in the draw: it takes the largest of their factors.
    """

    member: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    distribution: int
    cv: float
    seed: int
    width: int


class Unfolding(NamedTuple):
    """Scratch: ``where``, int32, shape (N, K), the task of each copy (or what joins it with others); ``level``, int32,
    shape (K + 1,), tasks that are being joined; ``num``, int64, shape (1,), tasks emitted.
    """

    where: Ids
    level: Ids
    num: npt.NDArray[np.int64]


@inlined
def _seconds(tasks, parts, factors, copies, i, k):  # type: ignore[no-untyped-def]
    """Seconds of task ``i`` in copy ``k``."""
    stage, seconds = tasks.rank[i], tasks.seconds[i]
    communication = parts.communication[i]
    computation = seconds - communication
    wide = factors.communication[stage, k]
    if tasks.kind[i] == K_SEND_FORWARD:
        wide *= factors.send[0, stage, k]
    elif tasks.kind[i] == K_SEND_BACKWARD:
        wide *= factors.send[1, stage, k]
    slow = factors.compute[stage, k]
    if copies.distribution >= 0 and computation > 0:
        device = copies.member[k] * factors.compute.shape[0] + stage
        slow *= _factor(copies.distribution, copies.cv, copies.seed, device, i, copies.width)
    if factors.experts[stage, k] != 1.0:
        seconds += parts.experts[i] * (factors.experts[stage, k] - 1.0) * slow
    if slow != 1.0:
        seconds += computation * (slow - 1.0)
    if wide != 1.0:
        seconds += communication * (wide - 1.0)
    return max(seconds, 0.0)


@inlined
def _copy_task(tasks, out, work, i, k, num_stages, seconds):  # type: ignore[no-untyped-def]
    """Emit task ``i`` of copy ``k``."""
    n = work.num[0]
    out.kind[n], out.stream[n], out.chunk[n] = tasks.kind[i], tasks.stream[i], tasks.chunk[i]
    out.microbatch[n] = tasks.microbatch[i]
    out.rank[n] = k * num_stages + tasks.rank[i]
    out.seconds[n] = seconds
    for j in range(3):
        q = tasks.pred[i, j]
        out.pred[n, j] = work.where[q, k] if q > 0 else 0
    work.where[i, k] = n
    work.num[0] = n + 1


@inlined
def _join(tasks, out, work, i, first, size, num_stages):  # type: ignore[no-untyped-def]
    """Emit joins of at most three tasks until the copies of task ``i`` from ``first`` on are one; returns that one."""
    level = work.level
    for k in range(size):
        level[k] = work.where[i, first + k]
    while size > 1:
        made = 0
        for j in range(0, size, 3):
            if j + 1 < size:
                n = work.num[0]
                out.kind[n], out.stream[n] = K_JOIN, S_COMPUTE
                out.chunk[n], out.microbatch[n] = tasks.chunk[i], tasks.microbatch[i]
                out.rank[n] = first * num_stages + tasks.rank[i]
                out.seconds[n] = 0.0
                out.pred[n, 0], out.pred[n, 1] = level[j], level[j + 1]
                out.pred[n, 2] = level[j + 2] if j + 2 < size else 0
                level[made] = n
                work.num[0] = n + 1
            else:
                level[made] = level[j]
            made += 1
        size = made
    return level[0]


@kernel
def _unfold(
    tasks: Columns, parts: Parts, factors: Factors, copies: Copies, out: Columns, work: Unfolding
) -> None:
    """Write the tasks of all copies to ``out``."""
    num_stages, num_copies = factors.compute.shape
    out.kind[0], out.stream[0], out.rank[0], out.chunk[0] = K_JOIN, S_COMPUTE, 0, 0
    out.microbatch[0], out.seconds[0] = -1, 0.0
    for j in range(3):
        out.pred[0, j] = 0
    work.num[0] = 1
    for i in range(1, len(tasks.kind)):
        for k in range(num_copies):
            seconds = _seconds(tasks, parts, factors, copies, i, k)
            _copy_task(tasks, out, work, i, k, num_stages, seconds)
        a = 0 if parts.couple[i] > 0 else num_copies
        while a < num_copies:
            b = a + 1
            while b < num_copies and (parts.couple[i] == 2 or copies.block[b] == copies.block[a]):
                b += 1
            joined = _join(tasks, out, work, i, a, b - a, num_stages)
            for k in range(a, b):
                work.where[i, k] = joined
            a = b


def unfold_tasks(graph: TaskGraph, parts: Parts, factors: Factors, copies: Copies, total: int) -> TaskGraph:
    """The graph of all copies.

    Parameters
    ----------
    total : int
        Tasks that it will have.
    """
    tasks = Columns(
        graph.kind, graph.stream, graph.rank, graph.chunk, graph.microbatch, graph.duration_s, graph.pred
    )
    num_copies = len(copies.member)
    out = fresh_columns(total)
    work = Unfolding(
        np.zeros((len(graph), num_copies), np.int32),
        np.empty(num_copies + 1, np.int32),
        np.zeros(1, np.int64),
    )
    _unfold(tasks, parts, factors, copies, out, work)
    assert work.num[0] == total
    return TaskGraph(
        kind=out.kind,
        stream=out.stream,
        rank=out.rank,
        chunk=out.chunk,
        microbatch=out.microbatch,
        duration_s=out.seconds,
        pred=out.pred,
        num_ranks=graph.num_stages * num_copies,
        num_stages=graph.num_stages,
    )
