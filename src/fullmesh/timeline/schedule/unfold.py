"""Compiled unfolding: copies of one pipeline's tasks, joined where devices work in lockstep."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fullmesh.timeline.schedule.tasks import K_JOIN, K_SEND_BACKWARD, K_SEND_FORWARD, S_COMPUTE

DISTRIBUTIONS = ("lognormal", "normal", "exponential")


def joins_of(size: int) -> int:
    """Joins of at most three tasks that bring ``size`` tasks together."""
    total = 0
    while size > 1:
        full, rest = divmod(size, 3)
        total += full + (rest == 2)
        size = full + (rest > 0)
    return total


@njit(cache=True)
def _hash(seed, member, task, draw):  # type: ignore[no-untyped-def]
    z = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(member) * np.uint64(0xD1B54A32D192ED03)
    z += np.uint64(task) * np.uint64(0x8CB92BA72F3D8DD7) + np.uint64(draw) * np.uint64(0xABC98388FB8FAC03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True)
def _uniform(bits):  # type: ignore[no-untyped-def]
    return (np.float64(bits >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(cache=True)
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


@njit(cache=True)
def factor(distribution, cv, seed, member, task, width=1):  # type: ignore[no-untyped-def]
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


@njit(cache=True)
def unfold_tasks(  # type: ignore[no-untyped-def]
    kind, stream, rank, chunk, mb, pred, duration, communication, experts, couple, block, compute_factor,
    comm_factor, send_factor, expert_factor, member, distribution, cv, seed, width, num_stages, total,
):  # fmt: skip
    """Columns of the unfolded graph.

    ``couple`` says who ends together: 0 nobody, 1 the copies of a block, 2 all copies. A member that stands for
    ``width`` devices draws the largest of their random factors.
    """
    copies = len(member)
    o_kind, o_stream = np.empty(total, np.int8), np.empty(total, np.int8)
    o_rank, o_chunk, o_mb = np.empty(total, np.int32), np.empty(total, np.int16), np.empty(total, np.int32)
    o_duration, o_pred = np.empty(total, np.float64), np.zeros((total, 3), np.int32)
    where = np.zeros((len(kind), copies), np.int32)
    level = np.empty(copies + 1, np.int32)
    n = 1
    o_kind[0], o_stream[0], o_rank[0], o_chunk[0], o_mb[0], o_duration[0] = K_JOIN, S_COMPUTE, 0, 0, -1, 0.0
    for i in range(1, len(kind)):
        stage = rank[i]
        comm = communication[i]
        comp = duration[i] - comm
        for k in range(copies):
            wide = comm_factor[stage, k]
            if kind[i] == K_SEND_FORWARD:
                wide *= send_factor[0, stage, k]
            elif kind[i] == K_SEND_BACKWARD:
                wide *= send_factor[1, stage, k]
            slow = compute_factor[stage, k]
            if distribution >= 0 and comp > 0:
                slow *= factor(distribution, cv, seed, member[k] * num_stages + stage, i, width)
            seconds = duration[i]
            if expert_factor[stage, k] != 1.0:
                seconds += experts[i] * (expert_factor[stage, k] - 1.0) * slow
            if slow != 1.0:
                seconds += comp * (slow - 1.0)
            if wide != 1.0:
                seconds += comm * (wide - 1.0)
            o_kind[n], o_stream[n], o_chunk[n], o_mb[n] = kind[i], stream[i], chunk[i], mb[i]
            o_rank[n] = k * num_stages + stage
            o_duration[n] = max(seconds, 0.0)
            for j in range(3):
                q = pred[i, j]
                if q > 0:
                    o_pred[n, j] = where[q, k]
            where[i, k] = n
            n += 1
        if couple[i] == 0:
            continue
        a = 0
        while a < copies:
            b = a + 1
            while b < copies and (couple[i] == 2 or block[b] == block[a]):
                b += 1
            size = 0
            for k in range(a, b):
                level[size] = where[i, k]
                size += 1
            while size > 1:
                made = 0
                for j in range(0, size, 3):
                    if j + 1 < size:
                        o_kind[n], o_stream[n], o_chunk[n], o_mb[n] = K_JOIN, S_COMPUTE, chunk[i], mb[i]
                        o_rank[n] = a * num_stages + stage
                        o_duration[n] = 0.0
                        o_pred[n, 0], o_pred[n, 1] = level[j], level[j + 1]
                        if j + 2 < size:
                            o_pred[n, 2] = level[j + 2]
                        level[made] = n
                        n += 1
                    else:
                        level[made] = level[j]
                    made += 1
                size = made
            for k in range(a, b):
                where[i, k] = level[0]
            a = b
    assert n == total
    return o_kind, o_stream, o_rank, o_chunk, o_mb, o_duration, o_pred
