"""One question, several levels: how long does this collective take on this fabric?

``table``       a calibrated curve of the library on this machine, where one was measured;
``closed-form`` latency and bandwidth of the tiers, no graph;
``bottleneck``  the fullest link of every step on the wired graph: exact when the messages of a step start together;
``max-min``     every step run to completion with rates shared anew at each event.

Each answer says its level and what it rests on.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np

from fullmesh.cost.collectives.algorithms import collective_s
from fullmesh.errors import TopologyError
from fullmesh.network import collective_steps as collectives
from fullmesh.network import curves
from fullmesh.network.collective_steps import Kind, Schedule, Step
from fullmesh.network.flow import solve
from fullmesh.network.flow.traffic import Flows
from fullmesh.network.selection import hccl_choice, nccl_choice
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.links import FloatArray, LongArray, Policy
from fullmesh.network.wiring.topology import Topology

Level = Literal["table", "closed-form", "bottleneck", "max-min"]
#: NCCL's names of chip generations; a chip of another one is taken for the newest.
GENERATIONS = {"sm80": "ampere", "sm90": "hopper"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time of a collective and what it rests on.

    Attributes
    ----------
    seconds : float
    bus_bytes_per_s : float
        Bus bandwidth as nccl-tests define it.
    level, evidence, algorithm : str
    latency_s, wire_s : float
        The two parts; both 0 for a calibrated curve, which does not part them.
    steps : int
    """

    seconds: float
    bus_bytes_per_s: float
    level: Level
    evidence: str
    algorithm: str
    latency_s: float = 0.0
    wire_s: float = 0.0
    steps: int = 0


def with_protocol(topology: Topology) -> Topology:
    """Links at the share of their line rate that transfers were measured to reach, layer by layer."""
    health = topology.health.copy()
    for layer in topology.layers:
        health[layer.first_link : layer.first_link + layer.num_links] *= layer.facts.efficiency
    return topology.with_health(health)


def chosen_algorithm(topology: Topology, kind: Kind, size: int, stride: int, num_bytes: float) -> str:
    """The algorithm that the machine's library would take for a group of this shape."""
    near = neighbours(topology, size, stride)
    nodes = size // near
    rail = next((x.facts for x in topology.layers if x.facts.tier_kind == "rail"), None)
    nic = rail.device_bytes_per_s if rail else topology.tiers()[-1].bytes_per_s
    machine = topology.fabric.machine
    if topology.device_basis == "gpu":
        choice = nccl_choice(
            kind,
            num_bytes,
            generation=GENERATIONS.get(machine.chip.arch if machine else "", "blackwell"),
            ranks_per_node=near,
            num_nodes=nodes,
            nic_bytes_per_s=nic,
        )
    else:
        mesh = any(x.facts.tier_kind == "mesh" for x in topology.layers)
        choice = hccl_choice(
            kind,
            num_bytes,
            mesh=mesh,
            ranks_per_server=near,
            num_servers=nodes,
            server_bytes_per_s=nic,
        )
        if nodes > 1 and near > 1:  # inside, between, inside
            return "hierarchical"
    if choice.algorithm == "nvls-tree" and near == 1:
        return "tree"
    return choice.algorithm


def neighbours(topology: Topology, size: int, stride: int) -> int:
    """Ranks of a group that share one scale-up domain; at least 1, and a divisor of the group."""
    near = max(1, min(size, _scale_up(topology) // stride))
    while size % near:
        near -= 1
    return near


def _scale_up(topology: Topology) -> int:
    sizes = [t.num_devices for t in topology.tiers() if t.kind != "rail"]
    return max(sizes, default=topology.devices_per_node)


def _in_switch_seconds(topology: Topology, step: Step, protocol: bool) -> float:
    """Time of a reduction inside the switches: each member's port, its living planes together."""
    capacity = topology.capacity
    for layer in topology.layers:
        if isinstance(layer, ClosLayer) and layer.facts.in_network_reduction:
            facts = layer.facts
            reach = facts.reduction_efficiency / facts.efficiency if protocol else 1.0
            first, shape = layer.blocks()["access_up"]
            up = (
                capacity[first : first + int(np.prod(shape))]
                .reshape(shape)[layer.local[step.members]]
                .sum(axis=1)
            )
            first, shape = layer.blocks()["access_down"]
            down = (
                capacity[first : first + int(np.prod(shape))]
                .reshape(shape)[layer.local[step.members]]
                .sum(axis=1)
            )
            if min(up.min(), down.min()) <= 0:
                raise TopologyError("a member has no link to its switches", hint="try --policy resplit")
            return float(max((step.up_bytes / up).max(), (step.down_bytes / down).max())) / reach
    raise TopologyError(f"the switches of {topology.name} do not reduce", hint="choose another algorithm")


def _in_switch_latency(topology: Topology) -> float:
    return next(x.facts.latencies_s[-1] for x in topology.layers if x.facts.in_network_reduction)


def step_seconds(
    topology: Topology, step: Step, policy: Policy, level: Level, protocol: bool
) -> tuple[float, float]:
    """Wire time and latency of one occurrence of a step, in seconds."""
    if len(step.members):
        return _in_switch_seconds(topology, step, protocol), _in_switch_latency(topology) * step.hops
    routing = topology.route(step.src, step.dst, policy)
    solve.require_paths(routing)
    share = np.bincount(routing.parent, minlength=len(step.src))
    size = (step.num_bytes / share)[routing.parent]
    latency = float(routing.latency_s.max(initial=0.0)) * step.hops
    if level == "max-min":
        problem = solve.drop_slack(solve.make_problem(topology, routing))
        finish, _ = solve.completion_times(problem, size)
        return float(finish.max(initial=0.0)), latency
    return solve.bottleneck(topology, routing, size)[0], latency


def run(
    topology: Topology,
    plan: Schedule,
    *,
    policy: Policy | None = None,
    level: Level = "bottleneck",
    protocol: bool = True,
) -> Estimate:
    """Lay a schedule on the graph, step after step.

    Parameters
    ----------
    protocol : bool
        Whether links give only the share of the line rate that was measured (the default), or all of it.
    """
    policy = policy or Policy()
    fabric = with_protocol(topology) if protocol else topology
    wire = latency = 0.0
    known: dict[tuple[int, int, float], tuple[float, float]] = {}
    for step in plan.steps:
        key = (id(step.src), id(step.dst), float(step.num_bytes.sum()) + step.up_bytes)
        if key not in known:
            known[key] = step_seconds(fabric, step, policy, level, protocol)
        wire += known[key][0] * step.repeats
        latency += known[key][1] * step.repeats
    seconds = wire + latency
    size = plan.groups.shape[1]
    return Estimate(
        seconds=seconds,
        bus_bytes_per_s=plan.num_bytes * collectives.bus_factor(plan.kind, size) / seconds,
        level=level,
        evidence="wired graph, "
        + ("line rates times measured protocol efficiency" if protocol else "line rates")
        + ", latency by tier",
        algorithm=plan.algorithm,
        latency_s=latency,
        wire_s=wire,
        steps=plan.num_steps,
    )


def closed_form(topology: Topology, kind: Kind, size: int, stride: int, num_bytes: float) -> Estimate:
    """Seconds without a graph: the cost model's fitted collectives where there is a chip, else `tier_form`.

    The cost model speaks of whole packages and nodes, so of no other part of a machine.
    """
    machine, n = topology.fabric.machine, topology.num_devices
    whole = topology.devices_per_package if n <= topology.devices_per_node else topology.devices_per_node
    if machine is not None and n % whole == 0:
        seconds = float(collective_s(machine.resized(n), kind, num_bytes, size, stride))
        if math.isfinite(seconds) and seconds > 0:
            evidence = "cost model's closed form, fitted to measured curves"
            return _plain(kind, size, num_bytes, seconds, "closed-form", evidence)
    return tier_form(topology, kind, size, stride, num_bytes)


def tier_form(
    topology: Topology, kind: Kind, size: int, stride: int, num_bytes: float, *, protocol: bool = True
) -> Estimate:
    """Alpha-beta over the topology's own tier list.

    Notes
    -----
    An all-gather or reduce-scatter over k members of a tier moves (k - 1) / k of its share through the port, one
    latency a step (k - 1 across a rail, where rings run), tiers one after another from the inside; an all-reduce is
    both; an all-to-all sends to each tier what lies beyond the one before. Exact on fabrics that neither block nor mix
    tiers.
    """
    efficiency: dict[str, float] = {}
    for layer in topology.layers:
        share = layer.facts.efficiency if protocol else 1.0
        efficiency |= dict.fromkeys((layer.facts.name, *(n for n, _ in layer.facts.levels)), share)
    latency = wire = 0.0
    inside, part = 1, num_bytes
    twice = 2 if kind == "all_reduce" else 1
    for tier in topology.tiers():
        reach = max(1, min(size, tier.num_devices // stride))
        if reach <= inside or size % reach:
            continue
        k = reach // inside
        port = tier.bytes_per_s * efficiency[tier.name]
        if tier.kind == "mesh":  # only the links to the members there are
            port *= (reach - 1) / (tier.num_devices - 1)
        if kind == "all_to_all":
            wire += num_bytes * (reach - inside) / size / port
            latency += tier.latency_s
        else:
            wire += twice * part * (k - 1) / k / port
            latency += twice * (k - 1 if tier.kind == "rail" else 1) * tier.latency_s
            part /= k
        inside = reach
    evidence = "latency and bandwidth of the tiers"
    return _plain(kind, size, num_bytes, latency + wire, "closed-form", evidence, latency, wire)


def _plain(
    kind: Kind,
    size: int,
    num_bytes: float,
    seconds: float,
    level: Level,
    evidence: str,
    latency: float = 0.0,
    wire: float = 0.0,
) -> Estimate:
    return Estimate(
        seconds=seconds,
        bus_bytes_per_s=num_bytes * collectives.bus_factor(kind, size) / seconds,
        level=level,
        evidence=evidence,
        algorithm="library's choice",
        latency_s=latency,
        wire_s=wire,
    )


def table(topology: Topology, kind: Kind, size: int, stride: int, num_bytes: float) -> Estimate | None:
    """Calibrated time, or None where nothing comparable was measured (only neighbouring ranks on a healthy fabric)."""
    if stride != 1 or (topology.health < 1).any():
        return None
    known = curves.best(topology.name, kind, size, num_bytes)
    if known is None:
        return None
    return _plain(kind, size, num_bytes, known[1], "table", f"curve fitted to measured {known[0]} times")


def collective(
    topology: Topology,
    kind: Kind,
    size: int,
    num_bytes: float,
    *,
    stride: int = 1,
    algorithm: str | None = None,
    level: Level | None = None,
    policy: Policy | None = None,
    alone: bool = False,
    protocol: bool = True,
) -> Estimate:
    """Time of a collective over groups of ``size`` ranks ``stride`` apart, all groups of the machine at once.

    Parameters
    ----------
    algorithm : str, optional
        The library's choice by default.
    level : str, optional
        The best that exists by default: the table, else the wired graph's bottleneck.
    alone : bool
        Only the first group communicates.

    Raises
    ------
    TopologyError
        A shape that does not fit the machine, or a level that has no data for it.
    """
    if level in (None, "table") and algorithm is None:
        measured = table(topology, kind, size, stride, num_bytes)
        if measured is not None:
            return measured
        if level == "table":
            raise TopologyError(
                f"nothing measured for {kind} over {size} ranks on {topology.name}",
                hint="use --level closed-form, bottleneck or max-min",
            )
    if level == "closed-form":
        return closed_form(topology, kind, size, stride, num_bytes)
    groups = collectives.place_groups(topology.num_devices, size, stride)
    return group_collective(
        topology,
        kind,
        groups[:1] if alone else groups,
        num_bytes,
        algorithm=algorithm or chosen_algorithm(topology, kind, size, stride, num_bytes),
        node_size=neighbours(topology, size, stride),
        policy=policy,
        level=level or "bottleneck",
        protocol=protocol,
    )


def group_collective(
    topology: Topology,
    kind: Kind,
    groups: LongArray,
    num_bytes: float,
    *,
    algorithm: str,
    node_size: int,
    policy: Policy | None = None,
    level: Level = "bottleneck",
    protocol: bool = True,
) -> Estimate:
    """The same for groups given rank by rank, whatever their placement."""
    plan = collectives.schedule(kind, algorithm, groups, num_bytes, node_size=node_size)
    return run(topology, plan, policy=policy, level=level, protocol=protocol)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobsResult:
    """Several jobs on one fabric: completion of each alone and together, in seconds."""

    alone_s: FloatArray
    together_s: FloatArray


def share_fabric(
    topology: Topology, jobs: list[Flows], *, policy: Policy | None = None, tolerance: float = 0.0
) -> JobsResult:
    """Run jobs alone and then all at once under max-min sharing."""

    def finish(flows: Flows) -> FloatArray:
        routing = topology.route(flows.src, flows.dst, policy)
        solve.require_paths(routing)
        share = np.bincount(routing.parent, minlength=len(flows))
        size = (flows.num_bytes / share)[routing.parent]
        start = flows.start_s[routing.parent] + routing.latency_s
        problem = solve.drop_slack(solve.make_problem(topology, routing))
        times, _ = solve.completion_times(problem, size, start, tolerance=tolerance)
        out = np.zeros(len(flows))
        np.maximum.at(out, routing.parent, times)
        return out

    alone = np.array([finish(job).max(initial=0.0) for job in jobs])
    from fullmesh.network.flow.traffic import together

    everything = finish(together(*jobs))
    bounds = np.cumsum([0, *(len(j) for j in jobs)])
    parts = [everything[a:b].max(initial=0.0) for a, b in itertools.pairwise(bounds)]
    return JobsResult(alone_s=alone, together_s=np.array(parts))
