"""Collectives as traffic over time: steps of messages between ranks, by algorithm.

A schedule says who sends how much to whom in each step; `evaluate` lays it on a topology. Steps follow one another,
and a step that repeats with the same sizes is written once. Buffer sizes follow nccl-tests: the whole buffer of an
all-reduce, the output of an all-gather, the input of a reduce-scatter, what one rank holds for all ranks of an
all-to-all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from fullmesh.errors import TopologyError, did_you_mean
from fullmesh.network.flow.traffic import all_pairs
from fullmesh.network.wiring.links import FloatArray, LongArray

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
KINDS: tuple[Kind, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Messages that start together.

    Attributes
    ----------
    src, dst : array of int64
        Endpoints.
    num_bytes : array of float
    repeats : int
        Times that this step occurs, one after another.
    hops : int
        Latencies that one repeat takes, more than one where a pipelined message passes several ranks.
    up_bytes, down_bytes : float
        Where switches reduce: bytes that every member sends to and receives from its switches.
    members : array of int64
        Who takes part in the reduction by switches.
    """

    src: LongArray
    dst: LongArray
    num_bytes: FloatArray
    repeats: int = 1
    hops: int = 1
    up_bytes: float = 0.0
    down_bytes: float = 0.0
    members: LongArray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A collective over equal groups that run at the same time.

    Attributes
    ----------
    groups : array of int64, shape (groups, size)
        Endpoints in rank order.
    num_bytes : float
        Buffer, in the sense of the module's text.
    """

    kind: Kind
    algorithm: str
    groups: LongArray
    num_bytes: float
    steps: tuple[Step, ...]

    @property
    def num_steps(self) -> int:
        """Latencies one after another."""
        return sum(s.repeats * s.hops for s in self.steps)


def _step(src: LongArray, dst: LongArray, size: float, repeats: int = 1, hops: int = 1) -> Step:
    return Step(
        src=np.asarray(src, np.int64).ravel(),
        dst=np.asarray(dst, np.int64).ravel(),
        num_bytes=np.full(np.size(src), float(size)),
        repeats=repeats,
        hops=hops,
    )


def _ring(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    """One ring, or over several nodes one for each rank of a node, so that every network card carries one."""
    orders = _channels(groups, node_size)
    src = np.concatenate(orders)
    dst = np.concatenate([np.roll(order, -1, axis=1) for order in orders])
    p = groups.shape[1]
    return [_step(src, dst, num_bytes / p / len(orders), (p - 1) * (2 if kind == "all_reduce" else 1))]


def _channels(groups: LongArray, node_size: int) -> list[LongArray]:
    """The rank order of each channel: nodes in turn, entered at another rank by each channel."""
    count, p = groups.shape
    if node_size <= 1 or node_size >= p or p % node_size:
        return [groups]
    nodes = groups.reshape(count, p // node_size, node_size)
    return [np.roll(nodes, -c, axis=2).reshape(count, p) for c in range(node_size)]


def _direct(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    return [_step(*all_pairs(groups), num_bytes / groups.shape[1])] * (2 if kind == "all_reduce" else 1)


def _one_shot(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    return [_step(*all_pairs(groups), num_bytes)]


def _pairwise(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    p = groups.shape[1]
    return [_step(groups, np.roll(groups, -k, axis=1), num_bytes / p) for k in range(1, p)]


def _doubling(groups: LongArray, num_bytes: float, gather: bool) -> list[Step]:
    """Recursive doubling (gather) or halving (scatter) for a power of two; distance grows with the block."""
    p = groups.shape[1]
    rank = np.arange(p)
    steps = []
    for k in range(p.bit_length() - 1):
        far = 1 << k
        # The near partner takes the large block: gathering ends with it, scattering begins with it.
        block = num_bytes / (2 * far)
        steps.append(_step(groups, groups[:, rank ^ far], block))
    return steps[::-1] if gather else steps


def _halving_doubling(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    p = groups.shape[1]
    core = 1 << (p.bit_length() - 1)
    inside, extra = groups[:, :core], groups[:, core:]
    steps: list[Step] = []
    if core != p and kind != "all_gather":  # the odd ranks first hand their buffer to a partner
        steps.append(_step(extra, groups[:, : p - core], num_bytes))
    if kind in ("all_reduce", "reduce_scatter"):
        steps += _doubling(inside, num_bytes, gather=False)
    if core != p and kind == "all_gather":
        steps.append(_step(extra, groups[:, : p - core], num_bytes / p))
    if kind in ("all_reduce", "all_gather"):
        steps += _doubling(inside, num_bytes, gather=True)
    if core != p:
        steps.append(
            _step(groups[:, : p - core], extra, num_bytes if kind != "reduce_scatter" else num_bytes / p)
        )
    return steps


def _nhr(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    """Non-uniform hierarchical ring: about log2(p) steps for any p; step k passes blocks to the rank 2^k ahead."""
    p = groups.shape[1]
    steps, have = [], 1
    while have < p:
        blocks = min(have, p - have)
        steps.append(_step(groups, np.roll(groups, -have, axis=1), num_bytes / p * blocks))
        have += blocks
    scatter = steps[::-1] if kind in ("all_reduce", "reduce_scatter") else []
    return scatter + (steps if kind in ("all_reduce", "all_gather") else [])


def _tree(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    """Double binary tree, pipelined: each tree reduces and broadcasts one half, all edges busy at once.

    Over several nodes there is a pair of trees for each rank of a node, with a chain to it inside.
    """
    orders = _channels(groups, node_size)
    inner = node_size if len(orders) > 1 else 1
    num_nodes = groups.shape[1] // inner
    edges: list[tuple[LongArray, LongArray, float]] = []
    for order in orders:
        local = order.reshape(len(order), num_nodes, inner)
        heads = local[:, :, 0]
        for a in range(1, inner):
            edges.append((local[:, :, a].ravel(), local[:, :, a - 1].ravel(), num_bytes / len(orders)))
        for mirror in (False, True):
            heap = heads[:, ::-1] if mirror else heads
            for child in range(1, num_nodes):
                edges.append((heap[:, child], heap[:, (child - 1) // 2], num_bytes / 2 / len(orders)))
    src = np.concatenate([e[0] for e in edges] + [e[1] for e in edges])
    dst = np.concatenate([e[1] for e in edges] + [e[0] for e in edges])
    size = np.concatenate([np.full(len(e[0]), e[2]) for e in edges] * 2)
    depth = (num_nodes - 1).bit_length() + inner - 1
    return [Step(src=src.astype(np.int64), dst=dst.astype(np.int64), num_bytes=size, hops=2 * depth)]


def _in_switch(kind: Kind, groups: LongArray, num_bytes: float, node_size: int = 0) -> list[Step]:
    """Switches that reduce: a rank pulls its reduced shard and multicasts it, so n(p+1)/p bytes pass each way."""
    p = groups.shape[1]
    shard = num_bytes / p
    up = {"all_reduce": num_bytes + shard, "reduce_scatter": num_bytes, "all_gather": shard}[kind]
    down = {"all_reduce": num_bytes + shard, "reduce_scatter": shard, "all_gather": num_bytes}[kind]
    none = np.zeros(0, np.int64)
    return [
        Step(
            src=none,
            dst=none,
            num_bytes=np.zeros(0),
            hops=2 if kind == "all_reduce" else 1,
            up_bytes=up,
            down_bytes=down,
            members=groups.ravel().astype(np.int64),
        )
    ]


def _hierarchical(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    return _by_node(kind, groups, num_bytes, node_size, "direct" if kind == "all_to_all" else "ring")


def _nvls_tree(kind: Kind, groups: LongArray, num_bytes: float, node_size: int) -> list[Step]:
    return _by_node(kind, groups, num_bytes, node_size, "tree", in_switch=True)


def _by_node(
    kind: Kind, groups: LongArray, num_bytes: float, inner: int, across: str, *, in_switch: bool = False
) -> list[Step]:
    """Inside the node, ``across`` nodes between ranks of equal place, inside again."""
    count, p = groups.shape
    if inner < 1 or p % inner or inner == p:
        raise TopologyError(
            f"{'nvls-tree' if in_switch else 'hierarchical'} over {p} ranks in nodes of {inner}",
            expected="whole nodes, and more than one",
        )

    def outer(which: Kind, ranks: LongArray, size: float) -> list[Step]:
        return list(schedule(which, across, ranks, size).steps)

    if inner == 1:
        return outer(kind, groups, num_bytes)
    nodes = p // inner
    near = groups.reshape(count * nodes, inner)
    far = groups.reshape(count, nodes, inner).transpose(0, 2, 1).reshape(count * inner, nodes)
    part = num_bytes / inner

    def local(which: Kind) -> list[Step]:
        return (_in_switch if in_switch else _direct)(which, near, num_bytes, 0)

    if kind == "all_to_all":
        return local(kind) + outer(kind, far, num_bytes)
    if kind == "reduce_scatter":
        return local(kind) + outer(kind, far, part)
    if kind == "all_gather":
        return outer(kind, far, part) + local(kind)
    return local("reduce_scatter") + outer(kind, far, part) + local("all_gather")


class _Algorithm(NamedTuple):
    """Steps of an algorithm from (kind, groups, bytes, node size), and the kinds that it serves."""

    steps: Callable[[Kind, LongArray, float, int], list[Step]]
    kinds: tuple[Kind, ...]


_REDUCTIONS = KINDS[:3]
_ALGORITHMS = {
    "ring": _Algorithm(_ring, _REDUCTIONS),
    "tree": _Algorithm(_tree, ("all_reduce",)),
    "halving-doubling": _Algorithm(_halving_doubling, _REDUCTIONS),
    "direct": _Algorithm(_direct, KINDS),
    "one-shot": _Algorithm(_one_shot, ("all_reduce",)),
    "pairwise": _Algorithm(_pairwise, ("all_to_all",)),
    "nhr": _Algorithm(_nhr, _REDUCTIONS),
    "nvls": _Algorithm(_in_switch, _REDUCTIONS),
    "hierarchical": _Algorithm(_hierarchical, KINDS),
    "nvls-tree": _Algorithm(_nvls_tree, ("all_reduce",)),
}
ALGORITHMS: dict[Kind, tuple[str, ...]] = {
    kind: tuple(name for name, algorithm in _ALGORITHMS.items() if kind in algorithm.kinds) for kind in KINDS
}


def schedule(
    kind: Kind, algorithm: str, groups: LongArray, num_bytes: float, *, node_size: int = 0
) -> Schedule:
    """Traffic of a collective over all ``groups`` at once.

    Parameters
    ----------
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``.
    algorithm : str
        One of ``ALGORITHMS[kind]``.
    groups : array of int64, shape (groups, size)
        Endpoints in rank order: this is the placement.
    num_bytes : float
        See the module's text.
    node_size : int
        Neighbouring ranks that share a node: ``hierarchical`` and ``nvls-tree`` need it, ``ring`` and ``tree`` then
        run one channel for each network card.

    Raises
    ------
    TopologyError
        Unknown names, a group of one, or a hierarchy that does not divide the group.
    """
    if kind not in ALGORITHMS:
        raise TopologyError(f"unknown collective {kind!r}", hint=did_you_mean(kind, list(ALGORITHMS)))
    if algorithm not in ALGORITHMS[kind]:
        raise TopologyError(
            f"no {algorithm!r} algorithm for {kind}", hint=did_you_mean(algorithm, list(ALGORITHMS[kind]))
        )
    if groups.shape[1] < 2:
        raise TopologyError("a collective of one rank", expected="groups of at least 2")
    if num_bytes <= 0:
        raise TopologyError(f"a collective of {num_bytes} bytes", expected="more than 0 bytes")
    steps = tuple(_ALGORITHMS[algorithm].steps(kind, groups, num_bytes, node_size))
    return Schedule(kind=kind, algorithm=algorithm, groups=groups, num_bytes=float(num_bytes), steps=steps)


def bus_factor(kind: Kind, size: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests define it (doc/PERFORMANCE.md)."""
    return 2 * (size - 1) / size if kind == "all_reduce" else (size - 1) / size


def place_groups(num_devices: int, size: int, stride: int = 1) -> LongArray:
    """All groups of ``size`` ranks that stand ``stride`` devices apart and together fill the machine.

    ``stride`` is the product of the parallel axes that lie inside: with tensor parallelism of 8 innermost, data
    parallelism has stride 8.

    Raises
    ------
    TopologyError
        Groups that do not divide the machine.
    """
    if size * stride > num_devices or num_devices % (size * stride):
        raise TopologyError(
            f"groups of {size} at stride {stride} do not fill {num_devices} devices",
            expected="size times stride dividing the number of devices",
        )
    grid = np.arange(num_devices, dtype=np.int64).reshape(-1, size, stride)
    return grid.transpose(0, 2, 1).reshape(-1, size)


def place_axes(num_devices: int, axes: dict[str, int], order: tuple[str, ...]) -> dict[str, LongArray]:
    """Groups of every parallel axis when axes are laid out in ``order``, the innermost first.

    Raises
    ------
    TopologyError
        Degrees whose product is not the number of devices, or an order that names other axes.
    """
    if set(order) != set(axes) or int(np.prod(list(axes.values()))) != num_devices:
        raise TopologyError(
            f"axes {axes} in order {order} on {num_devices} devices",
            expected="every axis once, degrees whose product is the number of devices",
        )
    out, stride = {}, 1
    for axis in order:
        if axes[axis] > 1:
            out[axis] = place_groups(num_devices, axes[axis], stride)
        stride *= axes[axis]
    return out
