"""What pipeline stages send each other, on the links of the wired machine, for the replay that shares them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fullmesh.errors import TopologyError
from fullmesh.machine import Machine
from fullmesh.network.collective_steps import Schedule, Step
from fullmesh.network.coupling import collective_routes
from fullmesh.network.wiring.build import wire_machine
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Network, network_over, sends_of
from fullmesh.timeline.perturb import Perturbation, Unfolded, unfold
from fullmesh.timeline.schedule.schedules import build_graph

Ints = npt.NDArray[np.int64]


def sends_on_links(
    machine: Machine, costs: PipelineCosts, perturbation: Perturbation | None, *, every_rank: bool
) -> Network | None:
    """Links, routes and bytes of all sends of a replay; None where nothing is sent.

    All devices that a row stands for send at once. The bytes are such that a boundary which has the fabric to itself
    takes the time of the costs: the wired graph adds what boundaries and directions take from each other, and
    nothing else. Collectives keep their durations.

    Raises
    ------
    TopologyError
        The machine has no wired description.
    """
    graph = build_graph(costs)
    unfolded = unfold(graph, costs, perturbation, every_rank=every_rank)
    tasks, source, target = sends_of(unfolded.graph)
    if not len(tasks):
        return None
    num = costs.num_stages * costs.ranks_per_stage
    try:
        topology = wire_machine(machine, max(num, machine.num_devices))
    except TopologyError as error:
        raise TopologyError(error.what, where="--engine fabric", hint="choose another engine") from None
    pairs, route = np.unique(np.stack([source, target]), axis=1, return_inverse=True)
    stands_for = _devices(unfolded, costs.lockstep_ranks)
    schedules = []
    for a, z in pairs.T.tolist():
        (copy, first), (_, second) = divmod(a, costs.num_stages), divmod(z, costs.num_stages)
        member = stands_for[copy]
        src, dst = first * costs.ranks_per_stage + member, second * costs.ranks_per_stage + member
        step = Step(src=src, dst=dst, num_bytes=np.ones(len(member)))
        schedules.append(
            Schedule(
                # a pattern like any other: everyone has one receiver
                kind="all_to_all",
                algorithm="direct",
                groups=np.column_stack([src, dst]),
                num_bytes=1.0,
                steps=(step,),
            )
        )
    routes = collective_routes(topology, schedules)
    per_byte = routes.alone_s(np.ones(len(schedules))) - routes.latency_s
    route = route.reshape(-1).astype(np.int64)
    return network_over(
        unfolded.graph,
        tasks,
        route,
        unfolded.graph.duration_s[tasks] / per_byte[route],
        link_bytes_per_s=routes.link_bytes_per_s,
        route_ptr=routes.route_ptr,
        route_link=routes.route_link,
        route_weight=routes.route_weight,
    )


def _devices(unfolded: Unfolded, lockstep: int) -> list[Ints]:
    """Members of each stage that each copy stands for: itself, its lockstep block, or all that no other copy is."""
    free = np.ones(unfolded.ranks_per_stage, dtype=bool)
    out: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(unfolded.member)
    order = np.argsort(unfolded.multiplicity, kind="stable")
    for i in order.tolist():
        count, member = int(unfolded.multiplicity[i]), int(unfolded.member[i])
        block = member // lockstep * lockstep
        if count == 1:
            mine = np.array([member])
        elif count == lockstep and i != order[-1]:
            mine = np.arange(block, block + lockstep)
        else:
            mine = np.flatnonzero(free)
        free[mine] = False
        out[i] = mine
    return out
