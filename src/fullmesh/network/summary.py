"""What `fullmesh fabric` shows, as data: summary, tiers, failures, collectives, placements."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from fullmesh.cost.collectives.links import reached_share
from fullmesh.errors import TopologyError
from fullmesh.network import collective_steps as collectives
from fullmesh.network import curves, evaluate
from fullmesh.network.collective_steps import Kind
from fullmesh.network.flow import traffic
from fullmesh.network.wiring.failures import break_parts, parse_failure, parts
from fullmesh.network.wiring.links import Policy, PolicyName
from fullmesh.network.wiring.topology import Topology


def summary(topology: Topology, bytes_per_rank: float, policy: Policy) -> dict[str, Any]:
    """Devices, switches, links and the all-to-all over all devices, in the form of ``--json``."""
    try:
        result = traffic.uniform_all_to_all(topology, bytes_per_rank, policy)
        exchange: dict[str, float | None] = {
            "bytes_per_s_per_device": result.bytes_per_s_per_device,
            "seconds": result.seconds,
            "solve_s": result.solve_s,
        }
    except TopologyError as error:
        if "no path" not in error.what:
            raise
        exchange = {"bytes_per_s_per_device": 0.0, "seconds": None, "solve_s": 0.0}
    return {
        "devices": topology.num_devices,
        "switches": topology.switch_counts(),
        "links": {
            name: {"count": count, "bytes_per_s": rate}
            for name, (count, rate) in topology.link_counts().items()
        },
        "all_to_all": exchange,
    }


def notes(topology: Topology) -> list[str]:
    """What the graph rests on besides its own description: levels whose wiring is not given, shares of like tiers."""
    out = []
    machine = topology.fabric.machine
    tiers = {t.name: t for t in topology.fabric.tiers}
    for layer in topology.layers:
        facts = layer.facts
        first = facts.levels[0][0] if facts.levels else facts.name
        if facts.assumed:
            out.append(f"{first}: how this level is wired is {facts.source}")
        share = reached_share(machine, tiers[first]) if first in tiers else None
        if share is not None and machine is not None and share.machine != machine.id and share.measured:
            out.append(
                f"{first}: the share of the line rate that transfers reach is that of {share.machine}'s {share.tier}"
            )
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TierRow:
    """What one pair of devices gets across a tier, and all pairs at once.

    Attributes
    ----------
    pair_bytes_per_s, port_bytes_per_s : float
        One device to one other alone; one device to all others of the tier at once, others silent.
    reached_bytes_per_s : float
        The pair's rate times the measured protocol efficiency.
    """

    name: str
    kind: str
    num_devices: int
    latency_s: float
    pair_bytes_per_s: float
    port_bytes_per_s: float
    reached_bytes_per_s: float
    source: str


def tier_rows(topology: Topology, policy: Policy) -> list[TierRow]:
    """Bandwidth and latency by tier, read off the graph from device 0."""
    from fullmesh.network.flow import solve

    out, inside = [], 1
    for tier in topology.tiers():
        peers = np.arange(inside, tier.num_devices)
        if not len(peers):
            continue
        far = peers[-1:]
        pair = topology.route(np.zeros(1, np.int64), far, policy)
        rate = solve.max_min_rates(solve.make_problem(topology, pair)) if not pair.cut[0] else np.zeros(1)
        all_peers = np.arange(1, tier.num_devices) if tier.kind == "mesh" else peers
        fan = topology.route(np.zeros(len(all_peers), np.int64), all_peers, policy)
        keep = ~fan.cut
        rates = solve.max_min_rates(solve.make_problem(topology, fan))[keep] if keep.any() else np.zeros(1)
        facts = topology.layers[int(pair.layer[0])].facts
        out.append(
            TierRow(
                name=tier.name,
                kind=tier.kind,
                num_devices=tier.num_devices,
                latency_s=float(pair.latency_s[0]),
                pair_bytes_per_s=float(rate[0]),
                port_bytes_per_s=float(rates.sum()),
                reached_bytes_per_s=float(rate[0]) * facts.efficiency,
                source=facts.source,
            )
        )
        inside = tier.num_devices
    return out


POLICIES: tuple[PolicyName, PolicyName] = ("static", "resplit")
STANDARD_FAILURES = {
    "l2": ("l2=1", "l2=2", "link=1", "module=1", "links=1%", "l1=1", "plane=1"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """All-to-all under one failure, by policy; None where the policy leaves flows without a path."""

    failure: str
    static_bytes_per_s: float | None
    resplit_bytes_per_s: float | None
    static_change: float | None
    resplit_change: float | None


def failure_rows(topology: Topology, failures: list[str] | None = None, seed: int = 0) -> list[FailureRow]:
    """The failure table: what one device still gets in an all-to-all, with a static split and with a re-split.

    Parameters
    ----------
    failures : list of str, optional
        As for ``--fail``; by default one of each part that the topology has, and 1 % of its links.
    """
    if failures is None:
        known = parts(topology)
        if "l2" in known:
            failures = list(STANDARD_FAILURES["l2"])
        else:
            wanted = [*topology.switches.tiers, "link", "module", "plane"]
            failures = [f"{p}=1" for p in wanted if p in known] + ["links=1%"]
    healthy = traffic.uniform_all_to_all(topology, 1e9)
    out = []
    for text in failures:
        broken = break_parts(topology, [parse_failure(t) for t in text.split("+")], seed)
        rates: list[float | None] = []
        for name in POLICIES:
            try:
                result = traffic.uniform_all_to_all(broken, 1e9, Policy(name=name))
                rates.append(result.bytes_per_s_per_device)
            except TopologyError as error:
                if "no path" not in error.what:
                    raise
                rates.append(None)
        change = [None if r is None else r / healthy.bytes_per_s_per_device - 1 for r in rates]
        out.append(
            FailureRow(
                failure=text,
                static_bytes_per_s=rates[0],
                resplit_bytes_per_s=rates[1],
                static_change=change[0],
                resplit_change=change[1],
            )
        )
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRow:
    """A collective at every level beside the nearest measured point of the same shape and size."""

    kind: str
    size: int
    stride: int
    num_bytes: float
    algorithm: str
    graph_s: float
    graph_bus_bytes_per_s: float
    closed_form_s: float
    closed_form_evidence: str
    table_s: float | None
    measured_s: float | None
    measured_source: str

    @property
    def closed_form_off(self) -> float:
        """Closed form over the wired graph, minus one."""
        return self.closed_form_s / self.graph_s - 1


def default_shapes(topology: Topology) -> list[tuple[int, int]]:
    """Group shapes worth showing: inside a node, inside the scale-up domain, across nodes, everything."""
    shapes: list[tuple[int, int]] = []
    n = topology.num_devices
    for size, stride in (
        (topology.devices_per_node, 1),
        *((t.num_devices, 1) for t in topology.tiers() if t.kind != "package"),
        (n // topology.devices_per_node, topology.devices_per_node),
    ):
        if size > 1 and n % (size * stride) == 0 and (size, stride) not in shapes:
            shapes.append((size, stride))
    return shapes


def parse_shape(text: str) -> tuple[int, int]:
    """Read ``16`` or ``48@16`` (48 ranks, 16 devices apart).

    Raises
    ------
    TopologyError
        Text of another form.
    """
    size, _, stride = text.partition("@")
    whole = re.compile(r"[0-9]{1,9}").fullmatch
    if not whole(size) or (stride and not whole(stride)) or int(size) < 2 or (stride and int(stride) < 1):
        raise TopologyError(
            f"cannot read the group shape {text!r}",
            where="--groups",
            expected="ranks, or ranks@stride, as 16 or 48@16",
        )
    return int(size), int(stride or 1)


def collective_rows(
    topology: Topology,
    kinds: tuple[Kind, ...],
    shapes: list[tuple[int, int]],
    sizes: list[float],
    *,
    policy: Policy,
    level: evaluate.Level,
    algorithm: str | None = None,
) -> list[CollectiveRow]:
    """Time of collectives by kind, group shape and size."""
    if level not in ("bottleneck", "max-min"):
        level = "bottleneck"
    out = []
    for kind in kinds:
        for size, stride in shapes:
            for num_bytes in sizes:
                graph = evaluate.collective(
                    topology,
                    kind,
                    size,
                    num_bytes,
                    stride=stride,
                    policy=policy,
                    level=level,
                    algorithm=algorithm or evaluate.chosen_algorithm(topology, kind, size, stride, num_bytes),
                )
                plain = evaluate.closed_form(topology, kind, size, stride, num_bytes)
                fitted = evaluate.table(topology, kind, size, stride, num_bytes)
                point = _nearest_point(topology.name, kind, size, num_bytes) if stride == 1 else None
                out.append(
                    CollectiveRow(
                        kind=kind,
                        size=size,
                        stride=stride,
                        num_bytes=num_bytes,
                        algorithm=graph.algorithm,
                        graph_s=graph.seconds,
                        graph_bus_bytes_per_s=graph.bus_bytes_per_s,
                        closed_form_s=plain.seconds,
                        closed_form_evidence=plain.evidence,
                        table_s=fitted.seconds if fitted else None,
                        measured_s=point.seconds if point else None,
                        measured_source=point.source if point else "",
                    )
                )
    return out


def _nearest_point(machine: str, kind: str, ranks: int, num_bytes: float) -> curves.Point | None:
    """The measured point of the same shape whose size is the same within a tenth."""
    near = [
        p
        for p in curves.points()
        if p.machine == machine
        and p.kind == kind
        and p.ranks == ranks
        and 0.9 < p.num_bytes / num_bytes < 1.1
    ]
    return min(near, key=lambda p: abs(p.num_bytes - num_bytes)) if near else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRow:
    """A collective of one parallel axis under one order of the axes."""

    order: str
    axis: str
    size: int
    stride: int
    seconds: float
    bus_bytes_per_s: float


def placement_rows(
    topology: Topology,
    axes: dict[str, int],
    kind: Kind,
    num_bytes: float,
    *,
    policy: Policy,
    orders: list[tuple[str, ...]] | None = None,
) -> list[PlacementRow]:
    """The same collective of every axis under each order of the axes (the innermost axis first)."""
    import itertools

    names = tuple(a for a, d in axes.items() if d > 1)
    out = []
    for order in orders or list(itertools.permutations(names)):
        full = (*order, *(a for a in axes if a not in order))
        stride = 1
        placed = collectives.place_axes(topology.num_devices, axes, full)
        for axis in full:
            if axes[axis] > 1:
                groups = placed[axis]
                estimate = evaluate.group_collective(
                    topology,
                    kind,
                    groups,
                    num_bytes,
                    algorithm=evaluate.chosen_algorithm(topology, kind, axes[axis], stride, num_bytes),
                    node_size=evaluate.neighbours(topology, axes[axis], stride),
                    policy=policy,
                )
                out.append(
                    PlacementRow(
                        order=",".join(order),
                        axis=axis,
                        size=axes[axis],
                        stride=stride,
                        seconds=estimate.seconds,
                        bus_bytes_per_s=estimate.bus_bytes_per_s,
                    )
                )
            stride *= axes[axis]
    return out


def change(before: float, after: float) -> float:
    """Relative change."""
    return after / before - 1
