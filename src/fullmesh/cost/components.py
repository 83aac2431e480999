"""The parts that a layer's time is made of.

A layer's cost is a row of these components, in seconds on the machine at hand for one micro-batch and one rank;
a stage is the sum of its layers, and :mod:`fullmesh.cost.step` turns stages into a step. Kept apart like this the
expensive part (operators and collectives) is evaluated once, while the few parameters of the step model are fitted
over all published results together.
"""

from __future__ import annotations

import enum


class C(enum.IntEnum):
    """Index of a component; ``_F`` forward, ``_B`` backward, ``_W`` weight gradient, ``_R`` recomputed forward."""

    LINEAR_F = 0
    LINEAR_B = enum.auto()
    LINEAR_W = enum.auto()
    LINEAR_R = enum.auto()
    EXPERT_F = enum.auto()
    EXPERT_B = enum.auto()
    EXPERT_W = enum.auto()
    EXPERT_R = enum.auto()
    ATTENTION_F = enum.auto()
    ATTENTION_B = enum.auto()
    ATTENTION_R = enum.auto()
    SCAN_F = enum.auto()
    SCAN_B = enum.auto()
    SCAN_R = enum.auto()
    MEMORY_F = enum.auto()
    MEMORY_B = enum.auto()
    MEMORY_R = enum.auto()
    ROUTE_F = enum.auto()
    ROUTE_B = enum.auto()
    ROUTE_R = enum.auto()
    TP_F = enum.auto()
    TP_B = enum.auto()
    TP_R = enum.auto()
    EP_F = enum.auto()
    EP_B = enum.auto()
    EP_R = enum.auto()
    CP_F = enum.auto()
    CP_B = enum.auto()
    CP_R = enum.auto()
    FSDP_F = enum.auto()
    FSDP_B = enum.auto()
    # numbers of kernels and of routed layers, not seconds: the step model knows what a launch costs
    LAUNCH_F = enum.auto()
    LAUNCH_B = enum.auto()
    LAUNCH_R = enum.auto()
    SYNC_F = enum.auto()
    SYNC_B = enum.auto()
    SYNC_R = enum.auto()
    # floating-point operations, for HFU
    FLOP_F = enum.auto()
    FLOP_R = enum.auto()


NUM_COMPONENTS = len(C)
# the same kinds of operators in the same order
FORWARD = (C.LINEAR_F, C.EXPERT_F, C.ATTENTION_F, C.SCAN_F, C.MEMORY_F, C.ROUTE_F)
RECOMPUTED = (C.LINEAR_R, C.EXPERT_R, C.ATTENTION_R, C.SCAN_R, C.MEMORY_R, C.ROUTE_R)
