"""Formulas of a step and of peak memory that hold for columns of plans and for the plain numbers of one.

They are written once: :mod:`fullmesh.cost.step` and :mod:`fullmesh.cost.memory` apply them to columns, the compiled
loop of the search (:mod:`fullmesh.search.kernels`) to the numbers of one plan after another. So nothing stands here but
arithmetic and NumPy's element-wise functions; what is chosen by a plan's options is chosen by the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# One number or a column of them: each function holds for both.
Some = Any


def longer(a: Some, b: Some) -> Some:
    """The longer of two durations, smooth where they are close: their 4-norm."""
    a2, b2 = a * a, b * b
    return np.sqrt(np.sqrt(a2 * a2 + b2 * b2))


def hidden_s(compute: Some, tp: Some, ep: Some, tp_share: Some, ep_share: Some) -> Some:
    """What hides of the traffic of a pass: its shares that may, as far as there is computation to hide behind.

    Returns the seconds that hide, and which part of what may hide does.
    """
    wanted = tp_share * tp + ep_share * ep
    part = np.minimum(1.0, compute / np.maximum(wanted, 1e-30))
    return part * wanted, part


def exposed_s(traffic: Some, share: Some, part: Some) -> Some:
    """What is left of a kind of traffic of which ``part`` of a ``share`` hides."""
    return traffic * (1.0 - part * share)


def device_s(busy: Some, launches: Some, wait: Some, gap: Some, issue: Some) -> Some:
    """A pass on the device: it pauses between kernels, and the host may take longer to issue them.

    Parameters
    ----------
    busy : seconds of work and of what it waits for
    launches : kernels
    wait : seconds in which the host waits for the device, behind which it starts anew
    gap, issue : seconds a kernel, of the device and of the host
    """
    return longer(busy + gap * launches, issue * launches) + wait


def gathered_s(device: Some, gather: Some, beside: Some) -> Some:
    """A pass with the gathering of its parameters, of which a share ``beside`` runs beside it."""
    return longer(device, beside * gather) + (1 - beside) * gather


def slowed_s(hidden: Some, compute: Some, contention: Some) -> Some:
    """What hidden traffic slows the computation by that it hides behind."""
    return contention * np.minimum(np.maximum(hidden, 0.0), compute)


def weight_share(weight: Some, longest: Some) -> Some:
    """Share of the bottleneck stage that its weight gradients take, which a split backward pass moves into holes."""
    return np.minimum(np.maximum(weight / longest, 0.0), 0.45)


def zero_bubble_factor(weights: Some) -> Some:
    """What zero-bubble schedules leave of the wait for the other stages."""
    return 1.0 - 2.0 * weights


def dualpipe_factor(pp: Some, backward: Some, longest: Some, weights: Some) -> Some:
    """What DualPipe leaves of it: ``(P/2 - 1) (F&B + B - 3W)`` against ``(P - 1) (F + B)``; for ``pp`` above one."""
    return (pp / 2 - 1) / np.maximum(pp - 1, 1.0) * (1.0 + backward / longest - 3.0 * weights)


def bubble_s(others: Some, turns: Some, factor: Some) -> Some:
    """How long the bottleneck stage waits for the others, which take ``others`` together for one micro-batch."""
    return others / turns * np.maximum(factor, 0.0)


def sends_s(one: Some, pp: Some, vpp: Some, micro: Some, hidden: Some) -> Some:
    """Sends between stages that the bottleneck waits for, of which a share hides while the pipeline is full."""
    return one * (2.0 * vpp * micro * (1 - hidden) + 2.0 * (pp - 1))


def beyond_room_s(traffic: Some, overlap: Some, room: Some) -> Some:
    """What of a transfer is not hidden: the part that never hides, and what exceeds the room to hide in."""
    hideable = traffic * overlap
    return traffic - hideable + np.maximum(hideable - room, 0.0)


def doublings(devices: Some) -> Some:
    """Doublings of a job beyond one node of eight devices: with each of them its slowest device is slower."""
    return np.maximum(np.log2(np.maximum(devices, 1) / 8.0), 0.0)


def in_flight_plain(micro: Some, pp: Some, stage: Some) -> Some:
    """Micro-batches whose activations a stage of 1F1B holds at once."""
    return np.minimum(micro, pp - stage)


def in_flight_interleaved(micro: Some, pp: Some, vpp: Some, stage: Some) -> Some:
    """The same with ``vpp`` chunks a stage, in units of the whole stage."""
    return np.minimum(micro * vpp, 2.0 * (pp - stage - 1.0) + (vpp - 1.0) * pp + 1.0) / vpp


def in_flight_dualpipe(micro: Some, pp: Some) -> Some:
    """The same for DualPipe, whose ranks hold stages of both ends; for ``pp`` above one."""
    return np.minimum(micro, pp + 1.0)
