"""The order in which every rank of a pipeline works, for each published schedule.

An order is three arrays of shape ``(num_stages, num_ops)``, -1 where a rank has fewer: the operation, the slot (which
of the rank's chunks) and the micro-batch. Durations play no part here. Sources: GPipe (Huang 2019), 1F1B (Narayanan
2019), interleaved 1F1B (Narayanan 2021), ZB-H1, ZB-H2 and ZB-V (Qi 2023, 2024), DualPipe and DualPipeV (DeepSeek 2024,
2025).
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel

Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

# Operations of an order. A paired forward is followed by the paired backward that it overlaps with.
FORWARD, BACKWARD, INPUT, WEIGHT, PAIRED_FORWARD, PAIRED_BACKWARD = range(6)


def _empty(num_stages: int, num_ops: int) -> Ints:
    """An order without operations."""
    return np.full((3, num_stages, num_ops), -1, np.int32)


def gpipe(num_stages: int, num_slots: int, num_microbatches: int) -> Ints:
    """All forward passes, then all backward passes in reverse."""
    half = num_slots * num_microbatches
    out = _empty(num_stages, 2 * half)
    out[0, :, :half], out[0, :, half:] = FORWARD, BACKWARD
    out[1, :, :half] = np.tile(np.arange(num_slots), num_microbatches)
    out[2, :, :half] = np.repeat(np.arange(num_microbatches), num_slots)
    out[1:, :, half:] = out[1:, :, half - 1 :: -1]
    return out


def _one_after_another(out: Ints, warm: int, forward: Ints, backward: Ints) -> None:
    """Fill a rank's order with ``warm`` forward items, then one backward and one forward in turn, then the rest.

    ``out`` has shape (2, 2 * items, ...), ``forward`` and ``backward`` (2, items, ...): slots and micro-batches.
    """
    both = forward.shape[1] - warm
    out[:, :warm] = forward[:, :warm]
    out[:, warm : warm + 2 * both : 2] = forward[:, warm:]
    out[:, warm + 1 : warm + 2 * both : 2] = backward[:, :both]
    out[:, warm + 2 * both :] = backward[:, both:]


def _alternate(num_items: int, warm: int) -> Ints:
    """Which of a rank's items are forward and which backward passes, shape (2 * items,)."""
    out = np.full(2 * num_items, BACKWARD, np.int32)
    out[:warm] = FORWARD
    out[warm : 2 * num_items - warm : 2] = FORWARD
    return out


def one_f_one_b(num_stages: int, num_slots: int, num_microbatches: int) -> Ints:
    """One forward, one backward; a single rank runs each micro-batch through all of its slots."""
    out = _empty(num_stages, 2 * num_slots * num_microbatches).reshape(3, num_stages, -1, num_slots)
    forward = np.empty((2, num_microbatches, num_slots), np.int32)
    forward[0], forward[1] = np.arange(num_slots), np.arange(num_microbatches)[:, None]
    for r in range(num_stages):
        warm = min(num_microbatches, num_stages - 1 - r)
        out[0, r] = _alternate(num_microbatches, warm)[:, None]
        _one_after_another(out[1:, r], warm, forward, forward[:, :, ::-1])
    return out.reshape(3, num_stages, -1)


def interleaved(num_stages: int, num_slots: int, num_microbatches: int) -> Ints:
    """Virtual stages: groups of micro-batches pass slot after slot, a group being at least a pipeline long."""
    total = num_slots * num_microbatches
    num_groups = max(
        1, num_microbatches // num_stages
    )  # a shorter last group would stall, so it joins the one before
    begins = np.append(np.arange(num_groups) * num_stages, num_microbatches)
    forward = np.concatenate(
        [
            np.stack([a.ravel() for a in np.meshgrid(np.arange(num_slots), np.arange(x, y), indexing="ij")])
            for x, y in itertools.pairwise(begins)
        ],
        axis=1,
    ).astype(np.int32)
    backward = np.stack([num_slots - 1 - forward[0], forward[1]])
    first = min(num_microbatches, 2 * num_stages - 1) if num_microbatches % num_stages else num_stages
    out = _empty(num_stages, 2 * total)
    for r in range(num_stages):
        warm = min(total, 2 * (num_stages - r - 1) + (num_slots - 1) * max(first, num_stages))
        out[0, r] = _alternate(total, warm)
        _one_after_another(out[1:, r], warm, forward, backward)
    return out


@inlined
def _put(out, at, rank, op, slot, mb):  # type: ignore[no-untyped-def]
    i = at[rank]
    out[0, rank, i] = op
    out[1, rank, i] = slot
    out[2, rank, i] = mb
    at[rank] = i + 1


def zero_bubble(num_stages: int, num_microbatches: int, extra: int) -> Ints:
    """ZB-H1 (``extra=0``) and ZB-H2 (``extra=1``): the weight half lags behind, the more the later the stage.

    ZB-H1 starts like 1F1B and lets stage r lag by r micro-batches; ZB-H2 starts with nearly twice the forward passes
    and lets it lag by 2r.
    """
    out = _empty(num_stages, 3 * num_microbatches)
    _zero_bubble(out, np.zeros(num_stages, np.int64), num_microbatches, extra)
    return out


@kernel
def _zero_bubble(out: Ints, at: Places, num_microbatches: int, extra: int) -> None:
    """Write the order to ``out``; ``at``, shape (stages,), counts the operations of each rank."""
    num_stages = out.shape[1]
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


def zb_v(num_stages: int, num_microbatches: int) -> Ints:
    """ZB-V: slot 0 goes down the ranks, slot 1 comes back up, with the memory of 1F1B."""
    out = _empty(num_stages, 6 * num_microbatches)
    padded = max(num_microbatches, 2 * num_stages - 1)
    _zb_v(out, np.zeros(num_stages, np.int64), np.empty((6 * padded, 3), np.int32), num_microbatches)
    return out


@kernel
def _zb_v(out: Ints, at: Places, ops: Ints, num_microbatches: int) -> None:
    """Write the order to ``out``; ``ops``, shape (6 * micro-batches of a full pipeline, 3), is scratch."""
    num_stages, padded = out.shape[1], len(ops) // 6
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


@inlined
def _forward(out, at, r, slot, count):  # type: ignore[no-untyped-def]
    _put(out, at, r, FORWARD, slot, count[0, slot])
    count[0, slot] += 1


@inlined
def _backward(out, at, r, slot, count, split):  # type: ignore[no-untyped-def]
    mb = count[1, slot]
    count[1, slot] += 1
    _put(out, at, r, INPUT if split else BACKWARD, slot, mb)
    if split:
        count[3, count[2, 1]] = slot
        count[4, count[2, 1]] = mb
        count[2, 1] += 1


@inlined
def _weight(out, at, r, count):  # type: ignore[no-untyped-def]
    i = count[2, 0]
    _put(out, at, r, WEIGHT, count[3, i], count[4, i])
    count[2, 0] = i + 1


@inlined
def _pair(out, at, r, forward, backward, count):  # type: ignore[no-untyped-def]
    _put(out, at, r, PAIRED_FORWARD, forward, count[0, forward])
    _put(out, at, r, PAIRED_BACKWARD, backward, count[1, backward])
    count[0, forward] += 1
    count[1, backward] += 1


@inlined
def _bidirectional(out, at, count, r, near, depth, half, first, second, split_first):  # type: ignore[no-untyped-def]
    """The eight phases of DualPipe on rank ``r``: ``near`` ranks lie outside it, ``depth`` is half the pipeline.

    ``half`` micro-batches come from each side; ``first`` and ``second`` are the slots of the nearer and farther side.
    ``count``, shape (5, 4 * half + 4), is scratch: forward passes, backward passes, head and tail of the queue of
    weight halves, slot and micro-batch of each of those.
    """
    for i in range(count.shape[0]):
        for j in range(count.shape[1]):
            count[i, j] = 0
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


@kernel
def _dualpipe(out: Ints, at: Places, count: Places, half: int, folded: bool) -> None:
    """Write the order to ``out``; ``folded`` is DualPipeV. For ``count`` see `_bidirectional`."""
    num_stages = out.shape[1]
    depth = num_stages if folded else max(num_stages // 2, 1)
    for r in range(num_stages):
        lower = folded or r < num_stages // 2 or num_stages == 1
        near = r if folded else min(r, num_stages - 1 - r)
        middle = near == (num_stages - 1 if folded else num_stages // 2 - 1)
        _bidirectional(out, at, count, r, near, depth, half, 0 if lower else 1, 1 if lower else 0, middle)


def _counts(half: int) -> Places:
    return np.zeros((5, 4 * half + 4), np.int64)


def dualpipe(num_stages: int, num_microbatches: int) -> Ints:
    """DualPipe: micro-batches enter at both ends; slot 0 serves those from rank 0, slot 1 those from the last rank.

    The second half of the micro-batches is the one that enters at the last rank.
    """
    half = num_microbatches // 2
    out = _empty(num_stages, 6 * num_microbatches)
    _dualpipe(out, np.zeros(num_stages, np.int64), _counts(half), half, False)
    out[2][out[1] == 1] += half
    return out


def dualpipe_v(num_stages: int, num_microbatches: int) -> Ints:
    """DualPipeV: DualPipe cut in half; slot 0 goes down the ranks and slot 1 comes back up."""
    out = _empty(num_stages, 6 * num_microbatches)
    _dualpipe(out, np.zeros(num_stages, np.int64), _counts(num_microbatches), num_microbatches, True)
    return out
