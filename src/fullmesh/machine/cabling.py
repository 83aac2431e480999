"""Wirings of a machine file as records, checked against its tiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.hardware import Tier
from fullmesh.machine.wiring import (
    Attachment,
    ClosShape,
    DragonflyShape,
    FatTreeShape,
    GridShape,
    Shape,
    TierWiring,
)

if TYPE_CHECKING:
    from fullmesh.machine.figures import Figures
    from fullmesh.machine.file_form import (
        ClosSpec,
        DragonflySpec,
        FatTreeSpec,
        GridSpec,
        MachineSpec,
        WiringSpec,
    )


class _Place:
    """One ``[[wiring]]`` of a file, to say where a mistake stands."""

    def __init__(self, figures: Figures, index: int, spec: WiringSpec, per_node: int) -> None:
        self.figures, self.index, self.spec, self.per_node = figures, index, spec, per_node
        self.name = spec.name or (spec.tiers[0] if spec.tiers else "")

    def error(self, what: str, key: str = "", *, expected: str = "", hint: str = "") -> CatalogError:
        location = ("wiring", self.index, key) if key else ("wiring", self.index)
        return CatalogError(what, where=self.figures.lines.where(location), expected=expected, hint=hint)

    def rate(self, text: str | None, key: str) -> float | None:
        label = f"wiring {self.name}: {key}"
        location = ("wiring", self.index, key)
        return self.figures.value(text, "bytes_per_s", label, location, self.spec.source)


def read_wirings(spec: MachineSpec, figures: Figures, tiers: Sequence[Tier]) -> tuple[TierWiring, ...]:
    """The wirings of a machine file.

    Raises
    ------
    CatalogError
        A wiring names no tier that there is, or says something that its tiers say too or contradict.
    """
    out: list[TierWiring] = []
    wired: dict[str, str] = {}
    by_name = {tier.name: tier for tier in tiers}
    for index, form in enumerate(spec.wiring):
        place = _Place(figures, index, form, spec.size.devices_per_node)
        if not place.name:
            raise place.error(
                "the wiring names no tiers", expected="tiers, or a name and endpoints to attach"
            )
        for name in form.tiers:
            if name not in by_name:
                raise place.error(f"no tier {name!r}", "tiers", hint=did_you_mean(name, list(by_name)))
            if name in wired:
                raise place.error(
                    f"the tier {name!r} is wired twice", "tiers", hint=f"also by {wired[name]!r}"
                )
            wired[name] = place.name
        if any(w.name == place.name for w in out):
            raise place.error(f"duplicate name {place.name!r}", "name", expected="every name once")
        out.append(_wiring(place, [by_name[n] for n in form.tiers], {e.name for e in spec.endpoint}))
    return tuple(out)


def _wiring(place: _Place, tiers: list[Tier], endpoints: set[str]) -> TierWiring:
    form = place.spec
    if len({(t.kind, t.bytes_per_s) for t in tiers}) > 1:
        raise place.error(
            "the tiers of one wiring have other kinds or bandwidths",
            "tiers",
            expected="tiers that share the ports of a device",
        )
    if bool(tiers) == (form.latency is not None):
        raise place.error(
            "the latency stands at the tiers" if tiers else "a wiring without tiers has no latency",
            "latency",
            expected="a latency for a wiring without tiers, and none for any other",
        )
    label = f"wiring {place.name}: latency"
    return TierWiring(
        name=place.name,
        tiers=form.tiers,
        shape=_shape(place, tiers, endpoints),
        latency_s=place.figures.value(
            form.latency, "s", label, ("wiring", place.index, "latency"), form.source
        ),
        efficiency=form.efficiency,
        reduction_efficiency=form.reduction_efficiency,
        source=form.source,
    )


def _shape(place: _Place, tiers: list[Tier], endpoints: set[str]) -> Shape:
    form = place.spec
    if form.kind == "clos":
        return _clos(place, form, tiers, endpoints)
    if not tiers:
        raise place.error("the wiring names no tiers", expected='tiers = ["..."]')
    if form.kind == "fat-tree":
        return _fat_tree(place, form, tiers)
    if form.kind == "dragonfly":
        return _dragonfly(place, form)
    return _grid(place, form, tiers)


def _clos(place: _Place, form: ClosSpec, tiers: list[Tier], endpoints: set[str]) -> ClosShape:
    lanes = form.links_per_plane or (1,) * (form.planes or 1)
    if form.planes is not None and len(lanes) != form.planes:
        raise place.error(f"{len(lanes)} entries for {form.planes} planes", "links_per_plane")
    if place.per_node % form.rails:
        raise place.error(f"{form.rails} rails do not divide {place.per_node} devices per node", "rails")
    if form.rails > 1 and not form.spines:
        raise place.error("rails without spines never meet", "spines", expected="spines of at least 1")
    if not tiers and not form.attach:
        raise place.error("the wiring names no tiers and attaches nothing", expected='tiers = ["..."]')
    shape = ClosShape(
        links_per_plane=lanes,
        nodes_per_leaf=form.nodes_per_leaf,
        nodes_per_pod=form.nodes_per_pod,
        spines=form.spines,
        cores=form.cores if form.spines else 0,
        rails=form.rails,
        uplink_bytes_per_s=place.rate(form.uplink, "uplink"),
        corelink_bytes_per_s=place.rate(form.corelink, "corelink"),
        attached=tuple(_attachment(place, a.endpoint, a.bandwidth, endpoints) for a in form.attach),
        switch_names=(form.leaf, form.spine, form.core),
        links_per_module=form.links_per_module,
        relay_in_node=form.relay_in_node,
    )
    if tiers:
        _check_levels(place, shape, len(tiers))
    return shape


def _check_levels(place: _Place, shape: ClosShape, num_tiers: int) -> None:
    """Each level of switches is a tier of its own, or only the outermost is one; nothing is said twice."""
    if num_tiers not in (1, shape.depth):
        raise place.error(
            f"{num_tiers} tiers for {shape.depth} levels of switches",
            "tiers",
            expected=f"1 or {shape.depth} tiers",
        )
    named = shape.depth if num_tiers == shape.depth else 0
    for key, level in (("nodes_per_leaf", 1), ("nodes_per_pod", 2)):
        if getattr(shape, key) is not None and named >= level:
            raise place.error(f"{key} is said by a tier already", key, hint="leave it out")
    leaf, pod = shape.nodes_per_leaf, shape.nodes_per_pod
    if leaf and pod and pod % leaf:
        raise place.error(f"pods of {pod} nodes are not whole leaves", "nodes_per_pod")
    if num_tiers > 1 and shape.rails > 1:
        raise place.error("rails and several tiers", "rails", expected="one tier where leaves are rails")


def _attachment(place: _Place, endpoint: str, bandwidth: str, endpoints: set[str]) -> Attachment:
    if endpoint not in endpoints:
        raise place.error(
            f"dangling link: no endpoint {endpoint!r}",
            "attach",
            expected="the name of an [[endpoint]]",
            hint=did_you_mean(endpoint, sorted(endpoints)),
        )
    rate = place.figures.read(
        bandwidth,
        "bytes_per_s",
        f"wiring {place.name}: port of one {endpoint}",
        ("wiring", place.index, "attach"),
        place.spec.source,
    )
    return Attachment(endpoint=endpoint, bytes_per_s=rate.si_value)


def _fat_tree(place: _Place, form: FatTreeSpec, tiers: list[Tier]) -> FatTreeShape:
    half = form.radix // 2
    if form.radix % 2 or half % place.per_node:
        raise place.error(
            f"radix = {form.radix}",
            "radix",
            expected=f"an even number, half of it whole nodes of {place.per_node}",
        )
    if len(tiers) not in (1, 3):
        raise place.error(f"{len(tiers)} tiers for 3 levels of switches", "tiers", expected="1 or 3 tiers")
    for tier, joined in zip(tiers[:-1], (half, half * half), strict=False):
        if (tier.full_num_devices or tier.num_devices) != joined:
            raise place.error(
                f"the tier {tier.name!r} joins {tier.full_num_devices} devices",
                "radix",
                expected=f"{joined}, what switches of {form.radix} ports join",
            )
    return FatTreeShape(
        radix=form.radix,
        uplink_bytes_per_s=place.rate(form.uplink, "uplink"),
        switch_names=(form.leaf, form.spine, form.core),
    )


def _grid(place: _Place, form: GridSpec, tiers: list[Tier]) -> GridShape:
    if len(tiers) != 1:
        raise place.error(f"{len(tiers)} tiers for one grid", "tiers", expected="one tier")
    tier, wrap = tiers[0], form.kind == "torus"
    full = tier.full_num_devices
    if form.sizes and full is not None and math.prod(form.sizes) != full:
        raise place.error(
            f"a grid of {math.prod(form.sizes)} devices", "sizes", expected=f"the {full} of its tier"
        )
    label = f"wiring {place.name}: link"
    rates = tuple(
        place.figures.read(text, "bytes_per_s", label, ("wiring", place.index, "link"), form.source).si_value
        for text in form.link
    )
    if rates and len(rates) != max(len(form.sizes), 1):
        raise place.error(f"{len(rates)} link rates for {len(form.sizes)} dimensions", "link")
    sizes = form.sizes or (full or tier.num_devices,)
    port = sum(n * r for n, r in zip(grid_ports(sizes, wrap=wrap), rates, strict=False))
    if rates and not math.isclose(port, tier.bytes_per_s, rel_tol=1e-6):
        raise place.error(
            f"the links of a device make {port:.6g} B/s",
            "link",
            expected=f"the {tier.bytes_per_s:.6g} B/s of the tier {tier.name!r}",
        )
    return GridShape(sizes=form.sizes, wrap=wrap, link_bytes_per_s=rates, link_name=form.link_name)


def grid_ports(sizes: Sequence[int], *, wrap: bool) -> list[int]:
    """Links of one device along each dimension."""
    return [min(s - 1, 2) if wrap else s - 1 for s in sizes]


def _dragonfly(place: _Place, form: DragonflySpec) -> DragonflyShape:
    return DragonflyShape(
        devices_per_router=form.devices_per_router,
        routers_per_group=form.routers_per_group,
        global_per_router=form.global_per_router,
        local_bytes_per_s=place.rate(form.local_link, "local_link"),
        global_bytes_per_s=place.rate(form.global_link, "global_link"),
    )
