"""Grids without switches: full mesh, n-dimensional full mesh and torus.

A device is a point of a grid; grids stand side by side when the machine has more devices than one holds. Routing is by
dimension order; with more than one dimension the flow is sprayed evenly over the cyclic rotations of that order.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.network.wiring import links as wiring
from fullmesh.network.wiring.links import (
    SIDE_PAIR,
    BoolArray,
    Endpoints,
    FloatArray,
    IntArray,
    LayerFacts,
    LayerRoute,
    LongArray,
    Policy,
    Wiring,
    check_size,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridLayer:
    """A grid whose lines are full meshes (``wrap`` false) or rings (``wrap`` true).

    Attributes
    ----------
    sizes : tuple of int
        Points along each dimension, the fastest first.
    peer : array of int64
        For each link of the layer (from 0) the same cable in the other direction.
    """

    facts: LayerFacts
    first_link: int
    num_links: int
    num_devices: int
    num_endpoints: int
    sizes: tuple[int, ...]
    wrap: bool
    peer: LongArray

    def ports(self, dim: int) -> int:
        """Links that leave a device along a dimension."""
        size = self.sizes[dim]
        return min(size - 1, 2) if self.wrap else size - 1

    def _dim_first(self, dim: int) -> int:
        return self.first_link + self.num_devices * sum(self.ports(d) for d in range(dim))

    def _stride(self, dim: int) -> int:
        return int(np.prod(self.sizes[:dim]))

    def _ring(self, dim: int) -> bool:
        return self.wrap and self.sizes[dim] > 2

    def joins(self, src: IntArray, dst: IntArray, capacity: FloatArray) -> BoolArray:
        grid = int(np.prod(self.sizes))
        inside = (src < self.num_devices) & (dst < self.num_devices)
        both: BoolArray = np.asarray(inside & (src // grid == dst // grid), bool)
        if self.sizes == (2,):  # two dies whose only link is gone meet again in the next layer
            return np.asarray(both & (capacity[self.first_link + np.where(both, src, 0)] > 0), bool)
        return both

    def profile(self, capacity: FloatArray) -> LongArray:
        out = np.zeros(self.num_endpoints, np.int64)
        mine = capacity[self.first_link : self.first_link + self.num_links]
        rows, at = [], 0
        for dim in range(len(self.sizes)):
            size = self.num_devices * self.ports(dim)
            for part in (mine[at : at + size], mine[self.peer[at : at + size]]):
                # What ports a device has matters here, not which peer stands behind which of them.
                rows.append(np.sort(part.reshape(self.num_devices, -1), axis=1))
            at += size
        out[: self.num_devices] = wiring.row_classes(np.concatenate(rows, axis=1)) + 1
        return out

    def _coordinate(self, device: LongArray, dim: int) -> LongArray:
        return device // self._stride(dim) % self.sizes[dim]

    def _line_rows(
        self, dim: int, keys: LongArray, capacity: FloatArray, policy: Policy
    ) -> tuple[LongArray, FloatArray, BoolArray]:
        """Links and weights of moves along one dimension; a key is ``device * size + target coordinate``."""
        size = self.sizes[dim]
        device, target = keys // size, keys % size
        here = self._coordinate(device, dim)
        if self._ring(dim):
            return self._ring_rows(dim, device, (target - here) % size, capacity, policy)
        first, ports = self._dim_first(dim), size - 1
        direct = first + device * ports + target - (target > here)
        dead = capacity[direct] <= 0
        width = 1 if not dead.any() or policy.name != "resplit" or size < 3 else 1 + 2 * size
        links = np.zeros((len(keys), width), np.int64)
        weight = np.zeros((len(keys), width))
        links[:, 0], weight[:, 0] = direct, ~dead
        cut = dead.copy()
        if width > 1:
            line = device - here * self._stride(dim)
            for row in np.flatnonzero(dead):
                via = np.setdiff1d(np.arange(size), (here[row], target[row]))
                out = first + device[row] * ports + via - (via > here[row])
                middle = line[row] + via * self._stride(dim)
                onward = first + middle * ports + target[row] - (target[row] > via)
                share = np.minimum(capacity[out], capacity[onward])
                if share.sum() > 0:
                    cut[row] = False
                    links[row, 1 : 1 + len(via)], links[row, 1 + size : 1 + size + len(via)] = out, onward
                    weight[row, 1 : 1 + len(via)] = weight[row, 1 + size : 1 + size + len(via)] = (
                        share / share.sum()
                    )
        return links, weight, cut

    def _ring_rows(
        self, dim: int, device: LongArray, ahead: LongArray, capacity: FloatArray, policy: Policy
    ) -> tuple[LongArray, FloatArray, BoolArray]:
        size, stride, first = self.sizes[dim], self._stride(dim), self._dim_first(dim)
        here = self._coordinate(device, dim)
        line = device - here * stride
        step = np.arange(size)
        forward = line[:, None] + ((here[:, None] + step) % size) * stride
        backward = line[:, None] + ((here[:, None] - step) % size) * stride
        links = np.concatenate([first + forward * 2, first + backward * 2 + 1], axis=1)
        used = np.concatenate([step < ahead[:, None], step < (size - ahead)[:, None]], axis=1)
        live = np.where(used, capacity[links], np.inf)
        up, down = live[:, :size].min(axis=1) > 0, live[:, size:].min(axis=1) > 0
        go_up = np.where(2 * ahead == size, 0.5, (2 * ahead < size).astype(float))
        if policy.name == "resplit":
            go_up = np.where(up & ~down, 1.0, np.where(down & ~up, 0.0, go_up))
        cut = ((go_up > 0) & ~up) | ((go_up < 1) & ~down)
        weight = used * np.concatenate(
            [
                np.broadcast_to(go_up[:, None], (len(device), size)),
                np.broadcast_to(1 - go_up[:, None], (len(device), size)),
            ],
            axis=1,
        )
        return links, weight, cut

    def route(self, src: IntArray, dst: IntArray, capacity: FloatArray, policy: Policy) -> LayerRoute:
        dims = len(self.sizes)
        here0, there = src.astype(np.int64), dst.astype(np.int64)
        coords = [self._coordinate(there, d) for d in range(dims)]
        differs = [self._coordinate(here0, d) != coords[d] for d in range(dims)]
        hops = np.sum(differs, axis=0)
        columns, tables, rows = [], [], 0
        cut = np.zeros(len(src), bool)
        orders = [0] if dims == 1 else list(range(dims))
        if policy.name == "ecmp" and dims > 1:
            chosen = (wiring.mix(src, dst, policy.seed) % np.uint64(dims)).astype(np.int64)
        for order in orders:
            here = here0.copy()
            for turn in range(dims):
                dim = (order + turn) % dims
                key = np.where(differs[dim], here * self.sizes[dim] + coords[dim], -1)
                if policy.name == "ecmp" and dims > 1:
                    key = np.where(chosen == order, key, -1)
                keys, seg = wiring.compact(key, self.num_devices * self.sizes[dim])
                links, weight, dead = self._line_rows(dim, keys, capacity, policy)
                share = 1.0 if policy.name == "ecmp" else 1.0 / len(orders)
                tables.append(wiring.dense_table(links, weight * share))
                columns.append(np.where(seg >= 0, seg + rows, -1).astype(np.int32))
                if dead.any():
                    cut |= np.where(seg >= 0, dead[seg], False)
                rows += len(keys)
                here = here + (coords[dim] - self._coordinate(here, dim)) * self._stride(dim)
        ptr, link, weight_out, _ = wiring.join_tables(tables)
        return LayerRoute(
            seg=np.stack(columns, axis=1),
            side=(SIDE_PAIR,) * len(columns),
            ptr=ptr,
            link=link,
            weight=weight_out,
            latency_s=np.maximum(hops, 1) * self.facts.latencies_s[0],
            cut=cut,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridPlan:
    """What a grid consists of; ``link_bytes_per_s`` has one rate for each dimension of ``sizes``."""

    facts: LayerFacts
    sizes: tuple[int, ...]
    wrap: bool
    link_bytes_per_s: tuple[float, ...]
    link_name: str


def wire_grid(plan: GridPlan, endpoints: Endpoints, *, first_link: int) -> Wiring:
    """Wire a grid whose links are numbered from the given one on."""
    sizes, num_devices = plan.sizes, endpoints.num_devices
    layer = GridLayer(
        facts=plan.facts,
        first_link=first_link,
        num_links=0,
        num_devices=num_devices,
        num_endpoints=len(endpoints),
        sizes=sizes,
        wrap=plan.wrap,
        peer=np.zeros(0, np.int64),
    )
    check_size(plan.facts.name, num_devices * sum(layer.ports(dim) for dim in range(len(sizes))))
    device = np.arange(num_devices, dtype=np.int64)
    src, dst, cap, kind, peer = [], [], [], [], []
    at = 0
    for dim, size in enumerate(sizes):
        ports, stride = layer.ports(dim), int(np.prod(sizes[:dim]))
        here = (device // stride % size)[:, None]
        line = (device - here[:, 0] * stride)[:, None]
        port = np.arange(ports)[None, :]
        if plan.wrap and size > 2:
            target = (here + np.where(port == 0, 1, -1)) % size
            back_port = 1 - port + 0 * here
        else:
            target = port + (port >= here)
            back_port = here - (here > target)
        other = line + target * stride
        src.append(np.broadcast_to(device[:, None], other.shape).ravel())
        dst.append(other.ravel())
        cap.append(np.full(other.size, plan.link_bytes_per_s[dim]))
        kind.append(np.full(other.size, dim))
        peer.append((at + other * ports + back_port).ravel())
        at += other.size
    peers = np.concatenate(peer).astype(np.int64)
    kinds = (
        (plan.link_name,) if len(sizes) == 1 else tuple(f"{plan.link_name}-{d}" for d in range(len(sizes)))
    )
    return Wiring(
        layer=dataclasses.replace(layer, num_links=at, peer=peers),
        src=np.concatenate(src),
        dst=np.concatenate(dst),
        bytes_per_s=np.concatenate(cap),
        kind=np.concatenate(kind).astype(np.int64),
        plane=np.zeros(at, np.int64),
        module=np.full(at, -1, np.int64),
        peer=peers + first_link,
        kinds=kinds,
        switch_tier=np.zeros(0, np.int64),
        switch_plane=np.zeros(0, np.int64),
        switch_tiers=(),
    )
