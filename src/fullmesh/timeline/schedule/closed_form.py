"""Closed forms of the schedules that :mod:`fullmesh.timeline.schedule.schedules` builds, over columns of plans.

A schedule's step is the longest path through its task graph. For each stage the candidates for that path are known: the
stage is busy all the time, or it waits for the first gradient, or for the last one, or for both, or transfers stretch
every round trip. The largest candidate is the time. Where stages are even these are the published formulas; where they
are not it stays close, and :func:`fullmesh.timeline.step_form.why_different` names what the rest is due to.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError

Floats = npt.NDArray[np.float64]

# Micro-batches per stage during which a slow rank of a zero-bubble schedule catches up in holes that are there anyway.
# Read off replays of uneven plans; even plans do not depend on them.
HIDDEN_V = 0.75
HIDDEN_PAIRS = 0.5
# Share of a step below which the turns of interleaved ranks are not worth working out.
NEGLIGIBLE = 3e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Passes of N plans of one schedule and shape.

    Parameters
    ----------
    forward_s, input_s, weight_s : float array, shape (N, C)
        By chunk in model order; recompute counts to ``input_s``.
    send_s : float array, shape (N, C - 1)
    pair_forward_s, pair_backward_s : float array, shape (N, C)
        Their computation in an overlapped pair.
    pair_comm_forward_s, pair_comm_backward_s : float array, shape (N, C)
        Their communication beside it.
    num_microbatches : int array, shape (N,)
    """

    forward_s: Floats
    input_s: Floats
    weight_s: Floats
    send_s: Floats
    pair_forward_s: Floats
    pair_backward_s: Floats
    pair_comm_forward_s: Floats
    pair_comm_backward_s: Floats
    num_microbatches: npt.NDArray[np.int64]


def pipeline_s(schedule: str, num_virtual: int, passes: Passes) -> Floats:
    """From the first forward pass to the end of the last pass of any rank, shape (N,)."""
    if schedule == "interleaved" and (num_virtual == 1 or passes.forward_s.shape[1] == num_virtual):
        schedule = "1f1b"
        if passes.forward_s.shape[1] == num_virtual:
            passes = _one_rank(passes)
    if schedule == "1f1b" and num_virtual > 1:
        passes = _one_rank(passes)
    if schedule == "gpipe":
        return _gpipe(passes)
    if schedule in ("1f1b", "zb-h1", "zb-h2"):
        return _one_f_one_b(passes, {"1f1b": 0, "zb-h1": 1, "zb-h2": 2}[schedule])
    if schedule == "interleaved":
        return _interleaved(passes, num_virtual)
    if schedule == "zb-v":
        return _zb_v(passes)
    if schedule in ("dualpipe", "dualpipev"):
        return _bidirectional(passes, schedule == "dualpipev")
    raise PlanError(f"the schedule {schedule!r} has no closed form", hint="replay it instead")


def _one_rank(passes: Passes) -> Passes:
    """All chunks of a single rank as one."""
    return dataclasses.replace(
        passes,
        forward_s=passes.forward_s.sum(axis=1, keepdims=True),
        input_s=passes.input_s.sum(axis=1, keepdims=True),
        weight_s=passes.weight_s.sum(axis=1, keepdims=True),
        send_s=passes.send_s[:, :0],
    )


def _before(values: Floats) -> Floats:
    """Sum of the columns before each column."""
    out: Floats = np.cumsum(values, axis=1) - values
    return out


def _from(values: Floats) -> Floats:
    """Sum of the columns from each column on."""
    out: Floats = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return out


def _gpipe(x: Passes) -> Floats:
    """Forward and backward are two flow shops of equal jobs: all stages once, the slowest M - 1 times more."""
    m = x.num_microbatches
    b = x.input_s + x.weight_s
    sends = x.send_s.sum(axis=1)
    slowest_send = x.send_s.max(axis=1, initial=0.0)
    forward = x.forward_s.sum(axis=1) + sends + (m - 1) * np.maximum(x.forward_s.max(axis=1), slowest_send)
    out: Floats = forward + b.sum(axis=1) + sends + (m - 1) * np.maximum(b.max(axis=1), slowest_send)
    return out


def _one_f_one_b(x: Passes, zero_bubble: int) -> Floats:
    f, w = x.forward_s, x.weight_s
    i = x.input_s
    if not zero_bubble:
        i, w = i + w, np.zeros_like(w)
    p = f.shape[1]
    m = x.num_microbatches[:, None].astype(np.float64)
    s = np.arange(p, dtype=np.float64)
    c = np.zeros_like(f)
    c[:, : p - 1] = x.send_s
    extra = 1 + (zero_bubble == 2)
    lag = np.minimum(s * extra, m) if zero_bubble else np.zeros((1, p))
    n = np.minimum((p - 1 - s) * extra + 1, m)
    pre, post = _before(f + c), _before(i + c)
    loop = _from(f + i) + 2 * _from(c)  # first forward of a stage to its first backward
    t = f + i + w
    own = (
        np.minimum(lag + (1.0 if zero_bubble else 0.0), m) * w
    )  # what a stage still has to do after its last input gradient
    # the gradient goes on up, and any stage on its way may be the last to finish its weights
    tail = post + np.maximum.accumulate(own - post, axis=1)
    middle_w = np.maximum(m - n - lag, 0.0) * w
    busy = m * t - own
    first = loop + (m - 1) * i + (m - n) * f + m * w - own
    last = m * f + (m - n) * i + middle_w + loop - f
    both = 2 * loop + (m - n) * f + np.maximum(m - n - 1, 0.0) * i + middle_w - f
    both = np.where(m > n, both, loop + (m - 1) * np.maximum(f, i))
    laps = np.floor((m - 1) / np.maximum(n, 1))
    rest = m - 1 - laps * n
    weights = np.minimum(laps + rest, np.maximum(m - n - lag, 0.0))
    round_trips = (laps + 1) * loop + rest * (f + i) + weights * w
    round_trips = np.where((n > 1) & (laps > 0), round_trips, 0.0)
    best = np.maximum.reduce([busy, first, last, both, round_trips])
    out = (pre + best + tail).max(axis=1)
    # neighbouring stages that wait for each other's transfers
    if not c.any():
        return np.asarray(out, dtype=np.float64)
    work, hops = (np.concatenate([np.zeros((len(f), 1)), np.cumsum(y, axis=1)], axis=1) for y in (t, c))
    ends = pre - own + tail
    for width in range(2, p + 1):
        first_ones = slice(0, p - width + 1)
        window = work[:, width:] - work[:, first_ones]
        between = hops[:, width - 1 : p] - hops[:, first_ones]
        lasting = m * (window + 2 * between) / width
        out = np.maximum(out, (lasting + ends[:, first_ones]).max(axis=1))
    result: Floats = out
    return result


def _interleaved(x: Passes, num_virtual: int) -> Floats:
    num, chunks = x.forward_s.shape
    p, v = chunks // num_virtual, num_virtual
    m = x.num_microbatches[:, None].astype(np.float64)
    f = x.forward_s.reshape(num, v, p)
    b = (x.input_s + x.weight_s).reshape(num, v, p)
    c = np.concatenate([x.send_s, np.zeros((num, 1))], axis=1).reshape(num, v, p)
    s = np.arange(p, dtype=np.float64)
    total = (f + b).sum(axis=1)
    pre, post = _before(f[:, 0] + c[:, 0]), _before(b[:, 0] + c[:, 0])
    group = np.minimum(m, p)
    span_f = np.maximum((f + c).sum(axis=2), group * f.max(axis=2))[:, : v - 1].sum(axis=1)[:, None]
    span_b = np.maximum((b + c).sum(axis=2), group * b.max(axis=2))[:, : v - 1].sum(axis=1)[:, None]
    turn = _from(f[:, -1] + b[:, -1]) + 2 * _from(c[:, -1])
    n = np.minimum(2 * (p - 1 - s) + (v - 1) * p + 1, m * v)
    # forward passes that a rank runs before its first backward one, and the other way round at the end
    wait_first = np.maximum(span_f + turn - n * f.mean(axis=1) - b[:, -1], 0.0)
    wait_last = np.maximum(span_b + turn - n * b.mean(axis=1) - f[:, -1], 0.0)
    best = (pre + m * total + wait_first + wait_last + post).max(axis=1)
    steady = m[:, 0] / p * _turns(f, b, c)
    out: Floats = best + steady
    return out


def _turns(f: Floats, b: Floats, c: Floats) -> Floats:
    """Seconds that a group of micro-batches takes beyond the busiest rank, as ranks take turns at being the slowest.

    Chunks of unequal length make one rank the slowest while a slot runs and another while the next does. The longest
    cycle through the task graph then changes ranks, A to B > A with an activation and back with a gradient; a round
    trip costs it B - A rounds of forward and backward passes, as A is twice as many rounds ahead as transfers take.
    """
    num, v, p = f.shape
    rounds = np.arange(v * p)
    cost = np.empty((num, p, v * p))
    for r in range(p):
        forward = rounds // p % v
        backward = v - 1 - (rounds - 2 * (p - 1 - r) - (v - 1) * p) // p % v
        cost[:, r] = f[:, forward, r] + b[:, backward, r]
    # a pipeline whose ranks all waited for the slowest of every round would gain at least as much
    most = cost.max(axis=1).sum(axis=1) / np.maximum(cost.sum(axis=2).max(axis=1), 1e-300) - 1.0
    some = most > NEGLIGIBLE
    if not some.all():
        gain = np.zeros(num)
        if some.any():
            gain[some] = _turns(f[some], b[some], c[some])
        return gain
    once = np.cumsum(cost, axis=2)
    done = np.concatenate([np.zeros((num, p, 1)), once, once + once[:, :, -1:]], axis=2)
    period = v * p
    longest = done[:, :, period].max(axis=1)
    gain = np.zeros(num)
    hop = (f + b + 2 * c).mean(axis=1)
    for width in range(1, p):
        for a in range(p - width):
            between = done[:, a + width, : period + 1] - done[:, a, : period + 1]
            back = np.minimum(np.arange(period + 1) + 2 * width, 2 * period)
            ahead = done[:, a + width, : period + 1] - done[:, a][:, back]
            # on B from round k1 to k2, on A from k2 + 2 (B - A) to k1 of the next period
            best = (ahead - np.minimum.accumulate(between, axis=1)).max(axis=1) + done[:, a, period]
            gain = np.maximum(gain, best + hop[:, a : a + width].sum(axis=1) - longest)
    return gain


def _zb_v(x: Passes) -> Floats:
    """The busiest rank all the time, after the first micro-batch has come down to the last rank and before it is up."""
    p = x.forward_s.shape[1] // 2
    m = x.num_microbatches.astype(np.float64)
    whole = x.forward_s + x.input_s + x.weight_s
    rank = whole[:, :p] + whole[:, p:][:, ::-1]
    f, i, w = (y.mean(axis=1) for y in (x.forward_s, x.input_s, x.weight_s))
    hop = np.maximum(f, i)
    send = x.send_s[:, : p - 1].mean(axis=1) if p > 1 else np.zeros(len(m))
    filled = (p - 1) * hop
    # with too few micro-batches to fill the V, each one missing leaves a hole on the way down and one on the way up
    short = (2 * p - 1 - m) * (i + hop) + 2 * np.maximum(m - p, 0.0) * np.maximum(i - w, 0.0)
    uneven = np.maximum(m - HIDDEN_V * p, 0.0) * (rank.max(axis=1) - rank.mean(axis=1))
    best = m * rank.mean(axis=1) + uneven + filled
    best = np.where(m < 2 * p - 1, np.maximum(best, m * rank.mean(axis=1) + short), best)
    out: Floats = best + (p - 1 + np.maximum(m - p, 0.0)) * send
    return out


def _bidirectional(x: Passes, folded: bool) -> Floats:
    """DualPipe, and DualPipeV where ``folded``.

    Once micro-batches from both sides have met, the pipeline advances by one overlapped pair at a time, at the pace of
    the slowest rank and with one transfer exposed. The innermost rank runs all but 2 ``depth`` of its passes in pairs;
    on the way in and out it is waited for ``depth - 1`` hops of ``F + F&B - 2W``.
    """
    chunks = x.forward_s.shape[1]
    depth = chunks // 2
    m = x.num_microbatches.astype(np.float64) * (2 if folded else 1)

    def meet(a: Floats, b: Floats) -> Floats:
        """Average of the two pairs that a rank alternates between."""
        return (a + b + a[:, ::-1] + b[:, ::-1]) / 2

    crossed = np.maximum(
        x.pair_forward_s + x.pair_backward_s[:, ::-1], x.pair_comm_forward_s + x.pair_comm_backward_s[:, ::-1]
    )
    pair = (crossed + crossed[:, ::-1]) / 2
    alone = meet(x.forward_s, x.input_s + x.weight_s)
    num_pairs = m - 2 * depth - 1
    mean_pair = pair.mean(axis=1)
    single = x.forward_s.mean(axis=1) + mean_pair - 2 * x.weight_s.mean(axis=1)
    send = x.send_s.mean(axis=1) if chunks > 1 else np.zeros(len(m))
    uneven = np.maximum(num_pairs - HIDDEN_PAIRS * depth, 0.0) * (pair.max(axis=1) - mean_pair)
    work = num_pairs * mean_pair + uneven + (2 * depth + 1) * alone.mean(axis=1)
    hops = (depth - 1) * np.maximum(single, 0.0)
    out: Floats = work + hops + send * (num_pairs + 5 * (depth - 1))
    return out
