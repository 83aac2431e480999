"""A drawing of the fabric as SVG: nodes at the bottom, switches above, one colour for each plane, failures in red."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np

from fullmesh.files import write_text
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.dragonfly import DragonflyLayer
from fullmesh.network.wiring.graph import GraphLayer
from fullmesh.network.wiring.grid import GridLayer
from fullmesh.network.wiring.links import FloatArray
from fullmesh.network.wiring.topology import Topology
from fullmesh.units import si_prefix

COLOURS = ("#1b6ca8", "#d1495b", "#2a9d5c", "#c47f00", "#7b4fa3", "#00838f", "#8d6e4f", "#5b6770")
WIDTH, MARGIN = 2000.0, 30.0
SPINE_GAP = 210.0
MAX_NODES = 96
DEAD, HURT = "#e00000", "#f0953a"


class _Canvas:
    def __init__(self) -> None:
        self.items: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, fill: str, title: str, stroke: str = "none"
    ) -> None:
        self.items.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="1.5" fill="{fill}" stroke="{stroke}">'
            f"<title>{html.escape(title)}</title></rect>"
        )

    def text(
        self, x: float, y: float, text: str, size: float = 12, anchor: str = "start", fill: str = "#222"
    ) -> None:
        self.items.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" text-anchor="{anchor}" fill="{fill}" '
            'stroke="white" stroke-width="3" paint-order="stroke">'
            f"{html.escape(text)}</text>"
        )

    def curve(
        self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float, opacity: float
    ) -> None:
        mid = (y1 + y2) / 2
        self.items.append(
            f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {mid:.1f} {x2:.1f} {mid:.1f} {x2:.1f} {y2:.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{width:.2f}" stroke-opacity="{opacity:.2f}"/>'
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float, opacity: float
    ) -> None:
        self.items.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:.2f}" stroke-opacity="{opacity:.2f}"/>'
        )


def draw(topology: Topology) -> str:
    """The fabric as an SVG text.

    Nodes stand in a row with a square for each device (two touching squares are a package); each switched layer adds a
    row of leaves and a row of spines grouped by plane. A line between a leaf and a plane stands for all its links
    there; what is dead is red and drawn one by one.
    """
    if any(isinstance(x, (GraphLayer, DragonflyLayer)) for x in topology.layers):
        return _draw_circle(topology)
    grid = topology.layers[0]
    if len(topology.layers) == 1 and isinstance(grid, GridLayer):
        return _draw_plane(topology, grid)
    canvas = _Canvas()
    per_node = topology.devices_per_node
    if per_node == 1:
        grids = [x.facts.group_devices for x in topology.layers if isinstance(x, GridLayer)]
        per_node = max([g for g in grids if g <= 64] or [1])
    num_nodes = -(-topology.num_devices // per_node)
    shown = min(num_nodes, MAX_NODES)
    layers = [x for x in topology.layers if isinstance(x, ClosLayer) and x.facts.carries_devices]
    columns = 2 if per_node % 2 == 0 else 1
    slot = (WIDTH - 2 * MARGIN) / shown
    cell = min(14.0, (slot - 8) / columns, 200 / (per_node / columns))
    node_height = cell * per_node / columns + 8
    height = 190 + node_height
    height += sum(116 + SPINE_GAP * (x.num_spines > 0) + 110 * (x.num_cores > 0) for x in layers)
    base = height - 50 - node_height
    node_x: FloatArray = np.asarray(MARGIN + slot * (np.arange(shown) + 0.5), np.float64)

    lost = _lost_share(topology)
    for node in range(shown):
        left = node_x[node] - cell * columns / 2
        canvas.box(left - 3, base, cell * columns + 6, node_height, "#f3f4f6", f"node {node}", "#9aa2ad")
        for place in range(per_node):
            device = node * per_node + place
            if device >= topology.num_devices:
                break
            x, y = left + cell * (place % columns), base + 4 + cell * (place // columns)
            fill = DEAD if lost[device] >= 1 else HURT if lost[device] > 0 else "#39424e"
            title = f"{topology.device_basis} {device}, node {node}"
            canvas.box(x + 0.5, y + 0.7, cell - 1, cell - 1.4, fill, title)
        if shown <= 48 or node % 4 == 0:
            canvas.text(
                node_x[node], base + node_height + 14, str(node), min(12.0, slot * 0.45), "middle", "#555"
            )
    caption = f"{num_nodes} nodes of {per_node} {topology.device_basis}s"
    if shown < num_nodes:
        caption += f", the first {shown} are drawn"
    canvas.text(MARGIN, base + node_height + 34, caption, 14)
    _draw_grids(canvas, topology, node_x, base, cell, columns, per_node, shown)

    y, switch_at = base, topology.num_endpoints
    for layer in topology.layers:
        if not isinstance(layer, ClosLayer):
            continue
        counts = (
            layer.num_leaves * layer.num_planes,
            layer.num_pods * layer.num_planes * layer.num_spines,
            layer.num_planes * layer.num_spines * layer.num_cores,
        )
        if layer.facts.carries_devices:
            y = _ClosDrawing(topology, layer, switch_at, node_x, per_node, y).draw(canvas)
        switch_at += sum(counts)
    _legend(canvas, topology)
    return _svg(canvas, height, topology.title)


def _lost_share(topology: Topology) -> FloatArray:
    """Share of its own links that each node of the graph has lost."""
    size = topology.num_endpoints + len(topology.switches)
    dead = np.bincount(topology.links.src, weights=(topology.health <= 0).astype(float), minlength=size)
    return np.asarray(dead / np.maximum(np.bincount(topology.links.src, minlength=size), 1), np.float64)


def _draw_plane(topology: Topology, layer: GridLayer) -> str:
    """A grid laid out flat: even dimensions to the right, odd ones down, a gap between blocks of a higher dimension."""
    canvas = _Canvas()
    device = np.arange(topology.num_devices)
    position, span = np.zeros((2, len(device))), [1.0, 1.0]
    for dim, size in enumerate(layer.sizes):
        stride = int(np.prod(layer.sizes[:dim]))
        position[dim % 2] += device // stride % size * span[dim % 2]
        span[dim % 2] *= size * 1.15
    grids = device // int(np.prod(layer.sizes))
    position[1] += grids * span[1]
    room = (WIDTH - 2 * MARGIN) / (position[0].max() + 1.5)
    step = float(min(room, 900 / (position[1].max() + 1.5), 60))
    x, y = MARGIN + step * (position[0] + 0.7), 130 + step * (position[1] + 0.7)
    for link in np.flatnonzero(topology.links.peer > np.arange(len(topology.links))):
        a, b = int(topology.links.src[link]), int(topology.links.dst[link])
        dead = topology.health[link] <= 0
        colour = DEAD if dead else COLOURS[int(topology.links.kind[link]) % len(COLOURS)]
        # A bow as high as the link is long keeps links over the same line apart.
        bow = 0.18 * (abs(x[a] - x[b]) + abs(y[a] - y[b])) - 0.18 * step
        mx = (x[a] + x[b]) / 2 + (bow if x[a] == x[b] else 0)
        my = (y[a] + y[b]) / 2 - (0 if x[a] == x[b] else bow)
        canvas.items.append(
            f'<path d="M{x[a]:.1f} {y[a]:.1f}Q{mx:.1f} {my:.1f} {x[b]:.1f} {y[b]:.1f}" fill="none" stroke="{colour}" '
            f'stroke-width="{1.6 if dead else 0.7}" stroke-opacity="{0.9 if dead else 0.4}"/>'
        )
    lost, side = _lost_share(topology), step * 0.45
    for i in device:
        fill = DEAD if lost[i] >= 1 else HURT if lost[i] > 0 else "#39424e"
        canvas.box(x[i] - side / 2, y[i] - side / 2, side, side, fill, f"{topology.device_basis} {i}")
    _legend(canvas, topology)
    return _svg(canvas, float(y.max()) + step + 30, topology.title)


def _draw_grids(
    canvas: _Canvas,
    topology: Topology,
    node_x: FloatArray,
    base: float,
    cell: float,
    columns: int,
    per_node: int,
    shown: int,
) -> None:
    """Direct links inside the drawn nodes."""
    for layer in topology.layers:
        if not isinstance(layer, GridLayer) or layer.facts.group_devices > per_node:
            continue
        rows = np.arange(layer.first_link, layer.first_link + layer.num_links)
        rows = rows[topology.links.peer[rows] > rows]
        src, dst = topology.links.src[rows], topology.links.dst[rows]
        for link, a, b in zip(rows, src, dst, strict=True):
            if a // per_node >= shown:
                continue
            ends = []
            for device in (int(a), int(b)):
                node, place = divmod(device, per_node)
                x = node_x[node] - cell * columns / 2 + cell * (place % columns + 0.5)
                ends += [x, base + 4 + cell * (place // columns + 0.5)]
            dead = topology.health[link] <= 0
            x1, y1, x2, y2 = ends
            colour = DEAD if dead else "#ff9f1c"
            canvas.line(x1, y1, x2, y2, colour, 1.6 if dead else 0.8, 0.9 if dead else 0.55)


class _ClosDrawing:
    """Rows of leaves, spines and cores of one layer above the nodes.

    Parameters
    ----------
    topology, layer
    first_switch : int
        Node number of the layer's first leaf.
    node_x : array of float
        Middle of each drawn node.
    per_node : int
    base : float
        Upper edge of the nodes.
    """

    def __init__(
        self,
        topology: Topology,
        layer: ClosLayer,
        first_switch: int,
        node_x: FloatArray,
        per_node: int,
        base: float,
    ) -> None:
        self.topology, self.layer, self.node_x, self.per_node = topology, layer, node_x, per_node
        self.base, self.leaf_y = base, base - 90
        self.spine_y = self.leaf_y - SPINE_GAP
        self.first_leaf = first_switch - topology.num_endpoints
        self.first_spine = self.first_leaf + layer.num_leaves * layer.num_planes
        self.devices = np.arange(min(topology.num_devices, len(node_x) * per_node))
        self.leaf_of = layer.leaf_of[self.devices]
        self.leaves = np.unique(self.leaf_of[self.leaf_of >= 0])
        self.single = (
            len(np.unique(self.leaf_of)) == len(node_x) and not layer.relay_in_node and layer.num_leaves > 1
        )
        spread = MARGIN + (WIDTH - 2 * MARGIN) * (np.arange(len(self.leaves)) + 0.5) / len(self.leaves)
        self.leaf_x = dict(zip(self.leaves.tolist(), node_x if self.single else spread, strict=True))
        room = (WIDTH - 2 * MARGIN) / max(len(self.leaves), 1)
        self.chip = min(14.0, max(2.0, (room - 4) / layer.num_planes))
        drawn_pods = np.unique(self.leaves // layer.leaves_per_pod)
        self.blocks = [(int(pod), plane) for pod in drawn_pods for plane in range(layer.num_planes)]
        width = (WIDTH - 2 * MARGIN) / len(self.blocks)
        self.block_x = {b: MARGIN + width * (i + 0.5) for i, b in enumerate(self.blocks)}
        self.spine_size = min(16.0, (width - 12) / max(layer.num_spines, 1))

    def draw(self, canvas: _Canvas) -> float:
        """Draw all rows; returns the height of the uppermost."""
        self._leaves(canvas)
        if not self.layer.num_spines:
            return self.leaf_y - 20
        self._links_to_spines(canvas)
        self._spines(canvas)
        if not self.layer.num_cores:
            return self.spine_y - 24
        return self._cores(canvas)

    def _tier(self, switch: int) -> str:
        switches = self.topology.switches
        return switches.tiers[int(switches.tier[switch])]

    def _fill(self, switch: int, colour: int) -> str:
        return DEAD if self.topology.switch_dead[switch] else COLOURS[colour % len(COLOURS)]

    def _chip_x(self, leaf: int, plane: int) -> float:
        return float(self.leaf_x[leaf] + (plane - (self.layer.num_planes - 1) / 2) * self.chip)

    def _spine_x(self, pod: int, plane: int, spine: int) -> float:
        return self.block_x[(pod, plane)] + (spine - (self.layer.num_spines - 1) / 2) * self.spine_size

    def _leaves(self, canvas: _Canvas) -> None:
        for node in range(len(self.node_x)):
            for leaf in np.unique(self.leaf_of[self.devices // self.per_node == node]):
                x, opacity = float(self.leaf_x[int(leaf)]), 0.5 if self.single else 0.25
                canvas.curve(
                    float(self.node_x[node]), self.base, x, self.leaf_y + 12, "#8a94a3", 0.8, opacity
                )
        name, planes = self._tier(self.first_leaf), self.layer.num_planes
        for leaf in self.leaves.tolist():
            for plane in range(planes):
                number = leaf * planes + plane
                x, fill = self._chip_x(leaf, plane), self._fill(self.first_leaf + number, plane)
                title = f"{name} {number}: leaf {leaf}, plane {plane}"
                canvas.box(x - self.chip * 0.42, self.leaf_y, self.chip * 0.84, 12, fill, title)
        label_y = self.leaf_y + (28 if self.layer.num_spines else -6)
        canvas.text(MARGIN, label_y, _tier_text(self.topology, self.layer, name), 13)

    def _links_to_spines(self, canvas: _Canvas) -> None:
        """One line for all links of a leaf to a plane; what is broken stands out link by link."""
        layer, health = self.layer, self.topology.health
        first, _ = layer.blocks()["spine_up"]
        for leaf in self.leaves.tolist():
            pod = leaf // layer.leaves_per_pod
            for plane in range(layer.num_planes):
                x, colour = self._chip_x(leaf, plane), COLOURS[plane % len(COLOURS)]
                canvas.curve(x, self.leaf_y, self.block_x[(pod, plane)], self.spine_y + 16, colour, 0.9, 0.35)
                for spine in range(layer.num_spines):
                    left = health[first + (leaf * layer.num_planes + plane) * layer.num_spines + spine]
                    if left < 1:
                        end, alpha = self._spine_x(pod, plane, spine), 0.7 if left <= 0 else 0.4
                        canvas.line(x, self.leaf_y, end, self.spine_y + 14, DEAD, 1.0, alpha)

    def _spines(self, canvas: _Canvas) -> None:
        name, count, size = self._tier(self.first_spine), self.layer.num_spines, self.spine_size
        for pod, plane in self.blocks:
            for spine in range(count):
                number = (pod * self.layer.num_planes + plane) * count + spine
                x, fill = self._spine_x(pod, plane, spine), self._fill(self.first_spine + number, plane)
                title = f"{name} {number}: plane {plane}, switch {spine}"
                canvas.box(x - size * 0.42, self.spine_y, size * 0.84, 14, fill, title)
            label = f"plane {plane}: {count} {name}" if self.layer.num_planes > 1 else f"{count} {name}"
            if len(self.blocks) <= 24:
                canvas.text(self.block_x[(pod, plane)], self.spine_y - 6, label, 12, "middle")

    def _cores(self, canvas: _Canvas) -> float:
        layer, core_y = self.layer, self.spine_y - 110
        cores = layer.num_planes * layer.num_spines * layer.num_cores
        for block in self.blocks:
            x = self.block_x[block]
            canvas.curve(x, self.spine_y - 20, WIDTH / 2, core_y + 14, "#8a94a3", 1.2, 0.5)
        gap = min(16.0, (WIDTH - 2 * MARGIN) / cores)
        first = self.first_spine + layer.num_pods * layer.num_planes * layer.num_spines
        for core in range(cores):
            x = WIDTH / 2 + (core - (cores - 1) / 2) * gap
            canvas.box(x - gap * 0.42, core_y, gap * 0.84, 14, self._fill(first + core, 4), f"core {core}")
        canvas.text(WIDTH / 2, core_y - 6, f"{cores} {self._tier(first)}", 12, "middle")
        return core_y - 24


def _tier_text(topology: Topology, layer: ClosLayer, leaf_name: str) -> str:
    facts = layer.facts
    return (
        f"{facts.name}: {layer.num_leaves * layer.num_planes} {leaf_name} chips, "
        f"{si_prefix(facts.device_bytes_per_s, 'B/s')} per {topology.device_basis} and direction"
    )


def _draw_circle(topology: Topology) -> str:
    """Graphs without tiers: all nodes on a circle, switches on an inner one."""
    canvas = _Canvas()
    height = WIDTH * 0.62
    cx, cy = WIDTH / 2, height / 2 + 50
    n, s = topology.num_endpoints, len(topology.switches)
    angle = np.concatenate([2 * np.pi * np.arange(n) / n, 2 * np.pi * (np.arange(s) + 0.5) / max(s, 1)])
    radius = np.repeat([height * 0.4, height * 0.28], [n, s])
    x, y = cx + radius * np.cos(angle), cy + radius * np.sin(angle)
    links = np.flatnonzero(topology.links.peer > np.arange(len(topology.links)))
    for link in links:
        a, b = topology.links.src[link], topology.links.dst[link]
        dead = topology.health[link] <= 0
        colour = DEAD if dead else COLOURS[int(topology.links.kind[link]) % len(COLOURS)]
        canvas.line(x[a], y[a], x[b], y[b], colour, 1.6 if dead else 0.7, 0.9 if dead else 0.4)
    for i in range(n + s):
        dead = i >= n and topology.switch_dead[i - n]
        title = f"device {i}" if i < n else f"switch {i - n}"
        fill = DEAD if dead else ("#39424e" if i < n else COLOURS[0])
        side = 7.0 if i < n else 11.0
        canvas.box(x[i] - side / 2, y[i] - side / 2, side, side, fill, title)
    _legend(canvas, topology)
    return _svg(canvas, height + 60, topology.title)


def _legend(canvas: _Canvas, topology: Topology) -> None:
    canvas.text(MARGIN, 34, f"{topology.title}: {topology.num_devices} {topology.device_basis}s", 22)
    switches = ", ".join(f"{count} {name}" for name, count in topology.switch_counts().items())
    links = "; ".join(
        f"{count} x {name} at {si_prefix(rate, 'B/s')}"
        for name, (count, rate) in topology.link_counts().items()
    )
    canvas.text(MARGIN, 56, f"living switch chips: {switches or 'none'}", 13)
    canvas.text(MARGIN, 74, f"living links, per direction: {links}", 13)
    if (topology.health < 1).any() or topology.switch_dead.any():
        broken = int((topology.health <= 0).sum()) // 2
        canvas.text(
            MARGIN,
            92,
            f"red: {broken} dead links, {int(topology.switch_dead.sum())} dead switch chips; orange: lost some links",
            13,
            fill=DEAD,
        )


def _svg(canvas: _Canvas, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif"><title>{html.escape(title)}</title>'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(canvas.items) + "\n</svg>\n"
    )


def write_svg(topology: Topology, path: str | Path) -> None:
    """Write the drawing, whole or not at all.

    Raises
    ------
    OutputError
        A place that cannot be written.
    """
    write_text(path, draw(topology), where="--svg")
