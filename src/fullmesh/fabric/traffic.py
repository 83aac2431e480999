"""Traffic patterns: who sends how much to whom."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from fullmesh.errors import TopologyError
from fullmesh.fabric import solve, symmetry
from fullmesh.fabric.topology import Topology
from fullmesh.fabric.wiring import FloatArray, IntArray, LongArray, Policy

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


def expert_traffic(
    members: LongArray,
    *,
    tokens_per_rank: int,
    bytes_per_token: float,
    num_experts: int,
    top_k: int,
    imbalance: float = 0.0,
    groups_per_token: int = 0,
    num_groups: int = 0,
    deduplicate: bool = True,
    seed: int = 0,
) -> Flows:
    """Dispatch of tokens to experts spread evenly over ``members``; combine is the same with src and dst exchanged.

    Parameters
    ----------
    imbalance : float
        0 is a perfectly even router; otherwise the coefficient of variation of expert popularity, so that some
        experts run hot.
    groups_per_token, num_groups : int
        Node-limited routing: experts lie in ``num_groups`` equal groups (nodes), and a token may use experts of only
        ``groups_per_token`` of them. 0 is unlimited.
    deduplicate : bool
        A token that goes to several experts of one rank is sent there once.

    Raises
    ------
    TopologyError
        Experts that do not divide over ranks or groups, or a top-k that the limit cannot hold.
    """
    n = len(members)
    if num_experts % n:
        raise TopologyError(
            f"{num_experts} experts over {n} ranks", expected="a multiple of the number of ranks"
        )
    rng = np.random.default_rng(seed)
    weight = np.ones(num_experts)
    if imbalance > 0:
        weight = rng.gamma(1 / imbalance**2, imbalance**2, num_experts)
    share = weight / weight.sum()
    # Keys of an exponential race draw top-k without replacement in proportion to the weights (Efraimidis, Spirakis).
    sample = min(tokens_per_rank, max(64, 2_000_000 // max(n * num_experts, 1)))
    amount = np.zeros((n, n))
    per_rank = num_experts // n
    if groups_per_token:
        if not num_groups or num_experts % num_groups:
            raise TopologyError(f"{num_experts} experts in {num_groups} groups", expected="equal groups")
        if top_k > groups_per_token * (num_experts // num_groups):
            raise TopologyError(
                f"top-{top_k} in {groups_per_token} groups", expected="enough experts in the groups"
            )
    for rank in range(n):
        race = rng.exponential(size=(sample, num_experts)) / share
        if groups_per_token:
            # As DeepSeek-V3 does: a group is worth its best two experts.
            pair = max(1, min(2, num_experts // num_groups))
            by_group = np.partition(race.reshape(sample, num_groups, -1), pair - 1, axis=2)[:, :, :pair].sum(
                axis=2
            )
            best = np.argpartition(by_group, groups_per_token - 1, axis=1)[:, :groups_per_token]
            allowed = np.zeros((sample, num_groups), bool)
            np.put_along_axis(allowed, best, True, axis=1)
            race = np.where(np.repeat(allowed, num_experts // num_groups, axis=1), race, np.inf)
        chosen = np.argpartition(race, top_k - 1, axis=1)[:, :top_k] // per_rank
        hits = np.zeros((sample, n))
        np.add.at(hits, (np.arange(sample)[:, None], chosen), 1.0)
        amount[rank] = (np.minimum(hits, 1.0) if deduplicate else hits).sum(axis=0) * (
            tokens_per_rank / sample
        )
    i, j = (x.ravel() for x in np.indices((n, n)))
    at = np.asarray(members)
    return make_flows(at[i], at[j], amount.ravel() * bytes_per_token)


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
        if n * (n - 1) * policy.queue_pairs > MAX_LISTED_PAIRS:
            raise TopologyError(
                f"an all-to-all over {n} devices has {n * (n - 1):,} flows",
                expected=f"at most {MAX_LISTED_PAIRS:,} where classes cannot be found by arithmetic",
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
