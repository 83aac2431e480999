"""What a user asks of the wired graph beyond a summary: load by kind of link, jobs that share, expert exchanges."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from fullmesh.catalog.facts import load_facts
from fullmesh.cost.collectives.links import load_links
from fullmesh.errors import TopologyError
from fullmesh.network import curves, evaluate
from fullmesh.network.flow import solve, traffic
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.links import FloatArray, Policy
from fullmesh.network.wiring.topology import Topology


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A measured figure between two endpoints beside what the graph gives.

    Attributes
    ----------
    quantity : str
        ``bytes_per_s`` or ``seconds``.
    used : bool
        Whether the graph's figure comes from this source: a latency of the machine, a share of the fitted profile.
    """

    pair: str
    quantity: str
    measured: float
    graph: float
    used: bool
    source: str

    @property
    def error(self) -> float:
        """Graph over measured, minus one."""
        return self.graph / self.measured - 1


def pair_figures(topology: Topology) -> dict[str, tuple[float, float]]:
    """Reached bytes per second and latency in seconds, from device 0 to the far end of each tier and to CPUs."""
    ends, inside = {}, 1
    for tier in topology.tiers():
        if tier.num_devices > inside:
            ends[tier.name] = tier.num_devices - 1
        inside = tier.num_devices
    for kind, name in enumerate(topology.endpoint_kinds[1:], start=1):
        first = int(np.flatnonzero(topology.endpoint_kind == kind)[0])
        if topology.layer_of(np.zeros(1, np.int32), np.array([first], np.int32))[0] >= 0:
            ends[name] = first
    out = {}
    fabric = evaluate.with_protocol(topology)
    for name, end in ends.items():
        routing = fabric.route(np.zeros(1, np.int64), np.array([end]), Policy(name="resplit"))
        rate = 0.0 if routing.cut[0] else float(solve.max_min_rates(solve.make_problem(fabric, routing))[0])
        out[name] = (rate, float(routing.latency_s[0]))
    return out


def pair_rows(topology: Topology) -> list[PairRow]:
    """Measured bandwidth and latency between two endpoints, from the catalog, beside the graph's."""
    figures = pair_figures(topology)
    facts = load_facts()
    links = {(x.machine, x.tier) for x in load_links() if x.measured}
    items = [(t.name, t.measured_item) for t in topology.fabric.tiers]
    items += [(e.name, e.measured_item) for e in topology.fabric.endpoints]
    out = []
    for pair, item in items:
        if not item or pair not in figures:
            continue
        for parameter, graph in zip(("reached_bandwidth", "latency"), figures[pair], strict=True):
            fitted = parameter == "latency" or (topology.name, pair) in links
            out += [
                PairRow(
                    pair=pair,
                    quantity="seconds" if parameter == "latency" else "bytes_per_s",
                    measured=fact.si_value,
                    graph=graph,
                    used=fitted and fact.status == "used",
                    source=fact.source,
                )
                for fact in facts.rows(item, parameter)
                if fact.kind == "measured" and fact.status != "rejected"
            ]
    return out


def oversubscribed(topology: Topology, ratio: float) -> Topology:
    """The fabric with the links above the leaves of its rail networks ``ratio`` times narrower.

    Raises
    ------
    TopologyError
        A ratio below 1, or no rail network with spines.
    """
    if not 1 <= ratio < math.inf:
        raise TopologyError(f"oversubscription of {ratio}", where="--oversubscription", expected="1 or more")
    rate, found = topology.links.bytes_per_s.copy(), False
    for layer in topology.layers:
        if isinstance(layer, ClosLayer) and layer.facts.tier_kind == "rail" and layer.num_spines:
            first, _ = layer.blocks()["spine_up"]
            rate[first : layer.first_link + layer.num_links] /= ratio
            found = True
    if not found:
        raise TopologyError(
            f"{topology.name} has no leaves and spines between its nodes",
            where="--oversubscription",
            hint="this option is for clusters joined by network cards",
        )
    return dataclasses.replace(topology, links=dataclasses.replace(topology.links, bytes_per_s=rate))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Bandwidth and latency between one device of each tier's neighbourhood and the others.

    Attributes
    ----------
    devices : tuple of int
        Device 0, and the first device that each tier adds.
    bytes_per_s, latency_s : array of float, shape (devices, devices)
        One pair alone at line rate; 0 on the diagonal and where the policy leaves no path.
    """

    devices: tuple[int, ...]
    bytes_per_s: FloatArray
    latency_s: FloatArray


def tier_matrix(topology: Topology, policy: Policy) -> Matrix:
    """What pairs get that are one tier, two tiers ... apart."""
    devices = [0]
    for tier in topology.tiers():
        devices += [d for d in (tier.num_devices - 1, tier.num_devices) if d < topology.num_devices]
    chosen = np.array(sorted(set(devices)), np.int64)
    n = len(chosen)
    a, b = (x.ravel() for x in np.indices((n, n)))
    keep = a != b
    routing = topology.route(chosen[a[keep]], chosen[b[keep]], policy)
    rate, late = np.zeros((n, n)), np.zeros((n, n))
    for row, (i, j) in enumerate(zip(a[keep], b[keep], strict=True)):
        mine = np.flatnonzero(routing.parent == row)
        late[i, j] = routing.latency_s[mine].max()
        if not routing.cut[mine].any():
            one = topology.route(chosen[[i]], chosen[[j]], policy)
            rate[i, j] = solve.max_min_rates(solve.make_problem(topology, one)).sum()
    return Matrix(devices=tuple(chosen.tolist()), bytes_per_s=rate, latency_s=late)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """Utilisation of one kind of link while an exchange runs: 1 is full all the time."""

    kind: str
    links: int
    mean: float
    fullest: float


def load_rows(topology: Topology, flows: traffic.Flows, policy: Policy) -> list[LoadRow]:
    """Utilisation of every kind of link over the time that the exchange takes."""
    routing = topology.route(flows.src, flows.dst, policy)
    share = np.bincount(routing.parent, minlength=len(flows))
    size = (flows.num_bytes / share)[routing.parent]
    seconds, _ = solve.bottleneck(topology, routing, size)
    load = solve.link_loads(topology, routing, size)
    alive = topology.health > 0
    use = np.divide(load, topology.capacity * seconds, out=np.zeros(len(load)), where=alive)
    out = []
    for i, kind in enumerate(topology.links.kinds):
        mine = (topology.links.kind == i) & alive
        if mine.any():
            out.append(
                LoadRow(
                    kind=kind,
                    links=int(mine.sum()) // 2,
                    mean=float(use[mine].mean()),
                    fullest=float(use[mine].max()),
                )
            )
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """An all-to-all of one job, alone and beside the others."""

    job: str
    devices: int
    alone_s: float
    together_s: float

    @property
    def slowdown(self) -> float:
        return self.together_s / self.alone_s - 1


def parse_job(text: str, num_devices: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Devices of ``0-383`` or ``0-767:2`` (every second).

    Raises
    ------
    TopologyError
        Another form, or devices that do not exist.
    """
    span, _, step = text.strip().partition(":")
    first, _, last = span.partition("-")
    whole = re.compile(r"[0-9]{1,9}").fullmatch
    good = whole(first) and whole(last) and (not step or (whole(step) and int(step) > 0))
    if not good or int(first) >= int(last) or int(last) >= num_devices:
        raise TopologyError(
            f"cannot read the job {text!r}",
            where="--jobs",
            expected=f"first-last or first-last:step within 0 to {num_devices - 1}",
        )
    return np.arange(int(first), int(last) + 1, int(step or 1), dtype=np.int64)


def job_rows(topology: Topology, jobs: list[str], bytes_per_rank: float, policy: Policy) -> list[JobRow]:
    """Every job exchanges all to all among its devices; alone, and all jobs at once under max-min sharing."""
    members = [parse_job(j, topology.num_devices) for j in jobs]
    if sum(len(m) ** 2 for m in members) > 400_000:
        raise TopologyError(
            "jobs of too many devices", where="--jobs", expected="about 400 devices for each of two jobs"
        )
    flows = [traffic.all_to_all(m[None, :], bytes_per_rank) for m in members]
    result = evaluate.share_fabric(topology, flows, policy=policy, tolerance=1e-3)
    return [
        JobRow(job=j, devices=len(m), alone_s=float(a), together_s=float(t))
        for j, m, a, t in zip(jobs, members, result.alone_s, result.together_s, strict=True)
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRow:
    """Dispatch or combine of one step.

    Attributes
    ----------
    wire_s : float
        Flows on the graph at reached rates, with completion events.
    imbalance : float
        Bytes into the fullest rank over the mean.
    table_s : float or None
        Calibrated time of a measured library at this number of ranks and bytes (even routing).
    library : str
    """

    phase: str
    ranks: int
    bytes_per_rank: float
    wire_s: float
    imbalance: float
    table_s: float | None
    library: str


def expert_rows(
    topology: Topology,
    ranks: int,
    router: traffic.Router,
    *,
    tokens_per_rank: int,
    hidden: int,
    policy: Policy,
    dispatch_bytes: float = 1.0,
    combine_bytes: float = 2.0,
) -> list[ExpertRow]:
    """Expert dispatch and combine over the first ``ranks`` devices, beside what was measured of libraries there.

    Parameters
    ----------
    dispatch_bytes, combine_bytes : float
        Bytes per element: FP8 or INT8 out, BF16 back, as the measured libraries do.
    """
    if not 1 < ranks <= topology.num_devices:
        raise TopologyError(
            f"{ranks} expert ranks on {topology.num_devices} devices", expected=f"2 to {topology.num_devices}"
        )
    members = np.arange(ranks, dtype=np.int64)
    fabric = evaluate.with_protocol(topology)
    out = []
    for phase, width in (("dispatch", dispatch_bytes), ("combine", combine_bytes)):
        size = tokens_per_rank * hidden * width
        flows = traffic.expert_traffic(
            members, router, tokens_per_rank=tokens_per_rank, bytes_per_token=hidden * width
        )
        into = np.bincount(flows.dst, weights=flows.num_bytes, minlength=ranks)[members]
        if phase == "combine":
            flows = traffic.reverse(flows)
        result = evaluate.share_fabric(fabric, [flows], policy=policy, tolerance=1e-3)
        known = curves.best(topology.name, phase, ranks, size * router.top_k)
        out.append(
            ExpertRow(
                phase=phase,
                ranks=ranks,
                bytes_per_rank=size * router.top_k,
                wire_s=float(result.alone_s[0]),
                imbalance=float(into.max() / into.mean()),
                table_s=known[1] if known else None,
                library=known[0] if known else "",
            )
        )
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LevelCheck:
    """A plan's collective at a level of choice, and how far its closed form was off."""

    kind: str
    size: int
    stride: int
    num_bytes: float
    closed_form_s: float
    level_s: float
    level: str
    evidence: str

    @property
    def closed_form_off(self) -> float:
        """Closed form over the level's answer, minus one."""
        return self.closed_form_s / self.level_s - 1


def check_plan(
    topology: Topology,
    requests: list[tuple[str, int, int, float]],
    level: evaluate.Level,
    policy: Policy | None = None,
) -> list[LevelCheck]:
    """Evaluate the collectives of a plan at ``level`` beside the closed form that ranked it.

    Parameters
    ----------
    requests : list of (kind, ranks, stride, bytes)
    """
    out = []
    for kind, size, stride, num_bytes in requests:
        plain = evaluate.closed_form(topology, kind, size, stride, num_bytes)  # type: ignore[arg-type]
        got = evaluate.collective(topology, kind, size, num_bytes, stride=stride, level=level, policy=policy)  # type: ignore[arg-type]
        out.append(
            LevelCheck(
                kind=kind,
                size=size,
                stride=stride,
                num_bytes=num_bytes,
                closed_form_s=plain.seconds,
                level_s=got.seconds,
                level=got.level,
                evidence=got.evidence,
            )
        )
    return out
