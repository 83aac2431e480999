"""Recovery policies: what a job does after a fault, and what that takes, from checkpoint bytes, links and inputs."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from fullmesh.outcomes.goodput.draws import Amount, Inputs, one

PolicyName = Literal["restart", "memory", "hot-spares", "shrink", "process", "in-step"]
POLICIES: tuple[PolicyName, ...] = ("restart", "memory", "hot-spares", "shrink", "process", "in-step")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint of a plan is, and how fast it goes.

    Parameters
    ----------
    total_bytes, bytes_per_device : float or array
    write_s : float or array
        Until all of it is in storage; loading takes as long.
    copy_s : float or array
        Of a device's share to host memory, or back.
    stall_s : float or array
        That the step loses for one that goes to storage.
    """

    total_bytes: Amount
    bytes_per_device: Amount
    write_s: Amount
    copy_s: Amount
    stall_s: Amount


def checkpoint_of(
    parameters: float, devices: int, nodes: float, host_bytes_per_s: float | None, inputs: Inputs
) -> Checkpoint:
    """The checkpoint of a model: every device writes an equal share, through its node's link and common storage."""
    total = parameters * inputs["checkpoint_bytes"]
    share = total / devices
    rate = np.minimum(inputs["storage_bandwidth"], max(nodes, 1.0) * inputs["node_storage_bandwidth"])
    host = (host_bytes_per_s or inputs["host_bandwidth"]) * inputs["host_efficiency"]
    write, copy = total / rate, share / host
    return Checkpoint(
        total_bytes=total,
        bytes_per_device=share,
        write_s=write,
        copy_s=copy,
        stall_s=inputs["checkpoint_overhead"] + copy + (0.0 if one(inputs["asynchronous"]) >= 0.5 else write),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a policy takes, in seconds; arrays hold one value a run.

    Parameters
    ----------
    policy : str
    detection_s, restart_s, load_s, warm_up_s : float or array
        After a fault of one node.
    wide_detection_s, wide_restart_s, wide_load_s : float or array
        After a fault that only storage helps against: of a rack, a coolant unit, a switch, or a silent one.
    regrow_s : float or array
        Of the stop in which a repaired unit joins again, for a policy that shrinks.
    near_s : float or None
        Fixed distance of near checkpoints (a step); None where it is to be chosen.
    near_stall_s : float or array
        Of one near checkpoint.
    two_levels : bool
        Near checkpoints in memory beside those in storage; otherwise storage alone.
    shrinks : bool
        Goes on with fewer devices instead of waiting.
    """

    policy: PolicyName
    detection_s: Amount
    restart_s: Amount
    load_s: Amount
    warm_up_s: Amount
    wide_detection_s: Amount
    wide_restart_s: Amount
    wide_load_s: Amount
    regrow_s: Amount
    near_s: float | None
    near_stall_s: Amount
    two_levels: bool
    shrinks: bool

    @property
    def near_total_s(self) -> Amount:
        """From a fault to full speed, without lost work."""
        return self.detection_s + self.restart_s + self.load_s + self.warm_up_s

    @property
    def wide_total_s(self) -> Amount:
        """The same where only storage helps."""
        return self.wide_detection_s + self.wide_restart_s + self.wide_load_s + self.warm_up_s


def recovery_of(policy: PolicyName, c: Checkpoint, step_s: float, i: Inputs) -> Recovery:
    """What a policy takes for a checkpoint and a step."""
    detection, restart, near = i["detection"], i["restart"], None
    regrow: Amount = 0.0
    load, stall = c.copy_s, c.copy_s + i["memory_overhead"]
    if policy == "restart":
        load, stall = c.write_s, c.stall_s
    elif policy == "hot-spares":
        restart = i["spare_start"]
    elif policy == "shrink":
        # another layout holds other shares: they are gathered as they are from storage, then and when units come back
        load = np.maximum(c.copy_s, c.write_s)
        regrow = restart + load + i["warm_up"]
    elif policy == "process":
        detection, restart = i["process_detection"], i["process_restart"]
    elif policy == "in-step":
        # one figure for all of it; states come from other replicas, so nothing is copied ahead
        detection, restart, load, near, stall = 0.0, i["in_step_recovery"], 0.0, step_s, 0.0
    return Recovery(
        policy=policy,
        detection_s=detection,
        restart_s=restart,
        load_s=load,
        warm_up_s=0.0 if policy == "in-step" else i["warm_up"],
        wide_detection_s=i["detection"],
        wide_restart_s=i["restart"],
        wide_load_s=c.write_s,
        regrow_s=regrow,
        near_s=near,
        near_stall_s=stall,
        two_levels=policy != "restart",
        shrinks=policy == "shrink",
    )
