"""The order in which every rank of a pipeline works, for each published schedule.

An order is three arrays of shape ``(num_stages, num_ops)``, -1 where a rank has fewer: the operation, the slot (which
of the rank's chunks) and the micro-batch. Durations play no part here. Sources: GPipe (Huang 2019), 1F1B (Narayanan
2019), interleaved 1F1B (Narayanan 2021), ZB-H1, ZB-H2 and ZB-V (Qi 2023, 2024), DualPipe and DualPipeV (DeepSeek 2024,
2025).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int32]

# Operations of an order. A paired forward is followed by the paired backward that it overlaps with.
FORWARD, BACKWARD, INPUT, WEIGHT, PAIRED_FORWARD, PAIRED_BACKWARD = range(6)


@njit(cache=True)
def _put(out, at, rank, op, slot, mb):  # type: ignore[no-untyped-def]
    i = at[rank]
    out[0, rank, i] = op
    out[1, rank, i] = slot
    out[2, rank, i] = mb
    at[rank] = i + 1


@njit(cache=True)
def gpipe(num_stages, num_slots, num_microbatches):  # type: ignore[no-untyped-def]
    """All forward passes, then all backward passes in reverse."""
    out = np.full((3, num_stages, 2 * num_slots * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        for m in range(num_microbatches):
            for v in range(num_slots):
                _put(out, at, r, FORWARD, v, m)
        for m in range(num_microbatches - 1, -1, -1):
            for v in range(num_slots - 1, -1, -1):
                _put(out, at, r, BACKWARD, v, m)
    return out


@njit(cache=True)
def one_f_one_b(num_stages, num_slots, num_microbatches):  # type: ignore[no-untyped-def]
    """One forward, one backward; a single rank runs each micro-batch through all of its slots."""
    out = np.full((3, num_stages, 2 * num_slots * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        warm = min(num_microbatches, num_stages - 1 - r)
        for m in range(num_microbatches + warm):
            if m < num_microbatches:
                for v in range(num_slots):
                    _put(out, at, r, FORWARD, v, m)
            if m >= warm:
                for v in range(num_slots - 1, -1, -1):
                    _put(out, at, r, BACKWARD, v, m - warm)
    return out


@njit(cache=True)
def interleaved(num_stages, num_slots, num_microbatches):  # type: ignore[no-untyped-def]
    """Virtual stages: groups of micro-batches pass slot after slot, a group being at least a pipeline long."""
    total = num_slots * num_microbatches
    mb_of = np.empty(total, np.int32)
    slot_of = np.empty(total, np.int32)
    k, done = 0, 0
    while done < num_microbatches:
        size = num_stages
        if num_microbatches - done < 2 * num_stages:
            size = num_microbatches - done  # a shorter last group would stall, so it joins the one before
        for v in range(num_slots):
            for j in range(size):
                mb_of[k], slot_of[k] = done + j, v
                k += 1
        done += size
    first = min(num_microbatches, 2 * num_stages - 1) if num_microbatches % num_stages else num_stages
    out = np.full((3, num_stages, 2 * total), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        warm = min(total, 2 * (num_stages - r - 1) + (num_slots - 1) * max(first, num_stages))
        for i in range(total + warm):
            if i < total:
                _put(out, at, r, FORWARD, slot_of[i], mb_of[i])
            if i >= warm:
                _put(out, at, r, BACKWARD, num_slots - 1 - slot_of[i - warm], mb_of[i - warm])
    return out


@njit(cache=True)
def zero_bubble(num_stages, num_microbatches, extra):  # type: ignore[no-untyped-def]
    """ZB-H1 (``extra=0``) and ZB-H2 (``extra=1``): the weight half lags behind, the more the later the stage.

    ZB-H1 starts like 1F1B and lets stage r lag by r micro-batches; ZB-H2 starts with nearly twice the forward passes
    and lets it lag by 2r.
    """
    out = np.full((3, num_stages, 3 * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        warm = min(num_microbatches, (num_stages - 1 - r) * (1 + extra))
        lag = r * (1 + extra)
        for m in range(num_microbatches + warm):
            if m < num_microbatches:
                _put(out, at, r, FORWARD, 0, m)
            if m >= warm:
                _put(out, at, r, INPUT, 0, m - warm)
                if m - warm >= lag:
                    _put(out, at, r, WEIGHT, 0, m - warm - lag)
        for m in range(max(num_microbatches - lag, 0), num_microbatches):
            _put(out, at, r, WEIGHT, 0, m)
    return out


@njit(cache=True)
def zb_v(num_stages, num_microbatches):  # type: ignore[no-untyped-def]
    """ZB-V: slot 0 goes down the ranks, slot 1 comes back up, with the memory of 1F1B."""
    padded = max(num_microbatches, 2 * num_stages - 1)
    out = np.full((3, num_stages, 6 * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    ops = np.empty((6 * padded, 3), np.int32)
    for r in range(num_stages):
        n = 0
        f0, f1, b0, b1 = 0, 0, 0, 0
        for _ in range(2 * (num_stages - r) - 1):
            ops[n] = (FORWARD, 0, f0)
            n, f0 = n + 1, f0 + 1
        for _ in range(r):
            ops[n] = (FORWARD, 1, f1)
            ops[n + 1] = (FORWARD, 0, f0)
            n, f1, f0 = n + 2, f1 + 1, f0 + 1
        for _ in range(num_stages - r):
            ops[n] = (FORWARD, 1, f1)
            ops[n + 1] = (INPUT, 1, b1)
            ops[n + 2] = (WEIGHT, 1, b1)
            n, f1, b1 = n + 3, f1 + 1, b1 + 1
        while f1 < f0 or f0 < padded:
            if f0 < padded:
                ops[n] = (FORWARD, 0, f0)
                n, f0 = n + 1, f0 + 1
            ops[n] = (INPUT, 0, b0)
            ops[n + 1] = (WEIGHT, 0, b0)
            ops[n + 2] = (FORWARD, 1, f1)
            ops[n + 3] = (INPUT, 1, b1)
            ops[n + 4] = (WEIGHT, 1, b1)
            n, b0, f1, b1 = n + 5, b0 + 1, f1 + 1, b1 + 1
        w0, w1 = b0, b1
        for _ in range(r):
            ops[n] = (INPUT, 0, b0)
            ops[n + 1] = (INPUT, 1, b1)
            n, b0, b1 = n + 2, b0 + 1, b1 + 1
        for _ in range(num_stages - r):
            ops[n] = (INPUT, 0, b0)
            ops[n + 1] = (WEIGHT, 0, w0)
            n, b0, w0 = n + 2, b0 + 1, w0 + 1
        while w1 < b1:
            ops[n] = (WEIGHT, 1, w1)
            n, w1 = n + 1, w1 + 1
        while w0 < b0:
            ops[n] = (WEIGHT, 0, w0)
            n, w0 = n + 1, w0 + 1
        for i in range(n):
            if (
                ops[i, 2] < num_microbatches
            ):  # a short step is a long one with the later micro-batches left out
                _put(out, at, r, ops[i, 0], ops[i, 1], ops[i, 2])
    return out


@njit(cache=True)
def _forward(out, at, r, slot, count):  # type: ignore[no-untyped-def]
    _put(out, at, r, FORWARD, slot, count[0, slot])
    count[0, slot] += 1


@njit(cache=True)
def _backward(out, at, r, slot, count, split):  # type: ignore[no-untyped-def]
    mb = count[1, slot]
    count[1, slot] += 1
    _put(out, at, r, INPUT if split else BACKWARD, slot, mb)
    if split:
        count[3, count[2, 1]] = slot
        count[4, count[2, 1]] = mb
        count[2, 1] += 1


@njit(cache=True)
def _weight(out, at, r, count):  # type: ignore[no-untyped-def]
    i = count[2, 0]
    _put(out, at, r, WEIGHT, count[3, i], count[4, i])
    count[2, 0] = i + 1


@njit(cache=True)
def _pair(out, at, r, forward, backward, count):  # type: ignore[no-untyped-def]
    _put(out, at, r, PAIRED_FORWARD, forward, count[0, forward])
    _put(out, at, r, PAIRED_BACKWARD, backward, count[1, backward])
    count[0, forward] += 1
    count[1, backward] += 1


@njit(cache=True)
def _bidirectional(out, at, r, near, depth, half, first, second, split_first):  # type: ignore[no-untyped-def]
    """The eight phases of DualPipe on rank ``r``: ``near`` ranks lie outside it, ``depth`` is half the pipeline.

    ``half`` micro-batches come from each side; ``first`` and ``second`` are the slots of the nearer and farther side.
    """
    count = np.zeros(
        (5, 4 * half + 4), np.int64
    )  # forwards, backwards, weight queue (head, tail), queued slot and mb
    for _ in range((depth - near - 1) * 2):
        _forward(out, at, r, first, count)
    for _ in range(near + 1):
        _forward(out, at, r, first, count)
        _forward(out, at, r, second, count)
    for _ in range(depth - near - 1):
        _backward(out, at, r, second, count, True)
        _weight(out, at, r, count)
        _forward(out, at, r, second, count)
    for i in range(half - 2 * depth + near + 1):
        if i == 0 and split_first:
            # nothing to overlap with yet on the innermost rank: the gradient is wanted next door at once
            _forward(out, at, r, first, count)
            _backward(out, at, r, second, count, False)
        else:
            _pair(out, at, r, first, second, count)
        _pair(out, at, r, second, first, count)
    for _ in range(depth - near - 1):
        _backward(out, at, r, second, count, False)
        _pair(out, at, r, second, first, count)
    split = False
    for i in range(near + 1):
        if i == (near + 1) // 2 and near % 2 == 1:
            split = True
        _backward(out, at, r, second, count, split)
        if i == (near + 1) // 2 and near % 2 == 0:
            split = True
        _backward(out, at, r, first, count, split)
    for _ in range(depth - near - 1):
        _weight(out, at, r, count)
        _backward(out, at, r, first, count, True)
    while count[2, 0] < count[2, 1]:
        _weight(out, at, r, count)


@njit(cache=True)
def dualpipe(num_stages, num_microbatches):  # type: ignore[no-untyped-def]
    """DualPipe: micro-batches enter at both ends; slot 0 serves those from rank 0, slot 1 those from the last rank.

    The second half of the micro-batches is the one that enters at the last rank.
    """
    half = num_microbatches // 2
    out = np.full((3, num_stages, 6 * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        lower = r < num_stages // 2 or num_stages == 1
        near = min(r, num_stages - 1 - r)
        middle = near == num_stages // 2 - 1
        _bidirectional(
            out, at, r, near, max(num_stages // 2, 1), half, 0 if lower else 1, 1 if lower else 0, middle
        )
        for i in range(at[r]):
            if out[1, r, i] == 1:
                out[2, r, i] += half
    return out


@njit(cache=True)
def dualpipe_v(num_stages, num_microbatches):  # type: ignore[no-untyped-def]
    """DualPipeV: DualPipe cut in half; slot 0 goes down the ranks and slot 1 comes back up."""
    out = np.full((3, num_stages, 6 * num_microbatches), -1, np.int32)
    at = np.zeros(num_stages, np.int64)
    for r in range(num_stages):
        _bidirectional(out, at, r, r, num_stages, num_microbatches, 0, 1, r == num_stages - 1)
    return out
