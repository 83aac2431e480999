"""The loop over all plans: enumerate, price, hold against the memory, keep what matters. A plan leaves nothing behind.

For every frame the stages are put together once for each way to recompute and to hide traffic; schedules and shardings
then take a few operations each. The formulas are those of :mod:`fullmesh.cost.formulas`, compiled. What is kept: the
best plan of every layout, the fastest of all, the fastest ones that leave memory to spare, the front of step time
against memory, the plan that needs least memory, and counts. All comparisons end with the number of a plan, so that
what is kept does not depend on how the frames are cut into pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.compiled import inlined, kernel, part_of
from fullmesh.cost import formulas
from fullmesh.plan import SCHEDULES
from fullmesh.search.prices import Tables

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Plans of a front that are kept for each number of missing pairs: the slowest ones give way beyond it.
ROOM = 2048
_ZERO_BUBBLE, _DUALPIPE, _GPIPE = (SCHEDULES.index(s) for s in ("zero-bubble", "dualpipe", "gpipe"))
PRICED, FITTING = 0, 1

hidden_s = part_of(formulas.hidden_s)
exposed_s = part_of(formulas.exposed_s)
device_s = part_of(formulas.device_s)
gathered_s = part_of(formulas.gathered_s)
slowed_s = part_of(formulas.slowed_s)
weight_share = part_of(formulas.weight_share)
zero_bubble_factor = part_of(formulas.zero_bubble_factor)
dualpipe_factor = part_of(formulas.dualpipe_factor)
bubble_s = part_of(formulas.bubble_s)
sends_s = part_of(formulas.sends_s)
beyond_room_s = part_of(formulas.beyond_room_s)
doublings = part_of(formulas.doublings)
in_flight_plain = part_of(formulas.in_flight_plain)
in_flight_interleaved = part_of(formulas.in_flight_interleaved)
in_flight_dualpipe = part_of(formulas.in_flight_dualpipe)


class Aim(NamedTuple):
    """What decides between plans.

    Attributes
    ----------
    capacity, roomy : float64, shape (1,)
        Bytes that a plan may fill, and that a plan with memory to spare fills at most.
    per_device : bool, shape (1,)
        Whether what is saved are device-seconds.
    doubt : float64, shape (pairs,)
        Factor from the prediction to the far end, by the number of pairs of attributes that no result has.
    """

    capacity: Floats
    roomy: Floats
    per_device: npt.NDArray[np.bool_]
    doubt: Floats


class Kept(NamedTuple):
    """What is kept of all plans; ``number`` is -1 where there is none.

    Attributes
    ----------
    counts : int64, shape (2,)
        Plans priced, and those that fit.
    layout_score, layout_cost, layout_memory : float64, shape (layouts,)
        Cost at the far end, cost and bytes of the best plan of every layout.
    layout_number : int64, shape (layouts,)
    fastest : float64, shape (2,)
        Cost and bytes of the cheapest plan.
    fastest_number : int64, shape (1,)
    least : float64, shape (1,)
        Bytes of the plan that needs least, where none fits.
    least_number : int64, shape (1,)
    roomy_cost : float64, shape (pairs,)
        Cost of the cheapest plan with memory to spare, by the number of missing pairs.
    roomy_number : int64, shape (pairs,)
    front_s, front_bytes : float64, shape (pairs, ROOM)
        Steps that rise and bytes that fall.
    front_number : int64, shape (pairs, ROOM)
    front_length : int64, shape (pairs,)
    """

    counts: Ints
    layout_score: Floats
    layout_cost: Floats
    layout_memory: Floats
    layout_number: Ints
    fastest: Floats
    fastest_number: Ints
    least: Floats
    least_number: Ints
    roomy_cost: Floats
    roomy_number: Ints
    front_s: Floats
    front_bytes: Floats
    front_number: Ints
    front_length: Ints


class Scratch(NamedTuple):
    """Room to work in; s stages, d drops, r recomputes, i ways to hide, b blocks."""

    base: Floats  # (s, parts)
    again: Floats  # (s, d, forward parts)
    redo: Floats  # (forward parts, r)
    block_bytes: Floats  # (b, r)
    working: Floats  # (b, r)
    saved: Floats  # (s, r)
    transient: Floats  # (s, r)
    in_flight: Floats  # (s,)
    fixed_bytes: Floats  # (s,)
    memory: Floats  # (r,)
    total: Floats  # (r,)
    forward: Floats  # (r,)
    backward: Floats  # (r,)
    longest: Floats  # (2, i, r): as the frame is, and with gathered parameters
    longest_forward: Floats
    longest_backward: Floats
    longest_weight: Floats
    others: Floats
    step: Floats  # (r,)


def fresh_kept(num_layouts: int, pairs: int) -> Kept:
    """Nothing kept yet."""
    inf = np.inf
    return Kept(
        counts=np.zeros(2, dtype=np.int64),
        layout_score=np.full(num_layouts, inf),
        layout_cost=np.full(num_layouts, inf),
        layout_memory=np.full(num_layouts, inf),
        layout_number=np.full(num_layouts, -1, dtype=np.int64),
        fastest=np.full(2, inf),
        fastest_number=np.full(1, -1, dtype=np.int64),
        least=np.full(1, inf),
        least_number=np.full(1, -1, dtype=np.int64),
        roomy_cost=np.full(pairs, inf),
        roomy_number=np.full(pairs, -1, dtype=np.int64),
        front_s=np.empty((pairs, ROOM)),
        front_bytes=np.empty((pairs, ROOM)),
        front_number=np.empty((pairs, ROOM), dtype=np.int64),
        front_length=np.zeros(pairs, dtype=np.int64),
    )


def fresh_scratch(tables: Tables) -> Scratch:
    """Room for the stages and options of these tables."""
    stages = int(tables.frames.stages.max(initial=1))
    drops, ways = tables.choices.again.shape
    inside = len(tables.choices.tp_hides)
    blocks = len(tables.prices.inputs)
    parts, forward = tables.prices.dense_s.shape[-1], tables.prices.dense_again_s.shape[-1]
    empty: Any = np.empty
    return Scratch(
        base=empty((stages, parts)),
        again=empty((stages, drops, forward)),
        redo=empty((forward, ways)),
        block_bytes=empty((blocks, ways)),
        working=empty((blocks, ways)),
        saved=empty((stages, ways)),
        transient=empty((stages, ways)),
        in_flight=empty(stages),
        fixed_bytes=empty(stages),
        memory=empty(ways),
        total=empty(ways),
        forward=empty(ways),
        backward=empty(ways),
        longest=empty((2, inside, ways)),
        longest_forward=empty((2, inside, ways)),
        longest_backward=empty((2, inside, ways)),
        longest_weight=empty((2, inside, ways)),
        others=empty((2, inside, ways)),
        step=empty(ways),
    )


@inlined
def _sum_stages(f, frames, rows, prices, work):  # type: ignore[no-untyped-def]
    """Blocks of every distinct stage of a frame, added up."""
    dense, expert, setting = frames.dense[f], frames.expert[f], frames.setting[f]
    blocks, parts = len(prices.inputs), work.base.shape[1]
    drops, forward = work.again.shape[1], work.again.shape[2]
    for c in range(frames.stages[f]):
        row = frames.first[f] + c
        for p in range(parts):
            work.base[c, p] = 0.0
        for d in range(drops):
            for p in range(forward):
                work.again[c, d, p] = 0.0
        for b in range(blocks):
            n = rows.blocks[row, b]
            if n == 0.0:
                continue
            for p in range(parts):
                work.base[c, p] += n * (
                    prices.dense_s[setting, dense, b, p] + prices.expert_s[setting, expert, b, p]
                )
            for d in range(drops):
                for p in range(forward):
                    work.again[c, d, p] += n * (
                        prices.dense_again_s[setting, dense, b, d, p]
                        + prices.expert_again_s[setting, expert, b, d, p]
                    )


@inlined
def _sum_bytes(f, frames, rows, prices, terms, choices, work):  # type: ignore[no-untyped-def]
    """Saved bytes and working set of every stage of a frame, for every way to recompute."""
    dense, expert, setting = frames.dense[f], frames.expert[f], frames.setting[f]
    blocks, ways, drops = len(prices.inputs), len(choices.full), choices.kept.shape[0]
    for b in range(blocks):
        for r in range(ways):
            work.working[b, r] = 0.0
        for d in range(drops):
            size = prices.dense_saved[dense, b, d] + prices.expert_saved[expert, b, d]
            if size > 0.0:
                for r in range(ways):
                    work.working[b, r] += choices.kept[d, r] * size
        whole = prices.inputs[b] * prices.input_bytes[dense]
        for r in range(ways):
            work.block_bytes[b, r] = choices.full[r] * whole + (1.0 - choices.full[r]) * work.working[b, r]
    for c in range(frames.stages[f]):
        row = frames.first[f] + c
        for r in range(ways):
            work.saved[c, r] = 0.0
            work.transient[c, r] = 0.0
        for b in range(blocks):
            n = rows.blocks[row, b]
            if n == 0.0:
                continue
            for r in range(ways):
                work.saved[c, r] += n * work.block_bytes[b, r]
            if prices.is_kind[b]:
                for r in range(ways):
                    work.transient[c, r] = max(work.transient[c, r], work.working[b, r])
        for r in range(ways):
            share = 1.0 if choices.is_full[r] and rows.layers[row] > 0 else 0.5
            work.transient[c, r] *= terms.transient[setting] * share
            work.saved[c, r] *= terms.activation[setting]


@inlined
def _time_stages(f, z, version, frames, rows, prices, terms, choices, work):  # type: ignore[no-untyped-def]
    """The bottleneck of a frame and what the others take, for every way to recompute and to hide traffic.

    ``version`` is 1 where sharding ``z`` gathers parameters in every pass, else 0.
    """
    t, ways, drops = frames.setting[f], len(choices.full), choices.again.shape[0]
    forward_parts = work.again.shape[2]
    gap, issue, beside = terms.gap[t], terms.issue[t], terms.overlap_fsdp[t]
    contention = terms.contention[t]
    for i in range(len(choices.tp_hides)):
        for r in range(ways):
            work.longest[version, i, r] = -1.0
            work.others[version, i, r] = 0.0
    for c in range(frames.stages[f]):
        row = frames.first[f] + c
        x = work.base[c]
        gather_f, gather_b = 0.0, 0.0
        if version == 1:
            d, e = frames.dense_place[f], prices.expert_group[frames.place[f], z]
            gather_f = terms.fsdp[t] * (prices.dense_held[d, z, c, 5] + prices.expert_held[e, c, 5])
            gather_b = gather_f + terms.fsdp[t] * (
                prices.dense_held[d, z, c, 6] + prices.expert_held[e, c, 6]
            )
        for p in range(forward_parts):
            for r in range(ways):
                work.redo[p, r] = 0.0
            for d in range(drops):
                size = work.again[c, d, p]
                if size > 0.0:
                    for r in range(ways):
                        work.redo[p, r] += choices.again[d, r] * size
        for i in range(len(choices.tp_hides)):
            tp_share = choices.tp_hides[i] * terms.overlap_tp[t]
            ep_share = choices.ep_hides[i] * terms.overlap_ep[t]
            hidden_f, part = hidden_s(x[0], x[1], x[2], tp_share, ep_share)
            busy = x[0] + exposed_s(x[1], tp_share, part) + exposed_s(x[2], ep_share, part) + x[3]
            device = device_s(busy, x[4], x[5], gap, issue)
            forward = gathered_s(device, gather_f, beside)
            waited_f = forward - device
            n = rows.multiplicity[row]
            for r in range(ways):
                compute = x[6] + work.redo[0, r]
                tp, ep = x[7] + work.redo[1, r], x[8] + work.redo[2, r]
                hidden_b, part_b = hidden_s(compute, tp, ep, tp_share, ep_share)
                busy_b = compute + exposed_s(tp, tp_share, part_b) + exposed_s(ep, ep_share, part_b)
                busy_b += x[9] + work.redo[3, r]
                device_b = device_s(busy_b, x[10] + work.redo[4, r], x[11] + work.redo[5, r], gap, issue)
                whole_b = gathered_s(device_b, gather_b, beside)
                hidden = hidden_f + hidden_b + gather_f + gather_b - (waited_f + (whole_b - device_b))
                work.backward[r] = whole_b + slowed_s(hidden, x[0] + compute, contention)
            for r in range(ways):
                total = forward + work.backward[r]
                work.others[version, i, r] += n * total
                longer = total > work.longest[version, i, r]
                work.longest[version, i, r] = total if longer else work.longest[version, i, r]
                work.longest_forward[version, i, r] = (
                    forward if longer else work.longest_forward[version, i, r]
                )
                work.longest_backward[version, i, r] = (
                    work.backward[r] if longer else work.longest_backward[version, i, r]
                )
                work.longest_weight[version, i, r] = x[12] if longer else work.longest_weight[version, i, r]
    for i in range(len(choices.tp_hides)):
        for r in range(ways):
            work.others[version, i, r] -= work.longest[version, i, r]


@inlined
def _need(f, s, z, frames, rows, prices, terms, choices, work):  # type: ignore[no-untyped-def]
    """Bytes that the fullest stage of a frame needs with a schedule and a sharding, by way to recompute."""
    t, ways = frames.setting[f], len(choices.full)
    pp, vpp, micro = float(frames.pp[f]), float(frames.vpp[f]), float(frames.micro[f])
    schedule = choices.schedule[s]
    twice = 2.0 if schedule == _DUALPIPE and pp > 1 else 1.0
    dense, expert = frames.dense_place[f], prices.expert_group[frames.place[f], z]
    for r in range(ways):
        work.memory[r] = 0.0
    for c in range(frames.stages[f]):
        row = frames.first[f] + c
        stage = rows.rank[row]
        if schedule == _GPIPE:
            in_flight = micro
        elif schedule == _DUALPIPE:
            in_flight = in_flight_dualpipe(micro, pp)
        elif vpp > 1 and pp > 1:
            in_flight = in_flight_interleaved(micro, pp, vpp, stage)
        else:
            in_flight = in_flight_plain(micro, pp, stage)
        held = prices.dense_held[dense, z, c, 3] + prices.expert_held[expert, c, 3]
        states = prices.dense_held[dense, z, c, 4] + prices.expert_held[expert, c, 4]
        fixed = held * twice + states + terms.static[t]
        fixed += terms.head[t] * rows.head[row] * prices.head_bytes[frames.dense[f]]
        for r in range(ways):
            need = fixed + work.saved[c, r] * in_flight + work.transient[c, r]
            work.memory[r] = max(work.memory[r], need)
    for r in range(ways):
        work.memory[r] = work.memory[r] * (1.0 + terms.reserved[t]) + terms.context[t]


@inlined
def _time_steps(f, s, z, i, e, version, frames, prices, terms, choices, work):  # type: ignore[no-untyped-def]
    """Seconds of the step with all options but the way to recompute."""
    t, ways = frames.setting[f], len(choices.full)
    pp, vpp, micro = float(frames.pp[f]), float(frames.vpp[f]), float(frames.micro[f])
    schedule = choices.schedule[s]
    gradient, parameter, optimizer = 0.0, 0.0, 0.0
    dense, expert = frames.dense_place[f], prices.expert_group[frames.place[f], z]
    for c in range(frames.stages[f]):
        gradient = max(gradient, prices.dense_held[dense, z, c, 0] + prices.expert_held[expert, c, 0])
        parameter = max(parameter, prices.dense_held[dense, z, c, 1] + prices.expert_held[expert, c, 1])
        optimizer = max(optimizer, prices.dense_held[dense, z, c, 2] + prices.expert_held[expert, c, 2])
    gradient *= terms.gradient[t]
    parameter *= terms.gradient[t]
    send = 0.0
    if pp > 1:
        hidden = choices.send_hides[e] * terms.overlap_send[t]
        send = sends_s(terms.send[t] * frames.send_s[f], pp, vpp, micro, hidden)
    over_gradient = choices.grad_hides[e] * terms.overlap_grad[t]
    over_parameter = choices.param_hides[e] * terms.overlap_grad[t]
    turns = 1.0 if schedule == _GPIPE else vpp
    at_end = terms.optimizer[t] * optimizer
    grown = terms.straggler[t]
    doubled = doublings(frames.devices[f])
    release, fixed = terms.all[t], terms.fixed[t]
    for r in range(ways):
        longest = work.longest[version, i, r]
        forward, backward = work.longest_forward[version, i, r], work.longest_backward[version, i, r]
        factor = 1.0
        if schedule == _ZERO_BUBBLE:
            factor = zero_bubble_factor(weight_share(work.longest_weight[version, i, r], longest))
        elif schedule == _DUALPIPE:
            weights = weight_share(work.longest_weight[version, i, r], longest)
            factor = dualpipe_factor(pp, backward, longest, weights)
        bubble = bubble_s(work.others[version, i, r], turns, factor)
        reduced = beyond_room_s(gradient, over_gradient, backward + 0.5 * bubble)
        loaded = beyond_room_s(parameter, over_parameter, forward + 0.5 * bubble)
        body = micro * longest + bubble + send + (reduced + loaded) + at_end + fixed
        work.step[r] = release * (body + body * grown * doubled)


@inlined
def _before(value, memory, number, other, other_memory, other_number):  # type: ignore[no-untyped-def]
    """Whether a plan comes before another: the lower value, then the lower memory, then the lower number."""
    if value != other:
        return value < other
    if memory != other_memory:
        return memory < other_memory
    return number < other_number


@inlined
def _to_front(m, step, memory, number, kept):  # type: ignore[no-untyped-def]
    """Put a plan on the front of those that miss ``m`` pairs, unless another beats it there."""
    length = kept.front_length[m]
    steps, sizes, numbers = kept.front_s[m], kept.front_bytes[m], kept.front_number[m]
    if length > 0 and step > 2.0 * steps[0]:
        return 0
    low, high = 0, length
    while low < high:
        middle = (low + high) // 2
        if steps[middle] <= step:
            low = middle + 1
        else:
            high = middle
    # the last one that is no slower needs least of those
    if low > 0:
        best = sizes[low - 1]
        if best < memory:
            return 0
        if best == memory and (steps[low - 1] < step or numbers[low - 1] < number):
            return 0
    first = low
    if low > 0 and steps[low - 1] == step:
        first = low - 1
    last = low
    while last < length and sizes[last] >= memory:
        last += 1
    gone = last - first
    if gone == 0:
        if length == ROOM:
            if first == ROOM:
                return 0
            length -= 1
        for k in range(length, first, -1):
            steps[k], sizes[k], numbers[k] = steps[k - 1], sizes[k - 1], numbers[k - 1]
        kept.front_length[m] = length + 1
    elif gone > 1:
        for k in range(last, length):
            steps[k - gone + 1], sizes[k - gone + 1], numbers[k - gone + 1] = steps[k], sizes[k], numbers[k]
        kept.front_length[m] = length - gone + 1
    steps[first], sizes[first], numbers[first] = step, memory, number
    return 0


def _walk(start, stop, frames, rows, prices, terms, choices, aim, kept, work):  # type: ignore[no-untyped-def]
    """Price the plans of the frames from ``start`` to ``stop`` and keep what matters of them."""
    ways, num_inside, num_ends = len(choices.full), len(choices.tp_hides), len(choices.grad_hides)
    num_schedules, num_shardings = len(choices.schedule), len(choices.zero)
    capacity, roomy, per_device = aim.capacity[0], aim.roomy[0], aim.per_device[0]
    num_full = 0
    for r in range(ways):
        num_full += choices.is_full[r]
    for f in range(start, stop):
        _sum_bytes(f, frames, rows, prices, terms, choices, work)
        devices = frames.devices[f] if per_device else 1.0
        group = frames.group[f]
        # stages are timed once something fits
        summed, timed = False, False
        for z in range(num_shardings):
            if not choices.sharding_ok[f, z]:
                continue
            version = 1 if choices.zero[z] == 3 else 0
            gathered = False
            layout = 4 * frames.layout[f] + choices.zero[z]
            for s in range(num_schedules):
                if not choices.schedule_ok[f, s]:
                    continue
                _need(f, s, z, frames, rows, prices, terms, choices, work)
                fits = 0
                for r in range(ways):
                    fits += work.memory[r] <= capacity
                if fits > 0 and not summed:
                    _sum_stages(f, frames, rows, prices, work)
                    summed = True
                if fits > 0 and not (gathered if version == 1 else timed):
                    _time_stages(f, z, version, frames, rows, prices, terms, choices, work)
                    if version == 1:
                        gathered = True
                    else:
                        timed = True
                for i in range(num_inside):
                    hides = choices.ep_hides[i] > 0.0
                    if hides and not (
                        frames.exchanges[f]
                        and (frames.pp[f] == 1 or frames.vpp[f] > 1 or choices.schedule[s] == _DUALPIPE)
                    ):
                        continue
                    first = ((s * num_shardings + z) * num_inside + i) * ways
                    kept.counts[PRICED] += num_ends * (ways - num_full if hides else ways)
                    if fits == 0:
                        # which plan is nearest to fitting is asked only where none fits
                        if kept.counts[FITTING] == 0:
                            for r in range(ways):
                                if work.memory[r] < kept.least[0] and not (hides and choices.is_full[r]):
                                    index = f * num_schedules * num_shardings * num_inside * ways + first + r
                                    kept.least[0] = work.memory[r]
                                    kept.least_number[0] = index * num_ends
                        continue
                    for e in range(num_ends):
                        _time_steps(f, s, z, i, e, version, frames, prices, terms, choices, work)
                        for r in range(ways):
                            memory = work.memory[r]
                            if memory > capacity or (hides and choices.is_full[r]):
                                continue
                            kept.counts[FITTING] += 1
                            step = work.step[r]
                            cost = step * devices
                            m = choices.missing[group, s, z, i, r]
                            score = cost * aim.doubt[m]
                            index = f * num_schedules * num_shardings * num_inside * ways + first + r
                            number = index * num_ends + e
                            if score <= kept.layout_score[layout] and _before(
                                score, memory, number, kept.layout_score[layout], kept.layout_memory[layout],
                                kept.layout_number[layout],
                            ):  # fmt: skip
                                kept.layout_score[layout] = score
                                kept.layout_cost[layout] = cost
                                kept.layout_memory[layout] = memory
                                kept.layout_number[layout] = number
                            if cost <= kept.fastest[0] and _before(
                                cost, memory, number, kept.fastest[0], kept.fastest[1], kept.fastest_number[0]
                            ):
                                kept.fastest[0] = cost
                                kept.fastest[1] = memory
                                kept.fastest_number[0] = number
                            if (
                                memory <= roomy
                                and cost <= kept.roomy_cost[m]
                                and _before(cost, 0.0, number, kept.roomy_cost[m], 0.0, kept.roomy_number[m])
                            ):
                                kept.roomy_cost[m] = cost
                                kept.roomy_number[m] = number
                            _to_front(m, step, memory, number, kept)


walk: Callable[..., None] = kernel(_walk, rooms=("cost",))
