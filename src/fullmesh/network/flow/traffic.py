"""Traffic patterns: who sends how much to whom."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from fullmesh.errors import TopologyError
from fullmesh.network.flow import solve, symmetry
from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray, Policy
from fullmesh.network.wiring.topology import Topology

QUICK_PAIRS = 600_000  # listed without a thought
MAX_LISTED_PAIRS = 5_000_000  # beyond this an all-to-all is only evaluated through classes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Messages that exist together.

    Attributes
    ----------
    src, dst : array of int64, shape (flows,)
    num_bytes : array of float, shape (flows,)
    start_s : array of float, shape (flows,)
    """

    src: LongArray
    dst: LongArray
    num_bytes: FloatArray
    start_s: FloatArray

    def __len__(self) -> int:
        return len(self.src)


def make_flows(
    src: LongArray, dst: LongArray, num_bytes: FloatArray | float, start_s: FloatArray | float = 0.0
) -> Flows:
    """Flows without those from an endpoint to itself and without empty ones."""
    size = np.broadcast_to(np.asarray(num_bytes, float), np.shape(src))
    start = np.broadcast_to(np.asarray(start_s, float), np.shape(src))
    keep = (np.asarray(src) != np.asarray(dst)) & (size > 0)
    return Flows(
        src=np.asarray(src, np.int64)[keep],
        dst=np.asarray(dst, np.int64)[keep],
        num_bytes=size[keep].copy(),
        start_s=start[keep].copy(),
    )


def together(*jobs: Flows) -> Flows:
    """Several jobs on the fabric at once."""
    return Flows(
        src=np.concatenate([j.src for j in jobs]),
        dst=np.concatenate([j.dst for j in jobs]),
        num_bytes=np.concatenate([j.num_bytes for j in jobs]),
        start_s=np.concatenate([j.start_s for j in jobs]),
    )


def all_pairs(groups: LongArray | IntArray) -> tuple[LongArray, LongArray]:
    """Ordered pairs of different members inside each row of ``groups`` (shape (groups, size))."""
    size = groups.shape[1]
    a, b = (x.ravel() for x in np.indices((size, size)))
    keep = a != b
    return groups[:, a[keep]].ravel().astype(np.int64), groups[:, b[keep]].ravel().astype(np.int64)


def all_to_all(groups: LongArray, bytes_per_rank: float) -> Flows:
    """Every member sends ``bytes_per_rank / size`` to every other member of its group."""
    src, dst = all_pairs(groups)
    return make_flows(src, dst, bytes_per_rank / groups.shape[1])


def ring_step(groups: LongArray, num_bytes: float) -> Flows:
    """Every member sends ``num_bytes`` to the next."""
    return make_flows(groups.ravel(), np.roll(groups, -1, axis=1).ravel(), num_bytes)


def skewed_all_to_all(members: LongArray, mean_bytes: float, *, concentration: float, seed: int) -> Flows:
    """All-to-all whose destinations have different weights, drawn from a Dirichlet distribution.

    Parameters
    ----------
    concentration : float
        Large is even; 20 makes the fullest destination about 1.7 times the mean at 384 members.
    """
    n = len(members)
    rng = np.random.default_rng(seed)
    popularity = rng.dirichlet(np.full(n, concentration)) * n
    jitter = rng.uniform(0.85, 1.15, (n, n))
    src, dst = all_pairs(np.asarray(members)[None, :])
    place = np.argsort(members)
    i = place[np.searchsorted(members, src, sorter=place)]
    j = place[np.searchsorted(members, dst, sorter=place)]
    return make_flows(src, dst, np.rint(mean_bytes * popularity[j] * jitter[i, j]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """How tokens choose experts, which lie evenly over the ranks of a group in rank order.

    Attributes
    ----------
    num_experts, top_k : int
    imbalance : float
        0 is an even router; otherwise the coefficient of variation of expert popularity, so that some experts run hot.
    groups_per_token, num_groups : int
        Node-limited routing: experts lie in ``num_groups`` equal groups, and a token uses experts of only
        ``groups_per_token`` of them, the best by their two best experts. 0 is unlimited.
    seed : int
    """

    num_experts: int
    top_k: int
    imbalance: float = 0.0
    groups_per_token: int = 0
    num_groups: int = 0
    seed: int = 0


def _token_copies(router: Router, num_ranks: int, sample: int) -> Iterator[FloatArray]:
    """For each rank in turn the copies that each of its sampled tokens sends to every rank, shape (sample, ranks)."""
    experts, groups, limit = router.num_experts, router.num_groups, router.groups_per_token
    if experts % num_ranks or router.top_k > experts:
        raise TopologyError(
            f"top-{router.top_k} of {experts} experts over {num_ranks} ranks",
            expected="experts that are a multiple of the ranks, and at least top-k of them",
        )
    if limit and (groups < 1 or experts % groups or not 0 < limit <= groups):
        raise TopologyError(
            f"{limit} of {groups} groups of {experts} experts", expected="equal groups, and enough of them"
        )
    if limit and router.top_k > limit * (experts // groups):
        raise TopologyError(f"top-{router.top_k} in {limit} groups", expected="enough experts in the groups")
    rng = np.random.default_rng(router.seed)
    weight = np.ones(experts)
    if router.imbalance > 0:
        weight = rng.gamma(1 / router.imbalance**2, router.imbalance**2, experts)
    share = weight / weight.sum()
    for _ in range(num_ranks):
        # Keys of an exponential race draw top-k without replacement by weight (Efraimidis and Spirakis, 2006).
        race = rng.exponential(size=(sample, experts)) / share
        if limit:
            pair = max(1, min(2, experts // groups))
            by_group = np.partition(race.reshape(sample, groups, -1), pair - 1, axis=2)[:, :, :pair].sum(
                axis=2
            )
            allowed = np.zeros((sample, groups), bool)
            np.put_along_axis(allowed, np.argpartition(by_group, limit - 1, axis=1)[:, :limit], True, axis=1)
            race = np.where(np.repeat(allowed, experts // groups, axis=1), race, np.inf)
        chosen = np.argpartition(race, router.top_k - 1, axis=1)[:, : router.top_k] // (experts // num_ranks)
        copies = np.zeros((sample, num_ranks))
        np.add.at(copies, (np.arange(sample)[:, None], chosen), 1.0)
        yield copies


def _sample_size(router: Router, num_ranks: int, tokens_per_rank: int) -> int:
    """Tokens drawn for each rank: all, or as many as keep the draw at some millions of numbers."""
    return min(tokens_per_rank, max(64, 4_000_000 // (num_ranks * router.num_experts)))


def expert_traffic(
    members: LongArray,
    router: Router,
    *,
    tokens_per_rank: int,
    bytes_per_token: float,
    deduplicate: bool = True,
) -> Flows:
    """Dispatch of tokens straight to their experts' ranks; combine is `reverse` of it.

    Parameters
    ----------
    deduplicate : bool
        A token that goes to several experts of one rank is sent there once.

    Raises
    ------
    TopologyError
        Experts that do not divide over ranks or groups, or a top-k that the limit cannot hold.
    """
    n, sample = len(members), _sample_size(router, len(members), tokens_per_rank)
    amount = np.stack(
        [(np.minimum(c, 1.0) if deduplicate else c).sum(axis=0) for c in _token_copies(router, n, sample)]
    )
    i, j = (x.ravel() for x in np.indices((n, n)))
    at = np.asarray(members)
    return make_flows(at[i], at[j], amount.ravel() * (bytes_per_token * tokens_per_rank / sample))


def reverse(flows: Flows) -> Flows:
    """The answer to the same messages, as combine answers dispatch."""
    return dataclasses.replace(flows, src=flows.dst, dst=flows.src)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AllToAllResult:
    """A uniform all-to-all over all devices.

    Attributes
    ----------
    bytes_per_s_per_device : float
        Bytes that a device sends to others, over the time of the whole exchange (the slowest part counts).
    mean_bytes_per_s_per_device : float
        Max-min rates while all flows run, averaged over devices.
    seconds : float
    flow_classes, link_classes : int
    classes_s, solve_s : float
        Elapsed time of finding the classes and of the solve over them.
    """

    bytes_per_s_per_device: float
    mean_bytes_per_s_per_device: float
    seconds: float
    flow_classes: int
    link_classes: int
    classes_s: float
    solve_s: float


def uniform_all_to_all(
    topology: Topology, bytes_per_rank: float, policy: Policy | None = None
) -> AllToAllResult:
    """All devices exchange equal shares of ``bytes_per_rank``; solved over symmetry classes.

    Raises
    ------
    TopologyError
        Flows that the policy leaves without a path, or a rail-wired machine too large to list its pairs.
    """
    policy = policy or Policy()
    n = topology.num_devices
    message = bytes_per_rank / n
    begin = time.perf_counter()
    few = symmetry.collapse_all_to_all(topology) if policy.name != "ecmp" else None
    if few is not None:
        routing, mult = few.route(topology, policy)
        pairs = few.pairs
    else:
        num_flows = n * (n - 1) * policy.queue_pairs
        if num_flows > QUICK_PAIRS and policy.name != "ecmp" and symmetry.looks_alike_everywhere(topology):
            return _alike_all_to_all(topology, message, policy)
        if num_flows > MAX_LISTED_PAIRS:
            raise TopologyError(
                f"an all-to-all over {n} devices has {n * (n - 1):,} flows",
                expected=f"at most {MAX_LISTED_PAIRS:,} where nothing makes the devices alike (failures, hashing)",
                hint="ask for fewer devices with --devices",
            )
        src, dst = all_pairs(np.arange(n)[None, :])
        routing = topology.route(src, dst, policy)
        mult, pairs = np.zeros((0, 0)), np.ones(routing.num_flows)
    solve.require_paths(routing)
    queue_pairs = policy.queue_pairs if policy.name == "ecmp" else 1
    size = np.full(routing.num_flows, message / queue_pairs)
    problem = solve.make_problem(topology, routing, mult)
    quotient = symmetry.refine(problem)
    middle = time.perf_counter()
    rate = solve.max_min_rates(quotient.problem)[quotient.flow_class]
    end = time.perf_counter()
    seconds, _ = solve.bottleneck(topology, routing, size, mult)
    return AllToAllResult(
        bytes_per_s_per_device=(n - 1) * message / seconds if seconds else 0.0,
        mean_bytes_per_s_per_device=float((rate * pairs).sum()) / n,
        seconds=seconds,
        flow_classes=len(quotient.problem.seg),
        link_classes=quotient.num_link_classes,
        classes_s=middle - begin,
        solve_s=end - middle,
    )


def _alike_all_to_all(topology: Topology, message: float, policy: Policy) -> AllToAllResult:
    """An all-to-all where every device, and every link of a kind, carries the same: one device's flows tell all."""
    n = topology.num_devices
    begin = time.perf_counter()
    routing = topology.route(np.zeros(n - 1, np.int64), np.arange(1, n), policy)
    load = solve.link_loads(topology, routing, np.full(n - 1, message))
    kinds = len(topology.links.kinds)
    total = np.bincount(topology.links.kind, weights=load, minlength=kinds) * n
    middle = time.perf_counter()
    # Links of a kind may differ in rate (5, 4, 4, 5 lanes to a switch), but are then loaded in proportion.
    capacity = np.bincount(topology.links.kind, weights=topology.capacity, minlength=kinds)
    seconds = float((total / capacity).max())
    end = time.perf_counter()
    return AllToAllResult(
        bytes_per_s_per_device=(n - 1) * message / seconds,
        mean_bytes_per_s_per_device=(n - 1) * message / seconds,
        seconds=seconds,
        flow_classes=len(np.unique(routing.layer)),
        link_classes=int((total > 0).sum()),
        classes_s=middle - begin,
        solve_s=end - middle,
    )
