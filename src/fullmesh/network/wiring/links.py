"""The link graph as columns: what every layer of a fabric hands to the topology."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fullmesh.errors import TopologyError
from fullmesh.machine.hardware import TierKind

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# of one layer, one direction each; with the columns of all of them in memory this is about a gigabyte
MAX_LINKS = 8_000_000
PolicyName = Literal["static", "resplit", "ecmp"]

# Whose symmetry group a column of segments belongs to; see `symmetry.all_to_all_classes`.
SIDE_NONE, SIDE_SRC, SIDE_SHARED, SIDE_DST, SIDE_PAIR = -1, 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How traffic chooses among equal paths.

    Parameters
    ----------
    name : {"static", "resplit", "ecmp"}
        ``static`` sprays evenly over planes, and inside a plane over the switches that are still reachable; a plane
        that is gone cuts the flow. ``resplit`` weighs planes and switches by the capacity that is left of each path.
        ``ecmp`` puts every queue pair on one path chosen by a hash.
    seed : int
        Seed of the hash.
    queue_pairs : int
        Sub-flows into which ECMP divides every flow.
    """

    name: PolicyName = "static"
    seed: int = 0
    queue_pairs: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Directed links, one row each; a cable is two rows that name each other as ``peer``.

    Attributes
    ----------
    src, dst : array of int32
        Node numbers: devices, then other endpoints, then switches.
    bytes_per_s : array of float
        Line rate of the direction.
    kind : array of int16
        Index into ``kinds``.
    plane : array of int16
        Parallel plane that the link belongs to, 0 where there is only one.
    module : array of int32
        Optical module that carries the link, -1 where none does.
    peer : array of int32
        The same cable in the other direction.
    """

    src: IntArray
    dst: IntArray
    bytes_per_s: FloatArray
    kind: NDArray[np.int16]
    plane: NDArray[np.int16]
    module: IntArray
    peer: IntArray
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.src)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """Switch chips in node order, after the endpoints."""

    tier: NDArray[np.int16]
    plane: NDArray[np.int16]
    tiers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tier)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerRoute:
    """Paths of some flows through one layer.

    Attributes
    ----------
    seg : array of int32, shape (flows, columns)
        Segments of each flow, -1 where a column is not used.
    side : tuple of int
        For each column, whose property the segment is (source, shared, destination, pair).
    ptr, link, weight : arrays
        Compressed rows: segment ``s`` loads ``link[ptr[s]:ptr[s + 1]]`` with ``weight`` bytes per byte of the flow.
    latency_s : array of float
    cut : array of bool
        Flows that the policy sends into something dead.
    """

    seg: IntArray
    side: tuple[int, ...]
    ptr: LongArray
    link: IntArray
    weight: FloatArray
    latency_s: FloatArray
    cut: BoolArray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What a layer says of itself: its place among the tiers, and where the figures come from.

    ``efficiency`` is the share of the line rate that transfers were measured to reach, ``reduction_efficiency`` that of
    reductions inside the switches. ``levels`` names the groups of devices that each level of switches joins, where
    they nest: one tier for each. ``assumed`` where the machine file does not say how the tier is wired.
    """

    name: str
    tier_kind: TierKind
    group_devices: int
    device_bytes_per_s: float
    latencies_s: tuple[float, ...]
    efficiency: float
    reduction_efficiency: float
    in_network_reduction: bool
    source: str
    carries_devices: bool = True
    levels: tuple[tuple[str, int], ...] = ()
    assumed: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What hangs on the fabric: devices first, then CPUs and DPUs.

    Attributes
    ----------
    kind : array of int32
        Index into ``kinds``; 0 is a device.
    kinds : tuple of str
    node : array of int64
        The node of each.
    num_devices, per_node : int
        Devices in all, and of one node.
    """

    kind: IntArray
    kinds: tuple[str, ...]
    node: LongArray
    num_devices: int
    per_node: int

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def like_device(self) -> LongArray:
        """For every endpoint the device whose leaf it shares: itself, or the first one of its node."""
        return np.where(self.kind == 0, np.arange(len(self.kind)), self.node * self.per_node)


class Layer(Protocol):
    """One level of the fabric: wires its links and routes through them by arithmetic."""

    @property
    def facts(self) -> LayerFacts: ...

    @property
    def first_link(self) -> int: ...

    @property
    def num_links(self) -> int: ...

    def joins(self, src: IntArray, dst: IntArray, capacity: FloatArray) -> BoolArray:
        """Which pairs this layer connects by itself."""
        ...

    def route(self, src: IntArray, dst: IntArray, capacity: FloatArray, policy: Policy) -> LayerRoute:
        """Paths of pairs that the layer joins; ``capacity`` is that of all links of the topology, as they are now."""
        ...

    def profile(self, capacity: FloatArray) -> LongArray:
        """For every endpoint a number that two endpoints share only if the layer cannot tell them apart."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What a layer adds to the graph."""

    layer: Layer
    src: LongArray
    dst: LongArray
    bytes_per_s: FloatArray
    kind: LongArray
    plane: LongArray
    module: LongArray
    peer: LongArray
    kinds: tuple[str, ...]
    switch_tier: LongArray
    switch_plane: LongArray
    switch_tiers: tuple[str, ...]


def compact(keys: LongArray, space: int) -> tuple[LongArray, IntArray]:
    """Renumber keys densely.

    Parameters
    ----------
    keys : array of int64
        Non-negative keys below ``space``; -1 stays -1.
    space : int
        Exclusive bound of the keys.

    Returns
    -------
    tuple of arrays
        The distinct keys in rising order, and ``keys`` as positions in them.
    """
    flat = keys.ravel()
    if space <= max(4 * flat.size, 50_000_000):
        used = np.zeros(space + 1, bool)
        used[flat] = True  # -1 marks the spare last place
        used[space] = False
        distinct = np.flatnonzero(used)
        place = np.full(space + 1, -1, np.int32)
        place[distinct] = np.arange(len(distinct), dtype=np.int32)
        return distinct, place[flat].reshape(keys.shape)
    distinct, inverse = np.unique(flat, return_inverse=True)
    position = inverse.reshape(keys.shape).astype(np.int32)
    if distinct.size and distinct[0] == -1:
        return distinct[1:], position - 1
    return distinct, position


def row_classes(rows: FloatArray) -> LongArray:
    """Number equal rows alike; cheap when all rows are equal, which is the healthy case."""
    if rows.shape[0] == 0 or rows.shape[1] == 0 or bool((rows == rows[0]).all()):
        return np.zeros(rows.shape[0], np.int64)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def combine(*labels: LongArray) -> LongArray:
    """One label that is equal exactly where all given labels are, numbered densely."""
    code = np.zeros(len(labels[0]), np.int64)
    for label in labels:
        bound = int(label.max(initial=0)) + 1
        code = code * bound + label
        if int(code.max(initial=0)) > 4_000_000:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    if not code.any():
        return code
    return compact(code, int(code.max()) + 1)[1].astype(np.int64)


def dense_table(base: LongArray, weight: FloatArray) -> tuple[LongArray, IntArray, FloatArray]:
    """Compressed rows from rectangular ones, without the zero weights.

    Parameters
    ----------
    base : array of int64, shape (segments, width)
        Link numbers.
    weight : array of float, shape (segments, width)
    """
    keep = weight > 0
    ptr = np.zeros(len(base) + 1, np.int64)
    np.cumsum(keep.sum(axis=1), out=ptr[1:])
    return ptr, base[keep].astype(np.int32), weight[keep]


def join_tables(
    tables: list[tuple[LongArray, IntArray, FloatArray]],
) -> tuple[LongArray, IntArray, FloatArray, list[int]]:
    """Stack compressed rows; the last item is the first row of each part."""
    first, ptrs, count, nnz = [], [np.zeros(1, np.int64)], 0, 0
    for ptr, _, _ in tables:
        first.append(count)
        ptrs.append(ptr[1:] + nnz)
        count += len(ptr) - 1
        nnz += int(ptr[-1])
    link = np.concatenate([t[1] for t in tables]) if tables else np.zeros(0, np.int32)
    weight = np.concatenate([t[2] for t in tables]) if tables else np.zeros(0)
    return np.concatenate(ptrs), link.astype(np.int32), weight, first


def mix(*values: NDArray[np.generic] | int) -> NDArray[np.uint64]:
    """A well-mixed 64-bit hash of whole numbers (splitmix64), the same on every machine."""
    state = np.uint64(0x9E3779B97F4A7C15)
    out: NDArray[np.uint64] = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            z = out * np.uint64(0xD1342543DE82EF95) + np.asarray(value).astype(np.uint64) + state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out = z ^ (z >> np.uint64(31))
    return out


def check_size(name: str, num_links: int) -> None:
    """Refuse a wiring that would fill the memory, before it is made.

    Raises
    ------
    TopologyError
        More than ``MAX_LINKS`` links, one direction each.
    """
    if num_links > MAX_LINKS:
        raise TopologyError(
            f"{name} would have {num_links:,} links or ends of links",
            expected=f"at most {MAX_LINKS:,}",
            hint="fewer devices, planes, spines or ports",
        )
